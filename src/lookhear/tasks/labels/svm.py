"""One-vs-rest linear support vector machines on frozen features: the probe of sounds and scenes in AVID and others.

n clips, M windows of all of them, D width, C classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lookhear.errors import ConfigError
from lookhear.tasks.labels.features import ClipFeatures
from lookhear.tasks.labels.folds import training_folds, without_folds
from lookhear.tasks.labels.probe_scores import ProbeResult, check_one_label, check_sides, columns, score_probe


@dataclass(frozen=True, kw_only=True)
class SVMConfig:
    """Training of the machines; iterations, floor and hinge loss are AVID's, whose C is 10 for ESC-50, 1 for DCASE."""

    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """values of C that are tried by cross-validation on the training side; one alone is taken as it is"""
    iterations: int = 200
    """at most, of the solver"""
    deviation_floor: float = 0.01
    """added to the deviation of each feature, which it is divided by"""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"strengths are {self.strengths}; name at least one value of C, above 0")
        if self.iterations < 1 or self.deviation_floor <= 0:
            raise ConfigError("iterations must be at least 1 and deviation_floor above 0")


_DEFAULT = SVMConfig()


def svm_probe(
    train: Sequence[ClipFeatures],
    test: Sequence[ClipFeatures],
    *,
    parts: Sequence[str] | None = None,
    config: SVMConfig = _DEFAULT,
    seed: int = 0,
) -> ProbeResult:
    """A linear machine for each class, learned on every window of `train`; a clip is the mean of its decision values.

    Features are standardised with mean and deviation of the training windows. C is chosen by cross-validation within
    the training side: over `parts` (n,) where they are at least two (official folds), otherwise with clips of one file
    together. Raises StoreError for clips without windows, without label or with several, and for one class only.
    """
    check_one_label([*train, *test], "an SVM")
    labels = np.array([clip.label for clip in train], dtype=str)
    means = [_means(train), _means(test)]
    check_sides(means[0], labels, means[1], np.array([clip.label for clip in test], dtype=str))
    scores: dict[float, float] = {}
    chosen_by = "given"
    if len(config.strengths) > 1:
        paths = np.array([clip.path for clip in train])
        folds = training_folds(labels, paths, parts=None if parts is None else np.array(parts), seed=seed)
        chosen_by = folds.description
        if len(folds):
            scores = {
                strength: float(
                    np.mean([_held_out(train, labels, pair, strength, config, seed) for pair in folds.pairs])
                )
                for strength in sorted(config.strengths)
            }
    # of equally good values the first, which is the strongest pull to zero
    chosen = max(scores, key=lambda strength: scores[strength]) if scores else without_folds(config.strengths)
    machine = _Machine(train, labels, chosen, config, seed)
    return score_probe(
        machine.scores(test),
        machine.classes,
        [clip.labels for clip in train],
        [clip.labels for clip in test],
        protocol={
            "probe": "standardised features, one-vs-rest linear SVM, hinge loss, decision values averaged over windows",
            "feature_width": int(means[0].shape[1]),
            "training_windows": sum(len(clip.steps) for clip in train),
            "settings": asdict(config),
            "regularisation_c": chosen,
            "chosen_by": chosen_by,
            "cross_validation_accuracy": scores.get(chosen),
            "converged": machine.converged,
            "seed": seed,
        },
    )


def _means(clips: Sequence[ClipFeatures]) -> np.ndarray:
    return np.stack([clip.steps.mean(axis=0) for clip in clips]) if clips else np.zeros((0, 0))


def _held_out(
    clips: Sequence[ClipFeatures],
    labels: np.ndarray,
    pair: tuple[np.ndarray, np.ndarray],
    strength: float,
    config: SVMConfig,
    seed: int,
) -> float:
    """The share of held-out clips that are named right by what was learned from the others."""
    learned, held = pair
    machine = _Machine([clips[number] for number in learned], labels[learned], strength, config, seed)
    named = np.array(machine.classes)[machine.scores([clips[number] for number in held]).argmax(axis=1)]
    return float(np.mean(named == labels[held]))


class _Machine:
    """Learned from the windows of some clips with their labels."""

    def __init__(
        self, clips: Sequence[ClipFeatures], labels: np.ndarray, strength: float, config: SVMConfig, seed: int
    ) -> None:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        joined = np.concatenate([clip.steps for clip in clips]).astype(np.float64)  # (M, D)
        self._mean, self._deviation = joined.mean(axis=0), joined.std(axis=0) + config.deviation_floor
        self._machine: Any = LinearSVC(
            loss="hinge", dual=True, C=strength, max_iter=config.iterations, random_state=seed
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            self._machine.fit(self._standardised(joined), np.repeat(labels, [len(clip.steps) for clip in clips]))
        self.converged = not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)

    def _standardised(self, values: np.ndarray) -> np.ndarray:
        return (values - self._mean) / self._deviation

    @property
    def classes(self) -> tuple[str, ...]:
        """All of the training side, sorted."""
        return tuple(self._machine.classes_.tolist())

    def scores(self, clips: Sequence[ClipFeatures]) -> np.ndarray:
        """float64 (n, C): the mean decision value of each clip's windows."""
        decisions = [columns(self._machine.decision_function(self._standardised(clip.steps))) for clip in clips]
        return np.stack([own.mean(axis=0) for own in decisions])
