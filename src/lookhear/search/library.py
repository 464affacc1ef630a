"""`Library`: moments of an index in memory, and where a query's sequence of windows falls on them.

M moments, F files, C alignments, K windows of a query, E width of a vector, which all have one length: 1, or the root
of 2 where a plain description follows the embedding (`Moments.asked`). A cosine here is the dot product of what is
asked with what is stored. Moments lie in the order of (file, start),
files in the order of their path. An alignment says "the query starts at this second of this file".

Of an index whose vectors are too many to be held, `Moments` are its times alone; a `Library` is then a part of it:
stretches of its files, each as a file of its own that says where it was cut.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.search.labelled import FileLabels

Modality = Literal["sound", "picture"]
# How much looks count beside meaning within one modality, unless a search says otherwise.
LIKENESS = 0.9
# Limits the memory of a search to this many numbers a moment.
_WINDOWS_AT_ONCE = 16
# What `Alignments` remember of where a query's windows fall: at most so many numbers.
_MAX_REMEMBERED = 1 << 25


@dataclass(frozen=True, kw_only=True)
class LibraryFile:
    """One content of the library: the file that holds it, and other files with the very same bytes."""

    file_id: str
    path: Path
    copies: tuple[Path, ...] = ()
    status: str = "ok"
    seconds: float = 0.0  # from the start of its first track to the end of its last
    modified: tuple[float, ...] = ()  # of `path` and of each copy: seconds since 1970; empty where it is not known
    labels: FileLabels | None = None  # None where no classifier was asked

    @property
    def places(self) -> tuple[Path, ...]:
        """Where these bytes lie."""
        return (self.path, *self.copies)


def weighed(vectors: Tensor, plain_width: int, likeness: float) -> Tensor:
    """float32 (K, E): what stored vectors become to be compared with stored ones, by dot products within -1..1.

    Of [m | p], meaning and plain description, both of unit length, [(1 - likeness) m | likeness p]. Across modalities,
    where looks say nothing, likeness must be 0.
    """
    if not plain_width:
        return vectors
    return torch.cat([vectors[:, :-plain_width] * (1.0 - likeness), vectors[:, -plain_width:] * likeness], dim=1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The moments of an index without their vectors: files and times."""

    files: tuple[LibraryFile, ...]
    file_rank: np.ndarray  # int64 (M,), ascending: each moment's file, an index into `files`
    start_seconds: np.ndarray  # float64 (M,), ascending within a file
    end_seconds: np.ndarray  # float64 (M,)
    window_seconds: float
    hop_seconds: float
    plain_width: int = 0  # of each vector so many numbers at its end say what the moment is like, not what it means

    def __len__(self) -> int:
        return len(self.file_rank)

    def asked(self, vectors: Tensor, asked: Modality, searched: Modality, likeness: float) -> Tensor:
        """`weighed` for these moments."""
        return weighed(vectors, self.plain_width, likeness if asked == searched else 0.0)

    @cached_property
    def first(self) -> np.ndarray:
        """int64 (F,): the first moment of each file."""
        return np.searchsorted(self.file_rank, np.arange(len(self.files)))

    @cached_property
    def count(self) -> np.ndarray:
        """int64 (F,): how many moments each file has."""
        return np.bincount(self.file_rank, minlength=len(self.files))

    @cached_property
    def _line_origin(self) -> np.ndarray:
        # Where each file's clock 0 lies when all files are laid on one line, one after the other, without overlap.
        used = self.count > 0
        start = np.zeros(len(self.files))
        length = np.zeros(len(self.files))
        start[used] = self.start_seconds[self.first[used]]
        length[used] = self.start_seconds[(self.first + self.count - 1)[used]] - start[used] + self.hop_seconds
        return np.cumsum(length) - length - start

    @cached_property
    def _line(self) -> np.ndarray:
        return self._line_origin[self.file_rank] + self.start_seconds

    def at(self, file_rank: np.ndarray, at_seconds: np.ndarray) -> np.ndarray:
        """int64 (C,): the first moment of each file that starts at a time or later; its last one where none does.

        `at_seconds` is on the file's clock. Every file named must have a moment.
        """
        first = self.first[file_rank]
        after = np.searchsorted(self._line, self._line_origin[file_rank] + at_seconds)
        return np.clip(after, first, first + self.count[file_rank] - 1)

    def nearest(self, file_rank: np.ndarray, at_seconds: np.ndarray) -> np.ndarray:
        """int64 (C,): the moment of each file that starts nearest to a time; -1 if none is within half a hop.

        `at_seconds` is on the file's clock. Every file named must have a moment.
        """
        after = self.at(file_rank, at_seconds)
        before = np.maximum(after - 1, self.first[file_rank])
        to_after = np.abs(self.start_seconds[after] - at_seconds)
        to_before = np.abs(self.start_seconds[before] - at_seconds)
        moment = np.where(to_before <= to_after, before, after)
        near = np.minimum(to_before, to_after) <= 0.5 * self.hop_seconds + 1e-6
        return np.where(near, moment, -1)

    def file_end_seconds(self) -> np.ndarray:
        """float64 (F,): where the last moment of each file ends; 0 for a file without moments."""
        end = np.zeros(len(self.files))
        used = self.count > 0
        end[used] = self.end_seconds[(self.first + self.count - 1)[used]]
        return end


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretches:
    """S runs of moments, each of one file, in their order and apart from each other."""

    first: np.ndarray  # int64 (S,): a moment
    end: np.ndarray  # int64 (S,): the moment after the last

    @property
    def rows(self) -> np.ndarray:
        """int64: the moments, ascending."""
        return runs(self.first, self.end - self.first)


def runs(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """int64: the numbers of all runs (S,), `count` from `first` on, one run after the other."""
    return np.arange(int(count.sum())) + np.repeat(first - (np.cumsum(count) - count), count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """The vectors of some moments."""

    audio: Tensor  # float32 (M, E); zeros where the moment has no sound
    visual: Tensor  # float32 (M, E); zeros where the moment has no picture
    has_audio: np.ndarray  # bool (M,)
    has_visual: np.ndarray  # bool (M,)

    def of(self, rows: np.ndarray) -> "Vectors":
        """Those of some moments (N,)."""
        return Vectors(
            audio=_rows_of(self.audio, rows),
            visual=_rows_of(self.visual, rows),
            has_audio=self.has_audio[rows],
            has_visual=self.has_visual[rows],
        )

    def and_those(self, others: "Vectors") -> "Vectors":
        """These, and then the others."""
        return Vectors(
            audio=_joined(self.audio, others.audio),
            visual=_joined(self.visual, others.visual),
            has_audio=np.concatenate([self.has_audio, others.has_audio]),
            has_visual=np.concatenate([self.has_visual, others.has_visual]),
        )


def _joined(first: Tensor, second: Tensor) -> Tensor:
    if first.stride(0) == 0 and second.stride(0) == 0:
        return first[:1].expand(len(first) + len(second), -1)
    return torch.cat([first, second])


def _rows_of(vectors: Tensor, rows: np.ndarray) -> Tensor:
    if vectors.stride(0) == 0:  # one row of zeros for all: a modality that was left out takes no memory
        return vectors[:1].expand(len(rows), -1)
    return vectors[torch.from_numpy(rows)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Library(Moments, Vectors):
    """Moments with their vectors."""

    # bool (F,): whether the file has moments before, after those that are here; None where no file was cut
    cut_before: np.ndarray | None = None
    cut_after: np.ndarray | None = None

    def vectors(self, modality: Modality) -> Tensor:
        """float32 (M, E)."""
        return self.audio if modality == "sound" else self.visual

    def has(self, modality: Modality) -> np.ndarray:
        """bool (M,): which moments have a vector of this modality."""
        return self.has_audio if modality == "sound" else self.has_visual

    def part(self, stretches: Stretches) -> "Library":
        """Some of these moments."""
        return part_of(self, stretches, self.of(stretches.rows))

    @cached_property
    def rounded(self) -> "dict[Modality, Rounded]":
        """The vectors in bfloat16, made when they are first asked for."""
        return {"sound": _rounded(self.audio), "picture": _rounded(self.visual)}

    @cached_property
    def content_rank(self) -> np.ndarray:
        """int64 (M,): equal for moments of one content, also where stretches of it are files of their own."""
        ranks: dict[str, int] = {}
        of_file = [ranks.setdefault(file.file_id, len(ranks)) for file in self.files]
        return np.array(of_file, np.int64)[self.file_rank]

    def holds(self, file_rank: np.ndarray, from_seconds: np.ndarray, to_seconds: np.ndarray) -> np.ndarray:
        """bool (C,): whether of these spans nothing was cut off."""
        if self.cut_before is None or self.cut_after is None:
            return np.ones(len(file_rank), bool)
        begin = self.start_seconds[self.first.clip(max=len(self) - 1)]
        finish = self.file_end_seconds()
        early = self.cut_before[file_rank] & (from_seconds < begin[file_rank] - 1e-6)
        late = self.cut_after[file_rank] & (to_seconds > finish[file_rank] + 1e-6)
        return ~(early | late)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounded:
    """Vectors as a quick scan reads them."""

    rows: Tensor  # bfloat16 (M, E)
    rounding: float  # the largest length of (vector - vector in bfloat16)
    length: float  # the largest of a vector


def _rounded(vectors: Tensor) -> Rounded:  # of at least one
    rows = vectors.bfloat16()
    rounding = (vectors - rows.float()).norm(dim=1).max()
    return Rounded(rows=rows, rounding=float(rounding), length=float(vectors.norm(dim=1).max()))


def part_of(moments: Moments, stretches: Stretches, vectors: Vectors) -> Library:
    """The library of these stretches, each a file of its own; `vectors` are those of their moments."""
    rows = stretches.rows
    rank = moments.file_rank[stretches.first]
    return Library(
        files=tuple(moments.files[each] for each in rank.tolist()),
        file_rank=np.repeat(np.arange(len(rank)), stretches.end - stretches.first),
        start_seconds=moments.start_seconds[rows],
        end_seconds=moments.end_seconds[rows],
        window_seconds=moments.window_seconds,
        hop_seconds=moments.hop_seconds,
        plain_width=moments.plain_width,
        audio=vectors.audio,
        visual=vectors.visual,
        has_audio=vectors.has_audio,
        has_visual=vectors.has_visual,
        cut_before=stretches.first > moments.first[rank],
        cut_after=stretches.end < (moments.first + moments.count)[rank],
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignments:
    """Places where a query may start, in the order of (file, start)."""

    file_rank: np.ndarray  # int64 (C,)
    start_seconds: np.ndarray  # float64 (C,): on the file's clock; may lie before the file begins
    # By offset, what `follow` found: all phases of a query and both modalities ask for the same few.
    _followed: dict[float, np.ndarray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.file_rank)


def alignments_of(library: Moments, longest_offset_seconds: float) -> Alignments:
    """Every moment's start, and for a query of several windows also the places where it begins before the file does.

    `longest_offset_seconds`: from the query's first window to its last.
    """
    overhang = int(longest_offset_seconds / library.hop_seconds + 1e-6)
    if overhang == 0:
        return Alignments(file_rank=library.file_rank, start_seconds=library.start_seconds)
    used = np.flatnonzero(library.count > 0)
    steps = np.arange(overhang, 0, -1) * library.hop_seconds
    early = library.start_seconds[library.first[used]][:, None] - steps  # (F, overhang)
    file_rank = np.concatenate([np.repeat(used, overhang), library.file_rank])
    start_seconds = np.concatenate([early.ravel(), library.start_seconds])
    order = np.lexsort((start_seconds, file_rank))
    return Alignments(file_rank=file_rank[order], start_seconds=start_seconds[order])


def follow(library: Moments, alignments: Alignments, offset_seconds: float) -> np.ndarray:
    """int32 (C,): the moment that lies `offset_seconds` after each alignment, or -1."""
    known = alignments._followed.get(offset_seconds)
    if known is not None:
        return known
    if offset_seconds == 0.0 and alignments.start_seconds is library.start_seconds:
        found = np.arange(len(library), dtype=np.int32)
    else:
        found = library.nearest(alignments.file_rank, alignments.start_seconds + offset_seconds).astype(np.int32)
    if (len(alignments._followed) + 1) * len(alignments) <= _MAX_REMEMBERED:
        alignments._followed[offset_seconds] = found
    return found


def sequence_similarity(
    library: Library,
    alignments: Alignments,
    modality: Modality,
    vectors: Tensor,
    offset_seconds: np.ndarray,
    *,
    neutral: float,
) -> np.ndarray:
    """float32 (C,): the mean cosine of a query's windows with the moments that they fall on; NaN if on none.

    `vectors` (K, E) as `Moments.asked` gives them, their windows starting `offset_seconds` (K,) after the query does.
    At alignment t the score is mean_i vectors[i] . moment(t + offset_seconds[i]), the nearest moment of the file. A
    window that falls on no moment (beyond the file's ends, or where this modality is missing) counts as `neutral`, so
    that two matched windows out of two are worth more than one out of two.
    """
    return next(sequence_similarities(library, alignments, modality, [(vectors, offset_seconds, neutral)]))


def sequence_similarities(
    library: Library,
    alignments: Alignments,
    modality: Modality,
    sequences: Iterable[tuple[Tensor, np.ndarray, float]],
) -> Iterator[np.ndarray]:
    """`sequence_similarity` of several (vectors, offset_seconds, neutral), in their order.

    The library's vectors are read once for every few windows, whichever sequence these belong to.
    """
    has = library.has(modality)
    windows = [
        (vector, float(offset), neutral, len(vectors))
        for vectors, offsets, neutral in sequences
        for vector, offset in zip(vectors, offsets, strict=True)
    ]
    total, matched, num_done = np.zeros(len(alignments), np.float32), np.zeros(len(alignments), np.int64), 0
    for first in range(0, len(windows), _WINDOWS_AT_ONCE):
        some = windows[first : first + _WINDOWS_AT_ONCE]
        with torch.inference_mode():
            cosines = (torch.stack([window[0] for window in some]) @ library.vectors(modality).T).numpy()
        for cosine, (_, offset, neutral, count) in zip(cosines, some, strict=True):
            moment = follow(library, alignments, offset)
            present = (moment >= 0) & has[moment]
            total += np.where(present, cosine[moment], np.float32(neutral))
            matched += present
            num_done += 1
            if num_done == count:
                yield np.where(matched > 0, total / np.float32(count), np.float32(np.nan))
                total, matched, num_done = np.zeros_like(total), np.zeros_like(matched), 0


@dataclass(frozen=True, kw_only=True)
class Span:
    """Neighbouring alignments of one file that became one hit."""

    file_rank: int
    start_seconds: float
    end_seconds: float
    peak: int  # the best alignment
    peak_seconds: float  # the centre of what the query covers at its best alignment


NEIGHBOUR_SHARE = 0.7


def merge_alignments(
    library: Moments,
    alignments: Alignments,
    score: np.ndarray,
    nearness: np.ndarray,
    tie_break: np.ndarray,
    *,
    span_seconds: float,
    top: int,
) -> list[Span]:
    """The best `top` spans of the library, best first, no two of them overlapping in one file.

    `score` (C,), NaN where there is nothing to match. The best alignment that touches no earlier span becomes the
    peak of a new one, which then grows over its neighbours on both sides while their `nearness` (C,) is at least 0.7 of
    the peak's and they belong to no earlier span. Equal scores: higher `tie_break` (C,) first, then (path, start).
    """
    limit = max(256, 16 * top)
    spans: list[Span] = []
    nearness = np.where(np.isnan(score), np.nan, nearness)
    while True:
        order = _best(score, tie_break, limit)
        spans = _grow(library, alignments, nearness, order, span_seconds, top)
        if len(spans) == top or len(order) < limit:
            return spans
        limit *= 8


def _best(score: np.ndarray, tie_break: np.ndarray, limit: int) -> np.ndarray:
    """At least the `limit` best alignments (fewer if there are fewer), in order."""
    candidates = np.flatnonzero(~np.isnan(score))
    if len(candidates) > limit:
        values = score[candidates]
        worst = np.partition(values, len(values) - limit)[len(values) - limit]
        candidates = candidates[values >= worst]  # all that tie with the last one, so that ties stay in order
    return candidates[np.lexsort((candidates, -tie_break[candidates], -score[candidates]))]


def _grow(
    library: Moments, alignments: Alignments, nearness: np.ndarray, order: np.ndarray, span_seconds: float, top: int
) -> list[Span]:
    begin = library.start_seconds[library.first.clip(max=len(library) - 1)]  # (F,); unused files are never asked
    finish = library.file_end_seconds()
    taken: dict[int, list[Span]] = {}
    spans: list[Span] = []

    def cover(alignment: int) -> tuple[float, float]:
        rank, start = int(alignments.file_rank[alignment]), float(alignments.start_seconds[alignment])
        return max(start, float(begin[rank])), min(start + span_seconds, float(finish[rank]))

    def free(alignment: int, rank: int) -> bool:
        start, end = cover(alignment)
        return not any(start < span.end_seconds and span.start_seconds < end for span in taken.get(rank, ()))

    for peak in order.tolist():
        rank = int(alignments.file_rank[peak])
        if not free(peak, rank):
            continue
        least = NEIGHBOUR_SHARE * float(nearness[peak])
        ends = []
        for step in (-1, 1):
            edge = peak
            while (
                0 <= edge + step < len(alignments)
                and alignments.file_rank[edge + step] == rank
                and nearness[edge + step] >= least
                and free(edge + step, rank)
            ):
                edge += step
            ends.append(edge)
        start, end = cover(peak)
        span = Span(
            file_rank=rank,
            start_seconds=cover(ends[0])[0],
            end_seconds=cover(ends[1])[1],
            peak=peak,
            peak_seconds=0.5 * (start + end),
        )
        taken.setdefault(rank, []).append(span)
        spans.append(span)
        if len(spans) == top:
            break
    return spans
