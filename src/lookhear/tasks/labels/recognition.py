"""Whole files named by classifiers, by the protocol of a data set: action recognition, and sounds and scenes alike.

The number of the literature is video@1: probabilities of several windows ("clips") of a file are averaged, and the
highest class must be its label. Data sets with several official splits are judged by a model for each, and averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.config import finite
from lookhear.errors import ConfigError
from lookhear.models.classifier import Mode
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.classification import ClassificationResult, Frames, evaluate_classification
from lookhear.tasks.labels.metrics import pool_rounds
from lookhear.tasks.labels.units import WindowChoice
from lookhear.tasks.learned import check_not_learned

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

TEN_WINDOWS = WindowChoice(unit="file", windows=10)


@dataclass(frozen=True, kw_only=True)
class RecognitionResult:
    """Means over splits, and the figures of each split. Shares are fractions 0..1."""

    accuracy: float  # video@1
    accuracy_ci95: tuple[float, float]  # bootstrap over files, each with all the splits that judged it
    accuracy_top5: float | None  # video@5; None where there are no more than five classes
    window_accuracy: float  # clip@1: of the same windows, each by itself
    mean_average_precision: float
    accuracy_chance: float
    accuracy_majority: float
    accuracy_of_splits: dict[str, float]
    files: int  # judged in any split
    protocol: dict[str, Any]
    splits: dict[str, ClassificationResult]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single files, ready for JSON; of each split's protocol what the others do not share."""
        splits = {name: own.to_dict() for name, own in self.splits.items()}
        for own in splits.values():
            own["protocol"] = {name: value for name, value in own["protocol"].items() if name not in self.protocol}
        values: dict[str, Any] = finite(vars(self) | {"splits": splits})
        return values


def evaluate_recognition(
    models: "Sequence[str | Path | Embedder]",
    store: "Store",
    *,
    splits: Sequence[str],
    choice: WindowChoice = TEN_WINDOWS,
    mode: Mode | None = None,
    frames: Frames = "one",
    multi_label: bool | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = quiet,
) -> RecognitionResult:
    """Judges a fine-tuned checkpoint on the files of each of `splits`, a model for each, and averages over splits.

    Models are loaded one after another. `choice` says by which windows a file is named; see `evaluate_classification`
    for the rest and for what is raised. Raises ConfigError for another number of models than of splits, and StoreError
    where a model learned from files of the same store that it is judged on.
    """
    if not splits or len(models) != len(splits) or len(set(splits)) < len(splits):
        raise ConfigError(
            f"{len(models)} models and the splits {', '.join(splits) or 'none'} do not fit: name a different split "
            "for each model, one that it did not learn from"
        )
    from lookhear.embedder import loaded_model

    found: dict[str, ClassificationResult] = {}
    for name, model in zip(splits, models, strict=True):
        embedder = loaded_model(model)
        check_not_learned(embedder, store, name)
        found[name] = evaluate_classification(
            embedder,
            store,
            split=name,
            mode=mode,
            frames=frames,
            multi_label=multi_label,
            classes=classes,
            choice=choice,
            progress=progress,
        )
    return _join(found)


def _join(found: dict[str, ClassificationResult]) -> RecognitionResult:
    results = list(found.values())
    top5 = [own.accuracy_top5 for own in results if own.accuracy_top5 is not None]
    windows = [own.window_accuracy for own in results if own.window_accuracy is not None]
    pooled = pool_rounds((own.clip_ids, own.right) for own in results)
    shared = {
        name: value
        for name, value in results[0].protocol.items()
        if all(own.protocol.get(name) == value for own in results)
    }
    return RecognitionResult(
        accuracy=float(np.mean([own.accuracy for own in results])),
        accuracy_ci95=pooled.accuracy_ci95,
        accuracy_top5=float(np.mean(top5)) if top5 else None,
        window_accuracy=float(np.mean(windows)),
        mean_average_precision=float(np.mean([own.mean_average_precision for own in results])),
        accuracy_chance=float(np.mean([own.accuracy_chance for own in results])),
        accuracy_majority=float(np.mean([own.accuracy_majority for own in results])),
        accuracy_of_splits={name: own.accuracy for name, own in found.items()},
        files=pooled.num_judged,
        protocol=shared,
        splits=found,
    )
