"""The convolutional stem: one token a patch, no leak from removed patches, and a checkpoint that keeps it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAE
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint
from lookhear.models.published import export_published
from lookhear.models.tokens import Grid, Masks, mask_from_noise, patchify
from lookhear.models.towers import Stem, strides

Make = Callable[..., CAVMAE]
Inputs = Callable[..., tuple[Tensor, Tensor]]


@pytest.mark.parametrize("size", [1, 2, 7, 8, 12, 16, 30, 128])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_strides_multiply_to_the_patch(size: int, count: int) -> None:
    found = strides(size, count)
    assert len(found) == count
    assert torch.tensor(found).prod() == size
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("patch", [(8, 8), (16, 8), (12, 6), (1, 4)])
def test_one_token_a_patch_in_the_same_order(patch: tuple[int, int]) -> None:
    """The tokens are the convolutions of the picture itself, row by row; a transposed grid would differ."""
    torch.manual_seed(0)
    grid = Grid(3, 5)
    stem = Stem(grid, patch, 3, (4, 8, 12))
    pictures = torch.randn(2, 3, grid.rows * patch[0], grid.columns * patch[1])
    laid = stem.layers(pictures)  # (R, D, rows, columns)
    assert laid.shape == (2, 12, grid.rows, grid.columns)
    tokens = stem(patchify(pictures, patch))
    for row in range(grid.rows):
        for column in range(grid.columns):
            torch.testing.assert_close(tokens[:, row * grid.columns + column], laid[:, :, row, column])


@pytest.mark.parametrize("sync", [False, True])
def test_removed_patches_do_not_leak_through_the_convolutions(tiny: Make, inputs: Inputs, sync: bool) -> None:
    model = tiny(sync=sync, stem_channels=(4, 8))
    audio, frames = inputs(model)
    generator = torch.Generator().manual_seed(3)
    draw = {
        name: mask_from_noise(torch.rand(6, grid.num_tokens, generator=generator), 0.5)
        for name, grid in (("audio", model.config.audio_grid), ("visual", model.config.picture_grid))
    }
    masks = Masks(audio=draw["audio"], visual=draw["visual"])
    patches = model.visual_patches(frames)
    hidden = draw["visual"].removed[..., None]
    plain, other = (model.visual_tower(values, masks.visual) for values in (patches, patches + 9.0 * hidden))
    torch.testing.assert_close(plain, other)
    seen = model.visual_tower(patches + 9.0 * ~hidden, masks.visual)
    assert not torch.allclose(plain, seen)
    output = model(audio, frames, mask=masks)
    assert output.reconstruction is not None
    assert torch.isfinite(output.reconstruction.visual).all()


def test_a_checkpoint_keeps_the_stem(tiny: Make, inputs: Inputs, tmp_path: Path) -> None:
    model = tiny(sync=True, stem_channels=(4, 8))
    save_checkpoint(tmp_path / "model.safetensors", model, preprocess={})
    loaded = load_checkpoint(tmp_path / "model.safetensors").model
    audio, frames = inputs(model, num_clips=1, num_windows=1)
    torch.testing.assert_close(loaded(audio).audio.embedding, model(audio).audio.embedding)
    torch.testing.assert_close(loaded(None, frames).visual.embedding, model(None, frames).visual.embedding)


def test_the_published_layout_has_no_place_for_a_stem(tiny: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="stem"):
        export_published(tiny(stem_channels=(4, 8)), tmp_path / "model.pth")
