"""The transformer block that every part of a model is made of.

R rows, L tokens, D width.
"""

from collections.abc import Sequence
from enum import StrEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN_ATTENTION_TOKENS = 256
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

    def forward(self, tokens: Tensor) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (R, L, 3, heads, head width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(query, key, value)  # (R, heads, L, head width)
        return self.out(mixed.transpose(1, 2).flatten(2))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (R, heads, L, head width) each, in the form that is faster at this length.

    On CPUs the backward of the fused form is slow in bfloat16: below PLAIN_ATTENTION_TOKENS, two products and a softmax
    train faster: 14 ms against 45 at 110 tokens, 72 against 94 at 250 (128 rows, 2 heads of 64, 2 cores).
    """
    short = query.shape[2] < PLAIN_ATTENTION_TOKENS and query.device.type == "cpu"
    if short and query.dtype == torch.bfloat16 and torch.is_grad_enabled():
        weights = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)  # (R, heads, L, L)
        return weights.softmax(dim=3) @ value
    return F.scaled_dot_product_attention(query, key, value)


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

    def forward(self, tokens: Tensor, stream: Stream = Stream.JOINT) -> Tensor:
        """(R, L, D) -> (R, L, D), with the norms of `stream`."""
        tokens = tokens + self.attention(self.attention_norms[stream.value](tokens))
        return tokens + self.mlp(self.mlp_norms[stream.value](tokens))


def layer_norm(width: int) -> nn.LayerNorm:
    """The LayerNorm that all models share."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def initialise_linear(module: nn.Module) -> None:
    """The published start, for `model.apply`: Xavier-uniform weights and zero biases in every Linear."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
