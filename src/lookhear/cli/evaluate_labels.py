"""Measuring what a checkpoint knows of labels: a fine-tuned classifier, or a probe on frozen features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookhear.cli.arguments import kinds_of, several_labels
from lookhear.cli.results import give_result
from lookhear.console import show_progress


@dataclass(frozen=True, kw_only=True)
class EvaluateClassification:
    """How well does a fine-tuned checkpoint name the clips? mAP, ROC area, d-prime, accuracy, and every class."""

    model: str
    """A fine-tuned checkpoint or a run folder."""
    store: Path
    """Labelled clips."""
    split: str | None = None
    """Judge only the clips of this split."""
    mode: Literal["both", "audio", "visual", "audio_of_both", "visual_of_both"] | None = None
    """What is read of a clip; default: what the checkpoint reads."""
    frames: Literal["ten", "one"] = "ten"
    """How many pictures of each window are shown, one after the other; their probabilities are averaged."""
    multi_label: bool = False
    """Judge every label by itself (sigmoid). Default: what the checkpoint learned, or else as the store has labels."""
    single_label: bool = False
    """Labels share one probability (softmax)."""
    classes: Path | None = None
    """A label CSV as published (index,mid,display_name), for checkpoints that do not name their classes."""
    json: bool = False
    """Print everything as JSON, the list of clips too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, names of the clips, clips left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.lists import read_classes
        from lookhear.data.store import Store
        from lookhear.tasks.labels.classification import evaluate_classification

        store = Store(self.store)
        labels = {label for row in store.manifest for label in row.labels}
        with show_progress("clips") as progress:
            result = evaluate_classification(
                embedder.load(self.model),
                store,
                split=self.split,
                mode=self.mode,
                frames=self.frames,
                multi_label=several_labels(self.multi_label, self.single_label),
                classes=read_classes(self.classes).as_written(labels) if self.classes else None,
                progress=progress,
            )
        give_result("classification", result.to_dict(), as_json=self.json, out=self.out)


@dataclass(frozen=True, kw_only=True)
class EvaluateProbe:
    """How much do frozen features tell of the labels? Trains a small head on one split and judges it on another."""

    model: str
    """A checkpoint or a run folder."""
    store: Path
    """Labelled clips in splits."""
    probe: Literal["linear", "attention"] = "linear"
    """linear: logistic regression on each clip's mean; attention: a small transformer over its windows."""
    modality: Literal["audio", "visual", "both"] = "both"
    """What the features are of."""
    train_split: str = "train"
    """The head learns from this split."""
    validation_split: str | None = None
    """The attention probe's epoch is chosen on this one; default: a fifth of the training split, held out."""
    test_split: str = "test"
    """The head is judged on this one, once."""
    truth: Path | None = None
    """A folder with truth.jsonl: the kinds of made scenes, in the place of labels."""
    seed: int = 0
    """Of everything that is drawn."""
    json: bool = False
    """Print everything as JSON, the list of clips too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, how many clips were left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.labels.probes import evaluate_probe

        with show_progress("clips") as progress:
            result = evaluate_probe(
                embedder.load(self.model),
                Store(self.store),
                probe=self.probe,
                modality=self.modality,
                train_split=self.train_split,
                validation_split=self.validation_split,
                test_split=self.test_split,
                kinds=kinds_of(self.truth),
                seed=self.seed,
                progress=progress,
            )
        give_result("probe", result.to_dict(), as_json=self.json, out=self.out)
