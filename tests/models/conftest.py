"""Models small enough to try every option."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig

TINY: dict[str, Any] = {
    "audio_frames": 24,  # odd grids: 3 x 3 of sound, 2 x 3 of a picture that is not square
    "num_mel_bins": 30,
    "audio_patch": (10, 8),
    "picture_height": 16,
    "picture_width": 36,
    "picture_patch": (8, 12),
    "width": 24,
    "heads": 3,
    "audio_depth": 2,
    "visual_depth": 1,
    "decoder_depth": 1,
    "decoder_width": 16,
    "decoder_heads": 2,
}


def make_tiny(sync: bool = False, **changes: Any) -> CAVMAE:
    """A tiny CAV-MAE (of either kind), the same weights every time."""
    torch.manual_seed(0)
    settings = TINY | changes
    model = CAVMAESync(CAVMAESyncConfig(**settings)) if sync else CAVMAE(CAVMAEConfig(**settings))
    return model.eval()


def draw_input(model: CAVMAE, num_clips: int = 2, num_windows: int = 3) -> tuple[Tensor, Tensor]:
    """Sound (B, N, T, F) and pictures (B, N, C, H, W) that fit `model`."""
    config = model.config
    generator = torch.Generator().manual_seed(1)
    leading = (num_clips, num_windows)
    audio = torch.randn(*leading, config.audio_frames, config.num_mel_bins, generator=generator)
    size = (config.picture_channels, config.picture_height, config.picture_width)
    return audio, torch.randn(*leading, *size, generator=generator)


@pytest.fixture
def tiny() -> Callable[..., CAVMAE]:
    return make_tiny


@pytest.fixture
def inputs() -> Callable[..., tuple[Tensor, Tensor]]:
    return draw_input
