"""What a skimmer learns: the labels of whole videos, from what it saw of them.

Gao et al., "Listen to Look", CVPR 2020. B videos, T looks, C classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.models.skimmer import Skim
from lookhear.objectives.step import Step


@dataclass(frozen=True, kw_only=True)
class SkimmingConfig:
    """How labels are learned; the defaults are those of the published command."""

    loss: Literal["auto", "bce", "ce"] = "auto"
    """ce: one class a video; bce: a yes or no for every class; auto: by the videos that are learned from"""
    average_weight: float = 1.0
    """of the loss on the mean of what was seen"""
    memory_weight: float = 0.0
    """of the loss on what the memory says after the last look; 1 in the published alternative"""

    def __post_init__(self) -> None:
        if min(self.average_weight, self.memory_weight) < 0 or not self.average_weight + self.memory_weight:
            raise ConfigError("average_weight and memory_weight must be 0 or more, and not both 0")


def skimming_loss(skim: Skim, target: Tensor, config: SkimmingConfig) -> Step:
    """Terms: average, memory (those with a weight). Report: accuracy. `target` float32 (B, C) is multi-hot.

    Raises ConfigError for a loss that nobody decided about, and for a memory's loss where the policy has no memory.
    """
    terms = {}
    if config.average_weight:
        terms["average"] = config.average_weight * _classification(skim.logits, target, config)
    if config.memory_weight:
        if skim.step_logits is None:
            raise ConfigError("the policy 'uniform' has no memory to learn from; set objective.memory_weight to 0")
        terms["memory"] = config.memory_weight * _classification(skim.step_logits[:, -1], target, config)
    best = skim.logits.detach().argmax(dim=1, keepdim=True)
    return Step.of(terms, {"accuracy": (target.gather(1, best) > 0).float().mean()})


def _classification(logits: Tensor, target: Tensor, config: SkimmingConfig) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        if config.loss == "bce":
            return F.binary_cross_entropy_with_logits(logits.float(), target)
        if config.loss == "ce":
            return F.cross_entropy(logits.float(), target / target.sum(dim=1, keepdim=True).clamp(min=1))
    raise ConfigError("objective.loss is 'auto' and nobody looked at the labels: set it to bce or ce")
