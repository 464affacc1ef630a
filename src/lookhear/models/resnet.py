"""Residual networks for pictures and spectrograms: a stem, then stages of blocks, each twice as wide as the one before.

He et al., "Deep residual learning for image recognition", CVPR 2016. Without the shortcuts it is the audio network of
AVID (Morgado et al., CVPR 2021).

R rows, C channels, h rows and w columns of a map.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "group", "layer", "instance"]

STEM_KERNEL = 7
GROUP_CHANNELS = 16  # of a group, where channels are normalised in groups (Wu and He, ECCV 2018)


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Normalisation of maps (R, channels, h, w).

    Batch normalisation is the published choice. The others do not look at other rows: they are the same for a batch
    of one, on any number of processes, and tell a momentum encoder nothing of who its neighbours are.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    groups = {"group": max(1, channels // GROUP_CHANNELS), "layer": 1, "instance": channels}[kind]
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def keeps_channels_last(kind: Norm) -> bool:
    """Whether convolutions are to have channels last in memory.

    On a CPU in bfloat16 a clip network with batch normalisation trains 1.9 times as fast so (group normalisation 1.3
    times); with each channel normalised by itself it takes 1.7 times as long.
    """
    return kind != "instance"


def initialise_convolutions(module: nn.Module) -> None:
    """The start of He et al. (ICCV 2015), for `model.apply`: normal draws that keep the variance of ReLU networks."""
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def stage_widths(width: int, count: int) -> list[int]:
    """Channels of each stage: the last has `width`, each half of the next."""
    return [width >> (count - 1 - stage) for stage in range(count)]


class Block(nn.Module):
    """Two 3 x 3 convolutions; with `shortcut`, added to their input, which a 1 x 1 convolution fits where it must."""

    def __init__(self, channels: int, width: int, stride: int, *, norm: Norm, shortcut: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            make_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            make_norm(norm, width),
        )
        self.shortcut: nn.Module | None = None
        if shortcut:
            fits = stride == 1 and channels == width
            self.shortcut = nn.Sequential(
                *([] if fits else [nn.Conv2d(channels, width, 1, stride, bias=False), make_norm(norm, width)])
            )

    def forward(self, values: Tensor) -> Tensor:
        """(R, C, h, w) -> (R, width, h / stride, w / stride)."""
        found = self.convolutions(values)
        if self.shortcut is not None:
            found = found + self.shortcut(values)
        return torch.relu(found)


class ResNet(nn.Module):
    """Pictures (R, C, H, W) to the maps of its stages.

    `blocks` says how many blocks each stage has and `strides` how much smaller its first one makes the map; the stem
    is a convolution of 7 x 7 and, with `stem_pool`, a pooling that halves the map again.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int,
        blocks: Sequence[int],
        strides: Sequence[int],
        stem_stride: int,
        stem_pool: bool,
        norm: Norm,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        self.channels_last = keeps_channels_last(norm)
        widths = stage_widths(width, len(blocks))
        self.stem = nn.Sequential(
            nn.Conv2d(channels, widths[0], STEM_KERNEL, stem_stride, STEM_KERNEL // 2, bias=False),
            make_norm(norm, widths[0]),
            nn.ReLU(),
            *([nn.MaxPool2d(3, 2, 1)] if stem_pool else []),
        )
        self.stages = nn.ModuleList()
        before = widths[0]
        for count, stride, own in zip(blocks, strides, widths, strict=True):
            sizes = [(before, stride), *[(own, 1)] * (count - 1)]
            self.stages.append(
                nn.Sequential(*(Block(inner, own, step, norm=norm, shortcut=shortcuts) for inner, step in sizes))
            )
            before = own
        self.apply(initialise_convolutions)

    def forward(self, values: Tensor) -> list[Tensor]:
        """(R, C, H, W) -> the map (R, width, h, w) of each stage, in turn."""
        if self.channels_last:
            values = values.contiguous(memory_format=torch.channels_last)
        values = self.stem(values)
        maps = []
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        return maps
