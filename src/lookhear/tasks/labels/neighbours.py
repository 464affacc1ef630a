"""k nearest neighbours: what do the training clips that look (or sound) most alike say? Nothing is trained.

Weighted votes as in instance discrimination (Wu et al., CVPR 2018, section 3.4). n training clips, q judged ones, D
width, C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lookhear.errors import ConfigError, StoreError
from lookhear.tasks.labels.features import ClipFeatures
from lookhear.tasks.labels.probe_scores import ProbeResult, check_sides, score_probe

_BLOCK_VALUES = 16 << 20  # similarities that are held at once


@dataclass(frozen=True, kw_only=True)
class NeighbourConfig:
    """Who votes, and how much."""

    k: int = 20
    """nearest neighbours by cosine; all there are where they are fewer"""
    temperature: float | None = 0.07
    """a neighbour's vote weighs exp(cosine / temperature); null: all votes weigh the same"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k is {self.k}; it must be at least 1")
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0, or null for equal votes")


_DEFAULT = NeighbourConfig()


def neighbour_probe(
    train: Sequence[ClipFeatures],
    test: Sequence[ClipFeatures] | None = None,
    *,
    config: NeighbourConfig = _DEFAULT,
) -> ProbeResult:
    """Names each clip of `test` by its nearest neighbours of `train`; a clip of several labels votes for each.

    `test` None: leave one out. Each clip is named by all others but those of its own file, which would give it away.
    Raises StoreError for clips without label, features that are not finite, or fewer than two classes.
    """
    alone = test is None
    judged = train if test is None else test
    sides = [np.stack([direction(clip) for clip in side]) if side else np.zeros((0, 0)) for side in (train, judged)]
    check_sides(sides[0], _labels(train), sides[1], _labels(judged))
    classes = sorted({label for clip in train for label in clip.labels})
    member = np.array([[name in clip.labels for name in classes] for clip in train], dtype=np.float64)
    barred = None
    if alone:
        numbers = {path: number for number, path in enumerate(dict.fromkeys(clip.path for clip in train))}
        if len(numbers) < 2:
            raise StoreError(f"all clips are of {train[0].path}; leaving one out needs clips of at least two files")
        barred = np.array([numbers[clip.path] for clip in train])
    votes = neighbour_votes(sides[0], member, sides[1], config=config, barred=barred)
    return score_probe(
        votes,
        classes,
        [clip.labels for clip in train],
        [clip.labels for clip in judged],
        protocol={
            "probe": "k nearest neighbours by cosine",
            "feature_width": int(sides[0].shape[1]),
            "settings": asdict(config),
            "neighbours": "all other clips but those of the same file" if alone else "the training clips",
        },
    )


def _labels(clips: Sequence[ClipFeatures]) -> np.ndarray:
    return np.array([clip.label for clip in clips], dtype=str)


def direction(clip: ClipFeatures) -> np.ndarray:
    """float32 (D,): the mean over the clip's windows; of both modalities each at unit length, so that both count."""
    parts = [part.mean(axis=0) for part in (clip.visual, clip.audio) if part is not None]
    return np.concatenate([part / max(float(np.linalg.norm(part)), 1e-12) for part in parts])


def neighbour_votes(
    train: np.ndarray,
    member: np.ndarray,
    judged: np.ndarray,
    *,
    config: NeighbourConfig = _DEFAULT,
    barred: np.ndarray | None = None,
) -> np.ndarray:
    """float64 (q, C): weight of the votes for each class, from features (n, D), classes (n, C) and features (q, D).

    `barred` int (n,), where both are the same clips: those with the same number do not vote for one another. Of equally
    near neighbours the earlier ones vote. Weights are relative to the nearest's, so that no exponential overflows. The
    slow form is in the tests.
    """
    train, judged = _unit(train), _unit(judged)
    votes = np.zeros((len(judged), member.shape[1]))
    step = max(1, _BLOCK_VALUES // max(1, len(train)))
    for first in range(0, len(judged), step):
        similarity = judged[first : first + step] @ train.T  # (block, n)
        if barred is not None:
            similarity[barred[first : first + step, None] == barred] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : config.k]
        cosine = np.take_along_axis(similarity, nearest, axis=1)  # (block, k)
        weight = np.isfinite(cosine).astype(np.float64)
        if config.temperature is not None:
            weight = np.exp((cosine - cosine[:, :1]) / config.temperature)  # exp(-inf) = 0: the barred
        votes[first : first + step] = np.einsum("bk,bkc->bc", weight, member[nearest])
    return votes


def _unit(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
