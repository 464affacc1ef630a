"""Hits and media for the tests of what is handed to editing programs."""

import os
import sys
import urllib.parse
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lookhear.search.query import Hit
from synthetic import make_sound, make_video


def hit_of(path: str | Path, start: float = 0.5, end: float = 1.5, **changes: Any) -> Hit:
    """A hit of the span [start, end), its peak in the middle."""
    values = {"peak_seconds": 0.5 * (start + end), "score": 3.25, "cosine": 0.5, "matched": "both", "status": "ok"}
    return Hit(path=str(path), start_seconds=start, end_seconds=end, **(values | changes))


def path_of(uri: str) -> Path:
    """The file that a file URI names."""
    return Path(os.fsdecode(urllib.parse.unquote_to_bytes(urllib.parse.urlsplit(uri).path)))


def odd_names(folder: Path) -> list[Path]:
    """Two-second videos whose names are hard to write down."""
    names = ["two words.mp4", "#50% naïve 映画.mp4"]
    if sys.platform == "linux":
        names += ["http:a.mp4", "second\nline\ttab.mp4", os.fsdecode(b"caf\xe9.mp4")]
    paths = [folder / name for name in names]
    for path in paths:
        make_video(path.with_name("plain.mp4"))
        path.with_name("plain.mp4").replace(path)
    return paths


def make_timecoded(path: Path, rate: Fraction, label: str, *, num_frames: int = 50) -> Path:
    """A video with a start timecode, kept as the container keeps it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264" if path.suffix != ".mxf" else "mpeg2video", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = 1 / rate
        container.metadata["timecode"] = label
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_broadcast_wave(path: Path, *, midnight_samples: int, sample_rate: int = 48000) -> Path:
    """Two seconds of sound that say when in the day they begin."""
    plain = make_sound(path.with_name("plain.wav"), sample_rate=sample_rate)
    with av.open(str(plain)) as reader, av.open(str(path), "w", options={"write_bext": "1"}) as writer:
        writer.metadata["time_reference"] = str(midnight_samples)
        copy = writer.add_stream_from_template(reader.streams.audio[0])
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = copy
                writer.mux(packet)
    return path
