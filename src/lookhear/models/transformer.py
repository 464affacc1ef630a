"""The transformer block that every part of a model is made of.

R rows, L tokens, D width.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE_BYTES = 4 << 20  # of attention weights that are worked on at a time: they stay in a CPU's cache
KEPT_BYTES = 256 << 20  # of attention weights that a layer keeps for the backward pass, at most
NORM_EPS = 1e-5  # the published models use PyTorch's default, not the 1e-6 of most vision transformers


class Stream(StrEnum):
    """What runs through a block, and so which of its norms are used; attention and MLP serve all streams."""

    JOINT = "joint"
    AUDIO = "audio"
    VISUAL = "visual"


class Attention(nn.Module):
    """Multi-head self-attention over all L tokens, one fused projection to query, key and value."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """(R, L, D) -> (R, L, D); with `lengths`, sequences that lie side by side and do not see each other."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (R, L, 3, heads, head width)
        parts = (qkv,) if lengths is None else qkv.split(list(lengths), dim=1)
        mixed = [attend(part).flatten(2) for part in parts]
        return self.out(mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1))


def attend(qkv: Tensor) -> Tensor:
    """Softmax attention of query, key and value (R, L, 3, heads, head width) -> (R, L, heads, head width).

    In the form that is faster. On CPUs the fused form is slow in bfloat16, its backward above all: there, two products
    and a softmax are faster, in pieces that stay in the cache. Timings: docs/performance.md.
    """
    rows, length, _, heads, _ = qkv.shape
    # without gradients no weights are kept
    fits = not torch.is_grad_enabled() or rows * heads * length**2 * qkv.element_size() <= KEPT_BYTES
    if fits and qkv.device.type == "cpu" and qkv.dtype == torch.bfloat16:
        return attend_in_pieces(qkv)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2)


def attend_in_pieces(qkv: Tensor) -> Tensor:
    """`attend` as two products and a softmax, some heads at a time; the weights are kept for a backward pass."""
    mixed: Tensor = _InPieces.apply(qkv) if torch.is_grad_enabled() else _in_pieces(*_by_head(qkv))
    return mixed.unflatten(0, (len(qkv), qkv.shape[3])).transpose(1, 2)


def _by_head(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(R, L, 3, heads, head width) -> three of (H, L, head width), H = R x heads, the first of them scaled."""
    # One copy, and every product reads rows that lie together.
    query, key, value = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
    return query * qkv.shape[4] ** -0.5, key, value


def _in_pieces(query: Tensor, key: Tensor, value: Tensor, weights: Tensor | None = None) -> Tensor:
    """(H, L, head width); what is attended to is written to `weights` (H, L, L), where that is given."""
    mixed = torch.empty_like(value)
    for piece in _pieces(query):
        scores = torch.bmm(query[piece], key[piece].transpose(1, 2))
        own = torch.softmax(scores, 2, out=None if weights is None else weights[piece])
        torch.bmm(own, value[piece], out=mixed[piece])
    return mixed


class _InPieces(torch.autograd.Function):
    """H = R x heads. Scores of a piece are written over, so that they never leave the cache."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        query, key, value = _by_head(qkv)
        weights = query.new_empty(len(query), qkv.shape[1], qkv.shape[1])
        mixed = _in_pieces(query, key, value, weights)
        ctx.save_for_backward(query, key, value, weights, mixed)
        ctx.heads = qkv.shape[3]
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        query, key, value, weights, mixed = ctx.saved_tensors
        (flowing,) = gradients  # (H, L, head width)
        found = query.new_empty(3, *query.shape)
        for piece in _pieces(weights):
            own, back = weights[piece], flowing[piece].contiguous()
            torch.bmm(own.transpose(1, 2), back, out=found[2, piece])
            # of a softmax: weights x (gradient - sum of weights x gradient), and that sum is back . mixed
            scores = torch.bmm(back, value[piece].transpose(1, 2))
            scores.sub_((back * mixed[piece]).sum(2, keepdim=True)).mul_(own)
            torch.bmm(scores, key[piece], out=found[0, piece])
            torch.bmm(scores.transpose(1, 2), query[piece], out=found[1, piece])
        found[0].mul_(query.shape[2] ** -0.5)
        return found.unflatten(1, (-1, ctx.heads)).permute(1, 3, 0, 2, 4)  # (R, L, 3, heads, head width)


def _pieces(heads: Tensor) -> list[slice]:
    """Ranges of the first dimension of `heads` (H, L, ...), whose weights (L, L) take about PIECE_BYTES each."""
    count, length, _ = heads.shape
    size = max(1, PIECE_BYTES // max(1, length**2 * heads.element_size()))
    return [slice(first, first + size) for first in range(0, count, size)]


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.shrink = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        return self.shrink(F.gelu(self.expand(tokens)))


class Block(nn.Module):
    """Pre-norm attention and MLP, with a pair of norms for each of `streams`."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, *, streams: Sequence[Stream] = (Stream.JOINT,)
    ) -> None:
        super().__init__()
        self.attention_norms = nn.ModuleDict({stream.value: layer_norm(width) for stream in streams})
        self.attention = Attention(width, heads)
        self.mlp_norms = nn.ModuleDict({stream.value: layer_norm(width) for stream in streams})
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, streams: Stream | Mapping[Stream, int] = Stream.JOINT) -> Tensor:
        """(R, L, D) -> (R, L, D), with the norms of the stream.

        Several streams, each with its number of tokens, lie side by side in `tokens`: every linear layer is then one
        product for all of them, and attention is each stream's own.
        """
        lengths = None if isinstance(streams, Stream) else list(streams.values())
        tokens = tokens + self.attention(_normed(self.attention_norms, tokens, streams), lengths)
        return tokens + self.mlp(_normed(self.mlp_norms, tokens, streams))


def _normed(norms: nn.ModuleDict, tokens: Tensor, streams: Stream | Mapping[Stream, int]) -> Tensor:
    if isinstance(streams, Stream):
        normed: Tensor = norms[streams.value](tokens)
        return normed
    parts = zip(streams, tokens.split(list(streams.values()), dim=1), strict=True)
    return torch.cat([norms[stream.value](part) for stream, part in parts], dim=1)


def layer_norm(width: int) -> nn.LayerNorm:
    """The LayerNorm that all models share."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def initialise_linear(module: nn.Module) -> None:
    """The published start, for `model.apply`: Xavier-uniform weights and zero biases in every Linear."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
