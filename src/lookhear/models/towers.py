"""Towers: patches of one modality to tokens on a grid. TOWERS names the kinds that a model can be made of.

R rows (windows), L tokens of a whole window, K of them kept by a mask, D width, P values in a patch, C channels.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lookhear.models.tokens import Grid, Mask, sincos_positions, unpatchify
from lookhear.models.transformer import Block, Mlp, layer_norm

STEM_GAIN = 3.0  # of the last normalisation of a convolutional stem, at the start
TOKEN_STD = 0.02  # of the normal draw that mask, modality and global tokens start from
CONV_KERNEL = 7  # cells of the token grid, of a block of the convolutional tower


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """What a model asks of the tower of one modality."""

    grid: Grid
    patch: tuple[int, int]  # rows and columns of values in a patch
    channels: int  # C
    depth: int  # blocks
    width: int  # D
    heads: int
    mlp_ratio: float
    stem_channels: tuple[int, ...] = ()
    learned_positions: bool = False
    num_global_tokens: int = 0
    num_registers: int = 0
    keep_registers: bool = False


class Tower(nn.Module):
    """What any encoder must be to stand in for a vision transformer: a subclass that gives the tokens of patches.

    A subclass takes `TowerSizes`, calls `super().__init__(sizes)`, and defines `content`. Tokens lie on `grid`,
    row-major, one a patch, because masks and the decoder count in patches. The position, the modality and, in a
    CAV-MAE Sync, the global token and the registers are added here. A tower whose later layers mix tokens, as
    attention does, defines `mix` too and sets `mixes_tokens`: then global tokens and registers go through them.
    """

    mixes_tokens: ClassVar[bool] = False

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        self.grid = sizes.grid
        self.keep_registers = sizes.keep_registers
        positions = sincos_positions(sizes.grid, sizes.width)
        self.positions = nn.Parameter(positions, requires_grad=sizes.learned_positions)  # (L, D)
        self.modality = nn.Parameter(torch.zeros(sizes.width))  # (D,)
        self.global_tokens = _tokens(sizes.num_global_tokens, sizes.width)
        self.registers = _tokens(sizes.num_registers, sizes.width)

    def content(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D) in the order of `mask.kept`; None keeps all.

        What the mask removes must not reach any token: reconstruction would read it off.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `content`")

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (R, [global] + K + [registers], D) to as many."""
        return tokens

    def initialise(self) -> None:
        """The published start; registers are drawn fifty times larger than global tokens."""
        nn.init.normal_(self.modality, std=TOKEN_STD)
        self.initialise_content()
        if self.global_tokens is not None:
            nn.init.normal_(self.global_tokens, std=TOKEN_STD)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=1.0)

    def initialise_content(self) -> None:
        """Draws what `content` needs beyond the Linear layers, which the model has drawn by then."""

    def embed(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D) with position and modality, before `mix`."""
        positions: Tensor = self.positions  # (L, D)
        if mask is not None:
            positions = positions[mask.kept]  # (R, K, D)
        return self.content(patches, mask) + positions + self.modality

    def forward(self, patches: Tensor, mask: Mask | None = None) -> Tensor:
        """Patches (R, L, P) to [global, K patch tokens, registers if they are kept] (R, ..., D).

        Neither the global token nor the registers are ever masked.
        """
        tokens = self.embed(patches, mask)
        parts = [_rows(part, tokens) for part in (self.global_tokens, tokens, self.registers) if part is not None]
        tokens = self.mix(parts[0] if len(parts) == 1 else torch.cat(parts, dim=1))
        if self.registers is None or self.keep_registers:
            return tokens
        return tokens[:, : tokens.shape[1] - len(self.registers)]


def _tokens(count: int, width: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(count, width)) if count else None


def _rows(part: Tensor, like: Tensor) -> Tensor:
    """Tokens (n, D), the same for every window, as (R, n, D)."""
    return part if part.ndim == 3 else part.to(like.dtype).expand(len(like), *part.shape)


class TransformerTower(Tower):
    """The published tower: a linear embedding of each patch (or a stem of convolutions), then transformer blocks."""

    mixes_tokens = True

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__(sizes)
        self.patch_embedding: nn.Linear | Stem
        if sizes.stem_channels:
            widths = (*sizes.stem_channels, sizes.width)
            self.patch_embedding = Stem(sizes.grid, sizes.patch, sizes.channels, widths)
        else:
            self.patch_embedding = nn.Linear(sizes.patch[0] * sizes.patch[1] * sizes.channels, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.heads, sizes.mlp_ratio) for _ in range(sizes.depth))

    def initialise_content(self) -> None:
        """The embedding's bias is PyTorch's own draw, as for the convolution that it stands for."""
        if isinstance(self.patch_embedding, Stem):
            self.patch_embedding.initialise()
        else:
            bound = self.patch_embedding.in_features**-0.5
            nn.init.uniform_(self.patch_embedding.bias, -bound, bound)

    def content(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D); a linear embedding computes only what the mask keeps."""
        if isinstance(self.patch_embedding, Stem):
            return _kept(self.patch_embedding(_seen(patches, mask)), mask)
        return self.patch_embedding(_kept(patches, mask).to(self.patch_embedding.weight.dtype))

    def mix(self, tokens: Tensor) -> Tensor:
        """Tokens (R, n, D) through the blocks."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class ConvTower(Tower):
    """A convolutional net: a stem of strided convolutions, then blocks of wide depthwise ones on the token grid.

    The block is ConvNeXt's (Liu et al., CVPR 2022) without layer scale. Cells that a mask removes are zero before
    every convolution (Tian et al., "SparK", ICLR 2023), so nothing of them reaches a token. Global tokens wait for
    the joint blocks: nothing here lets them look at the patches.
    """

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__(sizes)
        self.stem = Stem(sizes.grid, sizes.patch, sizes.channels, (*sizes.stem_channels, sizes.width))
        self.blocks = nn.ModuleList(ConvBlock(sizes.width, sizes.mlp_ratio) for _ in range(sizes.depth))

    def initialise_content(self) -> None:
        """See `Stem.initialise`."""
        self.stem.initialise()

    def content(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D); the whole grid is computed, whatever the mask keeps."""
        tokens = self.stem(_seen(patches, mask))  # (R, L, D)
        for block in self.blocks:
            tokens = block(_seen(tokens, mask), self.grid)
        return _kept(tokens, mask)


class ConvBlock(nn.Module):
    """A depthwise convolution over the grid and an MLP on every cell, added to the input."""

    def __init__(self, width: int, mlp_ratio: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, CONV_KERNEL, padding=CONV_KERNEL // 2, groups=width)
        self.norm = layer_norm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        laid = tokens.transpose(1, 2).unflatten(2, (grid.rows, grid.columns)).contiguous()  # (R, D, rows, columns)
        around: Tensor = self.depthwise(laid)
        return tokens + self.mlp(self.norm(around.flatten(2).transpose(1, 2)))


TOWERS: dict[str, type[Tower]] = {"vit": TransformerTower, "conv": ConvTower}


def _seen(values: Tensor, mask: Mask | None) -> Tensor:
    """(R, L, X) with zeros where the mask removes: a convolution sees across patches, so it must be gone before."""
    return values if mask is None else values * ~mask.removed[..., None]


def _kept(values: Tensor, mask: Mask | None) -> Tensor:
    """(R, L, X) -> (R, K, X): what the mask keeps, in its order. Whole rows are copied, not single numbers."""
    if mask is None:
        return values
    first = values.shape[1] * torch.arange(len(values), device=values.device)  # of the places of each row
    places = (mask.kept + first[:, None]).flatten()
    return values.flatten(0, 1).index_select(0, places).unflatten(0, (len(values), -1))


class Stem(nn.Module):
    """Convolutions that make one token a patch: they learn from few clips what a linear map learns from millions.

    Early convolutions as in Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021, with each
    channel normalised over the positions of its window (instance normalisation): what is rare in a window, such as a
    small object before a wide background, stands out. The strides multiply to the patch.
    """

    def __init__(self, grid: Grid, patch: tuple[int, int], channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        steps = zip(strides(patch[0], len(widths)), strides(patch[1], len(widths)), strict=True)
        layers: list[nn.Module] = []
        for width, stride in zip(widths, steps, strict=True):
            reach = (-(-stride[0] // 2), -(-stride[1] // 2))  # the kernel reaches half a stride beyond its patch
            kernel = (2 * reach[0] + 1, 2 * reach[1] + 1)
            layers += [nn.Conv2d(channels, width, kernel, stride, reach), nn.GroupNorm(width, width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)

    def initialise(self) -> None:
        """Content starts out larger than the position that is added to it: learning sets in twice as early."""
        norm = self.layers[-2]
        assert isinstance(norm, nn.GroupNorm)
        nn.init.constant_(norm.weight, STEM_GAIN)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (R, L, P) to tokens (R, L, D)."""
        # contiguous: group normalisation of a channels-last tensor is several times slower on CPUs
        tokens: Tensor = self.layers(unpatchify(patches, self.grid, self.patch).contiguous())
        return tokens.flatten(2).transpose(1, 2)


def strides(size: int, count: int) -> list[int]:
    """`count` strides whose product is `size`, the large ones first."""
    chosen = [1] * count
    factors = []
    factor = 2
    while size > 1:
        while size % factor == 0:
            factors.append(factor)
            size //= factor
        factor += 1
    for factor in sorted(factors, reverse=True):
        smallest = min(range(count), key=lambda i: (chosen[i], i))
        chosen[smallest] *= factor
    return sorted(chosen, reverse=True)
