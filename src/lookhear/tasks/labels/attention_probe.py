"""The attention probe: a small transformer over a clip's frozen windows, trained on features made once.

Araujo et al., CVPR 2025 (CAV-MAE Sync), as others describe it. B clips, K windows, D width of a step, C classes.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.errors import ConfigError, StoreError
from lookhear.models.transformer import Block, initialise_linear, layer_norm
from lookhear.tasks.labels.features import ClipFeatures
from lookhear.tasks.labels.probe_scores import ProbeResult, check_sides, score_probe
from lookhear.tasks.metrics import average_precision


@dataclass(frozen=True, kw_only=True)
class AttentionProbeConfig:
    """Sizes and training of the probe; the sizes, batch, epochs and smoothing are the published ones."""

    depth: int = 2
    """transformer blocks"""
    heads: int = 12
    """attention heads; their greatest common divisor with the width is taken"""
    loss: Literal["auto", "ce", "bce"] = "auto"
    """ce: one class a clip; bce: a yes or no for every class; auto: bce if any training clip has several labels"""
    epochs: int = 25
    batch_size: int = 48
    """clips a step"""
    learning_rate: float = 2e-4
    """of Adam at the start; it falls to 0 along a cosine"""
    weight_decay: float = 5e-7
    label_smoothing: float = 0.1
    """how much of a label is spread over all classes"""
    validation_share: float = 0.2
    """of the training clips of each class, held out to choose the epoch where no validation clips are given"""

    def __post_init__(self) -> None:
        if min(self.depth, self.heads, self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ConfigError("depth, heads, epochs and batch_size must be at least 1, learning_rate positive")
        if not (0 <= self.label_smoothing < 1 and 0 < self.validation_share < 1):
            raise ConfigError("label_smoothing must be at least 0 and below 1, validation_share between 0 and 1")


class AttentionHead(nn.Module):
    """A class token before the windows of a clip, blocks, a norm, and a linear map of the token.

    There are no positions: the order of the windows does not change the answer.
    """

    def __init__(self, width: int, num_classes: int, config: AttentionProbeConfig) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        heads = math.gcd(width, config.heads)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(config.depth))
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, num_classes)
        self.apply(initialise_linear)

    def forward(self, steps: Tensor) -> Tensor:
        """Logits (B, C) of (B, K, D)."""
        tokens = torch.cat([self.token.expand(len(steps), -1, -1), steps], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens[:, 0]))


def attention_probe(
    train: Sequence[ClipFeatures],
    test: Sequence[ClipFeatures],
    *,
    validation: Sequence[ClipFeatures] | None = None,
    config: AttentionProbeConfig | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Trains the probe on `train`, keeps the epoch that is best on `validation`, and scores it once on `test`.

    `validation` None: a share of the training clips of each class is held out. Best is the accuracy, or with several
    labels a clip the mean average precision; of equals, the lower loss. Steps are standardised with the training
    clips' mean and deviation (the published probe reads them as they are). The same seed gives the same result.
    Raises StoreError for clips without label or without windows, and for one class only.
    """
    config = config or AttentionProbeConfig()
    held_out = validation is None
    if validation is None:
        train, validation = split_clips(train, config.validation_share, seed)
    check_sides(*_side(train), *_side(test))
    classes = tuple(sorted({label for clip in train for label in clip.labels}))
    loss: Literal["auto", "ce", "bce"] = config.loss
    several = any(len(clip.labels) > 1 for clip in train)
    if loss == "auto":
        loss = "bce" if several else "ce"
    elif loss == "ce" and several:
        raise StoreError("some training clips have several labels, which loss ce cannot learn; set loss to bce")
    values = np.concatenate([clip.steps for clip in train])
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-6
    sides = [_Side(clips, classes, mean, deviation) for clips in (train, validation, test)]
    head, epoch, best = _train(sides[0], sides[1], len(classes), config, loss, seed)
    logits = _logits(head, sides[2])
    return score_probe(
        logits,
        classes,
        [clip.labels for clip in train],
        [clip.labels for clip in test],
        protocol={
            "probe": "attention",
            "feature_width": int(values.shape[1]),
            "settings": asdict(config) | {"loss": loss},
            "chosen_epoch": epoch,
            "validation_score": best,
            "validation_clips": len(validation),
            "validation": "held out of the training clips" if held_out else "given",
            "seed": seed,
        },
    )


def split_clips(
    clips: Sequence[ClipFeatures], share: float, seed: int
) -> tuple[list[ClipFeatures], list[ClipFeatures]]:
    """The clips without, and those of, a random `share` of each label. A label's only clip stays for training."""
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for number, clip in enumerate(clips):
        members.setdefault(clip.label, []).append(number)
    held: set[int] = set()
    for label in sorted(members):
        numbers = rng.permutation(members[label])
        if len(numbers) > 1:
            held |= set(numbers[: max(1, round(share * len(numbers)))].tolist())
    kept = [clip for number, clip in enumerate(clips) if number not in held]
    return kept, [clips[number] for number in sorted(held)]


class _Side:
    """Clips as tensors: standardised steps of each, and multi-hot targets (n, C)."""

    def __init__(
        self, clips: Sequence[ClipFeatures], classes: tuple[str, ...], mean: np.ndarray, deviation: np.ndarray
    ) -> None:
        self.steps = [torch.from_numpy(((clip.steps - mean) / deviation).astype(np.float32)) for clip in clips]
        self.target = torch.tensor([[float(name in clip.labels) for name in classes] for clip in clips])

    def batches(self, order: Sequence[int], batch_size: int) -> Iterator[list[tuple[Tensor, list[int]]]]:
        """Batches of clips in `order`, each as groups of equal length: steps (b, K, D) and the clips' numbers."""
        for first in range(0, len(order), batch_size):
            groups: dict[int, list[int]] = {}
            for number in order[first : first + batch_size]:
                groups.setdefault(len(self.steps[number]), []).append(number)
            yield [(torch.stack([self.steps[n] for n in numbers]), numbers) for numbers in groups.values()]


def _train(
    train: _Side, validation: _Side, num_classes: int, config: AttentionProbeConfig, loss: str, seed: int
) -> tuple[AttentionHead, int, float | None]:
    """The head at its best epoch (from 1), that epoch, and its validation score (None without validation clips)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentionHead(train.steps[0].shape[1], num_classes, config)
    optimiser = torch.optim.Adam(head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    num_steps = config.epochs * -(-len(train.steps) // config.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, num_steps)
    rng = np.random.default_rng(seed)
    best: tuple[float, float] | None = None
    best_epoch, best_state = config.epochs, None
    for epoch in range(1, config.epochs + 1):
        for groups in train.batches(rng.permutation(len(train.steps)).tolist(), config.batch_size):
            optimiser.zero_grad()
            size = sum(len(numbers) for _, numbers in groups)
            for steps, numbers in groups:
                value = _loss(head(steps), train.target[numbers], loss, config.label_smoothing)
                (value * len(numbers) / size).backward()
            optimiser.step()
            schedule.step()
        if not validation.steps:
            continue
        scored = _score(head, validation, loss)
        if best is None or scored > best:
            best, best_epoch, best_state = scored, epoch, copy.deepcopy(head.state_dict())
    if best_state is not None:
        head.load_state_dict(best_state)
    return head.eval(), best_epoch, None if best is None else best[0]


def _loss(logits: Tensor, target: Tensor, loss: str, smoothing: float = 0.0) -> Tensor:
    num_classes = target.shape[1]
    if loss == "bce":
        return F.binary_cross_entropy_with_logits(logits, target * (1 - smoothing) + smoothing / num_classes)
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


def _score(head: AttentionHead, side: _Side, loss: str) -> tuple[float, float]:
    """Accuracy or mean average precision, and the negative loss: higher is better."""
    logits, target = _logits(head, side), side.target.numpy()
    negative = -float(_loss(torch.from_numpy(logits), side.target, loss))
    if loss == "ce":
        return float(target[np.arange(len(target)), logits.argmax(axis=1)].mean()), negative
    precision = average_precision(target, logits)
    return (0.0 if np.isnan(precision).all() else float(np.nanmean(precision))), negative


@torch.inference_mode()
def _logits(head: AttentionHead, side: _Side) -> np.ndarray:
    """float32 (n, C)."""
    found = torch.empty_like(side.target)
    for groups in side.batches(range(len(side.steps)), 256):
        for steps, numbers in groups:
            found[numbers] = head(steps)
    return found.numpy()


def _side(clips: Sequence[ClipFeatures]) -> tuple[np.ndarray, np.ndarray]:
    """What `check_sides` looks at: a mean step and the label of each clip."""
    if any(not len(clip.steps) for clip in clips):
        raise StoreError("a clip has no windows; leave it out")
    features = [clip.steps.mean(axis=0) for clip in clips]
    return np.stack(features) if features else np.zeros((0, 0)), np.array([clip.label for clip in clips], dtype=str)
