"""If these fail, a time that is typed means another moment."""

import pytest

from lookhear.media.clock import read_clock, write_clock


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("12.5", 12.5), ("1:02.5", 62.5), ("1:00:02.5", 3602.5), ("-3", -3.0)]
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert read_clock(text) == seconds


@pytest.mark.parametrize("text", ["", "noon", "1:", ":2", "nan", "inf", "1:2:x"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write seconds as"):
        read_clock(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00.00"), (62.504, "1:02.50"), (3599.999, "1:00:00.00"), (-3.25, "-0:03.25")]
)
def test_a_time_is_written(seconds: float, text: str) -> None:
    assert write_clock(seconds) == text
    assert read_clock(text.lstrip("-")) == pytest.approx(abs(seconds), abs=0.006)
