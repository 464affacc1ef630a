"""For whoever embeds files: a decoding process hashes a file, decodes a stretch of it and cuts the windows.

A stretch is some two minutes, so that a long file neither fills the memory of a process nor runs into its time limit.
A process keeps the file of its last stretch open: a further stretch of it goes on from there. To open a file means to
read its packets, and containers without an index (TS, AVI, FLV, MXF) can only be read from their beginning, so opening
one anew for every stretch would take time that grows with the square of its length.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from lookhear.data.manifest import Status
from lookhear.data.windows import Span, WindowPlan, Windows
from lookhear.errors import MediaError, reason_of
from lookhear.media.clip import Clip
from lookhear.media.decode import open_media
from lookhear.media.info import is_loss
from lookhear.media.workers import LimitedPool

STRETCH_SECONDS = 120.0
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class StretchJob:
    """One stretch of one file."""

    rank: int  # of the file, in the list of whoever asks
    path: str
    plan: WindowPlan
    stretch: int
    known_ids: frozenset[str] = frozenset()  # of files of the same size: with one of these there is nothing to decode
    file_id: str = ""  # where it is known already; else the first stretch hashes the file


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """What a stretch gave. Every one tells of the file as a whole; the id comes with the first."""

    file_id: str = ""
    num_stretches: int = 0
    has_video: bool = False
    has_audio: bool = False
    seconds: float = 0.0
    remarks: tuple[str, ...] = ()  # about the file, nothing of which is missing for it
    problems: tuple[str, ...] = ()  # about what is missing or could not be decoded
    num_pictures_lost: int = 0  # asked for and covered by the picture track, but not decoded
    windows: tuple[Windows, ...] = ()
    refusal: str = ""  # why there is nothing at all
    is_innocent: bool = False  # the refusal says nothing about the file: somebody else stopped the process


class _Reading:
    """An open file that is read span by span, forward only."""

    def __init__(self, job: StretchJob) -> None:
        self.key = _reading_key(job)
        self.media = open_media(job.path)
        self.spans = job.plan.spans(self.media.info)
        self.position = 0  # of the span that comes next
        self._to_draw = 0
        self._drawn: list[int] = []
        self._clips = job.plan.read(self.media, self._draw())

    def read(self, first: int, last: int) -> Iterator[tuple[Span, Clip, Windows]]:
        """The spans from `first` up to `last`; those between here and there are passed over, undecoded if possible."""
        self._to_draw = max(self._to_draw, first)
        while self.position < last:
            clip, windows = next(self._clips)
            number = self._drawn.pop(0)
            self.position = number + 1
            if number >= first:
                yield self.spans[number], clip, windows

    def close(self) -> None:
        """Closes the file."""
        self._clips.close()

    def _draw(self) -> Iterator[Span]:
        while self._to_draw < len(self.spans):
            self._drawn.append(self._to_draw)
            self._to_draw += 1
            yield self.spans[self._drawn[-1]]


_open_reading: _Reading | None = None  # of this process


def _reading_key(job: StretchJob) -> tuple[object, ...]:
    try:
        status = Path(job.path).stat()
    except OSError:
        return (job.path, job.plan, None)
    return (job.path, job.plan, status.st_size, status.st_mtime_ns)


def _reading_of(job: StretchJob) -> _Reading:
    """The file of `job`, open and not yet beyond its stretch."""
    global _open_reading
    kept, _open_reading = _open_reading, None
    if kept is not None:
        if kept.key == _reading_key(job) and kept.position <= job.stretch * _spans_a_stretch(job):
            return kept
        kept.close()
    return _Reading(job)


def _spans_a_stretch(job: StretchJob) -> int:
    return max(1, int(STRETCH_SECONDS / job.plan.span_seconds))


def decode_stretch(job: StretchJob) -> Decoded:
    """Hashes the file (with the first stretch only) and decodes a stretch of it. A bad file is no exception."""
    global _open_reading
    file_id = job.file_id or (hash_file(job.path) if job.stretch == 0 else "")
    if job.stretch == 0 and file_id in job.known_ids:
        return Decoded(file_id=file_id)
    windows: list[Windows] = []
    problems: list[str] = []
    lost = 0
    try:
        reading = _reading_of(job)
        info, spans = reading.media.info, reading.spans
    except MediaError as error:
        return Decoded(file_id=file_id, refusal=error.reason)
    per_stretch = _spans_a_stretch(job)
    last = min(len(spans), (job.stretch + 1) * per_stretch)
    try:
        for span, clip, cut in reading.read(job.stretch * per_stretch, last):
            windows.append(cut)
            problems += clip.problems
            lost += len(span.request.frame_seconds or ()) - len(clip.frame_seconds)
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder makes of a bad file: what came before is good
        problems.append(reason_of(error))
        reading.close()
    else:
        if last < len(spans):
            _open_reading = reading
        else:
            reading.close()
    return Decoded(
        file_id=file_id,
        num_stretches=-(-len(spans) // per_stretch),
        has_video=info.video is not None,
        has_audio=info.audio is not None,
        seconds=max(0.0, info.end_seconds - info.start_seconds),
        remarks=tuple(problem for problem in info.problems if not is_loss(problem)),
        problems=tuple(dict.fromkeys([*filter(is_loss, info.problems), *problems])),
        num_pictures_lost=lost,
        windows=tuple(windows),
    )


def decode_stretches(pool: LimitedPool, jobs: Iterable[StretchJob]) -> Iterator[tuple[StretchJob, Decoded]]:
    """Decodes `jobs` in the processes of `pool`, ahead and in their order. A process that ends makes a refusal.

    A process that was stopped from outside says nothing about its file: its stretch is tried once more.
    """
    for done in pool.map(decode_stretch, jobs):
        if done.is_from_outside:
            (done,) = pool.map(decode_stretch, [done.item])
        if done.failure is None:
            assert isinstance(done.value, Decoded)
            yield done.item, done.value
        else:
            yield done.item, Decoded(refusal=done.failure, is_innocent=done.is_from_outside)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a file, and why it is not simply ok."""

    status: Status
    reason: str


@dataclass(kw_only=True)
class Gathered:
    """What the stretches of one file gave so far."""

    first: Decoded | None = None  # without its windows
    _problems: list[str] = field(default_factory=list)
    _num_pictures_lost: int = 0
    _has_sound: bool = False
    _has_picture: bool = False

    def take(self, decoded: Decoded) -> tuple[Windows, ...]:
        """Adds a stretch, the first one first; its windows are the caller's."""
        self.first = self.first or replace(decoded, windows=())
        self._problems += [*decoded.problems, *([decoded.refusal] if decoded.refusal else [])]
        self._num_pictures_lost += decoded.num_pictures_lost
        self._has_sound |= any(windows.has_sound.any() for windows in decoded.windows)
        self._has_picture |= any(windows.has_picture.any() for windows in decoded.windows)
        return decoded.windows

    def verdict(self) -> Verdict:
        """What became of the file, when all of its stretches are here."""
        assert self.first is not None
        losses = list(dict.fromkeys(self._problems))
        if self.first.has_video and not self._has_picture:
            losses.append("no picture could be decoded")
        if self.first.has_audio and not self._has_sound:
            losses.append("no sound could be decoded")
        if self._num_pictures_lost and self._has_picture:
            losses.append(f"{self._num_pictures_lost} of the pictures asked for could not be decoded")
        remarks = [*self.first.remarks, *losses]
        status: Status
        if not self._has_sound and not self._has_picture:
            return Verdict(status="refused", reason="; ".join(remarks) or "it has neither a picture nor a sound")
        if losses:
            status = "partial"
        elif not self._has_picture:
            status, remarks = "sound_only", remarks or ["no picture track"]
        elif not self._has_sound:
            status, remarks = "picture_only", remarks or ["no sound track"]
        else:
            status = "ok"
        return Verdict(status=status, reason="; ".join(remarks))


def hash_file(path: str | Path, *, is_unwanted: Callable[[], bool] = lambda: False) -> str:
    """The id of a file: 32 hexadecimal digits of the sha256 of its bytes; empty where they cannot be read.

    `is_unwanted` is asked now and then; once it says so, the answer is empty.
    """
    digest = hashlib.sha256()
    try:
        if not Path(path).is_file():
            return ""
        with Path(path).open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                if is_unwanted():
                    return ""
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]
