"""If these fail, the encoder does not do with every size, modality and depth what its description says."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.tokens import Grid, Mask, MaskConfig, Masks, mask_from_removed
from lookhear.models.transformer import Stream

Make = Callable[..., CAVMAE]
Inputs = Callable[..., tuple[Tensor, Tensor]]
HALF = MaskConfig(audio=0.5, visual=0.5)


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize(("num_clips", "num_windows"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_shapes_at_every_batch_size(tiny: Make, inputs: Inputs, sync: bool, num_clips: int, num_windows: int) -> None:
    model = tiny(sync)
    audio, frames = inputs(model, num_clips, num_windows)
    leading = (num_clips, num_windows)
    output = model(audio, frames)
    assert output.audio.grid == Grid(3, 3)
    assert output.visual.grid == Grid(2, 3)
    assert output.audio.tokens.shape == (*leading, 9, 24)
    assert output.visual.tokens.shape == (*leading, 6, 24)
    for side in (output.audio, output.visual):
        assert side.embedding.shape == side.pooled.shape == (*leading, 24)
        torch.testing.assert_close(side.embedding.norm(dim=-1), torch.ones(leading))
    assert output.joint is None
    assert output.reconstruction is None
    masked = model(audio, frames, mask=model.draw_masks(num_clips * num_windows, HALF))
    assert masked.audio.tokens.shape == (*leading, 4, 24)
    assert masked.joint.shape == (*leading, 7, 24)
    assert masked.reconstruction.audio.shape == masked.reconstruction.audio_patches.shape == (*leading, 9, 80)
    assert masked.reconstruction.visual.shape == masked.reconstruction.visual_patches.shape == (*leading, 6, 288)


@pytest.mark.parametrize("sync", [False, True])
def test_rows_are_equal_alone_and_in_a_batch(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = tiny(sync)
    audio, frames = inputs(model, 2, 2)
    masks = model.draw_masks(4, HALF)
    together = model(audio, frames, mask=masks)
    for clip in range(2):
        for window in range(2):
            row = slice(2 * clip + window, 2 * clip + window + 1)
            own = Masks(audio=_row(masks.audio, row), visual=_row(masks.visual, row))
            alone = model(audio[clip, window][None, None], frames[clip, window][None, None], mask=own)
            for name in ("audio", "visual"):
                ours, theirs = getattr(alone, name).embedding[0, 0], getattr(together, name).embedding[clip, window]
                torch.testing.assert_close(ours, theirs)
            torch.testing.assert_close(alone.reconstruction.visual[0, 0], together.reconstruction.visual[clip, window])


def _row(mask: Mask, row: slice) -> Mask:
    return Mask(kept=mask.kept[row], restore=mask.restore[row], removed=mask.removed[row])


@pytest.mark.parametrize("sync", [False, True])
def test_a_missing_modality_changes_nothing_in_the_other(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = tiny(sync)
    audio, frames = inputs(model)
    both = model(audio, frames)
    only_audio, only_visual = model(audio), model(frames=frames)
    assert only_audio.visual is None
    assert only_visual.audio is None
    torch.testing.assert_close(only_audio.audio.embedding, both.audio.embedding)
    torch.testing.assert_close(only_visual.visual.embedding, both.visual.embedding)
    masked = model(audio, mask=model.draw_masks(6, HALF))
    assert masked.reconstruction is None
    nothing = model()
    assert nothing.audio is None
    assert nothing.visual is None


def test_the_embedding_is_the_mean_token_at_unit_length(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    output = model(inputs(model)[0])
    torch.testing.assert_close(output.audio.embedding, F.normalize(output.audio.tokens.mean(2), dim=-1))


def test_joint_blocks_are_chained(tiny: Make, inputs: Inputs) -> None:
    model = tiny(joint_depth=2)
    audio, frames = inputs(model, 1, 1)
    towers = [model.audio_tower(model.audio_patches(audio)), model.visual_tower(model.visual_patches(frames))]
    for stream, tokens, norm in (
        (Stream.AUDIO, towers[0], model.audio_norm),
        (Stream.VISUAL, towers[1], model.visual_norm),
        (Stream.JOINT, torch.cat(towers, dim=1), model.joint_norm),
    ):
        slow = norm(model.joint_blocks[1](model.joint_blocks[0](tokens, stream), stream))
        found = model.joint_tokens(*towers) if stream == Stream.JOINT else model.single(tokens, stream)
        torch.testing.assert_close(found, slow)


def test_a_mask_equals_encoding_only_what_it_keeps(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    audio, _ = inputs(model, 1, 1)
    mask = model.draw_masks(1, HALF).audio
    tower = model.audio_tower
    whole = tower.patch_embedding(model.audio_patches(audio)) + tower.positions + tower.modality  # (1, L, D)
    tokens = whole[:, mask.kept[0]]
    for block in tower.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(tower(model.audio_patches(audio), mask), tokens)


def test_removed_patches_do_not_reach_the_embeddings_or_predictions(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    audio, frames = inputs(model, 1, 1)
    removed = torch.zeros(1, 9, dtype=torch.bool)
    removed[0, 4] = True  # the middle of the 3 x 3 grid: mel bins 10-19, frames 8-15
    masks = Masks(audio=mask_from_removed(removed), visual=model.draw_masks(1, HALF).visual)
    before = model(audio, frames, mask=masks)
    audio[0, 0, 8:16, 10:20] += 100
    after = model(audio, frames, mask=masks)
    assert torch.equal(before.audio.embedding, after.audio.embedding)
    assert torch.equal(before.reconstruction.audio, after.reconstruction.audio)
    audio[0, 0, 0, 0] += 100
    assert not torch.equal(before.audio.embedding, model(audio, frames, mask=masks).audio.embedding)


def test_the_decoder_reads_each_kept_token_in_its_place(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    decoder, masks = model.decoder, model.draw_masks(2, HALF)
    kept = [masks.audio.kept.tolist(), masks.visual.kept.tolist()]
    tokens = torch.randn(2, len(kept[0][0]) + len(kept[1][0]), 16)
    restored = decoder._put_back(tokens, masks)
    modalities = (
        (0, decoder.audio_positions, decoder.audio_modality),
        (len(kept[0][0]), decoder.visual_positions, decoder.visual_modality),
    )
    for row in range(2):
        place = 0
        for own, (first, positions, modality) in zip(kept, modalities, strict=True):
            for i, position in enumerate(positions):
                seen = i in own[row]
                content = tokens[row, first + own[row].index(i)] if seen else decoder.mask_token
                torch.testing.assert_close(restored[row, place], content + position + modality)
                place += 1


@pytest.mark.parametrize("hidden", ["audio", "visual"])
def test_one_modality_can_be_reconstructed_from_the_other(tiny: Make, inputs: Inputs, hidden: str) -> None:
    model = tiny(sync=True)
    audio, frames = inputs(model)
    size = 9 if hidden == "audio" else 6
    mask = mask_from_removed(torch.ones(6, size, dtype=torch.bool))
    masks = Masks(audio=mask) if hidden == "audio" else Masks(visual=mask)
    found = model(audio, frames, mask=masks)
    assert getattr(found, hidden).tokens.shape[2] == 0
    assert found.reconstruction.audio.isfinite().all()
    assert found.reconstruction.visual.isfinite().all()
    assert getattr(found, hidden).embedding.isfinite().all()


def test_masked_embeddings_without_the_decoder(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    audio, frames = inputs(model)
    masks = model.draw_masks(6, HALF)
    whole = model(audio, frames, mask=masks)
    only = model(audio, frames, mask=Masks(audio=masks.audio, visual=masks.visual, reconstruct=False))
    assert only.reconstruction is None
    assert only.joint is None
    assert torch.equal(only.audio.embedding, whole.audio.embedding)


def test_without_a_decoder_there_are_only_embeddings(tiny: Make, inputs: Inputs) -> None:
    model = tiny(decoder_depth=0)
    assert model.decoder is None
    output = model(*inputs(model), mask=model.draw_masks(6, HALF))
    assert output.reconstruction is None
    assert output.audio.embedding.shape == (2, 3, 24)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_model_of_one_modality(tiny: Make, inputs: Inputs, modality: str) -> None:
    model = tiny(modalities=modality, decoder_depth=0)
    audio, frames = inputs(model)
    masks = model.draw_masks(6, HALF)
    if modality == "audio":
        assert masks.visual is None
        assert model(audio, mask=masks).audio.embedding.shape == (2, 3, 24)
        with pytest.raises(ConfigError, match="no visual tower"):
            model(audio, frames)
    else:
        assert masks.audio is None
        assert model(frames=frames, mask=masks).visual.embedding.shape == (2, 3, 24)


def test_several_picture_frames_are_channels(tiny: Make, inputs: Inputs) -> None:
    model = tiny(picture_channels=9)
    output = model(*inputs(model), mask=model.draw_masks(6, HALF))
    assert output.reconstruction.visual.shape == (2, 3, 6, 864)


def test_masks_are_drawn_from_the_generator_audio_first(tiny: Make) -> None:
    model = tiny()
    masks = model.draw_masks(5, HALF, generator=torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    noise = torch.rand(5, 9, generator=again), torch.rand(5, 6, generator=again)
    given = model.draw_masks(5, HALF, audio_noise=noise[0], visual_noise=noise[1])
    assert torch.equal(masks.audio.kept, given.audio.kept)
    assert torch.equal(masks.visual.kept, given.visual.kept)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"audio_frames": 1000}, "audio_frames is 1000, which is not a multiple of its patch"),
        ({"picture_height": 225}, "picture_height is 225"),
        ({"heads": 7}, "width is 768, which is not a multiple of heads"),
        ({"width": 6, "heads": 1, "audio_frames": 3}, "audio_frames is 3.*multiple of 4"),
        ({"modalities": "audio"}, "has no decoder"),
        ({"joint_depth": -1}, "cannot be negative"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CAVMAEConfig(**changes)


def test_input_of_another_size_is_refused(tiny: Make, inputs: Inputs) -> None:
    model = tiny()
    audio, frames = inputs(model)
    with pytest.raises(ConfigError, match="clips x windows x 24 x 30"):
        model(audio[:, :, :-1])
    with pytest.raises(ConfigError, match="frames of shape"):
        model(frames=frames[0])
    with pytest.raises(ConfigError, match="not video"):
        model(video=frames)


def test_the_start_is_the_published_one(tiny: Make) -> None:
    model = tiny(width=96, heads=3)
    weight = model.audio_tower.blocks[0].attention.qkv.weight
    bound = (6 / (96 + 3 * 96)) ** 0.5
    assert 0.95 * bound < weight.abs().max() <= bound
    assert not model.audio_tower.blocks[0].mlp.expand.bias.any()
    bias = model.audio_tower.patch_embedding.bias
    assert 0.5 * 80**-0.5 < bias.abs().max() <= 80**-0.5
    assert 0.01 < model.visual_tower.modality.std() < 0.03
    assert not model.audio_tower.positions.requires_grad
    assert model.audio_norm.eps == 1e-5
    assert tiny(learned_positions=True).audio_tower.positions.requires_grad


@pytest.mark.parametrize("sync", [False, True])
def test_every_trained_weight_gets_a_gradient(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = tiny(sync)
    output = model(*inputs(model), mask=model.draw_masks(6, HALF))
    found = output.reconstruction
    loss = found.audio.square().mean() + found.visual.square().mean()
    (loss + (output.audio.embedding * output.visual.embedding).sum()).backward()
    without = [name for name, part in model.named_parameters() if part.requires_grad and part.grad is None]
    assert without == []  # a weight that nothing reads would break data-parallel training


@pytest.mark.parametrize("sync", [False, True])
def test_bf16_and_compile_take_the_same_path(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = tiny(sync)
    audio, frames = inputs(model)
    masks = model.draw_masks(6, HALF)
    exact = model(audio, frames, mask=masks)
    traced = torch.compile(model, backend="eager", fullgraph=True)(audio, frames, mask=masks)
    torch.testing.assert_close(traced.reconstruction.audio, exact.reconstruction.audio)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(audio, frames, mask=masks)
    assert rough.audio.embedding.dtype == torch.float32
    assert (rough.audio.embedding * exact.audio.embedding).sum(-1).min() > 0.99
    model.to(torch.bfloat16)
    cast = model(audio, frames, mask=masks)
    assert (cast.visual.embedding * exact.visual.embedding).sum(-1).min() > 0.99
