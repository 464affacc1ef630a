"""Between a frame and what a model sees of it: boxes into the crop, maps of patches onto pixels.

A model sees a crop of the frame: resized until it just covers the model's picture, then cut around the centre.
H, W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.data.preprocess import PreprocessConfig

Box = tuple[float, float, float, float]  # left, top, right, bottom as fractions of a picture


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The part of a frame that a model sees, as fractions of the frame."""

    left: float
    top: float
    right: float
    bottom: float

    def box(self, box: Sequence[float]) -> Box | None:
        """A box of the frame as fractions of the crop, cut at its edges; None where nothing of it is inside."""
        width, height = self.right - self.left, self.bottom - self.top
        left, right = (min(max((x - self.left) / width, 0.0), 1.0) for x in (box[0], box[2]))
        top, bottom = (min(max((y - self.top) / height, 0.0), 1.0) for y in (box[1], box[3]))
        return (left, top, right, bottom) if right > left and bottom > top else None

    def onto_frame(self, heat: np.ndarray, height: int, width: int) -> np.ndarray:
        """A map of patches of the crop as float32 (height, width) of the frame; its lowest value beyond the crop."""
        top, bottom = round(self.top * height), round(self.bottom * height)
        left, right = round(self.left * width), round(self.right * width)
        seen = enlarge(heat, bottom - top, right - left)
        shown = np.full((height, width), seen.min(), dtype=np.float32)
        shown[top:bottom, left:right] = seen
        return shown


def crop_of(height: int, width: int, picture_height: int, picture_width: int) -> Crop:
    """What `Preprocess.frames_to_size` keeps of frames (height, width) for a model of picture_height x picture_width.

    The frame is resized until it just covers the model's picture; what is longer is cut on both sides.
    """
    scale = max(picture_height / height, picture_width / width)
    rows, columns = max(picture_height, round(height * scale)), max(picture_width, round(width * scale))
    top, left = (rows - picture_height) // 2, (columns - picture_width) // 2
    return Crop(
        left=left / columns,
        top=top / rows,
        right=(left + picture_width) / columns,
        bottom=(top + picture_height) / rows,
    )


def model_crop(settings: "PreprocessConfig", height: int, width: int) -> Crop:
    """The part of a frame (height, width) that a model of these settings sees."""
    return crop_of(height, width, settings.picture_height, settings.picture_width)


def box_in_crop(box: Box, crop: Crop) -> Box:
    """A box that a person named, as fractions of the crop.

    Raises UserError for one that is no box within 0..1, and for one that lies outside what the model sees.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise UserError(f"{_words(box)} is no region; give left,top,right,bottom as fractions 0..1, ascending")
    inside = crop.box(box)
    if inside is None:
        seen = _words((crop.left, crop.top, crop.right, crop.bottom))
        raise UserError(
            f"the region {_words(box)} lies outside what the model sees of the frame ({seen}); move it there"
        )
    return inside


def enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of patches (rows, columns) as float32 (height, width), bilinear between the middles of the patches."""
    tensor = torch.from_numpy(np.ascontiguousarray(grid, dtype=np.float32))[None, None]
    return F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def _words(box: Sequence[float]) -> str:
    return ",".join(f"{side:g}" for side in box)
