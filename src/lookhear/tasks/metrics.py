"""Numbers that say how good an answer is: similarities of clips, ranks, recalls, intervals, precision. No model here.

A sounds, V pictures (clips of each), F windows a clip, E width of an embedding, Q queries, C candidates, N samples.
Embeddings are unit length unless said otherwise. Everything is numpy outside, torch inside where it multiplies.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

Aggregation = Literal["diagonal_mean", "diagonal_max", "mean", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

# Two cosines nearer than this are the same: it is what float32 loses in a dot product, and a matrix product does not
# give two equal pairs the same bits. Without it the order of identical clips would be rounding noise.
TIE_TOLERANCE = 1e-6


# --- ranks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranks:
    """Where the right answer of each query stands, ties left open: the order among equal candidates is a fair draw.

    So a model that gives everything the same score gets what chance gets, neither 1 (the optimistic rule) nor 0 (the
    pessimistic one).
    """

    num_ahead: np.ndarray  # int64 (Q,): wrong candidates scored above the best right one
    num_tied: np.ndarray  # int64 (Q,): wrong candidates scored the same as the best right one
    num_right: np.ndarray  # int64 (Q,): right candidates at that score, at least 1

    @property
    def expected(self) -> np.ndarray:
        """float64 (Q,): mean rank, from 1, of the first right answer over all orders of the tied ones."""
        return self.num_ahead + (self.num_tied + self.num_right + 1) / (self.num_right + 1)

    def __len__(self) -> int:
        return len(self.num_ahead)


def ranks(similarity: np.ndarray, positives: np.ndarray, *, tie_tolerance: float = 0.0) -> Ranks:
    """Ranks of the right answers in `similarity` (Q, C), a row a query, higher is nearer.

    `positives` is int (Q,), the column of the one right answer, or bool (Q, C), several right answers, of which the
    best counts. Scores within `tie_tolerance` of the right one are tied with it. Raises ValueError for a score that is
    not a number (it would have no rank) and for a query without a right answer.
    """
    similarity = np.asarray(similarity)
    if not np.isfinite(similarity).all():
        raise ValueError("a similarity is not a finite number; leave clips without an embedding out before ranking")
    positives = np.asarray(positives)
    if positives.dtype != bool:
        right = np.zeros(similarity.shape, dtype=bool)
        right[np.arange(len(similarity)), positives] = True
    else:
        right = positives
    if not right.any(axis=1).all():
        raise ValueError("a query has no right answer among the candidates")
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    tied = np.abs(similarity - best) <= tie_tolerance
    ahead = (similarity > best) & ~tied
    return Ranks(
        num_ahead=(ahead & ~right).sum(axis=1),
        num_tied=(tied & ~right).sum(axis=1),
        num_right=(tied & right).sum(axis=1),
    )


def hits_at(found: Ranks, k: int) -> np.ndarray:
    """float64 (Q,): how likely a right answer is among the first `k`, 0 or 1 where nothing is tied.

    With p right and n wrong candidates tied behind a others, k - a of them still fit: 1 - C(n, k-a) / C(n+p, k-a).
    """
    places = np.clip(k - found.num_ahead, 0, found.num_tied + found.num_right)
    miss = np.ones(len(found))
    for taken in range(int(found.num_right.max(initial=0))):
        # C(n, m) / C(n+p, m) = prod over the p right ones of (n + p - i - m) / (n + p - i)
        size = found.num_tied + found.num_right - taken
        factor = np.clip(size - places, 0, None) / np.maximum(size, 1)
        miss *= np.where(taken < found.num_right, factor, 1.0)
    return 1.0 - miss


def recall_at(found: Ranks, k: int) -> float:
    """Share of queries with a right answer among the first `k` (expected share where scores are tied)."""
    return float(hits_at(found, k).mean())


def median_rank(found: Ranks) -> float:
    """Median over the queries of the expected rank, from 1."""
    return float(np.median(found.expected))


# --- similarity of clips that have several windows -----------------------------------------------------------------


def pair_similarity(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregation: Aggregation = "diagonal_mean",
    audio_counts: np.ndarray | None = None,
    visual_counts: np.ndarray | None = None,
) -> np.ndarray:
    """Similarity float32 (A, V) of every sound clip `audio` (A, F, E) with every picture clip `visual` (V, F, E).

    From the cosines s_kl of window k of one with window l of the other: `diagonal_mean` = mean over k of s_kk,
    `diagonal_max` = max over k of s_kk, `mean` and `max` over all k and l. The other direction is the transpose.

    Clips of different length: `audio_counts` (A,) and `visual_counts` (V,) say how many of the F windows are real
    (the first ones). A diagonal then runs over the windows that both clips have; `mean` and `max` over all real ones.

    The slow form: `[[np.mean([a[k] @ v[k] for k in range(min(len(a), len(v)))]) for v in visual] for a in audio]`.
    """
    sizes = (len(audio), len(visual))
    similarity = np.empty(sizes, dtype=np.float32)
    blocks = similarity_blocks(
        audio, visual, aggregation=aggregation, audio_counts=audio_counts, visual_counts=visual_counts
    )
    for block in blocks:
        similarity[block.start : block.stop] = block.similarity
    return similarity


@dataclass(frozen=True, kw_only=True, eq=False)
class SimilarityBlock:
    """Rows [start, stop) of a similarity matrix."""

    start: int
    stop: int
    similarity: np.ndarray  # float32 (stop - start, V)


def similarity_blocks(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregation: Aggregation = "diagonal_mean",
    audio_counts: np.ndarray | None = None,
    visual_counts: np.ndarray | None = None,
    block_bytes: int = 256 << 20,
) -> Iterator[SimilarityBlock]:
    """The rows of `pair_similarity`, some at a time, so that no more than about `block_bytes` are held."""
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"no aggregation '{aggregation}'; known: {', '.join(AGGREGATIONS)}")
    sounds = _padded(audio, audio_counts)
    pictures = _padded(visual, visual_counts)
    if sounds.windows.shape[1:] != pictures.windows.shape[1:]:
        raise ValueError(f"sounds {audio.shape} and pictures {visual.shape} differ in windows or in width")
    # one row of the answer, and the one of a GEMM in flight beside it
    rows = max(1, block_bytes // (8 * max(1, len(pictures))))
    if aggregation == "mean":
        sounds, pictures = sounds.averaged(), pictures.averaged()
    for start in range(0, len(sounds), rows):
        stop = min(start + rows, len(sounds))
        some = sounds.rows(start, stop)
        if aggregation == "max":
            block = _max_over_all(some, pictures)
        elif aggregation == "diagonal_max":
            block = _max_over_diagonal(some, pictures)
        else:
            block = _mean_over_diagonal(some, pictures)
        yield SimilarityBlock(start=start, stop=stop, similarity=block.numpy())


@dataclass(frozen=True, kw_only=True, eq=False)
class PairRanks:
    """Ranks of each clip's own partner, both ways."""

    audio_to_visual: Ranks
    visual_to_audio: Ranks


def pair_ranks(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregation: Aggregation = "diagonal_mean",
    counts: np.ndarray | None = None,
    block_bytes: int = 256 << 20,
    tie_tolerance: float = TIE_TOLERANCE,
) -> PairRanks:
    """Ranks of clip i's picture among all pictures and of its sound among all sounds, in one pass of blocks.

    `audio`, `visual` (C, F, E), row i of both from one clip. Never holds the (C, C) matrix: for 100,000 clips that
    would be 40 GB. Equal to `ranks` of `pair_similarity` and of its transpose.
    """
    num = len(audio)
    own = _own_similarity(audio, visual, aggregation=aggregation, counts=counts)
    row_ahead, row_tied = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    column_ahead, column_tied = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    blocks = similarity_blocks(
        audio, visual, aggregation=aggregation, audio_counts=counts, visual_counts=counts, block_bytes=block_bytes
    )
    for block in blocks:
        if not np.isfinite(block.similarity).all():
            raise ValueError("a similarity is not a finite number; leave such clips out before ranking")
        rows = np.arange(block.start, block.stop)
        others = np.ones(block.similarity.shape, dtype=bool)
        others[rows - block.start, rows] = False
        for right, ahead, tied, axis in (
            (own[rows, None], row_ahead[block.start : block.stop], row_tied[block.start : block.stop], 1),
            (own[None, :], column_ahead, column_tied, 0),
        ):
            same = np.abs(block.similarity - right) <= tie_tolerance
            ahead += (others & ~same & (block.similarity > right)).sum(axis=axis)
            tied += (others & same).sum(axis=axis)
    ones = np.ones(num, dtype=np.int64)
    return PairRanks(
        audio_to_visual=Ranks(num_ahead=row_ahead, num_tied=row_tied, num_right=ones),
        visual_to_audio=Ranks(num_ahead=column_ahead, num_tied=column_tied, num_right=ones),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Windows:
    windows: Tensor  # float32 (C, F, E), zeros beyond each clip's own windows
    counts: Tensor  # int64 (C,)

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, start: int, stop: int) -> "_Windows":
        return _Windows(windows=self.windows[start:stop], counts=self.counts[start:stop])

    def averaged(self) -> "_Windows":
        """One window a clip: the mean of its unit vectors, whose dot products are the means of all cosines."""
        mean = self.windows.sum(dim=1, keepdim=True) / self.counts[:, None, None]
        return _Windows(windows=mean, counts=torch.ones_like(self.counts))

    @property
    def missing(self) -> Tensor:
        """bool (C, F): the windows that are only padding."""
        return torch.arange(self.windows.shape[1])[None, :] >= self.counts[:, None]


def _padded(windows: np.ndarray, counts: np.ndarray | None) -> _Windows:
    tensor = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32))
    if counts is None:
        return _Windows(windows=tensor, counts=torch.full((len(tensor),), tensor.shape[1], dtype=torch.int64))
    if len(counts) != len(windows) or np.min(counts, initial=1) < 1 or np.max(counts, initial=0) > tensor.shape[1]:
        raise ValueError("window counts must be one a clip, at least 1 and at most the number of windows given")
    padded = _Windows(windows=tensor, counts=torch.as_tensor(np.asarray(counts), dtype=torch.int64))
    return _Windows(windows=tensor.masked_fill(padded.missing[..., None], 0.0), counts=padded.counts)


def _mean_over_diagonal(sounds: _Windows, pictures: _Windows) -> Tensor:
    # padding is zero, so one GEMM sums over the windows that both clips have
    total = sounds.windows.flatten(1) @ pictures.windows.flatten(1).T
    return total.div_(torch.minimum(sounds.counts[:, None], pictures.counts[None, :]))


def _max_over_diagonal(sounds: _Windows, pictures: _Windows) -> Tensor:
    best: Tensor | None = None
    for k in range(sounds.windows.shape[1]):
        cosines = sounds.windows[:, k] @ pictures.windows[:, k].T
        _forbid(cosines, rows=sounds.missing[:, k], columns=pictures.missing[:, k])
        best = cosines if best is None else torch.maximum(best, cosines, out=best)
    assert best is not None
    return best


def _max_over_all(sounds: _Windows, pictures: _Windows) -> Tensor:
    best = torch.empty(len(sounds), len(pictures))
    num_windows = sounds.windows.shape[1]
    # tiles that stay in the cache while they are reduced: 24 x 24 pairs of 16 windows are half a megabyte
    tile = max(1, 384 // num_windows)
    columns = [range(start, min(start + tile, len(pictures))) for start in range(0, len(pictures), tile)]
    for start in range(0, len(sounds), tile):
        some = sounds.rows(start, start + tile)
        for part in columns:
            other = pictures.rows(part.start, part.stop)
            cosines = some.windows.flatten(0, 1) @ other.windows.flatten(0, 1).T
            _forbid(cosines, rows=some.missing.flatten(), columns=other.missing.flatten())
            shaped = cosines.view(len(some), num_windows, len(other), num_windows)
            best[start : start + tile, part.start : part.stop] = shaped.amax(dim=(1, 3))
    return best


def _forbid(cosines: Tensor, *, rows: Tensor, columns: Tensor) -> None:
    """Takes padding out of a maximum."""
    if rows.any():
        cosines[rows] = -torch.inf
    if columns.any():
        cosines[:, columns] = -torch.inf


def _own_similarity(
    audio: np.ndarray, visual: np.ndarray, *, aggregation: Aggregation, counts: np.ndarray | None
) -> np.ndarray:
    """float32 (C,): the diagonal of `pair_similarity`, without the rest of it."""
    sounds, pictures = _padded(audio, counts), _padded(visual, counts)
    if aggregation == "mean":
        sounds, pictures = sounds.averaged(), pictures.averaged()
    if aggregation == "max":
        cosines = sounds.windows @ pictures.windows.transpose(1, 2)  # (C, F, F)
        gone = sounds.missing[:, :, None] | pictures.missing[:, None, :]
        return cosines.masked_fill(gone, -torch.inf).amax(dim=(1, 2)).numpy()
    cosines = (sounds.windows * pictures.windows).sum(dim=2)  # (C, F)
    if aggregation == "diagonal_max":
        return cosines.masked_fill(sounds.missing, -torch.inf).amax(dim=1).numpy()
    return (cosines.sum(dim=1) / sounds.counts).numpy()


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


# --- where in the picture ------------------------------------------------------------------------------------------


def box_mask(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """bool (height, width): the pixels whose centre lies in `box` (x0, y0, x1, y1 as fractions of the picture).

    A box too small to hold a pixel centre is the one pixel under its middle.
    """
    left, top, right, bottom = box
    rows = (np.arange(height) + 0.5) / height
    columns = (np.arange(width) + 0.5) / width
    mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None, :]
    if not mask.any():
        row = int(np.clip((top + bottom) / 2 * height, 0, height - 1))
        mask[row, int(np.clip((left + right) / 2 * width, 0, width - 1))] = True
    return mask


def cut_to_area(heat: np.ndarray, num_pixels: int) -> np.ndarray:
    """float64 (H, W): 1 for the `num_pixels` hottest pixels, 0 elsewhere; pixels tied at the edge share what is left.

    So a map that is the same everywhere selects every pixel a little, not the upper left corner.
    """
    edge = np.partition(heat.ravel(), heat.size - num_pixels)[heat.size - num_pixels]
    hotter, level = heat > edge, heat == edge
    return hotter + level * ((num_pixels - hotter.sum()) / level.sum())


def overlap_with_box(heat: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of `mask` and the hottest part of `heat` of the same area, both (H, W)."""
    area = int(mask.sum())
    inside = float(cut_to_area(heat, area)[mask].sum())
    return inside / (2 * area - inside)


def points_into(heat: np.ndarray, mask: np.ndarray) -> float:
    """1 where the hottest pixel of `heat` lies in `mask`, else 0; the share that does where several are hottest."""
    return float(mask[heat == heat.max()].mean())
