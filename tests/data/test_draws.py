"""Draws depend on (seed, epoch, clip, purpose) alone. If these fail, a resumed run differs from an undisturbed one."""

import torch

from lookhear.data.draws import Draws

MASK64 = (1 << 64) - 1


def slow_splitmix(state: int) -> int:
    """The finaliser of SplitMix64 as its authors wrote it, on Python's integers."""
    z = state & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def slow_uniform(seed: int, epoch: int, index: int, count: int, purpose: str) -> list[float]:
    import zlib

    key = slow_splitmix(zlib.crc32(purpose.encode()))
    for part in (seed, epoch, index):
        key = slow_splitmix(key ^ part)
    return [(slow_splitmix(key + (i + 1) * 0x9E3779B97F4A7C15) >> 40) / 2**24 for i in range(count)]


def test_equals_the_slow_form() -> None:
    found = Draws(seed=3, epoch=2).uniform(torch.tensor([0, 12345678901]), 5, purpose="mask audio")
    for row, index in zip(found.tolist(), (0, 12345678901), strict=True):
        assert row == slow_uniform(3, 2, index, 5, "mask audio")


def test_a_clip_draws_the_same_in_any_batch() -> None:
    draws = Draws(seed=1, epoch=0)
    whole = draws.uniform(torch.tensor([4, 9, 2]), 100, purpose="mask")
    assert torch.equal(draws.uniform(torch.tensor([9]), 100, purpose="mask")[0], whole[1])
    assert torch.equal(draws.uniform(torch.tensor([2, 4]), 100, purpose="mask"), whole[[2, 0]])


def test_everything_else_changes_the_draw() -> None:
    index = torch.tensor([5])
    variants = [
        Draws(seed=0, epoch=0).uniform(index, 50, purpose="a"),
        Draws(seed=1, epoch=0).uniform(index, 50, purpose="a"),
        Draws(seed=0, epoch=1).uniform(index, 50, purpose="a"),
        Draws(seed=0, epoch=0).uniform(index + 1, 50, purpose="a"),
        Draws(seed=0, epoch=0).uniform(index, 50, purpose="b"),
    ]
    flat = torch.cat(variants)
    assert len(torch.unique(flat, dim=0)) == len(variants)


def test_draws_are_uniform() -> None:
    values = Draws(seed=0, epoch=0).uniform(torch.arange(200), 500, purpose="mask")
    assert values.dtype == torch.float32
    assert 0 <= float(values.min()) < 1e-3
    assert 1 - 1e-3 < float(values.max()) < 1
    shares = torch.histc(values, bins=20, min=0, max=1) / values.numel()
    assert (shares - 0.05).abs().max() < 0.004
    # neighbours, along a row and from clip to clip, have nothing to do with each other
    centred = values - 0.5
    assert (centred[:, 1:] * centred[:, :-1]).mean().abs() < 1e-3
    assert (centred[1:] * centred[:-1]).mean().abs() < 1e-3


def test_numbers_of_a_step_depend_on_seed_step_and_purpose_alone() -> None:
    first = Draws(seed=1, epoch=0, step=7).of_step(3, purpose="ratio")
    assert first == Draws(seed=1, epoch=5, step=7).of_step(3, purpose="ratio")
    others = [Draws(seed=2, epoch=0, step=7), Draws(seed=1, epoch=0, step=8)]
    assert len({tuple(first), *(tuple(draws.of_step(3, purpose="ratio")) for draws in others)}) == 3
    assert first != Draws(seed=1, epoch=0, step=7).of_step(3, purpose="noise")
    numbers = [Draws(seed=0, epoch=0, step=step).of_step(1, purpose="ratio")[0] for step in range(2000)]
    assert 0.48 < sum(numbers) / len(numbers) < 0.52
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
