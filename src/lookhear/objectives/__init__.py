"""Output -> Step: what models are trained for."""

from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.objectives.step import ObjectiveConfig

# Name in run.json -> settings.
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {"cavmae": CAVMAEObjectiveConfig}
