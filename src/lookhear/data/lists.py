"""Readers of lists: which files to prepare, and what is said about them."""

import csv
from pathlib import Path
from typing import TextIO

from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

_PATH_COLUMNS = ("path", "file")
_LABEL_COLUMNS = ("label", "labels")


def read_list(path: str | Path) -> dict[str, FileLabels]:
    """Paths named by a list file, as written there (forward slashes), in its order.

    A `.csv` file has a header with a column `path` (or `file`) and may have `label` (several are separated by `;`)
    and `split`; other columns are ignored. Any other file holds one path a line; blank lines and lines that start
    with `#` are skipped. Spaces around a path belong to it. Raises UserError for a file that cannot be read so.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # a name may hold any other kind of line end
            return _read_csv(path, file) if path.suffix.lower() == ".csv" else _read_lines(file.read())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read the list {path}: {error}") from error


def read_labels(path: str | Path) -> dict[str, FileLabels]:
    """What a CSV file says about media files (see `read_list`), by path relative to the source."""
    if Path(path).suffix.lower() != ".csv":
        raise UserError(f"labels are read from a .csv file with the columns path,label[,split], not from {path}")
    return read_list(path)


def _read_lines(text: str) -> dict[str, FileLabels]:
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return {_posix(line): FileLabels() for line in lines if line.strip() and not line.startswith("#")}


def _read_csv(path: Path, file: TextIO) -> dict[str, FileLabels]:
    reader = csv.DictReader(file)
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    path_column = next((name for name in _PATH_COLUMNS if name in columns), None)
    label_column = next((name for name in _LABEL_COLUMNS if name in columns), None)
    if path_column is None:
        found = ", ".join(columns) or "nothing"
        raise UserError(f"{path} needs a header with a column 'path'; its first line has: {found}")
    entries = {}
    for row in reader:
        name = row[path_column] or ""
        if not name.strip():
            continue
        labels = (row[label_column] or "") if label_column else ""
        entries[_posix(name)] = FileLabels(
            labels=tuple(dict.fromkeys(label.strip() for label in labels.split(";") if label.strip())),
            split=(row.get("split") or "").strip(),
        )
    return entries


def _posix(name: str) -> str:
    return Path(name).as_posix()
