"""Learning from labels: the loss of fine-tuning.

Gong et al., ICLR 2023, whose label rule this is. B clips, N windows a clip, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.tokens import Output
from lookhear.objectives.pieces import Encodings, PiecewiseObjective


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    """How labels are learned; which modalities are read is the model's `mode`."""

    loss: Literal["auto", "bce", "ce"] = "auto"
    """bce: a yes or no for every class, where clips may have several labels; ce: one class a clip; auto: by the store
    (`lookhear finetune` writes what it chose)"""
    label_smoothing: float = 0.1
    """how much of a label is spread over all classes"""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> "Supervised":
        """The objective for `model`, which gives logits for `num_classes` (0: not told)."""
        has = getattr(getattr(model, "config", None), "num_classes", None)
        if has is None:
            raise ConfigError(f"learning from labels needs a model that classifies, not a {type(model).__name__}")
        if num_classes and num_classes != has:
            raise ConfigError(f"model.num_classes is {has} but there are {num_classes} labels; set it to {num_classes}")
        if self.loss == "auto":
            raise ConfigError("objective.loss is 'auto' and nobody looked at the labels: set it to bce or ce")
        return Supervised(self)


class Supervised(PiecewiseObjective):
    """Term: classification. Report: accuracy, the share of windows whose highest logit is a label of the clip."""

    def __init__(self, config: SupervisedConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, model: nn.Module, batch: Batch, draws: Draws, *, only_compared: bool = False) -> Encodings:
        """The loss of every window against the labels of its clip. Raises ConfigError for a batch without labels."""
        if batch.labels is None:
            raise ConfigError("there are no labels to learn; prepare the store with --labels, or name data.classes")
        output: Output = model(batch.audio, batch.frames)
        assert output.logits is not None
        logits = output.logits.float()  # (B, N, K)
        target = smooth_labels(batch.labels, self.config.label_smoothing, mixed=batch.mixed)  # (B, K)
        target = target[:, None].expand_as(logits)
        with torch.autocast(logits.device.type, enabled=False):
            if self.config.loss == "bce":
                loss = F.binary_cross_entropy_with_logits(logits, target)
            else:
                loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1))
        best = logits.detach().argmax(-1)  # (B, N)
        accuracy = (batch.labels.gather(1, best) > 0).float().mean()
        return Encodings(terms={"classification": loss}, report={"accuracy": accuracy})


def smooth_labels(labels: Tensor, smoothing: float, *, mixed: Tensor | None = None) -> Tensor:
    """Targets (B, K) of `labels` (B, K), multi-hot or mixtures, by the published rule.

    Every class begins at smoothing / K. The classes of a clip that is itself are set to 1 - smoothing; those of a
    mixed clip (`mixed`, bool (B,)) get label x (1 - smoothing) added. So with smoothing 0.1 and four classes a label
    is 0.9 without mixing and 0.925 where both mixed clips have it. The slow form is in the tests.
    """
    floor = smoothing / labels.shape[1]
    plain = torch.where(labels > 0, 1 - smoothing, floor)
    if mixed is None:
        return plain
    return torch.where(mixed[:, None], floor + labels * (1 - smoothing), plain)
