"""Hits on their way out: printed, written for other programs, cut into clips, drawn on a sheet."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lookhear.console import out, say, show_progress
from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.search.export import Format, Skipped
    from lookhear.search.query import Hit


def give_hits(hits: "Sequence[Hit]", *, format: "Format", file: Path | None) -> None:  # noqa: A002
    """Prints hits, or writes them to `file`; what was left out or assumed is said on stderr."""
    from lookhear.search.export import export_hits, render_hits

    if file is not None:
        done = export_hits(hits, format=format, out=file)
        say(f"wrote {done.hits} of {len(hits)} hits to {', '.join(done.files)}")
        _say_skipped(done.skipped)
        _say_notes(done.notes)
        return
    rendered = render_hits(hits, format=format)
    if len(rendered.documents) > 1:
        rates = ", ".join(document.part for document in rendered.documents)
        raise UserError(f"the hits' files have several frame rates ({rates}), a list each; name a file with --out")
    if text := rendered.documents[0].text.removesuffix("\n"):
        out(text)
    _say_skipped(rendered.skipped)
    _say_notes(rendered.notes)


def give_clips(hits: "Sequence[Hit]", folder: Path, *, exact: bool, libraries: Sequence[str]) -> bool:
    """Cuts hits into `folder`, and says where copied clips begin before the moment; whether every hit has a clip."""
    from lookhear.search.cut import LIST_NAME, cut_hits

    with show_progress("clips") as progress:
        done = cut_hits(hits, folder, exact=exact, libraries=libraries, progress=progress)
    for clip in done.clips:
        how = "copied" if clip.is_copy else "encoded"
        say(f"{clip.clip}: {clip.start_seconds:.3f} to {clip.end_seconds:.3f} s of {clip.path}, {how}")
    say(f"wrote {len(done.clips)} of {len(hits)} clips to {folder}; {LIST_NAME} says what each one is")
    _say_skipped(done.skipped)
    return not done.skipped


def give_sheet(hits: "Sequence[Hit]", file: Path) -> None:
    """Draws hits on a contact sheet."""
    from lookhear.search.contact_sheet import write_contact_sheet

    with show_progress("pictures") as progress:
        write_contact_sheet(hits, file, progress=progress)
    say(f"wrote {file}")


def _say_skipped(skipped: "Iterable[Skipped]") -> None:
    for each in skipped:
        say(f"left out {each.path}: {each.reason}")


def _say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        say(note)
