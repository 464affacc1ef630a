"""Searching an index whose vectors are too many to be held in memory.

First a shortlist: the alignments whose scores can be among the best, from bounds of all scores (`bounds.py`: exact) or
from LanceDB's index of nearest neighbours (`approximate.py`). Then the stretches of the library around them are read,
and `query.find_spans` looks for the best spans there. A hit that grew to the edge of what was read is looked at again
in a longer stretch; and as long as an alignment that was left out could still be as good as the last hit, more is read.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lookhear.search.bounds import Bounds, bounds
from lookhear.search.calibration import Calibration, Pairs, calibrate
from lookhear.search.filters import narrowed
from lookhear.search.library import Library, LibraryFile, Modality, Moments, Stretches, Vectors, part_of, runs
from lookhear.search.matrix import Matrix, bfloat16_is_fast, max_error, open_matrix, products
from lookhear.search.query import Calibrate, Found, Hit, Terms, find_spans
from lookhear.search.snapshot import BOTH, Snapshot

# Of a library in memory with so many moments all are scored exactly.
_FEW = 2048
# How far sums of float32 products may be apart.
_SUM_ERROR = 1e-5
# Alignments on the first shortlist, and for each hit: reading more at once is cheaper than reading twice.
_SHORTLIST, _SHORTLIST_A_HIT = 128, 4
# Moments on either side that are read with an alignment, before a hit is known to need more; and times more then.
_MARGIN, _MORE = 6, 4
# Moments that are read at once, and for each hit.
_MOST_READ, _MOST_READ_A_HIT = 1 << 16, 64
# Of which scores are calibrated: in stretches at least as long as this, and twice as long as a query reaches.
_SAMPLE, _SAMPLE_STRETCH, _LEAST_STRETCHES = 1 << 15, 32, 64
# One for every shape of query that was asked: queries by files of many lengths have many.
_MAX_CALIBRATIONS = 128
# Samples of random pairs that are kept to make them of.
_MAX_PAIRS = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Extents:
    """Spans of files that a shortlist names."""

    file_rank: np.ndarray  # int64 (N,)
    from_seconds: np.ndarray  # float64 (N,)
    to_seconds: np.ndarray  # float64 (N,)
    floor: float | None  # nothing that begins elsewhere scores higher; None where that is not known
    is_all: bool  # no more can be named

    def __len__(self) -> int:
        return len(self.file_rank)


class Shortlist(Protocol):
    """Gives the most promising spans of a search."""

    def best(self, count: int) -> Extents:
        """About so many of them, fewer where there are fewer."""

    def num_above(self, score: float) -> int:
        """How many could score higher than a floor that was given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LargeLibrary(Moments):
    """The moments of an index, of which vectors are read where they are needed."""

    snapshot: Snapshot
    row_id: np.ndarray  # uint64 (M,): by which the snapshot knows each moment

    def shortlist(self, terms: Terms, calibrate: Calibrate, passes: np.ndarray) -> Shortlist:
        """Of what `terms` ask, in the files (F,) that pass."""
        raise NotImplementedError

    def part(self, stretches: Stretches, modalities: Sequence[Modality] = BOTH) -> Library:
        """Some of these moments, with these of their vectors."""
        return part_of(self, stretches, self.snapshot.vectors(self.row_id[stretches.rows], modalities))

    def find(self, terms: Terms, calibrate: Calibrate) -> list[Hit]:
        """The hits; the library is not empty."""
        _, passes = narrowed(self.files, terms.where)
        reader = _Reader(self, terms.modalities)
        return _find(self, reader.part, self.shortlist(terms, calibrate, passes), terms, calibrate)

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
        # A run begins every `length` moments, and with every file.
        used = np.flatnonzero(self.count > 0)
        pieces = -(-self.count[used] // length)
        begin = np.repeat(self.first[used], pieces) + length * runs(np.zeros_like(pieces), pieces)
        end = np.minimum(begin + length, np.repeat((self.first + self.count)[used], pieces))
        order = np.random.default_rng(0).permutation(len(begin))
        enough = int(np.searchsorted(np.cumsum((end - begin)[order]), _SAMPLE)) + 1
        chosen = np.sort(order[: max(enough, _LEAST_STRETCHES)])
        return Stretches(first=begin[chosen], end=end[chosen])


@dataclass(frozen=True, kw_only=True, eq=False)
class ScannedLibrary(LargeLibrary):
    """A large library that is searched exactly: what it finds is what `find_spans` finds among all moments.

    But where more moments than can be read at once (65,536) are as good as the last hit, as of a film of nine hours
    that stays alike, not all of them are read, and several hits may be pieces of one.
    """

    matrix: Matrix
    row: np.ndarray  # int64 (M,): where each moment lies in the matrix

    def shortlist(self, terms: Terms, calibrate: Calibrate, passes: np.ndarray) -> Shortlist:
        """From bounds of all scores."""
        return _Scanned(bounds(self, self, terms, calibrate, passes))

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


def scanned_library(
    contents: tuple[LibraryFile, ...],
    snapshot: Snapshot,
    folders: Sequence[Path],
    *,
    window_seconds: float,
    hop_seconds: float,
    plain_width: int = 0,
) -> ScannedLibrary:
    """The moments of `contents`; what is kept for searches lies in `folders` (see `open_matrix`)."""
    matrix = open_matrix(snapshot, {content.file_id for content in contents}, folders)
    rows = matrix.rows
    place = places_of(contents, [name.decode() for name in rows.file_ids.tolist()], rows.first, rows.count)
    return ScannedLibrary(
        files=contents,
        file_rank=place.file_rank,
        start_seconds=rows.start_seconds[place.row],
        end_seconds=rows.end_seconds[place.row],
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        plain_width=plain_width,
        snapshot=snapshot,
        row_id=rows.row_id[place.row],
        matrix=matrix,
        row=place.row,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where the moments of files lie among rows that are kept content by content."""

    file_rank: np.ndarray  # int64 (M,)
    row: np.ndarray  # int64 (M,)


def places_of(contents: Sequence[LibraryFile], file_ids: Sequence[str], first: np.ndarray, count: np.ndarray) -> Places:
    """In the order of `contents`, of which the rows are known by `file_ids`, `first` and `count` (all F)."""
    known = {name: rank for rank, name in enumerate(file_ids)}
    rank = np.array([known.get(content.file_id, len(file_ids)) for content in contents], np.int64)
    # One that is not known has no rows.
    first, count = np.append(first, 0)[rank], np.append(count, 0)[rank]
    return Places(file_rank=np.repeat(np.arange(len(rank)), count), row=runs(first, count))


AnyLibrary = Library | LargeLibrary


def find_hits(library: AnyLibrary, terms: Terms, calibrate: Calibrate) -> list[Hit]:
    """What `terms` ask of a library, whatever its size."""
    if not len(library):
        return []
    if isinstance(library, LargeLibrary):
        return library.find(terms, calibrate)
    if len(library) <= _FEW:
        return find_spans(library, terms, calibrate).hits(terms)
    # The same hits, several times faster: exact scores are computed of the moments that can be among the best.
    _, passes = narrowed(library.files, terms.where)
    shortlist = _Scanned(bounds(library, _Held(library), terms, calibrate, passes))
    return _find(library, library.part, shortlist, terms, calibrate, times=2)


@dataclass(frozen=True, eq=False)
class _Held:
    """What `bounds` scans of a library in memory."""

    library: Library

    def cosines(self, modality: Modality, vectors: Tensor) -> Tensor:
        """(W, M), off by `max_error`."""
        if bfloat16_is_fast():
            return products(self.library.rounded[modality].rows, vectors)
        return vectors @ self.library.vectors(modality).T

    def max_error(self, vectors: Tensor) -> float:
        """How far a cosine of `cosines` may be off."""
        if not bfloat16_is_fast():
            return _SUM_ERROR
        return max(max_error(vectors, each.rounding, each.length) for each in self.library.rounded.values())

    def has(self, modality: Modality) -> np.ndarray:
        """bool (M,): which moments have a vector of this modality."""
        return self.library.has(modality)


class Calibrations:
    """The calibrations that searches of one library needed; several threads may ask."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Calibration] = {}
        self._pairs: dict[tuple[Any, ...], Pairs] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(
        self, library: AnyLibrary, likeness: float, asked: Modality, searched: Modality, offset_seconds: np.ndarray
    ) -> Calibration:
        """That of queries of one modality, of windows at `offset_seconds`, against another (or the same)."""
        if asked != searched:
            likeness = 0.0  # plays no part
        key = (id(library), likeness, asked, searched, tuple(np.round(offset_seconds, 3)))
        with self._lock:
            known = self._known.get(key)
        if known is None:
            some = library if isinstance(library, Library) else library.sample(float(offset_seconds[-1]))
            known = calibrate(some, asked, searched, offset_seconds, likeness=likeness, known=self._pairs)
            with self._lock:
                while len(self._known) >= _MAX_CALIBRATIONS:
                    del self._known[next(iter(self._known))]  # the oldest
                self._known[key] = known
                for old in list(self._pairs)[:-_MAX_PAIRS]:  # a `likeness` may be any number
                    self._pairs.pop(old, None)
        return known


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
            is_all=floor == -math.inf,
        )

    def num_above(self, score: float) -> int:
        return self.bounds.num_above(score)


# ---- from a shortlist to hits


def _find(
    library: Moments,
    read: Callable[[Stretches], Library],
    shortlist: Shortlist,
    terms: Terms,
    calibrate: Calibrate,
    *,
    times: int = 1,
) -> list[Hit]:
    """The best hits; `read` gives parts of the library. A first shortlist is so many times as long as usual."""
    most = max(_MOST_READ, _MOST_READ_A_HIT * terms.num_spans)
    count = times * max(_SHORTLIST, _SHORTLIST_A_HIT * terms.num_spans)
    a_span = math.ceil(terms.reach_seconds / library.hop_seconds) + 2 * _MARGIN
    extents = shortlist.best(max(terms.num_spans, min(count, most // a_span)))
    wider: list[_Run] = []
    margin, found = _MARGIN, None
    while len(extents):
        stretches = _stretches(library, extents, wider)
        if found is not None and int((stretches.end - stretches.first).sum()) > most:
            break  # so many alike that the order of the last ones means nothing
        part = read(stretches)
        found = find_spans(part, terms, calibrate)
        reaching = _reaching(part, found)
        if reaching:
            margin *= _MORE
            wider += [
                _Run(first=int(stretches.first[k]) - margin, end=int(stretches.end[k]) + margin) for k in reaching
            ]
        count = 0 if extents.is_all else _count_needed(shortlist, extents, found, terms)
        more = shortlist.best(min(count, most)) if count else extents
        if not reaching and len(more) <= len(extents):
            break
        extents = more
    return [] if found is None else found.hits(terms)


class _Reader:
    """Reads stretches of a library, and of those that it has read before nothing again."""

    def __init__(self, library: LargeLibrary, modalities: Sequence[Modality]) -> None:
        self._library = library
        self._modalities = modalities
        self._rows = np.zeros(0, np.int64)  # ascending
        self._known: Vectors | None = None

    def part(self, stretches: Stretches) -> Library:
        rows = stretches.rows
        new = np.setdiff1d(rows, self._rows, assume_unique=True)
        if self._known is None or len(new):
            read = self._library.snapshot.vectors(self._library.row_id[new], self._modalities)
            together = np.concatenate([self._rows, new])
            order = np.argsort(together)
            self._rows = together[order]
            self._known = read if self._known is None else self._known.and_those(read).of(order)
        return part_of(self._library, stretches, self._known.of(np.searchsorted(self._rows, rows)))


def _count_needed(shortlist: Shortlist, extents: Extents, found: Found, terms: Terms) -> int:
    """How long the next shortlist must be; 0 where this one was enough."""
    is_full = len(found.spans) == terms.num_spans
    last = found.score(found.spans[-1]) if found.spans else -math.inf
    wanted = -math.inf if terms.at_least is None else terms.at_least
    if extents.floor is None:
        return 0 if is_full or last < wanted else _MORE * len(extents)
    least = max(last, wanted) if is_full else wanted
    if extents.floor <= least:
        return 0
    # The last hits may be chance neighbours of the first ones, of which many more are as good.
    return min(shortlist.num_above(least), _MORE * len(extents))


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
