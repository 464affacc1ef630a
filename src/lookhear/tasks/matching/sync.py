"""Does a frame find its own window of sound among the windows of its own clip?

The clip gives away neither the kind of event nor the place: only when things happen can tell its windows apart. Both
ways, beside chance and three controls. C clips, F windows a clip (K real ones).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.errors import StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.learned import check_baseline_apart, seen_in_training
from lookhear.tasks.matching.ridge import RidgeBaseline, fit_ridge, window_features
from lookhear.tasks.metrics import TIE_TOLERANCE, bootstrap_interval, hits_at, ranks
from lookhear.tasks.windows import Truth, WindowEmbeddings, embed_windows, events_in_windows

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

NUM_PARTNERS = 10


@dataclass(frozen=True, kw_only=True)
class EventSync:
    """Accuracy on the frames whose window holds an event, or on those whose window holds none."""

    accuracy: float | None  # None without such frames
    accuracy_ci95: tuple[float, float] | None
    chance: float | None
    frames: int


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """Shares are fractions 0..1; intervals are 95 % bootstrap intervals over clips, whose frames stay together."""

    accuracy: float  # a frame finds its window of sound
    accuracy_ci95: tuple[float, float]
    audio_to_visual_accuracy: float  # a window of sound finds its frame
    audio_to_visual_ci95: tuple[float, float]
    chance: float  # mean of 1 / K over the frames
    # the sound of another clip in place of its own, asked for the same position: above chance means that position in
    # the clip alone (a silent start, say) gives some of the accuracy away
    shuffled_accuracy: float | None
    # someone who knows of every window only whether it holds an event; None without truth
    event_only_accuracy: float | None
    ridge_accuracy: float | None  # the linear baseline on the same windows; None without a store to fit it on
    ridge_audio_to_visual_accuracy: float | None
    with_event: EventSync | None  # None without truth
    without_event: EventSync | None
    clips: int
    frames: int
    protocol: dict[str, Any]
    clip_list: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    model_fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowMatches:
    """Which frames found their own window: (C, F) each, only the `real` ones mean anything."""

    hits: np.ndarray  # float64, 0..1 where windows are tied
    real: np.ndarray  # bool

    def mean(self, among: np.ndarray | None = None) -> float:
        """Share of the frames (of `among`, bool (C, F)) that found their window."""
        return float(self.hits[self.real if among is None else among].mean())

    def interval(self, among: np.ndarray | None = None) -> tuple[float, float]:
        """Its 95 % interval over clips."""
        frames = self.real if among is None else among
        counts = frames.sum(axis=1)
        means = np.where(frames, self.hits, 0.0).sum(axis=1) / np.maximum(counts, 1)
        return bootstrap_interval(means, weights=counts)


def evaluate_sync(
    embedder: "Embedder",
    store: "Store",
    *,
    truth: Mapping[str, Truth] | None = None,
    train_store: "Store | None" = None,
    ridge: RidgeBaseline | None = None,
    windows: WindowEmbeddings | None = None,
    num_windows: int | None = None,
    progress: Progress = quiet,
) -> SyncResult:
    """Judges synchrony on all clips of `store` in which at least two disjoint windows fit.

    Of each window (of the model's length) the frame in its middle is asked for the most similar window of sound among
    those of its clip. `truth` (by relative path) sets windows without an event apart. `train_store`, `ridge` and
    `windows` are as in `evaluate_retrieval`. Raises StoreError when no clip has two windows, or `train_store`
    is `store`.
    """
    if train_store is not None:
        check_baseline_apart(train_store, store)
    if windows is None:
        windows = embed_windows(embedder, store, num_windows=num_windows, progress=progress)
    if ridge is None and train_store is not None:
        ridge = fit_ridge(embedder, train_store, progress=progress)
    real = windows.real & (windows.counts > 1)[:, None]
    if not real.any():
        raise StoreError(
            f"no clip is as long as two windows of {windows.window_seconds:.2f} s, so nothing can be told apart;"
            " judge longer clips or a model of shorter windows"
        )
    forward = match_windows(windows.visual, windows.audio, real)
    backward = match_windows(windows.audio, windows.visual, real)
    chances = np.where(real, 1.0 / windows.counts[:, None], 0.0)
    linear: tuple[float | None, float | None] = (None, None)
    if ridge is not None:
        linear = _ridge_accuracies(embedder, store, windows, ridge, real)
    holds = None if truth is None else events_in_windows(windows, store, truth) & real
    return SyncResult(
        accuracy=forward.mean(),
        accuracy_ci95=forward.interval(),
        audio_to_visual_accuracy=backward.mean(),
        audio_to_visual_ci95=backward.interval(),
        chance=float(chances[real].mean()),
        shuffled_accuracy=shuffled_accuracy(windows.visual, windows.audio, real),
        event_only_accuracy=None if holds is None else _event_only(holds, real),
        ridge_accuracy=linear[0],
        ridge_audio_to_visual_accuracy=linear[1],
        with_event=None if holds is None else _event_sync(forward, chances, holds),
        without_event=None if holds is None else _event_sync(forward, chances, real & ~holds),
        clips=int(real.any(axis=1).sum()),
        frames=int(real.sum()),
        protocol={
            "seen_in_training": seen_in_training(embedder, store, windows.index),
            "window_seconds": windows.window_seconds,
            "windows_per_clip": [int(windows.counts.min()), int(windows.counts.max())],
            "windows": "disjoint, of the clip itself; clips of one window are not judged",
            "ties": "expected over random orders",
            "interval": "percentile bootstrap over clips, 2000 draws, seed 0",
            "shuffled": f"sound of another clip of at least as many windows, same position, {NUM_PARTNERS} draws",
        },
        clip_list=windows.clip_list(),
        left_out=[asdict(clip) for clip in windows.left_out],
        model_fingerprint=embedder.fingerprint,
    )


def match_windows(queries: np.ndarray, candidates: np.ndarray, real: np.ndarray) -> WindowMatches:
    """Which window k of `queries` is nearest to window k of `candidates`, clip by clip.

    Both (C, F, E), unit length; `real` bool (C, F) says which windows exist. The slow form, a clip at a time:
    `[np.argmax(candidates[:K] @ queries[k]) == k for k in range(K)]`.
    """
    num_clips, num_windows = real.shape
    cosines = np.matmul(queries, candidates.transpose(0, 2, 1))  # (C, F, F)
    scores = np.where(real[:, None, :], cosines, -2.0)  # below every cosine
    own = np.tile(np.arange(num_windows), num_clips)
    rows = scores.reshape(-1, num_windows)
    found = ranks(rows, own, tie_tolerance=TIE_TOLERANCE)
    return WindowMatches(hits=hits_at(found, 1).reshape(real.shape), real=real)


def shuffled_accuracy(queries: np.ndarray, candidates: np.ndarray, real: np.ndarray, *, seed: int = 0) -> float | None:
    """Accuracy of `match_windows` when each clip gets the candidates of another clip that has at least as many windows.

    Mean over several draws; None where no clip has such a partner.
    """
    rng = np.random.default_rng(seed)
    counts = real.sum(axis=1)
    hits, frames = 0.0, 0
    for _ in range(NUM_PARTNERS):
        partner = np.full(len(counts), -1)
        for clip in np.flatnonzero(counts):
            others = np.flatnonzero(counts >= counts[clip])
            others = others[others != clip]
            if len(others):
                partner[clip] = rng.choice(others)
        paired = partner >= 0
        if not paired.any():
            return None
        matches = match_windows(queries[paired], candidates[partner[paired]], real[paired])
        hits += matches.hits[matches.real].sum()
        frames += int(matches.real.sum())
    return float(hits / frames)


def _event_sync(matches: WindowMatches, chances: np.ndarray, frames: np.ndarray) -> EventSync:
    if not frames.any():
        return EventSync(accuracy=None, accuracy_ci95=None, chance=None, frames=0)
    return EventSync(
        accuracy=matches.mean(frames),
        accuracy_ci95=matches.interval(frames),
        chance=float(chances[frames].mean()),
        frames=int(frames.sum()),
    )


def _event_only(holds: np.ndarray, real: np.ndarray) -> float:
    """Mean over the frames of 1 / (windows of the clip that are like its own in holding an event or not)."""
    with_event = holds.sum(axis=1, keepdims=True)
    without = (real & ~holds).sum(axis=1, keepdims=True)
    alike = np.where(holds, with_event, without)
    return float((1.0 / np.maximum(alike, 1))[real].mean())


def _ridge_accuracies(
    embedder: "Embedder", store: "Store", windows: WindowEmbeddings, ridge: RidgeBaseline, real: np.ndarray
) -> tuple[float, float]:
    """Accuracy of the linear baseline from frames to sound, and from sound to frames."""
    features = window_features(embedder, store, windows, config=ridge.config)
    forward = ridge.embed(features, ridge.visual_to_audio).by_clip(features)
    backward = ridge.embed(features, ridge.audio_to_visual).by_clip(features)
    return (
        match_windows(forward.visual, forward.audio, real).mean(),
        match_windows(backward.audio, backward.visual, real).mean(),
    )
