"""The acoustic scenes of the first DCASE challenge (2013; also cited as DCASE 2014).

It has no list: there is one training and one test set, each of 100 recordings of 30 s of 10 scenes, and every file is
named for its scene.
"""

import re
from pathlib import Path

from lookhear.data.lists.classes import Classes
from lookhear.data.lists.entry import Listed
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

_FOLDERS = {"scenes_stereo": "train", "scenes_stereo_testset": "test"}
_RECORDING = re.compile(r"(?P<scene>[A-Za-z_]+)\d+\.wav", re.IGNORECASE)


def read(folder: Path, classes: Classes | None) -> dict[str, Listed]:
    """The recordings in the folders scenes_stereo (split `train`) and scenes_stereo_testset (`test`) below `folder`.

    As their publisher describes them; not tried on the real files. A recording of the scene `bus` is called bus01.wav,
    or with another number.
    """
    listed: dict[str, Listed] = {}
    for path in sorted(folder.rglob("*.[wW][aA][vV]")) if folder.is_dir() else []:
        inside = path.relative_to(folder)
        split = next((_FOLDERS[part] for part in inside.parts[:-1] if part in _FOLDERS), None)
        if split is None:
            continue
        name = _RECORDING.fullmatch(path.name)
        if name is None:
            raise UserError(f"{path} names no scene, as bus01.wav does; put it elsewhere")
        scene = name["scene"]
        if classes is not None:
            scene = classes.display_names((scene,), where=str(path))[0]
        listed[inside.as_posix()] = Listed(path=inside.as_posix(), labels=FileLabels(labels=(scene,), split=split))
    if {entry.labels.split for entry in listed.values()} != set(_FOLDERS.values()):
        raise UserError(
            f"{folder} has not both {' and '.join(_FOLDERS)} with sounds in them; name the folder that holds the two"
        )
    return listed
