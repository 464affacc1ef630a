"""Schedules and parameter groups. If these fail, a published recipe is not what runs."""

import math

import pytest
import torch
from torch import nn

from lookhear.errors import ConfigError
from lookhear.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    freeze_encoder,
    learning_rate,
    set_learning_rate,
    training_mode,
)


def rates(config: OptimConfig, total_steps: int, steps_per_epoch: int = 1) -> list[float]:
    return [
        learning_rate(config, step=step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        for step in range(total_steps)
    ]


def test_the_published_step_schedule() -> None:
    """Epochs 1-10 at full rate, 11-15 at half, 16-20 at a quarter, 21-25 at an eighth (the published logs)."""
    found = rates(OptimConfig(learning_rate=1.0, schedule="step"), 50, steps_per_epoch=2)
    assert found == [1.0] * 20 + [0.5] * 10 + [0.25] * 10 + [0.125] * 10


def test_cuts_at_named_epochs() -> None:
    """AVID on HMDB51: three tenths at epochs 3, 6 and 8."""
    config = OptimConfig(learning_rate=1.0, schedule="step", step_factor=0.3, step_at=(3, 6, 8))
    expected = [1.0] * 3 + [0.3] * 3 + [0.09] * 2 + [0.027] * 2
    assert rates(config, 20, steps_per_epoch=2) == pytest.approx([rate for rate in expected for _ in range(2)])
    for wrong in ((3, 3), (6, 3), (0, 3)):
        with pytest.raises(ConfigError, match="step_at is"):
            OptimConfig(step_at=wrong)


def test_warmup_and_cosine() -> None:
    config = OptimConfig(learning_rate=2.0, schedule="cosine", warmup_share=0.1, final_share=0.1)
    found = rates(config, 100)
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert found[10] == pytest.approx(2.0)
    assert found[55] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert found[99] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 89 / 90))))
    assert rates(OptimConfig(learning_rate=3.0, schedule="constant"), 3) == [3.0] * 3
    assert rates(OptimConfig(learning_rate=1.0, warmup_share=0.9), 1) == [1.0]


def test_what_decays() -> None:
    """Matrices decay; norms, biases, tokens and scalars do not, unless the published way is asked for."""

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)
            self.norm = nn.LayerNorm(2)
            self.token = nn.Parameter(torch.zeros(1, 1, 3))
            self.scale = nn.Parameter(torch.tensor(1.0))
            self.table = nn.Parameter(torch.zeros(4, 3), requires_grad=False)

    groups = build_optimizer(OptimConfig(weight_decay=0.1), [Part()]).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(1, 0.1), (5, 0.0)]
    groups = build_optimizer(OptimConfig(weight_decay=0.1, decay_vectors=True), [Part()]).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(6, 0.1)]


def test_adam_couples_decay_and_adamw_does_not() -> None:
    for name, wanted in (("adam", 1.0 - 0.1), ("adamw", 1.0 - 0.1 * 0.5)):
        weight = nn.Linear(1, 1, bias=False)
        nn.init.ones_(weight.weight)
        config = OptimConfig(name=name, learning_rate=0.1, weight_decay=0.5, decay_vectors=True)  # type: ignore[arg-type]
        optimizer = build_optimizer(config, [weight])
        (weight.weight * 0.0).sum().backward()
        optimizer.step()
        assert weight.weight.item() == pytest.approx(wanted, abs=1e-5)


def test_clipping_gives_the_norm_before() -> None:
    part = nn.Linear(2, 1, bias=False)
    part.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(clip_gradients([part], 1.0)) == pytest.approx(5.0)
    assert part.weight.grad.norm() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": -1.0},
        {"warmup_share": 1.0},
        {"betas": (0.9, 1.0)},
        {"step_every": 0},
        {"clip_norm": 0.0},
        {"accumulate": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimConfig(**wrong)


class Headed(nn.Module):
    """An encoder with a head that says which parameters are its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.table = nn.Parameter(torch.zeros(4, 3), requires_grad=False)
        self.head = nn.Linear(2, 5)

    def head_parameters(self) -> list[nn.Parameter]:
        return list(self.head.parameters())


def test_the_head_has_a_rate_of_its_own() -> None:
    """Published: one Adam group for the encoder and one for the head, both on the same schedule."""
    model = Headed()
    config = OptimConfig(name="adam", decay_vectors=True, weight_decay=5e-7, head_ratio=100.0)
    optimizer = build_optimizer(config, [model])
    set_learning_rate(optimizer, 5e-5)
    assert [(len(group["params"]), group["lr"]) for group in optimizer.param_groups] == [
        (2, pytest.approx(5e-5)),
        (2, pytest.approx(5e-3)),
    ]
    apart = build_optimizer(OptimConfig(weight_decay=0.1), [model]).param_groups
    assert [group["weight_decay"] for group in apart] == [0.1, 0.0, 0.1, 0.0]


def test_a_frozen_encoder_stays() -> None:
    model = Headed()
    before = model.encoder.weight.clone()
    config = OptimConfig(learning_rate=0.1, freeze="encoder")
    freeze_encoder(config, model)
    optimizer = build_optimizer(config, [model])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
    model.head(model.encoder(torch.ones(1, 3))).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.encoder.weight, before)
    assert model.encoder.weight.grad is None


def test_a_frozen_batch_norm_keeps_its_statistics() -> None:
    """In training mode it would take those of the labelled clips, and be another encoder in the end."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False), nn.BatchNorm1d(3), nn.Dropout())
    model[0].requires_grad_(False)
    model.eval()
    training_mode(model)
    assert [layer.training for layer in model] == [False, True, True, True]
    before = [layer.running_mean.clone() for layer in model[:3]]
    model(torch.randn(8, 3) + 5)
    assert [bool((layer.running_mean == old).all()) for layer, old in zip(model[:3], before, strict=True)] == [
        True,
        False,
        False,
    ]


def test_what_cannot_be_frozen() -> None:
    with pytest.raises(ConfigError, match="needs a model with a head of its own, not a Linear"):
        freeze_encoder(OptimConfig(freeze="encoder"), nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="head_ratio is 5 and needs a model with a head of its own, not a Linear"):
        build_optimizer(OptimConfig(head_ratio=5.0), [nn.Linear(1, 1), nn.Identity()])
    with pytest.raises(ConfigError, match="head_ratio is -1"):
        OptimConfig(head_ratio=-1.0)


def test_the_published_fine_tuning_schedule() -> None:
    """AS-20K: epochs 1 to 5 at full rate, then half of the one before in every epoch."""
    found = rates(OptimConfig(learning_rate=1.0, schedule="step", step_from=5, step_every=1), 8)
    assert found == [1.0] * 5 + [0.5, 0.25, 0.125]


def test_what_an_objective_owns_can_keep_its_learning_rate() -> None:
    """CCL's composers have no schedule."""
    model, composer = nn.Linear(3, 2), nn.Linear(2, 2)
    for constant in (True, False):
        config = OptimConfig(learning_rate=0.4, weight_decay=0.1, constant_objective=constant)
        optimizer = build_optimizer(config, [model, composer])
        set_learning_rate(optimizer, 0.1)
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert {rates[id(p)] for p in model.parameters()} == {0.1}
        assert {rates[id(p)] for p in composer.parameters()} == {0.4 if constant else 0.1}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert (decays[id(composer.weight)], decays[id(composer.bias)]) == (0.1, 0.0)


def test_sgd_is_that_of_torch() -> None:
    """Momentum, Nesterov and decay reach the optimiser; a published run with plain SGD would otherwise be another."""

    def train(optimizer: torch.optim.Optimizer, module: nn.Module) -> torch.Tensor:
        for step in range(4):
            optimizer.zero_grad()
            module(torch.full((1, 3), step + 1.0)).square().sum().backward()
            optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    config = OptimConfig(
        name="sgd", learning_rate=0.01, momentum=0.8, nesterov=True, weight_decay=0.1, decay_vectors=True
    )
    expected = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.8, nesterov=True, weight_decay=0.1)
    torch.testing.assert_close(train(build_optimizer(config, [ours]), ours), train(expected, theirs))
    for settings in ({"momentum": 1.0}, {"momentum": 0.0, "nesterov": True}):
        with pytest.raises(ConfigError, match="momentum"):
            OptimConfig(name="sgd", **settings)
