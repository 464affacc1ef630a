"""The lists of action videos: UCF101 (and UCF51), HMDB51, Kinetics, ActivityNet.

UCF101 and HMDB51 are judged on three splits, and a video is in `train` of one and in `test` of another. It belongs to
all of them: `train1;test2;train3`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lookhear.data.lists.classes import Classes
from lookhear.data.lists.entry import Listed, add_once, decoded, rows_of
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end", "split")
# what publishers call a split, where it is not what we call it
_SPLITS = {"training": "train", "validation": "val", "validate": "val", "testing": "test"}

# ---- UCF101

_UCF_ROW = re.compile(
    r"(?:(?P<folder>[^/\\,]+)/)?(?P<name>v_(?P<action>\w+)_g\d\d_c\d\d)(?:\.\w+)?(?:[ ,]\s*(?P<number>\d+))?"
)
# trainlist01.txt of the publisher; ucf101_train.csv of those who use the 51 classes with sound, in split 1
_UCF_FILE = re.compile(r"(?P<part>train|test)list0(?P<official>[1-3])\.txt|ucf101_(?P<sounding>train|test)\.csv")
# the one class whose files are not spelled like its folder
_UCF_FOLDERS = {"HandStandPushups": "HandstandPushups"}


def is_like_ucf101(text: str) -> bool:
    """Whether the first line of `text` can be one of UCF101."""
    return _UCF_ROW.fullmatch(text.lstrip().partition("\n")[0].strip()) is not None


def read_ucf101(path: Path, classes: Classes | None) -> dict[str, Listed]:
    """The videos of UCF101 by folder and name, from one list or from a folder of them.

    A list has a line a video: `Folder/v_Action_g01_c01.avi`, with the number of its class after a space where it is to
    be learned from (trainlist01.txt and testlist01.txt to 03; not tried on the real files), or `v_Action_g01_c01,1`
    (ucf101_train.csv and ucf101_test.csv: UCF51, the 51 classes with sound, split 1). Numbers count all 101 classes
    from 1. Labels are the names of the folders, or what `classes` says; the file is the media file of that name in the
    folder of its class, whatever its suffix. Which split a list is, its name says.
    """
    listed: dict[str, Listed] = {}
    for list_path, split in _ucf_lists(path):
        own: dict[str, Listed] = {}
        for number, line in enumerate(decoded(list_path).splitlines(), start=1):
            if not line.strip():
                continue
            row = _UCF_ROW.fullmatch(line.strip())
            if row is None:
                raise UserError(
                    f"{list_path}, line {number}: {line!r} is no video of UCF101, as v_Archery_g01_c01,3 is"
                )
            entry = _ucf_entry(row, classes, where=f"{list_path}, line {number}")
            add_once(own, entry.path, entry, list_path)
        _join(listed, own, split, list_path)
    return listed


def _ucf_lists(path: Path) -> list[tuple[Path, str]]:
    """The lists of a folder, or the one that `path` is, each with the split that its name says ("" for none)."""
    found = []
    for place in sorted(path.iterdir()) if path.is_dir() else [path]:
        name = _UCF_FILE.fullmatch(place.name)
        if name is not None:
            found.append((place, f"{name['part'] or name['sounding']}{name['official'] or 1}"))
        elif not path.is_dir():
            found.append((place, ""))
    if not found:
        raise UserError(
            f"{path} has no list of UCF101: neither trainlist01.txt and testlist01.txt (to 03) nor ucf101_train.csv "
            "and ucf101_test.csv; name the folder that has them"
        )
    return found


def _ucf_entry(row: re.Match[str], classes: Classes | None, *, where: str) -> Listed:
    action = _UCF_FOLDERS.get(row["action"], row["action"])
    label = row["folder"] or action
    if classes is not None:
        label = classes.display_names((label,), where=where)[0]
        number = 0 if row["number"] is None else int(row["number"])
        if row["number"] is not None and classes.names[max(number - 1, 0) : number] != (label,):
            raise UserError(f"{where}: class {number} is not {label!r} in the classes; name those of UCF101, all 101")
    name = f"{row['folder'] or action}/{row['name']}"
    return Listed(path=name, labels=FileLabels(labels=(label,)), any_suffix=True)


def _join(listed: dict[str, Listed], own: dict[str, Listed], split: str, path: Path) -> None:
    """Adds the videos of one list, as members of `split`, to those of the lists before."""
    for name, entry in own.items():
        known = listed.get(name, entry)
        if known.labels.labels != entry.labels.labels:
            raise UserError(f"{path} calls {name!r} {entry.labels.labels}, another list {known.labels.labels}")
        splits = tuple(dict.fromkeys((*known.labels.splits, *([split] if split else []))))
        twin = {"train": "test", "test": "train"}.get(split[:-1], "") + split[-1:]
        if twin in known.labels.splits:
            raise UserError(f"{path}: {name!r} is to be learned from and judged in split {split[-1]}; mend one list")
        about = FileLabels(labels=entry.labels.labels, split=";".join(splits))
        listed[name] = Listed(path=entry.path, labels=about, any_suffix=True)


# ---- HMDB51

_HMDB_FILE = re.compile(r"(?P<action>.+)_test_split(?P<number>[1-3])\.txt")
_HMDB_PARTS = {"0": "", "1": "train", "2": "test"}


def read_hmdb51(folder: Path, classes: Classes | None) -> dict[str, Listed]:
    """The videos of HMDB51 by class and name, from the folder of its splits (testTrainMulti_7030_splits).

    As its publisher describes it; not tried on the real files. `<class>_test_split<1 to 3>.txt` has a line a video: its
    name, and 1 to learn from, 2 to be judged, 0 for neither. The file is the media file of that name in the folder of
    its class, whatever its suffix.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; the splits of HMDB51 are one, testTrainMulti_7030_splits")
    listed: dict[str, Listed] = {}
    for path in sorted(folder.iterdir()):
        found = _HMDB_FILE.fullmatch(path.name)
        if found is None:
            continue
        label = found["action"]
        if classes is not None:
            label = classes.display_names((label,), where=str(path))[0]
        parts: dict[str, dict[str, Listed]] = {part: {} for part in _HMDB_PARTS.values()}
        for number, line in enumerate(decoded(path).splitlines(), start=1):
            if not line.strip():
                continue
            video, _, part = line.strip().rpartition(" ")
            if part not in _HMDB_PARTS or not video.strip():
                raise UserError(f"{path}, line {number}: want a name and 0, 1 or 2, not {line!r}")
            name = f"{found['action']}/{Path(video.strip()).stem}"
            entry = Listed(path=name, labels=FileLabels(labels=(label,)), any_suffix=True)
            if any(name in other for other in parts.values()):
                raise UserError(f"{path} names {video.strip()!r} twice; remove one of the two")
            parts[_HMDB_PARTS[part]][name] = entry
        for part, own in parts.items():
            _join(listed, own, part and f"{part}{found['number']}", path)
    if not listed:
        raise UserError(f"{folder} has no list of HMDB51, such as wave_test_split1.txt; name the folder that has them")
    return listed


# ---- Kinetics


def read_kinetics(path: Path, text: str, classes: Classes | None) -> dict[str, Listed]:
    """The clips of a Kinetics list, as its publisher describes it; not tried on the real files.

    A CSV file with the columns youtube_id, time_start, time_end, split and (but for the test set) label. The file is
    the media file named <id>_<start, six digits>_<end, six digits>, whatever its suffix.
    """
    rows = list(rows_of(text))
    columns = [name.strip() for name in rows[0]] if rows else []
    missing = [name for name in KINETICS_COLUMNS if name not in columns]
    if missing:
        raise UserError(f"{path} is no Kinetics list: it has no column {', '.join(missing)}")
    listed: dict[str, Listed] = {}
    for number, row in enumerate(rows[1:], start=2):
        where = f"{path}, row {number}"
        values = {name: cell.strip() for name, cell in zip(columns, row, strict=False)}
        times = [_whole_seconds(values.get(name, "")) for name in ("time_start", "time_end")]
        if not values.get("youtube_id") or None in times:
            raise UserError(f"{where}: youtube_id, time_start or time_end is missing or no number")
        name = "_".join([values["youtube_id"], *(f"{seconds:06d}" for seconds in times)])
        about = _about([values.get("label", "")], values.get("split", ""), classes, where=where)
        add_once(listed, name, Listed(path=name, labels=about, any_suffix=True), path)
    return listed


def _whole_seconds(text: str) -> int | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return int(seconds) if 0 <= seconds < 1e6 else None


# ---- ActivityNet


def is_like_activitynet(text: str) -> bool:
    """Whether a JSON text can be the annotations of ActivityNet."""
    return re.search(r'"database"\s*:\s*\{', text) is not None


def read_activitynet(path: Path, text: str, classes: Classes | None) -> dict[str, Listed]:
    """The videos of ActivityNet's annotations (activity_net.v1-3.min.json), as described; not tried on the real file.

    An object whose key `database` holds {subset, annotations: [{label, segment}]} by YouTube id. A whole video has the
    labels of all its segments; their times are not used. The file is the media file named v_<id>, whatever its suffix.
    """
    try:
        database = json.loads(text).get("database")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is no JSON object: {error}") from error
    if not isinstance(database, dict):
        raise UserError(f"{path} is no ActivityNet list: it needs the key 'database' with an object")
    listed: dict[str, Listed] = {}
    for video, item in database.items():
        where = f"{path}, video {video!r}"
        labels = list(_activity_labels(item, where))
        about = _about(labels, item["subset"], classes, where=where)
        name = f"v_{video}"
        listed[name] = Listed(path=name, labels=about, any_suffix=True)
    return listed


def _activity_labels(item: Any, where: str) -> Iterator[str]:
    annotations = item.get("annotations", []) if isinstance(item, dict) else None
    if not isinstance(annotations, list) or not isinstance(item.get("subset"), str):
        raise UserError(f"{where}: want an object with 'subset' and a list 'annotations'")
    for annotation in annotations:
        if not isinstance(annotation, dict) or not isinstance(annotation.get("label"), str):
            raise UserError(f"{where}: an annotation without a label")
        yield annotation["label"]


def _about(labels: list[str], split: str, classes: Classes | None, *, where: str) -> FileLabels:
    """What is said about a video; a label that is there twice, or empty, counts once, or not at all."""
    names = tuple(dict.fromkeys(label for label in labels if label))
    if classes is not None:
        names = classes.display_names(names, where=where)
    return FileLabels(labels=names, split=_SPLITS.get(split, split))
