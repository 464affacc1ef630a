"""Where to look, in seconds: windows inside a span, picture times inside a window, and reproducible random draws.

Random draws come from (seed, epoch, index) alone, so they are the same at any number of workers and processes.
"""

import math

import numpy as np

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
