"""`CrawlSummary`: what a crawl found and did."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookhear.data.manifest import STATUSES
from lookhear.search.facts import Approximate
from lookhear.search.index import Index
from lookhear.search.survey import WAITING, Seen, Survey


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A file that was not indexed, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CrawlSummary:
    """What a crawl found and did. Files with the same bytes are counted each."""

    index: str
    files: int  # found in the folders
    counts: dict[str, int]  # of them, by status: ok, picture_only, sound_only, partial, refused, waiting
    added: int  # new paths with new bytes
    changed: int  # known paths with other bytes
    moved: int  # new paths whose bytes were at a path that is gone
    copied: int  # new paths whose bytes are elsewhere in the index too
    deleted: int  # paths that are gone, moved ones left out
    unchanged: int  # known paths with the same bytes
    moments: int  # in the whole index
    seconds: float  # of media in these folders, refused files left out
    refused: tuple[Refused, ...]  # every refused file, also those that were refused before
    waiting: tuple[Refused, ...]  # left for the next crawl: still being written, or the crawl was stopped before them
    kept: tuple[Refused, ...]  # folders that hold nothing any more, as if a disk were not mounted; their files stay
    approximate: Approximate | None  # how the index is searched where it is too large for an exact search


_Change = Literal["added", "changed", "moved", "copied", "unchanged"]


def summarize(target: Index, roots: Iterable[Path], survey: Survey, left: Sequence[Seen]) -> CrawlSummary:
    """What the crawl of `survey` did, when all is written; `left` are files that it did not come to."""
    libraries = {str(root) for root in roots}
    status = target.status()
    rows = [row for row in status.files if row.library in libraries]
    # By its place: a row of a library that was taken in is the row of the same file. That of a folder itself counts.
    before = {row.full_path: row for row in sorted(survey.known, key=lambda row: row.library in libraries)}
    there = {row.full_path for row in rows}
    gone = [row for row in survey.gone if row.full_path not in there]
    gone_ids = Counter(row.file_id for row in gone if row.file_id)
    known_ids = {row.file_id for row in survey.known if row.file_id}
    changes: dict[_Change, int] = dict.fromkeys(("added", "changed", "moved", "copied", "unchanged"), 0)
    for row in rows:
        old = before.get(row.full_path)
        change: _Change
        if row.status == WAITING:
            continue
        if old is not None and not old.file_id and row.file_id:
            old = None  # there was a row, but only now the index knows the file
        if old is not None:
            change = "unchanged" if old.file_id == row.file_id else "changed"
        elif gone_ids[row.file_id]:
            change = "moved"
            gone_ids[row.file_id] -= 1
        elif row.file_id in known_ids:
            change = "copied"
        else:
            change = "added"
        if row.file_id and old is None:
            known_ids.add(row.file_id)
        changes[change] += 1
    counts: dict[str, int] = dict.fromkeys((*STATUSES, WAITING), 0)
    for row in rows:
        counts[row.status] += 1
    return CrawlSummary(
        index=str(target.path),
        files=len(rows),
        counts=counts,
        **changes,
        deleted=len(gone) - changes["moved"],
        moments=status.moments,
        seconds=round(sum(row.seconds for row in rows if row.status != "refused"), 3),
        refused=tuple(Refused(path=str(row.full_path), reason=row.reason) for row in rows if row.status == "refused"),
        waiting=(
            *(Refused(path=str(seen.full_path), reason=seen.problem) for seen in survey.waiting),
            *(Refused(path=str(seen.full_path), reason="the crawl was stopped before it") for seen in left),
        ),
        kept=tuple(
            Refused(
                path=str(folder),
                reason=f"it is empty now, as if its disk were not mounted: what the index has of its files "
                f"({len(rows)}) stays, until they are there again or `lookhear forget` takes them out",
            )
            for folder, rows in sorted(survey.kept.items())
        ),
        approximate=status.approximate,
    )
