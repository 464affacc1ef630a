"""If these fail, global tokens and registers are not where CAV-MAE Sync puts them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.tokens import MaskConfig
from lookhear.models.transformer import Stream

Make = Callable[..., CAVMAE]
Inputs = Callable[..., tuple[Tensor, Tensor]]
HALF = MaskConfig(audio=0.5, visual=0.5)


@pytest.mark.parametrize("num_global_tokens", [0, 1])
@pytest.mark.parametrize("num_registers", [0, 4])
@pytest.mark.parametrize("keep_registers", [False, True])
@pytest.mark.parametrize("contrastive_head_depth", [0, 2])
def test_every_option(
    tiny: Make,
    inputs: Inputs,
    num_global_tokens: int,
    num_registers: int,
    keep_registers: bool,
    contrastive_head_depth: int,
) -> None:
    model = tiny(
        True,
        num_global_tokens=num_global_tokens,
        num_registers=num_registers,
        keep_registers=keep_registers,
        contrastive_head_depth=contrastive_head_depth,
    )
    audio, frames = inputs(model, 1, 1)
    tower = model.audio_tower(model.audio_patches(audio))
    assert tower.shape[1] == num_global_tokens + 9 + (num_registers if keep_registers else 0)
    output = model(audio, frames, mask=model.draw_masks(1, HALF))
    assert output.audio.tokens.shape == (1, 1, 4, 24)
    assert output.joint.shape == (1, 1, 7, 24)  # neither global tokens nor registers are in the joint stream
    assert output.reconstruction.audio.shape == (1, 1, 9, 80)
    whole = model(audio, frames)
    if not num_global_tokens:
        torch.testing.assert_close(whole.audio.embedding, F.normalize(whole.audio.tokens.mean(2), dim=-1))


def test_the_embedding_is_the_global_token(tiny: Make, inputs: Inputs) -> None:
    model = tiny(True, num_registers=2)
    audio, _ = inputs(model, 1, 1)
    patches = model.audio_patches(audio)
    tower = model.audio_tower
    tokens = torch.cat([tower.global_tokens[None], tower.embed(patches, None), tower.registers[None]], dim=1)
    for block in tower.blocks:
        tokens = block(tokens)
    slow = model.audio_norm(model.joint_blocks[0](tokens[:, :-2], Stream.AUDIO))
    output = model(audio)
    torch.testing.assert_close(output.audio.pooled[0, 0], slow[0, 0])
    torch.testing.assert_close(output.audio.tokens[0, 0], slow[0, 1:])


@pytest.mark.parametrize("keep_registers", [False, True])
def test_joint_blocks_are_chained(tiny: Make, inputs: Inputs, keep_registers: bool) -> None:
    """Two of them, and the heads after them; the public code lets only the last joint block act here."""
    model = tiny(True, joint_depth=2, num_registers=2, keep_registers=keep_registers, contrastive_head_depth=2)
    audio, frames = inputs(model, 1, 1)
    towers = [model.audio_tower(model.audio_patches(audio)), model.visual_tower(model.visual_patches(frames))]
    blocks, heads = model.joint_blocks, model.audio_head
    own = blocks[1](blocks[0](towers[0], Stream.AUDIO), Stream.AUDIO)
    slow = model.audio_norm(heads[1](heads[0](own)))
    torch.testing.assert_close(model.single(towers[0], Stream.AUDIO), slow)
    patches = torch.cat([towers[0][:, 1:10], towers[1][:, 1:7]], dim=1)
    slow = model.joint_norm(blocks[1](blocks[0](patches, Stream.JOINT), Stream.JOINT))
    torch.testing.assert_close(model.joint_tokens(*towers), slow)


def test_registers_start_large_and_global_tokens_small(tiny: Make) -> None:
    model = tiny(True, num_registers=20, width=48)
    assert 0.9 < model.audio_tower.registers.std() < 1.1
    assert 0.01 < model.audio_tower.global_tokens.std() < 0.03
    assert not torch.equal(model.audio_tower.registers, model.visual_tower.registers)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be 0 or 1"):
        CAVMAESyncConfig(num_global_tokens=2)
    with pytest.raises(ConfigError, match="cannot be negative"):
        CAVMAESyncConfig(num_registers=-1)
    assert (CAVMAESyncConfig().audio_frames, CAVMAESyncConfig().num_registers) == (416, 8)
