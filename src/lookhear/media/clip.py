"""`Clip`: a span of a media file, decoded, that carries its own clock.

Sizes: T frames, H rows, W columns, S samples. Times are seconds on the clock of the file (its own timestamps, edit
lists applied), ranges are half-open.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """What was decoded of the range [start_seconds, end_seconds) of one media file."""

    start_seconds: float
    end_seconds: float
    # uint8 (T, 3, H, W), RGB; None where the file has no picture or none was asked for
    frames: np.ndarray | None = None
    # float64 (T,): when each frame is first shown (its own timestamp, not the time that was asked for)
    frame_seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    # float32 (S,), mono, in -1..1; sample 0 is at start_seconds; None where there is no sound or none was asked for
    waveform: np.ndarray | None = None
    sample_rate: int = 16000
    # ranges of the waveform that hold no decoded sound (before the track starts, gaps, damage); zeros stand there
    silent_spans: tuple[tuple[float, float], ...] = ()
    # what could not be decoded, a sentence each
    problems: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.frames is None or (self.frames.ndim == 4 and self.frames.shape[1] == 3)
        assert self.frames is None or len(self.frames) == len(self.frame_seconds)
        assert self.waveform is None or self.waveform.ndim == 1


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """What to decode of one span of a file. One file is read in one forward pass for many requests."""

    start_seconds: float
    end_seconds: float
    # Times at which the shown frame is wanted, ascending; None for no picture. A time that the picture track does
    # not cover (before its first frame, after the end of its last) gives no frame.
    frame_seconds: tuple[float, ...] | None = None
    sound: bool = True
