"""Vectors that outlive a step: a bank with a row for every clip, and a queue of the newest.

Both are state of an objective: saved with a run, the same on every process, and never given a gradient.

n clips that are learned from, M windows of a step (of all processes), E embedding width, K rows drawn or kept.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.errors import ConfigError

Place = Literal["device", "cpu"]
Precision = Literal["float32", "float16"]
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_UNIT = 1e-6  # a row whose length is so near to 1 is unit already and keeps its bits


class MemoryBank(nn.Module):
    """A unit vector for every clip, moved towards its newest embedding (Wu et al., CVPR 2018; AVID, CVPR 2021).

    Rows start as random directions. `place="cpu"` keeps them off the device, where only what is drawn goes;
    `precision="float16"` halves them. Two banks of 128 numbers for the 1.8 million clips of AudioSet take 1.7 GiB.
    """

    vectors: Tensor  # (n, E)
    written: Tensor  # bool (n,): which rows hold an embedding
    instances: Tensor  # int64 (n,), ascending: the clip of each row, as its rank in the store

    def __init__(
        self, num_rows: int, width: int, *, momentum: float, place: Place = "device", precision: Precision = "float32"
    ) -> None:
        super().__init__()
        self.momentum = momentum
        self.place = place
        vectors = F.normalize(torch.randn(num_rows, width), dim=1)
        self.register_buffer("vectors", vectors.to(_DTYPES[precision]))
        self.register_buffer("written", torch.zeros(num_rows, dtype=torch.bool))
        self.register_buffer("instances", torch.arange(num_rows))

    def learns_from(self, instances: Tensor) -> None:
        """Names the clips of the rows: `instances` int64 (n,), ascending."""
        self.instances.copy_(instances)

    def rows_of(self, index: Tensor) -> Tensor:
        """int64, as `index`: the row of each clip, on the bank's device."""
        return torch.searchsorted(self.instances, index.to(self.instances.device))

    def read(self, rows: Tensor, like: Tensor) -> Tensor:
        """float32 (..., E) of `rows` (...), on the device of `like`; a copy, so later updates do not show in it."""
        return self.vectors[rows.to(self.vectors.device)].to(like.device, torch.float32)

    @torch.no_grad()
    def update(self, rows: Tensor, embeddings: Tensor) -> None:
        """`momentum x old + (1 - momentum) x new` for `rows` int64 (M,) of `embeddings` (M, E), brought to unit length.

        A row that comes several times (windows of one clip, a clip on two processes) takes the mean of its
        embeddings, so the order does not matter; rows of -1 are passed over. The slow form goes through the rows one
        by one. Rows not named keep their bits.
        """
        if self.momentum == 1:
            return
        rows = rows.to(self.vectors.device)
        embeddings = embeddings.to(self.vectors.device, torch.float32)
        named = torch.unique(rows)
        named = named[named >= 0]
        # as a product, because adding by index sums in any order on a GPU, and processes would drift apart
        shares = (named[:, None] == rows).float()
        new = (shares / shares.sum(1, keepdim=True)) @ embeddings
        mixed = self.vectors[named].float().mul_(self.momentum).add_(new, alpha=1 - self.momentum)
        self.vectors[named] = _unit(mixed).to(self.vectors.dtype)
        self.written[named] = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves to another device or type, unless the bank stays where it is."""
        return self if self.place == "cpu" else super()._apply(fn, recurse)


def draw_others(uniform: Tensor, excluded: Tensor) -> Tensor:
    """int64 (M, K): rows drawn from all n but those of `excluded` int64 (M, S), ascending and different.

    `uniform` int64 (M, K) are drawn from [0, n - S). Each is moved up by as many of the excluded rows as lie
    at or below it, which needs neither a table nor a second draw: r + #{k : r >= excluded_k - k}.
    """
    rank = torch.arange(excluded.shape[1], device=excluded.device)
    return uniform + torch.searchsorted((excluded - rank).contiguous(), uniform.contiguous(), right=True)


class FifoQueue(nn.Module):
    """The newest `length` keys, first in, first out (MoCo, He et al., CVPR 2020). It starts with random directions."""

    vectors: Tensor  # (K, E)
    owners: Tensor  # int64 (K,): the clip that each came from, -1 for a random one
    place: Tensor  # int64: where the next one goes

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        if length < 1:
            raise ConfigError(f"a queue of {length} keys holds nothing; use a length of at least 1")
        self.register_buffer("vectors", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("owners", torch.full((length,), -1))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def push(self, keys: Tensor, owners: Tensor) -> None:
        """Takes in `keys` (M, E) of the clips `owners` (M,); the oldest make room. It wraps round at any M."""
        length = len(self.vectors)
        kept = min(len(keys), length)
        first = self.place + len(keys) - kept
        places = (first + torch.arange(kept, device=self.vectors.device)) % length
        self.vectors[places] = keys[len(keys) - kept :].to(self.vectors)
        self.owners[places] = owners[len(owners) - kept :].to(self.owners)
        self.place.copy_((self.place + len(keys)) % length)


def _unit(rows: Tensor) -> Tensor:
    """Rows at unit length; those that have it already as they are."""
    lengths = rows.norm(dim=1, keepdim=True)
    return torch.where((lengths - 1).abs() <= _UNIT, rows, rows / lengths.clamp_min(1e-12))
