"""Balanced sampling: clips with rare labels come more often, as in the published fine-tuning of large, uneven sets."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lookhear.data.sampling import clip_rng

_STREAM = (1 << 64) - 2  # of the random numbers; clips and the shuffled order use others


def balance_weights(labels: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 (num,): how often to draw each clip, by its labels: the sum of 1000 / (clips with that label + 0.01)."""
    counts = Counter(label for own in labels for label in own)
    return np.array([sum(1000 / (counts[label] + 0.01) for label in own) for own in labels], dtype=np.float64)


def balanced_order(weights: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """int64 (num,): what an epoch goes through when `num` clips are drawn with replacement, by `weights` (num,).

    p stands for the clip p % num, drawn for the p // num -th time (from 0), so that random draws can differ each time.
    The slow form: `torch.utils.data.WeightedRandomSampler(weights, num, replacement=True)`.
    """
    num = len(weights)
    edges = np.cumsum(weights)
    drawn = clip_rng(seed, epoch, _STREAM).random(num) * edges[-1]
    chosen = np.searchsorted(edges, drawn, side="right").clip(max=num - 1)
    order = np.argsort(chosen, kind="stable")
    ranked = chosen[order]
    repeats = np.empty(num, dtype=np.int64)
    repeats[order] = np.arange(num) - np.searchsorted(ranked, ranked, side="left")
    return chosen + num * repeats
