"""The optimiser, the learning rate of each step, and which parameters decay."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam, sgd: weight decay is part of the gradient, as in the published runs; adamw: decay apart from it"""
    learning_rate: float = 1e-4
    """the peak; scaled by the schedule"""
    betas: tuple[float, float] = (0.9, 0.95)
    """decay of the running means of the gradient and of its square"""
    eps: float = 1e-8
    """added to the denominator"""
    momentum: float = 0.9
    """of sgd"""
    nesterov: bool = False
    """whether sgd looks ahead"""
    weight_decay: float = 0.05
    """pull of the weights to zero"""
    decay_vectors: bool = False
    """whether biases, norms, tokens and other parameters of one row decay too, as in the published runs"""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    """cosine: down to final_share at the end; step: times step_factor at step_from and every step_every epochs on"""
    warmup_share: float = 0.0
    """share of all steps over which the learning rate rises from zero"""
    final_share: float = 0.0
    """where a cosine schedule ends, as a share of the peak"""
    step_from: int = 10
    """epochs before the first cut of a step schedule"""
    step_every: int = 5
    """epochs between cuts"""
    step_at: tuple[int, ...] = ()
    """epochs of the cuts, instead of step_from and step_every where they are not evenly spaced"""
    step_factor: float = 0.5
    """what a cut multiplies the learning rate by"""
    clip_norm: float | None = None
    """gradients are scaled down to this norm; null: never"""
    accumulate: int = 1
    """pieces in which a process takes its share of a batch, to need less memory; the gradient is still the whole's"""
    head_ratio: float = 1.0
    """learning rate of a classifier's head as a multiple of the encoder's"""
    constant_objective: bool = False
    """whether what the objective owns (composers) keeps the peak learning rate whatever the schedule, as in CCL"""
    freeze: Literal["none", "encoder"] = "none"
    """encoder: only the head of a classifier is trained (a linear probe)"""

    def __post_init__(self) -> None:
        problems = []
        if self.learning_rate < 0 or not math.isfinite(self.learning_rate):
            problems.append(f"learning_rate is {self.learning_rate}; it must be 0 or more")
        if not 0 <= self.warmup_share < 1:
            problems.append(f"warmup_share is {self.warmup_share}; it must be at least 0 and below 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas are {self.betas}; each must be at least 0 and below 1")
        if not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            problems.append(f"momentum is {self.momentum}; it must be at least 0 and below 1, above 0 with nesterov")
        if self.step_from < 1 or self.step_every < 1:
            problems.append("step_from and step_every must be at least 1")
        if self.accumulate < 1:
            problems.append(f"accumulate is {self.accumulate}; it must be at least 1")
        if list(self.step_at) != sorted(set(self.step_at)) or min(self.step_at, default=1) < 1:
            problems.append(f"step_at is {self.step_at}; it must be epochs from 1 on, each later than the one before")
        if self.head_ratio < 0 or not math.isfinite(self.head_ratio):
            problems.append(f"head_ratio is {self.head_ratio}; it must be 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            problems.append(f"clip_norm is {self.clip_norm}; it must be above 0, or null for no clipping")
        if problems:
            raise ConfigError("; ".join(problems))


def learning_rate(config: OptimConfig, *, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of step `step` (from 0): warm-up times schedule, a pure function, so nothing to save.

    The step schedule is the published one: cut at epoch step_from, step_from + step_every, ... counted from 0.
    """
    warmup_steps = round(config.warmup_share * total_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    if config.schedule == "cosine":
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        wave = 0.5 * (1 + math.cos(math.pi * done))
        return config.learning_rate * (config.final_share + (1 - config.final_share) * wave)
    if config.schedule == "step":
        epoch = step // steps_per_epoch
        if config.step_at:
            return config.learning_rate * config.step_factor ** sum(epoch >= cut for cut in config.step_at)
        cuts = 0 if epoch < config.step_from else 1 + (epoch - config.step_from) // config.step_every
        return config.learning_rate * config.step_factor**cuts
    return config.learning_rate


def build_optimizer(config: OptimConfig, modules: Iterable[nn.Module]) -> torch.optim.Optimizer:
    """Adam or SGD over every parameter of `modules` (the model, then what else is trained) that asks for a gradient.

    In up to four groups: decayed or not, of a classifier's head or not; what is no model may be in two more, whose
    learning rate is constant (and each in two, where processes share out some parameters and keep others whole).
    Raises ConfigError for a head_ratio where there is no head.

    One fused call a step where the device has it. A parameter that never gets a gradient is never touched, not even
    by weight decay.
    """
    modules = list(modules)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    heads = {id(p) for module in modules for p in _head(module)}
    if config.head_ratio != 1 and not heads:
        raise ConfigError(
            f"optim.head_ratio is {config.head_ratio:g} and needs a model with a head of its own, not a "
            f"{type(modules[0]).__name__}; set it to 1"
        )
    held = {id(p) for module in modules[1:] for p in module.parameters() if config.constant_objective}
    groups = []
    for in_head, constant, ratio in ((False, False, 1.0), (True, False, config.head_ratio), (False, True, 1.0)):
        own = [p for p in parameters if (id(p) in heads, id(p) in held) == (in_head, constant)]
        decayed = [p for p in own if config.decay_vectors or _is_matrix(p)]
        kept = [p for p in own if not (config.decay_vectors or _is_matrix(p))]
        groups += [
            {"params": group, "weight_decay": decay, "ratio": ratio, "constant": constant}
            for both, decay in ((decayed, config.weight_decay), (kept, 0.0))
            for group in _apart(both)
            if group
        ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=fused)


def freeze_encoder(config: OptimConfig, model: nn.Module) -> None:
    """Where `config` says so, takes every parameter but those of the head out of training."""
    if config.freeze == "encoder":
        heads = {id(p) for p in _head(model)}
        if not heads:
            raise ConfigError(f"optim.freeze needs a model with a head of its own, not a {type(model).__name__}")
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in heads)


def training_mode(model: nn.Module) -> None:
    """Training mode, but for batch norms that do not learn: their statistics are part of what is frozen.

    Left in training mode, a frozen encoder would be judged with the statistics of the labelled clips, and in the end
    have them for its own: it would no longer be the encoder that is probed.
    """
    model.train()
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and own and not any(p.requires_grad for p in own):
            module.eval()


def _head(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a classifier's head; none for any other module."""
    ask = getattr(module, "head_parameters", None)
    return [] if ask is None else list(ask())


def _is_matrix(parameter: Tensor) -> bool:
    """Whether `parameter` maps vectors to vectors; (1, 1, D) tokens and scalars do not."""
    return sum(size > 1 for size in parameter.shape) > 1


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Gives every group the learning rate `value`, times the ratio of the group; a constant one keeps its own."""
    for group in optimizer.param_groups:
        if not group.get("constant"):  # optimisers that were saved before there were constant groups have none
            group["lr"] = value * group["ratio"]


def clip_gradients(modules: Iterable[nn.Module], max_norm: float) -> Tensor:
    """Scales all gradients of `modules` down to `max_norm` together; returns the norm before, a scalar."""
    parameters = [p for module in modules for p in module.parameters() if p.grad is not None]
    kinds = [kind for kind in _apart(parameters) if kind]
    # torch takes the norm of whole gradients, or of gradients that processes share out, not of both at once
    norms = [distributed.gathered(nn.utils.get_total_norm([_grad(p) for p in kind])) for kind in kinds]
    total = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    for kind in kinds:
        nn.utils.clip_grads_with_norm_(kind, max_norm, total)
    return total


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _apart(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of which this process has its part, and those that it has whole."""
    parts = [p for p in parameters if distributed.is_shared_out(p)]
    return parts, [p for p in parameters if not distributed.is_shared_out(p)]
