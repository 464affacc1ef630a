"""Looks at media files without reading clips: what one holds, and which ones a folder has."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lookhear.errors import MediaError
from lookhear.media.decode import open_media
from lookhear.media.info import MediaInfo

# fmt: off
MEDIA_SUFFIXES = frozenset(
    {
        ".3g2", ".3gp", ".aac", ".ac3", ".aif", ".aiff", ".amr", ".ape", ".asf", ".au", ".avi",
        ".caf", ".divx", ".dv", ".f4v", ".flac", ".flv", ".gxf", ".ivf", ".m2ts", ".m2v",
        ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mod", ".mov", ".mp2", ".mp3", ".mp4", ".mpe",
        ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".oga", ".ogg", ".ogv", ".opus", ".qt", ".rm",
        ".rmvb", ".tod", ".ts", ".tta", ".vob", ".w64", ".wav", ".weba", ".webm", ".wma",
        ".wmv", ".wv",
    }
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file (or something named like one) that a walk came upon, or a folder that it could not list."""

    path: Path
    # below the folder that was walked, with forward slashes
    relative: str
    # 0 where it cannot be told
    size_bytes: int
    # why it must not be opened: it is a link out of the folder, or a folder that cannot be listed
    problem: str = ""
    # a folder that cannot be listed: what is below it is not known
    is_unlisted: bool = False


def probe(path: str | Path) -> MediaInfo:
    """What a file holds. Reads its packets and decodes one frame. Raises MediaError."""
    with open_media(path) as media:
        return media.info


def find_media(folder: str | Path) -> Iterator[Found]:
    """Everything below `folder` that is named like media, in order of the path.

    Folders, broken links and unreadable files with such a name are found too, so that somebody can say what
    is wrong with them; a link out of the folder and a folder below it that cannot be listed, whatever its name, say
    what in `problem` and are not to be opened. Links are followed only inside the folder, and no folder is entered
    twice. Raises MediaError where the folder itself cannot be listed.
    """
    root = Path(folder)
    try:
        real_root = root.resolve(strict=True)
        next(os.scandir(real_root), None)
        # a folder that is named like media and cannot be listed is found as both: what is said last is kept
        found = {item.relative: item for item in _walk(root, "", real_root, {real_root})}
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"the folder '{root}' cannot be listed: {reason}") from error
    yield from (found[relative] for relative in sorted(found))


def _walk(folder: Path, prefix: str, root: Path, entered: set[Path]) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not prefix:
            raise
        yield Found(path=folder, relative=prefix[:-1], size_bytes=0, problem=_listing_problem(error), is_unlisted=True)
        return
    # real folders before links to them, so that a file is found under its own path
    for entry in sorted(entries, key=lambda entry: entry.is_symlink()):
        path, relative = folder / entry.name, prefix + entry.name
        is_named_media = path.suffix.lower() in MEDIA_SUFFIXES
        real = _real_path(path) if entry.is_symlink() else path
        if real is not None and entry.is_symlink():
            if not _is_inside(real, root):
                if is_named_media:
                    yield Found(path=path, relative=relative, size_bytes=0, problem="it is a link out of the folder")
                continue
            if real.is_file() and real.suffix.lower() in MEDIA_SUFFIXES:
                continue  # found itself
        if real is not None and _is_folder(entry):
            if is_named_media:
                yield Found(path=path, relative=relative, size_bytes=0)
            resolved = real.resolve()
            if resolved not in entered:
                entered.add(resolved)
                yield from _walk(path, relative + "/", root, entered)
        elif is_named_media:
            yield Found(path=path, relative=relative, size_bytes=_size(path))


def _real_path(path: Path) -> Path | None:
    """Where a link leads; None where it leads nowhere or to itself."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Known from the listing where it can be: in a folder that may be listed but not entered nothing else tells."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _listing_problem(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "no permission to list this folder; what is in it is not known"
    return f"this folder cannot be listed ({error.strerror or error}); what is in it is not known"


def _is_inside(path: Path, root: Path) -> bool:
    return path == root or root in path.parents


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
