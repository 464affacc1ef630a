"""The door to the decoder (PyAV): opens media files and reads clips out of them, in one forward pass.

Frames are those shown at the asked times, sound lies where its timestamps say, and both are on the clock of
the file. What cannot be decoded is missing and said so; nothing stands in for it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import av.error
import numpy as np

from lookhear.errors import MediaError
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.color import picture_from_frame, resize_frames, short_side_size
from lookhear.media.info import COVER_ART, AudioInfo, MediaInfo, VideoInfo
from lookhear.media.picture import IndexedPictureTrack, PictureTrack, SequentialPictureTrack
from lookhear.media.scan import Scan, check_readable, media_info, scan_packets, unusable
from lookhear.media.sound import Resampler, SoundTrack, Waveform
from lookhear.media.still import still_image

__all__ = [
    "AudioInfo",
    "MediaFile",
    "MediaInfo",
    "VideoInfo",
    "open_media",
    "read_clip",
    "read_picture",
    "resize_frames",
]

# Containers that hold media themselves. Playlists and the like are left out: a file in somebody's folder must
# not make the decoder open other files or addresses.
_CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,flv,asf,wtv,mxf,gxf,dv,rm,nut,ogg,"
    "wav,w64,aiff,caf,au,mp3,aac,flac,ac3,eac3,dts,amr,ape,wv,tta,yuv4mpegpipe,swf,nsv,vc1,3gp"
)
_SEEKABLE = {"mov", "matroska", "wav"}
# what a damaged packet makes the decoder raise; some errno of FFmpeg surface as OSError
_DAMAGE = (
    av.error.FFmpegError,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    LookupError,
    ArithmeticError,
)
# decoders that may be told before each packet whether an unreferenced frame is wanted
_SKIPPING_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vp8"}
_MAX_READ_ERRORS = 50
# requests that start within this time after the end of the current one are looked at before decoding it
_LOOK_AHEAD_SECONDS = 1.0
# how many packets the first frame may need
_FIRST_FRAME_PACKETS = 100


def open_media(path: str | Path) -> "MediaFile":
    """Opens a media file; use it as a context manager.

    Raises MediaError with a reason a person understands: a folder, empty, no permission, not a media file,
    neither picture nor sound.
    """
    return MediaFile(Path(path))


class MediaFile:
    """An open media file: `info`, and `read` for the clips that are wanted of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        check_readable(path)
        with _open_container(path) as container:
            self._scan = _scan(container)
        if self._scan.video is None and self._scan.audio is None:
            reasons = "; ".join(self._scan.problems)
            raise unusable(path, "holds neither picture nor sound" + (f": {reasons}" if reasons else ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    @cached_property
    def info(self) -> MediaInfo:
        """What the file holds. Decodes one frame, for the rotation and dynamic range of the picture."""
        frame = None
        if self._scan.video is not None:
            with _Stream(self.path, self._scan.video.index) as source:
                frame = _first_frame(source)
        return media_info(self.path, self._scan, frame)

    def read(
        self,
        requests: Iterable[ClipRequest],
        *,
        short_side: int | None = None,
        sample_rate: int = 16000,
        channel: Literal["mix", "first"] = "mix",
    ) -> Iterator[Clip]:
        """Decodes the requested clips in one forward pass, one clip for each request, in order.

        Requests come in ascending order of start and may overlap; they are drawn lazily, about a second ahead.
        Memory is bounded by the clips that are open at one time. With `short_side`, frames are shrunk so that
        their shorter side is that long (never enlarged). One frame is given for each asked time that the
        picture covers and that decodes. Raises ValueError where a request starts before the previous one, or
        asks for frames before its start.
        """
        reader = _Reader(self.path, self._scan, short_side, sample_rate, channel)
        try:
            yield from reader.read(iter(requests))
        finally:
            reader.close()


class _Reader:
    """One forward pass over a file."""

    def __init__(
        self,
        path: Path,
        scan: Scan,
        short_side: int | None,
        sample_rate: int,
        channel: Literal["mix", "first"],
    ) -> None:
        self._path = path
        self._scan = scan
        self._short_side = short_side
        self._rate = sample_rate
        self._channel = channel
        self._picture_source: _Stream | None = None
        self._sound_source: _Stream | None = None
        self._picture: PictureTrack | None = None
        self._sound: SoundTrack | None = None
        self._pending: deque[ClipRequest] = deque()
        self._refusal: str | None = None

    def close(self) -> None:
        """Closes the file."""
        for source in (self._picture_source, self._sound_source):
            if source is not None:
                source.close()

    def read(self, requests: Iterator[ClipRequest]) -> Iterator[Clip]:
        """One clip for each request."""
        for request in requests:
            self._announce(request)
            while self._pending:
                self._look_ahead(requests)
                yield self._clip(self._pending.popleft())
                if self._pending:
                    self._forget(self._pending[0].start_seconds)

    def _look_ahead(self, requests: Iterator[ClipRequest]) -> None:
        """Draws the requests that start before the current one has ended: their frames lie on the way."""
        until = self._pending[0].end_seconds + _LOOK_AHEAD_SECONDS
        while self._pending[-1].start_seconds < until:
            request = next(requests, None)
            if request is None:
                return
            if request.start_seconds < self._pending[-1].start_seconds:
                raise ValueError("clip requests must come in ascending order of start_seconds")
            self._announce(request)

    def _announce(self, request: ClipRequest) -> None:
        if request.end_seconds <= request.start_seconds:
            raise ValueError(f"a clip must end after it starts, not {request}")
        if request.frame_seconds and min(request.frame_seconds) < request.start_seconds - 1e-6:
            raise ValueError("a clip cannot ask for frames before its own start")
        if request.frame_seconds is not None and self._scan.video is not None:
            if self._picture is None:
                source = self._picture_source = _Stream(self._path, self._scan.video.index)
                if self._scan.video.has_timestamps:
                    self._picture = IndexedPictureTrack(
                        source,
                        self._convert,
                        end_seconds=self._scan.video.end_seconds,
                        is_truncated=self._scan.is_truncated,
                    )
                else:
                    self._picture = SequentialPictureTrack(source, self._convert)
            self._picture.announce(request.frame_seconds)
        if request.sound and self._scan.audio is not None and self._sound is None:
            self._sound_source = _Stream(self._path, self._scan.audio.index)
            resampler, end = _FFmpegResampler.between, self._scan.audio.end_seconds
            self._sound = SoundTrack(self._sound_source, resampler, self._rate, self._channel, end)
        self._pending.append(request)

    def _convert(self, frame: Any) -> np.ndarray | None:
        try:
            return picture_from_frame(frame, self._short_side)
        except MediaError as error:
            self._refusal = error.reason
        except _DAMAGE as error:
            self._refusal = f"a picture cannot be converted: {error}"
        return None

    def _forget(self, before_seconds: float) -> None:
        for track in (self._picture, self._sound):
            if track is not None:
                track.forget(before_seconds)

    def _clip(self, request: ClipRequest) -> Clip:
        frames, frame_seconds = None, np.zeros(0)
        if request.frame_seconds is not None and self._picture is not None:
            frames, frame_seconds = self._frames(request.frame_seconds)
        problems = [] if self._refusal is None else [self._refusal]
        sound: Waveform | None = None
        if request.sound and self._sound is not None:
            sound = self._sound.read(request.start_seconds, request.end_seconds)
        for source, name in ((self._picture_source, "picture"), (self._sound_source, "sound")):
            count = 0 if source is None else source.damage_between(request.start_seconds, request.end_seconds)
            if count:
                problems.append(f"{count} damaged {name} packet{'s' * (count > 1)} could not be used")
        return Clip(
            start_seconds=request.start_seconds,
            end_seconds=request.end_seconds,
            frames=frames,
            frame_seconds=frame_seconds,
            waveform=None if sound is None else sound.samples,
            sample_rate=self._rate,
            silent_spans=() if sound is None else sound.silent_spans,
            problems=tuple(problems),
        )

    def _frames(self, seconds: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
        assert self._picture is not None
        assert self._scan.video is not None
        shown = [self._picture.frame_at(value) for value in sorted(seconds)]
        found = [frame for frame in shown if frame is not None]
        if not found:
            size = short_side_size(self._scan.video.height, self._scan.video.width, self._short_side)
            return np.zeros((0, 3, *size), np.uint8), np.zeros(0)
        first = found[0].pixels.shape
        pixels = [
            # a picture may change its size on the way; one clip has one size
            frame.pixels if frame.pixels.shape == first else resize_frames(frame.pixels[None], *first[1:])[0]
            for frame in found
        ]
        return np.stack(pixels), np.array([frame.seconds for frame in found])


class _Stream:
    """One stream of one file behind its own demuxer: a `PacketSource`. Remembers where it was damaged."""

    def __init__(self, path: Path, index: int) -> None:
        self._path = path
        self._index = index
        self._damage: list[float] = []
        self._position = 0.0
        self._packets: Iterator[Any] = iter(())
        self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._packets = iter(())
        self._container.close()

    def next_packet(self) -> Any | None:
        """The next packet, None at the end; read errors are passed over as long as anything follows."""
        for _ in range(_MAX_READ_ERRORS):
            try:
                packet = next(self._packets, None)
            except _DAMAGE:
                self.note_damage(self._position)
                self._packets = self._container.demux(self._stream)
                continue
            if packet is None or (packet.size == 0 and packet.dts is None):
                return None
            if packet.pts is not None:
                self._position = packet.pts * self.tick_seconds
            return packet
        return None

    def decode(self, packet: Any | None, *, skip_unreferenced: bool = False) -> list[Any] | None:
        """Frames that `packet` (None: the end) brings out; None where it is damaged."""
        context = self._stream.codec_context
        try:
            if context.name in _SKIPPING_CODECS:
                context.skip_frame = "NONREF" if skip_unreferenced else "DEFAULT"
            return list(context.decode(packet))
        except (av.error.EOFError, av.error.BlockingIOError):
            return []
        except _DAMAGE:
            if packet is not None:
                self.note_damage(None if packet.pts is None else packet.pts * self.tick_seconds)
            return None

    def samples(self, frame: Any) -> np.ndarray | None:
        """The samples of a sound frame; None for a sample format that cannot be read."""
        try:
            return np.asarray(frame.to_ndarray())
        except _DAMAGE:
            self.note_damage(None)
            return None

    def flush(self) -> None:
        """Makes the decoder forget everything."""
        self._stream.codec_context.flush_buffers()

    def seek(self, seconds: float) -> bool:
        """Goes to a keyframe before `seconds`; False where the file refuses."""
        try:
            self._container.seek(int(seconds / self.tick_seconds), stream=self._stream)
        except _DAMAGE:
            return False
        self._packets = self._container.demux(self._stream)
        return True

    def restart(self) -> None:
        """Goes back to the first packet."""
        self.close()
        self._open()

    def note_damage(self, seconds: float | None) -> None:
        """Remembers that something at `seconds` (None: about here) could not be used."""
        self._damage.append(self._position if seconds is None else seconds)

    def damage_between(self, start_seconds: float, end_seconds: float) -> int:
        """How many damaged packets lie in [start, end)."""
        return sum(start_seconds <= seconds < end_seconds for seconds in self._damage)

    def _open(self) -> None:
        self._container = _open_container(self._path)
        self._stream = self._container.streams[self._index]
        for stream in self._container.streams:
            if stream.index != self._index:
                stream.discard = av.stream.Discard.all
        self._stream.codec_context.thread_count = 1
        self.tick_seconds = float(self._stream.time_base or Fraction(1, 1000))
        self.is_seekable = bool(_SEEKABLE & set(self._container.format.name.split(",")))
        self._position = 0.0
        self._packets = self._container.demux(self._stream)


class _FFmpegResampler:
    """libswresample on mono float32 blocks; its delay is taken out by the library itself."""

    def __init__(self, rate_in: int, rate_out: int) -> None:
        self._rate_in = rate_in
        self._fed = 0
        self._resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate_out)

    @staticmethod
    def between(rate_in: int, rate_out: int) -> Resampler:
        """A resampler, or nothing at all where the rates are equal."""
        return _pass_through if rate_in == rate_out else _FFmpegResampler(rate_in, rate_out)

    def __call__(self, block: np.ndarray | None) -> np.ndarray:
        frame = None
        if block is not None:
            frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
            frame.sample_rate = self._rate_in
            frame.pts = self._fed
            frame.time_base = Fraction(1, self._rate_in)
            self._fed += len(block)
        try:
            parts = [out.to_ndarray()[0] for out in self._resampler.resample(frame)]
        except _DAMAGE:
            # a rate that no resampler takes, out of a damaged header: the run stays silent
            parts = []
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _pass_through(block: np.ndarray | None) -> np.ndarray:
    return np.zeros(0, np.float32) if block is None else block


def read_clip(
    path: str | Path,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    frame_seconds: Iterable[float] | None = None,
    frames_per_second: float | None = None,
    short_side: int | None = None,
    sample_rate: int = 16000,
    channel: Literal["mix", "first"] = "mix",
) -> Clip:
    """Decodes one span of a file, by default all of it.

    Frames at `frame_seconds`, or `frames_per_second` from the start of the span on, or none. Raises MediaError.
    """
    if frame_seconds is not None and frames_per_second is not None:
        raise ValueError("give frame_seconds or frames_per_second, not both")
    with open_media(path) as media:
        start = media.info.start_seconds if start_seconds is None else start_seconds
        end = media.info.end_seconds if end_seconds is None else end_seconds
        if end <= start:
            raise unusable(Path(path), f"has nothing between {start:g} and {end:g} s")
        if frames_per_second is not None:
            frame_seconds = np.arange(start, end, 1 / frames_per_second).tolist()
        times = None if frame_seconds is None else tuple(frame_seconds)
        request = ClipRequest(start_seconds=start, end_seconds=end, frame_seconds=times)
        return next(media.read([request], short_side=short_side, sample_rate=sample_rate, channel=channel))


def read_picture(path: str | Path) -> np.ndarray:
    """A still image, turned as its EXIF says, or the first frame of a video: (3, H, W) uint8 RGB.

    What is transparent is shown on white. Raises MediaError where the file is neither.
    """
    path = Path(path)
    check_readable(path)
    picture = still_image(path)
    if picture is not None:
        return picture
    with open_media(path) as media:
        if media.info.video is None:
            raise unusable(path, "has no picture")
        start = media.info.video.start_seconds
        request = ClipRequest(start_seconds=start, end_seconds=start + 1, frame_seconds=(start,), sound=False)
        frames = next(media.read([request])).frames
    if frames is None or not len(frames):
        raise MediaError(
            f"the first picture of '{path}' cannot be decoded", reason="its first picture cannot be decoded"
        )
    return np.asarray(frames[0])


def _open_container(path: Path) -> Any:
    try:
        # the prefix keeps names with a colon from being taken for addresses
        return av.open(
            f"file:{path}",
            options={"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except _DAMAGE as error:
        raise unusable(path, "is not a media file, or its beginning or index is damaged") from error


class _SalvagedContainer:
    """Reads the packets of an open container past errors, and counts these."""

    def __init__(self, container: Any) -> None:
        self.container = container
        self.num_errors = 0

    def packets(self, streams: list[Any]) -> Iterator[Any]:
        """Packets of `streams` from here to the end."""
        for _ in range(_MAX_READ_ERRORS if streams else 0):
            try:
                for packet in self.container.demux(streams):
                    if packet.size or packet.dts is not None:
                        yield packet
                return
            except _DAMAGE:
                self.num_errors += 1

    def seek(self, seconds: float) -> bool:
        """Goes to about `seconds`; False where the file refuses."""
        try:
            self.container.seek(int(seconds * 1e6))
        except _DAMAGE:
            return False
        return True


def _scan(container: Any) -> Scan:
    """Chooses the tracks of an open file and reads its packets."""
    problems = []
    pictures = [stream for stream in container.streams.video if not _is_cover_art(stream)]
    if container.streams.video and not pictures:
        problems.append(COVER_ART)
    usable = []
    for streams, kind in ((pictures, "picture"), (list(container.streams.audio), "sound")):
        known = [stream for stream in streams if stream.codec_context is not None]
        if streams and not known:
            problems.append(f"the codec of its {kind} is not supported")
        usable.append(known[0] if known else None)
    file = _SalvagedContainer(container)
    scan = scan_packets(file, usable[0], usable[1])
    scan.problems[:0] = problems
    if file.num_errors:
        scan.problems.append(f"{file.num_errors} place{'s' * (file.num_errors > 1)} of the file could not be read")
    return scan


def _is_cover_art(stream: Any) -> bool:
    cover = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return bool(stream.disposition & cover)


def _first_frame(source: _Stream) -> Any | None:
    """The first frame that decodes, None where the beginning holds none."""
    for _ in range(_FIRST_FRAME_PACKETS):
        packet = source.next_packet()
        frames = source.decode(packet)
        if frames:
            return frames[0]
        if packet is None:
            break
    return None
