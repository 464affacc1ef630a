"""What every objective is and returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """The loss of one batch and what it is made of.

    `terms` (scalars, weights already applied) sum to `loss`. `report` (scalars without gradient) is only logged:
    accuracies, a learned temperature.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    report: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, terms: dict[str, Tensor], report: dict[str, Tensor] | None = None) -> "Step":
        """The step whose loss is the sum of `terms`."""
        assert terms, "a step needs at least one term"
        first, *others = terms.values()
        detached = {name: value.detach() for name, value in (report or {}).items()}
        return cls(loss=sum(others, start=first), terms=terms, report=detached)


class Objective(nn.Module):
    """What a model is trained for. It owns only what is thrown away after training; the model is passed in.

    Its parameters and buffers are state of the run: saved with every checkpoint and there again when it goes on. Only
    `forward` must be written; a new objective with banks, copies or phases overrides the others as it needs them.
    """

    def learns_from(self, instances: Tensor) -> None:
        """Told once, before anything else: the clips of the run, int64 (n,) ranks in the store, ascending."""

    def take_over(self, earlier: Mapping[str, Tensor]) -> None:
        """Told once where a new run starts from an earlier run on the same store: the state of that run's objective."""

    def begin_epoch(self, epoch: int) -> None:
        """Called before the first step of each epoch (from 0): a change of state that goes by epochs."""

    def restarts_optimizer(self, epoch: int) -> bool:
        """Whether the optimiser forgets its running means where `epoch` begins, as what it optimises is another."""
        return False

    def forward(self, model: nn.Module, batch: Batch, draws: Draws) -> Step:
        """The step of one preprocessed batch. Every random number comes from `draws`; no state changes here."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """Called once after each step of the optimiser: the place for every other change of state.

        What it writes must be the same on all processes: gather what they saw before (`distributed.all_gather`).
        """


class ObjectiveConfig(Protocol):
    """The frozen settings of an objective."""

    def build(self, model: nn.Module, *, num_instances: int, num_classes: int) -> Objective:
        """The objective for `model` over `num_instances` clips with `num_classes` labels."""
        ...
