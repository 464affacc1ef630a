"""Readers of lists: which files to prepare, and what is said about them. Published lists work as they are published.

A file a publisher: `table` (ours, plain lines, ESC-50), `cavmae` (CAV-MAE and CAV-MAE Sync), `vggsound`, `audioset`,
`actions` (UCF101, HMDB51, Kinetics, ActivityNet), `dcase`; `classes` reads the files that put classes in order. Which
format a list has is told from what it holds; that a folder is a list must be said.
"""

import csv
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lookhear.data.lists import actions, audioset, cavmae, dcase, table, vggsound
from lookhear.data.lists.classes import Classes, read_classes
from lookhear.data.lists.entry import Listed, decoded, is_media_name, rows_of
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

__all__ = ["FOLDER_FORMATS", "Classes", "Format", "ListOptions", "Listed", "read_classes", "read_labels", "read_list"]

Format = Literal[
    "table",
    "lines",
    "cavmae",
    "vggsound",
    "audioset",
    "esc50",
    "esc10",
    "ucf101",
    "hmdb51",
    "kinetics",
    "activitynet",
    "dcase",
]
# Lists that are published as a folder.
FOLDER_FORMATS: frozenset[Format] = frozenset({"ucf101", "hmdb51", "dcase"})

# what publishers write where the user's own folder belongs
_PLACEHOLDER = re.compile(r"^<[A-Z][A-Z0-9_]*>(/|$)")


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """How a list is read, and where the files that it names are."""

    # None: told from what the list holds
    format: Format | None = None
    # relative names, and those that begin with a placeholder such as <YOUR_VGGS_PATH>, are below this folder; None:
    # below the folder of the list
    root: Path | None = None
    # the folder of another machine that `root` takes the place of
    moved_from: str = ""
    # CSV with the columns index, mid, display_name, or text with a name a line: labels become its names; None: they
    # stay as they are
    classes: Path | None = None

    def __post_init__(self) -> None:
        if self.moved_from and self.root is None:
            raise UserError(f"the folder that takes the place of {self.moved_from} is missing; name it as root")

    def place(self, written: str, beside: Path) -> Path:
        """Where the file is that the list writes as `written`; `beside` is the folder of the list."""
        root = beside if self.root is None else self.root
        if self.is_moved(written):
            return root / written[len(self.moved_from.rstrip("/")) :].lstrip("/")
        return root / _PLACEHOLDER.sub("", written, count=1)

    def is_moved(self, written: str) -> bool:
        """Whether `written` is in the folder of another machine that `root` takes the place of."""
        old = self.moved_from.rstrip("/")
        return bool(self.moved_from) and (written == old or written.startswith(old + "/"))


def read_list(path: str | Path, options: ListOptions | None = None) -> dict[str, Listed]:
    """What a list names, by the name that it has in the store, in the order of the list.

    - table: a `.csv` file with a header with a column `path` (or `file`), and perhaps `label` (several are separated
      by `;`) and `split` or `fold` (which become the splits `fold1`, ...); other columns are ignored.
    - lines: one path a line; blank lines and lines that start with `#` are skipped. Spaces belong to a path.
    - cavmae, vggsound, audioset, dcase: see the modules of these names; esc50, esc10: `table`; ucf101, hmdb51,
      kinetics, activitynet: `actions`. ucf101, hmdb51 and dcase may be a folder, which only `options.format` tells.

    Raises UserError for a file that cannot be read so, an entry that lacks something, or a label that the classes lack.
    """
    options = options or ListOptions()
    path = Path(path)
    try:
        is_folder = options.format in FOLDER_FORMATS and path.is_dir()
        text = "" if is_folder else decoded(path)
        form = options.format or _recognise(path, text)
        classes = None if options.classes is None else read_classes(options.classes)
        match form:
            case "table":
                listed = table.read_table(path, text)
            case "lines":
                listed = table.read_lines(text)
            case "esc50" | "esc10":
                listed = table.read_esc50(path, text, only_esc10=form == "esc10")
            case "cavmae":
                listed = cavmae.read(path, text, classes)
            case "vggsound":
                listed = vggsound.read(path, text, classes)
            case "audioset":
                listed = audioset.read(path, text, classes)
            case "ucf101":
                listed = actions.read_ucf101(path, classes)
            case "hmdb51":
                listed = actions.read_hmdb51(path, classes)
            case "kinetics":
                listed = actions.read_kinetics(path, text, classes)
            case "activitynet":
                listed = actions.read_activitynet(path, text, classes)
            case "dcase":
                listed = dcase.read(path, classes)
    except csv.Error as error:
        raise UserError(f"cannot read the list {path}: {error}") from error
    if classes is not None and form in ("table", "esc50", "esc10"):
        listed = {name: _named(path, entry, classes) for name, entry in listed.items()}
    return listed


def read_labels(path: str | Path, classes: str | Path | None = None) -> dict[str, FileLabels]:
    """What a CSV list (of any format of `read_list`) says about media files, by path relative to the source."""
    if Path(path).suffix.lower() != ".csv":
        raise UserError(f"labels are read from a .csv file with the columns path,label[,split], not from {path}")
    listed = read_list(path, ListOptions(classes=None if classes is None else Path(classes)))
    return {name: entry.labels for name, entry in listed.items()}


def _named(path: Path, entry: Listed, classes: Classes) -> Listed:
    labels = classes.display_names(entry.labels.labels, where=str(path))
    return replace(entry, labels=replace(entry.labels, labels=labels))


def _recognise(path: Path, text: str) -> Format:
    if re.match(r'\s*(\{\s*"|\[\s*[{\]])', text):
        return "activitynet" if actions.is_like_activitynet(text) else "cavmae"
    if actions.is_like_ucf101(text):
        return "ucf101"
    if path.suffix.lower() != ".csv":
        return "lines"
    if audioset.is_like(text):
        return "audioset"
    first = next(rows_of(text), [])
    columns = {name.strip() for name in first}
    if columns & set(table.PATH_COLUMNS):
        return "table"
    if columns >= set(table.ESC50_COLUMNS):
        return "esc50"
    if columns >= set(actions.KINETICS_COLUMNS):
        return "kinetics"
    if vggsound.is_like(first):
        return "vggsound"
    if len(first) == 1 and is_media_name(first[0]):
        return "lines"  # the lists from which CAV-MAE extracts sound and pictures
    return "table"  # whose reader says what is missing
