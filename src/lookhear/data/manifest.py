"""The manifest: a row for every file that was found, with what became of it and why."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lookhear.config import from_dict, to_dict
from lookhear.errors import ConfigError, StoreError

Status = Literal["ok", "picture_only", "sound_only", "partial", "refused"]
STATUSES: tuple[Status, ...] = ("ok", "picture_only", "sound_only", "partial", "refused")


@dataclass(frozen=True, kw_only=True)
class FileLabels:
    """What somebody says about a file: its labels, the split (`train`, `val`, ...) that it belongs to, its weight."""

    labels: tuple[str, ...] = ()
    # several with `;` between, where it belongs to several: train1;test2
    split: str = ""
    # how often training draws it, relative to others, where clips are drawn by weight
    weight: float = 1.0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names in `split`."""
        return splits_of(self.split)


@dataclass(frozen=True, kw_only=True)
class ManifestRow:
    """One file. Seconds are None where the file declares nothing or has no such track, and 0 where nothing decoded."""

    # relative to the source, with forward slashes
    path: str
    # ok: sound and picture decoded; partial: something that the file declares could not be decoded (even if it has
    # only one track); refused: nothing was stored
    status: Status
    # a sentence for a person; empty only for ok
    reason: str = ""
    # length according to the header of the file
    declared_seconds: float | None = None
    # length of each track according to its own timestamps
    picture_track_seconds: float | None = None
    sound_track_seconds: float | None = None
    # how much of each track was decoded
    picture_seconds: float = 0.0
    sound_seconds: float = 0.0
    labels: tuple[str, ...] = ()
    split: str = ""
    weight: float = 1.0
    # of the file, or of all files of a clip whose sound and pictures are files of their own
    size_bytes: int = 0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names in `split`."""
        return splits_of(self.split)


def splits_of(split: str) -> tuple[str, ...]:
    """The splits that a file belongs to, by what is written of it: names with `;` between, or nothing."""
    return tuple(name.strip() for name in split.split(";") if name.strip())


def json_line(value: Any) -> bytes:
    """`value` as one line of JSON: readable UTF-8, or pure ASCII where a file name holds bytes that are not UTF-8."""
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def write_manifest(path: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Writes `rows` as JSON lines, in the order given."""
    with Path(path).open("wb") as file:
        for row in rows:
            file.write(json_line(to_dict(row)))


def read_manifest(path: str | Path) -> list[ManifestRow]:
    """The rows of a manifest. Raises StoreError, with the line number, for a line that is no row."""
    rows: list[ManifestRow] = []
    try:
        with Path(path).open("rb") as file:
            for line in file:
                rows.append(from_dict(ManifestRow, json.loads(line)))
    except OSError as error:
        raise StoreError(f"cannot read the manifest {path}: {error.strerror}") from error
    except (ValueError, AttributeError, ConfigError) as error:
        raise StoreError(
            f"{path}, line {len(rows) + 1}: not a manifest row ({error}); prepare the store again"
        ) from error
    return rows
