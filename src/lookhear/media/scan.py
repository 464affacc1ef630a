"""Finds what a file really holds by reading its packets, without decoding them.

Headers promise durations that truncated files do not have; packets do not. Works on the decoder's container,
stream and packet objects without importing the decoder.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lookhear.media.color import frame_hdr, frame_orientation
from lookhear.media.info import AudioInfo, MediaInfo, VideoInfo

# Of a longer file in a container that seeks well, only both ends are read.
_LONG_SECONDS = 1200.0
_HEAD_SECONDS = 10.0
# a header may round, and encoders pad
_DECLARED_TOLERANCE_SECONDS = 0.5
# containers whose header states the duration (others have it estimated)
_DECLARING = ("mov", "matroska", "wav", "avi")
# in AVI their packets may hold two frames and no true times
_PACKED_CODECS = ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2")


@dataclass(kw_only=True)
class TrackScan:
    """One track as its packets tell it. Width, height (as coded) and rate are 0 for the other kind."""

    index: int
    codec: str
    tick_seconds: float
    width: int = 0
    height: int = 0
    frames_per_second: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    start_seconds: float = np.inf
    end_seconds: float = -np.inf
    num_packets: int = 0  # that are shown
    has_timestamps: bool = True
    primed_until: float = -np.inf  # sound before this only fills the decoder

    def add(self, packet: Any) -> None:
        """Extends the span by one packet."""
        if packet.pts is None:
            self.has_timestamps = False
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None:
            return
        start = time * self.tick_seconds
        duration = (packet.duration or 0) * self.tick_seconds
        if duration <= 0 and self.frames_per_second > 0:
            duration = 1 / self.frames_per_second
        end = start + duration
        if self.sample_rate and packet.has_sidedata("skip_samples"):
            # priming at the start and padding at the end (both uint32) are no sound of the file
            data = bytes(packet.get_sidedata("skip_samples"))
            self.primed_until = start + int.from_bytes(data[:4], "little") / self.sample_rate
            end -= int.from_bytes(data[4:8], "little") / self.sample_rate
        start = max(start, self.primed_until)
        if packet.is_discard or end <= start:
            return
        self.num_packets += 1
        self.start_seconds = min(self.start_seconds, start)
        self.end_seconds = max(self.end_seconds, end)


@dataclass(kw_only=True)
class Scan:
    """What reading the packets of a file showed."""

    container: str
    declared_seconds: float | None
    video: TrackScan | None
    audio: TrackScan | None
    problems: list[str] = field(default_factory=list)

    @property
    def end_seconds(self) -> float:
        """When the last track ends."""
        return max(track.end_seconds for track in (self.video, self.audio) if track is not None)

    @property
    def is_truncated(self) -> bool:
        """Whether the packets end clearly before the header says."""
        return (
            self.declared_seconds is not None
            and self.container.split(",")[0] in _DECLARING
            and self.end_seconds
            < self.declared_seconds - max(_DECLARED_TOLERANCE_SECONDS, 0.02 * self.declared_seconds)
        )


def scan_packets(
    container: Any, video: Any | None, audio: Any | None, salvaged: Callable[[list[Any]], Iterator[Any]]
) -> Scan:
    """Reads the packets of the streams `video` and `audio`; `salvaged` reads packets past errors.

    A track without a single usable packet is None.
    """
    streams = [stream for stream in (video, audio) if stream is not None]
    tracks = {stream.index: _track(stream) for stream in streams}
    declared = container.duration / 1e6 if container.duration else None
    is_seekable = container.format.name.split(",")[0] in ("mov", "matroska")
    if not (
        is_seekable and declared and declared > _LONG_SECONDS and _scan_ends(container, tracks, declared, salvaged)
    ):
        for track in tracks.values():
            track.num_packets = 0
        for packet in salvaged(streams):
            tracks[packet.stream_index].add(packet)
    scan = Scan(container=container.format.name, declared_seconds=declared, video=None, audio=None)
    for stream in streams:
        track = tracks[stream.index]
        kind = "picture" if stream is video else "sound"
        if track.num_packets == 0 or track.end_seconds <= track.start_seconds:
            scan.problems.append(f"the {kind} track holds nothing that can be read")
        elif stream is video:
            if track.codec in _PACKED_CODECS and container.format.name == "avi":
                track.has_timestamps = False
            scan.video = track
        else:
            scan.audio = track
    return scan


def _track(stream: Any) -> TrackScan:
    context = stream.codec_context
    track = TrackScan(index=stream.index, codec=context.codec.canonical_name, tick_seconds=float(stream.time_base))
    if stream.type == "video":
        track.width, track.height = context.width, context.height
        track.frames_per_second = float(stream.average_rate or stream.guessed_rate or 0)
    else:
        track.sample_rate, track.channels = context.sample_rate, context.layout.nb_channels
    return track


def _scan_ends(
    container: Any,
    tracks: dict[int, TrackScan],
    declared_seconds: float,
    salvaged: Callable[[list[Any]], Iterator[Any]],
) -> bool:
    """Reads the first and last seconds of a long file. False where that does not show the whole span."""
    streams = [container.streams[index] for index in tracks]
    for packet in salvaged(streams):
        tracks[packet.stream_index].add(packet)
        if min(track.end_seconds - track.start_seconds for track in tracks.values()) > _HEAD_SECONDS:
            break
        if tracks[packet.stream_index].end_seconds > 6 * _HEAD_SECONDS:
            break
    try:
        container.seek(int((declared_seconds - _HEAD_SECONDS) * 1e6))
        for packet in salvaged(streams):
            tracks[packet.stream_index].add(packet)
    finally:
        reached = [track.end_seconds > declared_seconds - _HEAD_SECONDS for track in tracks.values()]
        if not all(reached):
            container.seek(0)
    for track in tracks.values():
        # not every packet was counted
        span = track.end_seconds - track.start_seconds
        track.num_packets = container.streams[track.index].frames or round(span * track.frames_per_second)
        track.num_packets = max(track.num_packets, 1)
    return all(reached)


def media_info(path: Path, scan: Scan, first_frame: Any | None) -> MediaInfo:
    """`scan` as facts for everybody, with rotation and dynamic range from the first frame."""
    problems = list(scan.problems)
    video = audio = None
    if scan.video is not None:
        video = _video_info(scan.video, first_frame)
        if first_frame is None:
            problems.append("the beginning of the picture track does not decode")
    if scan.audio is not None:
        audio = AudioInfo(
            codec=scan.audio.codec,
            sample_rate=scan.audio.sample_rate,
            channels=scan.audio.channels,
            start_seconds=scan.audio.start_seconds,
            end_seconds=scan.audio.end_seconds,
        )
    tracks = [track for track in (scan.video, scan.audio) if track is not None]
    start = min(track.start_seconds for track in tracks)
    if scan.is_truncated:
        problems.append(
            f"ends at {scan.end_seconds:.2f} s of the {scan.declared_seconds:.2f} s that its header declares"
        )
    return MediaInfo(
        path=path,
        container=scan.container,
        declared_seconds=scan.declared_seconds,
        video=video,
        audio=audio,
        start_seconds=start,
        end_seconds=scan.end_seconds,
        problems=tuple(problems),
    )


def _video_info(track: TrackScan, first_frame: Any | None) -> VideoInfo:
    width, height, rotation, hdr = track.width, track.height, 0, None
    if first_frame is not None:
        orientation = frame_orientation(first_frame)
        width, height = first_frame.width, first_frame.height
        if orientation.swaps_axes:
            width, height = height, width
        rotation, hdr = orientation.rotation_degrees, frame_hdr(first_frame.color_trc)
    return VideoInfo(
        codec=track.codec,
        width=width,
        height=height,
        rotation_degrees=rotation,
        frames_per_second=track.num_packets / (track.end_seconds - track.start_seconds),
        start_seconds=track.start_seconds,
        end_seconds=track.end_seconds,
        num_frames=track.num_packets,
        hdr=hdr,
    )
