"""Objectives that can take a batch in pieces, and still learn what they learn from all of it at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.objectives.step import Objective, Step


@dataclass(frozen=True, kw_only=True, eq=False)
class Encodings:
    """What an objective makes of clips, each by itself."""

    terms: dict[str, Tensor] = field(default_factory=dict)  # scalars, weights applied: means over the clips
    report: dict[str, Tensor] = field(default_factory=dict)  # the same of what is only logged
    compared: dict[str, Tensor] = field(default_factory=dict)  # (B, ...): by what clips are compared with one another


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What comes of comparing the clips of a batch."""

    terms: dict[str, Tensor] = field(default_factory=dict)
    report: dict[str, Tensor] = field(default_factory=dict)


class PiecewiseObjective(Objective):
    """An objective in two halves: `encode`, a mean over clips that needs the model, and `compare`, which does not.

    `training.gradients` encodes a batch piece by piece and compares all of it, with the gradient of the whole.
    """

    @property
    def compares(self) -> bool:
        """Whether clips are compared at all; without, `encode` is everything."""
        return False

    def encode(self, model: nn.Module, batch: Batch, draws: Draws, *, only_compared: bool = False) -> Encodings:
        """The half that takes each clip by itself. With `only_compared`, nothing else is wanted of it."""
        raise NotImplementedError

    def compare(self, compared: Mapping[str, Tensor], batch: Batch) -> Comparison:
        """The half that compares the clips of `batch` by what was `compared` of them."""
        return Comparison()

    def forward(self, model: nn.Module, batch: Batch, draws: Draws) -> Step:
        """Both halves on a batch that is whole."""
        found = self.encode(model, batch, draws)
        rest = self.compare(found.compared, batch)
        return Step.of(found.terms | rest.terms, found.report | rest.report)
