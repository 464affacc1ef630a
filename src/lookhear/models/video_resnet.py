"""R(2+1)D: residual networks for clips, whose 3-D convolutions are split into one of space and one of time.

Tran et al., "A closer look at spatiotemporal convolutions for action recognition", CVPR 2018, in two forms: with equal
widths and a whole 3-D stem, as in AVID (Morgado et al., CVPR 2021), or with middle channels widened so that a split
convolution has the parameters of a whole one, as in CCL (Chen et al., CVPR 2021).

R rows, C channels, T pictures of a clip, t of them left in a map, h rows and w columns.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lookhear.models.resnet import STEM_KERNEL, Norm, initialise_convolutions, make_norm, stage_widths

_TIME = 3  # pictures that a convolution of time sees


def middle_channels(channels: int, width: int, kernel: int) -> int:
    """Channels between space and time with which a split convolution has as many numbers as a whole 3-D one."""
    area = kernel * kernel
    return _TIME * area * channels * width // (area * channels + _TIME * width)


def _split(channels: int, width: int, *, kernel: int, stride: tuple[int, int], norm: Norm, widened: bool) -> nn.Module:
    """Space, norm, ReLU, time, norm; `stride` is (time, space)."""
    middle = middle_channels(channels, width, kernel) if widened else width
    time, space = stride
    half = kernel // 2
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, kernel, kernel), (1, space, space), (0, half, half), bias=False),
        make_norm(norm, middle, dimensions=3),
        nn.ReLU(),
        nn.Conv3d(middle, width, (_TIME, 1, 1), (time, 1, 1), (_TIME // 2, 0, 0), bias=False),
        make_norm(norm, width, dimensions=3),
    )


class ClipBlock(nn.Module):
    """Two split convolutions, added to their input, which a 1 x 1 x 1 convolution fits where it must."""

    def __init__(self, channels: int, width: int, stride: int, *, norm: Norm, widened: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _split(channels, width, kernel=3, stride=(stride, stride), norm=norm, widened=widened),
            nn.ReLU(),
            _split(width, width, kernel=3, stride=(1, 1), norm=norm, widened=widened),
        )
        fits = stride == 1 and channels == width
        layers: list[nn.Module] = [] if fits else [nn.Conv3d(channels, width, 1, stride, bias=False)]
        if layers and widened:
            layers.append(make_norm(norm, width, dimensions=3))
        self.shortcut = nn.Sequential(*layers)

    def forward(self, values: Tensor) -> Tensor:
        """(R, C, t, h, w) -> (R, width, t / stride, h / stride, w / stride)."""
        return torch.relu(self.convolutions(values) + self.shortcut(values))


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
        widths = stage_widths(width, len(blocks))
        first: nn.Module
        if widened:
            first = _split(channels, widths[0], kernel=STEM_KERNEL, stride=(1, stem_stride), norm=norm, widened=True)
        else:
            kernel, half = (_TIME, STEM_KERNEL, STEM_KERNEL), STEM_KERNEL // 2
            whole = nn.Conv3d(
                channels, widths[0], kernel, (1, stem_stride, stem_stride), (_TIME // 2, half, half), bias=False
            )
            first = nn.Sequential(whole, make_norm(norm, widths[0], dimensions=3))
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
        values = self.stem(values)
        maps = []
        for stage in self.stages:
            values = stage(values)
            maps.append(values)
        return maps
