"""How good scores of classes are, with intervals: average precision and ROC area under many resamples at once.

n clips, K classes, R resamples. `metrics.average_precision` and `metrics.area_under_roc` are the plain forms.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lookhear.tasks.metrics import bootstrap_interval

# Values that are held at once for the resamples of one class.
_BLOCK_VALUES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """95 % bootstrap intervals over clips of the means over classes."""

    mean_average_precision: tuple[float, float]
    mean_area_under_roc: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PooledRounds:
    """What several rounds judged, taken together."""

    num_judged: int  # clips (or files), each counted once
    accuracy_ci95: tuple[float, float]  # bootstrap over them, each with all the rounds that judged it


def pool_rounds(rounds: Iterable[tuple[Sequence[str], Sequence[bool] | np.ndarray]]) -> PooledRounds:
    """Of each round the names of what was judged, and whether it was named right; a name may be in several rounds."""
    judged: dict[str, list[bool]] = {}
    for names, right in rounds:
        for name, own in zip(names, right, strict=True):
            judged.setdefault(name, []).append(bool(own))
    shares, counts = [float(np.mean(own)) for own in judged.values()], [len(own) for own in judged.values()]
    return PooledRounds(num_judged=len(judged), accuracy_ci95=bootstrap_interval(shares, weights=counts))


def d_prime(area_under_roc: float) -> float:
    """How many deviations two normal score distributions of equal width lie apart that have this ROC area.

    sqrt(2) x the inverse normal distribution of the area; infinite for an area of 0 or 1, NaN for none.
    """
    if math.isnan(area_under_roc):
        return math.nan
    if not 0.0 < area_under_roc < 1.0:
        return math.inf if area_under_roc >= 1.0 else -math.inf
    return math.sqrt(2.0) * NormalDist().inv_cdf(area_under_roc)


def bootstrap_class_means(target: np.ndarray, score: np.ndarray, *, repeats: int = 200, seed: int = 0) -> Intervals:
    """Intervals of the mean average precision and the mean ROC area over classes, drawing whole clips.

    `target` bool and `score` float, (n, K). Every resample draws the same clips for all classes; a class without a
    positive (or for the area, a negative) in a resample is left out of that resample's mean.
    """
    draws = np.random.default_rng(seed).multinomial(len(target), np.full(len(target), 1 / len(target)), size=repeats)
    sums, counts = np.zeros((2, repeats)), np.zeros((2, repeats))
    for column in range(target.shape[1]):
        if not target[:, column].any():
            continue
        values = resampled_class(target[:, column], score[:, column], draws)  # (2, R)
        sums += np.nan_to_num(values)
        counts += ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = sums / counts
    (precision, area) = (_interval(row) for row in means)
    return Intervals(mean_average_precision=precision, mean_area_under_roc=area)


def resampled_class(target: np.ndarray, score: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """float64 (2, R): average precision and ROC area of one class, NaN where undefined.

    `target` bool (n,), `score` (n,), `draws` int (R, n): how often each clip is in each resample. Clips are sorted by
    score once; equal scores are one step of the curve, as in scikit-learn.
    """
    order = np.argsort(-score, kind="stable")
    truth, ranked = target[order], score[order]
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # the last clip of each distinct score
    return np.concatenate([_curves(part[:, order], truth, ends) for part in _blocks(draws)], axis=1)


def _curves(draws: np.ndarray, truth: np.ndarray, ends: np.ndarray) -> np.ndarray:
    right = np.cumsum(draws * truth, axis=1)[:, ends].astype(np.float64)  # positives down to each score
    above = np.cumsum(draws, axis=1)[:, ends].astype(np.float64)
    new_right = np.diff(right, axis=1, prepend=0.0)
    new_wrong = np.diff(above - right, axis=1, prepend=0.0)
    positives, negatives = right[:, -1], above[:, -1] - right[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.nansum(new_right * (right / above), axis=1) / positives
        area = (new_wrong * (right - new_right / 2)).sum(axis=1) / (positives * negatives)
    precision[positives == 0] = np.nan
    area[(positives == 0) | (negatives == 0)] = np.nan
    return np.stack([precision, area])


def _blocks(draws: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _BLOCK_VALUES // draws.shape[1])
    for first in range(0, len(draws), step):
        yield draws[first : first + step]


def _interval(values: np.ndarray) -> tuple[float, float]:
    if np.isnan(values).all():
        return math.nan, math.nan
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)
