"""`Where`: which files of a library a search looks at. Vectors play no part, and scores do not change."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path

import numpy as np

from lookhear.data.manifest import STATUSES
from lookhear.errors import IndexStateError
from lookhear.search.library import LibraryFile


@dataclass(frozen=True, kw_only=True)
class Where:
    """What a file must be to be searched; None and () ask for nothing. A content that lies in several places passes
    if one of them does, and is then named by that one."""

    folder: Path | None = None
    """in this folder, or in one below it"""
    name: str | None = None
    """named so: `*` and `?` stand for any letters; with a slash the whole path is compared"""
    after: datetime.date | datetime.datetime | None = None
    """last changed on this day or later"""
    before: datetime.date | datetime.datetime | None = None
    """last changed earlier than the beginning of this day"""
    longer_seconds: float | None = None
    """at least so long"""
    shorter_seconds: float | None = None
    """shorter than this"""
    status: tuple[str, ...] = ()
    """one of ok, sound_only, picture_only, partial"""
    label: str | None = None
    """only moments to which a classifier gave this label (`lookhear label`), whatever its capitals"""

    def __post_init__(self) -> None:
        if unknown := set(self.status) - set(STATUSES):
            raise IndexStateError(f"no file has the status {', '.join(sorted(unknown))}; known: {', '.join(STATUSES)}")

    def narrow(self, file: LibraryFile) -> LibraryFile | None:
        """`file` with those of its places that pass, or None."""
        if self.status and file.status not in self.status:
            return None
        if self.longer_seconds is not None and file.seconds < self.longer_seconds:
            return None
        if self.shorter_seconds is not None and file.seconds >= self.shorter_seconds:
            return None
        if self.label is not None and not (file.labels and file.labels.named(self.label)):
            return None
        modified = file.modified or (None,) * len(file.places)
        passing = [place for place in zip(file.places, modified, strict=True) if self._passes(*place)]
        if not passing:
            return None
        (path, _), *copies = passing
        return replace(
            file,
            path=path,
            copies=tuple(place for place, _ in copies),
            modified=tuple(when for _, when in passing if when is not None),
        )

    def passes_moments(
        self, files: Sequence[LibraryFile], file_rank: np.ndarray, start_seconds: np.ndarray, end_seconds: np.ndarray
    ) -> np.ndarray:
        """bool (C,): which of these spans, in the order of `file_rank`, pass, if their files do."""
        if self.label is None:
            return np.ones(len(file_rank), bool)
        passes = np.zeros(len(file_rank), bool)
        for rank, file in enumerate(files):
            if file.labels is None:
                continue
            own = slice(*np.searchsorted(file_rank, [rank, rank + 1]))
            for stretch in file.labels.named(self.label):
                passes[own] |= (stretch.start_seconds < end_seconds[own]) & (stretch.end_seconds > start_seconds[own])
        return passes

    @property
    def and_passes(self) -> str:
        """The end of a sentence about what there is not: ` and passes the filters (name *.mov)`; empty without one."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [
            f"{name.removesuffix('_seconds')} {' or '.join(value) if isinstance(value, tuple) else value}"
            for name, value in asked.items()
            if value not in (None, ())
        ]
        return f" and passes the filters ({', '.join(shown)})" if shown else ""

    @cached_property
    def _folders(self) -> tuple[Path, ...]:
        # As it is named and as it is: a link inside a library keeps its name.
        return () if self.folder is None else (Path(self.folder).absolute(), Path(self.folder).resolve())

    def _passes(self, path: Path, modified: float | None) -> bool:
        if self._folders and not any(path.is_relative_to(folder) for folder in self._folders):
            return False
        if self.name is not None:
            compared = path.as_posix() if "/" in self.name else path.name
            if not fnmatch(compared.lower(), self.name.lower().replace("[", "[[]")):  # a bracket is a bracket
                return False
        if self.after is None and self.before is None:
            return True
        if modified is None:
            return False
        return (self.after is None or modified >= _seconds_of(self.after)) and (
            self.before is None or modified < _seconds_of(self.before)
        )


def narrowed(files: Sequence[LibraryFile], where: Where | None) -> tuple[list[LibraryFile], np.ndarray]:
    """The files as `where` names them, and bool (F,): which of them pass."""
    if where is None:
        return list(files), np.ones(len(files), bool)
    found = [where.narrow(file) for file in files]
    kept = [file if narrow is None else narrow for file, narrow in zip(files, found, strict=True)]
    return kept, np.array([narrow is not None for narrow in found], bool)


def read_date(text: str) -> datetime.datetime:
    """A day or a time of this machine's clock, as `2026-01-31` or `2026-01-31T12:30`. Raises IndexStateError."""
    try:
        date = datetime.datetime.fromisoformat(text)
        date.timestamp()  # the first and last days of the calendar have none
    except (ValueError, OverflowError, OSError):
        raise IndexStateError(f"'{text}' is no date; write it as 2026-01-31 or 2026-01-31T12:30") from None
    return date


def _seconds_of(date: datetime.date | datetime.datetime) -> float:
    if not isinstance(date, datetime.datetime):
        date = datetime.datetime.combine(date, datetime.time.min)
    return date.timestamp()
