"""The mean of a model's weights at the ends of several epochs, which often scores better than any of them."""

from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Element-wise arithmetic mean, summed up in float32 on the CPU; as published for fine-tuned CAV-MAE.

    The slow form: keep every epoch's checkpoint, add them up, divide by their number.
    """

    def __init__(self, first_epoch: int, last_epoch: int) -> None:
        self.first_epoch = first_epoch  # counted from 1
        self.last_epoch = last_epoch  # still counted in
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, model: nn.Module, *, epoch: int) -> None:
        """Takes `model` as it is at the end of `epoch` (from 1), if that is one of those averaged."""
        if not self.first_epoch <= epoch <= self.last_epoch:
            return
        for name, value in model.state_dict().items():
            own = value.detach().to("cpu", torch.float32)
            self._sums[name] = self._sums[name] + own if self.count else own.clone()
        self.count += 1

    @property
    def is_complete(self) -> bool:
        """Whether every epoch was added."""
        return self.count == self.last_epoch - self.first_epoch + 1

    def mean(self, like: nn.Module) -> dict[str, Tensor]:
        """The mean so far, of the dtypes of `like`. Asking before anything was added is our own mistake."""
        assert self.count, "no epoch was added"
        kinds = {name: value.dtype for name, value in like.state_dict().items()}
        return {name: (total / self.count).to(kinds[name]) for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"count": self.count, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.count = state["count"]
        self._sums = {name: value.to("cpu") for name, value in state["sums"].items()}
