"""Makes small media files with known content, ordinary and odd, for the tests of the whole project.

Every frame carries its number as a row of black and white blocks along its top (`read_number`), and the sound
has short 1 kHz beeps at known times (`beep_onsets`), so a test can tell from pixels and samples alone what
was decoded. All makers return the path they wrote.
"""

import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

NUM_BITS = 13
BEEP_HZ = 1000.0
BEEP_SECONDS = 0.05
_CLOCK = 60000  # ticks a second of the picture's timestamps, where the container allows


def numbered_frame(number: int, height: int = 48, width: int = 104) -> np.ndarray:
    """An RGB frame (H, W, 3) uint8 that shows `number` in its upper half, colour in the lower one."""
    frame = np.full((height, width, 3), 128, np.uint8)
    frame[height // 2 :, :, 0] = 40 + (number * 37) % 160
    frame[height // 2 :, :, 2] = np.linspace(40, 200, width).astype(np.uint8)
    for bit in range(NUM_BITS):
        left, right = bit * width // NUM_BITS, (bit + 1) * width // NUM_BITS
        frame[: height // 2, left:right] = 235 if number >> bit & 1 else 20
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number in a decoded frame (3, H, W), at any size."""
    height, width = frame.shape[1:]
    row = frame[:, height // 8 : max(height // 8 + 1, height * 3 // 8)].mean(axis=(0, 1))
    return sum(int(row[int((bit + 0.5) * width / NUM_BITS)] > 128) << bit for bit in range(NUM_BITS))


def read_numbers(frames: Iterable[np.ndarray]) -> list[int]:
    """The number of each."""
    return [read_number(frame) for frame in frames]


def beeps(seconds: float, times: Sequence[float], sample_rate: int = 16000, channels: int = 1) -> np.ndarray:
    """A waveform (C, S) float32, silent but for a beep that starts at each of `times`."""
    clock = np.arange(round(seconds * sample_rate)) / sample_rate
    waveform = np.zeros_like(clock)
    for time in times:
        on = (clock >= time - 1e-9) & (clock < time + BEEP_SECONDS)
        waveform[on] = 0.5 * np.sin(2 * np.pi * BEEP_HZ * (clock[on] - time))
    return np.repeat(waveform[None].astype(np.float32), channels, axis=0)


def beep_onsets(waveform: np.ndarray, sample_rate: int = 16000, threshold: float = 0.15) -> np.ndarray:
    """When beeps start in `waveform` (S,), in seconds from its first sample (right to about 2 ms)."""
    loud = np.flatnonzero(np.abs(waveform) > threshold)
    if not len(loud):
        return np.zeros(0)
    starts = loud[np.concatenate([[True], np.diff(loud) > sample_rate * BEEP_SECONDS / 2])]
    return starts / sample_rate


def make_video(
    path: Path,
    *,
    seconds: float = 2.0,
    frames_per_second: float = 25.0,
    frame_times: Sequence[float] | None = None,
    size: tuple[int, int] = (48, 104),
    picture: bool = True,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    keyframe_every: int = 25,
    picture_options: dict[str, str] | None = None,
    picture_start: float = 0.0,
    rotation_degrees: int = 0,
    sound: bool = True,
    sound_codec: str = "aac",
    sound_rate: int = 16000,
    channels: int = 1,
    sound_start: float = 0.0,
    sound_gap: tuple[float, float] | None = None,
    beep_times: Sequence[float] = (0.5, 1.5),
) -> Path:
    """A video whose frame i carries the number i, with beeps.

    `frame_times` (seconds, ascending) makes it variable-rate. `sound_start` delays the sound track; beep times
    are then still on the file's clock. No packet is written for the sound inside `sound_gap`. `size` is
    (height, width) as coded; `rotation_degrees` is how far players turn it clockwise.
    """
    if frame_times is None:
        frame_times = [index / frames_per_second for index in range(round(seconds * frames_per_second))]
    with av.open(str(path), "w") as container:
        video = audio = None
        if picture:
            video = container.add_stream(codec, rate=Fraction(frames_per_second).limit_denominator(1001))
            video.height, video.width = size
            video.pix_fmt = pixel_format
            video.gop_size = keyframe_every
            video.codec_context.thread_count = 1
            # AVI counts frames
            tick = 1 / video.average_rate if path.suffix == ".avi" else Fraction(1, _CLOCK)
            video.codec_context.time_base = video.time_base = tick
            video.options = picture_options or ({"preset": "veryfast", "crf": "18"} if codec == "libx264" else {})
            if rotation_degrees:
                video.set_display_rotation(-rotation_degrees)
        if sound:
            layout = {1: "mono", 2: "stereo"}[channels]
            audio = container.add_stream(sound_codec, rate=sound_rate, layout=layout)
            if sound_codec == "aac":
                audio.bit_rate = 96000
        packets: list[tuple[float, Any]] = []
        if video is not None:
            packets += _picture_packets(video, frame_times, size, picture_start)
        if audio is not None:
            waveform = beeps(seconds, [time - sound_start for time in beep_times], sound_rate, channels)
            packets += _sound_packets(audio, waveform, sound_rate, sound_start, sound_gap)
        if not packets:
            container.start_encoding()
        for _, packet in sorted(packets, key=lambda item: item[0]):
            container.mux(packet)
    return path


def _picture_packets(
    stream: Any, frame_times: Sequence[float], size: tuple[int, int], start: float
) -> list[tuple[float, Any]]:
    packets = []
    for number, time in enumerate(frame_times):
        frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
        frame.time_base = stream.codec_context.time_base
        frame.pts = round((time + start) / frame.time_base)
        packets += stream.encode(frame)
    packets += stream.encode(None)
    return [(float(packet.dts * packet.time_base), packet) for packet in packets]


def _sound_packets(
    stream: Any, waveform: np.ndarray, rate: int, start: float, gap: tuple[float, float] | None
) -> list[tuple[float, Any]]:
    frame_format = stream.codec_context.format.name
    planar = np.ascontiguousarray(waveform)
    if frame_format.startswith("s16"):
        planar = np.clip(np.rint(planar * 32768), -32768, 32767).astype(np.int16)
    elif frame_format.startswith("s32"):
        planar = (planar * 2.0**31).astype(np.int32)
    if not frame_format.endswith("p"):
        planar = np.ascontiguousarray(planar.T.reshape(1, -1))
    frame = av.AudioFrame.from_ndarray(planar, format=frame_format, layout=stream.layout.name)
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    frame.pts = round(start * rate)
    packets = [*stream.encode(frame), *stream.encode(None)]
    timed = [(float(packet.pts * packet.time_base), packet) for packet in packets]
    if gap is not None:
        timed = [item for item in timed if not gap[0] <= item[0] < gap[1]]
    return timed


def make_sound(
    path: Path,
    *,
    seconds: float = 2.0,
    sample_rate: int = 16000,
    channels: int = 1,
    codec: str = "pcm_s16le",
    beep_times: Sequence[float] = (0.5, 1.5),
) -> Path:
    """A file with sound only; the suffix chooses the container."""
    return make_video(
        path,
        seconds=seconds,
        picture=False,
        sound_codec=codec,
        sound_rate=sample_rate,
        channels=channels,
        beep_times=beep_times,
    )


def make_cut(source: Path, path: Path, *, start_seconds: float) -> Path:
    """A stream copy of `source` from `start_seconds` on, as cutters make it: packets from the keyframe before
    stay in the file, and an edit list hides them."""
    with av.open(str(source)) as reader, av.open(str(path), "w") as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        packets = [packet for packet in reader.demux() if packet.dts is not None]
        keyframes = [
            packet.pts * packet.time_base
            for packet in packets
            if packet.stream.type == "video" and packet.is_keyframe and packet.pts * packet.time_base <= start_seconds
        ]
        for packet in packets:
            first = max(keyframes) if packet.stream.type == "video" and keyframes else start_seconds
            if packet.pts * packet.time_base < first:
                continue
            shift = round(start_seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            writer.mux(packet)
    return path


def make_cover_art(path: Path, *, seconds: float = 2.0) -> Path:
    """An m4a whose only picture is a cover."""
    with av.open(str(path), "w", format="mp4") as container:
        audio = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(numbered_frame(0, 48, 64), format="rgb24")
        picture.pts, picture.time_base = 0, Fraction(1, 1)
        packets = [*cover.encode(picture), *cover.encode(None)]
        waveform = beeps(seconds, [0.5])
        packets += [packet for _, packet in _sound_packets(audio, waveform, 16000, 0.0, None)]
        for packet in packets:
            container.mux(packet)
    return path


def make_long(path: Path, *, hours: float = 2.0) -> Path:
    """A long mp4 at little cost: a numbered frame a second, beeps at 4, 12, 20, ... s."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1)
        video.height, video.width, video.pix_fmt = 32, 52, "yuv420p"
        video.gop_size = 30
        video.options = {"preset": "ultrafast", "crf": "30"}
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=16000, layout="mono")
        # 64 s are whole packets of 1024 samples; the first packet only primes the decoder
        waveform = beeps(65.0, [4.0 + 8.0 * index for index in range(8)])
        loop = [bytes(packet) for _, packet in _sound_packets(audio, waveform, 16000, 0.0, None)][1:1001]
        written = 0
        for number in range(round(hours * 3600)):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, 32, 52), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1)
            container.mux(video.encode(frame))
            while written < (number + 1) * 16000:
                packet = av.Packet(loop[written // 1024 % len(loop)])
                packet.stream, packet.time_base = audio, Fraction(1, 16000)
                packet.pts = packet.dts = written
                packet.duration = 1024
                container.mux(packet)
                written += 1024
        container.mux(video.encode(None))
    return path


def make_patches(
    path: Path,
    colors: Sequence[tuple[int, int, int]],
    *,
    matrix: str = "601",
    full_range: bool = False,
    tagged: bool = True,
    height: int = 64,
) -> Path:
    """Upright colour patches of 32 columns each, as a half-second H.264 4:4:4 file.

    The samples are computed here from the formulas of BT.601 and BT.709, not by the library under test.
    """
    red, green, blue = (np.array([color[channel] for color in colors]) / 255 for channel in range(3))
    weight_red, weight_blue = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}[matrix]
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    chroma_blue, chroma_red = (blue - luma) / (2 - 2 * weight_blue), (red - luma) / (2 - 2 * weight_red)
    if full_range:
        planes = [luma * 255, chroma_blue * 255 + 128, chroma_red * 255 + 128]
    else:
        planes = [luma * 219 + 16, chroma_blue * 224 + 128, chroma_red * 224 + 128]
    planes = [np.tile(np.repeat(np.clip(np.rint(plane), 0, 255), 32), (height, 1)) for plane in planes]
    tag = {"601": 6, "709": 1}[matrix]
    tags = {"colorspace": tag, "color_primaries": tag, "color_trc": tag} if tagged else {}
    if tagged or full_range:
        tags["color_range"] = 2 if full_range else 1
    return _make_still(path, np.stack(planes).astype(np.uint8), "libx264", "yuv444p", {"qp": "1"}, tags)


def make_hdr_patches(path: Path, coded: Sequence[float], *, transfer: str = "PQ", height: int = 64) -> Path:
    """Upright grey patches of 32 columns with coded values 0..1, BT.2020 10-bit limited range, PQ or HLG."""
    luma = np.tile(np.repeat(np.rint(np.array(coded) * 876 + 64), 32), (height, 1))
    planes = np.stack([luma, np.full_like(luma, 512), np.full_like(luma, 512)]).astype(np.uint16)
    tags = {"colorspace": 9, "color_primaries": 9, "color_trc": 16 if transfer == "PQ" else 18, "color_range": 1}
    options = {"preset": "ultrafast", "x265-params": "log-level=none:lossless=1"}
    return _make_still(path, planes, "libx265", "yuv444p10le", options, tags)


def _make_still(
    path: Path, planes: np.ndarray, codec: str, pixel_format: str, options: dict[str, str], tags: dict[str, int]
) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = planes.shape[1:]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(5):
            frame = av.VideoFrame(planes.shape[2], planes.shape[1], pixel_format)
            for target, plane in zip(frame.planes, planes, strict=True):
                rows = np.zeros((target.height, target.line_size // plane.itemsize), plane.dtype)
                rows[:, : plane.shape[1]] = plane
                target.update(rows)
            for name, value in tags.items():
                setattr(frame, name, value)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_truncated(source: Path, path: Path, *, keep: float = 0.6) -> Path:
    """The first part of a file. (An mp4 needs its index at the front to survive: `front_index`.)"""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def make_damaged_packets(
    source: Path, path: Path, *, kind: str, from_seconds: float, to_seconds: float, intact: float = 0.3
) -> Path:
    """A copy in which the packets of one kind ("video", "audio") that start in the range end in noise."""
    data = bytearray(source.read_bytes())
    rng = random.Random(0)
    with av.open(str(source)) as container:
        for packet in container.demux(**{kind: 0}):
            if packet.pts is not None and from_seconds <= packet.pts * packet.time_base < to_seconds:
                first = packet.pos + int(packet.size * intact)
                data[first : packet.pos + packet.size] = rng.randbytes(packet.pos + packet.size - first)
    path.write_bytes(bytes(data))
    return path


def make_flipped(source: Path, path: Path, *, flips: int = 40, seed: int = 0, from_byte: int = 0) -> Path:
    """A copy with single bits flipped at random places after `from_byte`."""
    data = bytearray(source.read_bytes())
    rng = random.Random(seed)
    for _ in range(flips):
        data[rng.randrange(from_byte, len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))
    return path


def front_index(source: Path, path: Path) -> Path:
    """A stream copy of an mp4 with its index at the front, as files on the web have it."""
    with av.open(str(source)) as reader, av.open(str(path), "w", options={"movflags": "+faststart"}) as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
    return path


def media_data_start(path: Path) -> int:
    """The byte at which the samples of an mp4 begin."""
    return path.read_bytes().index(b"mdat") + 4


def make_empty(path: Path) -> Path:
    """A file of zero bytes."""
    path.write_bytes(b"")
    return path


def make_renamed_text(path: Path) -> Path:
    """Plain text with the name of a video."""
    path.write_text("This is a shopping list, not a video.\n" * 50, encoding="utf-8")
    return path


def make_messy_folder(folder: Path, *, makers: Iterable[Callable[[Path], Path]] = ()) -> Path:
    """A folder with two good videos and every kind of trouble this module knows; extra `makers` get a path each."""
    folder.mkdir(parents=True, exist_ok=True)
    good = make_video(folder / "good.mp4")
    make_video(folder / "soundless.mp4", sound=False)
    make_sound(folder / "pictureless.wav")
    make_video(folder / "short.mp4", seconds=0.2, beep_times=(0.05,))
    (folder / "Ünïcode").mkdir()
    make_video(folder / "Ünïcode" / "naïve 映画\nsecond line.mp4")
    make_truncated(front_index(good, folder / "front.mp4"), folder / "truncated.mp4", keep=0.7)
    make_flipped(folder / "front.mp4", folder / "flipped.mp4", from_byte=media_data_start(folder / "front.mp4"))
    make_empty(folder / "empty.mp4")
    make_renamed_text(folder / "text.mp4")
    make_cover_art(folder / "cover.m4a")
    (folder / "folder.mp4").mkdir()
    (folder / "notes.txt").write_text("not media", encoding="utf-8")
    with contextlib.suppress(OSError):  # not every system has links
        (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    for number, maker in enumerate(makers):
        maker(folder / f"extra-{number}.mp4")
    return folder
