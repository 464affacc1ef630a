"""Hands hits over to other programs: tables, playlists and timelines.

    tsv json csv   every hit, as it is
    m3u            a playlist that starts and stops at the moments
    edl            CMX3600, one a frame rate (`timeline.py`)
    otio           OpenTimelineIO: clips, what more there is of each file, and markers at the peaks (`timeline.py`)

Playlists and timelines need the file itself, or a copy of it; hits whose file cannot be read are left out and said so.
"""

import contextlib
import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from lookhear.errors import MediaError, UserError, reason_of
from lookhear.media.timing import SourceTiming, read_timing
from lookhear.search.query import Hit
from lookhear.search.timeline import Placed, edit_lists, otio_timeline, plain_text

Format = Literal["tsv", "json", "csv", "m3u", "edl", "otio"]
FORMATS: tuple[Format, ...] = get_args(Format)
TITLE = "lookhear"
_COLUMNS = ("path", "start_seconds", "end_seconds", "peak_seconds", "score", "cosine", "matched", "status")


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A hit that is not in what was handed over, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of an export."""

    text: str
    # "" for the only one; else what tells it from the others, such as "29.97df" for an edit list
    part: str = ""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """An export as texts: one, or several edit lists where files have several frame rates."""

    documents: tuple[Document, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()  # what was assumed, a sentence each


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written."""

    files: tuple[str, ...]
    hits: int  # in these files
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def export_hits(hits: Sequence[Hit], *, format: Format, out: str | Path, title: str = TITLE) -> Exported:  # noqa: A002
    """Writes hits as `format` to the file `out`; a file appears under its name only when it is whole.

    Several edit lists get their rate before the suffix: found.25.edl, found.29.97df.edl. Raises UserError where a
    file cannot be written or is there already, or the format is unknown.
    """
    out = Path(out)
    check_new_file(out)
    rendered = render_hits(hits, format=format, title=title)
    files = {
        out.with_name(f"{out.stem}.{document.part}{out.suffix}") if document.part else out: document.text
        for document in rendered.documents
    }
    for path in files:  # all of them before one is written
        check_new_file(path)
    for path, text in files.items():
        write_whole(path, to_bytes(text))
    return Exported(
        files=tuple(map(str, files)),
        hits=len(hits) - len(rendered.skipped),
        skipped=rendered.skipped,
        notes=rendered.notes,
    )


def render_hits(hits: Sequence[Hit], *, format: Format, title: str = TITLE) -> Rendered:  # noqa: A002
    """Hits as text. File names that are not UTF-8 are kept as surrogates, which `to_bytes` turns back into bytes."""
    if format not in FORMATS:
        raise UserError(f"'{format}' is no export format; choose one of {', '.join(FORMATS)}")
    if format == "json":
        return _one(json.dumps([asdict(hit) for hit in hits], indent=1) + "\n")
    if format == "csv":
        return _one(_csv(hits))
    if format == "tsv":
        return _one("".join("\t".join(map(_escape, row)) + "\n" for row in map(tsv_row, hits)))
    placed, skipped = _place(hits)
    if format == "m3u":
        return _one(_m3u(placed), skipped)
    if format == "otio":
        timeline = otio_timeline(placed, title=title)
        return Rendered(documents=(Document(text=timeline.text),), skipped=skipped, notes=timeline.notes)
    lists = edit_lists(placed, title=title)
    documents = tuple(Document(text=each.text, part=each.part if len(lists) > 1 else "") for each in lists)
    notes = tuple(dict.fromkeys(note for each in lists for note in each.notes))
    return Rendered(documents=documents, skipped=skipped, notes=notes)


def tsv_row(hit: Hit) -> tuple[str, ...]:
    """File, start, end, score, what matched."""
    return (hit.path, f"{hit.start_seconds:.2f}", f"{hit.end_seconds:.2f}", f"{hit.score:.3f}", hit.matched)


def to_bytes(text: str) -> bytes:
    """UTF-8, in which a file name that is not UTF-8 keeps its own bytes."""
    return text.encode("utf-8", "surrogateescape")


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears only when it is whole. Raises UserError where it cannot be written."""
    with appearing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, renamed to it in the end; raises UserError where that cannot be done."""
    check_new_file(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; name a place that can be written to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def check_new_file(path: Path) -> None:
    """Raises UserError where `path` is a folder, or a file that is there already."""
    if not path.name or path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file")
    if path.exists():
        raise UserError(f"cannot write {path}: it is there already, and nothing is replaced; name another file")


def at_hand(hit: Hit) -> Hit:
    """`hit` in the first of its places where there is a file, or as it is: a disk may be out of reach."""
    places = (hit.path, *hit.copies)
    path = next((place for place in places if os.path.isfile(place)), hit.path)  # noqa: PTH113 (never raises)
    return replace(hit, path=path, copies=tuple(place for place in places if place != path))


def _one(text: str, skipped: tuple[Skipped, ...] = ()) -> Rendered:
    return Rendered(documents=(Document(text=text),), skipped=skipped)


def _place(hits: Sequence[Hit]) -> tuple[list[Placed], tuple[Skipped, ...]]:
    """Hits with the timing of their files, which are read once each."""
    known: dict[str, SourceTiming | str] = {}
    placed, skipped = [], []
    for rank, hit in enumerate(map(at_hand, hits), start=1):
        if hit.path not in known:
            try:
                known[hit.path] = read_timing(hit.path)
            except (MediaError, OSError) as error:
                known[hit.path] = reason_of(error)
        timing = known[hit.path]
        if isinstance(timing, str):
            skipped.append(Skipped(path=hit.path, reason=timing))
        else:
            placed.append(Placed(rank=rank, hit=hit, timing=timing))
    return placed, tuple(skipped)


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _csv(hits: Sequence[Hit]) -> str:
    """RFC 4180 but for the line ends, which are plain newlines. `copies` is a JSON list."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*_COLUMNS, "copies", "labels"))
    for hit in hits:
        several = (json.dumps(names) if names else "" for names in (hit.copies, hit.labels))
        writer.writerow((*(getattr(hit, name) for name in _COLUMNS), *several))
    return text.getvalue()


def _m3u(placed: Sequence[Placed]) -> str:
    """An extended playlist. VLC's times count from the first packet of a file, not on the file's clock.

    Files are named by URI, which holds any name: a plain line cannot hold a newline.
    """
    lines = ["#EXTM3U"]
    for each in placed:
        hit, begin = each.hit, each.timing.info.start_seconds
        start, stop = max(0.0, hit.start_seconds - begin), max(0.0, hit.end_seconds - begin)
        stop = max(stop, start + 0.1)  # a moment without length would not be played at all
        name = plain_text(Path(hit.path).name)
        lines.append(f"#EXTINF:{math.ceil(stop - start)},{name} at {hit.peak_seconds:.2f} s, score {hit.score:.2f}")
        lines.append(f"#EXTVLCOPT:start-time={start:.3f}")
        lines.append(f"#EXTVLCOPT:stop-time={stop:.3f}")
        lines.append(Path(hit.path).absolute().as_uri())
    return "\n".join(lines) + "\n"
