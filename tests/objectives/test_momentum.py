"""The slow copy of MoCo. If these fail, keys come from the model itself, or learn."""

import torch
from torch import nn

from lookhear.objectives.momentum import MomentumCopy


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


def test_it_follows_as_the_formula_says() -> None:
    model = make()
    model[2].bias.requires_grad_(False)
    copied = MomentumCopy(model, momentum=0.9)
    before = [parameter.clone() for parameter in copied.model.parameters()]
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    copied.follow(model)
    for old, own, theirs in zip(before, copied.model.parameters(), model.parameters(), strict=True):
        if not theirs.requires_grad:
            assert torch.equal(own, old)
            continue
        wanted = 0.9 * old.double() + (1 - 0.9) * theirs.detach().double()
        torch.testing.assert_close(own.double(), wanted, rtol=2e-7, atol=1e-8)  # rounding of float32


def test_nothing_of_it_learns() -> None:
    model = make()
    copied = MomentumCopy(model, momentum=0.99)
    assert not any(parameter.requires_grad for parameter in copied.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    out = copied(torch.randn(3, 4))
    assert not out.requires_grad


def test_statistics_are_its_own() -> None:
    """Parameters follow, running means of batch normalisation do not: as published."""
    model = make()
    copied = MomentumCopy(model, momentum=0.5)
    model[1].running_mean.fill_(7.0)
    copied.follow(model)
    assert float(copied.model[1].running_mean.abs().max()) == 0
