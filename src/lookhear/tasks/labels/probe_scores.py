"""What a probe scored, beside what would be had without features; and what can be probed at all. n clips."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lookhear.errors import StoreError
from lookhear.tasks.labels.features import ClipFeatures
from lookhear.tasks.labels.metrics import pool_rounds
from lookhear.tasks.metrics import average_precision, bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe scored on clips that it did not learn from. Shares are fractions 0..1."""

    accuracy: float
    accuracy_ci95: tuple[float, float]  # bootstrap over test clips
    mean_average_precision: float | None  # over classes that a test clip has; None where there is none
    chance: float  # a class of the training side drawn at random
    majority: float  # always naming the class that is most frequent in training
    classes: tuple[str, ...]  # of the training side, sorted
    train_clips: int
    test_clips: int
    protocol: dict[str, Any]
    right: tuple[bool, ...]  # which test clips were named right, in their order; not part of to_dict
    per_stage: Mapping[str, float] = field(
        default_factory=dict
    )  # accuracy of each stage alone, where stages are probed

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single clips, ready for JSON."""
        record = asdict(self)
        del record["right"]
        if not self.per_stage:
            del record["per_stage"]
        return record


@dataclass(frozen=True, kw_only=True)
class RoundsResult:
    """What a probe scored in several rounds, such as folds: each learned from and judged on splits of its own."""

    accuracy: float  # the mean over rounds
    accuracy_ci95: tuple[float, float]  # bootstrap over clips, each with all the rounds that judged it
    mean_average_precision: float | None  # means over rounds, these too
    chance: float
    majority: float
    test_clips: int  # judged in any round
    rounds: dict[str, ProbeResult]  # by the splits that are judged
    per_stage: dict[str, float]  # means over rounds
    protocol: dict[str, Any]  # of all rounds; what was chosen in one stands in its own

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single clips, ready for JSON."""
        record = asdict(self)
        record["rounds"] = {name: own.to_dict() for name, own in self.rounds.items()}
        for own in record["rounds"].values():
            own["classes"] = len(own["classes"])
        if not self.per_stage:
            del record["per_stage"]
        return record


def join_rounds(
    rounds: Mapping[str, ProbeResult], clip_ids: Mapping[str, Sequence[str]], protocol: dict[str, Any]
) -> RoundsResult:
    """One result of all `rounds`; `clip_ids` says which test clips each judged, in order."""
    pooled = pool_rounds((clip_ids[name], own.right) for name, own in rounds.items())
    found = list(rounds.values())
    return RoundsResult(
        accuracy=float(np.mean([own.accuracy for own in found])),
        accuracy_ci95=pooled.accuracy_ci95,
        mean_average_precision=_mean([own.mean_average_precision for own in found]),
        chance=float(np.mean([own.chance for own in found])),
        majority=float(np.mean([own.majority for own in found])),
        test_clips=pooled.num_judged,
        rounds=dict(rounds),
        per_stage={name: float(np.mean([own.per_stage[name] for own in found])) for name in found[0].per_stage},
        protocol=protocol,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def columns(decision: np.ndarray) -> np.ndarray:
    """float (n, C) of what scikit-learn's linear models say: of two classes one number, above 0 for the second."""
    return np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision


def score_probe(
    scores: np.ndarray,
    classes: Sequence[str],
    train_labels: Sequence[tuple[str, ...]],
    test_labels: Sequence[tuple[str, ...]],
    *,
    protocol: dict[str, Any],
) -> ProbeResult:
    """The result of a probe that gave each test clip scores (n, C): right if the clip has the highest class.

    Of equally high classes the first is named. `classes` are those of the training side, sorted.
    """
    target = np.array([[name in labels for name in classes] for labels in test_labels])
    right = target[np.arange(len(target)), scores.argmax(axis=1)]
    precision = average_precision(target, scores)
    counts = Counter(label for labels in train_labels for label in labels)
    most_frequent = min(counts, key=lambda label: (-counts[label], label))
    unseen = sorted({label for labels in test_labels for label in labels} - counts.keys())
    return ProbeResult(
        accuracy=float(right.mean()),
        accuracy_ci95=bootstrap_interval(right),
        mean_average_precision=None if np.isnan(precision).all() else float(np.nanmean(precision)),
        chance=1.0 / len(counts),
        majority=float(np.mean([most_frequent in labels for labels in test_labels])),
        classes=tuple(classes),
        train_clips=len(train_labels),
        test_clips=len(test_labels),
        protocol=protocol | {"test_labels_unseen_in_training": unseen},
        right=tuple(right.tolist()),
    )


def check_one_label(clips: Sequence[ClipFeatures], probe: str) -> None:
    """Raises StoreError where a clip has several labels, which `probe` cannot learn, or no windows."""
    several = sum(len(clip.labels) > 1 for clip in clips)
    if several:
        raise StoreError(
            f"{several} clips have several labels and {probe} tells one; use the attention probe or nearest neighbours"
        )
    if any(not len(clip.steps) for clip in clips):
        raise StoreError("a clip has no windows; leave it out")


def check_sides(
    train_features: np.ndarray, train_labels: np.ndarray, test_features: np.ndarray, test_labels: np.ndarray
) -> None:
    """Raises StoreError unless a probe can be trained on the one side and scored on the other."""
    for side, features, labels in (("training", train_features, train_labels), ("test", test_features, test_labels)):
        if not len(labels):
            raise StoreError(f"the {side} side has no clips; choose another split")
        if len(features) != len(labels):
            raise StoreError(
                f"the {side} side has {len(features)} features and {len(labels)} labels; it needs one label a clip"
            )
        unlabelled = int((labels == "").sum())
        if unlabelled:
            raise StoreError(
                f"{unlabelled} of {len(labels)} clips of the {side} side have no label; a probe needs one for each: "
                "prepare the store with labels, or choose labelled clips"
            )
        if not np.isfinite(features).all():
            raise StoreError(f"features of the {side} side are not finite; check the checkpoint that made them")
    if train_features.shape[1:] != test_features.shape[1:]:
        raise StoreError(
            f"the sides have features of {train_features.shape[1:]} and {test_features.shape[1:]}; "
            "make both with the same model and modality"
        )
    if len(set(train_labels.tolist())) < 2:
        raise StoreError(f"all training clips are '{train_labels[0]}'; a probe needs at least two classes")
