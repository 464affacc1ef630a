"""The segment lists of AudioSet (eval_segments.csv and its like), as their publisher describes them.

Not tried on the real files. A header of lines that begin with `#`, the last of which names the columns; then YouTube
id, start and end in seconds, and the identifiers of the labels (mids), quoted, with commas between.
"""

from pathlib import Path

from lookhear.data.lists.classes import Classes
from lookhear.data.lists.entry import Listed, add_once, rows_of
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError


def is_like(text: str) -> bool:
    """Whether the lines that begin with `#` at the beginning of `text` name the column YTID."""
    for line in text.split("\n"):
        if not line.startswith("#"):
            return False
        if line[1:].strip().startswith("YTID"):
            return True
    return False


def read(path: Path, text: str, classes: Classes | None) -> dict[str, Listed]:
    """The segments by YouTube id; labels stay mids without `classes`.

    The file of a segment is the media file that is named as the id, whatever its suffix: the ten seconds cut out, not
    the whole video, so start and end are not used.
    """
    body = "\n".join(line for line in text.split("\n") if not line.startswith("#"))
    listed: dict[str, Listed] = {}
    for number, row in enumerate(rows_of(body, spaces_after_commas=True), start=1):
        if len(row) != 4 or not row[0].strip():
            raise UserError(
                f'{path}, segment {number}: want id, start_seconds, end_seconds, "labels", not {",".join(row)!r}'
            )
        mids = tuple(dict.fromkeys(mid.strip() for mid in row[3].split(",") if mid.strip()))
        if classes is not None:
            mids = classes.display_names(mids, where=f"{path}, segment {number}")
        name = row[0].strip()
        add_once(listed, name, Listed(path=name, labels=FileLabels(labels=mids), any_suffix=True), path)
    return listed
