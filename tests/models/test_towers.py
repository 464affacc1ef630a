"""Towers that are no vision transformers. If these fail, another encoder cannot stand in, or a mask leaks into it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint
from lookhear.models.published import to_published
from lookhear.models.tokens import Grid, Mask, MaskConfig, mask_from_noise
from lookhear.models.towers import TOWERS, ConvBlock, Tower, TowerSizes

Make = Callable[..., CAVMAE]
Inputs = Callable[..., tuple[Tensor, Tensor]]
HALF = MaskConfig(audio=0.5, visual=0.5)
CONV: dict[str, Any] = {"audio_tower": "conv", "visual_tower": "conv"}


class MeanTower(Tower):
    """The least that an encoder can do: one linear map of each patch's mean and deviation."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__(sizes)
        self.map = nn.Linear(2, sizes.width)

    def content(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """(R, L, P) -> (R, K, D)"""
        tokens: Tensor = self.map(torch.stack([patches.mean(2), patches.std(2)], dim=2))
        return tokens if mask is None else tokens.gather(1, mask.kept[..., None].expand(-1, -1, tokens.shape[2]))


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOWERS, "mean", MeanTower)


def make(tiny: Make, sync: bool, kind: str, **changes: Any) -> CAVMAE:
    registers = {"num_registers": 2, "keep_registers": True} if sync else {}
    return tiny(sync, audio_tower=kind, visual_tower=kind, **registers, **changes)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mean"])
@pytest.mark.parametrize(("num_clips", "num_windows"), [(1, 1), (2, 3)])
def test_any_tower_does_all_that_the_model_does(
    tiny: Make, inputs: Inputs, sync: bool, kind: str, num_clips: int, num_windows: int
) -> None:
    model = make(tiny, sync, kind, joint_depth=2)
    audio, frames = inputs(model, num_clips, num_windows)
    leading = (num_clips, num_windows)
    whole = model(audio, frames)
    assert whole.audio.tokens.shape == (*leading, 9, 24)
    assert whole.visual.tokens.shape == (*leading, 6, 24)
    torch.testing.assert_close(model(audio).audio.embedding, whole.audio.embedding)
    torch.testing.assert_close(model(frames=frames).visual.embedding, whole.visual.embedding)
    masked = model(audio, frames, mask=model.draw_masks(num_clips * num_windows, HALF))
    assert masked.joint.shape == (*leading, 7, 24)
    assert masked.reconstruction.visual.shape == (*leading, 6, 288)


@pytest.mark.usefixtures("kinds")
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", ["conv", "mean"])
def test_every_weight_of_any_tower_learns(tiny: Make, inputs: Inputs, sync: bool, kind: str) -> None:
    """Of the registers too: an idle parameter stops training on several devices."""
    model = make(tiny, sync, kind)
    audio, frames = inputs(model, 2, 1)
    output = model(audio, frames, mask=model.draw_masks(2, HALF))
    found = output.reconstruction
    loss = found.audio.square().mean() + found.visual.square().mean()
    (loss + (output.audio.embedding * output.visual.embedding.roll(1, 0)).sum()).backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


@pytest.mark.parametrize("sync", [False, True])
def test_what_a_mask_removes_reaches_no_token(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = make(tiny, sync, "conv", stem_channels=(4, 8))
    _, frames = inputs(model)
    generator = torch.Generator().manual_seed(3)
    mask = mask_from_noise(torch.rand(6, 6, generator=generator), 0.5)
    patches, hidden = model.visual_patches(frames), mask.removed[..., None]
    plain = model.visual_tower(patches, mask)
    torch.testing.assert_close(model.visual_tower(patches + 9.0 * hidden, mask), plain)
    assert not torch.allclose(model.visual_tower(patches + 9.0 * ~hidden, mask), plain)


def test_tokens_are_in_the_order_of_the_mask(tiny: Make, inputs: Inputs) -> None:
    """A mask that removes nothing, in another order: the same tokens, permuted."""
    model = tiny(**CONV)
    patches = model.audio_patches(inputs(model, 1, 1)[0])
    mask = mask_from_noise(torch.rand(1, 9, generator=torch.Generator().manual_seed(0)), 0.0)
    assert mask.kept[0].tolist() != list(range(9))
    torch.testing.assert_close(model.audio_tower(patches, mask), model.audio_tower(patches)[:, mask.kept[0]])


def test_a_block_equals_its_slow_form() -> None:
    torch.manual_seed(0)
    block, grid = ConvBlock(4, 2.0), Grid(3, 5)
    tokens = torch.randn(1, 15, 4)
    weight, bias = block.depthwise.weight, block.depthwise.bias
    for row, column in ((0, 0), (1, 3), (2, 4)):
        around = bias.clone()
        for r in range(3):
            for c in range(max(0, column - 3), min(5, column + 4)):
                around = around + weight[:, 0, 3 + r - row, 3 + c - column] * tokens[0, 5 * r + c]
        slow = tokens[0, 5 * row + column] + block.mlp(block.norm(around[None, None]))[0, 0]
        torch.testing.assert_close(block(tokens, grid)[0, 5 * row + column], slow)


def test_kinds_may_differ_and_a_checkpoint_keeps_them(tiny: Make, inputs: Inputs, tmp_path: Path) -> None:
    model = tiny(visual_tower="conv")
    save_checkpoint(tmp_path / "model.safetensors", model, preprocess={})
    loaded = load_checkpoint(tmp_path / "model.safetensors").model
    audio, frames = inputs(model, 1, 1)
    torch.testing.assert_close(loaded(audio).audio.embedding, model(audio).audio.embedding)
    torch.testing.assert_close(loaded(None, frames).visual.embedding, model(None, frames).visual.embedding)


def test_the_published_layout_has_no_place_for_other_towers(tiny: Make) -> None:
    with pytest.raises(CheckpointError, match="tower"):
        to_published(tiny(visual_tower="conv"))


def test_what_cannot_be_is_refused(tiny: Make) -> None:
    with pytest.raises(ConfigError, match="no tower 'cnv' for audio_tower; did you mean 'conv'"):
        CAVMAEConfig(audio_tower="cnv")
    with pytest.raises(ConfigError, match="registers would do nothing"):
        CAVMAESyncConfig(visual_tower="conv")
    assert CAVMAESyncConfig(visual_tower="conv", num_registers=0).num_registers == 0
    with pytest.raises(ConfigError, match="a tower of depth 0 has no blocks"):
        CAVMAESyncConfig(audio_depth=0)
    assert CAVMAESyncConfig(audio_depth=0, modalities="visual", decoder_depth=0).num_registers == 8
    assert CAVMAESyncConfig(audio_depth=0, keep_registers=True).num_registers == 8
    with pytest.raises(NotImplementedError, match="content"):
        Tower(tiny().config.tower_sizes("audio")).content(torch.zeros(1, 9, 80), None)
