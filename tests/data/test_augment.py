"""augment.py: pairs survive, draws follow the clip, and nothing happens unless asked."""

import dataclasses

import pytest
import torch

from lookhear.data.augment import AugmentConfig, augment
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError

STRONG = AugmentConfig(flip=0.5, zoom=0.8, color=0.8, gain=0.4, equaliser=0.6, noise=0.1)
DRAWS = Draws(seed=3, epoch=2)


def _batch(clips: int = 4, windows: int = 2, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        clip_ids=tuple(f"c{i}" for i in range(clips)),
        index=torch.arange(clips) + 10,
        start_seconds=torch.zeros(clips, windows, dtype=torch.float64),
        audio=torch.randn(clips, windows, 16, 8, generator=generator),
        frames=torch.randn(clips, windows, channels, 12, 20, generator=generator),
    )


def test_defaults_change_nothing() -> None:
    batch = _batch()
    same = augment(batch, AugmentConfig(), DRAWS)
    assert same.audio is batch.audio
    assert same.frames is batch.frames


@pytest.mark.parametrize("channels", [3, 15])
def test_a_clip_is_changed_alike_in_any_batch(channels: int) -> None:
    """Otherwise a run would depend on the number of ranks and on where it was resumed."""
    batch = _batch(channels=channels)
    whole = augment(batch, STRONG, DRAWS)
    order = [2, 0]
    part = dataclasses.replace(
        batch,
        clip_ids=("c2", "c0"),
        index=batch.index[order],
        start_seconds=batch.start_seconds[order],
        audio=batch.audio[order],
        frames=batch.frames[order],
    )
    alone = augment(part, STRONG, DRAWS)
    torch.testing.assert_close(alone.frames, whole.frames[order])
    torch.testing.assert_close(alone.audio, whole.audio[order])
    other = augment(batch, STRONG, Draws(seed=3, epoch=3))
    assert not torch.allclose(other.frames, whole.frames)
    assert not torch.allclose(other.audio, whole.audio)


@pytest.mark.parametrize("missing", ["audio", "frames"])
def test_one_modality_missing(missing: str) -> None:
    batch = dataclasses.replace(_batch(clips=1, windows=1), **{missing: None})
    assert getattr(augment(batch, STRONG, DRAWS), missing) is None


def test_flip_mirrors_whole_windows() -> None:
    batch = _batch(clips=40, windows=1)
    flipped = augment(batch, AugmentConfig(flip=0.5), DRAWS)
    kinds = []
    for before, after in zip(batch.frames[:, 0], flipped.frames[:, 0], strict=True):
        mirrored = torch.allclose(after, before.flip(-1), atol=1e-5)
        assert mirrored or torch.allclose(after, before, atol=1e-5)
        kinds.append(mirrored)
    assert 8 < sum(kinds) < 32


def test_still_shows_the_middle_picture_throughout() -> None:
    batch = _batch(clips=40, windows=2, channels=9)
    held = augment(batch, AugmentConfig(still=0.5), DRAWS).frames.flatten(0, 1)
    stills = 0
    for before, after in zip(batch.frames.flatten(0, 1), held, strict=True):
        still = torch.equal(after, before[3:6].repeat(3, 1, 1))
        assert still or torch.equal(after, before)
        stills += still
    assert 20 < stills < 60


def test_zoom_shows_a_part_of_the_picture() -> None:
    """A ramp from left to right stays a ramp, of a part of the range; the way back to size must not shift it."""
    ramp = torch.linspace(-1, 1, 64).expand(30, 1, 3, 8, 64)
    batch = dataclasses.replace(_batch(clips=30, windows=1), frames=ramp, audio=None)
    row = augment(batch, AugmentConfig(zoom=0.5), DRAWS).frames[:, 0, 0, 4]
    steps = row.diff(dim=1)[:, 4:-4]
    assert (steps.std(dim=1) < 1e-3).all()
    share = (row[:, -5] - row[:, 4]) / (ramp[0, 0, 0, 0, -5] - ramp[0, 0, 0, 0, 4])
    assert share.min() >= 0.49
    assert share.max() <= 1.01
    assert share.std() > 0.05


def test_color_keeps_grey_grey_and_frames_of_a_window_alike() -> None:
    grey = torch.randn(3, 1, 1, 12, 20).expand(3, 1, 6, 12, 20).clone()
    batch = dataclasses.replace(_batch(clips=3, windows=1), frames=grey, audio=None)
    changed = augment(batch, AugmentConfig(color=1.0), DRAWS).frames.unflatten(2, (2, 3))
    torch.testing.assert_close(changed[:, :, :, 0], changed[:, :, :, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(changed[:, :, 0], changed[:, :, 1])


def test_sound_changes_are_smooth_over_bands_and_constant_in_time() -> None:
    batch = _batch()
    changed = augment(batch, AugmentConfig(gain=0.5, equaliser=0.5), DRAWS).audio - batch.audio
    assert changed.std(dim=2).max() < 1e-5
    assert 0.05 < changed.abs().max() <= 1.0


@pytest.mark.parametrize("wrong", [{"flip": 2.0}, {"zoom": 0.0}, {"zoom": 1.2}, {"color": -0.1}, {"noise": -1.0}])
def test_wrong_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentConfig(**wrong)


# ---- what the published runs do to a spectrogram


def test_the_published_changes_follow_the_clip() -> None:
    config = AugmentConfig(mask_mel_bins=4, mask_frames=8, published_noise=True, roll=True)
    batch = _batch()
    whole = augment(batch, config, DRAWS, masked_value=9.0).audio
    order = [3, 1]
    part = dataclasses.replace(batch, clip_ids=("c3", "c1"), index=batch.index[order], audio=batch.audio[order])
    part = dataclasses.replace(part, frames=None)
    torch.testing.assert_close(augment(part, config, DRAWS, masked_value=9.0).audio, whole[order])
    again = augment(dataclasses.replace(batch, repeat=torch.ones(4, dtype=torch.int64)), config, DRAWS).audio
    assert not torch.allclose(again, whole)


def _slow_span(first: float, second: float, longest: int, size: int) -> list[bool]:
    """torchaudio's mask_along_axis: a length, then a start, both drawn before they are cut to whole numbers."""
    value = first * longest
    start = int(second * (size - value))
    return [start <= place < start + int(value) for place in range(size)]


@pytest.mark.parametrize(("clips", "windows"), [(1, 1), (30, 2)])
def test_spec_augment_equals_its_slow_form(clips: int, windows: int) -> None:
    batch = _batch(clips=clips, windows=windows)
    changed = augment(batch, AugmentConfig(mask_mel_bins=5, mask_frames=9), DRAWS, masked_value=-3.0).audio
    drawn = DRAWS.uniform(batch.index, windows * 4, purpose="augment masks").reshape(clips, windows, 4)
    for clip in range(clips):
        for window in range(windows):
            first, second, third, fourth = drawn[clip, window].tolist()
            bins, times = _slow_span(first, second, 5, 8), _slow_span(third, fourth, 9, 16)
            for time in range(16):
                for band in range(8):
                    wanted = -3.0 if bins[band] or times[time] else batch.audio[clip, window, time, band]
                    assert changed[clip, window, time, band] == wanted
    only_time = augment(batch, AugmentConfig(mask_frames=9), DRAWS, masked_value=-3.0).audio
    assert ((only_time == -3.0).all(3) | (only_time == batch.audio).all(3)).all()


def test_published_noise_is_uniform_and_of_one_strength_a_window() -> None:
    batch = dataclasses.replace(_batch(clips=20, windows=2), audio=torch.zeros(20, 2, 50, 40))
    noise = augment(batch, AugmentConfig(published_noise=True), DRAWS).audio
    assert noise.min() >= 0
    assert noise.max() < 0.1
    strength = noise.flatten(2).max(2).values.flatten() * 10
    assert strength.std() > 0.2
    mean = noise.flatten(2).mean(2).flatten() * 20
    torch.testing.assert_close(mean, strength, atol=0.05, rtol=0)


def test_roll_turns_each_window_round() -> None:
    batch = _batch(clips=60, windows=1)
    rolled = augment(batch, AugmentConfig(roll=True), DRAWS).audio
    shifts = []
    for before, after in zip(batch.audio[:, 0], rolled[:, 0], strict=True):
        found = [shift for shift in range(16) if torch.equal(torch.roll(before, shift, dims=0), after)]
        assert len(found) == 1
        shifts += found
    assert len(set(shifts)) > 12


@pytest.mark.parametrize("wrong", [{"mixup": 1.5}, {"mask_frames": -1}, {"mask_mel_bins": -2}])
def test_wrong_fine_tuning_settings_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentConfig(**wrong)  # type: ignore[arg-type]
