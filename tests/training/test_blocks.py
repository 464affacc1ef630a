"""Blocks compiled, or computed twice. If these fail, a run told to save time or memory learns something else."""

import dataclasses

import pytest
import torch

from fake_store import made_batch, small_run
from lookhear.data.draws import Draws
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.models.transformer import Block
from lookhear.objectives import CAVMAEObjectiveConfig
from lookhear.training import blocks
from lookhear.training.blocks import blocks_of, prepare_blocks
from lookhear.training.gradients import Pair, compute_gradients

OBJECTIVE = CAVMAEObjectiveConfig(contrastive_weight=1.0, direction="both")


def gradients(*, conv: bool = False, pieces: int = 1, **options: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    sizes = small_run().model
    fields = {field.name: getattr(sizes, field.name) for field in dataclasses.fields(CAVMAEConfig)}
    model = CAVMAE(CAVMAEConfig(**fields | {"visual_tower": "conv"})) if conv else CAVMAESync(sizes)
    names = list(model.state_dict())
    prepare_blocks(model, **options)
    assert list(model.state_dict()) == names
    pair = Pair(model, OBJECTIVE.build(model), torch.float32)
    step = compute_gradients(pair, made_batch(4), Draws(seed=3, epoch=1, step=5), pieces=pieces)
    return {name: p.grad for name, p in pair.named_parameters() if p.grad is not None} | {"loss": step.loss.detach()}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("pieces", [1, 2])
def test_checkpointed_blocks_give_the_same(conv: bool, pieces: int) -> None:
    assert_same(gradients(conv=conv, pieces=pieces, checkpointed=True), gradients(conv=conv))


def test_checkpointed_blocks_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block is computed a second time, in the backward pass."""
    calls = []
    forward = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, *values: (calls.append(self), forward(self, *values))[1])
    gradients()
    once = len(calls)
    calls.clear()
    gradients(checkpointed=True)
    assert len(calls) == 2 * once


@pytest.mark.ci
def test_compiled_blocks_give_the_same() -> None:
    wanted = gradients()
    assert_same(gradients(compiled=True), wanted)
    assert_same(gradients(compiled=True, checkpointed=True, pieces=2), wanted)


def test_without_a_compiler_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(function: object) -> object:
        def call(*values: object) -> object:
            raise RuntimeError("No working C++ compiler found in (None, 'g++')\nmore")

        return call

    monkeypatch.setattr(blocks.torch, "compile", compile_nothing)
    with pytest.raises(UserError, match=r"compile is true, but .*No working C\+\+ compiler found.*compile=false"):
        gradients(compiled=True)


def test_blocks_are_the_towers_joint_and_decoder_ones() -> None:
    sizes = small_run().model
    model = CAVMAESync(sizes)
    count = sizes.audio_depth + sizes.visual_depth + sizes.joint_depth + sizes.decoder_depth
    assert len(blocks_of(model)) == count
