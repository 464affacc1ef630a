"""What a crawl has to do: the files that a walk finds, compared with the rows of the index."""

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from lookhear.errors import IndexStateError
from lookhear.media.probe import find_media
from lookhear.search.index import FileRow, Index

# The status of a row whose file is left for the next crawl.
WAITING = "waiting"
STILL_WRITTEN = "it is still being written; the next crawl reads it"
UNREACHABLE = "it was listed but does not answer; what the index has of it stays, and the next crawl looks again"
# Size and modification time of every file of a walk, by library and path.
Look = dict[tuple[str, str], tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A file as the walk found it."""

    library: str
    path: str  # relative to the library
    full_path: Path
    size_bytes: int
    mtime_ns: int
    problem: str = ""  # why it must not be opened
    is_waiting: bool = False  # that is for now only


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What there is to do."""

    known: tuple[FileRow, ...]  # all rows that the index had, of other libraries too
    todo: tuple[Seen, ...]
    gone: tuple[FileRow, ...]
    waiting: tuple[Seen, ...]  # left for the next crawl; those that have no row yet are in `todo` too, to get one
    kept: Mapping[Path, tuple[FileRow, ...]]  # rows that stay, by the folder that holds nothing any more


def roots_of(folders: Sequence[str | Path]) -> list[Path]:
    """The folders as the index names them. Raises IndexStateError for none, or one that is no folder."""
    if isinstance(folders, (str, Path)) or not folders:
        raise IndexStateError("no folder to index; name one or several")
    for folder in folders:
        if not Path(folder).is_dir():
            what = "is a file, not a folder" if Path(folder).exists() else "does not exist"
            raise IndexStateError(f"{folder} {what}; nothing was changed in the index")
    return sorted({Path(folder).resolve() for folder in folders})


def outermost(roots: Sequence[Path], index: Index) -> list[Path]:
    """`roots` without those inside another one: a file is in one library, and has one row.

    Raises IndexStateError for one inside a library of `index` that is not among them.
    """
    kept = [root for root in roots if not any(other in root.parents for other in roots)]
    for root in kept:
        for library in index.facts.libraries:
            if Path(library) in root.parents:
                raise IndexStateError(
                    f"{root} is in {library}, which the index has already; run `lookhear index {library} --index "
                    f"{index.path}`, which reads only what is new or changed"
                )
    return kept


def look_at(roots: Sequence[Path]) -> Look:
    """Every media file below `roots` as it is now. Raises MediaError for a folder that cannot be listed."""
    return {
        (str(root), entry.path.relative_to(root).as_posix()): (0, 0) if entry.problem else stat_of(entry.path)
        for root in roots
        for entry in find_media(root)
    }


def survey(
    target: Index,
    roots: Sequence[Path],
    *,
    retry_refused: bool = False,
    settle_seconds: float = 0.0,
    before: Look | None = None,
    guard: Index | None = None,
) -> Survey:
    """Compares `roots` with the rows of `target`.

    A new or changed file waits if it was changed less than `settle_seconds` ago, or if it is not as the look `before`
    found it; a renamed one does not. A known one waits, too, if it does not answer any more. Raises IndexStateError if
    every file of a library that `guard` (default: `target`) knows is gone. `guard` is the index that `target` is to
    replace: it is raised, too, where moments of `guard` would be lost because a file is only out of sight.
    """
    known = {(row.library, row.path): row for row in target.files()}
    settled = {_size_and_time(row) for row in known.values() if row.file_id}
    todo, waiting, unlisted, mute = [], [], [], []
    found: Look = {}
    now = time.time()
    for root in roots:
        for entry in find_media(root):
            key = (str(root), entry.path.relative_to(root).as_posix())
            if entry.is_unlisted:
                unlisted.append(entry.path)
            found[key] = size, mtime = (0, 0) if entry.problem else stat_of(entry.path)
            row = known.get(key)
            if row is not None and _is_done(row, (size, mtime), retry_refused) and not entry.problem:
                continue
            # A clock that is ahead by more than that (of another machine) is no reason to wait for ever.
            is_recent = abs(now - mtime / 1e9) < settle_seconds
            is_unsteady = before is not None and before.get(key) != (size, mtime)
            # What has the size and time of a known file is that file, under a new name.
            waits = not entry.problem and (is_recent or is_unsteady) and (size, mtime) not in settled
            # Its folder may be of a network that has gone since it was listed: that is no reason to lose its moments.
            is_mute = not entry.problem and (size, mtime) == (0, 0) and not _is_link(entry.path)
            if is_mute:
                mute.append(entry.path)
            is_silent = is_mute and row is not None and bool(row.file_id)
            seen = Seen(
                library=key[0],
                path=key[1],
                full_path=entry.path,
                size_bytes=size,
                mtime_ns=mtime,
                problem=UNREACHABLE if is_silent else STILL_WRITTEN if waits else entry.problem,
                is_waiting=waits or is_silent,
            )
            if seen.is_waiting:
                waiting.append(seen)
            if not seen.is_waiting or row is None:
                todo.append(seen)
    _check_not_emptied(guard or target, roots, found)
    if guard is not None:
        _check_in_sight(guard, roots, found, unlisted, mute)
    gone = _gone(known, roots, found, unlisted)
    kept = _kept(gone, moved_to={(seen.size_bytes, seen.mtime_ns) for seen in todo})
    staying = {row.full_path for rows in kept.values() for row in rows}
    return Survey(
        known=tuple(known.values()),
        todo=tuple(todo),
        gone=tuple(row for row in gone if row.full_path not in staying),
        waiting=tuple(waiting),
        kept=kept,
    )


def without_moved(found: Survey, rows: Iterable[FileRow]) -> Survey:
    """`found` after its crawl, which left the index with `rows`: of what was kept, files whose bytes lie elsewhere are
    gone. Size and time do not tell it of a file that was copied and then deleted."""
    ids = {row.file_id for each in found.kept.values() for row in each if row.num_moments}
    there = {row.file_id for row in rows if row.file_id in ids and stat_of(row.full_path) == _size_and_time(row)}
    left = {folder: tuple(row for row in each if row.file_id not in there) for folder, each in found.kept.items()}
    kept = {folder: each for folder, each in left.items() if any(row.num_moments for row in each)}
    staying = {row.full_path for each in kept.values() for row in each}
    moved = [row for each in found.kept.values() for row in each if row.full_path not in staying]
    return replace(found, gone=(*found.gone, *moved), kept=kept)


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:
        return False


def _is_done(row: FileRow, size_and_time: tuple[int, int], retry_refused: bool) -> bool:
    """Whether the row says all that there is to say. A file whose bytes could not even be read is tried again:
    permissions change without a trace."""
    is_same = _size_and_time(row) == size_and_time
    return is_same and bool(row.file_id) and not (retry_refused and row.status == "refused")


def _gone(
    known: Mapping[tuple[str, str], FileRow],
    roots: Sequence[Path],
    found: Collection[tuple[str, str]],
    unlisted: Sequence[Path],
) -> tuple[FileRow, ...]:
    """Rows of files that are not there, and of libraries inside `roots`, whose files have rows of `roots` now."""
    gone = []
    for key, row in known.items():
        if key in found or not is_within(row.library, roots):
            continue
        # Nobody can say that a file in a folder that cannot be listed is gone.
        if not any(folder in row.full_path.parents for folder in unlisted):
            gone.append(row)
    return tuple(gone)


def _kept(gone: Iterable[FileRow], *, moved_to: Set[tuple[int, int]]) -> dict[Path, tuple[FileRow, ...]]:
    """Rows that stay although their files are not there, by the folder above them that is there and holds nothing.

    So does a place where a disk was mounted look. Not if one of its files is somewhere else now, by size and time, or
    where none of them has moments that could be lost.
    """
    found: dict[Path, list[FileRow]] = {}
    for row in gone:
        there = next((folder for folder in row.full_path.parents if folder.is_dir()), None)
        if there is not None and there.is_relative_to(row.library) and _is_empty(there):
            found.setdefault(there, []).append(row)
    return {
        folder: tuple(rows)
        for folder, rows in found.items()
        if any(row.num_moments for row in rows) and not any(_size_and_time(row) in moved_to for row in rows)
    }


def _size_and_time(row: FileRow) -> tuple[int, int]:
    return row.size_bytes, row.mtime_ns


def _is_empty(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def is_within(library: str, roots: Sequence[Path]) -> bool:
    """Whether a library is one of `roots` or inside one."""
    return any(Path(library).is_relative_to(root) for root in roots)


def _check_not_emptied(index: Index, roots: Sequence[Path], found: Look) -> None:
    """Raises IndexStateError if every file of a library is gone: it is likelier that its disk is not mounted."""
    paths = [Path(*key) for key in found]
    num_known = Counter(row.library for row in index.files() if row.status not in ("refused", WAITING))
    for library, count in num_known.items():
        if is_within(library, roots) and not any(Path(library) in path.parents for path in paths):
            raise IndexStateError(_unseen(index, Path(library), "holds no media", count))


def _check_in_sight(
    index: Index, roots: Sequence[Path], found: Look, unlisted: Sequence[Path], mute: Sequence[Path]
) -> None:
    """Raises IndexStateError for files of `index` that may only be out of sight: of an empty folder, of one that cannot
    be listed, or among `mute`.

    A crawl of `index` itself keeps what it has of them; one that is to replace it would lose it.
    """
    known = {(row.library, row.path): row for row in index.files() if row.num_moments}
    new = {size_and_time for key, size_and_time in found.items() if key not in known}
    emptied = _kept(_gone(known, roots, found, unlisted), moved_to=new)
    reasons = dict.fromkeys([*unlisted, *mute], "cannot be read now") | dict.fromkeys(emptied, "is empty")
    for place, what in reasons.items():
        if count := sum(place in (row.full_path, *row.full_path.parents) for row in known.values()):
            raise IndexStateError(_unseen(index, place, what, 0 if place in mute else count))


def _unseen(index: Index, place: Path, what: str, count: int) -> str:
    knows = f"knows files in it ({count})" if count else "has moments of it"
    return (
        f"{place} {what}, but {index.path} {knows}; nothing was changed in the index: mount the "
        f"disk again if it is not, or take it out of the index with `lookhear forget {place} --index {index.path}`"
    )


def stat_of(path: Path) -> tuple[int, int]:
    """Size and modification time; zeros where the file does not say."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
