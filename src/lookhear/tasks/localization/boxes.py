"""Readers of published truth about places: boxes of VGG-SS and Flickr-SoundNet, prompts and masks of ADE20K-Sound.

Boxes belong to the middle frame of a clip, which is the one that was annotated.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from lookhear.errors import UserError
from lookhear.tasks.localization.crop import Box

FLICKR_SIDE = 256  # pixels of the square pictures that Flickr-SoundNet's boxes were drawn on
FLICKR_AGREEMENT = 2
_SLACK = 0.01  # boxes may reach this far beyond the picture before they count as broken


@dataclass(frozen=True, kw_only=True)
class BoxedClip:
    """What a list says about one file."""

    name: str  # of the file, without folder and suffix
    label: str
    boxes: tuple[Box, ...]  # fractions of the frame


@dataclass(frozen=True, kw_only=True)
class BoxList:
    """Published boxes by name of the file."""

    clips: Mapping[str, BoxedClip]
    agreement: int  # see `metrics.truth_map`
    broken: tuple[str, ...]  # a sentence for each box that is none, and was left out


def read_boxes(path: str | Path, *, ids: str | Path | None = None) -> BoxList:
    """The boxes of VGG-SS (a JSON file) or of Flickr-SoundNet (a folder of XML files), there of those in `ids` only.

    Raises UserError for another file, and for `ids` (see `read_flickr_ids`) with VGG-SS.
    """
    path = Path(path)
    if path.is_dir():
        return read_flickr(path, None if ids is None else read_flickr_ids(ids))
    if ids is not None:
        raise UserError(f"{path} is a file, as of VGG-SS, and a list of ids is for the folder of Flickr-SoundNet only")
    return read_vggss(path)


def read_vggss(path: str | Path) -> BoxList:
    """VGG-SS: JSON, a list of {file, class, bbox: [[left, top, right, bottom], ...]} in fractions of the frame.

    `file` is the VGGSound name, `<video>_<start>`. The published file has a few boxes without area or with numbers
    that overflowed; they are left out, and so is a clip that has no other. Raises UserError for another file.
    """
    try:
        rows: list[Any] = list(json.loads(Path(path).read_bytes()) or [None])
        listed = [(str(row["file"]), str(row["class"]), list(row["bbox"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no VGG-SS box list ({error!r}); want a JSON list of file, class, bbox") from None
    broken: list[str] = []
    clips = {}
    for name, label, raw in listed:
        boxes = _whole_boxes(name, raw, broken)
        if boxes:
            clips[name] = BoxedClip(name=name, label=label, boxes=boxes)
    return BoxList(clips=clips, agreement=1, broken=tuple(broken))


def read_flickr(folder: str | Path, ids: Sequence[str] | None = None) -> BoxList:
    """Flickr-SoundNet: a folder of `<id>.xml`, boxes of several people in pixels of a 256 x 256 picture.

    Every `bbox` element holds a label and then left, top, right, bottom. `ids` (see `read_flickr_ids`) keeps these
    only. Written after the format as public evaluation code reads it; not tried on the published files.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.xml")) if ids is None else [folder / f"{name}.xml" for name in ids]
    if not paths:
        raise UserError(f"{folder} holds no .xml file; give the folder of Flickr-SoundNet annotations")
    broken: list[str] = []
    clips = {}
    for path in paths:
        try:
            found = ElementTree.parse(path).getroot().iter("bbox")
            raw = [[float(part.text or "nan") / FLICKR_SIDE for part in list(box)[1:5]] for box in found]
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise UserError(
                f"{path} is no annotation of Flickr-SoundNet ({error}); leave it out or copy it again"
            ) from None
        boxes = _whole_boxes(path.stem, raw, broken)
        if boxes:
            clips[path.stem] = BoxedClip(name=path.stem, label="", boxes=boxes)
    return BoxList(clips=clips, agreement=FLICKR_AGREEMENT, broken=tuple(broken))


def read_flickr_ids(path: str | Path) -> list[str]:
    """The ids of a Flickr-SoundNet test list: the first column of a CSV file without header; the rest is not used."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            ids = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); give the CSV file of Flickr-SoundNet test ids") from None
    if not ids:
        raise UserError(f"{path} lists no id; give the CSV file of Flickr-SoundNet test ids")
    return ids


def _whole_boxes(name: str, raw: Sequence[Any], broken: list[str]) -> tuple[Box, ...]:
    boxes: list[Box] = []
    for sides in raw:
        try:
            values = [float(side) for side in sides]
        except (TypeError, ValueError):
            broken.append(f"{name}: {sides!r} is no box")
            continue
        inside = len(values) == 4 and all(math.isfinite(v) and -_SLACK <= v <= 1 + _SLACK for v in values)
        if inside and values[0] < values[2] and values[1] < values[3]:
            left, top, right, bottom = (min(max(value, 0.0), 1.0) for value in values)
            boxes.append((left, top, right, bottom))
        else:
            broken.append(f"{name}: {values} is no box within the picture")
    return tuple(boxes)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One picture, one sound, and the class that the sound asks for."""

    picture: Path
    sound: Path
    mask: Path
    class_id: int

    def read_mask(self) -> np.ndarray:
        """bool (H, W): the pixels of the class. ADE20K codes a class as red // 10 * 256 + green."""
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.mask) as image:
                colour = np.asarray(image.convert("RGB")).astype(np.int64)
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"cannot read the mask {self.mask}: {error}; copy it again") from None
        mask: np.ndarray = colour[..., 0] // 10 * 256 + colour[..., 1] == self.class_id
        return mask


def read_prompts(folder: str | Path) -> list[Prompt]:
    """ADE20K prompted by sound: `prompted_segmentation.csv` beside the folders frames, annotations and audio.

    Columns image_location (a .jpg below frames; its mask is `_seg.png` below annotations), vggsound_file (its name is
    looked for in audio) and ade_class_id; rows without a sound or of class 0 are passed over. Written after the format
    as DenseAV documents it; not tried on the published files.
    """
    folder = Path(folder)
    path = folder / "prompted_segmentation.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in rows if row["vggsound_file"].strip() and int(float(row["ade_class_id"] or 0)) != 0]
        prompts = [
            Prompt(
                picture=folder / "frames" / row["image_location"],
                sound=folder / "audio" / row["vggsound_file"].strip().split("/")[-1],
                mask=folder / "annotations" / row["image_location"].replace(".jpg", "_seg.png"),
                class_id=int(float(row["ade_class_id"])),
            )
            for row in kept
        ]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give the folder that holds it") from None
    except (KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is no list of prompts ({error!r}); want image_location, vggsound_file and ade_class_id"
        ) from None
    if not prompts:
        raise UserError(f"{path} has no row with a sound and a class; give the list of ADE20K prompted by sound")
    return prompts
