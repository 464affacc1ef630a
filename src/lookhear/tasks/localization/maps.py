"""A moment of a file or clip -> maps on what people see: heat on the frame, heat on the spectrogram.

H, W pixels of a frame; T spectrogram frames, F mel bins.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lookhear.data.preprocess import log_mel
from lookhear.data.sampling import frame_times, nearest_frames
from lookhear.errors import MediaError
from lookhear.media.clip import Clip
from lookhear.tasks.localization.crop import box_in_crop, enlarge, model_crop
from lookhear.tasks.localization.heat import HeatConfig, PairedWindow, heat_grid, pair_window, sound_grid

if TYPE_CHECKING:
    from lookhear.data.preprocess import PreprocessConfig
    from lookhear.embedder import Embedder
    from lookhear.tasks.localization.crop import Box


def heat_map(
    embedder: "Embedder", media: Clip | str | Path, at_seconds: float, *, config: HeatConfig | None = None
) -> np.ndarray:
    """Where in the frame shown at `at_seconds` its sound comes from: float32 (H, W), higher is more likely.

    `media` is a decoded Clip around that time or the path of a file; H and W are those of its decoded frames. What
    the model does not see of the frame (it looks at a centre crop) gets the lowest value of the map. The scale is
    that of the method (cosines for "cosine"), comparable between frames, not stretched to 0..1.
    Raises MediaError where there is no frame or no sound at that time.
    """
    asked = read_moment(embedder, media, at_seconds)
    height, width = asked.frame.shape[1:]
    grid = heat_grid(embedder, asked.window, config=config)
    return model_crop(embedder.preprocess.config, height, width).onto_frame(grid, height, width)


@dataclass(frozen=True, kw_only=True, eq=False)
class SoundMap:
    """Which part of a window's sound belongs to a region of its picture. Row 0 is the lowest pitch."""

    heat: np.ndarray = field(repr=False)  # float32 (F, T), higher is more; in the scale of the method
    log_mel: np.ndarray = field(repr=False)  # float32 (F, T): the sound itself, natural logarithm
    start_seconds: float  # of the window, on the file's clock
    end_seconds: float
    seconds: float  # the middle of the hottest patch
    hertz: float


def sound_map(
    embedder: "Embedder",
    media: Clip | str | Path,
    at_seconds: float,
    *,
    box: "Box | None" = None,
    config: HeatConfig | None = None,
) -> SoundMap:
    """When, and at which pitch, the thing inside `box` is heard, in the window around `at_seconds`.

    `box` is (left, top, right, bottom) in fractions of the frame, None the whole of it. The region is shown to the
    model alone, and each patch of the spectrogram is judged by what it does to the score of the two.
    Raises MediaError where there is no frame or no sound at that time, and UserError for a box that is none, or lies
    outside the crop that the model sees.
    """
    settings = embedder.preprocess.config
    asked = read_moment(embedder, media, at_seconds)
    seen = None if box is None else box_in_crop(box, model_crop(settings, *asked.frame.shape[1:]))
    grid = sound_grid(embedder, asked.window, box=seen, config=config)
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    edges = settings.mel_edges_hz
    middle = int((row + 0.5) * settings.num_mel_bins / grid.shape[0])
    heard = log_mel(
        torch.from_numpy(asked.window.waveform), sample_rate=settings.sample_rate, num_mel_bins=settings.num_mel_bins
    )
    return SoundMap(
        heat=enlarge(grid, settings.num_mel_bins, settings.audio_frames),
        log_mel=heard.numpy().T,
        start_seconds=asked.start_seconds,
        end_seconds=asked.start_seconds + embedder.window_seconds,
        seconds=asked.start_seconds + (float(column) + 0.5) * embedder.window_seconds / grid.shape[1],
        hertz=float(edges[middle]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """What a model is shown of one moment."""

    window: PairedWindow
    start_seconds: float  # of the window
    frame: np.ndarray = field(repr=False)  # uint8 (3, H, W): the whole frame nearest to the time asked for


def read_moment(embedder: "Embedder", media: Clip | str | Path, at_seconds: float) -> Moment:
    """The frame at a time with the sound around it; near the ends of the file, with the first or last whole window."""
    settings = embedder.preprocess.config
    clip = media if isinstance(media, Clip) else read_around(settings, media, at_seconds)
    if not clip.start_seconds <= at_seconds < clip.end_seconds:
        raise MediaError(
            f"the clip has nothing at {at_seconds:g} s; it goes from {clip.start_seconds:g} to {clip.end_seconds:g} s"
        )
    start = start_around(at_seconds, clip.start_seconds, clip.end_seconds, embedder.window_seconds)
    if clip.frames is None or not len(clip.frames):
        raise MediaError(f"there is no picture at {at_seconds:.2f} s, so nothing can be located; try another time")
    shown = nearest_frames(clip.frame_seconds, _picture_times(settings, at_seconds))
    window = pair_window(embedder, clip, start, shown=shown)
    return Moment(window=window, start_seconds=start, frame=clip.frames[shown[len(shown) // 2]])


def read_around(settings: "PreprocessConfig", path: str | Path, at_seconds: float, *, of_window: bool = False) -> Clip:
    """The frame of a file at a time (and those before and after it that the model sees), and the sound around it.

    `of_window`: the frames of the window instead, which near the ends of a file is not centred on the time.
    """
    from lookhear.media.decode import read_clip
    from lookhear.media.probe import probe

    info = probe(path)
    if not info.start_seconds <= at_seconds < info.end_seconds:
        raise MediaError(
            f"'{path}' has nothing at {at_seconds:g} s; it goes from {info.start_seconds:g} to {info.end_seconds:g} s"
        )
    if not of_window and (info.video is None or info.audio is None):
        lacking = "picture" if info.video is None else "sound"
        raise MediaError(f"'{path}' has no {lacking} at all, so nothing can be located in it; name another file")
    start = start_around(at_seconds, info.start_seconds, info.end_seconds, settings.window_seconds)
    if of_window:
        times = frame_times(start, settings.window_seconds, settings.frames_per_window)
    else:
        times = _picture_times(settings, at_seconds).clip(info.start_seconds, info.end_seconds - 1e-3)
    return read_clip(
        path,
        start_seconds=start,
        end_seconds=min(start + settings.window_seconds, info.end_seconds),
        frame_seconds=tuple(float(time) for time in times),
        sample_rate=settings.sample_rate,
        channel=settings.channel,
    )


def _picture_times(settings: "PreprocessConfig", at_seconds: float) -> np.ndarray:
    """Times of the pictures that a window centred on `at_seconds` shows."""
    length = settings.window_seconds
    return frame_times(at_seconds - length / 2, length, settings.frames_per_window)


def start_around(seconds: float, first: float, last: float, window_seconds: float) -> float:
    """Start of the window around `seconds`, kept inside [first, last) where it fits."""
    return max(first, min(seconds - window_seconds / 2, last - window_seconds))
