"""A copy of a model that follows it slowly, and so gives keys that change little from step to step."""

import copy

import torch
from torch import nn


class MomentumCopy(nn.Module):
    """The key encoder of MoCo (He et al., CVPR 2020): parameters follow the model's, no gradient reaches it.

    Buffers (statistics of batch normalisation) are its own, as published.
    """

    def __init__(self, model: nn.Module, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """`momentum x own + (1 - momentum) x model's`, of every parameter.

        Once after each step of the optimiser, which is once before the next keys are encoded, as published.
        """
        for own, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            if theirs.requires_grad:  # the others are alike, and shall stay so to the bit
                own.mul_(self.momentum).add_(theirs, alpha=1 - self.momentum)

    def forward(self, *args: object, **options: object) -> object:
        """What the copy says."""
        return self.model(*args, **options)
