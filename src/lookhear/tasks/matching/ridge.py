"""The linear baseline: ridge regression between small grey pictures and pooled log-mels of the same windows.

A deep model that does not beat this on the same clips and windows has shown nothing. It is made strong on purpose:
its penalty, and for each direction which of the two regressions to trust, are chosen on a part of what it learns from.

N windows, P picture features, Q sound features.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.preprocess import log_mel
from lookhear.data.windows import cut_windows
from lookhear.errors import ConfigError, StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.matching.similarity import pair_similarity
from lookhear.tasks.metrics import ranks
from lookhear.tasks.windows import WindowCut, WindowEmbeddings, cut_clip, read_clip_windows, stack_windows

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

Regression = Literal["sound_from_picture", "picture_from_sound"]


@dataclass(frozen=True, kw_only=True)
class RidgeConfig:
    """What the linear baseline sees and how it is fitted."""

    picture_rows: int = 24
    """rows of the small grey picture"""
    picture_columns: int = 32
    """columns of the small grey picture"""
    max_picture_features: int = 3072
    """windows of many frames get smaller pictures, so that this is not exceeded"""
    time_bins: int = 10
    """parts of a window in which log-mel is averaged"""
    mel_bins: int = 32
    """bands in which log-mel is averaged"""
    penalties: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    """tried penalties, in units of the mean variance of an input direction times the number of windows"""
    held_out: float = 0.2
    """share of the clips on which the penalty is chosen"""
    max_clips: int = 2000
    """clips learned from, evenly taken, when the store has more"""
    max_windows: int = 8
    """windows of one clip that are learned from"""
    seed: int = 0
    """of the split"""

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise ConfigError("penalties must be positive, and at least one")
        if not 0.0 < self.held_out < 1.0:
            raise ConfigError(f"held_out is {self.held_out}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowFeatures:
    """Plain features of N windows, and the clip that each belongs to."""

    pictures: np.ndarray  # float32 (N, P): grey pixels, 0..1
    sounds: np.ndarray  # float32 (N, Q): log-mel
    clip: np.ndarray  # int64 (N,): windows of one clip share a number and lie together


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """Predicts standardised targets (N, Q) from inputs (N, P): `((x - mean) / scale) @ weight`."""

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    penalty: float  # the chosen one, in the units of RidgeConfig.penalties

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """float32 (N, Q)."""
        return ((inputs - self.mean) / self.scale) @ self.weight


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeBaseline:
    """Two fitted regressions, and which of them answers which question."""

    config: RidgeConfig
    sound_from_picture: LinearMap
    picture_from_sound: LinearMap
    audio_to_visual: Regression  # the one that found more pictures by their sound on held-out windows
    visual_to_audio: Regression
    num_windows: int  # learned from

    def embed(self, features: WindowFeatures, regression: Regression) -> "RidgeEmbeddings":
        """Unit vectors in the space that `regression` predicts into: their cosine is the score of a pair."""
        forward, backward = self.sound_from_picture, self.picture_from_sound
        if regression == "sound_from_picture":
            visual, audio = forward(features.pictures), (features.sounds - backward.mean) / backward.scale
        else:
            audio, visual = backward(features.sounds), (features.pictures - forward.mean) / forward.scale
        return RidgeEmbeddings(audio=_unit(audio), visual=_unit(visual))


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeEmbeddings:
    """Predicted and true values of N windows in one space, unit length: float32 (N, E) each."""

    audio: np.ndarray
    visual: np.ndarray

    def by_clip(self, features: WindowFeatures) -> "RidgeEmbeddings":
        """The same as (C, F, E), zeros where a clip has fewer than F windows."""
        edges = np.flatnonzero(np.diff(features.clip)) + 1
        return RidgeEmbeddings(
            audio=stack_windows(np.split(self.audio, edges)), visual=stack_windows(np.split(self.visual, edges))
        )


def fit_ridge(
    embedder: "Embedder",
    store: "Store",
    *,
    config: RidgeConfig | None = None,
    indices: Iterable[int] | None = None,
    progress: Progress = quiet,
) -> RidgeBaseline:
    """Fits the baseline on the disjoint windows (of the embedder's length) of `store`, the one that was learned from.

    `indices` are the clips to use (None: all that have sound and picture). Raises StoreError for fewer than ten.
    """
    config = config or RidgeConfig()
    usable = [
        index
        for index in (range(len(store)) if indices is None else indices)
        if store.clips[index].has_picture and store.clips[index].has_sound
    ]
    if len(usable) < 10:
        raise StoreError(
            f"the linear baseline needs at least 10 clips with sound and picture to learn; got {len(usable)}"
        )
    if len(usable) > config.max_clips:
        usable = [usable[place] for place in np.linspace(0, len(usable) - 1, config.max_clips).astype(int)]
    tried = (cut_clip(embedder, store, index, num_windows=config.max_windows) for index in usable)
    cuts = (cut for cut in tried if isinstance(cut, WindowCut))
    return fit_ridge_on(_features(embedder, cuts, config, total=len(usable), progress=progress), config=config)


def fit_ridge_on(features: WindowFeatures, *, config: RidgeConfig | None = None) -> RidgeBaseline:
    """Fits the baseline on ready features: penalties and directions on held-out clips, then both maps on all."""
    config = config or RidgeConfig()
    clips = np.unique(features.clip)
    drawn = np.random.default_rng(config.seed).permutation(clips)[: max(1, round(len(clips) * config.held_out))]
    held_out = np.isin(features.clip, drawn)
    chosen = {}
    found: dict[Regression, _Found] = {}
    regressions: tuple[Regression, Regression] = ("sound_from_picture", "picture_from_sound")
    for regression in regressions:
        inputs, targets = _sides(features, regression)
        trials = _solve(inputs[~held_out], targets[~held_out], config.penalties)
        target_mean, target_scale = _moments(targets[~held_out])
        truth = _unit((targets[held_out] - target_mean) / target_scale)
        scored = [_judge(_unit(trial(inputs[held_out])), truth, regression) for trial in trials]
        # both directions together choose the penalty; ties go to the larger one, the simpler map
        best = max(range(len(trials)), key=lambda place: (scored[place].both, trials[place].penalty))
        found[regression] = scored[best]
        chosen[regression] = _solve(inputs, targets, (trials[best].penalty,))[0]
    return RidgeBaseline(
        config=config,
        sound_from_picture=chosen["sound_from_picture"],
        picture_from_sound=chosen["picture_from_sound"],
        audio_to_visual=max(regressions, key=lambda name: found[name].audio_to_visual),
        visual_to_audio=max(regressions, key=lambda name: found[name].visual_to_audio),
        num_windows=len(features.clip),
    )


def window_features(
    embedder: "Embedder", store: "Store", windows: WindowEmbeddings, *, config: RidgeConfig | None = None
) -> WindowFeatures:
    """Plain features of exactly those windows that the model was judged on."""
    cuts = (
        WindowCut(
            index=int(index),
            clip_id=windows.clip_ids[row],
            start_seconds=windows.start_seconds[row, : windows.counts[row]],
            clip=read_clip_windows(embedder, store, int(index), windows.start_seconds[row, : windows.counts[row]]),
        )
        for row, index in enumerate(windows.index)
    )
    return _features(embedder, cuts, config or RidgeConfig(), total=len(windows), progress=quiet)


def ridge_similarity(baseline: RidgeBaseline, features: WindowFeatures, regression: Regression) -> np.ndarray:
    """float32 (C, C): similarity of the sound of each clip (rows) with the picture of each, mean over its windows."""
    embeddings = baseline.embed(features, regression).by_clip(features)
    counts = np.unique(features.clip, return_counts=True)[1]
    return pair_similarity(embeddings.audio, embeddings.visual, audio_counts=counts, visual_counts=counts)


def mean_log_mel(waveform: np.ndarray, *, sample_rate: int = 16000, num_mel_bins: int = 128) -> np.ndarray:
    """float32 (num_mel_bins,), unit length: the mean spectrum of a waveform (S,), loudness removed.

    The plainest description of a sound, for search to be compared with. All zeros for a waveform without content or
    shorter than one spectrogram frame (25 ms).
    """
    if len(waveform) < sample_rate // 40:
        return np.zeros(num_mel_bins, dtype=np.float32)
    spectrum = log_mel(torch.from_numpy(np.array(waveform)), sample_rate=sample_rate, num_mel_bins=num_mel_bins)
    mean = spectrum.mean(dim=-2).numpy()
    return _unit((mean - mean.mean())[None])[0]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Mean reciprocal ranks among the held-out windows."""

    audio_to_visual: float
    visual_to_audio: float

    @property
    def both(self) -> float:
        return self.audio_to_visual + self.visual_to_audio


def _judge(predicted: np.ndarray, truth: np.ndarray, regression: Regression) -> _Found:
    similarity = predicted[:1000] @ truth[:1000].T  # rows: what was predicted from
    own = np.arange(len(similarity))
    from_input, to_input = (float((1 / ranks(matrix, own).expected).mean()) for matrix in (similarity, similarity.T))
    if regression == "sound_from_picture":
        return _Found(audio_to_visual=to_input, visual_to_audio=from_input)
    return _Found(audio_to_visual=from_input, visual_to_audio=to_input)


def _sides(features: WindowFeatures, regression: Regression) -> tuple[np.ndarray, np.ndarray]:
    if regression == "sound_from_picture":
        return features.pictures, features.sounds
    return features.sounds, features.pictures


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = values.std(axis=0)
    # a feature that never changes carries nothing: it must stay 0, not become noise of 1e7
    return values.mean(axis=0), np.where(scale > 1e-4 * max(scale.max(), 1e-12), scale, np.inf).astype(np.float32)


def _solve(inputs: np.ndarray, targets: np.ndarray, penalties: Sequence[float]) -> list[LinearMap]:
    """The ridge solution for each penalty, in the smaller of its two forms (P x P or N x N), in float64.

    weight = (X'X + a I)^-1 X'Y = X' (XX' + a I)^-1 Y, with X and Y standardised.
    """
    mean, scale = _moments(inputs)
    target_mean, target_scale = _moments(targets)
    x = torch.from_numpy((inputs - mean) / scale).double()
    y = torch.from_numpy((targets - target_mean) / target_scale).double()
    num, width = x.shape
    gram = x.T @ x if width <= num else x @ x.T
    right = x.T @ y if width <= num else y
    unit = float(gram.diagonal().sum()) / width
    maps = []
    for penalty in penalties:
        damped = gram + torch.eye(len(gram), dtype=gram.dtype) * max(penalty * unit, 1e-12)
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(damped))
        weight = solved if width <= num else x.T @ solved
        maps.append(LinearMap(mean=mean, scale=scale, weight=weight.float().numpy(), penalty=penalty))
    return maps


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, length, out=np.zeros_like(values), where=length > 1e-12).astype(np.float32)


def _features(
    embedder: "Embedder", cuts: Iterable[WindowCut], config: RidgeConfig, *, total: int, progress: Progress
) -> WindowFeatures:

    pictures, sounds, owner = [], [], []
    for number, cut in enumerate(cuts):
        progress(number, total, "reading windows for the linear baseline")
        windows = cut_windows(embedder.preprocess.config, cut.clip, cut.start_seconds)
        for row in np.flatnonzero(windows.has_sound & windows.has_picture):
            pictures.append(_small_grey(torch.from_numpy(windows.frames[row]).unflatten(0, (-1, 3)), config))
            sounds.append(_pooled_log_mel(torch.from_numpy(windows.sound[row]), embedder, config))
            owner.append(number)
    return WindowFeatures(pictures=np.stack(pictures), sounds=np.stack(sounds), clip=np.array(owner))


def _small_grey(frames: Tensor, config: RidgeConfig) -> np.ndarray:
    """uint8 (M, 3, H, W) -> float32 (P,): M small grey pictures, 0..1."""
    weights = torch.tensor([0.299, 0.587, 0.114]) / 255.0
    grey = torch.einsum("mchw,c->mhw", frames.float(), weights)
    shrink = min(1.0, (config.max_picture_features / (len(grey) * config.picture_rows * config.picture_columns)) ** 0.5)
    size = (max(1, int(config.picture_rows * shrink)), max(1, int(config.picture_columns * shrink)))
    return F.adaptive_avg_pool2d(grey[:, None], size).flatten().numpy()


def _pooled_log_mel(waveform: Tensor, embedder: "Embedder", config: RidgeConfig) -> np.ndarray:
    """float32 (S,) -> float32 (Q,): log-mel averaged in time parts and bands."""
    settings = embedder.preprocess.config
    spectrum = log_mel(waveform, sample_rate=settings.sample_rate, num_mel_bins=settings.num_mel_bins)
    size = (min(config.time_bins, spectrum.shape[-2]), min(config.mel_bins, spectrum.shape[-1]))
    return F.adaptive_avg_pool2d(spectrum[None, None], size).flatten().numpy()
