"""Where to look, in seconds: windows inside a span, picture times inside a window, and reproducible random draws.

Two ways to pair pictures with windows: `frame_times` looks from the window (its pictures are its middles), and
`published_pairs` from the picture (its window lies around it, moved inside the clip), as CAV-MAE Sync does.

Random draws come from (seed, epoch, index) alone, so they are the same at any number of workers and processes.
"""

import math
from dataclasses import dataclass

import numpy as np

HOP_SECONDS = 0.010  # from one spectrogram frame to the next
PADDED_FRAMES = 1024  # spectrogram frames to which published code pads or cuts every clip

# Spans come from timestamps in floating point: a window may be longer than what is left by this and still fit.
_TOLERANCE_SECONDS = 1e-6


def window_starts(start_seconds: float, end_seconds: float, *, window_seconds: float, hop_seconds: float) -> np.ndarray:
    """float64 (M,): starts of windows that cover [start_seconds, end_seconds).

    Windows follow each other by `hop_seconds`; where the last does not reach the end, one more is added flush with
    it. A span shorter than one window gives one window, which then reaches beyond the span. Raises ValueError for
    a window or hop that is not positive.
    """
    if window_seconds <= 0 or hop_seconds <= 0:
        raise ValueError(f"window and hop must be positive, not {window_seconds} and {hop_seconds}")
    room = end_seconds - start_seconds - window_seconds
    if room <= _TOLERANCE_SECONDS:
        return np.array([start_seconds], dtype=np.float64)
    starts = start_seconds + hop_seconds * np.arange(math.floor(room / hop_seconds + _TOLERANCE_SECONDS) + 1)
    if start_seconds + room - starts[-1] > _TOLERANCE_SECONDS:
        starts = np.append(starts, start_seconds + room)
    return starts


def num_disjoint(start_seconds: float, end_seconds: float, window_seconds: float) -> int:
    """How many windows fit into the span without overlap."""
    return max(0, math.floor((end_seconds - start_seconds + _TOLERANCE_SECONDS) / window_seconds))


def disjoint_windows(
    start_seconds: float, end_seconds: float, window_seconds: float, count: int | None = None
) -> np.ndarray:
    """float64 (K,): starts of K windows that do not overlap, ascending.

    `count=None`: as many as fit, one after another, in the middle of the span. Otherwise `count` windows, each in
    the middle of one of `count` equal parts of the span. Raises ValueError if `count` do not fit.
    """
    fitting = num_disjoint(start_seconds, end_seconds, window_seconds)
    if count is None:
        rest = end_seconds - start_seconds - fitting * window_seconds
        return start_seconds + max(rest, 0.0) / 2 + window_seconds * np.arange(fitting)
    if count > fitting:
        span = end_seconds - start_seconds
        raise ValueError(f"{count} windows of {window_seconds:g} s do not fit into {span:g} s; {fitting} do")
    part = (end_seconds - start_seconds) / count
    return start_seconds + part * (np.arange(count) + 0.5) - window_seconds / 2


def draw_windows(
    rng: np.random.Generator, start_seconds: float, end_seconds: float, window_seconds: float, count: int
) -> np.ndarray:
    """float64 (count,): random starts of windows inside the span, ascending.

    One window is drawn uniformly. Several are drawn without replacement from a grid of disjoint windows with a random
    phase, so they do not overlap. Where `count` do not fit side by side, they are spread evenly, overlapping as
    little as they must; in a span shorter than one window all start with the span.
    """
    room = end_seconds - start_seconds - window_seconds
    if room <= 0:
        return np.full(count, start_seconds, dtype=np.float64)
    if count == 1:
        return np.array([start_seconds + room * rng.random()])
    slack = end_seconds - start_seconds - count * window_seconds
    if slack < 0:
        return start_seconds + room * np.arange(count) / (count - 1)
    phase = rng.random() * min(window_seconds, slack)
    fitting = num_disjoint(start_seconds + phase, end_seconds, window_seconds)
    chosen = np.sort(rng.choice(max(fitting, count), size=count, replace=False))
    return start_seconds + phase + window_seconds * chosen


def frame_times(window_start: float, window_seconds: float, frames_per_window: int) -> np.ndarray:
    """float64 (M,): times of the pictures of a window: the middles of M equal parts (M = 1: the middle)."""
    return window_start + window_seconds * (np.arange(frames_per_window) + 0.5) / frames_per_window


@dataclass(frozen=True, kw_only=True, eq=False)
class SyncPairs:
    """F pictures of a clip and the window of sound of each, counted from the clip's start."""

    start_frames: np.ndarray  # int64 (F,): first spectrogram frame of each window
    frame_seconds: np.ndarray  # float64 (F,): where each picture is
    unique_starts: np.ndarray  # int64 (U,): the distinct windows, ascending: each needs to be encoded once
    inverse: np.ndarray  # int64 (F,): unique_starts[inverse] is start_frames


def published_pairs(num_frames: int, audio_frames: int, *, padded_frames: int = PADDED_FRAMES) -> SyncPairs:
    """The pairs of CAV-MAE Sync (Araujo et al., CVPR 2025), exactly as its published code makes them.

    Picture i of `num_frames` stands at i / num_frames of the padded clip (`padded_frames` spectrogram frames, 10.24 s);
    the window of `audio_frames` frames lies around it, moved inside the padded clip. With 16 pictures and 416 frames
    there are 11 distinct windows: the first four pictures share one and the last three another. Raises ValueError for
    no picture or a window longer than the padded clip.
    """
    if num_frames < 1 or not 1 <= audio_frames <= padded_frames:
        raise ValueError(
            f"pairs need at least 1 picture and windows of 1 to {padded_frames} frames, not {num_frames} and "
            f"{audio_frames}"
        )
    places = [number * padded_frames / num_frames for number in range(num_frames)]
    # Python's round, which takes halves to the even number, as published
    starts = [min(max(0, round(place) - audio_frames // 2), padded_frames - audio_frames) for place in places]
    start_frames = np.array(starts, dtype=np.int64)
    unique_starts, inverse = np.unique(start_frames, return_inverse=True)
    return SyncPairs(
        start_frames=start_frames,
        frame_seconds=HOP_SECONDS * np.array(places, dtype=np.float64),
        unique_starts=unique_starts,
        inverse=inverse.astype(np.int64),
    )


def nearest_frames(frame_seconds: np.ndarray, times: np.ndarray) -> np.ndarray:
    """int64 (M,): for each time the number of the nearest frame (the earlier one of two equally near)."""
    return np.abs(frame_seconds[None, :] - times[:, None]).argmin(axis=1)


def clip_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of clip `index` in `epoch`: a Philox stream of its own for each (seed, epoch, index), all >= 0."""
    key, counter = np.array([seed, epoch], dtype=np.uint64), np.array([0, 0, 0, index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(seed: int, epoch: int, num: int) -> np.ndarray:
    """int64 (num,): the permutation of `num` things that an epoch goes through."""
    # clips have smaller indices, so no clip shares this stream
    return clip_rng(seed, epoch, (1 << 64) - 1).permutation(num)
