"""Every clip a class of its own: a window must know its clip among others, in the other modality or in its own.

What is compared is a table (contrast_table.py), with what is a source (keys.py), and how is a kernel (kernels.py):
end-to-end contrast, memory banks, AVID (self, cross, joint), CMA, MoCo and the phases of SSCL differ in nothing else.

B clips, N windows a clip, M = B x N, E embedding width.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.tokens import Output
from lookhear.objectives.cavmae import TEMPERATURE_RANGE
from lookhear.objectives.contrast_table import CROSS, SIDES, Contrast, Phase, Side, check_table
from lookhear.objectives.kernels import binary_nce, info_nce_of, log_mean_exp
from lookhear.objectives.keys import BankKeys, KeySource, LiveWindows, QueueKeys, Scores, StepKeys
from lookhear.objectives.step import Objective, Step

Loss = Literal["nce", "infonce"]


@dataclass(frozen=True, kw_only=True)
class InstanceDiscriminationConfig:
    """Instance discrimination; the defaults are Cross-AVID's."""

    table: tuple[Contrast, ...] = CROSS
    """what is compared with what"""
    keys: StepKeys | BankKeys | QueueKeys = field(default_factory=BankKeys)
    """where the keys come from: the step, memory banks, or queues"""
    loss: Loss = "nce"
    """nce: a yes or no for each key (AVID); infonce: a softmax over the keys (MoCo, the report's equations)"""
    temperature: float = 0.07
    """what cosines are divided by"""
    learn_temperature: bool = False
    """start at `temperature` and learn it"""
    noise_batches: int = 1
    """of nce: steps over which the level of the noise is measured, for each row of the table, before it stays"""

    def __post_init__(self) -> None:
        check_table(self.table)
        for row in self.table:
            self.keys.check(row)
        check_settings(self.temperature, self.noise_batches)

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> "InstanceDiscrimination":
        """The objective for `model` over `num_instances` clips; labels do not matter to it."""
        return InstanceDiscrimination(
            model,
            phases=(Phase(table=self.table),),
            keys=self.keys,
            loss=self.loss,
            temperature=self.temperature,
            learn_temperature=self.learn_temperature,
            noise_batches=self.noise_batches,
            num_instances=num_instances,
        )


def check_settings(temperature: float, noise_batches: int) -> None:
    """Raises ConfigError for settings that cannot be."""
    if temperature <= 0:
        raise ConfigError(f"temperature is {temperature}; it must be above 0")
    if noise_batches < 1:
        raise ConfigError(f"noise_batches is {noise_batches}; it must be at least 1")


class InstanceDiscrimination(Objective):
    """Terms: one for each row of the table, such as visual_to_audio. Report: how often the positive came first.

    `phases` follow each other by epochs. A side that no row of a phase teaches stands still in it: it is encoded in
    eval mode and without a gradient, and its bank still fills.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        phases: Sequence[Phase],
        keys: StepKeys | BankKeys | QueueKeys,
        loss: Loss,
        temperature: float,
        learn_temperature: bool,
        noise_batches: int,
        num_instances: int,
    ) -> None:
        super().__init__()
        self.phases = tuple(phases)
        self.sides = _sides_of(model)
        _check_sides(model, self.phases, self.sides)
        config: Any = model.config
        width = config.embedding_width
        self.source: KeySource = keys.build(model, width=width, sides=self.sides, num_instances=num_instances)
        self.loss: Loss = loss
        start = torch.tensor(math.log(temperature))
        self.log_temperature = nn.Parameter(start) if learn_temperature else None
        self.temperature = temperature
        names = {row.name for phase in self.phases for row in phase.table}
        self.noise = nn.ModuleDict({name: NoiseLevel(noise_batches) for name in sorted(names)} if loss == "nce" else {})

    def learns_from(self, instances: Tensor) -> None:
        """The clips that banks have a row for."""
        self.source.learns_from(instances)

    def take_over(self, earlier: Mapping[str, Tensor]) -> None:
        """Banks, queues and levels of noise of an earlier objective, those that have the same name and size here.

        Raises ConfigError where its banks are of other clips of the store.
        """
        own = self.state_dict()
        for name, value in own.items():
            clips = earlier.get(name, value)
            if name.endswith(".instances") and not torch.equal(clips.to(value), value):
                raise ConfigError(
                    "the banks of the run that this one starts from are of other clips of the store; give the same "
                    "data.split, or start from its model.safetensors alone"
                )
        taken = {name: value for name, value in earlier.items() if name in own and value.shape == own[name].shape}
        self.load_state_dict(taken, strict=False)

    def begin_epoch(self, epoch: int) -> None:
        """Finds agreeing clips where it is time; where a phase begins, measures the noise again."""
        self.source.begin_epoch(epoch)
        if self.restarts_optimizer(epoch):
            for level in self.noise.values():
                level.forget()  # type: ignore[operator]

    def restarts_optimizer(self, epoch: int) -> bool:
        """Where another phase begins."""
        return epoch > 0 and self.phase_of(epoch) is not self.phase_of(epoch - 1)

    def phase_of(self, epoch: int) -> Phase:
        """The phase that `epoch` (from 0) belongs to; the last one goes on for ever."""
        end = 0
        for phase in self.phases:
            if phase.epochs is None or epoch < (end := end + phase.epochs):
                return phase
        return self.phases[-1]

    def forward(self, model: nn.Module, batch: Batch, draws: Draws) -> Step:
        """One pass through `model` and, of a queue, one through its copy; then every row of the table."""
        phase = self.phase_of(draws.epoch)
        windows = LiveWindows(embeddings=self._embed(model, batch, phase.learning), batch=batch)
        keys = self.source.look_up(windows, model, draws)
        temperature = self.temperature if self.log_temperature is None else self.log_temperature.exp()
        terms: dict[str, Tensor] = {}
        report: dict[str, Tensor] = {}
        with torch.autocast(batch.index.device.type, enabled=False):
            for row in phase.table:
                if self.source.is_ready(row, draws.epoch):
                    scores = keys.scores(row)
                    terms[row.name] = row.weight * self._loss(scores, temperature, row.name)
                    report[f"{row.name}_accuracy"] = _accuracy(scores)
        if self.log_temperature is not None:
            report["temperature"] = self.log_temperature.exp()
        return Step.of(terms, report)

    def after_step(self, model: nn.Module) -> None:
        """Writes what the step saw into banks or queues, and keeps a learned temperature within bounds."""
        self.source.after_step(model)
        for level in self.noise.values():
            level.after_step()  # type: ignore[operator]
        if self.log_temperature is not None:
            low, high = TEMPERATURE_RANGE
            self.log_temperature.data.clamp_(math.log(low), math.log(high))

    def _loss(self, scores: Scores, temperature: float | Tensor, name: str) -> Tensor:
        positive, negative = scores.positive / temperature, scores.negative / temperature
        if self.loss == "infonce":
            return info_nce_of(positive, negative)
        level = self.noise[name]
        assert isinstance(level, NoiseLevel)
        return binary_nce(positive, negative, log_mean=level.measure(negative))

    def _embed(self, model: nn.Module, batch: Batch, learning: frozenset[Side]) -> dict[Side, Tensor]:
        """(M, E) of each side, with a gradient for those that learn."""
        given = {"audio": batch.audio, "visual": batch.frames}
        for side in self.sides:
            if given[side] is None:
                raise ConfigError(f"every step needs {_THINGS[side]}, and this one has none: prepare clips with both")
        if learning.issuperset(self.sides):
            found = _embeddings(model(given["audio"], given["visual"]))
        else:
            found = {}
            for side in self.sides:
                alone = {"audio": (given["audio"], None), "visual": (None, given["visual"])}[side]
                if side in learning:
                    found |= _embeddings(model(*alone))
                else:
                    with torch.no_grad(), _standing_still(model):
                        found |= _embeddings(model(*alone))
        return {side: found[side] for side in self.sides}


class NoiseLevel(nn.Module):
    """The logarithm of the mean of exp(s) over negatives, which stands for NCE's constant Z: measured, then kept.

    As published it is measured on the first scores seen; here for each row of a table by itself, over all processes.
    """

    log_mean: Tensor
    count: Tensor  # steps that were measured

    def __init__(self, num_batches: int) -> None:
        super().__init__()
        self.num_batches = num_batches
        self.register_buffer("log_mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros(()))
        self._next: Tensor | None = None

    def forget(self) -> None:
        """Measures again from here on."""
        self.count.zero_()

    @torch.no_grad()
    def measure(self, negative: Tensor) -> Tensor:
        """The level for a step whose scores of negatives are `negative`, of this process."""
        shares = distributed.all_gather(log_mean_exp(negative)[None])
        seen = torch.logsumexp(shares, dim=0) - math.log(len(shares))
        mean = torch.logaddexp(self.log_mean + self.count.log(), seen) - (self.count + 1).log()
        self._next = torch.where(self.count < self.num_batches, mean, self.log_mean)
        return self._next

    def after_step(self) -> None:
        """Keeps what was measured."""
        if self._next is not None:
            self.log_mean.copy_(self._next)
            self.count.add_(1).clamp_(max=self.num_batches)
            self._next = None


_THINGS: dict[Side, str] = {"audio": "sound", "visual": "a picture"}


def _sides_of(model: nn.Module) -> tuple[Side, ...]:
    """What the model embeds. Raises ConfigError for one that embeds nothing."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "embedding_width"):
        raise ConfigError(f"this objective needs a model that embeds sound or pictures, not a {type(model).__name__}")
    return SIDES if config.modalities == "both" else (config.modalities,)


def _check_sides(model: nn.Module, phases: Sequence[Phase], sides: tuple[Side, ...]) -> None:
    for phase in phases:
        check_table(phase.table)
        for row in phase.table:
            lacking = {row.query, row.keys}.difference(sides)
            if lacking:
                raise ConfigError(f"{row.name} needs {_THINGS[min(lacking)]} and the model has no encoder for it")
        if not phase.learning.issuperset(sides):
            shared = [name for name, _ in model.named_parameters() if not name.startswith(("audio_", "visual_"))]
            if shared:
                raise ConfigError(
                    f"one side of the model is to stand still, but both share {shared[0]}; take a multi_stream model, "
                    "whose sides share nothing, or a table that teaches both"
                )


@contextmanager
def _standing_still(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, so that running statistics neither change nor depend on the batch."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _embeddings(output: Output) -> dict[Side, Tensor]:
    sides: dict[Side, Any] = {"audio": output.audio, "visual": output.visual}
    return {side: found.embedding.flatten(0, 1).float() for side, found in sides.items() if found is not None}


@torch.no_grad()
def _accuracy(scores: Scores) -> Tensor:
    """How often the highest positive beats every negative."""
    if scores.negative.shape[1] == 0:
        return scores.positive.new_ones(())
    return (scores.positive.amax(1) > scores.negative.amax(1)).float().mean()
