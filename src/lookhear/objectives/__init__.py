"""Output -> Step: what models are trained for."""

from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.objectives.compositional import CompositionalConfig
from lookhear.objectives.curriculum import CurriculumConfig
from lookhear.objectives.distillation import DistillationConfig
from lookhear.objectives.instance_discrimination import InstanceDiscriminationConfig
from lookhear.objectives.step import ObjectiveConfig
from lookhear.objectives.supervised import SupervisedConfig

# Name in run.json -> settings.
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "cavmae": CAVMAEObjectiveConfig,
    "supervised": SupervisedConfig,
    "instance_discrimination": InstanceDiscriminationConfig,
    "curriculum": CurriculumConfig,
    "distillation": DistillationConfig,
    "compositional": CompositionalConfig,
}
