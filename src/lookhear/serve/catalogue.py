"""`Catalogue`: the files of an index as a page shows them, and the only way from an id to a file on the disk."""

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from lookhear.errors import UserError
from lookhear.search.labelled import counted, from_text
from lookhear.search.survey import WAITING
from lookhear.search.tables import FileRow

Order = Literal["path", "seconds", "moments", "modified", "size", "status"]
# What browsers are told that a file is; never anything that they would run or show as a page.
MEDIA_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".qt": "video/mp4", ".webm": "video/webm",
    ".mkv": "video/x-matroska", ".ogv": "video/ogg", ".m4a": "audio/mp4", ".m4b": "audio/mp4", ".mp3": "audio/mpeg",
    ".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg",
    ".aac": "audio/aac", ".weba": "audio/webm",
}  # fmt: skip
OTHER_TYPE = "application/octet-stream"
_GONE = "is not where it was when it was indexed"


class UnknownFileError(UserError):
    """A file that the library does not have, or has no more, or must not give."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Some of the files that were asked for."""

    rows: tuple[FileRow, ...]
    total: int  # that were asked for


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All rows of an index at one version of it."""

    version: tuple[str, int, int]
    libraries: tuple[str, ...]
    rows: tuple[FileRow, ...]
    _by_id: dict[str, list[FileRow]] = field(init=False, repr=False, default_factory=dict)
    _id_of: dict[str, str] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            if row.file_id and row.status not in ("refused", WAITING):
                self._by_id.setdefault(row.file_id, []).append(row)
                self._id_of[str(row.full_path)] = row.file_id

    def id_of(self, path: str) -> str | None:
        """The id of the file at `path`, as the index names it; None where there is none that can be given."""
        return self._id_of.get(path)

    def rows_of(self, file_id: str) -> Sequence[FileRow]:
        """The rows with these bytes, at least one. Raises UnknownFileError."""
        try:
            return self._by_id[file_id]
        except KeyError:
            raise UnknownFileError(f"the library has no file with the id {file_id[:12]}") from None

    def row_named(self, name: str) -> FileRow:
        """The row that a name means: a path, the end of one, or an id; whatever became of the file.

        Raises UnknownFileError where it means none, or several with other bytes.
        """
        if name in self._by_id:
            return self._by_id[name][0]
        exact = [row for row in self.rows if name in (shown(str(row.full_path)), shown(row.path))]
        ending = Path(name).parts
        found = exact or [row for row in self.rows if ending and Path(shown(row.path)).parts[-len(ending) :] == ending]
        if not found:
            raise UnknownFileError(f"the library has no file {name}; give its path as the list of files shows it")
        if len({row.file_id or row.full_path for row in found}) > 1:
            some = ", ".join(shown(str(row.full_path)) for row in found[:3])
            raise UnknownFileError(
                f"{len(found)} files of the library are named {name} ({some}); give more of the path"
            )
        return found[0]

    def path_of(self, file_id: str) -> Path:
        """Where these bytes lie, with all links followed: a regular file inside one of the library's folders.

        Raises UnknownFileError where the file is gone, or where a link has come into its path that leads elsewhere.
        """
        rows = self.rows_of(file_id)
        reason = ""
        for row in rows:
            found = _inside(row.full_path, Path(row.library))
            if isinstance(found, Path):
                return found
            reason = reason or found
        name = shown(rows[0].path)
        raise UnknownFileError(f"'{name}' {reason}; run `lookhear index` again to bring the index up to date")

    def ban_of(self, path: str) -> str:
        """Why what lies at `path`, as the index names it, must not be read; empty where it may, or nothing is there."""
        rows = [row for row in self._by_id.get(self.id_of(path) or "", ()) if str(row.full_path) == path]
        if not rows:
            return "is not in the library any more"
        found = _inside(rows[0].full_path, Path(rows[0].library))
        return "" if isinstance(found, Path) or found == _GONE else found

    def page(
        self,
        *,
        text: str = "",
        status: Iterable[str] = (),
        library: str | None = None,
        order: Order = "path",
        descending: bool = False,
        offset: int = 0,
        limit: int = 100,
    ) -> Page:
        """Rows whose path contains every word of `text` (any case), with one of these statuses, in this library."""
        words = [_folded(word) for word in text.split()]
        wanted = set(status)
        rows = [
            row
            for row in self.rows
            if (not wanted or row.status in wanted)
            and (library is None or row.library == library)
            and (not words or all(word in _folded(row.path) for word in words))
        ]
        keys = {
            "path": lambda row: (row.path, row.library),
            "seconds": lambda row: row.seconds,
            "moments": lambda row: row.num_moments,
            "modified": lambda row: row.mtime_ns,
            "size": lambda row: row.size_bytes,
            "status": lambda row: (row.status, row.reason),
        }
        rows.sort(key=keys[order], reverse=descending)
        return Page(rows=tuple(rows[offset : offset + limit]), total=len(rows))

    @cached_property
    def num_moments(self) -> int:
        """Of all files; those with the same bytes share theirs."""
        return sum(rows[0].num_moments for rows in self._by_id.values())

    @cached_property
    def labels(self) -> dict[str, int]:
        """Every label, and how many stretches have it; files with the same bytes share theirs."""
        return counted(from_text(rows[0].labels) for rows in self._by_id.values())

    @cached_property
    def shown_folders(self) -> dict[str, str]:
        """Every folder by its name as it is shown."""
        return {shown(folder): folder for folder in self.folders}

    @cached_property
    def folders(self) -> dict[str, int]:
        """Every folder below which there are files, and how many, in order of the path."""
        counts: dict[str, int] = {}
        for row in self.rows:
            root = Path(row.library)
            for folder in (*row.full_path.parents,):
                counts[str(folder)] = counts.get(str(folder), 0) + 1
                if folder == root:
                    break
        return dict(sorted(counts.items()))


def _inside(path: Path, library: Path) -> Path | str:
    """The file itself, or what is wrong with it. `library` was free of links when it was indexed."""
    try:
        real = path.resolve(strict=True)
        status = real.stat()
    except (OSError, RuntimeError, ValueError):
        return _GONE
    if not real.is_relative_to(library):
        return "is a link out of the library now"
    if not stat.S_ISREG(status.st_mode):
        return "is no file any more"
    return real


def status_of(path: str | Path) -> os.stat_result:
    """Size and times of a file that was looked up a moment ago. Raises UnknownFileError where it has gone since."""
    try:
        return Path(path).stat()
    except OSError as error:
        raise UnknownFileError("the file is not where it was a moment ago; try again") from error


def media_type(path: Path) -> str:
    """What browsers are told that a file is."""
    return MEDIA_TYPES.get(path.suffix.lower(), OTHER_TYPE)


def shown(text: str) -> str:
    """A name as text that can be sent: bytes that are not UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode()


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
