"""Raw windows -> what a model sees: log-mel spectrograms and normalised pixels, on any device.

B clips, N windows a clip, S samples, T spectrogram frames, F mel bins, M pictures a window, C = 3 x M picture
channels, H rows, W columns.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.sampling import HOP_SECONDS, clip_rng, draw_windows, epoch_order, frame_times, nearest_frames
from lookhear.data.store import Store
from lookhear.errors import ConfigError, StoreError
from lookhear.media.clip import Clip
from lookhear.media.color import resize_frames

# Kaldi's filter bank as the published audio-visual models use it.
FRAME_SECONDS = 0.025
_LOWEST_HZ = 20.0
PREEMPHASIS = 0.97
ENERGY_FLOOR = torch.finfo(torch.float32).eps  # under the logarithm
_MEL_GROUP = 32  # filters that are applied in one product
# Frames that are worked on together: what keeps a device busy without taking much memory; on a CPU what stays in its
# caches, of one row and of all rows.
_MOST_FRAMES, _CPU_FRAMES, _CPU_FRAMES_OF_ALL = 16384, 250, 500


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """How a window becomes numbers. It is saved in every checkpoint: a model hears and sees in one way only."""

    sample_rate: int = 16000
    # how the channels of a file become one; a store made the other way is refused
    channel: Literal["mix", "first"] = "mix"
    # centred: a spectrogram frame lies around its 10 ms, and beyond the sound there is silence. published: it begins
    # with them, and frames that are not wholly inside the sound are 0 before normalisation, louder than most
    framing: Literal["centred", "published"] = "centred"
    # spectrogram frames of a window, 10 ms each
    audio_frames: int = 1024
    num_mel_bins: int = 128
    # mean and standard deviation of the log-mel values (AudioSet's; see measure_statistics)
    audio_mean: float = -5.081
    audio_std: float = 4.4849
    picture_height: int = 224
    picture_width: int = 224
    # of RGB in 0..1
    picture_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    picture_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    # pictures of a window, stacked as channels
    frames_per_window: int = 1

    def __post_init__(self) -> None:
        for name in ("audio_frames", "num_mel_bins", "picture_height", "picture_width", "frames_per_window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.audio_std <= 0 or min(self.picture_std) <= 0:
            raise ConfigError("audio_std and picture_std must be positive")
        if self.sample_rate < 1000:
            raise ConfigError(f"sample_rate must be at least 1000, not {self.sample_rate}")

    @property
    def window_seconds(self) -> float:
        """Length of a window."""
        return self.audio_frames * HOP_SECONDS

    @property
    def normalised_zero(self) -> float:
        """What a log-mel of 0 becomes: what published code pads with, and what SpecAugment leaves."""
        return -self.audio_mean / self.audio_std

    @property
    def mel_edges_hz(self) -> np.ndarray:
        """float64 (F + 1,): where each mel bin ends and the next begins, half-way on the mel scale between them."""
        lowest, highest = _mel(np.array([_LOWEST_HZ, self.sample_rate / 2]))
        steps = (np.arange(self.num_mel_bins + 1) + 0.5) / (self.num_mel_bins + 1)
        return 700.0 * np.expm1((lowest + (highest - lowest) * steps) / 1127.0)

    @property
    def window_samples(self) -> int:
        """S: samples that give `audio_frames` frames; a little more than the window."""
        frame, hop = frame_and_hop(self.sample_rate)
        return frame + (self.audio_frames - 1) * hop

    @property
    def first_sample(self) -> int:
        """Where the samples begin, counted from the start of the window (centred: a little before it)."""
        if self.framing == "published":
            return 0
        return -((self.window_samples - self.audio_frames * frame_and_hop(self.sample_rate)[1]) // 2)

    @property
    def missing_sample(self) -> float:
        """What stands for a sample beyond the sound: silence, or NaN, which `Preprocess.spectrogram` turns into 0."""
        return math.nan if self.framing == "published" else 0.0


def frame_and_hop(sample_rate: int) -> tuple[int, int]:
    """Samples of a spectrogram frame (25 ms) and from one frame to the next (10 ms)."""
    return int(sample_rate * FRAME_SECONDS), int(sample_rate * HOP_SECONDS)


# ---- sound


def log_mel(waveform: Tensor, *, sample_rate: int = 16000, num_mel_bins: int = 128) -> Tensor:
    """Natural logarithm of the mel energies of `waveform` (..., S) in -1..1: float32 (..., T, F).

    T = 1 + (S - 400) // 160 at 16 kHz; 0 where S is shorter than one frame. Equal, within float32 rounding, to Kaldi's
    `compute-fbank-feats` (povey's fbank) with HTK mels, a symmetric Hann window, no dither, no energy, snip_edges,
    20 Hz to half the sample rate. On the waveform's device, in the same precision under autocast, without gradients.
    The slow, obvious form is in tests/data/test_preprocess.py.
    """
    frame, hop = frame_and_hop(sample_rate)
    shape = waveform.shape[:-1]
    num_frames = max(0, 1 + (waveform.shape[-1] - frame) // hop) if waveform.shape[-1] >= frame else 0
    if num_frames == 0 or waveform.numel() == 0:
        return waveform.new_zeros((*shape, num_frames, num_mel_bins), dtype=torch.float32)
    device = waveform.device
    tables = _tables(sample_rate, num_mel_bins, device)
    together = _MOST_FRAMES // num_frames  # rows
    if device.type == "cpu":
        together = min(together, _CPU_FRAMES_OF_ALL // min(num_frames, _CPU_FRAMES))
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _full_float32(device):
        mel = [
            torch.cat(
                [
                    _log_mel_of_part(
                        rows[:, begin * hop : min(begin + _MOST_FRAMES, num_frames) * hop + frame - hop], tables
                    )
                    for begin in range(0, num_frames, _MOST_FRAMES)
                ],
                dim=1,
            )
            for rows in waveform.reshape(-1, waveform.shape[-1]).split(max(1, together))
        ]
    return torch.cat(mel).reshape(*shape, num_frames, num_mel_bins)


def _log_mel_of_part(waveform: Tensor, tables: "_Tables") -> Tensor:
    """(R, S) -> (R, T, F), in memory that is used again."""
    # In float32 the Fourier transform alone makes more rounding noise near the floor than all other steps.
    wide = waveform.float() if waveform.device.type == "mps" else waveform.double()
    frame, hop, fft_size = tables.frame, tables.hop, fft_size_of(tables.frame)
    # A frame less its mean, then each sample less PREEMPHASIS of the one before it: the same in another order. Of the
    # first sample of a frame nothing is left, there the window is 0.
    mean = wide.unfold(1, frame, hop).mean(dim=2, keepdim=True) * (1.0 - PREEMPHASIS)
    emphasised = wide.clone()
    emphasised[:, 1:] -= PREEMPHASIS * wide[:, :-1]
    emphasised = emphasised.unfold(1, frame, hop)
    num_rows, num_frames = mean.shape[:2]
    block = _CPU_FRAMES if waveform.device.type == "cpu" else num_frames
    padded = wide.new_zeros(num_rows, min(block, num_frames), fft_size)
    squares = waveform.new_empty(num_rows, min(block, num_frames), fft_size // 2 + 1, 2, dtype=torch.float32)
    power = squares.new_empty(num_rows, num_frames, fft_size // 2 + 1)
    for begin in range(0, num_frames, block):
        some = slice(begin, min(begin + block, num_frames))
        windowed = padded[:, : some.stop - begin]
        torch.sub(emphasised[:, some], mean[:, some], out=windowed[..., :frame]).mul_(tables.window)
        windowed[..., 0].zero_()  # also where what is before the frame is no number
        parts = squares[:, : some.stop - begin].copy_(torch.view_as_real(torch.fft.rfft(windowed))).square_()
        torch.add(parts[..., 0], parts[..., 1], out=power[:, some])
    rows = power.flatten(0, 1)
    energies = torch.cat([rows[:, bins] @ filters for bins, filters in tables.mel], dim=1)
    return energies.clamp_min_(ENERGY_FLOOR).log_().unflatten(0, (num_rows, num_frames))


def fft_size_of(frame: int) -> int:
    """Samples of the Fourier transform of a frame: the next power of two."""
    return 1 << (frame - 1).bit_length()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    frame: int  # samples
    hop: int
    window: Tensor  # Hann (400,), as wide as what it is multiplied with
    mel: tuple[tuple[slice, Tensor], ...]  # bins of the spectrum, and the filters (bins, _MEL_GROUP) that look at them


@functools.lru_cache(maxsize=8)
def _tables(sample_rate: int, num_mel_bins: int, device: torch.device) -> _Tables:
    """What a log-mel needs, on `device`. Mel filters are narrow: in groups, the product is a quarter of the whole."""
    frame, hop = frame_and_hop(sample_rate)
    window = torch.hann_window(frame, periodic=False, dtype=torch.float32 if device.type == "mps" else torch.float64)
    filters = mel_filters(sample_rate, num_mel_bins, fft_size_of(frame))
    groups = []
    for first in range(0, num_mel_bins, _MEL_GROUP):
        group = filters[:, first : first + _MEL_GROUP]
        used = np.flatnonzero(group.any(axis=1))
        bins = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
        groups.append((bins, torch.from_numpy(group[bins]).float().to(device)))
    return _Tables(frame=frame, hop=hop, window=window.to(device), mel=tuple(groups))


def mel_filters(sample_rate: int, num_mel_bins: int, fft_size: int) -> np.ndarray:
    """float64 (fft_size // 2 + 1, F): triangles that are linear on the mel scale, from 20 Hz to half the sample rate.

    The weight of the last bin (half the sample rate) is 0, as in Kaldi.
    """
    lowest, highest = _mel(np.array([_LOWEST_HZ, sample_rate / 2]))
    edges = lowest + (highest - lowest) * np.arange(num_mel_bins + 2) / (num_mel_bins + 1)
    bins = _mel(np.arange(fft_size // 2 + 1) * sample_rate / fft_size)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rising, falling))
    weights[-1] = 0.0
    return weights


def _mel(hertz: np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(hertz / 700.0)


@contextlib.contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """No TF32 in here: with its 10 bits the logarithm of a quiet filter would be off by more than rounding."""
    if device.type != "cuda":
        yield
        return
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


# ---- pixels


def resize_and_crop(frames: Tensor, height: int, width: int) -> Tensor:
    """uint8 (..., 3, h, w) -> uint8 (..., 3, height, width).

    Scaled (bicubic, antialiased, as PIL does) until it covers the target, then cut to it around the centre; for a
    square target the short side becomes that size: the published recipe.
    """
    if frames.dtype != torch.uint8 or frames.shape[-3] != 3:
        raise ValueError(f"frames must be uint8 (..., 3, h, w), not {frames.dtype} {tuple(frames.shape)}")
    rows, columns = frames.shape[-2:]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    flat = frames.reshape(-1, 3, rows, columns)
    if size != (rows, columns) and len(flat):
        flat = _resize(flat, *size)
    elif size != (rows, columns):
        flat = flat.new_zeros((0, 3, *size))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    cut = flat[..., top : top + height, left : left + width]
    return cut.reshape(*frames.shape[:-2], height, width)


def _resize(frames: Tensor, height: int, width: int) -> Tensor:
    if frames.device.type == "cpu":
        return torch.from_numpy(resize_frames(frames.numpy(), height, width))
    # devices have no uint8 kernel for this
    resized = F.interpolate(frames.float(), (height, width), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=8)
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(3, 1, 1); kept, because a copy to a device in every batch would make the CPU wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


# ---- one value that does all of it


class Preprocess:
    """Raw batches -> batches that models take, and raw windows out of clips, as one configuration says."""

    def __init__(self, config: PreprocessConfig):
        self.config = config

    def __repr__(self) -> str:
        return f"Preprocess({self.config!r})"

    def __call__(self, batch: Batch) -> Batch:
        """Fills `audio` (B, N, T, F) from `waveform` (B, N, S), and makes uint8 `frames` (B, N, C, h, w) float32
        (B, N, C, H, W), on the batch's device. Float frames and audio that is there already are left alone.

        Raises ValueError for a waveform whose S is not `config.window_samples`.
        """
        config = self.config
        if batch.waveform is not None and batch.audio is None:
            if batch.waveform.shape[-1] != config.window_samples:
                raise ValueError(
                    f"a window of {config.audio_frames} spectrogram frames needs {config.window_samples} samples, "
                    f"the batch has {batch.waveform.shape[-1]}"
                )
            batch = replace(batch, audio=self.spectrogram(batch.waveform))
        if batch.frames is not None and batch.frames.dtype == torch.uint8:
            frames = batch.frames if batch.frame_sizes is None else self._sized(batch.frames, batch.frame_sizes)
            batch = replace(batch, frames=self.pixels(frames), frame_sizes=None)
        return batch

    def _sized(self, frames: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """uint8 (B, N, C, H, W) of pictures of several `sizes`, one a clip, in the corner of `frames`.

        Pictures of one size are resized together; views and stacks need no index that would have to reach the device.
        """
        own = [frames[row, ..., :height, :width] for row, (height, width) in enumerate(sizes)]
        resized: dict[int, Tensor] = {}
        for size in sorted(set(sizes)):
            rows = [row for row, other in enumerate(sizes) if other == size]
            alike = torch.stack([own[row] for row in rows])  # (rows, N, C, h, w)
            done = self.frames_to_size(alike.unflatten(2, (-1, 3))).flatten(2, 3)
            resized |= dict(zip(rows, done.unbind(), strict=True))
        return torch.stack([resized[row] for row in range(len(sizes))])

    def spectrogram(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel float32 (..., T, F) of `waveform` (..., S)."""
        config = self.config
        mel = log_mel(waveform, sample_rate=config.sample_rate, num_mel_bins=config.num_mel_bins)
        if config.framing == "published":
            mel = mel.nan_to_num_(nan=0.0)
        return mel.sub_(config.audio_mean).div_(config.audio_std)

    def pixels(self, frames: Tensor) -> Tensor:
        """Normalised float32 (..., C, H, W) of uint8 `frames` (..., C, h, w); C is a multiple of 3."""
        if frames.shape[-3] % 3:
            raise ValueError(f"frames must have a multiple of 3 channels, not {frames.shape[-3]}")
        sized = self.frames_to_size(frames.unflatten(-3, (-1, 3)))
        mean = _channels(self.config.picture_mean, frames.device)
        std = _channels(self.config.picture_std, frames.device)
        return ((sized.float() / 255.0 - mean) / std).flatten(-4, -3)

    def frames_to_size(self, frames: Tensor) -> Tensor:
        """uint8 (..., 3, h, w) -> (..., 3, H, W): scaled and cut around the centre (see `resize_and_crop`)."""
        return resize_and_crop(frames, self.config.picture_height, self.config.picture_width)

    def window(self, clip: Clip, start_seconds: float) -> tuple[Tensor | None, Tensor | None]:
        """The raw window of `clip` that starts at `start_seconds`: waveform float32 (S,) and frames uint8 (C, H, W).

        Samples beyond the clip's ends are `config.missing_sample`; pictures are the nearest in time to the picture
        times of the window. A modality that the clip lacks is None. Raises ValueError if the clip's sample rate is
        another than the configuration's.
        """
        config = self.config
        waveform, frames = None, None
        if clip.waveform is not None and len(clip.waveform):
            if clip.sample_rate != config.sample_rate:
                raise ValueError(f"the clip has {clip.sample_rate} Hz, this preprocessing wants {config.sample_rate}")
            first = self.sample_at(start_seconds - clip.start_seconds)
            waveform = torch.from_numpy(
                cut_padded(clip.waveform, first, config.window_samples, missing=config.missing_sample)
            )
        if clip.frames is not None and len(clip.frames):
            times = frame_times(start_seconds, config.window_seconds, config.frames_per_window)
            chosen = clip.frames[nearest_frames(clip.frame_seconds, times)]
            frames = self.frames_to_size(torch.from_numpy(chosen)).flatten(0, 1)
        return waveform, frames

    def sample_at(self, seconds: float) -> int:
        """Number of the first sample of a window that starts `seconds` after sample 0; negative near the beginning."""
        return round(seconds * self.config.sample_rate) + self.config.first_sample


def cut_padded(waveform: np.ndarray, first: int, count: int, *, missing: float = 0.0) -> np.ndarray:
    """float32 (count,): samples [first, first + count) of `waveform`, and `missing` where it has none."""
    window = np.full(count, missing, dtype=np.float32)
    start, stop = max(first, 0), min(first + count, len(waveform))
    if stop > start:
        window[start - first : stop - first] = waveform[start:stop]
    return window


def check_store(store: Store, config: PreprocessConfig, *, picture: bool = True) -> None:
    """Raises StoreError if windows of `config` cannot be cut from `store`: other sound, or (where the `picture` is
    wanted) too few pictures."""
    has, wants = store.config, config
    if (has.channel, has.sample_rate) != (wants.channel, wants.sample_rate):
        raise StoreError(
            f"the store {store.path} holds sound as channel '{has.channel}' at {has.sample_rate} Hz, but "
            f"'{wants.channel}' at {wants.sample_rate} Hz is wanted; prepare it again with channel={wants.channel} "
            f"and sample_rate={wants.sample_rate}"
        )
    wanted = wants.frames_per_window / wants.window_seconds
    if picture and has.frames_per_second * wants.window_seconds < 0.999:
        raise StoreError(
            f"the store {store.path} keeps {has.frames_per_second:g} pictures a second, too few for windows of "
            f"{wants.window_seconds:g} s with {wants.frames_per_window}: pictures would come from other windows; "
            f"prepare it again with --set frames_per_second={max(2 * wanted, 1):.3g}"
        )


def measure_statistics(
    store: Store,
    config: PreprocessConfig,
    *,
    num_clips: int = 200,
    seed: int = 0,
    indices: Sequence[int] | np.ndarray | None = None,
) -> PreprocessConfig:
    """`config` with the mean and standard deviation of log-mel values over windows of random clips.

    One window of each of `num_clips` of the clips `indices` (None: of all), inside what was decoded. Raises StoreError
    if none of them has sound.
    """
    check_store(store, config, picture=False)
    preprocess = Preprocess(config)
    count, total, squares = 0, 0.0, 0.0
    num_measured = 0
    chosen = np.arange(len(store)) if indices is None else np.asarray(indices)
    for index in chosen[epoch_order(seed, 0, len(chosen))]:
        clip = store.clips[int(index)]
        if clip.sound_span is None:
            continue
        span = clip.sound_span
        start = float(draw_windows(clip_rng(seed, 0, clip.index), *span, config.window_seconds, 1)[0])
        first = preprocess.sample_at(start - clip.start_seconds)
        last = min(first + config.window_samples, round((span[1] - clip.start_seconds) * config.sample_rate))
        values = log_mel(
            torch.from_numpy(store.waveform(clip.index, first, last)),
            sample_rate=config.sample_rate,
            num_mel_bins=config.num_mel_bins,
        ).double()
        count += values.numel()
        total += float(values.sum())
        squares += float(values.square().sum())
        num_measured += 1
        if num_measured == num_clips:
            break
    if count < 2:
        raise StoreError(f"the store {store.path} has no sound to measure")
    mean = total / count
    deviation = math.sqrt(max(squares / count - mean**2, 1e-12))
    return replace(config, audio_mean=round(mean, 4), audio_std=max(round(deviation, 4), 1e-4))
