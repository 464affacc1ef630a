"""What a probe scored, beside what would be had without features; and what can be probed at all. n clips."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lookhear.errors import StoreError
from lookhear.tasks.metrics import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What a probe scored on clips that it did not learn from. Shares are fractions 0..1."""

    accuracy: float
    accuracy_ci95: tuple[float, float]  # bootstrap over test clips
    chance: float  # a class of the training side drawn at random
    majority: float  # always naming the class that is most frequent in training
    classes: tuple[str, ...]  # of the training side, sorted
    train_clips: int
    test_clips: int
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


def score_probe(
    predicted: Sequence[str],
    train_labels: Sequence[tuple[str, ...]],
    test_labels: Sequence[tuple[str, ...]],
    *,
    protocol: dict[str, Any],
) -> ProbeResult:
    """The result of a probe that named one label for each test clip: right if the clip has it."""
    right = np.array([name in labels for name, labels in zip(predicted, test_labels, strict=True)])
    counts = Counter(label for labels in train_labels for label in labels)
    most_frequent = min(counts, key=lambda label: (-counts[label], label))
    unseen = sorted({label for labels in test_labels for label in labels} - counts.keys())
    return ProbeResult(
        accuracy=float(right.mean()),
        accuracy_ci95=bootstrap_interval(right),
        chance=1.0 / len(counts),
        majority=float(np.mean([most_frequent in labels for labels in test_labels])),
        classes=tuple(sorted(counts)),
        train_clips=len(train_labels),
        test_clips=len(test_labels),
        protocol=protocol | {"test_labels_unseen_in_training": unseen},
    )


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
