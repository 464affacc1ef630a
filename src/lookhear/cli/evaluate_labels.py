"""Measuring what a checkpoint knows of labels: a fine-tuned classifier, or a probe on frozen features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lookhear.cli.arguments import Set, kinds_of, several_labels
from lookhear.cli.results import give_result
from lookhear.config import override
from lookhear.console import show_progress
from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.tasks.labels.probes import ProbeResult, RoundsResult
    from lookhear.tasks.labels.units import WindowChoice


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
    """both: sound and picture together; audio, visual: one of them, in a model that learned it by itself;
    audio_of_both, visual_of_both: one of them, in a model that learned both. Default: what the checkpoint reads."""
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


ProtocolName = Literal["ucf101", "ucf51", "hmdb51", "kinetics", "activitynet", "esc50", "esc10", "dcase"]


def _choice(unit: Literal["clip", "file"] | None, windows: int | None, protocol: str | None) -> "WindowChoice":
    """The windows that are asked for, of the protocol where they are not."""
    from lookhear.tasks.labels.protocols import find_protocol
    from lookhear.tasks.labels.units import WindowChoice

    choice = WindowChoice() if protocol is None else find_protocol(protocol).choice
    if unit is not None:
        choice = replace(choice, unit=unit)
    return choice if windows is None else replace(choice, windows=windows or None)


@dataclass(frozen=True, kw_only=True)
class EvaluateVideo:
    """Which action, sound or scene is a whole file? video@1 of fine-tuned checkpoints: probabilities of windows of each
    file, averaged. Several models are judged on a split each, such as the three of UCF101, and their figures averaged.
    """

    model: tuple[str, ...]
    """Fine-tuned checkpoints or run folders, one for each split that is judged."""
    store: Path
    """Labelled files."""
    split: tuple[str, ...] = ()
    """The splits that are judged, one for each model; default: those of the protocol, or test."""
    protocol: ProtocolName | None = None
    """Splits and windows of this data set, and what was published beside what was done."""
    windows: int | None = None
    """So many of each file, evenly from beginning to end; 0: all that fit without overlap. Default: as the protocol
    says, or 10."""
    mode: Literal["both", "audio", "visual", "audio_of_both", "visual_of_both"] | None = None
    """both: sound and picture together; audio, visual: one of them, in a model that learned it by itself;
    audio_of_both, visual_of_both: one of them, in a model that learned both. Default: what the checkpoint reads."""
    frames: Literal["ten", "one"] = "one"
    """How many pictures of each window are shown to a model of single pictures, one after the other."""
    multi_label: bool = False
    """Judge every label by itself (sigmoid). Default: what the checkpoint learned, or else as the store has labels."""
    single_label: bool = False
    """Labels share one probability (softmax)."""
    classes: Path | None = None
    """A label CSV or a label map as published, for checkpoints that do not name their classes."""
    json: bool = False
    """Print everything as JSON, the list of files too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, names of the files, clips left out, the models' prints."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear.data.lists import read_classes
        from lookhear.data.store import Store
        from lookhear.tasks.labels.by_protocol import recognise_by_protocol
        from lookhear.tasks.labels.recognition import TEN_WINDOWS, evaluate_recognition

        store = Store(self.store)
        labels = {label for row in store.manifest for label in row.labels}
        windows = TEN_WINDOWS.windows if self.windows is None and self.protocol is None else self.windows
        judge = evaluate_recognition if self.protocol is None else partial(recognise_by_protocol, name=self.protocol)
        with show_progress("clips") as progress:
            result = judge(
                self.model,
                store,
                splits=self.split or (None if self.protocol else ("test",)),  # type: ignore[arg-type]
                choice=_choice("file", windows, self.protocol),
                mode=self.mode,
                frames=self.frames,
                multi_label=several_labels(self.multi_label, self.single_label),
                classes=read_classes(self.classes).as_written(labels) if self.classes else None,
                progress=progress,
            )
        give_result("video", result.to_dict(), as_json=self.json, out=self.out)


@dataclass(frozen=True, kw_only=True)
class EvaluateProbe:
    """How much do frozen features tell of the labels? Trains a small head on one split and judges it on another."""

    model: str
    """A checkpoint or a run folder."""
    store: Path
    """Labelled clips in splits."""
    probe: Literal["linear", "knn", "svm", "attention"] = "linear"
    """linear: logistic regression on each clip's mean; knn: the nearest clips by cosine vote; svm: one-vs-rest linear
    machines, decision values averaged over windows; attention: a small transformer over a clip's windows."""
    modality: Literal["audio", "visual", "both"] = "both"
    """What the features are of."""
    train_split: str | None = None
    """The head learns from this split; default: train. Named alone, or in a store without splits, knn leaves one out:
    each clip is named by all others but those of its own file."""
    validation_split: str | None = None
    """The attention probe's epoch is chosen on this one; default: a fifth of the training split, held out."""
    test_split: str | None = None
    """The head is judged on this one, once; default: test."""
    folds: tuple[str, ...] = ()
    """Instead: each of these splits is judged once and learned from in the other rounds; the mean is printed."""
    protocol: ProtocolName | None = None
    """Splits, windows and C of this data set, and what was published beside what was done."""
    unit: Literal["clip", "file"] | None = None
    """clip: stored clips are judged; file: all clips of a file are one. Default: as the protocol says, or clip."""
    windows: int | None = None
    """So many of each, evenly from beginning to end; 0: all that fit without overlap. Default: as the protocol says,
    or all that fit."""
    stages: tuple[int, ...] = ()
    """Probe the maps of the encoder's last stages, each pooled to so many rows and columns: 12 8 6 4 as published."""
    stage_pooling: Literal["mean", "max"] = "mean"
    """How stages are pooled."""
    truth: Path | None = None
    """A folder with truth.jsonl: the kinds of made scenes, in the place of labels."""
    seed: int = 0
    """Of everything that is drawn."""
    settings: Set = ()
    """Change a setting of the probe: k=5 and temperature=null of knn, strengths=[10] of svm and linear."""
    json: bool = False
    """Print everything as JSON, the list of clips too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, how many clips were left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.store import Store

        judge = self._judge()
        with show_progress("clips") as progress:
            result = judge(embedder.load(self.model), Store(self.store), progress=progress)
        give_result("probe", result.to_dict(), as_json=self.json, out=self.out)

    def _judge(self) -> "Callable[..., ProbeResult | RoundsResult]":
        """The evaluation that is asked for, but for model and store."""
        from lookhear.tasks.labels.by_protocol import probe_by_protocol
        from lookhear.tasks.labels.features import StageConfig
        from lookhear.tasks.labels.probes import CONFIGS, evaluate_probe, evaluate_rounds
        from lookhear.tasks.labels.protocols import folds

        named = self.train_split or self.validation_split or self.test_split
        if named and (self.folds or self.protocol):
            raise UserError("--folds and --protocol say what is learned from and judged; leave the splits out")
        options: dict[str, Any] = {
            "probe": self.probe,
            "modality": self.modality,
            "kinds": kinds_of(self.truth),
            "config": override(CONFIGS[self.probe](), self.settings) if self.settings else None,
            "choice": _choice(self.unit, self.windows, self.protocol),
            "stages": StageConfig(cells=self.stages, pooling=self.stage_pooling) if self.stages else None,
            "seed": self.seed,
        }
        if self.protocol is not None:
            rounds = folds(self.folds) if self.folds else None
            return partial(probe_by_protocol, name=self.protocol, rounds=rounds, **options)
        if self.folds:
            return partial(evaluate_rounds, rounds=folds(self.folds), **options)
        options |= {"train_split": self.train_split, "test_split": self.test_split}
        return partial(evaluate_probe, validation_split=self.validation_split, **options)
