"""If these fail, patches are not where the grid says they are, or masks are not what they claim."""

import pytest
import torch

from lookhear.errors import ConfigError
from lookhear.models.tokens import (
    Encoded,
    Grid,
    MaskConfig,
    mask_from_noise,
    mask_from_removed,
    mask_on_grid,
    noise_size,
    num_kept,
    patchify,
    resize_positions,
    similarity_map,
    sincos_positions,
    unpatchify,
)


def test_patchify_has_the_published_order() -> None:
    patches = patchify(torch.arange(2 * 32 * 48).reshape(1, 2, 32, 48), (16, 16))
    assert patches.shape == (1, 6, 512)
    assert patches[0, 0, :4].tolist() == [0, 1536, 1, 1537]
    assert patches[0, 1, :4].tolist() == [16, 1552, 17, 1553]
    assert patches[0, 3, :2].tolist() == [768, 2304]
    sound = patchify(torch.arange(128 * 416).reshape(1, 1, 128, 416), (16, 16))
    assert sound[0, 1, :3].tolist() == [16, 17, 18]
    assert sound[0, 27, 0] == 6672


@pytest.mark.parametrize(("size", "patch"), [((1, 1, 4, 6), (4, 6)), ((2, 3, 16, 36), (8, 12)), ((3, 6, 9, 5), (3, 1))])
def test_unpatchify_inverts_patchify(size: tuple[int, ...], patch: tuple[int, int]) -> None:
    pictures = torch.randn(size)
    grid = Grid(size[2] // patch[0], size[3] // patch[1])
    assert torch.equal(unpatchify(patchify(pictures, patch), grid, patch), pictures)


def test_sincos_positions_equal_the_published_values() -> None:
    table = sincos_positions(Grid(8, 64), 768)
    places = [0, 1, 191, 192, 383, 384, 385, 576, 767]
    spots = {
        1: [0.841471, 0.8152506, 1.04914e-4, 0.5403023, 1, 0, 0, 1, 1],
        64: [0, 0, 0, 1, 1, 0.841471, 0.8152506, 0.5403023, 1],
        511: [0.1673557, -0.3512803, 0.006609532, 0.9858966, 0.9999782, 0.6569866, 0.3792151, 0.7539023, 0.9999997],
    }
    for token, values in spots.items():
        torch.testing.assert_close(table[token, places], torch.tensor(values), atol=2e-6, rtol=0)


def test_positions_of_a_shorter_window_are_a_slice_of_the_longer_ones() -> None:
    whole, short = Grid(8, 64), Grid(8, 13)
    table = sincos_positions(whole, 32)
    assert torch.equal(resize_positions(table, whole, short), sincos_positions(short, 32))
    longer = resize_positions(table, whole, Grid(8, 80))
    assert longer.shape == (640, 32)
    torch.testing.assert_close(longer.reshape(8, 80, 32)[:, [0, -1]], table.reshape(8, 64, 32)[:, [0, -1]])


@pytest.mark.parametrize(
    ("ratio", "audio", "visual"), [(0.5, 256, 98), (0.65, 179, 68), (0.75, 128, 49), (0.85, 76, 29)]
)
def test_masks_keep_the_published_numbers(ratio: float, audio: int, visual: int) -> None:
    assert (num_kept(512, ratio), num_kept(196, ratio)) == (audio, visual)


def test_mask_from_noise_equals_the_slow_form() -> None:
    noise = torch.rand(4, 15, generator=torch.Generator().manual_seed(0))
    mask = mask_from_noise(noise, 0.7)
    for row in range(4):
        order = sorted(range(15), key=lambda token: float(noise[row, token]))
        assert mask.kept[row].tolist() == order[:4]
        assert [order[place] for place in mask.restore[row].tolist()] == list(range(15))
        assert mask.removed[row].tolist() == [token not in order[:4] for token in range(15)]


@pytest.mark.parametrize("grid", [Grid(8, 64), Grid(8, 26), Grid(3, 5), Grid(1, 7)])
@pytest.mark.parametrize("structure", ["unstructured", "time", "frequency", "both"])
def test_every_structure_keeps_the_number_of_its_ratio(grid: Grid, structure: str) -> None:
    noise = torch.rand(6, noise_size(grid, structure), generator=torch.Generator().manual_seed(0))
    mask = mask_on_grid(noise, grid, 0.6, structure)
    assert mask.kept.shape == (6, num_kept(grid.num_tokens, 0.6))
    laid = mask.removed.reshape(6, grid.rows, grid.columns)
    if structure == "time":  # whole columns go first
        assert (laid.all(1).sum(1) >= int(grid.columns * 0.6)).all()
    if structure == "frequency":
        assert (laid.all(2).sum(1) >= int(grid.rows * 0.6)).all()


def test_a_time_mask_of_exact_share_is_columns_only() -> None:
    mask = mask_on_grid(torch.rand(5, noise_size(Grid(8, 64), "time")), Grid(8, 64), 0.75, "time")
    columns = mask.removed.reshape(5, 8, 64)
    assert torch.equal(columns.all(1), columns.any(1))
    assert columns.all(1).sum(1).tolist() == [48] * 5


def test_a_chosen_mask_keeps_what_is_not_removed() -> None:
    removed = torch.tensor([[True, False, True, False, False], [False, False, False, True, True]])
    mask = mask_from_removed(removed)
    assert torch.equal(mask.removed, removed)
    assert mask.kept.tolist() == [[1, 3, 4], [0, 1, 2]]
    with pytest.raises(ConfigError, match="same number"):
        mask_from_removed(torch.tensor([[True, False], [True, True]]))


def test_masks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        MaskConfig(audio=1.0)
    with pytest.raises(ConfigError, match="keeps none of 3"):
        mask_from_noise(torch.rand(2, 3), 0.9)


def test_similarity_map_is_the_cosine_on_the_grid() -> None:
    tokens, sound = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 4)
    encoded = Encoded(tokens=tokens, grid=Grid(2, 3), pooled=tokens.mean(2), embedding=sound)
    found = similarity_map(sound, encoded)
    assert found.shape == (2, 3, 2, 3)
    slow = torch.cosine_similarity(sound[1, 2], tokens[1, 2, 4], dim=0)
    torch.testing.assert_close(found[1, 2, 1, 1], slow)
