"""Does the sound of a clip find its own picture among all clips, and the picture its sound?

Every figure stands beside what would be had without understanding: chance, knowing only the kind of event, pairs
shuffled, a linear model. C clips, W windows of all clips. No (C, C) matrix is held, so a library may be large; only the
linear baseline, where it is asked for, holds one of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lookhear.errors import StoreError, UserError
from lookhear.progress import Progress, quiet
from lookhear.tasks.learned import Seen, check_baseline_apart, seen_in_training
from lookhear.tasks.matching.ridge import RidgeBaseline, fit_ridge, ridge_similarity, window_features
from lookhear.tasks.matching.similarity import AGGREGATIONS, Aggregation, PairQuestion, PairRanks, answer_pairs
from lookhear.tasks.metrics import (
    TIE_TOLERANCE,
    Ranks,
    Ties,
    bootstrap_interval,
    hits_at,
    median_rank,
    query_weights,
    ranks,
    recall_at,
)
from lookhear.tasks.windows import NUM_PAIRS, Pairs, WindowEmbeddings, embed_windows, kinds_of

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

NUM_SHUFFLES = 200
Level = Literal["clip", "window"]


@dataclass(frozen=True, kw_only=True)
class DirectionResult:
    """One direction of retrieval. Shares are fractions 0..1; intervals are 95 % bootstrap intervals over clips."""

    r1: float
    r5: float
    r10: float
    median_rank: float  # from 1
    r1_ci95: tuple[float, float]
    failed: int  # queries whose own pair has no score (not a number); they count as not found
    shuffled_r1: float | None  # each asked to find a randomly drawn one instead of its own: must be chance
    within_kind_r1: float | None = None  # among the clips of the same kind only; None without kinds
    within_kind_chance: float | None = None
    within_kind_r1_ci95: tuple[float, float] | None = None
    ridge_r1: float | None = None  # the linear baseline on the same windows; None without a store to fit it on


@dataclass(frozen=True, kw_only=True)
class BothWays:
    """Both directions of one way to compare, and what a blind draw would get."""

    audio_to_visual: DirectionResult
    visual_to_audio: DirectionResult
    chance_r1: float


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Both directions, what they are to be compared with, and what exactly was compared."""

    # by the first aggregation that was asked for; at the level of windows, whether a window finds its own window
    audio_to_visual: DirectionResult
    visual_to_audio: DirectionResult
    chance_r1: float
    # the other aggregations by name; at the level of windows `own_clip`: whether a window finds one of its clip
    further: dict[str, BothWays] = field(default_factory=dict)
    kind_only_r1: float | None  # expected R@1 of someone who knows every clip's kind and nothing else
    clips: int
    windows: int
    protocol: dict[str, Any]
    clip_list: list[dict[str, Any]]  # id, path and sha256 of what was judged
    left_out: list[dict[str, Any]]  # clips without sound or picture: id and reason
    model_fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def evaluate_retrieval(
    embedder: "Embedder",
    store: "Store",
    *,
    kinds: Mapping[str, str] | None = None,
    train_store: "Store | None" = None,
    ridge: RidgeBaseline | None = None,
    windows: WindowEmbeddings | None = None,
    num_windows: int | None = None,
    aggregations: Sequence[Aggregation] = ("diagonal_mean",),
    level: Level = "clip",
    pairs: Pairs = "timestamps",
    ties: Ties = "fair",
    progress: Progress = quiet,
) -> RetrievalResult:
    """Judges retrieval both ways on all clips of `store` that have sound and picture.

    A clip is its windows, compared by each of `aggregations` (see `pair_similarity`): as many disjoint ones as fit, or
    `num_windows`. Of two clips of different length, the diagonal compares the windows that both have: the first ones.
    `level="window"`: every window is a query, and all windows of all clips are candidates; aggregations do not matter.

    `pairs` and `ties` are for comparison with published figures. `pairs="published"` takes the 16 (`num_windows`)
    windows and pictures of a clip that CAV-MAE Sync does, `pairs="clip"` the one of CAV-MAE (see `embed_windows`);
    `ties="published"` counts ties as their code does (see `recall_at`).

    `kinds` gives the kind of each clip by clip id or by file path; without it the store's labels serve if every clip
    has one. The linear baseline is `ridge`, else it is fitted on `train_store`, else its figures are None; it and the
    figures within a kind are of clips only, and it sees the windows of `pairs="timestamps"` only. `windows` saves
    embedding them again (`embed_windows` of the same embedder and store, with the same `pairs`). Raises ValueError for
    an unknown or no aggregation, UserError for a linear baseline with published pairs, and StoreError for fewer than
    two clips and for a `train_store` that is `store`.
    """
    if not aggregations or set(aggregations) - set(AGGREGATIONS):
        raise ValueError(f"aggregations {list(aggregations)} must be some of {', '.join(AGGREGATIONS)}")
    if (pairs if windows is None else windows.pairs) != "timestamps" and (ridge or train_store) is not None:
        raise UserError(
            "the linear baseline sees windows with the pictures inside them, not those of published pairs, so it would "
            "be compared with another question; leave it out (--learned-from), or take --pairs timestamps"
        )
    if train_store is not None:
        check_baseline_apart(train_store, store)
    if windows is None:
        windows = embed_windows(embedder, store, num_windows=num_windows, pairs=pairs, progress=progress)
    if len(windows) < 2 and level == "clip":
        raise StoreError(
            f"retrieval is a choice among clips, and {store.path} has one with sound and picture; give a store of "
            "more, or ask for single windows (--level window)"
        )
    if level == "window":
        answers, kind, ridge = _ask_windows(windows, ties), None, None
    else:
        if ridge is None and train_store is not None:
            ridge = fit_ridge(embedder, train_store, progress=progress)
        kind = _kind_numbers(store, windows, kinds)
        answers = _ask_clips(windows, kind, aggregations, ties)
    main, *further = answers.items()
    if ridge is not None:
        main = (main[0], _with_ridge(main[1], ridge, embedder, store, windows))
    return RetrievalResult(
        audio_to_visual=main[1].audio_to_visual,
        visual_to_audio=main[1].visual_to_audio,
        chance_r1=main[1].chance_r1,
        further=dict(further),
        kind_only_r1=None if kind is None else float((1.0 / np.bincount(kind)[kind]).mean()),
        clips=len(windows),
        windows=int(windows.counts.sum()),
        protocol=_protocol(
            windows, aggregations, level, ties, ridge, seen=seen_in_training(embedder, store, windows.index)
        ),
        clip_list=windows.clip_list(),
        left_out=[asdict(clip) for clip in windows.left_out],
        model_fingerprint=embedder.fingerprint,
    )


# ---- clips


def _ask_clips(
    windows: WindowEmbeddings, kind: np.ndarray | None, aggregations: Sequence[Aggregation], ties: Ties
) -> dict[str, BothWays]:
    """Every figure of clips, from one pass over the similarities."""
    num = len(windows)
    shuffles = _shuffles(num)
    questions = [PairQuestion(), *shuffles, *([] if kind is None else [PairQuestion(kind=kind)])]
    answers = answer_pairs(
        windows.audio,
        windows.visual,
        questions,
        aggregations=aggregations,
        counts=windows.counts,
        tie_tolerance=_TIE_TOLERANCES[ties],
    )
    results: dict[str, BothWays] = {}
    for name, found in answers.items():
        own, shuffled, within = found[0], found[1 : 1 + len(shuffles)], found[1 + len(shuffles) :]
        sides = {
            side: _direction(
                getattr(own, side),
                np.arange(num),
                ties=ties,
                shuffled=[getattr(each, side) for each in shuffled],
            )
            for side in _SIDES
        }
        if kind is not None:
            sides = {side: _with_kind(result, getattr(within[0], side), kind) for side, result in sides.items()}
        results[name] = BothWays(chance_r1=1.0 / num, **sides)
    return results


def _ask_windows(windows: WindowEmbeddings, ties: Ties) -> dict[str, BothWays]:
    """Whether a window finds its own window, and whether it finds a window of its own clip."""
    real = windows.real
    audio, visual = windows.audio[real][:, None], windows.visual[real][:, None]  # (W, 1, E)
    clip = np.repeat(np.arange(len(windows)), windows.counts)
    num = len(clip)
    shuffles = _shuffles(num)
    own, in_clip, *shuffled = answer_pairs(
        audio,
        visual,
        [PairQuestion(), PairQuestion(clip=clip), *shuffles],
        aggregations=("diagonal_mean",),
        tie_tolerance=_TIE_TOLERANCES[ties],
    )["diagonal_mean"]

    def both(found: PairRanks, chance: float, drawn: Sequence[PairRanks]) -> BothWays:
        sides = {
            side: _direction(getattr(found, side), clip, ties=ties, shuffled=[getattr(each, side) for each in drawn])
            for side in _SIDES
        }
        return BothWays(chance_r1=chance, **sides)

    return {
        "own_window": both(own, 1.0 / num, shuffled),
        "own_clip": both(in_clip, float((windows.counts[clip] / num).mean()), ()),
    }


_TIE_TOLERANCES: dict[Ties, float] = {"fair": TIE_TOLERANCE, "published": 0.0}  # the public code compares with ==
_SIDES = ("audio_to_visual", "visual_to_audio")


def _shuffles(num: int) -> list[PairQuestion]:
    """Random right answers. Their mean R@1 checks the measuring itself: whatever the model, it is chance, unless ranks
    are inflated. Fewer draws for many candidates, where one draw is already an average over many queries."""
    rng = np.random.default_rng(0)
    draws = max(1, min(NUM_SHUFFLES, 20_000_000 // num**2))
    return [PairQuestion(partners=rng.permutation(num)) for _ in range(draws)]


def _direction(found: Ranks, clip: np.ndarray, *, ties: Ties, shuffled: Sequence[Ranks]) -> DirectionResult:
    """`clip` int (Q,): the clip of each query. Queries of one clip stay together in the interval."""
    weights = query_weights(found, ties=ties)
    hits = np.bincount(clip, weights * hits_at(found, 1, ties=ties))
    weights = np.bincount(clip, weights)
    judged = weights > 0  # the published rule loses a query that failed
    interval = (0.0, 0.0)
    if judged.any():
        interval = bootstrap_interval(hits[judged] / weights[judged], weights=weights[judged])
    return DirectionResult(
        r1=recall_at(found, 1, ties=ties),
        r5=recall_at(found, 5, ties=ties),
        r10=recall_at(found, 10, ties=ties),
        median_rank=median_rank(found, ties=ties),
        r1_ci95=interval,
        failed=int(found.failed.sum()),
        shuffled_r1=float(np.mean([recall_at(each, 1, ties=ties) for each in shuffled])) if shuffled else None,
    )


def _with_kind(result: DirectionResult, within: Ranks, kind: np.ndarray) -> DirectionResult:
    """The figures among the clips of the same kind; a kind of one clip has no other to be confused with."""
    same = np.bincount(kind)[kind]
    judged = same > 1
    if not judged.any():
        return result
    hits = hits_at(within, 1)[judged]
    return replace(
        result,
        within_kind_r1=float(hits.mean()),
        within_kind_chance=float((1.0 / same[judged]).mean()),
        within_kind_r1_ci95=bootstrap_interval(hits),
    )


def _with_ridge(
    both: BothWays, ridge: RidgeBaseline, embedder: "Embedder", store: "Store", windows: WindowEmbeddings
) -> BothWays:
    features = window_features(embedder, store, windows, config=ridge.config)
    matrices = {
        "audio_to_visual": ridge_similarity(ridge, features, ridge.audio_to_visual),
        "visual_to_audio": ridge_similarity(ridge, features, ridge.visual_to_audio).T,
    }
    own = np.arange(len(windows))
    linear = {side: recall_at(ranks(matrix, own, tie_tolerance=TIE_TOLERANCE), 1) for side, matrix in matrices.items()}
    return replace(both, **{side: replace(getattr(both, side), ridge_r1=value) for side, value in linear.items()})


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


def _protocol(
    windows: WindowEmbeddings,
    aggregations: Sequence[str],
    level: Level,
    ties: Ties,
    ridge: RidgeBaseline | None,
    *,
    seen: Seen,
) -> dict[str, Any]:
    protocol: dict[str, Any] = {
        "seen_in_training": seen,
        "level": level,
        "aggregation": aggregations[0] if level == "clip" else None,
        "window_seconds": windows.window_seconds,
        "windows_per_clip": [int(windows.counts.min()), int(windows.counts.max())],
        "pairs": windows.pairs,
        "windows": _WINDOWS[windows.pairs],
        "ties": f"expected over random orders; scores within {TIE_TOLERANCE:g} are tied"
        if ties == "fair"
        else "published: every tied place counts; only exactly equal float32 scores are tied",
        "failed": "a query whose own pair has no score counts as not found"
        if ties == "fair"
        else "published: a query whose own pair has no score is lost",
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


_WINDOWS: dict[Pairs, str] = {
    "timestamps": "disjoint; clips of different length are compared over the windows that both have",
    "published": f"around {NUM_PAIRS} (or as many as asked for) evenly spaced pictures, as CAV-MAE Sync publishes them",
    "clip": "one that begins with the clip, and the picture at its middle, as CAV-MAE publishes it",
}
