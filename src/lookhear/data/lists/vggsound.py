"""The CSV lists of VGGSound: file,label without a header, and the four columns of vggsound.csv."""

import re
from pathlib import Path

from lookhear.data.lists.classes import Classes
from lookhear.data.lists.entry import Listed, add_once, is_media_name, rows_of
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

_YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")


def is_like(row: list[str]) -> bool:
    """Whether `row` can be the first of such a list."""
    if len(row) == 2:
        return is_media_name(row[0])
    return len(row) == 4 and _YOUTUBE_ID.fullmatch(row[0].strip()) is not None and row[1].strip().isdecimal()


def read(path: Path, text: str, classes: Classes | None) -> dict[str, Listed]:
    """The clips of a VGGSound list by file name.

    Two columns, as in vggsound_test.csv: the file, its label. Four columns, as the publisher describes vggsound.csv
    (not tried on the real file): YouTube id, start in seconds, label, train or test; the file is then the media file
    named <id>_<start, six digits>, whatever its suffix, as in the other published lists. With `classes`, labels take
    its spelling: published label files have `_` where these lists have a comma.
    """
    listed: dict[str, Listed] = {}
    for number, row in enumerate(rows_of(text), start=1):
        cells = [cell.strip() for cell in row]
        where = f"{path}, row {number}"
        if len(cells) == 2 and all(cells):
            name, label, split = cells[0], cells[1], ""
        elif len(cells) == 4 and all(cells) and cells[1].isdecimal():
            name, label, split = f"{cells[0]}_{int(cells[1]):06d}", cells[2], cells[3]
        else:
            raise UserError(f"{where}: want file,label or id,start_seconds,label,split, not {','.join(row)!r}")
        labels = (label,) if classes is None else classes.display_names((label,), where=where)
        about = FileLabels(labels=labels, split=split)
        add_once(listed, name, Listed(path=name, labels=about, any_suffix=len(cells) == 4), path)
    return listed
