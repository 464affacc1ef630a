"""If these fail, cIoU, AUC, mAP and mIoU are not what papers mean by these names."""

import numpy as np
import pytest

from lookhear.tasks.localization import metrics


def test_a_map_is_cut_to_the_area_of_the_box() -> None:
    heat = np.arange(24.0).reshape(4, 6)
    cut = metrics.cut_to_area(heat, 5)
    assert sorted(heat[cut == 1.0].tolist()) == [19, 20, 21, 22, 23]
    flat = metrics.cut_to_area(np.zeros((4, 6)), 6)
    np.testing.assert_allclose(flat, 0.25)  # everything a little, not the upper left corner
    assert metrics.cut_to_area(heat, 24).all()


def test_overlap_and_pointing() -> None:
    mask = metrics.box_mask((0.5, 0.0, 1.0, 0.5), 8, 8)
    assert mask.sum() == 16
    assert mask[:4, 4:].all()
    truth = mask.astype(float)
    assert metrics.map_overlap(truth, truth) == 1.0
    assert metrics.map_overlap(1.0 - mask, truth) == pytest.approx(0.0)
    half = metrics.box_mask((0.5, 0.0, 1.0, 0.25), 8, 8) + metrics.box_mask((0.5, 0.5, 1.0, 0.75), 8, 8) * 0.5
    assert metrics.map_overlap(half, truth) == pytest.approx(8 / 24)
    assert metrics.points_into(half, mask) == 1.0
    assert metrics.points_into(np.zeros((8, 8)), mask) == 0.25
    assert metrics.box_mask((0.51, 0.51, 0.52, 0.52), 8, 8).sum() == 1
    assert metrics.box_mask((1.0, 1.0, 1.0, 1.0), 8, 8)[7, 7]


def _slow_half(heat: np.ndarray, truth: np.ndarray) -> float:
    """The published rule, a pixel at a time."""
    threshold = sorted(heat.ravel().tolist())[heat.size // 2]
    inside = outside = 0.0
    for value, weight in zip(heat.ravel(), truth.ravel(), strict=True):
        if value >= threshold:
            inside += weight
            outside += weight == 0
    return inside / (truth.sum() + outside)


@pytest.mark.parametrize("shape", [(8, 8), (5, 7), (1, 3)])
@pytest.mark.parametrize("agreement", [1, 2])
def test_the_hotter_half_is_the_published_cut(shape: tuple[int, int], agreement: int) -> None:
    rng = np.random.default_rng(0)
    boxes = [(0.1, 0.1, 0.7, 0.8), (0.3, 0.0, 0.9, 0.9)]
    truth = metrics.truth_map(boxes, *shape, agreement=agreement)
    for heat in (rng.standard_normal(shape), rng.integers(0, 3, shape).astype(float)):  # without and with ties
        assert metrics.map_overlap(heat, truth, cut="half") == pytest.approx(_slow_half(heat, truth))


def test_boxes_of_several_people_must_agree() -> None:
    boxes = [(0.0, 0.0, 0.5, 1.0), (0.25, 0.0, 1.0, 1.0), (0.25, 0.0, 0.5, 1.0)]
    np.testing.assert_array_equal(metrics.truth_map(boxes, 1, 4)[0], [1, 1, 1, 1])
    np.testing.assert_array_equal(metrics.truth_map(boxes, 1, 4, agreement=2)[0], [0.5, 1, 0.5, 0.5])


def test_a_small_object_cannot_reach_half_with_the_published_cut() -> None:
    """Why both cuts are reported: a perfect map of a small thing fails one and passes the other."""
    truth = metrics.truth_map([(0.4, 0.4, 0.6, 0.6)], 20, 20)
    heat = truth + np.random.default_rng(0).uniform(0, 0.1, (20, 20))
    assert metrics.map_overlap(heat, truth) == 1.0
    assert metrics.map_overlap(heat, truth, cut="half") < 0.1


def test_area_under_success() -> None:
    overlaps = np.random.default_rng(0).uniform(0, 1, 37)
    slow, step = 0.0, 0.05
    for i in range(20):
        rates = [sum(o >= t for o in overlaps) / 37 for t in (np.linspace(0, 1, 21)[i], np.linspace(0, 1, 21)[i + 1])]
        slow += step * (rates[0] + rates[1]) / 2
    assert metrics.area_under_success(overlaps) == pytest.approx(slow)
    assert metrics.area_under_success([1.0]) == pytest.approx(1.0)
    assert metrics.area_under_success([0.0]) == pytest.approx(0.025)  # half of the first step
    assert metrics.success_rate([0.5, 0.49, 0.8]) == pytest.approx(2 / 3)


def _slow_precision(truth: np.ndarray, score: np.ndarray) -> float:
    total = 0.0
    for level in sorted(set(score.tolist()), reverse=True):
        chosen = score >= level
        new = truth[score == level].sum()
        total += new / truth.sum() * truth[chosen].mean()
    return total


def test_prompted_segmentation() -> None:
    rng = np.random.default_rng(0)
    shapes, classes = [(4, 6), (5, 3), (4, 6)], [9, 9, 4]
    maps = [rng.standard_normal(shape).round(1) for shape in shapes]
    masks = [rng.uniform(size=shape) < 0.3 for shape in shapes]
    found = metrics.segmentation_score(maps, masks, classes)
    assert found.class_ids == (4, 9)
    low, high = min(heat.min() for heat in maps), max(heat.max() for heat in maps)
    for number, precision, iou in zip(found.class_ids, found.average_precision, found.iou, strict=True):
        score = np.concatenate([(maps[i].ravel() - low) / (high - low) for i in range(3) if classes[i] == number])
        truth = np.concatenate([masks[i].ravel() for i in range(3) if classes[i] == number])
        assert precision == pytest.approx(_slow_precision(truth, score))
        tried = [score >= t for t in np.linspace(score.min(), score.max(), 20)]
        assert iou == pytest.approx(max((c & truth).sum() / (c | truth).sum() for c in tried))
    assert found.mean_average_precision == pytest.approx(np.mean(found.average_precision))
    assert found.mean_iou == pytest.approx(np.mean(found.iou))


def test_perfect_and_flat_maps() -> None:
    mask = np.zeros((4, 4), bool)
    mask[1:3, 1:3] = True
    perfect = metrics.segmentation_score([mask * 1.0], [mask], [1])
    assert perfect.mean_average_precision == perfect.mean_iou == 1.0
    flat = metrics.segmentation_score([np.ones((4, 4))], [mask], [1])
    assert flat.mean_average_precision == flat.mean_iou == pytest.approx(0.25)


def test_what_makes_no_set_is_refused() -> None:
    heat, mask = np.zeros((2, 2)), np.ones((2, 2), bool)
    with pytest.raises(ValueError, match="no set"):
        metrics.segmentation_score([], [], [])
    with pytest.raises(ValueError, match="differ in size"):
        metrics.segmentation_score([heat], [np.ones((2, 3), bool)], [1])
    with pytest.raises(ValueError, match="class 1 has no pixel"):
        metrics.segmentation_score([heat], [~mask], [1])
