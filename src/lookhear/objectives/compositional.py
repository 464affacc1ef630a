"""CCL: a clip network learns its labels beside teachers of sound and of single pictures, whose features are composed
with its own before they are compared with it.

Chen et al., "Distilling audio-visual knowledge by compositional contrastive learning", CVPR 2021, eq. 6.1-6.5 of the
report; where that and the published code differ, the code's reading is the default and the other a setting.

R windows, D width of the student's features, D' of a teacher's, C classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.sampling import HOP_SECONDS
from lookhear.errors import ConfigError
from lookhear.models.stream_classifier import StreamClassifier
from lookhear.models.transformer import initialise_linear
from lookhear.objectives.kernels import multi_positive_nce, same_label, symmetric_kl_of_rows
from lookhear.objectives.step import Objective, Step
from lookhear.objectives.teachers import (
    Remembered,
    StreamName,
    Teacher,
    mean_over,
    modalities_read,
    open_teacher,
    student_view,
)

Teachers = Literal["none", "audio", "image", "both"]


@dataclass(frozen=True, kw_only=True)
class CompositionalConfig:
    """Compositional contrastive learning of a StreamClassifier; the defaults are the published ones."""

    teachers: Teachers = "both"
    """who teaches; none: the labels alone, which is what a gain is counted from"""
    audio_teacher: str = ""
    """a checkpoint, a run folder, or a folder of features: one vector a file, or one a moment"""
    image_teacher: str = ""
    """the same; a model is shown one picture of each window, another one in every step"""
    composed: bool = True
    """whether a teacher is composed with the student; no: it is contrasted as it is, which is plain distillation"""
    audio_temperature: float = 0.5
    """what cosines with the sound's features are divided by"""
    image_temperature: float = 0.1
    """what cosines with the picture's features are divided by"""
    weight: float | None = None
    """of what the teachers say, for the student; null: 1 with one teacher and .5 with two"""
    contrast_weight: float = 1.0
    """of the class-aware contrastive terms"""
    divergence_weight: float = 1.0
    """of the divergence between what the student and the composition predict"""
    teacher_contrast: bool = True
    """whether composer and teacher are contrasted as well, for the composer"""
    share_ce_with_student: bool = False
    """whether the classification of the composition teaches the student too, as the report's eq. 6.1 reads"""
    negatives: Literal["all", "local"] = "all"
    """windows of all processes, or of this one alone"""

    def __post_init__(self) -> None:
        problems = []
        if min(self.audio_temperature, self.image_temperature) <= 0:
            problems.append("audio_temperature and image_temperature must be above 0")
        if min(self.weight or 0.0, self.contrast_weight, self.divergence_weight) < 0:
            problems.append("weight, contrast_weight and divergence_weight must be 0 or more")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def sources(self) -> dict[StreamName, str]:
        """Where the teachers are, by what they read."""
        places: dict[StreamName, str] = {"audio": self.audio_teacher, "visual": self.image_teacher}
        return {stream: places[stream] for stream in self.taught_by}

    @property
    def reads(self) -> frozenset[StreamName]:
        """The modalities that the teachers read: a run must give them these."""
        return frozenset().union(*(modalities_read(source, stream) for stream, source in self.sources.items()))

    @property
    def taught_by(self) -> tuple[StreamName, ...]:
        """The teachers: audio, and visual for that of pictures."""
        chosen: dict[str, tuple[StreamName, ...]] = {
            "none": (),
            "audio": ("audio",),
            "image": ("visual",),
            "both": ("audio", "visual"),
        }
        return chosen[self.teachers]

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> "Compositional":
        """The objective for the student `model`. Raises ConfigError for another model, classes or no teacher."""
        if not isinstance(model, StreamClassifier):
            raise ConfigError(f"a student is a stream_classifier, not a {type(model).__name__}; take such a model")
        if num_classes and num_classes != model.config.num_classes:
            raise ConfigError(
                f"model.num_classes is {model.config.num_classes} but there are {num_classes} labels; set it to "
                f"{num_classes}"
            )
        window_seconds = model.config.encoder.audio_frames * HOP_SECONDS
        found: dict[StreamName, Teacher] = {}
        for stream, source in self.sources.items():
            if not source:
                name = "audio_teacher" if stream == "audio" else "image_teacher"
                raise ConfigError(
                    f"objective.{name} names no teacher; name one, or choose others in objective.teachers"
                )
            found[stream] = open_teacher(source, window_seconds=window_seconds, stream=stream, picture="random")
        return Compositional(self, model, found)


class Composer(nn.Module):
    """A teacher's features moved towards the student's, and a classifier of the result.

    `x + W [x / |x| ; v / |v|] + b`: what is added to the teacher's own, un-normalised feature x is read from both at
    unit length. A teacher of another width is brought to the student's by a linear map first.
    """

    def __init__(self, teacher_width: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.adapt: nn.Module = nn.Identity() if teacher_width == width else nn.Linear(teacher_width, width)
        self.residual = nn.Linear(2 * width, width)
        self.head = nn.Linear(width, num_classes)
        self.apply(initialise_linear)

    def forward(self, taught: Tensor, student: Tensor) -> Tensor:
        """(R, D) of the adapted teacher's (R, D) and the student's (R, D)."""
        both = torch.cat([F.normalize(taught, dim=1), F.normalize(student, dim=1)], dim=1)
        return taught + self.residual(both)


class Compositional(Objective):
    """Terms: classification, of the student; for each teacher (audio, image) NAME_contrast and NAME_divergence, which
    the student and the composer learn from, and NAME_composer, which only the composer does. Report: accuracy of the
    student and of each composition.

    The published code gives the student's gradient of the composer's loss no way to the student: it is cleared. Here
    the composer's loss sees the student's features and logits without gradient, which is the same.
    """

    def __init__(
        self, config: CompositionalConfig, model: StreamClassifier, teachers: dict[StreamName, Teacher]
    ) -> None:
        super().__init__()
        self.config = config
        self._teachers = teachers  # no submodules: see teachers.py
        self.teacher_state = Remembered({f"{name} teacher": teacher for name, teacher in teachers.items()})
        self.weight = config.weight if config.weight is not None else 1.0 / max(1, len(teachers))
        width = model.config.features_width
        composers: dict[str, nn.Module] = {}
        for stream, teacher in teachers.items():
            if not teacher.features_width:
                raise ConfigError(f"the {stream} teacher gives no features, only logits; name an encoder or features")
            composers[stream] = Composer(teacher.features_width, width, model.config.num_classes)
        self.composers = nn.ModuleDict(composers)

    def forward(self, model: nn.Module, batch: Batch, draws: Draws) -> Step:
        """The losses of the student and of the composers. Raises ConfigError for a batch without labels."""
        assert isinstance(model, StreamClassifier)
        if batch.labels is None:
            raise ConfigError("there are no labels to learn; prepare the store with --labels, or name data.classes")
        student = student_view(model, batch)
        assert student.features is not None
        assert student.logits is not None
        with torch.autocast(student.logits.device.type, enabled=False):
            features, logits = student.features.float(), student.logits.float()
            labels = batch.labels.repeat_interleave(len(logits) // len(batch.labels), dim=0)  # (R, C)
            everyone = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
            terms = {"classification": _classification(logits, labels, everyone)}
            report = {"accuracy": _accuracy(logits, labels, everyone)}
            for stream, teacher in self._teachers.items():
                view = teacher.view(batch, draws)
                assert view.features is not None
                part = self._taught(stream, view.features.float(), view.present, features, logits, labels)
                terms |= part.terms
                report |= part.report
        return Step.of(terms, report)

    def _taught(
        self, stream: StreamName, raw: Tensor, present: Tensor, features: Tensor, logits: Tensor, labels: Tensor
    ) -> Step:
        """Everything that one teacher adds."""
        config, name = self.config, "audio" if stream == "audio" else "image"
        composer = self.composers[stream]
        assert isinstance(composer, Composer)
        taught = composer.adapt(raw)  # (R, D)
        still, still_logits = features.detach(), logits.detach()
        if not config.composed:
            composed, seen_by_composer = taught, taught
        else:
            composed, seen_by_composer = composer(taught, features), composer(taught, still)
        named, named_by_composer = composer.head(composed), composer.head(seen_by_composer)

        def contrast(one: Tensor, other: Tensor) -> Tensor:
            return self._contrast(one, other, labels, present, stream)

        student_contrast = contrast(features, composed)
        composer_contrast = contrast(still, seen_by_composer)
        if config.composed:
            student_contrast = student_contrast + contrast(features, taught)
            if config.teacher_contrast:
                composer_contrast = composer_contrast + contrast(seen_by_composer, taught)
        classified = named if config.share_ce_with_student else named_by_composer
        terms = {
            f"{name}_contrast": self.weight * config.contrast_weight * student_contrast,
            f"{name}_divergence": self.weight * config.divergence_weight * _divergence(logits, named, present),
            f"{name}_composer": _classification(classified, labels, present)
            + config.contrast_weight * composer_contrast
            + config.divergence_weight * _divergence(still_logits, named_by_composer, present),
        }
        return Step.of(terms, {f"{name}_accuracy": _accuracy(named, labels, present)})

    def _contrast(self, one: Tensor, other: Tensor, labels: Tensor, present: Tensor, stream: StreamName) -> Tensor:
        """Both directions of the class-aware contrast of two features (R, D), of the windows that the teacher knows."""
        temperature = self.config.audio_temperature if stream == "audio" else self.config.image_temperature
        rows = [F.normalize(one, dim=1), F.normalize(other, dim=1), labels, present.float()[:, None]]
        if self.config.negatives == "all":
            rows = [distributed.all_gather(part.contiguous()) for part in rows]
        known = rows[3][:, 0] > 0
        one, other, labels = (part[known] for part in rows[:3])
        if not len(one):
            return (rows[0].sum() + rows[1].sum()) * 0
        scores = one @ other.T / temperature  # (R, R)
        positive = same_label(labels)
        return multi_positive_nce(scores, positive) + multi_positive_nce(scores.T, positive)


def _classification(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy with the labels (R, C), shared evenly where a clip has several."""
    target = labels / labels.sum(dim=1, keepdim=True).clamp(min=1)
    return mean_over(F.cross_entropy(logits, target, reduction="none"), present)


def _accuracy(logits: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    right = labels.gather(1, logits.detach().argmax(dim=1, keepdim=True))[:, 0] > 0
    return mean_over(right.float(), present)


def _divergence(logits: Tensor, composed: Tensor, present: Tensor) -> Tensor:
    """Half the Jeffreys divergence of the two predictions (the published code calls it Jensen-Shannon's)."""
    return mean_over(symmetric_kl_of_rows(logits, composed), present)
