"""Log-mel and pixels. If these fail, models hear or see something else than what they were trained on."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lookhear.config import from_dict, to_dict
from lookhear.data import preprocess
from lookhear.data.batch import Batch
from lookhear.data.preprocess import (
    Preprocess,
    PreprocessConfig,
    check_store,
    cut_padded,
    log_mel,
    measure_statistics,
    resize_and_crop,
)
from lookhear.data.store import Store
from lookhear.errors import ConfigError, StoreError
from lookhear.media.clip import Clip
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.published import published_preprocess

GOLDEN = load_file(Path(__file__).parent.parent / "golden" / "fbank.safetensors")
NAMES = sorted(name.removesuffix(".waveform") for name in GOLDEN if name.endswith(".waveform"))


def slow_log_mel(waveform: np.ndarray, num_mel_bins: int = 128) -> np.ndarray:
    """The definition, frame by frame and filter by filter, at 16 kHz."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 399) for n in range(400)]
    edges = [mel(20.0) + (mel(8000.0) - mel(20.0)) * n / (num_mel_bins + 1) for n in range(num_mel_bins + 2)]
    rows = []
    for start in range(0, len(waveform) - 399, 160):
        frame = waveform[start : start + 400].astype(np.float64)
        frame = frame - frame.mean()
        frame = np.array([frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(400)])
        power = np.abs(np.fft.rfft(frame * hann, 512)) ** 2
        row = []
        for left, centre, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            energy = 0.0
            for number in range(256):
                place = mel(number * 16000 / 512)
                if left < place < right:
                    rising = (place - left) / (centre - left)
                    energy += power[number] * min(rising, (right - place) / (right - centre))
            row.append(math.log(max(energy, 2.0**-23)))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("name", NAMES)
def test_log_mel_equals_kaldi(name: str) -> None:
    result = log_mel(GOLDEN[f"{name}.waveform"])
    expected = GOLDEN[f"{name}.fbank"]
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= (2e-2 if name == "chirp_2s" else 5e-4)


def test_log_mel_equals_its_definition() -> None:
    waveform = 0.1 * np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    assert log_mel(torch.from_numpy(waveform)).numpy() == pytest.approx(slow_log_mel(waveform), abs=5e-4)


def test_log_mel_of_a_batch_equals_one_by_one() -> None:
    """Long and short rows, around the size of a block of frames."""
    for num_frames in (1, 255, 256, 257, 600):
        waveform = torch.randn(2, 3, 400 + (num_frames - 1) * 160)
        together = log_mel(waveform)
        assert together.shape == (2, 3, num_frames, 128)
        torch.testing.assert_close(together[1, 2], log_mel(waveform[1, 2]), atol=1e-5, rtol=0)


def test_log_mel_in_pieces_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    sounds = 0.1 * torch.randn(3, 40_000, generator=torch.Generator().manual_seed(1))
    whole = log_mel(sounds)
    monkeypatch.setattr(preprocess, "_MOST_FRAMES", 100)
    monkeypatch.setattr(preprocess, "_CPU_FRAMES", 7)
    torch.testing.assert_close(log_mel(sounds), whole, rtol=0, atol=1e-6)


def test_a_sample_that_is_no_number_spoils_the_frames_that_hold_it() -> None:
    sound = 0.1 * torch.randn(9_000, generator=torch.Generator().manual_seed(2))
    sound[3_000] = math.nan
    spoilt = log_mel(sound).isnan().any(dim=1)
    assert spoilt.nonzero().flatten().tolist() == [t for t in range(54) if t * 160 <= 3_000 < t * 160 + 400]


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (160000, 998)])
def test_number_of_frames(samples: int, frames: int) -> None:
    assert log_mel(torch.zeros(samples)).shape == (frames, 128)


def test_log_mel_of_nothing_and_of_silence() -> None:
    assert log_mel(torch.zeros(0, 1000)).shape == (0, 4, 128)
    assert log_mel(torch.zeros(1000)).unique().tolist() == [pytest.approx(-15.942385)]


def test_log_mel_is_float32_whatever_surrounds_it() -> None:
    waveform = 0.1 * torch.randn(1, 4000)
    expected = log_mel(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(log_mel(waveform), expected)
    assert log_mel(waveform.bfloat16()).dtype == torch.float32


@pytest.mark.gpu
def test_log_mel_on_a_device_equals_the_cpu() -> None:
    torch.set_float32_matmul_precision("high")  # TF32, which log_mel must not use
    try:
        for name in NAMES:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                result = log_mel(GOLDEN[f"{name}.waveform"].cuda()).cpu()
            error = (result - GOLDEN[f"{name}.fbank"]).abs().max()
            assert error <= (2e-2 if name == "chirp_2s" else 5e-4)
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
def test_pixels_on_a_device_equal_the_cpu() -> None:
    frames = torch.randint(0, 256, (2, 3, 61, 90), dtype=torch.uint8)
    difference = resize_and_crop(frames, 32, 32).int() - resize_and_crop(frames.cuda(), 32, 32).cpu().int()
    assert difference.abs().max() <= 1


def picture(height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3) with smooth parts, edges and noise."""
    rng = np.random.default_rng(height * 1000 + width)
    rows, columns = np.mgrid[:height, :width]
    smooth = 127 + 80 * np.sin(rows / 9.0) * np.cos(columns / 7.0)
    image = np.stack([smooth, 255 * (rows > columns), rng.integers(0, 256, (height, width))], axis=-1)
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(90, 160), (160, 90), (101, 67), (64, 64), (300, 64), (20, 31)])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (1, 1)])
def test_pictures_are_resized_as_pil_does(height: int, width: int, size: tuple[int, int]) -> None:
    image = picture(height, width)
    scale = max(size[0] / height, size[1] / width)
    rows, columns = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    resized = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC))
    top, left = (rows - size[0]) // 2, (columns - size[1]) // 2
    expected = resized[top : top + size[0], left : left + size[1]].transpose(2, 0, 1)
    result = resize_and_crop(torch.from_numpy(image.transpose(2, 0, 1)), *size)
    assert result.shape == (3, *size)
    assert abs(result.numpy().astype(int) - expected).max() <= 1


def test_resize_keeps_leading_axes_and_takes_no_floats() -> None:
    assert resize_and_crop(torch.zeros(2, 5, 3, 30, 40, dtype=torch.uint8), 16, 16).shape == (2, 5, 3, 16, 16)
    assert resize_and_crop(torch.zeros(0, 3, 30, 40, dtype=torch.uint8), 16, 16).shape == (0, 3, 16, 16)
    with pytest.raises(ValueError, match="uint8"):
        resize_and_crop(torch.zeros(3, 30, 40), 16, 16)


SMALL = PreprocessConfig(audio_frames=40, picture_height=16, picture_width=24)


def raw_batch(config: PreprocessConfig, *, size: int = 1) -> Batch:
    shape = (size, 2, 3 * config.frames_per_window, 32, 60)
    return Batch(
        clip_ids=tuple(f"clip{number}" for number in range(size)),
        index=torch.arange(size),
        start_seconds=torch.zeros(size, 2, dtype=torch.float64),
        waveform=0.1 * torch.randn(size, 2, config.window_samples),
        frames=torch.randint(0, 256, shape, dtype=torch.uint8),
    )


@pytest.mark.parametrize("frames_per_window", [1, 3])
def test_preprocess_fills_a_batch(frames_per_window: int) -> None:
    config = replace(SMALL, frames_per_window=frames_per_window)
    raw = raw_batch(config)
    ready = Preprocess(config)(raw)
    assert ready.audio is not None
    assert ready.frames is not None
    assert raw.waveform is not None
    assert raw.frames is not None
    expected = (log_mel(raw.waveform) - config.audio_mean) / config.audio_std
    torch.testing.assert_close(ready.audio, expected)
    assert ready.audio.shape == (1, 2, 40, 128)
    assert ready.frames.shape == (1, 2, 3 * frames_per_window, 16, 24)
    last = resize_and_crop(raw.frames[0, 1, -3:], 16, 24)[1].float() / 255
    torch.testing.assert_close(ready.frames[0, 1, -2], (last - 0.456) / 0.224)


def test_preprocess_leaves_what_is_ready_or_missing() -> None:
    preprocess = Preprocess(SMALL)
    once = preprocess(raw_batch(SMALL))
    twice = preprocess(once)
    assert twice.audio is once.audio
    assert twice.frames is once.frames
    nothing = preprocess(replace(raw_batch(SMALL), waveform=None, frames=None))
    assert nothing.audio is None
    assert nothing.frames is None
    with pytest.raises(ValueError, match="6640 samples"):
        preprocess(replace(raw_batch(SMALL), waveform=torch.zeros(1, 1, 6400)))


def test_configuration_survives_json_and_refuses_nonsense() -> None:
    config = replace(SMALL, audio_mean=-4.5, picture_std=(0.1, 0.2, 0.3))
    assert from_dict(PreprocessConfig, to_dict(config)) == config
    assert (config.window_seconds, config.window_samples, config.first_sample) == (pytest.approx(0.4), 6640, -120)
    with pytest.raises(ConfigError, match="audio_frames"):
        PreprocessConfig(audio_frames=0)
    with pytest.raises(ConfigError, match="positive"):
        PreprocessConfig(audio_std=0.0)


def clip_of(seconds: float = 2.0, **changes: object) -> Clip:
    frames = np.stack([picture(32, 48).transpose(2, 0, 1) // (number + 1) for number in range(4)])
    clip = Clip(
        start_seconds=10.0,
        end_seconds=10.0 + seconds,
        frames=frames,
        frame_seconds=np.array([10.2, 10.7, 11.2, 11.7]),
        waveform=np.arange(round(seconds * 16000), dtype=np.float32) / 1e5 + 1e-3,
    )
    return replace(clip, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("start", [9.0, 9.9, 10.0, 10.5, 11.6, 11.9, 13.0])
def test_a_window_is_cut_where_it_says(start: float) -> None:
    clip = clip_of()
    assert clip.waveform is not None
    assert clip.frames is not None
    waveform, frames = Preprocess(SMALL).window(clip, start)
    assert waveform is not None
    assert frames is not None
    first = round((start - 10.0) * 16000) - 120
    slow = [clip.waveform[n] if 0 <= n < 32000 else 0.0 for n in range(first, first + 6640)]
    assert np.array_equal(waveform.numpy(), np.array(slow, dtype=np.float32))
    nearest = min(range(4), key=lambda number: abs(clip.frame_seconds[number] - (start + 0.2)))
    assert torch.equal(frames, resize_and_crop(torch.from_numpy(clip.frames[nearest]), 16, 24))


def test_pictures_of_a_window_are_stacked_as_channels() -> None:
    config = replace(SMALL, audio_frames=200, frames_per_window=4)
    _, frames = Preprocess(config).window(clip_of(), 10.0)
    assert frames is not None
    assert frames.shape == (12, 16, 24)
    singles = [Preprocess(SMALL).window(clip_of(), time - 0.2)[1] for time in (10.25, 10.75, 11.25, 11.75)]
    assert torch.equal(frames, torch.cat([single for single in singles if single is not None]))


def test_a_window_of_half_a_clip_has_half() -> None:
    preprocess = Preprocess(SMALL)
    waveform, frames = preprocess.window(clip_of(frames=None, frame_seconds=np.zeros(0)), 10.0)
    assert waveform is not None
    assert frames is None
    waveform, frames = preprocess.window(clip_of(waveform=None), 10.0)
    assert waveform is None
    assert frames is not None
    with pytest.raises(ValueError, match="8000 Hz"):
        preprocess.window(clip_of(sample_rate=8000), 10.0)


def test_cut_padded_outside() -> None:
    waveform = np.ones(5, dtype=np.float32)
    assert cut_padded(waveform, -9, 3).tolist() == [0, 0, 0]
    assert cut_padded(waveform, 7, 3).tolist() == [0, 0, 0]
    assert cut_padded(waveform, -1, 8).tolist() == [0, 1, 1, 1, 1, 1, 0, 0]


def test_statistics_equal_the_plain_mean(store: Store) -> None:
    """With windows longer than every clip each clip is measured whole."""
    config = replace(SMALL, audio_frames=2000)
    measured = measure_statistics(store, config)
    values = np.concatenate(
        [
            log_mel(torch.from_numpy(store.waveform(clip.index))).numpy().ravel()
            for clip in store.clips
            if clip.has_sound
        ]
    )
    assert measured.audio_mean == pytest.approx(values.mean(), abs=1e-2)
    assert measured.audio_std == pytest.approx(values.std(), abs=1e-2)
    assert replace(measured, audio_mean=config.audio_mean, audio_std=config.audio_std) == config
    assert measure_statistics(store, SMALL, num_clips=2) == measure_statistics(store, SMALL, num_clips=2)


def test_a_store_with_other_sound_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="channel=first"):
        measure_statistics(store, replace(SMALL, channel="first"))


def test_a_store_with_too_few_pictures_for_short_windows_is_refused(store_path: Path) -> None:
    """Otherwise a window would be shown the picture of another moment, and nobody would know."""
    store = Store(store_path)  # 5 pictures a second
    check_store(store, PreprocessConfig(audio_frames=40))
    with pytest.raises(StoreError, match=r"keeps 5 pictures a second.*frames_per_second=20"):
        check_store(store, PreprocessConfig(audio_frames=10))


def test_published_framing_is_the_published_front_end() -> None:
    """Ten seconds at 16 kHz: 998 frames that begin with their 10 ms, then zeros before normalisation."""
    noise = np.random.RandomState(5).standard_normal(160000)
    sound = 0.5 * np.sin(2 * np.pi * 440 * np.arange(160000) / 16000) + 0.01 * noise
    waveform = (np.round(32767 * sound) / 32768).astype(np.float32)
    config = PreprocessConfig(framing="published")
    clip = Clip(start_seconds=0.0, end_seconds=10.0, waveform=waveform, sample_rate=16000)
    raw, _ = Preprocess(config).window(clip, 0.0)
    assert raw is not None
    audio = Preprocess(config).spectrogram(raw)
    assert audio.shape == (1024, 128)
    # values that the published code gives for this sound
    expected = {(0, 0): -1.432045, (0, 20): 1.056087, (500, 19): 0.816538, (997, 64): -0.626401, (998, 0): 1.132913}
    for place, value in expected.items():
        assert float(audio[place]) == pytest.approx(value, abs=2e-4)
    assert (audio[998:] == audio[998, 0]).all()
    later, _ = Preprocess(config).window(clip, 6.08)
    assert later is not None
    torch.testing.assert_close(Preprocess(config).spectrogram(later)[:416], audio[608:], atol=1e-4, rtol=0)


def test_published_weights_come_with_the_published_preprocessing() -> None:
    for model in (CAVMAEConfig(), CAVMAESyncConfig()):
        config = from_dict(PreprocessConfig, published_preprocess(model))
        wanted = PreprocessConfig(channel="first", framing="published", audio_frames=model.audio_frames)
        assert config == wanted


@pytest.mark.parametrize("sizes", [[(20, 30), (24, 24), (20, 30)], [(24, 24)], [(40, 17), (9, 50)]])
def test_pictures_of_several_sizes_are_resized_as_each_alone(sizes: list[tuple[int, int]]) -> None:
    """As a GPU gets them: in the corner of one tensor, two windows of two pictures a clip."""
    config = PreprocessConfig(audio_frames=80, picture_height=24, picture_width=16, frames_per_window=2)
    preprocess = Preprocess(config)
    generator = torch.Generator().manual_seed(0)
    pictures = [torch.randint(0, 256, (2, 6, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    frames = torch.full((len(sizes), 2, 6, max(h for h, _ in sizes), max(w for _, w in sizes)), 77, dtype=torch.uint8)
    for row, own in enumerate(pictures):
        frames[row, ..., : own.shape[-2], : own.shape[-1]] = own
    raw = Batch(
        clip_ids=("",) * len(sizes),
        index=torch.arange(len(sizes)),
        start_seconds=torch.zeros(len(sizes), 2),
        frames=frames,
        frame_sizes=tuple(sizes),
    )
    ready = preprocess(raw)
    assert ready.frame_sizes is None
    assert ready.frames is not None
    for row, own in enumerate(pictures):
        assert torch.equal(ready.frames[row], preprocess.pixels(own))
    part = preprocess(raw.rows(slice(0, 1))).frames
    assert part is not None
    assert torch.equal(part[0], ready.frames[0])
