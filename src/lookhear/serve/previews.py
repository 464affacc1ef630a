"""Short previews of what a browser cannot play: a stretch of a file as small H.264 and AAC in mp4, made when asked for.

Frames and sound are read as for the model: turned, tone-mapped, at their own times. What was made is kept on the disk
up to so many bytes.
"""

import asyncio
import hashlib
import math
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lookhear.data.sampling import nearest_frames
from lookhear.errors import MediaError
from lookhear.media.clip import ClipRequest
from lookhear.media.decode import MediaFile, open_media
from lookhear.media.encode import write_video
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe
from lookhear.serve.catalogue import status_of
from lookhear.serve.work import UnreadableError, Workshop, reasoned

SHORT_SIDE = 480
SAMPLE_RATE = 48000
_RATES = (5.0, 30.0)  # frames a second, at least and at most
_LEAST_SECONDS = 0.1
# Codecs that browsers play, by container. What is missing here is tried as a preview at once.
_PICTURES = {
    "mp4": {"h264", "av1", "vp9"},
    "webm": {"vp8", "vp9", "av1"},
    "ogg": set[str](),
    "wav": set[str](),
    "mp3": set[str](),
    "flac": set[str](),
}
_SOUNDS = {
    "mp4": {"aac", "mp3", "opus", "flac"},
    "webm": {"opus", "vorbis"},
    "ogg": {"opus", "vorbis", "flac"},
    "wav": {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"},
    "mp3": {"mp3"},
    "flac": {"flac"},
}
Plays = Literal["directly", "as preview"]


def plays(info: MediaInfo) -> Plays:
    """Whether browsers can be expected to play a file. One that cannot after all says so, and is shown a preview."""
    names = info.container.split(",")
    container = "mp4" if "mp4" in names else "webm" if info.path.suffix.lower() in (".webm", ".weba") else names[0]
    picture = info.video is None or info.video.codec in _PICTURES.get(container, ())
    sound = info.audio is None or info.audio.codec in _SOUNDS.get(container, ())
    return "directly" if picture and sound else "as preview"


def read_info(path: str) -> MediaInfo | UnreadableError:
    """What a file holds. Runs in a child."""
    return reasoned(probe, path)


@dataclass(frozen=True, kw_only=True)
class PreviewJob:
    """A stretch of a file, and where its preview is to lie."""

    path: str
    start_seconds: float
    seconds: float
    out: str = ""


def make_preview(job: PreviewJob) -> int | UnreadableError:
    """Writes a preview whose second 0 is `start_seconds` of the file; its size in bytes. Runs in a child."""
    return reasoned(_make_preview, job)


def _make_preview(job: PreviewJob) -> int:
    with open_media(job.path) as media:
        info = media.info
        start, end = job.start_seconds, min(job.start_seconds + job.seconds, info.end_seconds)
        if end - start < _LEAST_SECONDS or end <= info.start_seconds:
            why = f"has nothing at {start:g} s; it goes from {info.start_seconds:.2f} to {info.end_seconds:.2f} s"
            raise MediaError(f"'{job.path}' {why}", reason=f"it {why}")
        waveform = None
        if info.audio is not None:
            sound = next(media.read([ClipRequest(start_seconds=start, end_seconds=end)], sample_rate=SAMPLE_RATE))
            waveform = sound.waveform
        rate = 0.0 if info.video is None else min(max(info.video.frames_per_second, _RATES[0]), _RATES[1])
        frames = _frames(media, info, start, end, rate) if info.video is not None else iter(())
        first = next(frames, None)
        if first is None and waveform is None:
            raise MediaError(f"nothing of '{job.path}' could be decoded", reason="nothing there could be decoded")

        def all_frames() -> Iterator[np.ndarray]:
            assert first is not None
            yield first
            yield from frames

        write_video(
            job.out,
            frames=None if first is None else all_frames(),
            frames_per_second=rate or _RATES[1],
            waveform=waveform,
            sample_rate=SAMPLE_RATE,
        )
    return Path(job.out).stat().st_size


def _frames(media: MediaFile, info: MediaInfo, start: float, end: float, rate: float) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3), `rate` a second from `start` on; where the picture track has none, the nearest one stands."""
    video = info.video
    assert video is not None
    times = start + np.arange(max(1, math.ceil((end - start) * rate - 1e-6))) / rate
    shown = times.clip(video.start_seconds, video.end_seconds - 1e-3)
    parts = np.array_split(shown, -(-len(times) // max(1, round(rate))))  # a second at a time, for memory
    requests = [
        ClipRequest(
            start_seconds=float(part[0]),
            end_seconds=float(part[-1]) + 1 / rate,
            frame_seconds=tuple(np.unique(part).tolist()),
            sound=False,
        )
        for part in parts
    ]
    last: np.ndarray | None = None
    waiting = 0  # frames of the beginning that could not be decoded
    for part, request, clip in zip(parts, requests, media.read(requests, short_side=SHORT_SIDE), strict=True):
        if clip.frames is None or not len(clip.frames):
            if last is None:
                waiting += len(part)
            else:
                yield from [last] * len(part)
            continue
        asked = np.array(request.frame_seconds)
        is_whole = len(clip.frames) == len(asked)
        for number in np.searchsorted(asked, part) if is_whole else nearest_frames(clip.frame_seconds, part):
            last = _even(clip.frames[number])
            yield from [last] * (waiting + 1)
            waiting = 0


def _even(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) with even sides, of (3, H, W). H.264 4:2:0 has no odd ones; a side of one pixel is doubled."""
    height, width = frame.shape[1:]
    frame = frame.repeat(2, axis=1) if height == 1 else frame
    frame = frame.repeat(2, axis=2) if width == 1 else frame
    return frame[:, : frame.shape[1] // 2 * 2, : frame.shape[2] // 2 * 2].transpose(1, 2, 0)


class Previews:
    """Previews on the disk: each is made once, however many ask for it, and the oldest go when there are too many."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._folder = workshop.folder / "previews"
        self._folder.mkdir(exist_ok=True)
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by name, the least recently used first
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def find(self, job: PreviewJob) -> Path:
        """The preview of `job`, whose `out` is chosen here. Raises UnreadableError, UnknownFileError and BusyError."""
        changed = (await self._workshop.look(status_of, job.path)).st_mtime_ns  # of a network folder it takes time
        key = f"{job.path}\0{changed}\0{job.start_seconds:.3f}\0{job.seconds:.3f}"
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32] + ".mp4"
        path = self._folder / name
        if name in self._sizes:
            self._sizes.move_to_end(name)
            return path
        task = self._under_way.get(name)
        if task is None:
            task = self._under_way[name] = asyncio.ensure_future(self._make(job, path))
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        await asyncio.shield(task)  # who gives up must not take it from the others
        return path

    async def _make(self, job: PreviewJob, path: Path) -> None:
        """Makes it and counts it, whoever still waits; of one that fails, or whose child is stopped, nothing stays."""
        scratch = path.with_suffix(".new")
        scratch.mkdir()
        try:
            out = scratch / path.name
            size = await self._workshop.media.run(make_preview, replace(job, out=str(out)))
            out.replace(path)
            self._keep(path.name, size)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _keep(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._sizes.move_to_end(name)
        while sum(self._sizes.values()) > self._workshop.settings.preview_bytes and len(self._sizes) > 1:
            oldest, _ = self._sizes.popitem(last=False)
            (self._folder / oldest).unlink(missing_ok=True)
