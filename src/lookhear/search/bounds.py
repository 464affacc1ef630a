"""How high the score of each moment can be at most, from vectors that were rounded.

`query.find_spans` says what a search makes of a library; here is the same with two differences. Cosines come from the
scan of a `Matrix` and are off by a known error, which is added (for counter-examples taken away). And the functions
from cosines to scores, which only rise, are read from tables of `_NUM_STEPS` steps, each at its upper edge (for
counter-examples its lower one). So no score is higher than its bound, and few bounds are higher than the best scores.

P rows of the matrix, M moments, C alignments, W windows.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from lookhear.search.calibration import NEUTRAL_SURPRISE, combined_surprise, score_of
from lookhear.search.library import Alignments, Modality, Moments, alignments_of, follow
from lookhear.search.query import Calibrate, Phase, Query, Terms, weights_of

_NUM_STEPS = 8192
# Cosines of unit vectors that were rounded.
_LEAST_COSINE, _MOST_COSINE = -1.02, 1.02
# Of numbers that were rounded to float32 on the way.
_SLACK = 1e-5
# Cosines that are held at once.
_MAX_COSINES = 1 << 27
# Offsets of which it is remembered where windows fall.
_MAX_PLACES = 8
# Bounds that are compared by their highest first.
_BLOCK = 64


class Scan(Protocol):
    """Rounded vectors of all moments."""

    def cosines(self, modality: Modality, vectors: Tensor) -> Tensor:
        """(W, M): of vectors (W, E) with all moments."""

    def max_error(self, vectors: Tensor) -> float:
        """How far any of these cosines may be off."""

    def has(self, modality: Modality) -> np.ndarray:
        """bool (M,): which moments have a vector."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounds:
    """What no score can be higher than."""

    file_rank: np.ndarray  # int64 (C,)
    from_seconds: np.ndarray  # float64 (C,): where what the score says begins in the file
    reach_seconds: float  # how far it goes from there
    score: Tensor  # float32 (C,), -inf where there is nothing to compare

    def best(self, count: int) -> tuple[np.ndarray, float]:
        """int64: the `count` highest, or all there are; and what none of the others is higher than."""
        if count >= len(self.score):
            return np.flatnonzero(torch.isfinite(self.score).numpy()), -math.inf
        # The highest lie in the blocks with the highest maxima: one quick pass over all, and a look at few.
        padded = torch.nn.functional.pad(self.score, (0, -len(self.score) % _BLOCK), value=-math.inf).view(-1, _BLOCK)
        blocks = padded.amax(dim=1).topk(min(count, len(padded))).indices
        values, places = padded[blocks].flatten().topk(count)
        found = blocks[places // _BLOCK] * _BLOCK + places % _BLOCK
        return found[torch.isfinite(values)].sort().values.numpy(), float(values[-1])

    def num_above(self, score: float) -> int:
        """How many are at least `score`."""
        return int((self.score >= score).sum())


def bounds(moments: Moments, scan: Scan, terms: Terms, calibrate: Calibrate, passes: np.ndarray) -> Bounds:
    """Of all alignments of one query, or for several examples of all moments, in the files (F,) that pass."""
    scoring = _Scoring(moments=moments, scan=scan, terms=terms, calibrate=calibrate)
    with torch.inference_mode():
        if terms.is_anywhere:
            (query,) = terms.examples
            alignments = alignments_of(moments, query.longest_offset_seconds)
            score = scoring.of(query, lambda _: alignments, sign=1)
            file_rank, begin = alignments.file_rank, alignments.start_seconds - moments.hop_seconds
            reach = query.span_seconds + moments.hop_seconds  # a phase begins up to a hop later
        else:
            score = scoring.on_moments()
            file_rank, reach = moments.file_rank, terms.reach_seconds
            begin = (moments.start_seconds + moments.end_seconds - reach) / 2
        if not passes.all():
            score = score.masked_fill(torch.from_numpy(~passes[file_rank]), -math.inf)
        if terms.where is not None and terms.where.label is not None:
            # Else a label that is rare in its files would be far down a list of what has none.
            can_pass = terms.where.passes_moments(moments.files, file_rank, begin, begin + reach)
            score = score.masked_fill(torch.from_numpy(~can_pass), -math.inf)
        return Bounds(file_rank=file_rank, from_seconds=begin, reach_seconds=reach, score=score)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Told:
    """What one library modality says in one phase."""

    surprise: Tensor  # float32 (C,), -inf where there is nothing to compare
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scoring:
    moments: Moments
    scan: Scan
    terms: Terms
    calibrate: Calibrate
    # By calibration, error and sign: what its cosines say; by offset: where windows fall.
    _tables: dict[tuple[int, float, int], Tensor] = field(default_factory=dict)
    _places: dict[float, Tensor] = field(default_factory=dict)

    def on_moments(self) -> Tensor:
        """float32 (M,): the mean of the examples, less what a counter-example matches better than a median pair."""
        total = torch.zeros(len(self.moments))
        nothing = torch.ones(len(self.moments), dtype=torch.bool)
        for query in self.terms.examples:
            score = self._around(query, sign=1)
            is_missing = torch.isinf(score)
            nothing &= is_missing
            total += torch.where(is_missing, NEUTRAL_SURPRISE, score)
        mean = (total / len(self.terms.examples)).masked_fill(nothing, -math.inf)
        if self.terms.against:
            less = torch.zeros(len(self.moments))
            for query in self.terms.against:
                less = torch.maximum(less, self._around(query, sign=-1))
            is_lost = (less > NEUTRAL_SURPRISE) & (less >= mean)
            mean = (mean - (less - NEUTRAL_SURPRISE).clamp(min=0.0)).masked_fill(is_lost, -math.inf)
        return mean

    def _around(self, query: Query, *, sign: int) -> Tensor:
        middle = (self.moments.start_seconds + self.moments.end_seconds) / 2
        start = middle - query.span_seconds / 2

        def laid(phase: Phase) -> Alignments:
            return Alignments(file_rank=self.moments.file_rank, start_seconds=start + phase.start_seconds)

        return self.of(query, laid, sign=sign)

    def of(self, query: Query, alignments_of_phase: Callable[[Phase], Alignments], *, sign: int) -> Tensor:
        """float32 (C,): above (sign 1) or below (-1) what the best phase of `query` scores; -inf for nothing.

        What modalities say together only rises with the sum of what they say, so of phases that weigh them alike the
        highest sum is enough.
        """
        highest: dict[tuple[float, ...], Tensor] = {}
        for phases, cosines in self._scanned(query):
            for number, phase in enumerate(phases):
                alignments = alignments_of_phase(phase)
                told = [
                    self._told(phase, modality, cosines[modality][number], alignments, sign)
                    for modality in self.terms.modalities
                ]
                weights: tuple[float, ...] = (1.0,)
                if len(told) > 1:
                    weights = weights_of(told[0].weight, told[1].weight, self.terms.balance)
                total = _sum_of(told, weights)
                before = highest.get(weights)
                highest[weights] = total if before is None else torch.maximum(before, total, out=before)
        together = [_together(total, weights, sign) for weights, total in highest.items()]
        return score_of(functools.reduce(torch.maximum, together)).add_(sign * _SLACK)

    def _scanned(self, query: Query) -> "Iterator[tuple[list[Phase], dict[Modality, list[_Cosines]]]]":
        """Phases, as many as may be held, with the cosines of their windows with all moments by library modality."""
        asked = {
            modality: [self._asked(phase, modality) for phase in query.phases] for modality in self.terms.modalities
        }
        windows = max(len(vectors) for phases in asked.values() for vectors in phases)
        at_once = max(1, _MAX_COSINES // (max(1, len(self.moments)) * windows))
        for first in range(0, len(query.phases), at_once):
            group = slice(first, first + at_once)
            cosines = {}
            for modality, phases in asked.items():
                vectors = torch.cat(phases[group])
                parts = self.scan.cosines(modality, vectors).split([len(each) for each in phases[group]])
                error = self.scan.max_error(vectors)
                cosines[modality] = [_Cosines(values=part, error=error) for part in parts]
            yield list(query.phases[group]), cosines

    def _asked(self, phase: Phase, searched: Modality) -> Tensor:
        asked, sequence = phase.asks(searched)
        return self.moments.asked(sequence.vectors, asked, searched, self.terms.likeness)

    def _told(self, phase: Phase, searched: Modality, cosines: "_Cosines", alignments: Alignments, sign: int) -> _Told:
        asked, sequence = phase.asks(searched)
        calibration = self.calibrate(asked, searched, sequence.offset_seconds)
        mean, present = self._mean(cosines.values, searched, alignments, sequence.offset_seconds, calibration.mean)
        key = (id(calibration), cosines.error, sign)
        table = self._tables.get(key)
        if table is None:
            steps = np.linspace(_LEAST_COSINE, _MOST_COSINE, _NUM_STEPS + 1)
            edge = steps[1:] + cosines.error if sign > 0 else steps[:-1] - cosines.error
            table = self._tables[key] = _raised(calibration.surprise(edge.clip(max=1.0 + _SLACK)), sign)
        surprise = _read(mean, table, _LEAST_COSINE, _MOST_COSINE)
        return _Told(
            surprise=surprise if present is None else surprise.masked_fill_(~present, -math.inf),
            weight=calibration.weight,
        )

    def _mean(
        self, cosines: Tensor, searched: Modality, alignments: Alignments, offset_seconds: np.ndarray, neutral: float
    ) -> tuple[Tensor, Tensor | None]:
        """float32 (C,): what `sequence_similarity` gives; and bool (C,): where it is not nothing (None: everywhere)."""
        has = self.scan.has(searched)
        is_complete = bool(has.all())
        is_on_moments = alignments.start_seconds is self.moments.start_seconds
        if is_on_moments and len(offset_seconds) == 1 and offset_seconds[0] == 0.0:
            return cosines[0].float(), None if is_complete else torch.from_numpy(has)
        there = torch.from_numpy(np.append(has, False))
        total = torch.zeros(len(alignments))
        present = torch.zeros(len(alignments), dtype=torch.bool)
        # The last place is for windows that fall on no moment.
        row = torch.empty(len(self.moments) + 1)
        row[-1] = neutral
        for values, offset in zip(cosines, offset_seconds, strict=True):
            row[:-1] = values
            if not is_complete:
                row.masked_fill_(~there, neutral)
            place = self._place(alignments, float(offset))
            total += row.index_select(0, place)
            present |= there.index_select(0, place)
        return total.div_(len(offset_seconds)), None if bool(present.all()) else present

    def _place(self, alignments: Alignments, offset: float) -> Tensor:
        """int64 (C,): the moment so many seconds after each alignment, M where there is none."""
        known = self._places.get(offset) if self.terms.is_anywhere else None
        if known is None:
            moment = follow(self.moments, alignments, offset)
            known = torch.from_numpy(np.where(moment < 0, len(self.moments), moment).astype(np.int64))
            if self.terms.is_anywhere and len(self._places) < _MAX_PLACES:  # all phases have the same alignments
                self._places[offset] = known
        return known


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cosines:
    values: Tensor  # (W, M)
    error: float  # that they may be off


def _sum_of(told: Sequence[_Told], weights: tuple[float, ...]) -> Tensor:
    """float32 (C,): the weighted sum of what is told, -inf where nothing is; one missing piece counts as p = 1/2."""
    if len(told) == 1:
        return told[0].surprise
    missing = torch.isinf(told[0].surprise) & torch.isinf(told[1].surprise)
    total = torch.zeros_like(told[0].surprise)
    for each, weight in zip(told, weights, strict=True):
        total.add_(each.surprise.nan_to_num_(neginf=NEUTRAL_SURPRISE), alpha=weight)
    return total.masked_fill_(missing, -math.inf)


def _together(total: Tensor, weights: tuple[float, ...], sign: int) -> Tensor:
    """float32, as `total`: the surprise that a weighted sum of pieces of evidence comes to."""
    if len(weights) == 1:
        return total
    missing = torch.isinf(total)
    least, most = 0.0, max(0.0, float(total.max())) * (1.0 + _SLACK) + _SLACK
    steps = np.linspace(least, most, _NUM_STEPS + 1)
    # What the two say together depends on the weighted sum alone, so all of it may come from one of them.
    heavy = int(weights[1] > weights[0])
    alone = (steps[1:] if sign > 0 else steps[:-1]) / weights[heavy]
    nothing = np.zeros(_NUM_STEPS)
    pieces = (alone, nothing) if heavy == 0 else (nothing, alone)
    table = _raised(combined_surprise(pieces[0], weights[0], pieces[1], weights[1]), sign)
    return _read(total, table, least, most).masked_fill_(missing, -math.inf)


def _raised(table: np.ndarray, sign: int) -> Tensor:
    """float32: a table with what rounding may add."""
    return torch.from_numpy((table + sign * _SLACK * (1.0 + np.abs(table))).astype(np.float32))


def _read(values: Tensor, table: Tensor, least: float, most: float) -> Tensor:
    """float32, as `values`: what a table of equal steps from `least` to `most` says."""
    step = (values - least).mul_(len(table) / (most - least)).clamp_(0, len(table) - 1).to(torch.int32)
    return table.index_select(0, step)
