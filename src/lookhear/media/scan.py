"""Finds what a file really holds by reading its packets, without decoding them.

Headers promise durations that truncated files do not have; packets do not. Works on the decoder's container,
stream and packet objects without importing the decoder.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookhear.errors import MediaError, reason_of
from lookhear.media.color import frame_hdr, frame_orientation
from lookhear.media.info import AudioInfo, MediaInfo, VideoInfo

# Of a longer file in a container that seeks well, only both ends are read.
_LONG_SECONDS = 1200.0
_HEAD_SECONDS = 10.0
# a header may round, and encoders pad
_DECLARED_TOLERANCE_SECONDS = 0.5
# fewer than this share of the packets (or a single one), this far from the others, are strays
_STRAY_SHARE = 0.05
_STRAY_SECONDS = 30.0
_STRAY_MIN_PACKETS = 8
# no sound packet is longer
_MAX_SOUND_PACKET_SECONDS = 60.0
# containers whose header states the duration (others have it estimated)
_DECLARING = ("mov", "matroska", "wav", "avi")
# in AVI their packets may hold two frames and no true times
_PACKED_CODECS = ("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2")


class SalvagedFile(Protocol):
    """An open container that is read past errors."""

    container: Any

    def packets(self, streams: list[Any]) -> Iterator[Any]:
        """Packets of the streams from here to the end."""

    def seek(self, seconds: float) -> bool:
        """Goes to about `seconds`; False where the file refuses."""


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
    times: list[tuple[float, float]] = field(default_factory=list)  # of all packets, while scanning
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
        if self.sample_rate and duration > _MAX_SOUND_PACKET_SECONDS:
            duration = 0.0
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
        self.times.append((start, end))
        self.start_seconds = min(self.start_seconds, start)
        self.end_seconds = max(self.end_seconds, end)

    def leave_out_strays(self) -> int:
        """Takes back a few packets that lie far from all others: their times are damaged. How many there were."""
        times = np.array(sorted(self.times))
        self.times.clear()
        total = len(times)
        limit = max(_STRAY_SHARE * total, 2) if total >= _STRAY_MIN_PACKETS else 0
        while len(times):
            gaps = np.flatnonzero(np.diff(times[:, 0]) > _STRAY_SECONDS)
            if len(gaps) and len(times) - 1 - gaps[-1] < limit:
                times = times[: gaps[-1] + 1]
            elif len(gaps) and gaps[0] + 1 < limit:
                times = times[gaps[0] + 1 :]
            else:
                break
        if len(times) < total:
            self.start_seconds, self.end_seconds = float(times[0, 0]), float(times[:, 1].max())
            self.num_packets -= total - len(times)
        return total - len(times)


@dataclass(kw_only=True)
class Scan:
    """What reading the packets of a file showed."""

    container: str
    declared_seconds: float | None
    video: TrackScan | None
    audio: TrackScan | None
    num_strays: int = 0  # packets left out because of impossible times
    problems: list[str] = field(default_factory=list)

    @property
    def end_seconds(self) -> float:
        """When the last track ends."""
        return max(track.end_seconds for track in (self.video, self.audio) if track is not None)

    @property
    def is_truncated(self) -> bool:
        """Whether the packets end clearly before the header says."""
        return (
            self.num_strays == 0  # which the header may have counted in
            and self.declared_seconds is not None
            and self.container.split(",")[0] in _DECLARING
            and self.end_seconds
            < self.declared_seconds - max(_DECLARED_TOLERANCE_SECONDS, 0.02 * self.declared_seconds)
        )


def check_readable(path: Path) -> None:
    """Raises MediaError for what is no readable file at all."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise unusable(path, "is a folder, not a media file")
        if not stat.S_ISREG(status.st_mode):
            raise unusable(path, "is not a regular file")
        if status.st_size == 0:
            raise unusable(path, "is empty (0 bytes)")
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        reason = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise unusable(path, reason) from error
    except PermissionError as error:
        raise MediaError(f"no permission to read '{path}'", reason="no permission to read it") from error
    except (OSError, ValueError) as error:
        reason = "is a link that leads to itself" if path.is_symlink() else f"cannot be read: {reason_of(error)}"
        raise unusable(path, reason) from error


def unusable(path: Path, words: str) -> MediaError:
    """The error for a file of which `words` are true: a verb and what follows it."""
    return MediaError(f"'{path}' {words}", reason=f"it {words}")


def scan_packets(file: SalvagedFile, video: Any | None, audio: Any | None) -> Scan:
    """Reads the packets of the streams `video` and `audio`. A track without a usable packet is None."""
    container = file.container
    streams = [stream for stream in (video, audio) if stream is not None]
    tracks = {stream.index: _track(stream) for stream in streams}
    declared = container.duration / 1e6 if container.duration else None
    is_long = declared is not None and declared > _LONG_SECONDS
    is_seekable = container.format.name.split(",")[0] in ("mov", "matroska")
    num_strays = 0
    if not (declared and is_long and is_seekable and _scan_ends(file, tracks, declared)):
        for track in tracks.values():
            track.num_packets = 0
            track.times.clear()
        for packet in file.packets(streams):
            tracks[packet.stream_index].add(packet)
        num_strays = sum(track.leave_out_strays() for track in tracks.values())
    scan = Scan(container=container.format.name, declared_seconds=declared, video=None, audio=None)
    scan.num_strays = num_strays
    if num_strays:
        scan.problems.append(f"{num_strays} packet{'s' * (num_strays > 1)} with impossible times")
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


def _scan_ends(file: SalvagedFile, tracks: dict[int, TrackScan], declared_seconds: float) -> bool:
    """Reads the first and last seconds of a long file. False where that does not show the whole span."""
    streams = [file.container.streams[index] for index in tracks]
    for packet in file.packets(streams):
        tracks[packet.stream_index].add(packet)
        if min(track.end_seconds - track.start_seconds for track in tracks.values()) > _HEAD_SECONDS:
            break
        if tracks[packet.stream_index].end_seconds > 6 * _HEAD_SECONDS:
            break
    if file.seek(declared_seconds - _HEAD_SECONDS):
        for packet in file.packets(streams):
            tracks[packet.stream_index].add(packet)
    if any(track.end_seconds < declared_seconds - _HEAD_SECONDS for track in tracks.values()):
        file.seek(0.0)
        return False
    for track in tracks.values():
        # not every packet was counted
        span = track.end_seconds - track.start_seconds
        track.times.clear()
        counted = file.container.streams[track.index].frames or round(span * track.frames_per_second)
        track.num_packets = max(counted, 1)
    return True


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
