"""One media file -> one staged piece: what a worker process of `prepare` does.

A piece is a run of tar members (no end mark, so that pieces can be put one after another into a shard) and a record
beside it that says what the piece holds. Both appear whole or not at all, the record last: a piece counts from the
moment its record is there. The same file and configuration give the same bytes.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import struct
import tarfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from lookhear.config import to_dict
from lookhear.data.manifest import FileLabels, ManifestRow, Status, json_line
from lookhear.data.pictures import PictureFiles, jpeg_bytes, picture_edges, read_pictures
from lookhear.data.store import WAV_HEADER_BYTES, PrepareConfig, clip_id
from lookhear.errors import MediaError, StoreError, reason_of
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.decode import MediaFile, MediaInfo, open_media
from lookhear.media.info import is_loss

# A rest of a file that is shorter than this is joined to the clip before it.
MIN_CLIP_SECONDS = 1.0
_TAR_BLOCK = tarfile.BLOCKSIZE
TAR_END = bytes(2 * _TAR_BLOCK)


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """One file to stage: where it is, what it is called in the store, and where its piece goes."""

    media_path: str
    name: str
    size_bytes: int
    labels: FileLabels
    config: PrepareConfig
    piece_path: str  # the record is beside it, with the suffix .json
    problem: str = ""  # why the file cannot be read, where that is known before opening it
    pictures: PictureFiles | None = None  # where they are files of their own; then the media file is the sound alone


@dataclass(frozen=True, kw_only=True)
class StageOutcome:
    """What a worker answers: the status of the file, or why the store could not be written."""

    row: ManifestRow | None
    write_problem: str = ""


def record_path(piece_path: Path) -> Path:
    """Where the record of a piece is."""
    return piece_path.with_suffix(".json")


def clip_spans(start_seconds: float, end_seconds: float, clip_seconds: float) -> list[tuple[float, float]]:
    """Cuts a file into clips. A rest shorter than a second is joined to the clip before it, if there is one."""
    length = end_seconds - start_seconds
    if length <= 0:
        return []
    count = max(1, int(length / clip_seconds + 1e-6))
    if length - count * clip_seconds >= MIN_CLIP_SECONDS:
        count += 1
    edges = [start_seconds + number * clip_seconds for number in range(count)] + [end_seconds]
    return list(itertools.pairwise(edges))


def clip_requests(info: MediaInfo, config: PrepareConfig) -> list[ClipRequest]:
    """What to decode of a file. Pictures stand in the middle of equal parts of their clip."""
    requests = []
    for start, end in clip_spans(info.start_seconds, info.end_seconds, config.clip_seconds):
        count = max(1, round((end - start) * config.frames_per_second))
        times = tuple(start + (number + 0.5) * (end - start) / count for number in range(count))
        requests.append(
            ClipRequest(
                start_seconds=start,
                end_seconds=end,
                frame_seconds=times if info.video else None,
                sound=info.audio is not None,
            )
        )
    return requests


def stage_file(job: StageJob) -> StageOutcome:
    """Decodes one file, writes its piece and its record. Never raises for a bad file: that becomes a refused row."""
    try:
        return StageOutcome(row=_stage(job))
    except StoreError as error:
        return StageOutcome(row=None, write_problem=str(error))
    except OSError as error:  # reading the file cannot raise it here, so it is the writing
        return StageOutcome(row=None, write_problem=str(write_error(Path(job.piece_path), error)))


def stage_refusal(job: StageJob, reason: str) -> ManifestRow:
    """Records that a file gave nothing, and why. Raises OSError where the record cannot be written."""
    row = _row(job, _Findings(), refusal=reason)
    _write_record(Path(job.piece_path), {"row": to_dict(row), "clips": [], "bytes": 0, "sha256": ""})
    return row


def _stage(job: StageJob) -> ManifestRow:
    if job.problem and job.pictures is None:
        return stage_refusal(job, job.problem)
    piece_path = Path(job.piece_path)
    with appearing(piece_path) as file:
        findings, piece, failure = _Findings(), _Piece(file), ""
        try:
            if job.pictures is None:
                _decode(job, piece, findings)
            else:
                _join(job, job.pictures, piece, findings)
        except (StoreError, MemoryError):
            raise  # the store cannot be written; the memory limit is the pool's to explain
        except Exception as error:  # whatever a decoder makes of a bad file: keep what came before, say why it ended
            failure = reason_of(error)
        row = _row(job, findings, refusal=failure)
    record = {"row": to_dict(row), "clips": piece.clips, "bytes": piece.size, "sha256": piece.hash.hexdigest()}
    _write_record(piece_path, record)
    return row


def _decode(job: StageJob, piece: "_Piece", findings: "_Findings") -> None:
    config = job.config
    with open_media(job.media_path) as media:
        findings.info = media.info
        requests = clip_requests(media.info, config)
        clips = media.read(
            requests, short_side=config.short_side, sample_rate=config.sample_rate, channel=config.channel
        )
        for request, clip in zip(requests, clips, strict=False):
            findings.problems += clip.problems
            findings.num_pictures_lost += max(0, len(_covered_times(media.info, request)) - len(clip.frame_seconds))
            picture, sound = _picture_span(media.info, request, clip), _sound_span(clip)
            if picture is not None:
                findings.picture_seconds += _decoded_picture_seconds(request, clip, picture)
            if sound is not None:
                findings.sound_seconds += _decoded_sound_seconds(clip)
            if picture is not None or sound is not None:
                shown = clip.frames if picture is not None and clip.frames is not None else ()
                jpegs = (jpeg_bytes(frame, config.jpeg_quality) for frame in shown)
                piece.add_clip(job, clip, jpegs, picture=picture, sound=sound)


def _join(job: StageJob, files: PictureFiles, piece: "_Piece", findings: "_Findings") -> None:
    """Makes clips of a sound file and of pictures that are files of their own, each shown until the next one's time."""
    config = job.config
    read = read_pictures(files, short_side=config.short_side, quality=config.jpeg_quality)
    findings.problems += read.problems
    if len(files.numbers) < files.count and files.numbers:
        findings.problems.append(f"{files.count - len(files.numbers)} of {files.count} pictures do not exist")
    elif not files.numbers:
        findings.remarks.append(f"no pictures: none of {files.count} frame folders has one")
    with contextlib.ExitStack() as stack:
        media = _open_sound(job, stack, findings)
        audio = findings.info.audio if findings.info else None
        edges = picture_edges(files.count, _sound_length(findings.info))
        end = max(audio.end_seconds if audio else 0.0, float(edges[-1]) if read.jpegs else 0.0)
        requests = [
            ClipRequest(start_seconds=start, end_seconds=stop)
            for start, stop in clip_spans(0.0, end, config.clip_seconds)
        ]
        clips = (
            media.read(requests, sample_rate=config.sample_rate, channel=config.channel)
            if media is not None
            else (Clip(start_seconds=request.start_seconds, end_seconds=request.end_seconds) for request in requests)
        )
        for clip in clips:
            shown = {
                number: jpeg
                for number, jpeg in read.jpegs.items()
                if clip.start_seconds <= edges[number] + 1e-6 < clip.end_seconds
            }
            _add_joined(job, piece, findings, clip, shown, edges)


def _open_sound(job: StageJob, stack: contextlib.ExitStack, findings: "_Findings") -> MediaFile | None:
    """The sound of a clip whose pictures are files of their own; None, and why, where there is none."""
    if job.problem:
        findings.remarks.append(f"no sound: {job.problem}")
        return None
    try:
        media = stack.enter_context(open_media(job.media_path))
        findings.info = replace(media.info, video=None)
    except MediaError as error:
        findings.problems.append(f"the sound cannot be used: {error.reason}")
        return None
    if media.info.audio is None:
        findings.remarks.append("no sound: the file has no sound track")
        return None
    return media


def _sound_length(info: MediaInfo | None) -> float | None:
    if info is None or info.audio is None:
        return None
    return max(info.declared_seconds or 0.0, info.audio.end_seconds)


def _add_joined(
    job: StageJob, piece: "_Piece", findings: "_Findings", clip: Clip, jpegs: dict[int, bytes], edges: np.ndarray
) -> None:
    """Adds `clip` with the pictures of these numbers, each shown from edges[number] to edges[number + 1]."""
    findings.problems += clip.problems
    sound, picture = _sound_span(clip), None
    if sound is not None:
        findings.sound_seconds += _decoded_sound_seconds(clip)
    if jpegs:
        starts = edges[list(jpegs)]
        stops = np.minimum(edges[[number + 1 for number in jpegs]], clip.end_seconds)
        findings.picture_seconds += float((stops - starts).sum())
        picture = (max(clip.start_seconds, float(starts[0])), float(stops[-1]))
        clip = replace(clip, frame_seconds=starts)
    if picture is not None or sound is not None:
        piece.add_clip(job, clip, jpegs.values(), picture=picture, sound=sound)


@dataclass
class _Findings:
    """What decoding a file has shown so far."""

    info: MediaInfo | None = None
    picture_seconds: float = 0.0
    sound_seconds: float = 0.0
    num_pictures_lost: int = 0
    # what is missing although it should be there, and what never was
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _covered_times(info: MediaInfo, request: ClipRequest) -> np.ndarray:
    """The asked times at which the picture track shows something."""
    if info.video is None or request.frame_seconds is None:
        return np.zeros(0)
    asked = np.asarray(request.frame_seconds)
    return asked[(asked >= info.video.start_seconds) & (asked < info.video.end_seconds)]


def _picture_span(info: MediaInfo, request: ClipRequest, clip: Clip) -> tuple[float, float] | None:
    """The range that the frames of a clip stand for; each stands for half its spacing to both sides."""
    if clip.frames is None or not len(clip.frames) or info.video is None or not request.frame_seconds:
        return None
    covered = _covered_times(info, request)
    # With frames missing, which of the asked times they answer is only known from their own times.
    shown = covered if len(covered) == len(clip.frames) else clip.frame_seconds
    half = (clip.end_seconds - clip.start_seconds) / len(request.frame_seconds) / 2
    start = max(clip.start_seconds, info.video.start_seconds, float(shown[0]) - half)
    end = min(clip.end_seconds, info.video.end_seconds, float(shown[-1]) + half)
    return (start, end) if end > start else None


def _decoded_picture_seconds(request: ClipRequest, clip: Clip, span: tuple[float, float]) -> float:
    assert request.frame_seconds is not None
    spacing = (clip.end_seconds - clip.start_seconds) / len(request.frame_seconds)
    return min(span[1] - span[0], spacing * len(clip.frame_seconds))


def _sound_span(clip: Clip) -> tuple[float, float] | None:
    """The range from the first to the last decoded sample of a clip."""
    if clip.waveform is None or not len(clip.waveform):
        return None
    start, end = clip.start_seconds, clip.end_seconds
    tolerance = 1.0 / clip.sample_rate
    for silent_start, silent_end in clip.silent_spans:
        if silent_start <= start + tolerance:
            start = max(start, silent_end)
    for silent_start, silent_end in reversed(clip.silent_spans):
        if silent_end >= end - tolerance:
            end = min(end, silent_start)
    return (start, end) if end - start > tolerance else None


def _decoded_sound_seconds(clip: Clip) -> float:
    return (clip.end_seconds - clip.start_seconds) - sum(end - start for start, end in clip.silent_spans)


def _row(job: StageJob, findings: _Findings, *, refusal: str) -> ManifestRow:
    info = findings.info
    video, audio = (info.video, info.audio) if info else (None, None)
    has_picture, has_sound = findings.picture_seconds > 0, findings.sound_seconds > 0
    problems = [*(info.problems if info else ()), *findings.problems, *([refusal] if refusal else [])]
    losses = [problem for problem in dict.fromkeys(problems) if is_loss(problem)]
    remarks = list(dict.fromkeys([*findings.remarks, *problems]))
    for track, decoded, name in ((video, has_picture, "picture"), (audio, has_sound, "sound")):
        if track and not decoded:
            losses.append(f"no {name} could be decoded")
            remarks.append(losses[-1])
    if findings.num_pictures_lost and has_picture:
        losses.append(f"{findings.num_pictures_lost} of the pictures asked for could not be decoded")
        remarks.append(losses[-1])
    status: Status
    if not has_picture and not has_sound:
        status = "refused"
        remarks = remarks or ["it has neither a picture track nor a sound track"]
    elif losses:
        status = "partial"
    elif not has_picture:
        status = "sound_only"
        remarks = remarks or ["no picture track"]
    elif not has_sound:
        status = "picture_only"
        remarks = remarks or ["no sound track"]
    else:
        status = "ok"
    return ManifestRow(
        path=job.name,
        status=status,
        reason="; ".join(remarks),
        declared_seconds=_milliseconds(info.declared_seconds) if info else None,
        picture_track_seconds=_milliseconds(video.end_seconds - video.start_seconds) if video else None,
        sound_track_seconds=_milliseconds(audio.end_seconds - audio.start_seconds) if audio else None,
        picture_seconds=round(findings.picture_seconds, 3),
        sound_seconds=round(findings.sound_seconds, 3),
        labels=job.labels.labels,
        split=job.labels.split,
        weight=job.labels.weight,
        size_bytes=job.size_bytes,
    )


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


class _Piece:
    """Writes tar members to a file, and remembers where they are."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.hash = hashlib.sha256()
        self.clips: list[dict[str, Any]] = []

    def add_clip(
        self,
        job: StageJob,
        clip: Clip,
        jpegs: Iterable[bytes],
        *,
        picture: tuple[float, float] | None,
        sound: tuple[float, float] | None,
    ) -> None:
        """The pictures (one for each of `frame_seconds`), the waveform and the description of one clip."""
        start = round(clip.start_seconds, 6)
        key = _key(job.name, start)
        waveform = clip.waveform if sound is not None else None
        placed = [self._member(f"{key}.{number:03d}.jpg", jpeg) for number, jpeg in enumerate(jpegs)]
        waveform_offset = 0
        if waveform is not None:
            wav = _wav(waveform, clip.sample_rate)
            waveform_offset = self._member(f"{key}.wav", wav)[0] + WAV_HEADER_BYTES
        times = [round(float(time), 6) for time in clip.frame_seconds] if len(placed) else []
        description = {
            "clip_id": clip_id(job.name, start),
            "path": job.name,
            "start_seconds": start,
            "end_seconds": round(clip.end_seconds, 6),
            "frame_seconds": times,
            "picture_span": picture and [round(edge, 6) for edge in picture],
            "sound_span": sound and [round(edge, 6) for edge in sound],
            "num_samples": 0 if waveform is None else len(waveform),
        }
        extra = {
            "sample_rate": clip.sample_rate,
            "silent_spans": [[round(edge, 6) for edge in span] for span in clip.silent_spans],
            "labels": list(job.labels.labels),
            "split": job.labels.split,
        }
        self._member(f"{key}.json", json_line(description | extra))
        self.clips.append(description | {"frames": placed, "waveform_offset": waveform_offset})

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        """Offset and size of the data of the new member, within the piece."""
        header = tarfile.TarInfo(name)
        header.size = len(data)  # time, owner and mode stay at tarfile's constants
        head = header.tobuf(tarfile.USTAR_FORMAT)
        offset = self.size + len(head)
        for part in (head, data, bytes(-len(data) % _TAR_BLOCK)):
            try:
                self._file.write(part)
            except OSError as error:
                raise write_error(Path(self._file.name), error) from error
            self.hash.update(part)
            self.size += len(part)
        return offset, len(data)


def _key(name: str, start_seconds: float) -> str:
    """A member name without dots (webdataset ends the key at the first), legible, unique and safe on any system."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name.rsplit("/", 1)[-1].rsplit(".", 1)[0])[:40]
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{stem}-{digest}-{round(start_seconds * 1000):09d}"


def _wav(waveform: np.ndarray, sample_rate: int) -> bytes:
    samples = np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype("<i2").tobytes()
    riff = struct.pack("<4sI4s", b"RIFF", 36 + len(samples), b"WAVE")
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return riff + layout + struct.pack("<4sI", b"data", len(samples)) + samples


def _write_record(piece_path: Path, record: dict[str, Any]) -> None:
    with appearing(record_path(piece_path)) as file:
        file.write(json.dumps(record).encode())


@contextlib.contextmanager
def appearing(path: Path, *, durable: bool = False) -> Iterator[IO[bytes]]:
    """A file that is at `path` only once it is whole; `durable`: and on the disk, even if the power fails then.

    Two processes may write the same file: each has a temporary name of its own beside it. The folder must be there: a
    worker that outlives its run must not bring back a folder that has been removed. Raises OSError.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable and os.name == "posix":  # the entry in the folder, too
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_error(path: Path, error: OSError) -> StoreError:
    """The sentence for a store that cannot be written."""
    return StoreError(
        f"cannot write {path.parent}: {error.strerror or error}; mend that and run the same command again, "
        "what was done so far is kept"
    )
