"""Random numbers for objectives that depend on (seed, epoch, clip), or on (seed, step), alone.

A generator's numbers depend on how often it was asked before; these do not. The same clip of the same epoch draws the
same mask whatever the batch it is in, the number of loader workers, the number of ranks, or how often the run was
stopped and resumed, and there is no state to save.
"""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

_BITS = 64
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of SplitMix64's finaliser


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of one step of one run."""

    seed: int
    epoch: int
    step: int = 0
    """of the run, from 0"""

    def uniform(self, index: Tensor, count: int, *, purpose: str) -> Tensor:
        """Float32 (B, count) in [0, 1) for clips `index`, int64 (B,), on its device.

        Row b depends only on (seed, epoch, index[b], purpose). Counter-based: each number is the SplitMix64 mix
        (Steele, Lea, Flood 2014) of its own position, so that nothing is drawn in a loop.
        """
        return _shift_right(self._bits(index, count, purpose), 40).to(torch.float32) / 2**24  # 24 bits fill a float32

    def _bits(self, index: Tensor, count: int, purpose: str) -> Tensor:
        """Int64 (B, count) of 64 random bits each."""
        rows = _mix(index.to(torch.int64) ^ _signed(self._key(purpose)))
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=index.device)
        return _mix(rows[:, None] + counter * _signed(0x9E3779B97F4A7C15))

    def integers(self, index: Tensor, count: int, high: int, *, purpose: str) -> Tensor:
        """Int64 (B, count) in [0, high), drawn as `uniform` is; exact up to any number of clips."""
        return _shift_right(self._bits(index, count, purpose), 1) % high

    def seed_of_step(self, rank: int) -> int:
        """A seed for whatever a model draws by itself in this step (dropout), another for every process."""
        return _mix_number(Draws(seed=self.seed, epoch=self.step)._key("step of a model") ^ rank) >> 1  # 63 bits

    def _key(self, purpose: str) -> int:
        """What all clips share, as an unsigned number: made by the CPU, which need not wait for a device then."""
        key = _mix_number(zlib.crc32(purpose.encode()))
        for part in (self.seed, self.epoch):
            key = _mix_number(key ^ part)
        return key

    def of_step(self, count: int, *, purpose: str) -> list[float]:
        """`count` numbers in [0, 1) for the whole step: they depend only on (seed, step, purpose)."""
        numbers = Draws(seed=self.seed, epoch=self.step).uniform(torch.zeros(1), count, purpose=f"step {purpose}")
        return numbers[0].tolist()


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors, whose products wrap as unsigned ones do."""
    x = (x ^ _shift_right(x, 30)) * _signed(_FACTORS[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_FACTORS[1])
    return x ^ _shift_right(x, 31)


def _mix_number(x: int) -> int:
    """`_mix` of one unsigned number."""
    x %= 1 << _BITS
    x = (x ^ (x >> 30)) * _FACTORS[0] % (1 << _BITS)
    x = (x ^ (x >> 27)) * _FACTORS[1] % (1 << _BITS)
    return x ^ (x >> 31)


def _shift_right(x: Tensor, count: int) -> Tensor:
    """The logical shift of 64 bits (torch shifts the sign in)."""
    return (x >> count) & ((1 << (_BITS - count)) - 1)


def _signed(value: int) -> int:
    """The int64 that has the bits of the unsigned `value`."""
    value %= 1 << _BITS
    return value - (1 << _BITS) if value >> (_BITS - 1) else value
