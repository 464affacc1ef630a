"""How well heat maps lie on what sounds: overlap with boxes, and precision over pixels. Pure functions of numpy.

H, W pixels of a map; N maps. A truth map holds 0..1 for each pixel: how surely the sounding thing is there.

Two ways to cut a map before it is laid over the truth, both reported, never mixed:

- "area": to as many pixels as the truth covers. It judges where a map is hot, not how well its scale is set.
- "half": the hotter half of the picture, whatever the truth covers. It is what published VGG-SS and Flickr-SoundNet
  figures are made with (Chen et al., "Localizing visual sounds the hard way", CVPR 2021, and what followed): a small
  object can then not reach .5, and one that fills the picture can hardly miss it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Cut = Literal["area", "half"]
HIT_OVERLAP = 0.5
SUCCESS_THRESHOLDS = np.linspace(0.0, 1.0, 21)
NUM_MASK_THRESHOLDS = 20  # of the mIoU of prompted segmentation


def box_mask(box: Sequence[float], height: int, width: int) -> np.ndarray:
    """bool (height, width): the pixels whose centre lies in `box` (x0, y0, x1, y1 as fractions of the picture).

    A box too small to hold a pixel centre is the one pixel under its middle.
    """
    left, top, right, bottom = box
    rows = (np.arange(height) + 0.5) / height
    columns = (np.arange(width) + 0.5) / width
    mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None, :]
    if not mask.any():
        row = int(np.clip((top + bottom) / 2 * height, 0, height - 1))
        mask[row, int(np.clip((left + right) / 2 * width, 0, width - 1))] = True
    return mask


def truth_map(boxes: Sequence[Sequence[float]], height: int, width: int, *, agreement: int = 1) -> np.ndarray:
    """float64 (height, width): how many of `boxes` cover a pixel, over `agreement`, at most 1.

    `agreement` 1: the union of the boxes (VGG-SS). 2: boxes of several people about one frame, where two must agree
    for the full weight (Flickr-SoundNet; Senocak et al., "Learning to localize sound source", CVPR 2018).
    """
    votes = sum(box_mask(box, height, width).astype(np.float64) for box in boxes)
    return np.minimum(votes / agreement, 1.0)


def cut_to_area(heat: np.ndarray, num_pixels: int) -> np.ndarray:
    """float64 (H, W): 1 for the `num_pixels` hottest pixels, 0 elsewhere; pixels tied at the edge share what is left.

    So a map that is the same everywhere selects every pixel a little, not the upper left corner.
    """
    edge = np.partition(heat.ravel(), heat.size - num_pixels)[heat.size - num_pixels]
    hotter, level = heat > edge, heat == edge
    return hotter + level * ((num_pixels - hotter.sum()) / level.sum())


def cut_to_half(heat: np.ndarray) -> np.ndarray:
    """float64 (H, W): 1 for the pixels at or above the middle one of the sorted values, as published.

    Pixels that are tied with the middle one all count, so a map that is the same everywhere selects the whole picture.
    """
    return (heat >= np.sort(heat, axis=None)[heat.size // 2]).astype(np.float64)


def map_overlap(heat: np.ndarray, truth: np.ndarray, *, cut: Cut = "area") -> float:
    """Intersection over union, 0..1, of `heat` (H, W) after the `cut` with the `truth` map (H, W).

    The consensus form of the literature: sum(selected * truth) / (sum(truth) + sum(selected where truth is 0)), which
    is the plain one where the truth is 0 or 1.
    """
    selected = cut_to_half(heat) if cut == "half" else cut_to_area(heat, int((truth > 0).sum()))
    return float((selected * truth).sum() / (truth.sum() + selected[truth == 0].sum()))


def points_into(heat: np.ndarray, mask: np.ndarray) -> float:
    """1 where the hottest pixel of `heat` lies in `mask` (bool), else 0; the share that does where several are."""
    return float(mask[heat == heat.max()].mean())


def success_rate(overlaps: Sequence[float] | np.ndarray, threshold: float = HIT_OVERLAP) -> float:
    """Share of the overlaps (N,) at or above `threshold`: at .5 it is what papers call cIoU (or AP50)."""
    return float(np.mean(np.asarray(overlaps) >= threshold))


def area_under_success(overlaps: Sequence[float] | np.ndarray) -> float:
    """Area under the success rate over thresholds 0, .05, .. 1 (trapezoids): what papers call AUC.

    Not the integral of IoU over map thresholds, which some code gives the same name.
    """
    rates = np.array([success_rate(overlaps, threshold) for threshold in SUCCESS_THRESHOLDS])
    return float(np.mean((rates[1:] + rates[:-1]) / 2))  # even steps over a range of 1


@dataclass(frozen=True, kw_only=True, eq=False)
class SegmentationScore:
    """Prompted segmentation; classes in ascending order of their number."""

    mean_average_precision: float
    mean_iou: float
    class_ids: tuple[int, ...]
    average_precision: tuple[float, ...]  # of each class, over all pixels of its maps
    iou: tuple[float, ...]  # of each class, at the best of the thresholds


def segmentation_score(
    maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], class_ids: Sequence[int]
) -> SegmentationScore:
    """How well `maps` (N of (H, W), sizes may differ) rank the pixels of `masks` (bool, likewise) of the named classes.

    As DenseAV judges ADE20K prompted by sound (Hamilton et al., CVPR 2024): maps are scaled by one minimum and one
    maximum of the whole set; the pixels of all maps of a class are pooled; a class scores the average precision of its
    pixels, and the best IoU over 20 thresholds that go evenly from the lowest to the highest of them; then the mean
    over classes. Raises ValueError where nothing is given, sizes differ, or a class has no pixel to find.
    """
    from sklearn.metrics import average_precision_score

    if not maps or not len(maps) == len(masks) == len(class_ids):
        raise ValueError(f"{len(maps)} maps, {len(masks)} masks and {len(class_ids)} classes make no set to judge")
    lowest, highest = min(float(heat.min()) for heat in maps), max(float(heat.max()) for heat in maps)
    scale = (highest - lowest) or 1.0
    names = tuple(sorted({int(number) for number in class_ids}))
    precisions, overlaps = [], []
    for number in names:
        members = [i for i, own in enumerate(class_ids) if own == number]
        if any(maps[i].shape != masks[i].shape for i in members):
            raise ValueError(f"a map of class {number} and its mask differ in size")
        pixels = np.concatenate([(maps[i].ravel() - lowest) / scale for i in members])
        truth = np.concatenate([masks[i].ravel() for i in members]).astype(bool)
        if not truth.any():
            raise ValueError(f"class {number} has no pixel in any of its masks")
        precisions.append(float(average_precision_score(truth, pixels)))
        thresholds = np.linspace(pixels.min(), pixels.max(), NUM_MASK_THRESHOLDS)
        overlaps.append(max(_iou(pixels >= threshold, truth) for threshold in thresholds))
    return SegmentationScore(
        mean_average_precision=float(np.mean(precisions)),
        mean_iou=float(np.mean(overlaps)),
        class_ids=names,
        average_precision=tuple(precisions),
        iou=tuple(overlaps),
    )


def _iou(selected: np.ndarray, truth: np.ndarray) -> float:
    return float((selected & truth).sum() / (selected | truth).sum())
