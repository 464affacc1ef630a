"""The CSV files that put classes in order: index, mid, display_name (AudioSet, VGGSound, and made like them)."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lookhear.config import nearest
from lookhear.data.lists.entry import decoded
from lookhear.errors import UserError

_COLUMNS = ("index", "mid", "display_name")


@dataclass(frozen=True, kw_only=True)
class Classes:
    """C classes in order: the outputs of a classifier that is trained with them. Neither mids nor names repeat."""

    names: tuple[str, ...]  # as people read them
    mids: tuple[str, ...]  # as the lists of the publisher write them

    def __len__(self) -> int:
        return len(self.names)

    def as_written(self, labels: Iterable[str]) -> tuple[str, ...]:
        """All classes in order, by mid where `labels` (of a store) are mids, otherwise by name."""
        found = frozenset(labels)
        return self.mids if found and found <= frozenset(self.mids) else self.names

    def display_names(self, labels: Sequence[str], *, where: str) -> tuple[str, ...]:
        """The names of `labels`, each a mid or a name (a comma in it may be written `_`).

        Raises UserError, beginning with `where`, for a label that is neither.
        """
        try:
            return tuple(self._known[label.replace(",", "_")] for label in labels)
        except KeyError:
            unknown = next(label for label in labels if label.replace(",", "_") not in self._known)
            hint = nearest(unknown, self.mids + self.names) if len(self) else ""
            hint = hint if hint.startswith("; did") else ""
            raise UserError(f"{where}: the classes have no {unknown!r}{hint}") from None

    @cached_property
    def _known(self) -> dict[str, str]:
        by_name = {name.replace(",", "_"): name for name in self.names}
        return by_name | {mid.replace(",", "_"): name for mid, name in zip(self.mids, self.names, strict=True)}


def read_classes(path: str | Path) -> Classes:
    """The classes of a label CSV, in order of their index. Raises UserError, saying where, for a file that is none."""
    path = Path(path)
    reader = csv.DictReader(io.StringIO(decoded(path), newline=""), strict=True)
    try:
        rows = [tuple((row.get(name) or "").strip() for name in _COLUMNS) for row in reader]
    except csv.Error as error:
        raise UserError(f"cannot read the classes {path}: {error}") from error
    columns = tuple(name.strip() for name in reader.fieldnames or ())
    if columns != _COLUMNS:
        found = ", ".join(columns) or "nothing"
        raise UserError(f"{path} needs the header {','.join(_COLUMNS)}; its first line has: {found}")
    for number, row in enumerate(rows):
        if not all(row):
            raise UserError(f"{path}, line {number + 2}: index, mid or display_name is missing")
    order = sorted(rows, key=lambda row: int(row[0]) if row[0].isdecimal() else -1)
    if [row[0] for row in order] != [str(number) for number in range(len(order))]:
        raise UserError(f"{path}: the column index must number the {len(rows)} classes from 0, each once")
    mids, names = (tuple(row[column] for row in order) for column in (1, 2))
    for what, values in (("mid", mids), ("display_name", names)):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"{path} has the {what} {twice!r} twice")
    return Classes(names=names, mids=mids)
