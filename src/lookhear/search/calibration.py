"""How surprising a cosine is: how often a random pair of the library scores as high.

Cosines of sound with sound, picture with picture and sound with picture live on different scales, and on other
scales in every model and library. What can be compared is how rare they are. `surprise` is -log10 of that share: 2
means one random pair in a hundred, 4 one in ten thousand.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from lookhear.search.library import LIKENESS, Alignments, Library, Modality, follow

NUM_PAIRS = 20_000
MIN_PAIRS = 50
NUM_KNOTS = 200
TAIL_SHARE = 0.01
LEAST_EXCESS = 0.1
# What is left of the way to a cosine of 1 where two count as the same: rounding, or a copy that was encoded again.
SAME = 1e-3
# Scores are surprises up to here, beyond which no sample reaches; what is above has a score below `HIGHEST`.
SURE, HIGHEST = 5.0, 8.0
# As many pairs of chance as are laid to the library's own pairs before they are believed to match better than chance.
PRIOR_PAIRS = 10
NEUTRAL_SURPRISE = math.log10(2.0)
# As many pairs as a cache holds; and offsets of which cosines are remembered, of a query as long as most.
_PAIRS_AT_ONCE = 1024
_MAX_OFFSETS = 64

Values = TypeVar("Values", np.ndarray, torch.Tensor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """The distribution of the cosines of random pairs, and how much better the library's own pairs are.

    Up to the last `TAIL_SHARE` of the sample it is the sample itself. Beyond its last knot c0 the share of pairs that
    score at least c falls within one modality as ((1 - c) / (1 - c0))^a, the tail of what ends at 1 (of the cosines of
    random directions in E dimensions a is (E - 1) / 2), with the maximum likelihood a of the sample. So a copy, whose
    cosine is nearly 1, is above all that is only much alike, whatever the lengths compared. Across modalities nothing
    is a copy, and the share falls exponentially with the sample's mean excess over c0. In a sample of few pairs the
    highest can lie together by accident, as if nothing could be higher: their mean excess counts as `LEAST_EXCESS`
    standard deviations at least (of a normal distribution it is a third of one).
    """

    mean: float  # of random pairs
    cosine: np.ndarray  # float64 (Q,), ascending: knots up to the tail
    knot_surprise: np.ndarray  # float64 (Q,), ascending
    tail_slope: float  # nearness per cosine beyond the last knot
    tail_power: float | None  # a; None across modalities
    # 0..1: what this evidence is worth beside other evidence. 1 - 1/m, where m is the mean of -ln p over pairs that
    # are known to belong together (the maximum likelihood fit of Beta(1/m, 1) to their p); 1 within one modality.
    weight: float = 1.0

    def surprise(self, cosine: np.ndarray) -> np.ndarray:
        """float64, as `cosine`: -log10 of the share of random pairs that score at least as high; NaN stays NaN."""
        if self.tail_power is None:
            return self.nearness(cosine)
        cosine = np.asarray(cosine, np.float64)
        return self._read(cosine, self.tail_power / math.log(10.0) * _depth(cosine, self.cosine[-1]))

    def nearness(self, cosine: np.ndarray) -> np.ndarray:
        """float64, as `cosine`: the surprise, but rising evenly with the cosine beyond the last knot.

        By it neighbours match about as well as a peak: beside the surprise of a copy all others are small.
        """
        cosine = np.asarray(cosine, np.float64)
        return self._read(cosine, self.tail_slope * (cosine - self.cosine[-1]))

    def _read(self, cosine: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        inside = np.interp(cosine, self.cosine, self.knot_surprise)
        return np.where(cosine > self.cosine[-1], self.knot_surprise[-1] + beyond, inside)


def _depth(cosine: np.ndarray, last: float) -> np.ndarray:
    """-ln((1 - c) / (1 - c0)) of cosines beyond c0, `last`; a cosine of 1 is where `SAME` of the way is left."""
    way = np.clip((cosine - last) / max(1.0 - last, 1e-4), 0.0, 1.0)
    return -np.log1p(-way / (1.0 + SAME))


def score_of(surprise: Values) -> Values:
    """The scores of surprises (any shape): the same up to `SURE`, from there on only their order, below `HIGHEST`.

    NaN and -inf stay what they are.
    """
    over = (surprise - SURE).clip(min=0.0)
    return surprise - over * over / (over + (HIGHEST - SURE))


def chance_score(num_moments: int) -> float:
    """About what the best of pure chance has among so many moments."""
    return float(score_of(np.array(math.log10(max(num_moments, 1)))))


def fit(sample: np.ndarray, *, width: float) -> Calibration:
    """The calibration of a sample of random pairs' cosines; `width` E is used where the sample is too small.

    Below `MIN_PAIRS` it is that of independent random directions, whose cosines spread as Normal(0, 1/E).
    """
    if len(sample) < MIN_PAIRS:
        cosine = np.linspace(-1.0, 1.0, 2 * NUM_KNOTS + 1)
        log_share = torch.special.log_ndtr(torch.from_numpy(-cosine * math.sqrt(width))).numpy()
        surprise = np.abs(log_share) / math.log(10.0)
        slope = float(surprise[-1] - surprise[-2]) / float(cosine[-1] - cosine[-2])
        return Calibration(mean=0.0, cosine=cosine, knot_surprise=surprise, tail_slope=slope, tail_power=1.0)
    ordered = np.sort(sample.astype(np.float64))
    size = len(ordered)
    tail = max(5, round(TAIL_SHARE * size))
    rank = np.unique(np.linspace(0, size - 1 - tail, NUM_KNOTS).astype(np.int64))
    cosine = np.unique(ordered[rank])
    # The share that is at least as high; never 0.
    share = (size - np.searchsorted(ordered, cosine, side="left")) / size
    last, least = float(cosine[-1]), max(LEAST_EXCESS * float(ordered.std()), 1e-4)
    excess = max(float(np.mean(ordered[size - tail :] - last)), least)
    depth = max(float(np.mean(_depth(ordered[size - tail :], last))), float(_depth(np.array(last + least), last)))
    return Calibration(
        mean=float(ordered.mean()),
        cosine=cosine,
        knot_surprise=-np.log10(share),
        tail_slope=1.0 / (excess * math.log(10.0)),
        tail_power=1.0 / depth,
    )


def calibrate(
    library: Library,
    query: Modality,
    searched: Modality,
    offset_seconds: np.ndarray,
    *,
    likeness: float = LIKENESS,
    seed: int = 0,
    known: "dict[tuple[Any, ...], Pairs] | None" = None,
) -> Calibration:
    """The calibration for queries of one modality, of windows at `offset_seconds` (K,), against another (or the same).

    A random pair: two places in different files (in a library of one file: that do not overlap), the mean cosine of
    their K windows. The same library, offsets, likeness and seed give the same calibration. What is in `known`, of
    this library, is not computed again.
    """
    last = library.end_seconds + float(offset_seconds[-1])
    is_whole = library.holds(library.file_rank, library.start_seconds, last)
    kind = _Kind(library=library, asked=query, searched=searched, likeness=likeness)
    key = (id(library), query, searched, likeness, seed, np.packbits(is_whole).tobytes())
    pairs = None if known is None else known.get(key)
    if pairs is None:
        pairs = Pairs(kind, is_whole, np.random.default_rng(seed))
        if known is not None:
            known[key] = pairs
    neutral = float(np.mean(pairs.random.at(0.0))) if len(pairs.random) else 0.0
    calibration = fit(pairs.random.cosines(offset_seconds, neutral=neutral), width=kind.width)
    if query == searched:
        return calibration
    calibration = replace(calibration, tail_power=None)
    cosine = pairs.own.cosines(offset_seconds, neutral=neutral)
    log_share = calibration.surprise(cosine).sum() * math.log(10.0)
    return replace(calibration, weight=max(0.0, 1.0 - (PRIOR_PAIRS + len(cosine)) / (PRIOR_PAIRS + log_share)))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Kind:
    """What is compared with what."""

    library: Library
    asked: Modality
    searched: Modality
    likeness: float

    def cosines(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """float32 (P,): of pairs of moments."""
        library = self.library
        asked, searched = library.vectors(self.asked), library.vectors(self.searched)
        found = np.empty(len(left), np.float32)
        with torch.inference_mode():
            for first in range(0, len(left), _PAIRS_AT_ONCE):
                some = slice(first, first + _PAIRS_AT_ONCE)
                ours = library.asked(asked[torch.from_numpy(left[some])], self.asked, self.searched, self.likeness)
                found[some] = (ours * searched[torch.from_numpy(right[some])]).sum(dim=1).numpy()
        return found

    @property
    def width(self) -> float:
        """Of the random directions whose cosines spread as the weighed ones of random embeddings and descriptions."""
        plain = self.library.plain_width
        embedding = int(self.library.audio.shape[1]) - plain
        share = self.likeness if plain and self.asked == self.searched else 0.0
        return 1.0 / ((1.0 - share) ** 2 / embedding + (share**2 / plain if share else 0.0))


class _Places:
    """Pairs of places of a library, and how alike what lies there is, remembered: queries of all lengths ask."""

    def __init__(self, kind: _Kind, left: np.ndarray, right: np.ndarray) -> None:
        library = kind.library
        self._kind = kind
        self._sides = [
            Alignments(file_rank=library.file_rank[side], start_seconds=library.start_seconds[side])
            for side in (left, right)
        ]
        self._known: dict[float, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._sides[0])

    def at(self, offset: float) -> np.ndarray:
        """float32 (P,): the cosines of the windows that lie so many seconds after the places; NaN where none does."""
        found = self._known.get(offset)
        if found is None:
            kind, library = self._kind, self._kind.library
            ours, theirs = (follow(library, side, offset) for side in self._sides)
            present = (ours >= 0) & (theirs >= 0) & library.has(kind.asked)[ours] & library.has(kind.searched)[theirs]
            found = np.full(len(self), np.nan, np.float32)
            found[present] = kind.cosines(ours[present], theirs[present])
            if len(self._known) < _MAX_OFFSETS:
                self._known[offset] = found
        return found

    def cosines(self, offset_seconds: np.ndarray, *, neutral: float) -> np.ndarray:
        """float64 (P,): what `sequence_similarity` would give."""
        total = np.zeros(len(self))
        for offset in offset_seconds.tolist():
            cosine = self.at(offset)
            total += np.where(np.isnan(cosine), neutral, cosine)
        return total / len(offset_seconds)


class Pairs:
    """By what one modality of a library is compared with another (or the same)."""

    def __init__(self, kind: _Kind, is_whole: np.ndarray, rng: np.random.Generator) -> None:
        library = kind.library
        self.random = _Places(kind, *_random_pairs(library, kind.asked, kind.searched, is_whole, rng))
        own = np.flatnonzero(library.has_audio & library.has_visual & is_whole)
        if len(own) > NUM_PAIRS:
            own = rng.choice(own, NUM_PAIRS, replace=False)
        # sound and picture of one moment
        self.own = _Places(kind, own, own)


def _random_pairs(
    library: Library, query: Modality, searched: Modality, is_whole: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    from_, to = (np.flatnonzero(library.has(modality) & is_whole) for modality in (query, searched))
    if not len(from_) or not len(to):
        return from_[:0], to[:0]
    left, right = rng.choice(from_, 4 * NUM_PAIRS), rng.choice(to, 4 * NUM_PAIRS)
    apart = library.content_rank[left] != library.content_rank[right]
    if not apart.any():
        apart = np.abs(library.start_seconds[left] - library.start_seconds[right]) >= library.window_seconds
    left, right = left[apart][:NUM_PAIRS], right[apart][:NUM_PAIRS]
    distinct = np.unique(left * len(library) + right)
    if len(distinct) < MIN_PAIRS:  # the same few pairs drawn again and again are no sample
        return left[:0], right[:0]
    return left, right


def combined_surprise(first: np.ndarray, first_weight: float, second: np.ndarray, second_weight: float) -> np.ndarray:
    """The surprise of two weighted pieces of evidence together: Fisher's method with weights.

    With x = w1 s1 + w2 s2, the share of random pairs whose x is as high, if the two are independent, is
    (w1 10^(-x/w1) - w2 10^(-x/w2)) / (w1 - w2), and (1 + ln(10) x/w) 10^(-x/w) for equal weights. A missing piece (NaN)
    counts as p = 1/2; NaN where both are missing. A weight of 0 leaves the other piece as it is.
    """
    missing = np.isnan(first) & np.isnan(second)
    first, second = (np.where(np.isnan(value), NEUTRAL_SURPRISE, value) for value in (first, second))
    low, high = sorted((first_weight, second_weight))
    if high <= 0.0:
        return np.where(missing, np.nan, 0.0)
    total = (first_weight * first + second_weight * second) * math.log(10.0)
    if high - low < 1e-3 * high:
        ratio = total / high
        log_share = np.log1p(ratio) - ratio
    else:
        faster = np.exp(-total * (1.0 / low - 1.0 / high)) if low > 0.0 else 0.0
        log_share = -total / high + math.log(high / (high - low)) + np.log1p(-low / high * faster)
    return np.where(missing, np.nan, np.abs(log_share) / math.log(10.0))
