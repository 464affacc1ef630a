"""Examples that are uploaded: received within limits, decoded in a limited child, embedded, and removed.

What stays of one, for a while and in memory only, is its vectors and a small picture.
"""

import asyncio
import re
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lookhear.data.preprocess import Preprocess
from lookhear.data.windows import WindowPlan, Windows, join_windows
from lookhear.embedder import Embedder
from lookhear.errors import UserError
from lookhear.media.clip import ClipRequest
from lookhear.media.decode import MediaFile, open_media
from lookhear.media.scan import check_readable
from lookhear.media.still import still_image
from lookhear.search.examples import QueryPlan, picture_query, plan_query, query_of
from lookhear.search.likeness import describe_picture, describe_windows
from lookhear.search.query import Query
from lookhear.serve.pictures import jpeg, peaks_of
from lookhear.serve.settings import ServeSettings
from lookhear.serve.work import BusyError, UnreadableError, Workshop, reasoned

THUMBNAIL_SIDE = 240
NUM_PEAKS = 160
_PEAK_RATE = 8000


class TooLargeError(UserError):
    """An upload of more bytes than the server takes."""


class TooSlowError(UserError):
    """An upload that does not arrive in time."""


class ForgottenError(UserError):
    """An example that is not remembered, or not any more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """An uploaded example as it is remembered."""

    id: str
    name: str
    kind: Literal["sound", "picture", "clip"]
    seconds: float
    query: Query
    fingerprint: str  # of the model that made its vectors
    peaks: tuple[float, ...]
    thumbnail: bytes | None  # JPEG
    made: float = 0.0  # when, by the monotonic clock

    @property
    def has_sound(self) -> bool:
        """Whether it can be asked for by sound."""
        return self.query.phases[0].sound is not None

    @property
    def has_picture(self) -> bool:
        """Whether it can be asked for by its picture."""
        return self.query.phases[0].picture is not None


class Examples:
    """The examples that are remembered: so many, for so long."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._known: OrderedDict[str, Example] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, example: Example) -> Example:
        """Remembers one under an id that nobody can guess."""
        kept = replace(example, id=secrets.token_urlsafe(18), made=time.monotonic())
        with self._lock:
            self._forget_old()
            self._known[kept.id] = kept
            while len(self._known) > self._settings.max_examples:
                self._known.popitem(last=False)
        return kept

    def named(self, example_id: str) -> Example:
        """The example of that id. Raises ForgottenError."""
        with self._lock:
            self._forget_old()
            if example_id not in self._known:
                raise ForgottenError("this example is not remembered any more; give it again")
            self._known.move_to_end(example_id)
            return self._known[example_id]

    def forget(self, example_id: str) -> None:
        """Forgets one; it need not be known."""
        with self._lock:
            self._known.pop(example_id, None)

    def _forget_old(self) -> None:
        before = time.monotonic() - self._settings.example_seconds
        for example_id in [each.id for each in self._known.values() if each.made < before]:
            del self._known[example_id]


async def receive(
    chunks: AsyncIterator[bytes], declared_bytes: int | None, folder: Path, settings: ServeSettings
) -> Path:
    """Writes an upload to a new file in `folder`. Raises TooLargeError and TooSlowError; nothing is left then."""
    most = settings.max_upload_bytes
    too_large = TooLargeError(
        f"this is more than the {most / 2**20:.4g} MiB that the server takes; cut out a part of it"
    )
    if declared_bytes is not None and declared_bytes > most:
        raise too_large
    file = tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", delete=False)  # noqa: SIM115 (closed below)
    path = Path(file.name)
    try:
        with file:
            async with asyncio.timeout(settings.receive_seconds):
                received = 0
                async for chunk in chunks:
                    received += len(chunk)
                    if received > most:
                        raise too_large
                    await asyncio.to_thread(file.write, chunk)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise TooSlowError(
                f"the file did not arrive within {settings.receive_seconds:g} s; send it again"
            ) from None
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):  # the disk is full
            raise BusyError(
                f"the server cannot keep the file while it is read: {error.strerror or error}; try again later"
            ) from None
        raise
    return path


async def read_example(path: Path, name: str, *, embedder: Embedder, hop_seconds: float, workshop: Workshop) -> Example:
    """The example that the file at `path` is. Raises UnreadableError."""
    job = _ReadJob(path=str(path), name=name, plan=embedder.plan(), hop_seconds=hop_seconds)
    try:
        read = await workshop.uploads.run(read_upload, job)
    except UnreadableError as error:
        raise UnreadableError(f"'{name}' cannot be used: {error}") from None
    return await workshop.infer(_embedded, read, job, embedder)


# ---- in a child


def awake(_: None) -> None:
    """Does nothing: a child that has run it has imported what it needs."""


@dataclass(frozen=True, kw_only=True)
class _ReadJob:
    path: str
    name: str
    plan: WindowPlan
    hop_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Read:
    """What a child made of an upload: a picture, or windows and how they are a query."""

    picture: np.ndarray | None = None  # uint8 (3, H, W), of the size that the model sees
    windows: Windows | None = None
    cut: QueryPlan | None = None
    seconds: float = 0.0
    peaks: tuple[float, ...] = ()
    thumbnail: bytes | None = None


def read_upload(job: _ReadJob) -> _Read | UnreadableError:
    """Decodes an upload as far as it is a query."""
    return reasoned(_read, job)


def _read(job: _ReadJob) -> _Read:
    path, config = Path(job.path), job.plan.preprocess
    check_readable(path)
    picture = still_image(path)
    if picture is not None:
        sized = Preprocess(config).frames_to_size(torch.from_numpy(picture))
        return _Read(picture=sized.numpy(), thumbnail=jpeg(picture, THUMBNAIL_SIDE))
    with open_media(path) as media:
        info = media.info
        cut = plan_query(info, window_seconds=config.window_seconds, hop_seconds=job.hop_seconds, name=job.name)
        plan = replace(job.plan, hop_seconds=cut.step_seconds)
        spans = plan.spans(info, end_seconds=cut.end_seconds)
        windows = join_windows([found for _, found in plan.read(media, spans)])
        end = info.end_seconds if cut.end_seconds is None else cut.end_seconds
        return _Read(
            windows=windows,
            cut=cut,
            seconds=end - info.start_seconds,
            peaks=_peaks(media, info.start_seconds, end) if windows.has_sound.any() else (),
            thumbnail=_thumbnail(media, windows) if windows.has_picture.any() else None,
        )


def _peaks(media: MediaFile, start: float, end: float) -> tuple[float, ...]:
    clip = next(media.read([ClipRequest(start_seconds=start, end_seconds=end)], sample_rate=_PEAK_RATE))
    if clip.waveform is None:
        return ()
    return tuple(round(float(peak), 3) for peak in peaks_of(clip.waveform, NUM_PEAKS))


def _thumbnail(media: MediaFile, windows: Windows) -> bytes | None:
    """The frame in the middle."""
    video = media.info.video
    assert video is not None
    chosen = np.flatnonzero(windows.has_picture)
    row = chosen[len(chosen) // 2]
    middle = float(windows.start_seconds[row] + windows.end_seconds[row]) / 2
    at = max(video.start_seconds, min(middle, video.end_seconds - 1e-3))
    request = ClipRequest(start_seconds=at, end_seconds=at + 0.1, frame_seconds=(at,), sound=False)
    frames = next(media.read([request], short_side=THUMBNAIL_SIDE)).frames
    return jpeg(frames[0], THUMBNAIL_SIDE) if frames is not None and len(frames) else None


# ---- in this process


def _embedded(read: _Read, job: _ReadJob, embedder: Embedder) -> Example:
    window = embedder.window_seconds
    if read.picture is not None:
        query: Query | None = picture_query(describe_picture(embedder, read.picture), window_seconds=window)
    else:
        assert read.windows is not None
        assert read.cut is not None
        query = query_of(describe_windows(embedder, read.windows), read.cut, window_seconds=window)
    if query is None:
        raise UnreadableError(f"'{job.name}' has neither sound nor picture that the model can use; give another file")
    is_sound = query.phases[0].picture is None
    return Example(
        id="",
        name=job.name,
        kind="picture" if read.picture is not None else "sound" if is_sound else "clip",
        seconds=read.seconds,
        query=query,
        fingerprint=embedder.fingerprint,
        peaks=read.peaks,
        thumbnail=read.thumbnail,
    )


def plain_name(name: str) -> str:
    """The last part of a file's name, as it can be shown."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(letter for letter in last if letter.isprintable()).strip()
    return kept[:100] or "example"
