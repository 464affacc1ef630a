"""What an index holds, compared."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookhear.search.index import FileRow, Index


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """All that an index holds, in order."""

    rows: list[FileRow]
    times: np.ndarray  # (3, M): rank of the file, start, end
    audio: np.ndarray  # (M, E)
    visual: np.ndarray  # (M, E)


def contents(path: Path) -> Contents:
    """Reads an index; every row must have exactly its moments."""
    found = Index(path)
    library, rows = found.library(), found.files()
    have = {file.file_id: int(count) for file, count in zip(library.files, library.count, strict=True)}
    assert have == {row.file_id: row.num_moments for row in rows if row.num_moments}
    times = np.stack([library.file_rank, library.start_seconds, library.end_seconds])
    assert len(np.unique(times[:2], axis=1).T) == len(library), "a moment is there twice"
    return Contents(rows=rows, times=times, audio=library.audio.numpy(), visual=library.visual.numpy())


def assert_same(left: Path, right: Path) -> None:
    ours, theirs = contents(left), contents(right)
    assert ours.rows == theirs.rows
    assert np.array_equal(ours.times, theirs.times)
    # A batch holds other files after an interruption, and the order of its sums is another.
    assert np.allclose(ours.audio, theirs.audio, atol=1e-5)
    assert np.allclose(ours.visual, theirs.visual, atol=1e-5)
