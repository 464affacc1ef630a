"""The JSON lists of CAV-MAE and CAV-MAE Sync.

An object whose key `data` is a list of {video_id, wav, video_path, labels}: `wav` is the sound, the pictures are
`video_path`/frame_k/`video_id`.jpg for k from 0, and `labels` are the identifiers of classes (mids), with commas
between. A file `X_weight.csv` beside `X.json` has a number a line: how often to draw each entry in training.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

from lookhear.data.lists.classes import Classes
from lookhear.data.lists.entry import Listed, add_once, decoded
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

_KEYS = ("video_id", "wav", "video_path")
# a name that would lead out of the folder of its pictures: .. on the way, a root, a drive, a backslash
_LEADS_OUT = re.compile(r"/.*|[A-Za-z]:.*|(.*/)?\.\.(/.*)?|.*\\.*", re.DOTALL)


def read(path: Path, text: str, classes: Classes | None) -> dict[str, Listed]:
    """The clips of the list by video_id, in its order. `labels` may be missing; they stay mids without `classes`."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    data = entries.get("data") if isinstance(entries, dict) else None
    if not isinstance(data, list):
        raise UserError(f"{path} is no CAV-MAE list: it needs the key 'data' with a list of clips")
    weights = _weights(path, len(data))
    listed: dict[str, Listed] = {}
    for number, item in enumerate(data, start=1):
        values = _values(path, number, item)
        mids = tuple(dict.fromkeys(mid.strip() for mid in values["labels"].split(",") if mid.strip()))
        if classes is not None:
            mids = classes.display_names(mids, where=f"{path}, entry {number}")
        about = FileLabels(labels=mids, weight=1.0 if weights is None else weights[number - 1])
        entry = Listed(path=values["wav"], picture_folder=values["video_path"], labels=about)
        add_once(listed, values["video_id"], entry, path)
    return listed


def _values(path: Path, number: int, item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise UserError(f"{path}, entry {number}: a clip is an object with the keys {', '.join(_KEYS)}, not {item!r}")
    values = {"labels": ""} | {key: item[key] for key in (*_KEYS, "labels") if key in item}
    missing = [key for key in _KEYS if not values.get(key)]
    if missing:
        raise UserError(f"{path}, entry {number}: {', '.join(missing)} is missing")
    wrong = [key for key, value in values.items() if not isinstance(value, str)]
    if wrong:
        raise UserError(f"{path}, entry {number}: {', '.join(wrong)} must be text")
    if _LEADS_OUT.fullmatch(values["video_id"]):
        raise UserError(
            f"{path}, entry {number}: video_id {values['video_id']!r} is no name of a clip: it must stay within the "
            "folder of its pictures, without .. and \\ and without a root or drive in front"
        )
    return values


def _weights(path: Path, count: int) -> list[float] | None:
    """The numbers of the weight file beside the list; None where there is none."""
    beside = path.with_name(f"{path.stem}_weight.csv")
    if not beside.is_file():
        return None
    weights = []
    for number, line in enumerate(decoded(beside).split(), start=1):
        try:
            weights.append(float(line))
        except ValueError:
            weights.append(math.nan)
        if not (math.isfinite(weights[-1]) and weights[-1] >= 0):
            raise UserError(f"{beside}, line {number}: a weight is a number of at least 0, not {line!r}")
    if len(weights) != count:
        raise UserError(
            f"{beside} has {len(weights)} weights, {path.name} has {count} clips; mend or remove the weights"
        )
    return weights
