"""Timecode: labels of frames, hours:minutes:seconds:frames, as editing programs count them (SMPTE ST 12).

A label counts whole frames on a nominal rate (30 for 29.97), so at 29.97 frames a second it falls behind the clock.
Drop-frame counting leaves out labels, never frames, to stay with it: the first two of every minute that is no tenth
minute (four at 59.94).
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

# The rates at which drop-frame counting is defined.
DROP_FRAME_RATES = (Fraction(30000, 1001), Fraction(60000, 1001))
# Seconds are floating point and some containers round them: this share of a frame does not make another frame.
_TOLERANCE = Fraction(1, 100)
_LABEL = re.compile(r"\s*(\d{1,2}):(\d{2}):(\d{2})([:;.,])(\d{2,3})\s*")


@dataclass(frozen=True, kw_only=True)
class Counting:
    """How the frames of a file, or of an edit list, are counted."""

    rate: Fraction  # frames a second, exact: 30000/1001 and not 29.97
    drop_frame: bool = False

    def __post_init__(self) -> None:
        assert self.rate > 0
        assert not self.drop_frame or self.rate in DROP_FRAME_RATES

    @property
    def nominal(self) -> int:
        """Labels a second: the rate, rounded."""
        return max(1, math.floor(self.rate + Fraction(1, 2)))

    @property
    def _dropped(self) -> int:
        """Labels left out of a minute that leaves some out."""
        return self.nominal // 15 if self.drop_frame else 0

    @property
    def day_frames(self) -> int:
        """After so many frames the labels begin again."""
        return 24 * 6 * (600 * self.nominal - 9 * self._dropped)

    def label(self, frame: int) -> str:
        """The timecode of a frame, with a semicolon before the frames where labels are dropped."""
        frame %= self.day_frames
        minute = 60 * self.nominal
        tens, rest = divmod(frame, 10 * minute - 9 * self._dropped)
        # The first of ten minutes is whole, the others lack the dropped labels.
        short_minutes = 0 if rest < minute else 1 + (rest - minute) // (minute - self._dropped)
        count = frame + self._dropped * (9 * tens + short_minutes)
        seconds, frames = divmod(count, self.nominal)
        mark = ";" if self.drop_frame else ":"
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{frames:02d}"

    def frame(self, label: str) -> int | None:
        """The frame of a timecode; None where it is none, or none at this rate. A dropped label is the next one."""
        found = _LABEL.fullmatch(label)
        if found is None:
            return None
        hours, minutes, seconds, frames = (int(found[group]) for group in (1, 2, 3, 5))
        if hours > 23 or minutes > 59 or seconds > 59 or frames >= self.nominal:
            return None
        if seconds == 0 and minutes % 10 and frames < self._dropped:
            frames = self._dropped
        minutes += 60 * hours
        return (60 * minutes + seconds) * self.nominal + frames - self._dropped * (minutes - minutes // 10)

    def frame_at(self, seconds: float) -> int:
        """The number of the frame that is shown `seconds` after frame 0 appears."""
        return math.floor(Fraction(seconds) * self.rate + _TOLERANCE)

    def frames_until(self, seconds: float) -> int:
        """How many frames appear before `seconds`."""
        return math.ceil(Fraction(seconds) * self.rate - _TOLERANCE)


def counting_of(rate: Fraction, label: str | None) -> Counting:
    """How a file with this rate and start timecode counts.

    Drop-frame where the label says so with `;` (or `.`) and the rate has it. A file without a label, whatever its
    rate, counts every frame: nothing in it says that labels are dropped.
    """
    found = _LABEL.fullmatch(label or "")
    says_drop = found is not None and found[4] in ";."
    return Counting(rate=rate, drop_frame=says_drop and rate in DROP_FRAME_RATES)
