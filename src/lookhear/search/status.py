"""`IndexStatus`: what an index holds, in counts and rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lookhear.search.facts import Approximate, IndexFacts
from lookhear.search.labelled import counted, from_text
from lookhear.search.tables import FileRow


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """What an index holds."""

    path: str
    model: str
    fingerprint: str
    window_seconds: float
    hop_seconds: float
    libraries: tuple[str, ...]
    counts: dict[str, int]  # of files, by status
    seconds: float  # of media, refused files left out
    moments: int
    labels: dict[str, int]  # stretches by label (`lookhear label`); of files with the same bytes once
    files: tuple[FileRow, ...]
    approximate: Approximate | None = None  # None where searches are exact


def index_status(path: str, facts: IndexFacts, files: Sequence[FileRow]) -> IndexStatus:
    """Of the index at `path` with these rows."""
    by_bytes = {row.file_id: row for row in files if row.num_moments}
    return IndexStatus(
        path=path,
        model=facts.model,
        fingerprint=facts.fingerprint,
        window_seconds=facts.window_seconds,
        hop_seconds=facts.hop_seconds,
        libraries=facts.libraries,
        counts=dict(sorted(Counter(row.status for row in files).items())),
        seconds=round(sum(row.seconds for row in files if row.status != "refused"), 3),
        # Files with the same bytes share their moments; of one that was refused under other limits there are none.
        moments=sum(row.num_moments for row in by_bytes.values()),
        labels=counted(from_text(row.labels) for row in by_bytes.values()),
        files=tuple(files),
        approximate=facts.approximate,
    )
