"""What an editing program must know of a file: its exact frame rate, its start timecode, its reel.

The only place where frames are counted: lookhear itself finds moments by the file's timestamps.
"""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from lookhear.errors import MediaError
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe

# Rates that editing programs have a name for.
STANDARD_RATES = tuple(
    Fraction(count, base)
    for count, base in (
        (24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48000, 1001), (48, 1), (50, 1), (60000, 1001),
        (60, 1), (100, 1), (120000, 1001), (120, 1),
    )
)  # fmt: skip
# 24 and 24000/1001 are a thousandth apart.
_SAME_RATE = 2e-4
# Frame times are looked at this far, and may jitter by what a container that counts milliseconds makes of them.
_LOOK_AT_PACKETS = 500
_JITTER_SECONDS = 0.0021


@dataclass(frozen=True, kw_only=True)
class SourceTiming:
    """A file as an editing program counts it."""

    info: MediaInfo
    # exact frames a second; of a variable rate the standard one that is nearest to the mean; None without a picture
    rate: Fraction | None
    is_variable: bool
    # the timecode of the first frame as the file says it, such as 01:00:00;00
    timecode: str | None
    # of a Broadcast Wave file: samples since midnight at its first sample
    midnight_samples: int | None
    reel: str | None

    @property
    def start_seconds(self) -> float:
        """When, on the file's clock, the first frame (or sample) appears: what the start timecode belongs to."""
        track = self.info.video or self.info.audio
        return self.info.start_seconds if track is None else track.start_seconds

    @property
    def seconds(self) -> float:
        """From there to the end of the picture, or of the sound where there is no picture."""
        track = self.info.video or self.info.audio
        return 0.0 if track is None else track.end_seconds - track.start_seconds


def read_timing(path: str | Path) -> SourceTiming:
    """Reads headers and the first packets; decodes one frame. Raises MediaError."""
    info = probe(path)
    try:
        with _open(info) as container:
            tags = _tags(container)
            rate, is_variable = None, False
            if info.video is not None:
                rate, is_variable = _frame_rate(container, info.video.frames_per_second)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(f"the frame rate and timecode of '{path}' cannot be read: {error}") from error
    samples = tags.get("time_reference", "")
    return SourceTiming(
        info=info,
        rate=rate,
        is_variable=is_variable,
        timecode=tags.get("timecode"),
        midnight_samples=int(samples) if samples.isdecimal() else None,
        reel=tags.get("reel_name"),
    )


def _open(info: MediaInfo) -> Any:
    # As the format that it was found to be when it was probed, and nothing that leads elsewhere.
    options = {"format_whitelist": info.container, "protocol_whitelist": "file"}
    return av.open(f"file:{info.path}", options=options, metadata_errors="replace")


def _tags(container: Any) -> dict[str, str]:
    """All tags in the file, names in lower case; the picture's win, then those of a timecode track."""
    streams = [*container.streams.video, *container.streams.data, *container.streams.audio]
    tags: dict[str, str] = {}
    for source in (*streams, container):
        for name, value in source.metadata.items():
            if value.strip():
                tags.setdefault(name.lower(), value.strip())
    return tags


def _frame_rate(container: Any, mean_rate: float) -> tuple[Fraction, bool]:
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    stream = next(
        stream for stream in container.streams.video if not stream.disposition & cover and stream.codec_context
    )
    declared = stream.average_rate or stream.guessed_rate or stream.base_rate
    rate = Fraction(declared) if declared else Fraction(mean_rate or 25.0)
    if _is_variable(container, stream):
        return min(STANDARD_RATES, key=lambda known: abs(float(known / rate) - 1.0)), True
    for known in STANDARD_RATES:
        if abs(float(rate / known) - 1.0) < _SAME_RATE:
            return known, False
    return rate.limit_denominator(1001), False


def _is_variable(container: Any, stream: Any) -> bool:
    """Whether the first frames do not follow each other at one distance."""
    times = []
    for packet in container.demux(stream):
        if packet.pts is not None and packet.size:
            times.append(packet.pts * packet.time_base)
        if len(times) == _LOOK_AT_PACKETS:
            break
    times.sort()
    # The last packets in the order of decoding may lack frames that are shown before them.
    shown = times[: max(2, len(times) - 16)] if len(times) == _LOOK_AT_PACKETS else times
    steps = [float(after - before) for before, after in itertools.pairwise(shown)]
    return len(steps) > 1 and max(steps) - min(steps) > _JITTER_SECONDS
