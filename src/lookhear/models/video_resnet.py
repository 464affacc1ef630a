"""R(2+1)D: residual networks for clips, whose 3-D convolutions are split into one of space and one of time.

Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018, in two forms: with equal
widths and a whole 3-D stem, as in AVID (Morgado et al., CVPR 2021), or with middle channels widened so that a split
convolution has the parameters of a whole one, as in CCL (Chen et al., CVPR 2021).

R rows, C channels, T pictures of a clip, t of them left in a map, h rows and w columns.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.models.resnet import (
    STEM_KERNEL,
    Norm,
    initialise_convolutions,
    keeps_channels_last,
    make_norm,
    stage_widths,
)

_TIME = 3  # pictures that a convolution of time sees


def middle_channels(channels: int, width: int, kernel: int) -> int:
    """Channels between space and time with which a split convolution has as many numbers as a whole 3-D one."""
    area = kernel * kernel
    return _TIME * area * channels * width // (area * channels + _TIME * width)


class SpaceConvolution(nn.Conv2d):
    """A convolution of every picture of a clip by itself: (R, C, t, h, w) -> (R, C', t, h', w')."""

    def forward(self, values: Tensor) -> Tensor:
        """Pictures as rows; where the channels lie last in memory, nothing is copied."""
        rows, _, pictures = values.shape[:3]
        found = super().forward(values.transpose(1, 2).flatten(0, 1))
        return found.unflatten(0, (rows, pictures)).transpose(1, 2)


class WholeConvolution(nn.Conv3d):
    """A 3-D convolution over three pictures and space: (R, C, T, H, W) -> (R, C', T, h, w).

    In bfloat16 on CPUs as a 2-D one over each picture and its neighbours, stacked: there PyTorch's 3-D convolution
    (2.13) leaves parts of the gradient of a kernel unwritten where a clip has few pictures, and training ends in
    numbers that are none.
    """

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int) -> None:
        half = kernel // 2
        super().__init__(
            channels, width, (_TIME, kernel, kernel), (1, stride, stride), (_TIME // 2, half, half), bias=False
        )

    def forward(self, values: Tensor) -> Tensor:
        """As a 2-D one, pictures are rows, with an empty one before the first and after the last."""
        if values.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(values)
        rows, _, pictures = values.shape[:3]
        near = F.pad(values, (0, 0, 0, 0, _TIME // 2, _TIME // 2)).unfold(2, _TIME, 1)  # (R, C, T, H, W, 3)
        stacked = near.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)  # (R T, 3 C, H, W)
        found = F.conv2d(stacked, self.weight.flatten(1, 2), None, self.stride[1:], self.padding[1:])
        return found.unflatten(0, (rows, pictures)).transpose(1, 2)


class TimeConvolution(nn.Conv2d):
    """A convolution over time of every place by itself: (R, C, t, h, w) -> (R, C', t', h, w).

    As a 2-D one over time and places everywhere, for the reason that `WholeConvolution` gives.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(channels, width, (_TIME, 1), (stride, 1), (_TIME // 2, 0), bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Places as columns."""
        return super().forward(values.flatten(3)).unflatten(3, values.shape[3:])


class ClipNorm(nn.Module):
    """Normalisation of maps (R, C, t, h, w) over time and space alike."""

    def __init__(self, kind: Norm, channels: int) -> None:
        super().__init__()
        self.norm = make_norm(kind, channels)

    def forward(self, values: Tensor) -> Tensor:
        """(R, C, t, h, w) -> the same."""
        normed: Tensor = self.norm(values.flatten(3))
        return normed.unflatten(3, values.shape[3:])


def _split(channels: int, width: int, *, kernel: int, stride: tuple[int, int], norm: Norm, widened: bool) -> nn.Module:
    """Space, norm, ReLU, time, norm; `stride` is (time, space)."""
    middle = middle_channels(channels, width, kernel) if widened else width
    time, space = stride
    return nn.Sequential(
        SpaceConvolution(channels, middle, kernel, space, kernel // 2, bias=False),
        ClipNorm(norm, middle),
        nn.ReLU(),
        TimeConvolution(middle, width, time),
        ClipNorm(norm, width),
    )


class ClipBlock(nn.Module):
    """Two split convolutions, added to their input, which a 1 x 1 x 1 convolution fits where it must."""

    def __init__(self, channels: int, width: int, stride: int, *, norm: Norm, widened: bool) -> None:
        super().__init__()
        self.stride = stride
        self.convolutions = nn.Sequential(
            _split(channels, width, kernel=3, stride=(stride, stride), norm=norm, widened=widened),
            nn.ReLU(),
            _split(width, width, kernel=3, stride=(1, 1), norm=norm, widened=widened),
        )
        fits = stride == 1 and channels == width
        layers: list[nn.Module] = [] if fits else [SpaceConvolution(channels, width, 1, stride, bias=False)]
        if layers and widened:
            layers.append(ClipNorm(norm, width))
        self.shortcut = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """(R, C, t, h, w) -> (R, width, t / stride, h / stride, w / stride)."""
        return torch.relu(self.convolutions(values) + self.shortcut(values[:, :, :: self.stride]))


class VideoResNet(nn.Module):
    """Clips (R, C, T, H, W) to the maps of its stages; sizes as in `ResNet`, strides of time and space alike."""

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
        widened: bool,
    ) -> None:
        super().__init__()
        self.channels_last = keeps_channels_last(norm)
        widths = stage_widths(width, len(blocks))
        first: nn.Module
        if widened:
            first = _split(channels, widths[0], kernel=STEM_KERNEL, stride=(1, stem_stride), norm=norm, widened=True)
        else:
            whole = WholeConvolution(channels, widths[0], kernel=STEM_KERNEL, stride=stem_stride)
            first = nn.Sequential(whole, ClipNorm(norm, widths[0]))
        pool = [nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))] if stem_pool else []
        self.stem = nn.Sequential(first, nn.ReLU(), *pool)
        self.stages = nn.ModuleList()
        before = widths[0]
        for count, stride, own in zip(blocks, strides, widths, strict=True):
            sizes = [(before, stride), *[(own, 1)] * (count - 1)]
            self.stages.append(
                nn.Sequential(*(ClipBlock(inner, own, step, norm=norm, widened=widened) for inner, step in sizes))
            )
            before = own
        self.apply(initialise_convolutions)

    def forward(self, values: Tensor) -> list[Tensor]:
        """(R, C, T, H, W) -> the map (R, width, t, h, w) of each stage, in turn."""
        if self.channels_last:
            values = values.contiguous(memory_format=torch.channels_last_3d)
        values = self.stem(values)
        maps = []
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        return maps
