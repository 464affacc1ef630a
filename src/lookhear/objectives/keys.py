"""Where the keys of a contrast come from: the step itself, a memory bank, or a queue that a slow copy fills.

Every source is looked up once a step and then gives the scores of each row of a table. What it keeps changes in
`after_step` alone, and is the same on all processes.

M windows of this process, B clips of N windows each, K negatives, P positives, E embedding width, n clips in all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.sampling import HOP_SECONDS
from lookhear.errors import ConfigError
from lookhear.objectives.agreement import AgreementConfig, find_agreeing
from lookhear.objectives.contrast_table import Contrast, Side
from lookhear.objectives.contrastive import excluded_pairs
from lookhear.objectives.kernels import NO_KEY
from lookhear.objectives.memory_bank import FifoQueue, MemoryBank, Place, Precision, draw_others
from lookhear.objectives.momentum import MomentumCopy


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveWindows:
    """What the model says of the windows of a step."""

    embeddings: Mapping[Side, Tensor]  # (M, E), unit length
    batch: Batch

    @property
    def index(self) -> Tensor:
        """int64 (M,): the clip of each window."""
        return self.batch.index.repeat_interleave(self.batch.start_seconds.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Cosines of each window with its keys."""

    positive: Tensor  # (M, P)
    negative: Tensor  # (M, K); NO_KEY where a key is no negative of the window


class Keys:
    """The keys of one step."""

    def scores(self, row: Contrast) -> Scores:
        """What the query of `row` and its keys have in common."""
        raise NotImplementedError


class KeySource(nn.Module):
    """What gives keys, step after step."""

    def learns_from(self, instances: Tensor) -> None:
        """See `Objective.learns_from`."""

    def begin_epoch(self, epoch: int) -> None:
        """See `Objective.begin_epoch`."""

    def is_ready(self, row: Contrast, epoch: int) -> bool:
        """Whether there are keys for `row` in `epoch`."""
        return True

    def look_up(self, windows: LiveWindows, model: nn.Module, draws: Draws) -> Keys:
        """The keys of a step."""
        raise NotImplementedError

    def after_step(self, model: nn.Module) -> None:
        """Takes in what the last step saw."""


def _cosines(query: Tensor, keys: Tensor) -> Tensor:
    """(M, K) of queries (M, E) and keys of each (M, K, E)."""
    return torch.einsum("me,mke->mk", query, keys)


# ---- the step


@dataclass(frozen=True, kw_only=True)
class StepKeys:
    """The keys are the other windows of the step, live: end-to-end contrast."""

    negatives: Literal["all", "local"] = "all"
    """windows of all processes, or of this one alone"""
    same_clip_negatives: bool = True
    """whether other windows of the same clip, which do not overlap the positive, are negatives"""

    def check(self, row: Contrast) -> None:
        """Raises ConfigError for a row that these keys cannot answer."""
        if row.query == row.keys or row.positives == "agreeing":
            raise ConfigError(
                f"{row.name} needs keys of a memory bank: in a step, a window's own modality is the window itself"
            )
        if row.num_negatives is not None:
            raise ConfigError(f"all windows of a step are negatives: set num_negatives of {row.name} to null")

    def build(self, model: nn.Module, *, width: int, sides: tuple[Side, ...], num_instances: int) -> "StepSource":
        """The source of these keys."""
        return StepSource(self)


class StepSource(KeySource):
    """Keys of the step, gathered with their gradient."""

    def __init__(self, config: StepKeys) -> None:
        super().__init__()
        self.config = config

    def look_up(self, windows: LiveWindows, model: nn.Module, draws: Draws) -> Keys:
        """Gathers the windows of all processes."""
        batch, index = windows.batch, windows.index
        start_seconds, keys = batch.start_seconds.flatten(), dict(windows.embeddings)
        own = slice(0, len(index))
        if self.config.negatives == "all":
            own = distributed.own_rows(len(index))
            keys = {side: distributed.all_gather(rows) for side, rows in keys.items()}
            index, start_seconds = distributed.all_gather(index), distributed.all_gather(start_seconds)
        assert batch.audio is not None, "a cross-modal row has sound"
        excluded = excluded_pairs(
            index,
            start_seconds,
            window_seconds=batch.audio.shape[2] * HOP_SECONDS,
            same_clip_negatives=self.config.same_clip_negatives,
            own=own,
        )
        places = torch.arange(len(index), device=index.device)[own]
        return _StepKeys(queries=windows.embeddings, keys=keys, own=places[:, None], excluded=excluded)


@dataclass(frozen=True, kw_only=True, eq=False)
class _StepKeys(Keys):
    queries: Mapping[Side, Tensor]  # (M, E)
    keys: Mapping[Side, Tensor]  # (M of all processes, E)
    own: Tensor  # int64 (M, 1): where each window stands among those of all
    excluded: Tensor  # bool (M, M of all): what is neither the positive nor a negative

    def scores(self, row: Contrast) -> Scores:
        keys = self.keys[row.keys] if row.gradient == "both" else self.keys[row.keys].detach()
        cosines = self.queries[row.query] @ keys.T
        negative = cosines.masked_fill(self.excluded, NO_KEY).scatter(1, self.own, NO_KEY)
        return Scores(positive=cosines.gather(1, self.own), negative=negative)


# ---- a memory bank


@dataclass(frozen=True, kw_only=True)
class BankKeys:
    """The keys are memory banks with a row for every clip (Wu et al. 2018; AVID); the defaults are AVID's."""

    num_negatives: int = 1024
    """rows drawn for each window, K; never its own, nor those that agree with it"""
    audio_momentum: float = 0.5
    """share of the old row that stays when a clip is seen again"""
    visual_momentum: float = 0.5
    """the same of pictures"""
    place: Place = "device"
    """cpu: the banks stay in the machine's memory and only what is drawn goes to the device, for millions of clips"""
    precision: Precision = "float32"
    """of the rows; float16 halves them"""
    agreement: AgreementConfig | None = None
    """how positives that agree are found (CMA); null: there are none"""

    def __post_init__(self) -> None:
        if self.num_negatives < 1:
            raise ConfigError(f"num_negatives is {self.num_negatives}; it must be at least 1")
        if not (0 <= self.audio_momentum <= 1 and 0 <= self.visual_momentum <= 1):
            raise ConfigError("audio_momentum and visual_momentum must be from 0 to 1")

    def check(self, row: Contrast) -> None:
        """Raises ConfigError for a row that these keys cannot answer."""
        if row.positives == "agreeing" and self.agreement is None:
            raise ConfigError(f"{row.name} needs objective.keys.agreement")

    def build(self, model: nn.Module, *, width: int, sides: tuple[Side, ...], num_instances: int) -> "BankSource":
        """The source of these keys. Raises ConfigError for more keys than there are clips."""
        taken = 1 + (0 if self.agreement is None else self.agreement.count)
        if self.num_negatives > num_instances - taken:
            raise ConfigError(
                f"num_negatives is {self.num_negatives}, but of {num_instances} clips each has {taken} that can be no "
                f"negative; set objective.keys.num_negatives to at most {max(num_instances - taken, 0)}"
                + ("" if self.agreement is None else ", or a smaller objective.keys.agreement.count")
            )
        if self.agreement is not None and len(sides) < 2:
            raise ConfigError("agreement compares two modalities, and this model has one; set agreement to null")
        return BankSource(self, width=width, sides=sides, num_instances=num_instances)


class BankSource(KeySource):
    """A bank a side, and which clips agree."""

    agreeing: Tensor  # int32 (n, P), ascending: rows of the banks

    def __init__(self, config: BankKeys, *, width: int, sides: tuple[Side, ...], num_instances: int) -> None:
        super().__init__()
        self.config = config
        momentum = {"audio": config.audio_momentum, "visual": config.visual_momentum}
        self.banks = nn.ModuleDict(
            {
                side: MemoryBank(
                    num_instances, width, momentum=momentum[side], place=config.place, precision=config.precision
                )
                for side in sides
            }
        )
        count = 0 if config.agreement is None else config.agreement.count
        self.register_buffer("agreeing", torch.zeros(num_instances, count, dtype=torch.int32))
        self._seen: LiveWindows | None = None

    def bank(self, side: Side) -> MemoryBank:
        """The bank of a side."""
        bank = self.banks[side]
        assert isinstance(bank, MemoryBank)
        return bank

    def learns_from(self, instances: Tensor) -> None:
        """Names the clips of the rows."""
        for bank in self.banks.values():
            bank.learns_from(instances)  # type: ignore[operator]

    def begin_epoch(self, epoch: int) -> None:
        """Finds anew which clips agree, where it is time."""
        agreement = self.config.agreement
        if agreement is not None and agreement.is_due(epoch):
            visual, audio = self.bank("visual"), self.bank("audio")
            found = find_agreeing(
                visual.vectors,
                audio.vectors,
                visual.written,
                count=agreement.count,
                rule=agreement.rule,
                device=self.agreeing.device,
            )
            self.agreeing.copy_(found)

    def agreeing_with(self, rows: Tensor) -> Tensor:
        """int64 (M, P), ascending: the rows that agree with each of `rows` (M,), on their device."""
        return self.agreeing[rows.to(self.agreeing.device)].to(rows.device, torch.int64)

    def is_ready(self, row: Contrast, epoch: int) -> bool:
        """Rows that need clips that agree wait for the banks to fill."""
        agreement = self.config.agreement
        return row.positives == "own" or (agreement is not None and epoch >= agreement.warmup_epochs)

    def look_up(self, windows: LiveWindows, model: nn.Module, draws: Draws) -> Keys:
        """Draws the negatives of every window: the same rows of every bank, as published."""
        self._seen = windows
        batch, agreement = windows.batch, self.config.agreement
        bank = next(iter(self.banks.values()))
        assert isinstance(bank, MemoryBank)
        rows = bank.rows_of(windows.index)  # (M,)
        excluded = rows[:, None]
        if agreement is not None and draws.epoch >= agreement.warmup_epochs:
            excluded = torch.cat([excluded, self.agreeing_with(rows)], dim=1).sort(dim=1).values  # (M, 1 + P)
        num_rows = len(bank.instances)
        drawn = draws.integers(
            batch.draw_key,
            batch.start_seconds.shape[1] * self.config.num_negatives,
            num_rows - excluded.shape[1],
            purpose="negatives",
        )
        negatives = draw_others(drawn.reshape(len(rows), -1).to(rows.device), excluded)  # (M, K)
        return _BankKeys(source=self, windows=windows, rows=rows, negatives=negatives, read={})

    def after_step(self, model: nn.Module) -> None:
        """Moves the rows of the clips that all processes saw towards their embeddings."""
        assert self._seen is not None, "after_step comes after a step"
        index = distributed.all_gather(self._seen.index)
        for side, embeddings in self._seen.embeddings.items():
            bank = self.bank(side)
            bank.update(bank.rows_of(index), distributed.all_gather(embeddings.detach()))
        self._seen = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _BankKeys(Keys):
    source: BankSource
    windows: LiveWindows
    rows: Tensor  # int64 (M,)
    negatives: Tensor  # int64 (M, K)
    read: dict[Side, Tensor]  # (M, K, E) of the banks that were read: two rows of a table share them

    def scores(self, row: Contrast) -> Scores:
        query, bank = self.windows.embeddings[row.query], self.source.bank(row.keys)
        if row.keys not in self.read:
            self.read[row.keys] = bank.read(self.negatives, query)
        if row.gradient == "both":
            positive = self.windows.embeddings[row.keys][:, None]
        elif row.positives == "agreeing":
            positive = bank.read(self.source.agreeing_with(self.rows), query)  # (M, P, E)
        else:
            positive = bank.read(self.rows, query)[:, None]
        negative = self.read[row.keys][:, : row.num_negatives]
        return Scores(positive=_cosines(query, positive), negative=_cosines(query, negative))


# ---- a queue


@dataclass(frozen=True, kw_only=True)
class QueueKeys:
    """The keys come from a slow copy of the model and wait in a queue for each side (MoCo, He et al., CVPR 2020)."""

    length: int = 65536
    """keys of a queue"""
    key_momentum: float = 0.999
    """share of the copy's parameters that stays in every step"""

    def __post_init__(self) -> None:
        if self.length < 1 or not 0 <= self.key_momentum <= 1:
            raise ConfigError("a queue needs a length of at least 1 and a key_momentum from 0 to 1")

    def check(self, row: Contrast) -> None:
        """Raises ConfigError for a row that these keys cannot answer."""
        if row.query == row.keys or row.positives == "agreeing":
            raise ConfigError(
                f"{row.name} needs keys of a memory bank: the copy sees a window as the model does, so that within a "
                "modality the two are one"
            )

    def build(self, model: nn.Module, *, width: int, sides: tuple[Side, ...], num_instances: int) -> "QueueSource":
        """The source of these keys."""
        return QueueSource(self, model, width=width, sides=sides)


class QueueSource(KeySource):
    """The copy, and a queue a side. Should it reach so far back, keys of a window's own clip are no negatives."""

    def __init__(self, config: QueueKeys, model: nn.Module, *, width: int, sides: tuple[Side, ...]) -> None:
        super().__init__()
        self.copy = MomentumCopy(model, momentum=config.key_momentum)
        self.queues = nn.ModuleDict({side: FifoQueue(config.length, width) for side in sides})
        self._seen: LiveWindows | None = None

    def queue(self, side: Side) -> FifoQueue:
        """The queue of a side."""
        queue = self.queues[side]
        assert isinstance(queue, FifoQueue)
        return queue

    def look_up(self, windows: LiveWindows, model: nn.Module, draws: Draws) -> Keys:
        """Encodes the windows with the copy."""
        batch = windows.batch
        with torch.no_grad():
            output = self.copy(batch.audio, batch.frames)
        found = {"audio": output.audio, "visual": output.visual}
        keys = {side: found[side].embedding.flatten(0, 1).float() for side in windows.embeddings}
        self._seen = LiveWindows(embeddings=keys, batch=batch)
        return _QueueKeys(source=self, windows=windows, keys=keys)

    def after_step(self, model: nn.Module) -> None:
        """Queues the keys of all processes, and lets the copy follow."""
        assert self._seen is not None, "after_step comes after a step"
        index = distributed.all_gather(self._seen.index)
        for side, keys in self._seen.embeddings.items():
            self.queue(side).push(distributed.all_gather(keys), index)
        self.copy.follow(model)
        self._seen = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _QueueKeys(Keys):
    source: QueueSource
    windows: LiveWindows
    keys: Mapping[Side, Tensor]  # (M, E) of the copy

    def scores(self, row: Contrast) -> Scores:
        query, queue = self.windows.embeddings[row.query], self.source.queue(row.keys)
        key = self.windows.embeddings[row.keys] if row.gradient == "both" else self.keys[row.keys]
        negative = query @ queue.vectors.T
        own = self.windows.index[:, None] == queue.owners
        return Scores(
            positive=(query * key).sum(1, keepdim=True),
            negative=negative.masked_fill(own, NO_KEY)[:, : row.num_negatives],
        )
