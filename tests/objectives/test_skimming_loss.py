"""The loss of skimming against its sum over videos and classes."""

import math

import pytest
import torch

from lookhear.errors import ConfigError
from lookhear.models.skimmer import Skim
from lookhear.objectives.skimming import SkimmingConfig, skimming_loss

TARGET = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])


def seen(*, memory: bool = True) -> Skim:
    generator = torch.Generator().manual_seed(0)
    return Skim(
        logits=torch.randn(2, 3, generator=generator) * 2,
        fused=torch.zeros(2, 4, 5),
        counted=torch.ones(2, 4, dtype=torch.bool),
        step_logits=torch.randn(2, 4, 3, generator=generator) if memory else None,
        chosen=torch.zeros(2, 0, dtype=torch.int64),
    )


def literal(logits: torch.Tensor, loss: str) -> float:
    total = 0.0
    for row, labels in zip(logits.tolist(), TARGET.tolist(), strict=True):
        if loss == "ce":
            normaliser = math.log(sum(math.exp(value) for value in row))
            own = [value - normaliser for value, label in zip(row, labels, strict=True) if label]
            total -= sum(own) / len(own) / len(TARGET)
        else:
            shares = [1 / (1 + math.exp(-value)) for value in row]
            each = [math.log(p) if label else math.log(1 - p) for p, label in zip(shares, labels, strict=True)]
            total -= sum(each) / len(each) / len(TARGET)
    return total


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_both_losses(loss: str) -> None:
    skim = seen()
    assert skim.step_logits is not None
    config = SkimmingConfig(loss=loss, average_weight=0.5, memory_weight=2.0)  # type: ignore[arg-type]
    step = skimming_loss(skim, TARGET, config)
    assert float(step.terms["average"]) == pytest.approx(0.5 * literal(skim.logits, loss), abs=1e-5)
    assert float(step.terms["memory"]) == pytest.approx(2.0 * literal(skim.step_logits[:, -1], loss), abs=1e-5)
    assert float(step.loss) == pytest.approx(float(sum(step.terms.values())))
    best = skim.logits.argmax(1).tolist()
    assert float(step.report["accuracy"]) == sum(TARGET[row, column] for row, column in enumerate(best)) / 2


def test_the_published_command_learns_from_the_mean_alone() -> None:
    assert set(skimming_loss(seen(), TARGET, SkimmingConfig(loss="ce")).terms) == {"average"}


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="nobody looked"):
        skimming_loss(seen(), TARGET, SkimmingConfig())
    with pytest.raises(ConfigError, match="no memory"):
        skimming_loss(seen(memory=False), TARGET, SkimmingConfig(loss="ce", memory_weight=1.0))
    for weights in ({"average_weight": 0.0}, {"average_weight": -1.0}):
        with pytest.raises(ConfigError, match="not both 0"):
            SkimmingConfig(**weights)
