"""If these fail, the wrong part of a sound is said to belong to a region of the picture."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lookhear.errors import ConfigError, MediaError, UserError
from lookhear.media.clip import Clip
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.tokens import Mask, Masks
from lookhear.tasks.localization.heat import HeatConfig, heat_grid, pair_window, sound_grid
from lookhear.tasks.localization.maps import heat_map, sound_map
from planted import BLUE, COLUMNS, FRAMES, MEL, PATCH, RED, ROWS, TONE_HZ, TONE_SECONDS, PlantedEmbedder, planted_clip
from tiny_embedder import tune

METHODS = ("cosine", "gradient", "occlusion", "region")


@pytest.mark.parametrize("method", METHODS)
def test_the_planted_tone_is_what_belongs_to_the_red_region(method: str) -> None:
    found = sound_map(
        PlantedEmbedder(),
        planted_clip(),
        0.5,
        box=RED,
        config=HeatConfig(method=method, region_patches=1),  # type: ignore[arg-type]
    )
    assert found.heat.shape == found.log_mel.shape == (MEL, FRAMES)
    assert found.heat.dtype == np.float32
    assert TONE_SECONDS[0] - 0.08 < found.seconds < TONE_SECONDS[1] + 0.08
    edges = PlantedEmbedder().preprocess.config.mel_edges_hz
    low, high = edges[np.searchsorted(edges, TONE_HZ) // PATCH * PATCH], edges[-1]
    assert low <= found.hertz <= high
    row, column = np.unravel_index(found.log_mel.argmax(), found.log_mel.shape)
    assert abs(found.start_seconds + column * 0.01 - np.mean(TONE_SECONDS)) < 0.06  # the spectrogram is not turned over
    assert edges[row] <= TONE_HZ * 1.1
    assert edges[row + 1] >= TONE_HZ * 0.9


def test_another_region_gives_another_map() -> None:
    embedder, config = PlantedEmbedder(), HeatConfig(method="cosine")
    red = sound_map(embedder, planted_clip(), 0.5, box=RED, config=config).heat
    blue = sound_map(embedder, planted_clip(), 0.5, box=BLUE, config=config).heat
    assert red.max() > 0.8
    assert blue.max() < red.max() - 0.3  # nothing that is heard sounds like blue


def test_no_region_asks_about_the_whole_picture() -> None:
    embedder = PlantedEmbedder()
    window = pair_window(embedder, planted_clip(), 0.3)
    config = HeatConfig(method="cosine")
    slow = F.normalize(embedder.model(audio=window.spectrogram).audio.tokens[0, 0], dim=1) @ window.visual_embedding
    np.testing.assert_allclose(sound_grid(embedder, window, config=config).ravel(), slow.detach().numpy(), rtol=1e-5)
    assert window.score == pytest.approx(float(window.audio_embedding @ window.visual_embedding))


@pytest.mark.parametrize("method", ["occlusion", "region"])
def test_squares_are_scored_as_one_by_one(method: str) -> None:
    """The slow form: drop one square, encode, take the difference; each patch the mean over its squares."""
    torch.manual_seed(0)
    sizes = {"width": 16, "heads": 2, "audio_depth": 1, "visual_depth": 1, "decoder_depth": 0}
    model = CAVMAE(
        CAVMAEConfig(
            audio_frames=FRAMES,
            num_mel_bins=MEL,
            picture_height=ROWS,
            picture_width=COLUMNS,
            audio_patch=(PATCH, PATCH),
            picture_patch=(PATCH, PATCH),
            **sizes,  # type: ignore[arg-type]
        )
    ).eval()
    embedder = PlantedEmbedder(model=model)
    window = pair_window(embedder, planted_clip(), 0.3)
    rows, columns, side = MEL // PATCH, FRAMES // PATCH, 2
    credit, counts = np.zeros((rows, columns)), np.zeros((rows, columns))
    whole = float(window.audio_embedding @ window.visual_embedding)
    for top in range(rows - side + 1):
        for left in range(columns - side + 1):
            square = np.zeros((rows, columns), bool)
            square[top : top + side, left : left + side] = True
            shown = square if method == "region" else ~square
            kept = torch.from_numpy(np.flatnonzero(shown))[None]
            restore = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(shown), np.flatnonzero(~shown)])))[
                None
            ]
            mask = Mask(kept=kept, restore=restore, removed=torch.from_numpy(~shown.ravel())[None])
            with torch.no_grad():
                output = model(audio=window.spectrogram, mask=Masks(audio=mask, reconstruct=False))
            score = float(output.audio.embedding[0, 0] @ window.visual_embedding)
            credit[square] += score if method == "region" else whole - score
            counts[square] += 1
    config = HeatConfig(method=method, region_patches=side)  # type: ignore[arg-type]
    np.testing.assert_allclose(sound_grid(embedder, window, config=config), credit / counts, atol=1e-5)


def test_both_directions_agree_on_their_grids() -> None:
    window = pair_window(PlantedEmbedder(), planted_clip(), 0.3)
    config = HeatConfig(method="cosine")
    assert heat_grid(PlantedEmbedder(), window, config=config).shape == (3, 5)
    assert sound_grid(PlantedEmbedder(), window, config=config).shape == (4, 6)


def test_regions_that_are_none() -> None:
    for box in ((0.5, 0.0, 0.4, 1.0), (-0.1, 0.0, 0.4, 1.0), (0.0, 0.0, 0.4, 1.2)):
        with pytest.raises(UserError, match="no region"):
            sound_map(PlantedEmbedder(), planted_clip(), 0.5, box=box)
    wide = planted_clip()
    wide = Clip(
        start_seconds=0,
        end_seconds=1,
        frames=np.tile(wide.frames, (1, 1, 1, 3)),
        frame_seconds=wide.frame_seconds,
        waveform=wide.waveform,
    )
    with pytest.raises(UserError, match="outside what the model sees"):
        sound_map(PlantedEmbedder(), wide, 0.5, box=(0.0, 0.0, 0.1, 1.0))
    with pytest.raises(ConfigError, match="covers the whole grid"):
        sound_map(PlantedEmbedder(), planted_clip(), 0.5, box=RED, config=HeatConfig(region_patches=6))


def test_the_model_looks_at_the_frame_that_was_asked_for() -> None:
    """Near the start of a file the sound's window cannot be centred, but the picture is still that of the time."""
    clip = planted_clip()
    assert clip.frames is not None
    frames = clip.frames.copy()
    frames[0] = 0  # nothing is red at 0.0 s
    changed = Clip(
        start_seconds=0, end_seconds=1, frames=frames, frame_seconds=clip.frame_seconds, waveform=tune(0, 1.0)
    )
    config = HeatConfig(method="cosine")
    assert np.ptp(heat_map(PlantedEmbedder(), changed, 0.02, config=config)) == pytest.approx(0, abs=1e-6)
    assert np.ptp(heat_map(PlantedEmbedder(), changed, 0.1, config=config)) > 0.1
    with pytest.raises(MediaError, match="has nothing at"):
        heat_map(PlantedEmbedder(), changed, 1.0)
