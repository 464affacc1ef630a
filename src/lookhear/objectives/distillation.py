"""Distillation: a student learns what a teacher says of the same windows, at any level.

Listen to Look (Gao et al., CVPR 2020, eq. 3.1-3.3) teaches a picture and a sound what a clip network says: its features
and its soft labels. Stages in between can be matched too: as they are (Romero et al., FitNets, ICLR 2015), by where
they are active (Zagoruyko and Komodakis, attention transfer, ICLR 2017), or by what a small head can name from them.

R windows, F width of features, C classes or channels, h x w cells of a map.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.sampling import HOP_SECONDS
from lookhear.errors import ConfigError
from lookhear.models.stream_classifier import StreamClassifier
from lookhear.objectives.step import Objective, Step
from lookhear.objectives.teachers import (
    Remembered,
    StreamName,
    Teacher,
    View,
    mean_over,
    modalities_read,
    open_teacher,
    stage_channels,
    student_view,
)


@dataclass(frozen=True, kw_only=True)
class StageMatch:
    """One stage of an encoder of the student that learns from one of the teacher."""

    student: StreamName = "visual"
    """the encoder of the student"""
    teacher: StreamName = "visual"
    """the encoder of the teacher"""
    student_stage: int = -1
    """which of its stages, from 0, or from the end below 0"""
    teacher_stage: int = -1
    """which of the teacher's"""
    how: Literal["l2", "attention", "soft_labels"] = "l2"
    """l2: the maps, their channels fitted; attention: where they are active; soft_labels: what a head reads of them"""
    weight: float = 1.0
    """of this loss"""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"the weight of {self.name} is {self.weight}; it must be above 0, or leave the match out")
        if self.how == "attention" and self.student != self.teacher:
            raise ConfigError(
                f"{self.name} compares places of a spectrogram with places of a picture, which are not the same; "
                "take l2, which averages over places, or soft_labels"
            )

    @property
    def name(self) -> str:
        """What its loss is called in the journal."""
        stage = self.student_stage if self.student_stage >= 0 else f"last{self.student_stage + 1 or ''}"
        return f"{self.student}_stage_{stage}_{self.how}"


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Distillation into a StreamClassifier; the defaults are Listen to Look's losses."""

    needs_labels = False  # clips without a label are learned from as well

    teacher: str = ""
    """a checkpoint, a run folder, or a folder of features: of `lookhear embed`, or .npy files"""
    teacher_stream: StreamName = "visual"
    """whose features are taken, where a teacher has two"""
    teacher_logits: str | None = None
    """a folder of .npy logits beside a folder of features; null: the teacher is a model, or logits are not learned"""
    features_weight: float = 1.0
    """of the distance of features; 0: they are not learned"""
    features_loss: Literal["l1", "l2"] = "l1"
    """l1: published; l2: squared"""
    features_reduction: Literal["mean", "sum"] = "mean"
    """over the F numbers of a feature; the paper's equation is a sum, which is F times as much"""
    logits_weight: float = 0.2
    """lambda: of the cross-entropy with the teacher's soft labels; 0: they are not learned"""
    temperature: float = 1.0
    """both logits are divided by it; published: 1"""
    labels_weight: float = 0.0
    """of the cross-entropy with the labels of the clips, where they have some"""
    stages: tuple[StageMatch, ...] = ()
    """stages in between that are matched too"""

    def __post_init__(self) -> None:
        weights = (self.features_weight, self.logits_weight, self.labels_weight)
        problems = []
        if min(weights) < 0 or not (sum(weights) or self.stages):
            problems.append("features_weight, logits_weight and labels_weight must be 0 or more, and something learned")
        if self.temperature <= 0:
            problems.append(f"temperature is {self.temperature}; it must be above 0")
        names = [match.name for match in self.stages]
        if len(set(names)) < len(names):
            problems.append("two matches of stages are of the same stage in the same way")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def sources(self) -> dict[StreamName, str]:
        """Where the teacher is, by the modality whose features are taken."""
        return {self.teacher_stream: self.teacher}

    @property
    def reads(self) -> frozenset[StreamName]:
        """The modalities that the teacher reads: a run must give it these."""
        return modalities_read(self.teacher, self.teacher_stream)

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> "Distillation":
        """The objective for the student `model`. Raises ConfigError for another model, or a teacher that lacks what
        is to be learned or names other classes."""
        if not isinstance(model, StreamClassifier):
            raise ConfigError(f"a student is a stream_classifier, not a {type(model).__name__}; take such a model")
        teacher = open_teacher(
            self.teacher,
            window_seconds=model.config.encoder.audio_frames * HOP_SECONDS,
            stream=self.teacher_stream,
            logits=self.teacher_logits,
        )
        return Distillation(self, model, teacher)


class Distillation(Objective):
    """Terms: features, logits, labels, and one for each matched stage (those with a weight).

    Report: divergence, the Kullback-Leibler divergence that `logits` is but for the teacher's entropy, a constant;
    agreement, how often student and teacher name the same class; with labels, accuracy of both.
    """

    def __init__(self, config: DistillationConfig, model: StreamClassifier, teacher: Teacher) -> None:
        super().__init__()
        self.config = config
        self._teacher = (teacher,)  # a tuple, so that it is no submodule: see teachers.py
        self.teacher_state = Remembered({"teacher": teacher})
        own, theirs = model.config.features_width, teacher.features_width
        needs_logits = config.logits_weight > 0 or any(match.how == "soft_labels" for match in config.stages)
        if config.features_weight and not theirs:
            raise ConfigError("the teacher gives no features; set objective.features_weight to 0, or name another one")
        if needs_logits and not teacher.num_classes:
            raise ConfigError(
                "the teacher gives no logits; set objective.logits_weight to 0, or name files in teacher_logits"
            )
        if needs_logits and teacher.num_classes != model.config.num_classes:
            raise ConfigError(
                f"the teacher names {teacher.num_classes} classes and the student {model.config.num_classes}; set "
                f"model.num_classes to {teacher.num_classes}"
            )
        fits = own == theirs or not config.features_weight
        self.fit = nn.Identity() if fits else nn.Linear(own, theirs)
        channels = stage_channels(model.config.encoder)
        self.stages = nn.ModuleDict(
            {
                match.name: _fit_stage(match, channels, teacher.stage_channels, num_classes=model.config.num_classes)
                for match in config.stages
            }
        )

    def forward(self, model: nn.Module, batch: Batch, draws: Draws) -> Step:
        """The losses on every window of the batch, against the teacher's view of it."""
        assert isinstance(model, StreamClassifier)
        config, deep = self.config, bool(self.stages)
        student = student_view(model, batch, stages=deep)
        teacher = self._teacher[0].view(batch, draws, stages=deep)
        assert student.features is not None
        assert student.logits is not None
        terms: dict[str, Tensor] = {}
        report: dict[str, Tensor] = {}
        with torch.autocast(student.logits.device.type, enabled=False):
            if config.features_weight:
                assert teacher.features is not None
                distance = self._distance(self.fit(student.features.float()), teacher.features.float())
                terms["features"] = config.features_weight * mean_over(distance, teacher.present)
            if teacher.logits is not None:
                soft, hard = self._soft_labels(student.logits, teacher.logits, teacher.present)
                if config.logits_weight:
                    terms["logits"] = config.logits_weight * soft
                report |= hard
            for match in config.stages:
                terms[match.name] = match.weight * self._stage(match, student, teacher)
            if config.labels_weight:
                terms["labels"] = config.labels_weight * _labels_loss(student.logits, batch.labels)
        if batch.labels is not None and batch.labels.shape[1] == student.logits.shape[1]:
            report["accuracy"] = _accuracy(student.logits, batch.labels)
            if teacher.logits is not None:
                report["teacher_accuracy"] = _accuracy(teacher.logits, batch.labels)
        return Step.of(terms, report)

    def _distance(self, own: Tensor, theirs: Tensor) -> Tensor:
        """(R,)"""
        difference = own - theirs
        each = difference.abs() if self.config.features_loss == "l1" else difference.square()
        return each.mean(dim=1) if self.config.features_reduction == "mean" else each.sum(dim=1)

    def _soft_labels(self, own: Tensor, theirs: Tensor, present: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy with the teacher's probabilities (times the temperature squared), and what is reported."""
        heat = self.config.temperature
        target = (theirs.float() / heat).softmax(dim=1)
        loss = mean_over(F.cross_entropy(own.float() / heat, target, reduction="none"), present) * heat**2
        least = mean_over(torch.special.entr(target).sum(dim=1), present) * heat**2
        same = mean_over((own.argmax(dim=1) == theirs.argmax(dim=1)).float(), present)
        return loss, {"divergence": loss - least, "agreement": same}

    def _stage(self, match: StageMatch, student: View, teacher: View) -> Tensor:
        own = _flat(student.stages[match.student][match.student_stage])  # (R, C, h, w)
        fit = self.stages[match.name]
        if match.how == "soft_labels":
            assert teacher.logits is not None
            logits = fit(own.mean(dim=(2, 3)))
            return mean_over(
                F.cross_entropy(logits, teacher.logits.float().softmax(dim=1), reduction="none"), teacher.present
            )
        theirs = _flat(teacher.stages[match.teacher][match.teacher_stage])
        if match.how == "attention":
            return mean_over(attention_distance(own, theirs), teacher.present)
        if match.student != match.teacher:  # places of one modality are not those of the other
            own, theirs = own.mean(dim=(2, 3), keepdim=True), theirs.mean(dim=(2, 3), keepdim=True)
        own, theirs = _same_grid(fit(own), theirs)
        return mean_over((own - theirs).square().mean(dim=(1, 2, 3)), teacher.present)


def _fit_stage(
    match: StageMatch,
    own: Mapping[str, tuple[int, ...]],
    theirs: Mapping[str, tuple[int, ...]],
    *,
    num_classes: int,
) -> nn.Module:
    """What brings the student's stage to what it is compared with. Raises ConfigError for a stage that there is not."""
    sides = [("student", match.student, match.student_stage, own)]
    if match.how != "soft_labels":
        sides.append(("teacher", match.teacher, match.teacher_stage, theirs))
    found = []
    for who, stream, stage, channels in sides:
        count = len(channels.get(stream, ()))
        if not -count <= stage < count:
            raise ConfigError(
                f"{match.name} is of stage {stage} of the {who}'s {stream} encoder, which has {count or 'no'} stages"
            )
        found.append(channels[stream][stage])
    if match.how == "soft_labels":
        return nn.Linear(found[0], num_classes)
    fits = match.how == "attention" or found[0] == found[1]
    return nn.Identity() if fits else nn.Conv2d(found[0], found[1], 1)


def attention_distance(own: Tensor, theirs: Tensor) -> Tensor:
    """(R,): how differently two stages (R, C, h, w) spread their activity over places.

    A map is the mean of the squares over channels, brought to the coarser grid and to length 1; the distance is the
    squared length of the difference of the two.
    """
    own, theirs = _same_grid(own.square().mean(dim=1, keepdim=True), theirs.square().mean(dim=1, keepdim=True))
    maps = [F.normalize(part.flatten(1), dim=1) for part in (own, theirs)]
    return (maps[0] - maps[1]).square().sum(dim=1)


def _same_grid(own: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both (R, C, h, w), averaged down to the coarser of the two grids."""
    height, width = (min(own.shape[axis], theirs.shape[axis]) for axis in (2, 3))
    return F.adaptive_avg_pool2d(own, (height, width)), F.adaptive_avg_pool2d(theirs, (height, width))


def _flat(maps: Tensor) -> Tensor:
    """float32 (R, C, h, w): the mean over time of maps that have one."""
    return (maps.mean(dim=2) if maps.ndim == 5 else maps).float()


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of windows whose highest logit is a label of the clip, of those with a label."""
    rows = _rows(labels, logits)
    known = rows.any(dim=1)
    right = rows.gather(1, logits.detach().argmax(dim=1, keepdim=True))[:, 0] > 0
    return mean_over(right.float(), known)


def _labels_loss(logits: Tensor, labels: Tensor | None) -> Tensor:
    """Cross-entropy with the labels (shared evenly, where a clip has several) of the clips that have one."""
    if labels is None:
        raise ConfigError("there are no labels to learn; prepare the store with --labels, or set labels_weight to 0")
    rows = _rows(labels, logits)
    target = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
    return mean_over(F.cross_entropy(logits.float(), target, reduction="none"), rows.any(dim=1))


def _rows(labels: Tensor, logits: Tensor) -> Tensor:
    """(R, C) of the labels (B, C) of the clips."""
    return labels.repeat_interleave(len(logits) // len(labels), dim=0)
