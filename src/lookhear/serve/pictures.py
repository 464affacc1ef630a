"""Pictures of moments: a frame, the sound around it as a strip, and heat on the frame.

Strips are grey with alpha: how loud is in the alpha alone, so that a page can paint them in its own colours.
"""

import io
import itertools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from lookhear.data.preprocess import PreprocessConfig, log_mel
from lookhear.embedder import Embedder
from lookhear.errors import ConfigError, MediaError
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.decode import open_media, read_clip
from lookhear.serve.work import UnreadableError, reasoned
from lookhear.tasks.localization.drawing import overlay
from lookhear.tasks.localization.heat import HeatConfig
from lookhear.tasks.localization.maps import read_around
from lookhear.tasks.localization.overlays import Located, locate
from lookhear.tasks.localization.visibility import Visibility

JPEG_QUALITY = 82
STRIP_RATE = 16000
STRIP_MEL_BINS = 64
# Of the log-mel values of a strip: what is faint, and what is fully painted.
_FAINT_SHARE, _FULL_SHARE = 0.45, 0.998
# A strip whose values lie nearer together is painted as if they did not: silence must not look like noise.
_LEAST_RANGE = 4.0
_GAMMA = 1.5  # makes what is faint fainter
_SILENCE = 1e-5  # in mel energy
_LEAST_PEAK = 0.02

StripKind = Literal["waveform", "spectrogram"]


@dataclass(frozen=True, kw_only=True)
class FrameJob:
    """The frame that is shown at a time."""

    path: str
    at_seconds: float
    height: int


@dataclass(frozen=True, kw_only=True)
class StripJob:
    """The sound of a stretch."""

    path: str
    start_seconds: float
    end_seconds: float
    kind: StripKind
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class HeatJob:
    """What the model is to look at."""

    path: str
    at_seconds: float
    preprocess: PreprocessConfig


# ---- in a child


def awake(_: None) -> None:
    """Does nothing: a child that has run it has imported what it needs."""


def draw_frame(job: FrameJob) -> bytes | UnreadableError:
    """A JPEG of the frame, at most `height` high."""
    return reasoned(_draw_frame, job)


def _draw_frame(job: FrameJob) -> bytes:
    with open_media(job.path) as media:
        video = media.info.video
        if video is None:
            raise MediaError(f"'{job.path}' has no picture", reason="it has no picture")
        at = max(video.start_seconds, min(job.at_seconds, video.end_seconds - 1e-3))
        request = ClipRequest(start_seconds=at, end_seconds=at + 0.1, frame_seconds=(at,), sound=False)
        side = min(job.height, round(job.height * video.width / max(video.height, 1)))
        frames = next(media.read([request], short_side=max(1, side))).frames
    if frames is None or not len(frames):
        why = f"has no picture at {job.at_seconds:.2f} s that can be decoded"
        raise MediaError(f"'{job.path}' {why}", reason=f"it {why}")
    return jpeg(frames[0], job.height)


def draw_strip(job: StripJob) -> bytes | UnreadableError:
    """A PNG of the sound of a stretch, `width` x `height`; empty where the file has no sound."""
    return reasoned(_draw_strip, job)


def _draw_strip(job: StripJob) -> bytes:
    clip = read_clip(job.path, start_seconds=job.start_seconds, end_seconds=job.end_seconds, sample_rate=STRIP_RATE)
    strength = np.zeros((job.height, job.width))
    if clip.waveform is not None and len(clip.waveform):
        draw = _waveform if job.kind == "waveform" else _spectrogram
        strength = draw(clip.waveform, job.width, job.height)
    alpha = (strength.clip(0, 1) * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=2), mode="LA").save(file, format="PNG")
    return file.getvalue()


def read_heat(job: HeatJob) -> Clip | UnreadableError:
    """The frame and the sound around a time, for the model."""
    return reasoned(lambda one: read_around(one.preprocess, one.path, one.at_seconds), job)


def _waveform(waveform: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) in 0..1: bars as high as the loudest sample, relative to the loudest of all."""
    peaks = peaks_of(waveform, width)
    half = np.maximum(peaks / max(float(peaks.max()), _LEAST_PEAK) * (height / 2 - 1), 0.5)
    distance = np.abs(np.arange(height) + 0.5 - height / 2)[:, None]
    return np.clip(half[None] - distance + 0.5, 0, 1)


def _spectrogram(waveform: np.ndarray, width: int, height: int) -> np.ndarray:
    """(H, W) in 0..1, low pitches at the bottom; rows are mel bins."""
    energies = log_mel(torch.from_numpy(waveform), sample_rate=STRIP_RATE, num_mel_bins=STRIP_MEL_BINS).numpy()
    if not len(energies):
        return np.zeros((height, width))
    low, high = np.quantile(energies, [_FAINT_SHARE, _FULL_SHARE])
    low = min(low, high - _LEAST_RANGE)
    strength = ((energies.T[::-1] - low) / (high - low)).clip(0, 1).astype(np.float32)
    if high < np.log(_SILENCE):
        strength[:] = 0
    return np.asarray(Image.fromarray(strength**_GAMMA).resize((width, height), Image.Resampling.BILINEAR))


# ---- in this process


def draw_heat(embedder: Embedder, clip: Clip, at_seconds: float, height: int) -> bytes:
    """A JPEG of the frame with heat where its sound comes from. Raises MediaError without sound or picture there."""
    found = find_heat(embedder, clip, at_seconds)
    return jpeg(overlay(found.frame, found.heat), height)


def find_heat(embedder: Embedder, clip: Clip, at_seconds: float, visibility: Visibility | None = None) -> Located:
    """Where in the frame the sound of a clip comes from. Raises MediaError without sound or picture there."""
    try:
        return locate(embedder, clip, at_seconds, visibility=visibility)
    except ConfigError:  # a model of so few patches that the usual square of them covers all
        return locate(embedder, clip, at_seconds, HeatConfig(region_patches=1), visibility)


def jpeg(picture: np.ndarray, height: int) -> bytes:
    """A JPEG of uint8 (3, H, W), shrunk to at most `height` rows."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.thumbnail((4 * height, height))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=JPEG_QUALITY)
    return file.getvalue()


def peaks_of(waveform: np.ndarray, count: int) -> np.ndarray:
    """float64 (count,): the loudest sample of each of `count` equal parts of a waveform (S,)."""
    loud = np.abs(waveform)
    edges = np.linspace(0, len(loud), count + 1).astype(np.int64)
    return np.array([float(loud[a:b].max()) if b > a else 0.0 for a, b in itertools.pairwise(edges)])


class Kept:
    """What was made lately, up to so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: tuple[object, ...]) -> bytes | None:
        """What was kept under `key`."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple[object, ...], made: bytes) -> None:
        """Keeps it, and lets go of what was not asked for longest."""
        with self._lock:
            self._num_bytes += len(made) - len(self._kept.pop(key, b""))
            self._kept[key] = made
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= len(self._kept.popitem(last=False)[1])
