"""Times as people write them."""

import math


def read_clock(text: str) -> float:
    """Seconds of `12.5`, `1:02.5` or `1:00:02.5`. Raises ValueError for what is no time."""
    seconds = 0.0
    try:
        for part in text.split(":"):
            seconds = seconds * 60.0 + float(part)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"'{text}' is no time; write seconds as 12.5, or a clock time as 1:02.5 or 1:00:02.5")
    return seconds


def write_clock(seconds: float) -> str:
    """Hours, minutes and seconds to the hundredth, without leading zeros: `1:02.50`."""
    hundredths = round(abs(seconds) * 100)
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes}:{rest // 100:02d}.{rest % 100:02d}"
    return ("-" if seconds < 0 else "") + (f"{hours}:{text:0>8}" if hours else text)
