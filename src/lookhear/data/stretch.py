"""What a decoding process does for whoever embeds files: hash a file, decode a stretch of it, cut the windows.

A stretch is some two minutes, so that a long file neither fills the memory of a process nor runs into its time limit.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookhear.data.manifest import Status
from lookhear.data.windows import WindowPlan, Windows
from lookhear.errors import MediaError, reason_of
from lookhear.media.decode import open_media
from lookhear.media.info import is_loss

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


def decode_stretch(job: StretchJob) -> Decoded:
    """Hashes the file (with the first stretch only) and decodes a stretch of it. A bad file is no exception."""
    file_id = hash_file(job.path) if job.stretch == 0 else ""
    if file_id in job.known_ids:
        return Decoded(file_id=file_id)
    windows: list[Windows] = []
    problems: list[str] = []
    lost = 0
    try:
        with open_media(job.path) as media:
            info = media.info
            spans = job.plan.spans(info)
            per_stretch = max(1, int(STRETCH_SECONDS / job.plan.span_seconds))
            chosen = spans[job.stretch * per_stretch : (job.stretch + 1) * per_stretch]
            try:
                for span, (clip, cut) in zip(chosen, job.plan.read(media, chosen), strict=True):
                    windows.append(cut)
                    problems += clip.problems
                    lost += len(span.request.frame_seconds or ()) - len(clip.frame_seconds)
            except MemoryError:
                raise
            except Exception as error:  # whatever a decoder makes of a bad file: what came before is good
                problems.append(reason_of(error))
    except MediaError as error:
        return Decoded(file_id=file_id, refusal=error.reason)
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


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a file, and why it is not simply ok."""

    status: Status
    reason: str


def judge(
    first: Decoded, *, problems: Sequence[str], num_pictures_lost: int, has_sound: bool, has_picture: bool
) -> Verdict:
    """What became of a file whose stretches are all decoded: `first` is that of the first one, the rest of all."""
    losses = list(dict.fromkeys([*problems, *([first.refusal] if first.refusal else [])]))
    if first.has_video and not has_picture:
        losses.append("no picture could be decoded")
    if first.has_audio and not has_sound:
        losses.append("no sound could be decoded")
    if num_pictures_lost and has_picture:
        losses.append(f"{num_pictures_lost} of the pictures asked for could not be decoded")
    remarks = [*first.remarks, *losses]
    status: Status
    if not has_sound and not has_picture:
        return Verdict(status="refused", reason="; ".join(remarks) or "it has neither a picture nor a sound")
    if losses:
        status = "partial"
    elif not has_picture:
        status, remarks = "sound_only", remarks or ["no picture track"]
    elif not has_sound:
        status, remarks = "picture_only", remarks or ["no sound track"]
    else:
        status = "ok"
    return Verdict(status=status, reason="; ".join(remarks))


def hash_file(path: str | Path) -> str:
    """The id of a file: 32 hexadecimal digits of the sha256 of its bytes; empty where they cannot be read."""
    digest = hashlib.sha256()
    try:
        if not Path(path).is_file():
            return ""
        with Path(path).open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()[:32]
