"""SSCL: sound and picture teach each other in turns, each stage first the teacher alone, then both.

Zhang et al., "Enhancing audio-visual association with self-supervised curriculum learning", AAAI 2021. There is no
public code and the paper's text was not at hand: what the equations leave open is a field, with the reading that was
taken for the default.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from lookhear.errors import ConfigError
from lookhear.objectives.contrast_table import Contrast, Phase, Side, weighted
from lookhear.objectives.instance_discrimination import InstanceDiscrimination, Loss, check_settings
from lookhear.objectives.keys import BankKeys

JointMode = Literal["teacher_self", "literal", "live_positive", "symmetric"]


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Two stages of two phases: I.a pictures alone, I.b both; II.a sound alone, II.b both."""

    phase_epochs: tuple[int, int, int, int] = (5, 5, 5, 5)
    """epochs of I.a, I.b, II.a and II.b, which the papers do not give; 0: the phase is left out, so that (5, 5, 0, 0)
    is stage I and (0, 0, 5, 5), started from the run folder of the former, stage II"""
    joint_mode: JointMode = "teacher_self"
    """what both minimise together: teacher_self: the student asks the teacher's bank and the teacher still its own
    (eq. 4.4 + 5.1); literal: eq. 5.1 alone, from which the teacher cannot learn; live_positive: 5.1 with the teacher's
    live embedding as positive; symmetric: eq. 4.6, as in Cross-AVID"""
    keys: BankKeys = field(default_factory=BankKeys)
    """the memory banks, which last through all phases"""
    loss: Loss = "infonce"
    """infonce: as the equations are printed; nce: as in AVID, its noise measured anew in each phase"""
    temperature: float = 0.07
    """what cosines are divided by; not given in the paper"""
    noise_batches: int = 1
    """of nce: see InstanceDiscriminationConfig"""

    def __post_init__(self) -> None:
        if min(self.phase_epochs) < 0 or not any(self.phase_epochs):
            raise ConfigError(f"phase_epochs is {self.phase_epochs}; none may be negative and one must be above 0")
        check_settings(self.temperature, self.noise_batches)
        if self.keys.agreement is not None:
            raise ConfigError("no phase asks for clips that agree; set keys.agreement to null")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Those that last at least an epoch."""
        tables = [table for teacher in ("visual", "audio") for table in _stage(teacher, self.joint_mode)]
        return tuple(
            Phase(table=table, epochs=epochs) for table, epochs in zip(tables, self.phase_epochs, strict=True) if epochs
        )

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> InstanceDiscrimination:
        """The objective for `model`, whose two sides share nothing; labels do not matter to it."""
        return InstanceDiscrimination(
            model,
            phases=self.phases,
            keys=self.keys,
            loss=self.loss,
            temperature=self.temperature,
            learn_temperature=False,
            noise_batches=self.noise_batches,
            num_instances=num_instances,
        )


def _stage(teacher: Side, mode: JointMode) -> tuple[tuple[Contrast, ...], tuple[Contrast, ...]]:
    """The tables of the teacher alone and of both, where `teacher` is the one whose bank is asked."""
    student: Side = "audio" if teacher == "visual" else "visual"
    alone = Contrast(query=teacher, keys=teacher)  # eq. 4.4, 4.5
    taught = Contrast(query=student, keys=teacher)  # eq. 5.1, 5.2
    joint: dict[JointMode, tuple[Contrast, ...]] = {
        "teacher_self": (alone, taught),
        "literal": (taught,),
        "live_positive": (replace(taught, gradient="both"),),
        "symmetric": weighted((taught, Contrast(query=teacher, keys=student)), 0.5),
    }
    return (alone,), joint[mode]
