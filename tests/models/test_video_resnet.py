"""Split convolutions for clips.

If these fail, a clip network is not the one that was published, or breaks in bfloat16.
"""

from typing import Any

import pytest
import torch
from torch import nn

from lookhear.models.video_resnet import (
    ClipNorm,
    SpaceConvolution,
    TimeConvolution,
    VideoResNet,
    WholeConvolution,
    middle_channels,
)

SIZES: dict[str, Any] = {
    "width": 16,
    "blocks": (1, 1),
    "strides": (1, 2),
    "stem_stride": 2,
    "stem_pool": False,
    "norm": "batch",
}


def clips(channels: int, pictures: int = 4) -> torch.Tensor:
    return torch.randn(2, channels, pictures, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_parts_are_3d_convolutions(stride: int, layout: torch.memory_format) -> None:
    values = clips(6).contiguous(memory_format=layout)
    space = SpaceConvolution(6, 10, 3, stride, 1, bias=False)
    whole = nn.Conv3d(6, 10, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
    whole.weight.data = space.weight.data[:, :, None].clone()
    torch.testing.assert_close(space(values), whole(values), atol=1e-5, rtol=1e-5)
    time = TimeConvolution(6, 10, stride)
    whole = nn.Conv3d(6, 10, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
    whole.weight.data = time.weight.data[..., None].clone()
    torch.testing.assert_close(time(values), whole(values), atol=1e-5, rtol=1e-5)
    both = WholeConvolution(6, 10, kernel=7, stride=stride)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(both(values).float(), nn.Conv3d.forward(both, values).float(), atol=2e-2, rtol=2e-2)
    norm, whole_norm = ClipNorm("batch", 6), nn.BatchNorm3d(6)
    torch.testing.assert_close(norm(values), whole_norm(values), atol=1e-5, rtol=1e-5)


def test_widened_channels_have_the_parameters_of_a_whole_convolution() -> None:
    for channels, width, kernel in ((64, 64, 3), (64, 128, 3), (3, 64, 7)):
        middle = middle_channels(channels, width, kernel)
        split = channels * middle * kernel**2 + middle * width * 3
        assert split == pytest.approx(channels * width * 3 * kernel**2, rel=0.02)


@pytest.mark.parametrize("pictures", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["time", "whole"])
def test_gradients_are_right_in_bfloat16(kind: str, pictures: int) -> None:
    """PyTorch's own 3-D convolution leaves some unwritten where a clip has few pictures."""
    torch.manual_seed(0)
    convolution = TimeConvolution(32, 32, 1) if kind == "time" else WholeConvolution(32, 32, kernel=7, stride=1)
    values = clips(32, pictures)

    def gradient(dtype: torch.dtype) -> torch.Tensor:
        junk = [torch.full((1000, size), torch.nan) for size in range(1, 30)]  # in memory that is not written to
        del junk
        convolution.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            found = convolution(values)
        (found.float() * values).sum().backward()
        assert convolution.weight.grad is not None
        return convolution.weight.grad.clone()

    low, full = gradient(torch.bfloat16), gradient(torch.float32)
    assert (low - full).norm() <= 0.02 * full.norm()


@pytest.mark.parametrize("widened", [False, True])
def test_a_network_learns_in_bfloat16(widened: bool) -> None:
    torch.manual_seed(0)
    model = VideoResNet(3, widened=widened, **SIZES)
    for pictures in (1, 2, 3):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            maps = model(clips(3, pictures))
        maps[-1].float().square().sum().backward()
        assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
