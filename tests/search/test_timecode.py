"""Timecode against counting frame by frame. Wrong arithmetic here makes every cut in an editing program miss."""

from collections.abc import Iterator
from fractions import Fraction

import pytest

from lookhear.search.timecode import Counting, counting_of

NTSC, NTSC_60 = Fraction(30000, 1001), Fraction(60000, 1001)


def labels(nominal: int, dropped: int) -> Iterator[str]:
    """The obvious form: a counter with four wheels, which leaves labels out as SMPTE ST 12 says."""
    mark = ";" if dropped else ":"
    for hours in range(24):
        for minutes in range(60):
            for seconds in range(60):
                for frames in range(nominal):
                    if seconds == 0 and minutes % 10 != 0 and frames < dropped:
                        continue
                    yield f"{hours:02d}:{minutes:02d}:{seconds:02d}{mark}{frames:02d}"


@pytest.mark.parametrize(
    ("rate", "drop_frame", "nominal", "dropped"),
    [
        (NTSC, True, 30, 2),
        (NTSC_60, True, 60, 4),
        (NTSC, False, 30, 0),
        (Fraction(24000, 1001), False, 24, 0),
        (Fraction(25), False, 25, 0),
    ],
    ids=str,
)
def test_twenty_minutes_counted_frame_by_frame(rate: Fraction, drop_frame: bool, nominal: int, dropped: int) -> None:
    counting = Counting(rate=rate, drop_frame=drop_frame)
    for frame, label in zip(range(1300 * nominal), labels(nominal, dropped), strict=False):
        assert counting.label(frame) == label
        assert counting.frame(label) == frame


def test_an_hour_of_drop_frame_has_107892_frames() -> None:
    counting = Counting(rate=NTSC, drop_frame=True)
    assert counting.label(107_892) == "01:00:00;00"
    assert counting.label(17_982) == "00:10:00;00"
    assert counting.label(1_800) == "00:01:00;02"
    assert Counting(rate=NTSC).label(107_892) == "00:59:56:12"
    # Drop-frame stays with the clock: after an hour of time the label is an hour, to the frame.
    assert abs(float(107_892 / NTSC) - 3600) < 1 / 29.97


@pytest.mark.parametrize("counting", [Counting(rate=NTSC, drop_frame=True), Counting(rate=Fraction(50))], ids=str)
def test_labels_begin_again_after_a_day(counting: Counting) -> None:
    last = "23:59:59;29" if counting.drop_frame else "23:59:59:49"
    assert counting.label(counting.day_frames - 1) == last
    assert counting.label(counting.day_frames) == counting.label(0)
    assert counting.label(-1) == last


def test_what_is_no_timecode() -> None:
    counting = Counting(rate=Fraction(25))
    for text in ("", "01:00:00", "01:00:00:25", "24:00:00:00", "01:60:00:00", "yesterday", "-1:00:00:00"):
        assert counting.frame(text) is None
    assert Counting(rate=NTSC, drop_frame=True).frame("00:01:00;00") == 1800  # a dropped label is the next one


def test_who_counts_in_drop_frame() -> None:
    assert counting_of(NTSC, "01:00:00;00").drop_frame
    assert counting_of(NTSC_60, "01:00:00;00").drop_frame
    assert counting_of(NTSC, "01:00:00.00").drop_frame
    assert not counting_of(NTSC, "01:00:00:00").drop_frame
    assert not counting_of(NTSC, None).drop_frame
    for rate in (Fraction(25), Fraction(30), Fraction(24000, 1001), Fraction(24)):
        assert not counting_of(rate, "01:00:00;00").drop_frame


def test_seconds_to_frames_is_exact_where_floats_are_not() -> None:
    counting = Counting(rate=NTSC)
    for frame in (0, 1, 2, 29, 30, 1799, 107_892, 5_000_001):
        appears = frame * 1001 / 30000  # as a float, a little before or after
        assert counting.frame_at(appears) == frame
        assert counting.frames_until(appears) == frame
        assert counting.frame_at(appears + 0.02) == frame
        assert counting.frames_until(appears + 0.02) == frame + 1
