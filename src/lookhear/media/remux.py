"""Cuts a stretch out of a media file: its packets as they are where that works, otherwise encoded anew.

Packets can only begin at a keyframe, so a copied clip begins at the last one at or before the wished start, and `Cut`
says where that is. An encoded clip begins with the frame that is shown at the wished start, and its sound with that
sample.
"""

import contextlib
import errno
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from lookhear.errors import MediaError
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe

# A moment without length becomes a clip of this length.
LEAST_SECONDS = 0.1
# What can be written, by the suffix of the source; everything else becomes Matroska, which holds nearly all codecs.
_CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".qt": "mov", ".m4a": "mp4", ".m4b": "mp4",
    ".mkv": "matroska", ".mka": "matroska", ".webm": "webm", ".weba": "webm",
    ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts",
    ".wav": "wav", ".flac": "flac", ".mp3": "mp3", ".ogg": "ogg", ".oga": "ogg", ".opus": "ogg", ".aac": "adts",
}  # fmt: skip
# Reading begins this long before the stretch: sound may lie earlier in the file than the picture of its time, and
# decoders of sound need a packet to get going.
_LEAD_SECONDS = 1.0
_PICTURE_TICK = Fraction(1, 90000)
_QUALITY = {"crf": "18", "preset": "fast"}
_SOUND_BITS_A_SECOND = 192_000
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Files that only say how many channels there are, and what is then meant.
_LAYOUTS = {
    "1 channels": "mono", "2 channels": "stereo", "3 channels": "2.1", "4 channels": "4.0", "5 channels": "5.0",
    "6 channels": "5.1", "8 channels": "7.1",
}  # fmt: skip
# Times of frames of sound that follow each other are rounded, in Matroska to a millisecond: only more is a gap.
_GAP_SECONDS = 0.045
_MAX_READ_ERRORS = 50
# Others land elsewhere, or give their packets other times after a seek.
_SEEKABLE = {"mov", "matroska", "wav"}
_DAMAGE = (av.error.FFmpegError, OSError, ValueError, RuntimeError, LookupError, ArithmeticError)
# What only a person can mend; trying another container is no use.
_NO_PLACE = (errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT, errno.ENOENT, errno.EIO)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A clip that was written. Times are on the clock of its source."""

    path: Path
    start_seconds: float  # of its first frame (of its first sound, where there is no picture)
    end_seconds: float
    is_copy: bool  # the packets of the source; False: encoded anew


class _CannotCopyError(Exception):
    """These packets cannot be copied so that the clip would be right."""


def cut_clip(
    source: str | Path, target: str | Path, *, start_seconds: float, end_seconds: float, exact: bool = False
) -> Cut:
    """Writes the stretch [start, end) of `source` to `target` plus a suffix that fits.

    Copied: the picture and all sound tracks, in the source's container where that can be written, otherwise Matroska.
    With `exact`, or where packets cannot be copied (no timestamps, or a start that only an edit list makes visible):
    the picture as H.264 and the first sound track as AAC in mp4, sound alone as wav.
    The stretch is cut to what the file has; one without length gets `LEAST_SECONDS`. Raises MediaError for a file
    that cannot be read, a stretch outside of it, and a target that cannot be written or is there already.
    """
    info = probe(source)
    start = max(start_seconds, info.start_seconds)
    end = min(max(end_seconds, start + LEAST_SECONDS), info.end_seconds)
    if start >= end:
        raise MediaError(
            f"'{source}' has nothing between {start_seconds:g} and {end_seconds:g} s",
            reason=f"it has nothing between {start_seconds:g} and {end_seconds:g} s",
        )
    stem = Path(target)
    if not exact:
        for suffix, container in _containers(info):
            path = stem.with_name(stem.name + suffix)
            with contextlib.suppress(_CannotCopyError):
                first, last = _write(info, path, partial(_copy, info, container, start, end))
                return Cut(path=path, start_seconds=first, end_seconds=last, is_copy=True)
    path = stem.with_name(stem.name + (".wav" if info.video is None else ".mp4"))
    first, last = _write(info, path, partial(_encode, info, start, end))
    return Cut(path=path, start_seconds=first, end_seconds=last, is_copy=False)


def _containers(info: MediaInfo) -> list[tuple[str, str]]:
    suffix = info.path.suffix.lower()
    own = [(suffix, _CONTAINERS[suffix])] if suffix in _CONTAINERS else []
    return [*own, (".mkv" if info.video is not None else ".mka", "matroska")]


def _write(info: MediaInfo, path: Path, write: Callable[[Path], tuple[float, float]]) -> tuple[float, float]:
    """Calls `write` with a name beside `path` and renames what it wrote, so that `path` is whole or not there."""
    if path.exists():
        reason = "there is a file of that name already, which is not replaced"
        raise MediaError(f"cannot write '{path}': {reason}", reason=f"its clip cannot be written: {reason}")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
        span = write(unfinished)
        unfinished.replace(path)
    except _DAMAGE as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"cannot write '{path}': {reason}", reason=f"its clip cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return span


@contextlib.contextmanager
def _reader(info: MediaInfo) -> Iterator[Any]:
    # As the format that it was found to be when it was probed, and nothing that leads elsewhere.
    options = {"format_whitelist": info.container, "protocol_whitelist": "file"}
    with av.open(f"file:{info.path}", options=options, metadata_errors="replace") as container:
        yield container


def _tracks(container: Any, info: MediaInfo) -> tuple[Any | None, list[Any]]:
    """The picture that was probed, and all sound."""
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    known = [stream for stream in container.streams if stream.codec_context is not None]
    pictures = [stream for stream in known if stream.type == "video" and not stream.disposition & cover]
    return (pictures[0] if info.video is not None else None), [stream for stream in known if stream.type == "audio"]


def _packets_from(container: Any, streams: list[Any], lead: Any, seconds: float) -> Iterator[Any]:
    """Packets of `streams` from before `seconds` on; from the beginning where the file cannot be trusted to seek."""
    is_sought = False
    if _SEEKABLE & set(container.format.name.split(",")):
        with contextlib.suppress(*_DAMAGE):
            container.seek(math.floor((seconds - _LEAD_SECONDS) / lead.time_base), stream=lead)
            is_sought = True
    packets = _packets(container, streams)
    if is_sought:
        first = next(packets, None)
        if first is not None and _time(first) <= seconds:
            yield first
            yield from packets
            return
        container.seek(0)
        packets = _packets(container, streams)
    yield from packets


def _packets(container: Any, streams: list[Any]) -> Iterator[Any]:
    """Packets with a time from here to the end, past places that cannot be read."""
    for _ in range(_MAX_READ_ERRORS):
        with contextlib.suppress(*_DAMAGE):
            for packet in container.demux(streams):
                if packet.size and (packet.pts is not None or packet.dts is not None):
                    yield packet
            return


def _time(packet: Any) -> float:
    """When a packet is decoded, or shown where that is not known."""
    return float((packet.dts if packet.dts is not None else packet.pts) * packet.time_base)


# ---- copying


@dataclass(kw_only=True)
class _Lead:
    """The track that says where the clip begins and ends, and what was written of it."""

    index: int
    usual_seconds: float  # of a packet that does not say how long it is
    start: float = math.inf
    end: float = -math.inf

    def add(self, packet: Any) -> None:
        start = float(packet.pts * packet.time_base)
        seconds = float((packet.duration or 0) * packet.time_base) or self.usual_seconds
        self.start, self.end = min(self.start, start), max(self.end, start + seconds)


def _copy(info: MediaInfo, container_format: str, start: float, end: float, path: Path) -> tuple[float, float]:
    """Writes packets and says which stretch they hold. Raises _CannotCopyError where the clip would not be right."""
    try:
        with _reader(info) as reader:
            picture, sounds = _tracks(reader, info)
            lead = picture if picture is not None else sounds[0]
            streams = sounds if picture is None else [picture, *sounds]
            origin = _sound_packet(info, start) if picture is None else _keyframe(info, start)
            with av.open(f"file:{path}", "w", format=container_format) as writer:
                copies = {stream.index: writer.add_stream_from_template(stream, opaque=True) for stream in streams}
                # Sound is read from where its packet was looked for: a wav file is cut into packets from there on.
                packets = _packets_from(reader, streams, lead, start if picture is None else float(origin))
                rate = info.video.frames_per_second if info.video is not None else 0.0
                written = _Lead(index=lead.index, usual_seconds=1 / rate if rate else 0.0)
                _copy_packets(packets, writer, copies, written, origin, end)
            return written.start, written.end
    except _DAMAGE as error:
        if getattr(error, "errno", None) in _NO_PLACE:
            raise
        raise _CannotCopyError from error


def _keyframe(info: MediaInfo, seconds: float) -> Fraction:
    """When the last keyframe at or before `seconds` is shown."""
    found = None
    with _reader(info) as container:
        stream, _ = _tracks(container, info)
        for packet in _packets_from(container, [stream], stream, seconds):
            if packet.pts is None:
                raise _CannotCopyError
            if info.container == "avi" and packet.pts != packet.dts:
                raise _CannotCopyError  # when it is shown is a guess of the reader
            if packet.is_keyframe and packet.pts * packet.time_base <= seconds + 1e-6:
                found = packet.pts * packet.time_base
            if _time(packet) > seconds:
                break
    assert info.video is not None
    # Before the picture begins lies what an edit list hides.
    if found is None or found < info.video.start_seconds - 1e-3:
        raise _CannotCopyError
    return Fraction(found)


def _sound_packet(info: MediaInfo, seconds: float) -> Fraction:
    """When the packet that sounds at `seconds` begins."""
    found = None
    with _reader(info) as container:
        _, streams = _tracks(container, info)
        for packet in _packets_from(container, streams[:1], streams[0], seconds):
            if packet.pts is None or packet.is_discard:
                continue
            time = packet.pts * packet.time_base
            if found is not None and time > seconds + 1e-6:
                break
            found = time
    if found is None:
        raise _CannotCopyError
    return Fraction(found)


def _copy_packets(
    packets: Iterator[Any], writer: Any, copies: dict[int, Any], lead: _Lead, origin: Fraction, end: float
) -> None:
    has_begun, done = False, set()
    late: list[Any] = []  # of the leading track: shown after the end, and wanted only if others need them
    for packet in packets:
        if packet.pts is None:
            raise _CannotCopyError
        index, time = packet.stream.index, packet.pts * packet.time_base
        # In the order of decoding nothing that is shown before the end comes after this.
        if _time(packet) >= end:
            done.add(index)
            if len(done) == len(copies):
                break
        if index in done or time < origin:
            continue  # also frames after the keyframe that are shown before it: they need what is left out
        if index != lead.index:
            if time < end:
                _mux(writer, packet, copies[index], origin)
            continue
        has_begun = has_begun or (packet.is_keyframe and time == origin)
        if has_begun:
            late.append(packet)
        if has_begun and time < end:
            for wanted in late:
                lead.add(wanted)
                _mux(writer, wanted, copies[index], origin)
            late.clear()
    if not has_begun:
        raise _CannotCopyError


def _mux(writer: Any, packet: Any, stream: Any, origin: Fraction) -> None:
    """Writes a packet with `origin` as the new zero."""
    shift = round(origin / packet.time_base)
    packet.pts -= shift
    packet.dts = packet.pts if packet.dts is None else packet.dts - shift
    packet.stream = stream
    writer.mux(packet)


# ---- encoding


def _encode(info: MediaInfo, start: float, end: float, path: Path) -> tuple[float, float]:
    sound = _decode_sound(info, start, end)
    options = {} if info.video is None else {"movflags": "+faststart"}
    with av.open(f"file:{path}", "w", format="wav" if info.video is None else "mp4", options=options) as writer:
        if info.video is None:
            if sound is None:
                raise MediaError(f"no sound of '{info.path}' could be decoded between {start:g} and {end:g} s")
            codec = "pcm_s16le" if sound.is_16_bit else "pcm_s24le"
            _SoundWriter(writer, writer.add_stream(codec, rate=sound.rate, layout=sound.layout), sound).close()
            return start, end
        frames = _decode_frames(info, start, end)
        first = next(frames, None)
        if first is None:
            raise MediaError(f"no picture of '{info.path}' could be decoded between {start:g} and {end:g} s")
        picture = _picture_stream(writer, info, first[1])
        track = None
        if sound is not None:  # both streams before the first packet
            rate = sound.rate if sound.rate in _AAC_RATES else 48000
            stream = writer.add_stream("aac", rate=rate, layout=sound.layout)
            stream.bit_rate = _SOUND_BITS_A_SECOND
            track = _SoundWriter(writer, stream, sound)
        for time, frame in chain([first], frames):
            writer.mux(picture.encode(_ready(frame, picture, time - start)))
            if track is not None:
                track.write_until(time - start)
        writer.mux(picture.encode(None))
        if track is not None:
            track.close()
    return start, end


def _decoded(info: MediaInfo, seconds: float, *, picture: bool) -> Iterator[tuple[float, Any]]:
    """Frames of one track with their times, from before `seconds` on; what is damaged is left out."""
    with _reader(info) as container:
        video, sounds = _tracks(container, info)
        stream: Any = video if picture else sounds[0]
        stream.codec_context.thread_count = 1
        packets = _packets_from(container, [stream], stream, seconds)
        for packet in chain(_from_keyframe(packets, seconds), [None]):
            with contextlib.suppress(*_DAMAGE):
                for frame in stream.codec_context.decode(packet):
                    # AVI does not say when a frame is shown; there the order of the decoder is right.
                    time = frame.dts if picture and info.container == "avi" else frame.pts
                    if time is not None:
                        yield float(time * stream.time_base), frame


def _from_keyframe(packets: Iterator[Any], seconds: float) -> Iterator[Any]:
    """Leaves out what lies before the last keyframe at least `_LEAD_SECONDS` before `seconds`, and is not decoded."""
    held: list[Any] = []
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None and packet.pts * packet.time_base <= seconds - _LEAD_SECONDS:
            held.clear()
        held.append(packet)
        if _time(packet) > seconds:
            break
    yield from held
    yield from packets


def _decode_frames(info: MediaInfo, start: float, end: float) -> Iterator[tuple[float, Any]]:
    """The frame that is shown at `start`, as of then, and those that follow before `end`."""
    shown, last = None, -math.inf
    for time, frame in _decoded(info, start, picture=True):
        if time >= end - 1e-6:
            break
        if time <= last:
            continue  # two frames cannot be shown at once
        last = time
        if time <= start + 1e-6:
            shown = frame
            continue
        if shown is not None:
            yield start, shown
            shown = None
        yield time, frame
    if shown is not None:
        yield start, shown


def _picture_stream(writer: Any, info: MediaInfo, frame: Any) -> Any:
    """An H.264 stream for frames like this one: same size, depth, colours, pixel shape and rotation."""
    assert info.video is not None
    rate = Fraction(info.video.frames_per_second or 25).limit_denominator(1001)
    stream = writer.add_stream("libx264", rate=rate, options=_QUALITY)
    stream.width, stream.height = frame.width, frame.height
    known = {pixels.name for pixels in av.codec.Codec("libx264", "w").video_formats or ()}
    even = frame.width % 2 == 0 and frame.height % 2 == 0
    stream.pix_fmt = frame.format.name if frame.format.name in known and even else "yuv420p" if even else "yuv444p"
    context = stream.codec_context
    context.thread_count = 1
    context.time_base = _PICTURE_TICK
    for name in ("color_range", "colorspace", "color_primaries", "color_trc"):
        setattr(context, name, getattr(frame, name))
    with _reader(info) as reader:
        source, _ = _tracks(reader, info)
        assert source is not None
        if source.sample_aspect_ratio:
            context.sample_aspect_ratio = source.sample_aspect_ratio
    if info.video.rotation_degrees:
        stream.set_display_rotation(-info.video.rotation_degrees)
    return stream


def _ready(frame: Any, stream: Any, seconds: float) -> Any:
    """The frame as the stream wants it, `seconds` after its first one."""
    if (frame.width, frame.height, frame.format.name) != (stream.width, stream.height, stream.pix_fmt):
        frame = frame.reformat(width=stream.width, height=stream.height, format=stream.pix_fmt)
    frame.pict_type = 0  # the encoder chooses its own keyframes
    frame.pts, frame.time_base = round(seconds / _PICTURE_TICK), _PICTURE_TICK
    return frame


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sound:
    """The first sound track of a stretch."""

    layout: str
    rate: int
    is_16_bit: bool
    blocks: Iterator[np.ndarray]  # float32 (C, S) each, one after another; zeros where the file has no sound


def _decode_sound(info: MediaInfo, start: float, end: float) -> _Sound | None:
    """The sound of [start, end), decoded as its blocks are drawn; None where there is none."""
    if info.audio is None:
        return None
    frames = _decoded(info, start, picture=False)
    for time, frame in frames:
        if time >= end:
            break
        if time + frame.samples / frame.sample_rate > start:
            return _Sound(
                layout=_LAYOUTS.get(frame.layout.name, frame.layout.name),
                rate=frame.sample_rate,
                is_16_bit=frame.format.name.startswith(("u8", "s16")),
                blocks=_sound_blocks(chain([(time, frame)], frames), frame, start, end),
            )
    return None


def _sound_blocks(frames: Iterator[tuple[float, Any]], like: Any, start: float, end: float) -> Iterator[np.ndarray]:
    """The samples of [start, end) of `frames`, each frame where its time puts it and in the form of `like`."""
    rate, num_channels = like.sample_rate, like.layout.nb_channels
    length = round((end - start) * rate)
    resampler = av.AudioResampler(format="fltp", layout=like.layout.name, rate=rate)
    written, follows = 0, -math.inf  # samples since `start`: given, and where the next frame lies if there is no gap
    for time, frame in frames:
        offset = round((time - start) * rate)
        if offset >= length:
            break
        if abs(offset - follows) <= _GAP_SECONDS * rate:
            offset = follows
        samples = np.zeros((num_channels, 0), np.float32)
        with contextlib.suppress(*_DAMAGE):
            samples = np.concatenate([block.to_ndarray() for block in resampler.resample(frame)], axis=1)
        follows = offset + samples.shape[1]
        samples = samples[:, max(0, written - offset) : max(0, length - offset)]
        if samples.shape[1]:
            yield from _silence(num_channels, max(offset, written) - written, rate)
            yield samples
            written = max(offset, written) + samples.shape[1]
    yield from _silence(num_channels, length - written, rate)


def _silence(num_channels: int, length: int, rate: int) -> Iterator[np.ndarray]:
    for first in range(0, length, rate):
        yield np.zeros((num_channels, min(rate, length - first)), np.float32)


class _SoundWriter:
    """Encodes sound block by block, so that it goes along with the picture."""

    def __init__(self, writer: Any, stream: Any, sound: _Sound) -> None:
        self._writer, self._stream, self._sound = writer, stream, sound
        self._written = 0

    def write_until(self, seconds: float) -> None:
        """Encodes the blocks that begin before `seconds`."""
        while self._written < seconds * self._sound.rate:
            block = next(self._sound.blocks, None)
            if block is None:
                return
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self._sound.layout)
            frame.sample_rate, frame.time_base = self._sound.rate, Fraction(1, self._sound.rate)
            frame.pts = self._written
            self._writer.mux(self._stream.encode(frame))
            self._written += block.shape[1]

    def close(self) -> None:
        """Encodes the rest, and what the encoder still holds."""
        self.write_until(math.inf)
        self._writer.mux(self._stream.encode(None))
