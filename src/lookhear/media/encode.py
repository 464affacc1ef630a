"""Writes small media files: H.264 + AAC in mp4, and sound alone as wav, m4a, mp3 or ogg (Opus).

A file appears under its name only when it is whole: it is written beside it and then renamed. The same
input gives the same bytes on the same machine.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from lookhear.errors import MediaError

# container format and codec by suffix; pcm is written as int16, everything else takes float
SOUND_FORMATS = {
    ".wav": ("wav", "pcm_s16le"),
    ".m4a": ("mp4", "aac"),
    ".mp3": ("mp3", "libmp3lame"),
    ".ogg": ("ogg", "libopus"),
}
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_BLOCK_SAMPLES = 1 << 16
_BITEXACT = 0x400  # AVFMT_FLAG_BITEXACT
_BT709 = 1  # the number of BT.709 in the tags of matrix, primaries and transfer alike


def write_video(
    path: str | Path,
    *,
    frames: Iterable[np.ndarray] | None,
    frames_per_second: float,
    waveform: np.ndarray | None,
    sample_rate: int = 16000,
    crf: int = 23,
    preset: str = "veryfast",
) -> None:
    """Writes `frames` ((H, W, 3) uint8 RGB each, H and W even) and `waveform` as an mp4 file.

    Frames may come lazily; frame i is shown from i / frames_per_second. `waveform` is float (S,) or (S, C),
    C at most 2, in -1..1, starting with the first frame. Either may be None. Raises ValueError for shapes
    that H.264 4:2:0 cannot hold and MediaError where the file cannot be written.
    """
    if frames is None and waveform is None:
        raise ValueError("nothing to write: frames and waveform are both None")
    with _appearing(Path(path), "mp4", {"movflags": "+faststart"}) as container:
        sound = None if waveform is None else _Sound(container, "aac", waveform, sample_rate)
        if frames is not None:
            picture = _Picture(container, frames_per_second, crf, preset)
            for number, frame in enumerate(frames):
                picture.write(number, frame)
                if sound is not None:
                    sound.write_until((number + 1) / frames_per_second)
            picture.close()
        if sound is not None:
            sound.close()


def write_sound(path: str | Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Writes `waveform` (float (S,) or (S, C) in -1..1) as .wav (int16), .m4a, .mp3 or .ogg, by the suffix.

    Raises ValueError for another suffix and MediaError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SOUND_FORMATS:
        raise ValueError(f"no sound format for '{path.name}'; known suffixes: {', '.join(SOUND_FORMATS)}")
    container_format, codec = SOUND_FORMATS[path.suffix.lower()]
    with _appearing(path, container_format, {}) as container:
        _Sound(container, codec, waveform, sample_rate).close()


@contextmanager
def _appearing(path: Path, container_format: str, options: dict[str, str]) -> Iterator[Any]:
    """An output container whose file is renamed to `path` at the end, or removed if anything fails."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        container = av.open(str(partial), "w", format=container_format, options=options)
        # encoder version strings would make files differ between machines for no reason
        container.flags = int(container.flags) | _BITEXACT
        try:
            yield container
        finally:
            container.close()
        partial.replace(path)
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(f"cannot write '{path}': {reason}", reason=f"it cannot be written: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)


class _Picture:
    """The H.264 stream of a container; it is added when the first frame tells its size."""

    def __init__(self, container: Any, frames_per_second: float, crf: int, preset: str) -> None:
        self._container = container
        self._rate = Fraction(frames_per_second).limit_denominator(1001)
        # Macroblock-tree rate control gives other packets from run to run; without it the same input is the same file.
        self._options = {"crf": str(crf), "preset": preset, "x264-params": "mbtree=0"}
        self._stream: Any = None

    def write(self, number: int, frame: np.ndarray) -> None:
        """Encodes one (H, W, 3) uint8 frame."""
        if self._stream is None:
            self._add_stream(frame)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        picture.pts = number
        picture.time_base = 1 / self._rate
        self._container.mux(self._stream.encode(picture))

    def close(self) -> None:
        """Writes what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))

    def _add_stream(self, frame: np.ndarray) -> None:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"a frame must be (H, W, 3) uint8, not {frame.shape} {frame.dtype}")
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            raise ValueError(f"H.264 4:2:0 needs even sides, not {width} x {height}")
        stream = self._container.add_stream("libx264", rate=self._rate, options=self._options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1
        context.time_base = 1 / self._rate
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        self._stream = stream


class _Sound:
    """The audio stream of a container, written block by block so that it interleaves with a picture."""

    def __init__(self, container: Any, codec: str, waveform: np.ndarray, sample_rate: int) -> None:
        waveform = np.asarray(waveform, dtype=np.float32)
        if waveform.ndim == 1:
            waveform = waveform[:, None]
        if waveform.ndim != 2 or waveform.shape[1] not in (1, 2):
            raise ValueError(f"a waveform must be (S,), (S, 1) or (S, 2), not {waveform.shape}")
        self._is_pcm = codec.startswith("pcm")
        self._layout = "mono" if waveform.shape[1] == 1 else "stereo"
        self._samples = waveform
        self._rate = sample_rate
        self._written = 0
        self._container = container
        # Opus knows few rates; the encoder's own resampler brings the others to 48 kHz
        coded_rate = 48000 if codec == "libopus" and sample_rate not in _OPUS_RATES else sample_rate
        self._stream = container.add_stream(codec, rate=coded_rate, layout=self._layout)

    def write_until(self, seconds: float) -> None:
        """Encodes the samples before `seconds`."""
        self._write(min(round(seconds * self._rate), len(self._samples)))

    def close(self) -> None:
        """Encodes the rest and writes what the encoder still holds."""
        self._write(len(self._samples))
        self._container.mux(self._stream.encode(None))

    def _write(self, stop: int) -> None:
        while self._written < stop:
            block = self._samples[self._written : min(self._written + _BLOCK_SAMPLES, stop)]
            if self._is_pcm:
                scaled = np.clip(np.rint(block * 32768.0), -32768, 32767).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(scaled.reshape(1, -1), format="s16", layout=self._layout)
            else:
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block.T), format="fltp", layout=self._layout)
            frame.sample_rate = self._rate
            frame.pts = self._written
            frame.time_base = Fraction(1, self._rate)
            self._container.mux(self._stream.encode(frame))
            self._written += len(block)


def missing_codecs() -> list[str]:
    """Names of the decoders and encoders that lookhear is tested with and this build of PyAV lacks."""
    tested = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mpeg2video", "aac", "mp3", "opus", "vorbis", "flac", "libx264"}
    return sorted(tested - av.codecs_available)
