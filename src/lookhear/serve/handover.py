"""Hits for other programs, made in a child as one file: a text of any export format, a contact sheet, or clips."""

import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lookhear.errors import UserError
from lookhear.search.contact_sheet import MAX_HITS, write_contact_sheet
from lookhear.search.cut import cut_hits
from lookhear.search.export import Format, Skipped, render_hits, to_bytes
from lookhear.search.query import Hit
from lookhear.serve.catalogue import Catalogue, shown
from lookhear.serve.settings import ServeSettings

STEM = "lookhear"
_TYPES: dict[str, str] = {
    "tsv": "text/tab-separated-values; charset=utf-8",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "m3u": "audio/x-mpegurl",
    "edl": "text/plain; charset=utf-8",
    "otio": "application/json",
    "zip": "application/zip",
    "png": "image/png",
}
_SHOWN_SKIPPED = 20  # in a report
# For these no file of the library is opened.
_TABLES = ("tsv", "json", "csv")


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What is to be written, and where."""

    hits: tuple[Hit, ...]
    kind: Literal["clips", "exact clips", "sheet"] | Format
    folder: str  # an empty one, which is removed when the file is sent
    max_bytes: int  # of clips
    left_out: tuple[Skipped, ...] = ()  # hits that are forgotten or must not be read, and so are in none of them


@dataclass(frozen=True, kw_only=True)
class Made:
    """One file for whoever asked."""

    path: str
    name: str
    media_type: str
    hits: int  # in it
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def report(self) -> dict[str, Any]:
        """What is in the file and what is not."""
        skipped = [{name: shown(text) for name, text in asdict(each).items()} for each in self.skipped]
        return {
            "hits": self.hits,
            "left_out": len(skipped),
            "skipped": skipped[:_SHOWN_SKIPPED],
            "notes": [shown(note) for note in self.notes[:_SHOWN_SKIPPED]],
        }


def without_banned(wanted: Handover, catalogue: Catalogue) -> Handover:
    """What may be written of it: a file into whose path a link has come that leads out of the library is not read."""
    if wanted.kind in _TABLES:
        return wanted
    bans = {path: catalogue.ban_of(path) for path in {hit.path for hit in wanted.hits}}
    return replace(
        wanted,
        hits=tuple(hit for hit in wanted.hits if not bans[hit.path]),
        left_out=(
            *wanted.left_out,
            *(Skipped(path=hit.path, reason=f"it {bans[hit.path]}") for hit in wanted.hits if bans[hit.path]),
        ),
    )


def check_clips(hits: Sequence[Hit], settings: ServeSettings) -> None:
    """Raises UserError for more than one export may cut."""
    seconds = sum(hit.end_seconds - hit.start_seconds for hit in hits)
    if len(hits) > settings.max_cut_clips or seconds > settings.max_cut_seconds:
        raise UserError(
            f"these are {len(hits)} clips of {seconds:.0f} s together, and the server cuts at most "
            f"{settings.max_cut_clips} clips of {settings.max_cut_seconds:.0f} s; choose fewer, or use "
            "`lookhear search --cut`"
        )


def check_sheet(hits: Sequence[Hit]) -> None:
    """Raises UserError for no hits, or more than fit on a sheet."""
    if not 0 < len(hits) <= MAX_HITS:
        raise UserError(f"a contact sheet holds 1 to {MAX_HITS} hits, and these are {len(hits)}; choose others")


def hand_over(wanted: Handover) -> Made:
    """Writes the file. Runs in a child. Raises UserError."""
    made = _written(wanted)
    return replace(made, skipped=(*wanted.left_out, *made.skipped))


def _written(wanted: Handover) -> Made:
    folder = Path(wanted.folder)
    if wanted.kind == "sheet":
        write_contact_sheet(wanted.hits, folder / f"{STEM}.png")
        return _made(folder / f"{STEM}.png", hits=len(wanted.hits))
    if wanted.kind == "clips" or wanted.kind == "exact clips":
        done = cut_hits(wanted.hits, folder / STEM, exact=wanted.kind == "exact clips", max_bytes=wanted.max_bytes)
        made = _zipped(folder / f"{STEM}.zip", sorted((folder / STEM).iterdir()))
        shutil.rmtree(folder / STEM)
        return _made(made, hits=len(done.clips), skipped=done.skipped)
    rendered = render_hits(wanted.hits, format=wanted.kind)
    files = []
    for document in rendered.documents:
        part = f".{document.part}" if document.part else ""
        path = folder / f"{STEM}{part}.{wanted.kind}"
        path.write_bytes(to_bytes(document.text))
        files.append(path)
    path = files[0] if len(files) == 1 else _zipped(folder / f"{STEM}.zip", files)
    return _made(path, hits=len(wanted.hits) - len(rendered.skipped), skipped=rendered.skipped, notes=rendered.notes)


def _made(path: Path, *, hits: int, skipped: tuple[Skipped, ...] = (), notes: tuple[str, ...] = ()) -> Made:
    return Made(
        path=str(path),
        name=path.name,
        media_type=_TYPES[path.suffix[1:]],
        hits=hits,
        skipped=skipped,
        notes=notes,
    )


def _zipped(path: Path, files: Sequence[Path]) -> Path:
    """The files in one; they are not packed tighter, for media are packed already."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, file.name)
            file.unlink()  # so that it lies there once
    return path
