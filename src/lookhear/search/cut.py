"""Writes the moments of hits as clips into a folder, with a list of what each one is: clips.csv."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookhear.errors import MediaError, UserError, reason_of
from lookhear.media.remux import cut_clip
from lookhear.progress import Progress, quiet
from lookhear.search.export import Skipped, at_hand, to_bytes, write_whole
from lookhear.search.query import Hit

LIST_NAME = "clips.csv"
# Of the name of a source in the name of its clip; some systems take 255 bytes in all.
_MAX_NAME = 50


@dataclass(frozen=True, kw_only=True)
class HitClip:
    """The clip of one hit. Times are on the clock of the source."""

    clip: str  # the file that was written
    path: str  # its source
    start_seconds: float  # where the clip truly begins: copied, at or before the moment
    end_seconds: float
    moment_start_seconds: float
    moment_end_seconds: float
    score: float
    is_copy: bool  # not encoded anew


@dataclass(frozen=True, kw_only=True)
class CutHits:
    """What became of the hits."""

    folder: str
    clips: tuple[HitClip, ...]
    skipped: tuple[Skipped, ...]


def check_clip_folder(folder: Path, libraries: Iterable[str | Path]) -> None:
    """Raises UserError unless `folder` is new or empty, and in none of `libraries`: a crawl would index the clips."""
    for library in libraries:
        if folder.resolve().is_relative_to(library):
            raise UserError(
                f"{folder} is in {library}, which is indexed: its next crawl would take the clips for media of "
                "their own; name a folder outside"
            )
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty, and nothing in it is replaced; name a new folder")
    except OSError as error:
        raise UserError(f"cannot use the folder {folder}: {error.strerror or error}; name another place") from error


def cut_hits(
    hits: Sequence[Hit],
    folder: str | Path,
    *,
    exact: bool = False,
    libraries: Iterable[str | Path] = (),
    max_bytes: int | None = None,
    progress: Progress = quiet,
) -> CutHits:
    """Cuts every hit into `folder`: packets as they are from a keyframe on, or with `exact` encoded anew.

    Clips are named by rank, source and start, such as 003_dog_12.40s.mp4. A hit whose file cannot be read is left out
    with a reason. `libraries` are the indexed folders (`Index.facts.libraries`). Raises UserError where the folder
    cannot be written to, is not empty, or is in one of these, and where the clips have more than `max_bytes` together.
    """
    folder = Path(folder)
    check_clip_folder(folder, libraries)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror or error}; name another place") from error
    clips, skipped, num_bytes = [], [], 0
    for rank, hit in enumerate(map(at_hand, hits), start=1):
        target = folder / f"{rank:03d}_{_safe(Path(hit.path).stem)}_{hit.start_seconds:.2f}s"
        try:
            cut = cut_clip(hit.path, target, start_seconds=hit.start_seconds, end_seconds=hit.end_seconds, exact=exact)
        except MediaError as error:
            skipped.append(Skipped(path=hit.path, reason=reason_of(error)))
        else:
            clips.append(
                HitClip(
                    clip=str(cut.path),
                    path=hit.path,
                    start_seconds=cut.start_seconds,
                    end_seconds=cut.end_seconds,
                    moment_start_seconds=hit.start_seconds,
                    moment_end_seconds=hit.end_seconds,
                    score=hit.score,
                    is_copy=cut.is_copy,
                )
            )
            num_bytes += cut.path.stat().st_size
            if max_bytes is not None and num_bytes > max_bytes:
                raise UserError(
                    f"the first {rank} of {len(hits)} clips have {num_bytes / 2**20:.4g} MiB, and all may have "
                    f"{max_bytes / 2**20:.4g} MiB together; choose fewer, or use `lookhear search --cut`"
                )
        progress(rank, len(hits))
    write_whole(folder / LIST_NAME, to_bytes(_list(clips)))
    return CutHits(folder=str(folder), clips=tuple(clips), skipped=tuple(skipped))


def _safe(name: str) -> str:
    """Letters, digits, dots and dashes of a name, which every system takes."""
    return re.sub(r"[^\w.-]+", "_", name)[:_MAX_NAME].encode("utf-8", "ignore").decode() or "clip"


def _list(clips: Sequence[HitClip]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("clip", "source", "clip_start_seconds", "clip_end_seconds", "start_seconds", "end_seconds", "score", "made")
    )
    for clip in clips:
        span = (clip.start_seconds, clip.end_seconds, clip.moment_start_seconds, clip.moment_end_seconds)
        times = [f"{seconds:.3f}" for seconds in span]
        made = "copied" if clip.is_copy else "encoded"
        writer.writerow((Path(clip.clip).name, clip.path, *times, f"{clip.score:.3f}", made))
    return text.getvalue()
