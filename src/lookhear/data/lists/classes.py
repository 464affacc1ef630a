"""The files that put classes in order.

CSV files index, mid, display_name (AudioSet, VGGSound, and made like them), and label maps: text with a name a line
(those of UCF101, HMDB51, Kinetics and ActivityNet), perhaps with its number, from 1, before it (UCF101's classInd.txt).
"""

import csv
import io
import re
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
    mids: tuple[str, ...]  # as the lists of the publisher write them; the names where they have no other writing

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
    """The classes of a label CSV, in order of their index, or of a label map (any other suffix), in order of its lines.

    Raises UserError, saying where, for a file that is neither.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        return _read_label_map(path)
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
    _check_once(path, "mid", mids)
    _check_once(path, "display_name", names)
    return Classes(names=names, mids=mids)


def _read_label_map(path: Path) -> Classes:
    lines = [line.strip() for line in decoded(path).rstrip().splitlines()]
    numbered = [re.fullmatch(r"(\d+)\s+(\S.*)", line) for line in lines]
    if [int(found[1]) if found else 0 for found in numbered] == list(range(1, len(lines) + 1)):
        lines = [found[2] for found in numbered if found]
    if not lines or "" in lines:
        where = f", line {lines.index('') + 1}," if lines else ""
        raise UserError(f"{path}{where} has no class; a label map has a name in every line")
    _check_once(path, "class", lines)
    return Classes(names=tuple(lines), mids=tuple(lines))


def _check_once(path: Path, what: str, values: Sequence[str]) -> None:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise UserError(f"{path} has the {what} {twice!r} twice")
