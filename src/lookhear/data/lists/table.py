"""Our own lists (a CSV table, plain lines) and the table of ESC-50."""

import csv
import io
from pathlib import Path

from lookhear.data.lists.entry import Listed, add_once
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

PATH_COLUMNS = ("path", "file")
_LABEL_COLUMNS = ("label", "labels")
ESC50_COLUMNS = ("filename", "fold", "category")


def read_lines(text: str) -> dict[str, Listed]:
    """One path a line."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    names = (_posix(line) for line in lines if line.strip() and not line.startswith("#"))
    return {name: Listed(path=name) for name in names}


def read_table(path: Path, text: str) -> dict[str, Listed]:
    """A CSV file with a header: path (or file), and perhaps label (or labels), split, fold."""
    reader, columns = _reader(text)
    path_column = next((name for name in PATH_COLUMNS if name in columns), None)
    label_column = next((name for name in _LABEL_COLUMNS if name in columns), None)
    if path_column is None:
        found = ", ".join(columns) or "nothing"
        raise UserError(f"{path} needs a header with a column 'path'; its first line has: {found}")
    listed: dict[str, Listed] = {}
    for row in reader:
        name = row[path_column] or ""
        if not name.strip():
            continue
        labels = (row[label_column] or "") if label_column else ""
        split, fold = (row.get("split") or "").strip(), (row.get("fold") or "").strip()
        about = FileLabels(
            labels=tuple(dict.fromkeys(label.strip() for label in labels.split(";") if label.strip())),
            split=split or (f"fold{fold}" if fold else ""),
        )
        entry = Listed(path=_posix(name), labels=about)
        if listed.get(entry.path) != entry:
            add_once(listed, entry.path, entry, path)
    return listed


def read_esc50(path: Path, text: str, *, only_esc10: bool = False) -> dict[str, Listed]:
    """The table of ESC-50: filename, fold, target, category, esc10, src_file, take; or the part that is ESC-10.

    Labels are the categories; the official folds are the splits `fold1` to `fold5`.
    """
    reader, columns = _reader(text)
    missing = [name for name in (*ESC50_COLUMNS, *(["esc10"] if only_esc10 else [])) if name not in columns]
    if missing:
        raise UserError(f"{path} is no ESC-50 table: it has no column {', '.join(missing)}")
    listed: dict[str, Listed] = {}
    for row in reader:
        if any(not (row[name] or "").strip() for name in ESC50_COLUMNS):
            raise UserError(f"{path}, line {reader.line_num}: filename, fold or category is missing")
        if only_esc10 and (row["esc10"] or "").strip().lower() != "true":
            continue
        about = FileLabels(labels=(row["category"].strip(),), split=f"fold{row['fold'].strip()}")
        add_once(listed, row["filename"], Listed(path=row["filename"], labels=about), path)
    return listed


def _reader(text: str) -> tuple["csv.DictReader[str]", list[str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    return reader, columns


def _posix(name: str) -> str:
    return Path(name).as_posix()
