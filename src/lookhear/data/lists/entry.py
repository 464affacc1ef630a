"""`Listed`: what a list says of one thing to prepare; and how the text of lists is read."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One entry of a list, its paths as the list writes them."""

    # the media file; only its sound is meant where `picture_folder` says that the pictures are files of their own
    path: str
    labels: FileLabels = field(default_factory=FileLabels)
    # the folder that holds frame_0/<name>.jpg, frame_1/<name>.jpg, ...; None: the pictures are in the media file
    picture_folder: str | None = None
    # `path` has no suffix: the file is the one media file of that name
    any_suffix: bool = False


def decoded(path: Path) -> str:
    """The text of a list: UTF-8, with or without a mark at its beginning, line ends as they are."""
    try:
        # a name may hold any other kind of line end
        with path.open(newline="", encoding="utf-8-sig") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {error}") from error


def rows_of(text: str, *, spaces_after_commas: bool = False) -> Iterator[list[str]]:
    """The rows of a CSV text that hold anything."""
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=spaces_after_commas, strict=True)
    return (row for row in rows if any(cell.strip() for cell in row))


def add_once(listed: dict[str, Listed], name: str, entry: Listed, path: Path) -> None:
    """Adds an entry. Raises UserError where the list has one of that name: its labels would contradict each other."""
    if name in listed:
        raise UserError(f"{path} names {name!r} twice; remove one of the two")
    listed[name] = entry


def is_media_name(name: str) -> bool:
    """Whether `name` ends as media files do."""
    from lookhear.media.probe import MEDIA_SUFFIXES  # brings the decoder; who only wants classes needs none

    return Path(name.strip()).suffix.lower() in MEDIA_SUFFIXES
