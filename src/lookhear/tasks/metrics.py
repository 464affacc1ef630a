"""Numbers that say how good an answer is: ranks, recalls, intervals, precision. No model here.

Q queries, C candidates, N samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Ties = Literal["fair", "published"]

# Two cosines nearer than this are the same: it is what float32 loses in a dot product, and a matrix product does not
# give two equal pairs the same bits. Without it the order of identical clips would be rounding noise.
TIE_TOLERANCE = 1e-6


# --- ranks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Where the right answer of each query stands, ties left open: the order among equal candidates is a fair draw.

    So a model that gives everything the same score gets what chance gets, neither 1 (the optimistic rule) nor 0 (the
    pessimistic one). A query whose right answers have no score (not a number) has failed: it stands behind all
    candidates and is found at no k.
    """

    num_ahead: np.ndarray  # int64 (Q,): wrong candidates scored above the best right one
    num_tied: np.ndarray  # int64 (Q,): wrong candidates scored the same as the best right one
    num_right: np.ndarray  # int64 (Q,): right candidates at that score; 0 for a query that has failed

    @property
    def failed(self) -> np.ndarray:
        """bool (Q,): the queries whose right answers have no score."""
        return self.num_right == 0

    @property
    def expected(self) -> np.ndarray:
        """float64 (Q,): mean rank, from 1, of the first right answer over all orders of the tied ones."""
        return self.num_ahead + (self.num_tied + self.num_right + 1) / (self.num_right + 1)

    def __len__(self) -> int:
        return len(self.num_ahead)


def ranks(similarity: np.ndarray, positives: np.ndarray, *, tie_tolerance: float = 0.0) -> Ranks:
    """Ranks of the right answers in `similarity` (Q, C), a row a query, higher is nearer.

    `positives` is int (Q,), the column of the one right answer, or bool (Q, C), several right answers, of which the
    best counts. Scores within `tie_tolerance` of the right one are tied with it. A score that is not a finite number
    is neither ahead nor tied; where it is that of all right answers, the query has failed. Raises ValueError for a
    query without a right answer.
    """
    similarity = np.asarray(similarity)
    positives = np.asarray(positives)
    if positives.dtype != bool:
        right = np.zeros(similarity.shape, dtype=bool)
        right[np.arange(len(similarity)), positives] = True
    else:
        right = positives
    if not right.any(axis=1).all():
        raise ValueError("a query has no right answer among the candidates")
    if not np.isfinite(similarity).all():
        similarity = np.where(np.isfinite(similarity), similarity, -np.inf)
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    counted = count_ranks(similarity, best, right, ~right, axis=1, tie_tolerance=tie_tolerance)
    return close_ranks(counted, best[:, 0], num_candidates=similarity.shape[1])


def count_ranks(
    scores: np.ndarray, best: np.ndarray, right: np.ndarray, wrong: np.ndarray, *, axis: int, tie_tolerance: float
) -> Ranks:
    """What stands ahead of, and level with, `best` (which broadcasts against `scores`) along `axis`."""
    ahead = scores > best + tie_tolerance
    level = (scores >= best - tie_tolerance) & ~ahead
    return Ranks(
        num_ahead=(ahead & wrong).sum(axis=axis),
        num_tied=(level & wrong).sum(axis=axis),
        num_right=(level & right).sum(axis=axis),
    )


def close_ranks(counted: Ranks, best: np.ndarray, *, num_candidates: int) -> Ranks:
    """The counts with failed queries put behind everything."""
    failed = ~np.isfinite(best)
    return Ranks(
        num_ahead=np.where(failed, num_candidates, counted.num_ahead),
        num_tied=np.where(failed, 0, counted.num_tied),
        # at least the right answer itself, whose score in a block differs from `best` by rounding
        num_right=np.where(failed, 0, np.maximum(counted.num_right, 1)),
    )


def hits_at(found: Ranks, k: int, *, ties: Ties = "fair") -> np.ndarray:
    """float64 (Q,): how likely a right answer is among the first `k`, 0 or 1 where nothing is tied.

    With p right and n wrong candidates tied behind a others, k - a of them still fit: 1 - C(n, k-a) / C(n+p, k-a).
    `ties="published"`: the share of the n + p places that are among the first `k` (see `recall_at`).
    """
    places = np.clip(k - found.num_ahead, 0, found.num_tied + found.num_right)
    if ties == "published":
        return places / np.maximum(found.num_tied + found.num_right, 1)
    miss = np.ones(len(found))
    for taken in range(int(found.num_right.max(initial=0))):
        # C(n, m) / C(n+p, m) = prod over the p right ones of (n + p - i - m) / (n + p - i)
        size = found.num_tied + found.num_right - taken
        factor = np.clip(size - places, 0, None) / np.maximum(size, 1)
        miss *= np.where(taken < found.num_right, factor, 1.0)
    return 1.0 - miss


def query_weights(found: Ranks, *, ties: Ties = "fair") -> np.ndarray:
    """float64 (Q,): how much each query counts in a mean: 1, or as published once for each place of its tie."""
    return np.ones(len(found)) if ties == "fair" else (found.num_tied + found.num_right).astype(np.float64)


def recall_at(found: Ranks, k: int, *, ties: Ties = "fair") -> float:
    """Share of queries with a right answer among the first `k` (expected share where scores are tied).

    `ties="published"`: as the public CAV-MAE and CAV-MAE Sync code counts, for comparison only. Every place of a tie
    is an answer of its own, so ties weigh more and inflate the figure, and a failed query disappears: [1, 1, 0],
    [.5, .2, .1] and [.3, .3, .3] with the right answers on the diagonal have R@1 2/6.
    """
    weights = query_weights(found, ties=ties)
    return float((weights * hits_at(found, k, ties=ties)).sum() / max(weights.sum(), 1.0))


def median_rank(found: Ranks, *, ties: Ties = "fair") -> float:
    """Median over the queries of the expected rank, from 1; `ties="published"`: over all places of all ties."""
    if ties == "fair":
        return float(np.median(found.expected))
    sizes = found.num_tied + found.num_right
    places = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return float(np.median(np.repeat(found.num_ahead, sizes) + places + 1)) if len(places) else float("nan")


# --- intervals -----------------------------------------------------------------------------------------------------


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    seed: int = 0,
    repeats: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values` (N,), drawing whole values with replacement.

    Where one value stands for several trials (the share of right frames of one clip), `weights` are the numbers of
    trials: the statistic is the weighted mean, and clips are drawn, since frames of one clip are not independent. The
    seed is fixed, so the same values give the same interval. Raises ValueError for no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(sample) if weights is None else np.asarray(weights, dtype=np.float64)
    if sample.size == 0 or weight.sum() <= 0:
        raise ValueError("an interval needs at least one value with weight")
    rng = np.random.default_rng(seed)
    means = np.empty(repeats)
    step = max(1, (16 << 20) // (8 * sample.size))
    for start in range(0, repeats, step):
        drawn = rng.integers(0, sample.size, size=(min(step, repeats - start), sample.size))
        total = weight[drawn].sum(axis=1)
        with np.errstate(invalid="ignore"):
            means[start : start + len(drawn)] = (weight * sample)[drawn].sum(axis=1) / total
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(means, [tail, 1.0 - tail])
    return float(low), float(high)


# --- several labels a sample ---------------------------------------------------------------------------------------


def average_precision(target: np.ndarray, score: np.ndarray) -> np.ndarray:
    """float64 (num_classes,): average precision of each class, `target` 0/1 and `score` both (N, num_classes).

    A class without a positive has none: NaN, to be left out of a mean (`np.nanmean`), never counted as 0.
    """
    from sklearn.metrics import average_precision_score  # a second of import that most callers do not need

    return _per_class(average_precision_score, target, score, needs_negative=False)


def area_under_roc(target: np.ndarray, score: np.ndarray) -> np.ndarray:
    """float64 (num_classes,): area under the ROC curve of each class; NaN without both a positive and a negative."""
    from sklearn.metrics import roc_auc_score

    return _per_class(roc_auc_score, target, score, needs_negative=True)


def _per_class(
    metric: Callable[[np.ndarray, np.ndarray], float],
    target: np.ndarray,
    score: np.ndarray,
    *,
    needs_negative: bool,
) -> np.ndarray:
    if target.shape != score.shape or target.ndim != 2:
        raise ValueError(f"target {target.shape} and score {score.shape} must both be (samples, classes)")
    values = np.full(target.shape[1], np.nan)
    for column in range(target.shape[1]):
        truth = target[:, column] > 0
        if truth.any() and not (needs_negative and truth.all()):
            values[column] = metric(truth, score[:, column])
    return values
