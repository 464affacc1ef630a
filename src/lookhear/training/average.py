"""The mean of a model's weights at the ends of several epochs, which often scores better than any of them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class WeightAverage:
    """Element-wise arithmetic mean, summed up in float32 on the CPU; as published for fine-tuned CAV-MAE.

    The slow form: keep every epoch's checkpoint, add them up, divide by their number.
    """

    def __init__(self, first_epoch: int, last_epoch: int) -> None:
        self.first_epoch = first_epoch  # counted from 1
        self.last_epoch = last_epoch  # still counted in
        self.count = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, tensors: Mapping[str, Tensor], *, epoch: int) -> None:
        """Takes a model's `tensors` as they are at the end of `epoch` (from 1), if that is one of those averaged."""
        if not self.first_epoch <= epoch <= self.last_epoch:
            return
        for name, value in tensors.items():
            own = value.detach().to("cpu", torch.float32)
            self._sums[name] = self._sums[name] + own if self.count else own.clone()
        self.count += 1

    def copy(self) -> "WeightAverage":
        """The average as it is now; sums are never changed in place."""
        other = WeightAverage(self.first_epoch, self.last_epoch)
        other.load_state_dict(self.state_dict())
        return other

    @property
    def is_complete(self) -> bool:
        """Whether every epoch was added."""
        return self.count == self.last_epoch - self.first_epoch + 1

    def mean(self, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean so far, of the dtypes of `like`. Asking before anything was added is our own mistake."""
        assert self.count, "no epoch was added"
        return {name: (total / self.count).to(like[name].dtype) for name, total in self._sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; later additions do not change it."""
        return {"count": self.count, "sums": dict(self._sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.count = state["count"]
        self._sums = {name: value.to("cpu") for name, value in state["sums"].items()}
