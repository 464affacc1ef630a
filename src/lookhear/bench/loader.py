"""How many clips a second one core prepares from a store, beside the plain form: `lookhear bench loader`.

A prepared clip has one drawn picture, decoded, sized and normalised, and the log-mel of its window of sound.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lookhear.bench.media import plain_log_mel
from lookhear.data.dataset import WindowDataset
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import Store
from lookhear.progress import Progress, quiet


@dataclass(frozen=True, kw_only=True)
class LoaderFigures:
    """Clips a second of one core: medians over `repeats` batches."""

    clips_per_second: float
    plain_clips_per_second: float  # a clip at a time: the whole sound, PIL's resizing, log-mel step by step
    ratio: float  # ours / plain
    read_share: float  # of our time: reading and decoding; the rest is log-mel and normalisation
    batch_size: int
    repeats: int
    clips: int  # in the store


def measure(
    store: Path,
    *,
    batch_size: int = 8,
    repeats: int = 20,
    preprocess: PreprocessConfig | None = None,
    progress: Progress = quiet,
) -> LoaderFigures:
    """Batches of random clips of `store`, on one thread, ours and plain in turn. Raises StoreError for no store."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(Store(store), batch_size, repeats, preprocess, progress)
    finally:
        torch.set_num_threads(threads)


def _measure(
    store: Store, batch_size: int, repeats: int, config: PreprocessConfig | None, progress: Progress
) -> LoaderFigures:
    has = store.config
    config = config or PreprocessConfig(channel=has.channel, sample_rate=has.sample_rate)
    dataset, prepare = WindowDataset(store, config), Preprocess(config)
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    for i in range(repeats + 1):
        progress(i, repeats + 1)
        positions = np.random.default_rng(i).integers(0, len(dataset), batch_size)
        read = _seconds(lambda at=positions, epoch=i: dataset.batch(epoch, at))  # type: ignore[misc]
        both = _seconds(lambda at=positions, epoch=i: prepare(dataset.batch(epoch, at)))  # type: ignore[misc]
        plain = _seconds(lambda at=positions, epoch=i: plain_batch(dataset, epoch, at))  # type: ignore[misc]
        if i:  # the first pays for imports and caches
            for times, value in zip(taken, (read, both, plain), strict=True):
                times.append(value)
    progress(repeats + 1, repeats + 1)
    reading, ours, slow = (statistics.median(times) for times in taken)
    return LoaderFigures(
        clips_per_second=batch_size / ours,
        plain_clips_per_second=batch_size / slow,
        ratio=slow / ours,
        read_share=reading / ours,
        batch_size=batch_size,
        repeats=repeats,
        clips=len(dataset),
    )


def plain_batch(dataset: WindowDataset, epoch: int, positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """The same windows a clip at a time: audio (B, T, F) and pictures (B, 3, H, W), normalised."""
    from PIL import Image

    config, store = dataset.config, dataset.store
    size = (config.picture_width, config.picture_height)
    mean, std = (torch.tensor(value)[:, None, None] for value in (config.picture_mean, config.picture_std))
    sounds, pictures = [], []
    for position in positions:
        clip = dataset.clips[int(position)]
        start = float(dataset.starts(epoch, int(position))[0])
        sound = store.waveform(clip.index)
        first = max(0, round((start - clip.start_seconds) * config.sample_rate))
        cut = sound[first : first + config.window_samples]
        cut = np.pad(cut, (0, config.window_samples - len(cut)))
        sounds.append((plain_log_mel(torch.from_numpy(cut)) - config.audio_mean) / config.audio_std)
        middle = start + config.window_seconds / 2
        nearest = int(np.abs(np.asarray(clip.frame_seconds) - middle).argmin())
        frame = Image.fromarray(store.frames(clip.index, [nearest])[0].transpose(1, 2, 0))
        short = min(frame.size)
        left, top = (frame.width - short) // 2, (frame.height - short) // 2
        square = frame.crop((left, top, left + short, top + short)).resize(size, Image.Resampling.BICUBIC)
        value = torch.from_numpy(np.array(square)).permute(2, 0, 1).float() / 255
        pictures.append((value - mean) / std)
    return torch.stack(sounds), torch.stack(pictures)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
