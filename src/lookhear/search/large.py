"""Searching an index whose vectors are too many to be held in memory.

First a shortlist: the alignments whose scores can be among the best, from bounds of all scores (`bounds.py`: exact) or
from LanceDB's index of nearest neighbours (`approximate.py`). Then the stretches of the library around them are read,
and `query.find_spans` looks for the best spans there. A hit that grew to the edge of what was read is looked at again
in a longer stretch; and as long as an alignment that was left out could still be as good as the last hit, more is read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lookhear.search.bounds import Bounds, bounds
from lookhear.search.filters import narrowed
from lookhear.search.library import Library, LibraryFile, Modality, Moments, Stretches, part_of, runs
from lookhear.search.matrix import Matrix, open_matrix
from lookhear.search.query import Calibrate, Found, Hit, Terms, find_spans
from lookhear.search.snapshot import BOTH, Snapshot

# Alignments on the first shortlist, and for each hit.
_SHORTLIST, _SHORTLIST_A_HIT = 64, 4
# Moments on either side that are read with an alignment, before a hit is known to need more; and times more then.
_MARGIN, _MORE = 8, 8
# Moments that are read at once, and for each hit.
_MOST_READ, _MOST_READ_A_HIT = 1 << 16, 64
# Of which scores are calibrated: in stretches at least as long as this, and twice as long as a query reaches.
_SAMPLE, _SAMPLE_STRETCH, _LEAST_STRETCHES = 1 << 15, 32, 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Extents:
    """Spans of files that a shortlist names."""

    file_rank: np.ndarray  # int64 (N,)
    from_seconds: np.ndarray  # float64 (N,)
    to_seconds: np.ndarray  # float64 (N,)
    floor: float  # nothing that begins elsewhere scores higher; -inf where no more can be named

    def __len__(self) -> int:
        return len(self.file_rank)


class Shortlist(Protocol):
    """Gives the most promising spans of a search."""

    def best(self, count: int) -> Extents:
        """So many of them, fewer where there are fewer."""

    def num_above(self, score: float) -> int:
        """How many could score so high, where a floor is known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LargeLibrary(Moments):
    """The moments of an index, of which vectors are read where they are needed."""

    snapshot: Snapshot
    row_id: np.ndarray  # uint64 (M,): by which the snapshot knows each moment
    matrix: Matrix
    row: np.ndarray  # int64 (M,): where each moment lies in the matrix

    def part(self, stretches: Stretches, modalities: Sequence[Modality] = BOTH) -> Library:
        """Some of these moments, with these of their vectors."""
        return part_of(self, stretches, self.snapshot.vectors(self.row_id[stretches.rows], modalities))

    def find(self, terms: Terms, calibrate: Calibrate) -> list[Hit]:
        """What `find_moments` finds in a library that holds all vectors and is not empty, for the same calibrations."""
        _, passes = narrowed(self.files, terms.where)
        found = _find(self, _Scanned(bounds(self, self, terms, calibrate, passes)), terms, calibrate)
        return [] if found is None else found.hits(terms)

    def sample(self, reach_seconds: float) -> Library:
        """Stretches from everywhere, always the same, in which spans of `reach_seconds` lie: to calibrate scores on."""
        reach = math.ceil(reach_seconds / self.hop_seconds) + 1
        length = max(_SAMPLE_STRETCH, 2 << reach.bit_length())
        known = self._samples.get(length)
        if known is None:
            known = self._samples[length] = self.part(self._sampled(length))
        return known

    @cached_property
    def _samples(self) -> dict[int, Library]:
        return {}

    def _sampled(self, length: int) -> Stretches:
        count = max(_LEAST_STRETCHES, _SAMPLE // length)
        # A run begins every `length` moments, and with every file.
        used = np.flatnonzero(self.count > 0)
        pieces = -(-self.count[used] // length)
        begin = np.repeat(self.first[used], pieces) + length * (
            np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        )
        end = np.minimum(begin + length, np.repeat((self.first + self.count)[used], pieces))
        chosen = np.arange(len(begin))
        if len(begin) > count:
            chosen = np.sort(np.random.default_rng(0).choice(len(begin), count, replace=False))
        return Stretches(first=begin[chosen], end=end[chosen])

    # ---- what `bounds` scans

    def cosines(self, modality: Modality, vectors: Tensor) -> Tensor:
        """(W, M), off by `max_error`."""
        if not self.has(modality).any():
            return torch.zeros(len(vectors), len(self))
        found = self.matrix.cosines(modality, vectors)
        return found if self._is_in_place else found[:, torch.from_numpy(self.row)]

    def max_error(self, vectors: Tensor) -> float:
        """How far a cosine of `cosines` may be off."""
        return self.matrix.max_error(vectors)

    def has(self, modality: Modality) -> np.ndarray:
        """bool (M,): which moments have a vector of this modality."""
        return self._has_audio if modality == "sound" else self._has_visual

    @cached_property
    def _has_audio(self) -> np.ndarray:
        return self.matrix.rows.has_audio[self.row]

    @cached_property
    def _has_visual(self) -> np.ndarray:
        return self.matrix.rows.has_visual[self.row]

    @cached_property
    def _is_in_place(self) -> bool:
        return np.array_equal(self.row, np.arange(len(self.matrix.rows)))


def large_library(
    contents: tuple[LibraryFile, ...],
    snapshot: Snapshot,
    folder: Path | None,
    *,
    window_seconds: float,
    hop_seconds: float,
) -> LargeLibrary:
    """The moments of `contents`; what is kept for searches lies in `folder` (None: in memory)."""
    matrix = open_matrix(snapshot, folder)
    rows = matrix.rows
    known = {name.decode(): rank for rank, name in enumerate(rows.file_ids.tolist())}
    rank = np.array([known.get(content.file_id, -1) for content in contents], np.int64)
    there = rank >= 0
    count = np.where(there, rows.count[rank], 0) if len(rows.count) else np.zeros(len(rank), np.int64)
    first = np.where(there, rows.first[rank], 0) if len(rows.count) else count
    row = runs(first, count)
    return LargeLibrary(
        files=contents,
        file_rank=np.repeat(np.arange(len(contents)), count),
        start_seconds=rows.start_seconds[row],
        end_seconds=rows.end_seconds[row],
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        snapshot=snapshot,
        row_id=rows.row_id[row],
        matrix=matrix,
        row=row,
    )


AnyLibrary = Library | LargeLibrary


def find_hits(library: AnyLibrary, terms: Terms, calibrate: Calibrate) -> list[Hit]:
    """What `terms` ask of a library, whatever its size."""
    if not len(library):
        return []
    if isinstance(library, LargeLibrary):
        return library.find(terms, calibrate)
    return find_spans(library, terms, calibrate).hits(terms)


@dataclass(frozen=True, eq=False)
class _Scanned:
    """The shortlist of an exact search."""

    bounds: Bounds

    def best(self, count: int) -> Extents:
        chosen, floor = self.bounds.best(count)
        begin = self.bounds.from_seconds[chosen]
        return Extents(
            file_rank=self.bounds.file_rank[chosen],
            from_seconds=begin,
            to_seconds=begin + self.bounds.reach_seconds,
            floor=floor,
        )

    def num_above(self, score: float) -> int:
        return self.bounds.num_above(score)


# ---- from a shortlist to hits


def _find(library: LargeLibrary, shortlist: Shortlist, terms: Terms, calibrate: Calibrate) -> Found | None:
    """The best spans; None where nothing can be compared."""
    most = max(_MOST_READ, _MOST_READ_A_HIT * terms.num_spans)
    count = max(_SHORTLIST, _SHORTLIST_A_HIT * terms.num_spans)
    a_span = math.ceil(terms.reach_seconds / library.hop_seconds) + 2 * _MARGIN
    extents = shortlist.best(max(terms.num_spans, min(count, most // a_span)))
    wider: list[_Run] = []
    margin, found = _MARGIN, None
    while len(extents):
        stretches = _stretches(library, extents, wider)
        if found is not None and int((stretches.end - stretches.first).sum()) > most:
            break  # so many alike that the order of the last ones means nothing
        part = library.part(stretches, terms.modalities)
        found = find_spans(part, terms, calibrate)
        reaching = _reaching(part, found)
        if reaching:
            margin *= _MORE
            wider += [
                _Run(first=int(stretches.first[k]) - margin, end=int(stretches.end[k]) + margin) for k in reaching
            ]
            continue
        least = -math.inf if terms.at_least is None else terms.at_least
        if len(found.spans) == terms.num_spans:
            least = max(least, found.score(found.spans[-1]))
        if extents.floor <= least:
            break
        count = shortlist.num_above(least) if least > -math.inf else _MORE * len(extents)
        more = shortlist.best(min(count, most))
        if len(more) <= len(extents):
            break
        extents = more
    return found


@dataclass(frozen=True, kw_only=True)
class _Run:
    """Moments around a hit that reaches further than was read; those of other files do not count."""

    first: int
    end: int


def _stretches(library: Moments, extents: Extents, wider: Sequence[_Run]) -> Stretches:
    """The moments of `extents` with those next to them, joined where they meet."""
    rank = extents.file_rank
    first = library.at(rank, extents.from_seconds) - 1 - _MARGIN
    end = library.at(rank, extents.to_seconds) + 2 + _MARGIN
    if wider:
        middle = np.array([(run.first + run.end) // 2 for run in wider])
        rank = np.concatenate([rank, library.file_rank[middle]])
        first = np.concatenate([first, [run.first for run in wider]])
        end = np.concatenate([end, [run.end for run in wider]])
    first = np.maximum(first, library.first[rank])
    end = np.minimum(end, (library.first + library.count)[rank])
    order = np.lexsort((end, first))
    rank, first, end = rank[order], first[order], np.maximum.accumulate(end[order])
    opens = np.ones(len(first), bool)
    opens[1:] = (first[1:] > end[:-1]) | (rank[1:] != rank[:-1])
    place = np.flatnonzero(opens)
    return Stretches(first=first[place], end=end[np.append(place[1:], len(end)) - 1])


def _reaching(part: Library, found: Found) -> list[int]:
    """The stretches in which a hit comes near the edge, where the file goes on."""
    assert part.cut_before is not None
    assert part.cut_after is not None
    near = 2 * part.hop_seconds + found.overhang_seconds
    begin, finish = part.start_seconds[part.first], part.file_end_seconds()
    reaching = set()
    for span in found.spans:
        rank = span.file_rank
        if (part.cut_before[rank] and span.start_seconds < begin[rank] + near) or (
            part.cut_after[rank] and span.end_seconds > finish[rank] - near
        ):
            reaching.add(rank)
    return sorted(reaching)
