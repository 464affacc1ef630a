"""Encoders: pictures, clips or spectrograms to one vector, tokens on a grid, and the maps of every stage.

ENCODERS names the kinds that a model can be made of. Whatever the kind, what goes in and what comes out is the same, so
any objective runs with any of them.

R rows (windows), C channels of a picture, M pictures of a window, H rows and W columns of the input; h, w of a stage's
map and t of what is left of its pictures; L = h x w tokens, K of them kept by a mask, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.config import nearest
from lookhear.errors import ConfigError
from lookhear.models.resnet import Norm, ResNet
from lookhear.models.tokens import Grid, Mask, patchify
from lookhear.models.towers import TowerSizes, TransformerTower
from lookhear.models.transformer import initialise_linear, layer_norm
from lookhear.models.video_resnet import VideoResNet

Pooling = Literal["mean", "max", "frequency"]
Pictures = Literal["stack", "apart", "first", "middle"]
MLP_RATIO = 4.0  # hidden width of a transformer's MLPs, in widths
POSITIONS = "trunk.tower.positions"  # the table of a vit encoder


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Sizes of an encoder; the defaults are ResNet-18. A setting that would do nothing for the kind is refused."""

    kind: str = "resnet"
    """a name in models.encoders.ENCODERS: resnet, plain (without shortcuts), r2plus1d (for clips), vit"""
    width: int = 512
    """D; of convolutional kinds the last stage's channels, each stage before it having half as many"""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """of each stage; (1, 1, 1, 1) makes the 10-layer form, (3, 4, 6, 3) ResNet-34; of vit: parts of its depth"""
    strides: tuple[int, ...] = (1, 2, 2, 2)
    """how much smaller each stage makes the map"""
    stem_stride: int = 2
    """of the first convolution, in space"""
    stem_pool: bool = True
    """whether the map is halved again before the first stage"""
    norm: Norm = "batch"
    """batch: published; group, layer, instance: the same whatever else is in the batch"""
    widened: bool = False
    """of r2plus1d: widened middle channels and a split stem (Tran et al., CCL) instead of equal widths (AVID)"""
    pooling: Pooling = "mean"
    """map to vector: mean, max, or frequency (rows joined by learned weights, then the largest over time)"""
    pictures: Pictures = "stack"
    """several pictures of a window: stacked as channels, each apart, or the first or middle one alone"""
    patch: tuple[int, int] = (16, 16)
    """of vit: rows and columns of a patch"""
    heads: int = 8
    """of vit: attention heads"""
    stem_channels: tuple[int, ...] = ()
    """of vit: channels of convolutions that make the tokens; empty: one linear map"""

    def __post_init__(self) -> None:
        if self.kind not in ENCODERS:
            raise ConfigError(f"no encoder '{self.kind}'{nearest(self.kind, ENCODERS)}")
        problems = []
        idle = _SETTINGS - ENCODERS[self.kind].settings
        for field in fields(self):
            if field.name in idle and getattr(self, field.name) != field.default:
                problems.append(f"{field.name} does nothing for an encoder of kind '{self.kind}'; leave it out")
        if "strides" not in idle and len(self.strides) != len(self.blocks):
            problems.append(f"there are {len(self.blocks)} stages (blocks) and {len(self.strides)} strides")
        if not self.blocks or min(self.blocks) < 0 or min(self.strides, default=1) < 1 or self.stem_stride < 1:
            problems.append("an encoder needs a stage, and blocks and strides cannot be negative or 0")
        elif "strides" not in idle and min(self.blocks) < 1:
            problems.append("every stage of a convolutional encoder needs a block")
        if "heads" not in idle and (self.heads < 1 or self.width % self.heads or self.width % 4):
            problems.append(f"width is {self.width}; it must be a multiple of 4 and of heads ({self.heads})")
        if "heads" in idle and self.width % (1 << (len(self.blocks) - 1)):
            problems.append(f"width is {self.width}; it must halve {len(self.blocks) - 1} times")
        if problems:
            raise ConfigError("; ".join(problems))

    def unseen_settings(self) -> dict[str, Any]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        names = {"kind", "strides", "stem_stride", "stem_pool", "pooling", "pictures", "heads"}
        return {name: getattr(self, name) for name in sorted(names - (_SETTINGS - ENCODERS[self.kind].settings))}


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """What an encoder reads: `pictures` pictures (or one spectrogram) of `channels` x `rows` x `columns`."""

    channels: int
    rows: int
    columns: int
    pictures: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """What an encoder says of R windows."""

    pooled: Tensor  # (R, D)
    tokens: Tensor  # (R, L, D), the mean over pictures; under a mask (R, K, D) in the mask's order
    grid: Grid  # of the whole window, also under a mask
    stages: tuple[Tensor, ...]  # each (R, C, h, w), or (R, C, t, h, w) where pictures are not stacked


class Encoder(nn.Module):
    """Windows (R, M x C, H, W), their pictures stacked as channels, to an `Encoding`."""

    def __init__(self, config: EncoderConfig, size: InputSize) -> None:
        super().__init__()
        self.config, self.size = config, size
        self.out_dim = config.width  # D
        self.grid = grid_of(config, size)
        kind = ENCODERS[config.kind]
        stacked = size.pictures if config.pictures == "stack" and not kind.reads_clips else 1
        self.trunk = kind.make(config, replace(size, channels=size.channels * stacked, pictures=1), self.grid)
        self.frequency = nn.Linear(self.grid.rows, 1) if config.pooling == "frequency" else None

    def forward(self, values: Tensor, mask: Mask | None = None) -> Encoding:
        """Encodes windows. What `mask` removes of the grid is zero in the input, and in neither tokens nor vector."""
        maps = self._maps(values if mask is None else values * self._shown(mask, values))
        last = maps[-1].unsqueeze(2) if maps[-1].ndim == 4 else maps[-1]  # (R, D, t, h, w)
        cells = last.flatten(3)  # (R, D, t, L)
        if mask is not None:
            cells = cells.gather(3, mask.kept[:, None, None].expand(-1, *cells.shape[1:3], -1))
        if self.frequency is not None:
            pooled = self.frequency(last.transpose(3, 4))[..., 0].amax((2, 3))
        elif self.config.pooling == "max":
            pooled = cells.amax((2, 3))
        else:
            pooled = cells.mean((2, 3))
        return Encoding(pooled=pooled, tokens=cells.mean(2).transpose(1, 2), grid=self.grid, stages=tuple(maps))

    def _maps(self, values: Tensor) -> list[Tensor]:
        """(R, M x C, H, W) to the map of each stage."""
        how, size = self.config.pictures, self.size
        each = values.unflatten(1, (size.pictures, size.channels))  # (R, M, C, H, W)
        if ENCODERS[self.config.kind].reads_clips:
            return self.trunk(each.transpose(1, 2))
        if how == "stack" or size.pictures == 1:
            return self.trunk(values)
        if how == "apart":
            maps = self.trunk(each.flatten(0, 1))
            return [found.unflatten(0, each.shape[:2]).transpose(1, 2) for found in maps]  # (R, C, M, h, w)
        return self.trunk(each[:, 0 if how == "first" else size.pictures // 2])

    def _shown(self, mask: Mask, values: Tensor) -> Tensor:
        """(R, 1, H, W): 0 where the mask removes a cell of the grid, 1 elsewhere."""
        kept = (~mask.removed).to(values.dtype).unflatten(1, (self.grid.rows, self.grid.columns))
        return F.interpolate(kept[:, None], values.shape[-2:], mode="nearest")


class TransformerTrunk(nn.Module):
    """A vision transformer (R, C, H, W) -> maps: the blocks in parts, so that it too has stages."""

    def __init__(self, config: EncoderConfig, size: InputSize, grid: Grid) -> None:
        super().__init__()
        if size.rows % config.patch[0] or size.columns % config.patch[1]:
            raise ConfigError(
                f"patches of {config.patch[0]} x {config.patch[1]} do not fill {size.rows} x {size.columns}; "
                "set the encoder's patch to divisors of these"
            )
        self.patch, self.parts = config.patch, config.blocks
        self.tower = TransformerTower(
            TowerSizes(
                grid=grid,
                patch=config.patch,
                channels=size.channels,
                depth=sum(config.blocks),
                width=config.width,
                heads=config.heads,
                mlp_ratio=MLP_RATIO,
                stem_channels=config.stem_channels,
            )
        )
        self.norm = layer_norm(config.width)
        self.apply(initialise_linear)
        self.tower.initialise()

    def forward(self, values: Tensor) -> list[Tensor]:
        """The map (R, D, rows, columns) after each part of the blocks; the last one normalised."""
        tokens = self.tower.embed(patchify(values, self.patch), None)  # (R, L, D)
        grid, maps, done = self.tower.grid, [], 0
        for count in self.parts:
            for block in self.tower.blocks[done : done + count]:
                tokens = block(tokens)
            done += count
            maps.append(self.norm(tokens) if done == len(self.tower.blocks) else tokens)
        return [tokens.transpose(1, 2).unflatten(2, (grid.rows, grid.columns)) for tokens in maps]


# ---- the kinds


@dataclass(frozen=True, kw_only=True)
class EncoderKind:
    """How encoders of a kind are made, and which settings they have besides width, blocks, pooling and patch."""

    make: Callable[[EncoderConfig, InputSize, Grid], nn.Module]
    """the trunk: (R, C, H, W), or of kinds that read clips (R, C, M, H, W), to a list of maps"""
    settings: frozenset[str]
    """fields of EncoderConfig that not all kinds have"""
    reads_clips: bool = False


def _resnet(config: EncoderConfig, size: InputSize, grid: Grid) -> nn.Module:
    return ResNet(size.channels, **_sizes(config), shortcuts=config.kind == "resnet")


def _video_resnet(config: EncoderConfig, size: InputSize, grid: Grid) -> nn.Module:
    return VideoResNet(size.channels, **_sizes(config), widened=config.widened)


def _sizes(config: EncoderConfig) -> dict[str, Any]:
    names = ("width", "blocks", "strides", "stem_stride", "stem_pool", "norm")
    return {name: getattr(config, name) for name in names}


_CONVOLUTIONS = frozenset({"strides", "stem_stride", "stem_pool", "norm"})
_FLAT = _CONVOLUTIONS | {"pictures"}
ENCODERS: dict[str, EncoderKind] = {
    "resnet": EncoderKind(make=_resnet, settings=_FLAT),
    "plain": EncoderKind(make=_resnet, settings=_FLAT),
    "r2plus1d": EncoderKind(make=_video_resnet, settings=_CONVOLUTIONS | {"widened"}, reads_clips=True),
    "vit": EncoderKind(make=TransformerTrunk, settings=frozenset({"patch", "heads", "stem_channels", "pictures"})),
}
_SETTINGS = frozenset().union(*(kind.settings for kind in ENCODERS.values()))


def grid_of(config: EncoderConfig, size: InputSize) -> Grid:
    """How the tokens of a window lie."""
    if config.kind == "vit":
        return Grid(size.rows // config.patch[0], size.columns // config.patch[1])
    rows, columns = size.rows, size.columns
    for stride in (config.stem_stride, 2 if config.stem_pool else 1, *config.strides):
        rows, columns = -(-rows // stride), -(-columns // stride)
    return Grid(rows, columns)
