"""`forget`: takes all traces of files or folders out of an index."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookhear.errors import IndexStateError
from lookhear.search.bucket import Place
from lookhear.search.facts import has_next
from lookhear.search.index import FileRow, Index


@dataclass(frozen=True, kw_only=True)
class ForgetSummary:
    """What was forgotten."""

    index: str
    files: int
    moments: int  # that left the disk
    kept_for_copies: int  # of the files: how many have a copy elsewhere in the index, which keeps their moments


def forget(paths: Sequence[str | Path], *, index_path: str | Place = "lookhear.index") -> ForgetSummary:
    """Removes all traces of media files, or of all files below folders, from the index and from its place on the disk.

    The media themselves stay, and so the next crawl of a folder that holds them indexes them again; a folder that was
    indexed itself is crawled no more by `index --beside`. The files need not exist. Moments of bytes that another file
    of the index has too belong to that file and stay. It happens in one step: killed before that, the index is as it
    was; killed after it, what is left on the disk goes with the next process that writes, such as this command run
    again. A search that is under way in another process may fail.

    Raises IndexStateError for a path of which the index knows nothing, and while another process writes to it.
    """
    if isinstance(paths, (str, Path)) or not paths:
        raise IndexStateError("nothing to forget; name a file or a folder")
    named = {place for path in paths for place in (Path(path).absolute(), Path(path).resolve())}
    target = Index(index_path)
    with target.writing():
        before = target.files()
        known: set[Path] = set()
        for place in (*map(Path, target.facts.libraries), *(row.full_path for row in before)):
            known.update((place, *place.parents))
        for path in paths:
            if known.isdisjoint((Path(path).absolute(), Path(path).resolve())):
                raise IndexStateError(
                    f"{target.path} knows nothing of {path}; `lookhear status --files --index {target.path}` "
                    "lists what it knows"
                )
        rows = [row for row in before if _is_in(row.full_path, named)]
        stay = {row.file_id for row in before if row.num_moments and not _is_in(row.full_path, named)}
        if has_next(target.path):  # first, so that the index knows what is to be forgotten until all of it is
            beside = Index(target.path, is_next=True)
            beside.right = target.right
            _erase(beside, [row for row in beside.files() if _is_in(row.full_path, named)], named)
        _erase(target, rows, named)
    moments = {row.file_id: row.num_moments for row in rows if row.file_id not in stay}
    return ForgetSummary(
        index=str(target.path),
        files=len(rows),
        moments=sum(moments.values()),
        kept_for_copies=sum(row.file_id in stay for row in rows),
    )


def _is_in(path: Path, named: set[Path]) -> bool:
    return path in named or any(folder in named for folder in path.parents)


def _erase(target: Index, rows: Sequence[FileRow], named: set[Path]) -> None:
    target.erase(rows, [folder for folder in target.facts.libraries if _is_in(Path(folder), named)])
