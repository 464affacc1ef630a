"""The gradient of one batch: what every step of training computes before the optimiser moves the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.objectives.pieces import Encodings, PiecewiseObjective
from lookhear.objectives.step import Objective, Step


class Pair(nn.Module):
    """Model and objective as one module, so that `distributed.wrap` serves the parameters of both.

    Called with a function of (model, objective, ...), it computes that in the run's precision. What is to be
    differentiated must be among the tensors that the function returns, as such or in tuples and dicts: wrappers look
    for it there.
    """

    def __init__(self, model: nn.Module, objective: Objective, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.dtype = dtype

    def forward(self, work: Callable[..., Any], *values: Any) -> Any:
        """What `work(model, objective, *values)` returns."""
        device = next(self.model.parameters()).device
        # opened anew for each call: weights that autocast keeps from a pass without gradient would have none
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            return work(self.model, self.objective, *values)


def check_pieces(pair: Pair, pieces: int, *, num_clips: int) -> None:
    """Raises ConfigError where a batch of `num_clips` on a process cannot be taken in `pieces`, or not exactly."""
    if pieces == 1:
        return
    problem = None
    if pieces > num_clips:
        problem = f"a process has {num_clips} clips in a step; set it to at most that"
    elif not isinstance(pair.objective, PiecewiseObjective):
        problem = f"{type(pair.objective).__name__} learns from a batch as a whole only; set it to 1"
    elif any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in pair.modules()):
        problem = "the model normalises over a batch, which in pieces would be another model; set it to 1"
    if problem is not None:
        raise ConfigError(f"optim.accumulate is {pieces}, but {problem}")


def compute_gradients(pair: nn.Module, batch: Batch, draws: Draws, *, pieces: int = 1) -> Step:
    """Adds the gradient of the loss of a preprocessed `batch` to that of every parameter; the step, without graph.

    `pair` is a `Pair`, as it is or wrapped. With `pieces` the batch goes through the model in so many parts and no
    more than one is in memory; the gradient is still that of the whole batch, up to rounding. Where the objective
    compares clips, this is GradCache (Gao et al., "Scaling deep contrastive learning batch size under memory limited
    setup", 2021): all parts are encoded without a gradient, their encodings are compared, and each part is encoded
    again and sent back the gradient of its encodings. The slow form is `pieces=1`.
    """
    if pieces == 1:
        loss, step = pair(_whole, batch, draws)
        loss.backward()
        return step
    parts = _cut(len(batch), pieces)
    compared = _compare_all(pair, batch, parts, draws)
    found = []
    for number, rows in enumerate(parts):
        last = number == len(parts) - 1
        with distributed.accumulating(pair, last=last):
            loss, own = pair(_part, batch, rows, draws, compared, last)
            loss.backward()
        found.append(own)
    terms, report = _sum([own.terms for own in found]), _sum([own.report for own in found])
    return Step.of(terms | compared.terms, report | compared.report)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Compared:
    """A comparison of all clips of a batch, without graph, and what it sends back."""

    terms: dict[str, Tensor]
    report: dict[str, Tensor]
    gradients: dict[str, Tensor]  # (B, ...) of what was compared
    own: list[Tensor | None]  # of the parameters of the objective


def _whole(model: nn.Module, objective: Objective, batch: Batch, draws: Draws) -> tuple[Tensor, Step]:
    step: Step = objective(model, batch, draws)
    return step.loss, step


def _part(
    model: nn.Module,
    objective: PiecewiseObjective,
    batch: Batch,
    rows: slice,
    draws: Draws,
    compared: _Compared,
    last: bool,
) -> tuple[Tensor, Encodings]:
    """What is to be differentiated for the clips `rows`, and their share of terms and report, without graph.

    The gradient of (encodings x their gradient) is the gradient through them. With the `last` part go the parameters
    of the objective, in the same way, so that what averages gradients over processes sees each parameter once.
    """
    found = objective.encode(model, batch.rows(rows), draws)
    share = (rows.stop - rows.start) / len(batch)
    losses = [share * term for term in found.terms.values()]
    losses += [(found.compared[name].float() * value[rows]).sum() for name, value in compared.gradients.items()]
    if last:
        pairs = zip(_trained(objective), compared.own, strict=True)
        losses += [(parameter * value).sum() for parameter, value in pairs if value is not None]
    terms = {name: share * value.detach() for name, value in found.terms.items()}
    report = {name: share * value.detach() for name, value in found.report.items()}
    return torch.stack(losses).sum(), Encodings(terms=terms, report=report)


def _compare_all(pair: nn.Module, batch: Batch, parts: list[slice], draws: Draws) -> _Compared:
    objective = distributed.unwrapped(pair).objective
    assert isinstance(objective, PiecewiseObjective), "check_pieces refuses the others"
    if not objective.compares:
        return _Compared(terms={}, report={}, gradients={}, own=[None for _ in _trained(objective)])
    with torch.no_grad():
        encoded = [pair(_encode, batch.rows(rows), draws) for rows in parts]
        together = {name: torch.cat([part[name] for part in encoded]) for name in encoded[0]}  # (B, ...)
        compared: _Compared = pair(_compare, together, batch)
        return compared


def _encode(model: nn.Module, objective: PiecewiseObjective, batch: Batch, draws: Draws) -> dict[str, Tensor]:
    return objective.encode(model, batch, draws, only_compared=True).compared


@torch.enable_grad()
def _compare(model: nn.Module, objective: PiecewiseObjective, encoded: dict[str, Tensor], batch: Batch) -> _Compared:
    leaves = {name: value.float().requires_grad_() for name, value in encoded.items()}
    found = objective.compare(leaves, batch)
    wanted = [*leaves.values(), *_trained(objective)]
    loss = torch.stack(list(found.terms.values())).sum()
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True)
    return _Compared(
        terms={name: value.detach() for name, value in found.terms.items()},
        report={name: value.detach() for name, value in found.report.items()},
        gradients={name: gradient for name, gradient in zip(leaves, gradients, strict=False) if gradient is not None},
        own=list(gradients[len(leaves) :]),
    )


def _trained(objective: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in objective.parameters() if parameter.requires_grad]


def _cut(count: int, pieces: int) -> list[slice]:
    """`pieces` ranges of nearly equal length that cover `count` clips."""
    edges = [count * number // pieces for number in range(pieces + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def _sum(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
