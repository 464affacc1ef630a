"""Does the sound of a clip find its own picture among all clips, and the picture its sound?

Every figure stands beside what would be had without understanding: chance, knowing only the kind of event, pairs
shuffled, a linear model. C clips.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.progress import Progress, quiet
from lookhear.tasks.metrics import (
    TIE_TOLERANCE,
    Aggregation,
    Ranks,
    bootstrap_interval,
    hits_at,
    median_rank,
    pair_similarity,
    ranks,
    recall_at,
)
from lookhear.tasks.ridge import RidgeBaseline, fit_ridge, ridge_similarity, window_features
from lookhear.tasks.windows import WindowEmbeddings, embed_windows, kinds_of

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

NUM_SHUFFLES = 200


@dataclass(frozen=True, kw_only=True)
class DirectionResult:
    """One direction of retrieval. Shares are fractions 0..1; intervals are 95 % bootstrap intervals over clips."""

    r1: float
    r5: float
    r10: float
    median_rank: float  # from 1
    r1_ci95: tuple[float, float]
    shuffled_r1: float  # each clip asked to find a randomly drawn clip instead of its own: must be chance
    within_kind_r1: float | None = None  # among the clips of the same kind only; None without kinds
    within_kind_chance: float | None = None
    within_kind_r1_ci95: tuple[float, float] | None = None
    ridge_r1: float | None = None  # the linear baseline on the same windows; None without a store to fit it on


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalResult:
    """Both directions, what they are to be compared with, and what exactly was compared."""

    audio_to_visual: DirectionResult
    visual_to_audio: DirectionResult
    chance_r1: float
    kind_only_r1: float | None  # expected R@1 of someone who knows every clip's kind and nothing else
    clips: int
    protocol: dict[str, Any]
    clip_list: list[dict[str, Any]]  # id, path and sha256 of what was judged
    left_out: list[dict[str, Any]]  # clips without sound or picture: id and reason
    model_fingerprint: str
    # float32 (C, C): sounds are rows, pictures columns, both in the order of clip_list; not part of to_dict
    similarity: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the matrix, ready for JSON."""
        record = {name: value for name, value in vars(self).items() if name != "similarity"}
        record["audio_to_visual"] = asdict(self.audio_to_visual)
        record["visual_to_audio"] = asdict(self.visual_to_audio)
        return record


def evaluate_retrieval(
    embedder: "Embedder",
    store: "Store",
    *,
    kinds: Mapping[str, str] | None = None,
    train_store: "Store | None" = None,
    ridge: RidgeBaseline | None = None,
    windows: WindowEmbeddings | None = None,
    num_windows: int | None = None,
    aggregation: Aggregation = "diagonal_mean",
    progress: Progress = quiet,
) -> RetrievalResult:
    """Judges retrieval both ways on all clips of `store` that have sound and picture.

    A clip is its disjoint windows (as many as fit, or `num_windows`), compared by `aggregation`. Of two clips of
    different length, the diagonal compares the windows that both have: the first ones.
    `kinds` gives the kind of each clip by clip id or by file path; without it the store's labels serve if every clip
    has one. The linear baseline is `ridge`, else it is fitted on `train_store`, else its figures are None.
    `windows` saves embedding them again (`embed_windows` of the same embedder and store).
    """
    if windows is None:
        windows = embed_windows(embedder, store, num_windows=num_windows, progress=progress)
    if ridge is None and train_store is not None:
        ridge = fit_ridge(embedder, train_store, progress=progress)
    similarity = pair_similarity(
        windows.audio,
        windows.visual,
        aggregation=aggregation,
        audio_counts=windows.counts,
        visual_counts=windows.counts,
    )
    kind = _kind_numbers(store, windows, kinds)
    ridge_r1: tuple[float | None, float | None] = (None, None)
    if ridge is not None:
        features = window_features(embedder, store, windows, config=ridge.config)
        forward = ridge_similarity(ridge, features, ridge.audio_to_visual)
        backward = ridge_similarity(ridge, features, ridge.visual_to_audio).T
        ridge_r1 = (recall_at(_own_ranks(forward), 1), recall_at(_own_ranks(backward), 1))
    return RetrievalResult(
        audio_to_visual=_direction(similarity, kind, ridge_r1[0]),
        visual_to_audio=_direction(similarity.T, kind, ridge_r1[1]),
        chance_r1=1.0 / len(windows),
        kind_only_r1=None if kind is None else float((1.0 / _same_kind(kind).sum(axis=1)).mean()),
        clips=len(windows),
        protocol=_protocol(windows, aggregation, ridge),
        clip_list=windows.clip_list(),
        left_out=[asdict(clip) for clip in windows.left_out],
        model_fingerprint=embedder.fingerprint,
        similarity=similarity,
    )


def within_kind_hits(similarity: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """float64 (C,): whether each row finds its own column among the columns of its kind; NaN for a kind of one clip.

    `similarity` (C, C), own pairs on the diagonal; `kind` int (C,).
    """
    same = _same_kind(kind)
    # other kinds are put below every cosine, so that they are neither ahead nor tied
    hits = hits_at(_own_ranks(np.where(same, similarity, -2.0)), 1)
    return np.where(same.sum(axis=1) > 1, hits, np.nan)


def shuffled_recall(similarity: np.ndarray, *, seed: int = 0) -> float:
    """Mean R@1 when each row's right answer is drawn at random (a permutation), over many draws.

    A check of the measuring itself: whatever the model, this is chance, unless ranks are inflated.
    """
    rng = np.random.default_rng(seed)
    draws = (
        ranks(similarity, rng.permutation(len(similarity)), tie_tolerance=TIE_TOLERANCE)
        for _ in range(_shuffles(similarity))
    )
    return float(np.mean([recall_at(found, 1) for found in draws]))


def _direction(similarity: np.ndarray, kind: np.ndarray | None, ridge_r1: float | None) -> DirectionResult:
    found = _own_ranks(similarity)
    result = DirectionResult(
        r1=recall_at(found, 1),
        r5=recall_at(found, 5),
        r10=recall_at(found, 10),
        median_rank=median_rank(found),
        r1_ci95=bootstrap_interval(hits_at(found, 1)),
        shuffled_r1=shuffled_recall(similarity),
        ridge_r1=ridge_r1,
    )
    if kind is None:
        return result
    hits = within_kind_hits(similarity, kind)
    judged = ~np.isnan(hits)
    if not judged.any():
        return result
    return replace(
        result,
        within_kind_r1=float(hits[judged].mean()),
        within_kind_chance=float((1.0 / _same_kind(kind).sum(axis=1))[judged].mean()),
        within_kind_r1_ci95=bootstrap_interval(hits[judged]),
    )


def _own_ranks(similarity: np.ndarray) -> Ranks:
    return ranks(similarity, np.arange(len(similarity)), tie_tolerance=TIE_TOLERANCE)


def _shuffles(similarity: np.ndarray) -> int:
    """Fewer draws for large matrices, where one draw is already an average over many clips."""
    return max(1, min(NUM_SHUFFLES, 20_000_000 // similarity.size))


def _same_kind(kind: np.ndarray) -> np.ndarray:
    return kind[:, None] == kind[None, :]


def _kind_numbers(store: "Store", windows: WindowEmbeddings, kinds: Mapping[str, str] | None) -> np.ndarray | None:
    """int64 (C,): kinds as numbers, None where some clip has none."""
    if kinds is None:
        kinds = kinds_of(store, windows.index)
        if kinds is None:
            return None
    names = []
    for clip_id, path in zip(windows.clip_ids, windows.paths, strict=True):
        name = kinds.get(clip_id, kinds.get(path))
        if name is None:
            return None
        names.append(name)
    return np.unique(names, return_inverse=True)[1]


def _protocol(windows: WindowEmbeddings, aggregation: str, ridge: RidgeBaseline | None) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "aggregation": aggregation,
        "window_seconds": windows.window_seconds,
        "windows_per_clip": [int(windows.counts.min()), int(windows.counts.max())],
        "windows": "disjoint; clips of different length are compared over the windows that both have",
        "ties": "expected over random orders",
        "interval": "percentile bootstrap over clips, 2000 draws, seed 0",
        "shuffled": "mean over random permutations of the right answers",
    }
    if ridge is not None:
        protocol["ridge"] = {
            "audio_to_visual": ridge.audio_to_visual,
            "visual_to_audio": ridge.visual_to_audio,
            "penalties": [ridge.sound_from_picture.penalty, ridge.picture_from_sound.penalty],
            "windows_learned_from": ridge.num_windows,
        }
    return protocol
