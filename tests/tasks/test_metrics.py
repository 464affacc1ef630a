"""If these fail, the figures we report are not the figures we name: wrong ranks, inflated ties, wrong windows."""

import os
from pathlib import Path

import numpy as np
import pytest

from lookhear.tasks import metrics
from lookhear.tasks.metrics import AGGREGATIONS, Ranks, bootstrap_interval, pair_ranks, pair_similarity, ranks


def _golden() -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    places = [Path(__file__).parent.parent / "golden" / "metrics.safetensors"]
    if "LOOKHEAR_TEST_MEDIA" in os.environ:
        places.append(Path(os.environ["LOOKHEAR_TEST_MEDIA"]) / "golden" / "metrics.safetensors")
    for path in places:
        if path.exists():
            return load_file(path)
    pytest.skip("no golden metrics at hand")


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def _slow_similarity(audio: list[np.ndarray], visual: list[np.ndarray], aggregation: str) -> np.ndarray:
    matrix = np.zeros((len(audio), len(visual)))
    for i, sound in enumerate(audio):
        for j, picture in enumerate(visual):
            cosines = sound.astype(np.float64) @ picture.T.astype(np.float64)
            values = np.diagonal(cosines) if aggregation.startswith("diagonal") else cosines
            matrix[i, j] = values.max() if aggregation.endswith("max") else values.mean()
    return matrix


def _summary(found: Ranks) -> list[float]:
    return [metrics.recall_at(found, k) for k in (1, 5, 10)] + [metrics.median_rank(found)]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_similarity_and_ranks_equal_the_golden_ones(aggregation: metrics.Aggregation) -> None:
    golden = _golden()
    audio, image = (golden[name] / np.linalg.norm(golden[name], axis=2, keepdims=True) for name in ("audio", "image"))
    similarity = pair_similarity(audio, image, aggregation=aggregation)
    both = pair_ranks(audio, image, aggregation=aggregation, block_bytes=5000)
    own = np.arange(len(audio))
    for direction, matrix, streamed in (
        ("audio_to_image", similarity, both.audio_to_visual),
        ("image_to_audio", similarity.T, both.visual_to_audio),
    ):
        np.testing.assert_allclose(matrix, golden[f"{direction}.{aggregation}.similarity"], atol=1e-6)
        expected = golden[f"{direction}.{aggregation}.r1_r5_r10_medr"].tolist()
        assert _summary(ranks(matrix, own)) == expected
        assert _summary(streamed) == expected


def test_one_window_equals_the_golden_clip_similarity() -> None:
    golden = _golden()
    audio, image = (golden[name] / np.linalg.norm(golden[name], axis=2, keepdims=True) for name in ("audio", "image"))
    for aggregation in AGGREGATIONS:  # with one window they are all the same thing
        similarity = pair_similarity(audio[:, :1], image[:, :1], aggregation=aggregation)
        np.testing.assert_allclose(similarity, golden["clip.similarity"], atol=1e-6)
    assert _summary(ranks(similarity, np.arange(len(audio)))) == golden["clip.r1_r5_r10_medr"].tolist()


def test_precision_and_area_equal_the_golden_ones() -> None:
    golden = _golden()
    target, score = golden["multilabel.target"], golden["multilabel.score"]
    np.testing.assert_allclose(metrics.average_precision(target, score), golden["multilabel.ap"], atol=1e-6)
    np.testing.assert_allclose(metrics.area_under_roc(target, score), golden["multilabel.auc"], atol=1e-6)


def test_published_spot_values() -> None:
    rng = np.random.RandomState(0)
    audio, visual = rng.randn(5, 3, 8).astype(np.float32), rng.randn(5, 3, 8).astype(np.float32)
    audio, visual = (part / np.linalg.norm(part, axis=2, keepdims=True) for part in (audio, visual))
    rows = {
        "diagonal_mean": [0.34079, 0.09286, 0.16580, 0.00831, -0.28210],
        "diagonal_max": [0.79516, 0.27922, 0.57472, 0.26015, 0.02800],
        "mean": [0.02552, -0.03203, -0.05036, 0.12066, -0.06243],
        "max": [0.79516, 0.31101, 0.57472, 0.52459, 0.44993],
    }
    for aggregation in AGGREGATIONS:
        np.testing.assert_allclose(
            pair_similarity(audio, visual, aggregation=aggregation)[0], rows[aggregation], atol=1e-5
        )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_clips_of_different_length_equal_the_loop(aggregation: metrics.Aggregation) -> None:
    rng = np.random.default_rng(1)
    counts = np.array([3, 1, 5, 2, 5, 4, 1])
    audio, visual = _unit(rng, 7, 5, 6), _unit(rng, 7, 5, 6)
    sounds = [part[:count] for part, count in zip(audio, counts, strict=True)]
    pictures = [part[:count] for part, count in zip(visual, counts, strict=True)]
    if aggregation.startswith("diagonal"):  # only the windows that both clips have
        expected = np.array(
            [
                _slow_similarity([a[: min(len(a), len(v))]], [v[: min(len(a), len(v))]], aggregation)[0, 0]
                for a in sounds
                for v in pictures
            ]
        ).reshape(7, 7)
    else:
        expected = _slow_similarity(sounds, pictures, aggregation)
    found = pair_similarity(audio, visual, aggregation=aggregation, audio_counts=counts, visual_counts=counts)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    streamed = pair_ranks(audio, visual, aggregation=aggregation, counts=counts, block_bytes=150)
    for both, matrix in ((streamed.audio_to_visual, found), (streamed.visual_to_audio, found.T)):
        np.testing.assert_array_equal(both.expected, ranks(matrix, np.arange(7)).expected)


def test_more_clips_than_one_tile_and_other_numbers_of_sounds_and_pictures() -> None:
    rng = np.random.default_rng(2)
    audio, visual = _unit(rng, 60, 16, 4), _unit(rng, 37, 16, 4)
    for aggregation in AGGREGATIONS:
        expected = _slow_similarity(list(audio), list(visual), aggregation)
        np.testing.assert_allclose(pair_similarity(audio, visual, aggregation=aggregation), expected, atol=1e-6)


def test_one_clip_is_always_found() -> None:
    one = _unit(np.random.default_rng(0), 1, 1, 4)
    for aggregation in AGGREGATIONS:
        assert pair_similarity(one, one, aggregation=aggregation).shape == (1, 1)
        assert pair_ranks(one, one, aggregation=aggregation).audio_to_visual.expected.tolist() == [1.0]


def _hits_by_shuffling(similarity: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """The slow form: draw the order among equal scores many times and count."""
    rng, repeats = np.random.default_rng(3), 4000
    hits = np.zeros(len(similarity))
    for _ in range(repeats):
        for row, (scores, truth) in enumerate(zip(similarity, right, strict=True)):
            order = np.lexsort((rng.random(len(scores)), -scores))
            hits[row] += truth[order[:k]].any()
    return hits / repeats


def test_ties_count_as_a_fair_draw() -> None:
    similarity = np.array([[1, 1, 0, 0], [0.5, 0.2, 0.1, 0.1], [0.3, 0.3, 0.3, 0.3], [2, 1, 1, 1]])
    own = np.array([0, 1, 2, 3])
    found = ranks(similarity, own)
    assert found.expected.tolist() == [1.5, 2.0, 2.5, 3.0]
    right = np.eye(4, dtype=bool)
    for k in (1, 2, 3, 4):
        np.testing.assert_allclose(metrics.hits_at(found, k), _hits_by_shuffling(similarity, right, k), atol=0.03)
    several = np.array([[1, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]], dtype=bool)
    found = ranks(similarity, several)
    for k in (1, 2, 3):
        np.testing.assert_allclose(metrics.hits_at(found, k), _hits_by_shuffling(similarity, several, k), atol=0.03)


def test_a_collapsed_model_gets_chance_and_not_everything() -> None:
    same = np.ones((20, 3, 8), dtype=np.float32) / np.sqrt(8, dtype=np.float32)
    for aggregation in AGGREGATIONS:
        both = pair_ranks(same, same, aggregation=aggregation)
        assert metrics.recall_at(both.audio_to_visual, 1) == pytest.approx(1 / 20)
        assert metrics.recall_at(both.visual_to_audio, 5) == pytest.approx(5 / 20)
        assert metrics.median_rank(both.visual_to_audio) == 10.5


def test_what_has_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        ranks(np.array([[np.nan, 1.0]]), np.array([0]))
    with pytest.raises(ValueError, match="no right answer"):
        ranks(np.ones((1, 2)), np.zeros((1, 2), dtype=bool))
    with pytest.raises(ValueError, match="no aggregation"):
        pair_similarity(np.ones((1, 1, 2)), np.ones((1, 1, 2)), aggregation="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window counts"):
        pair_similarity(np.ones((1, 1, 2)), np.ones((1, 1, 2)), audio_counts=np.array([2]))


def test_interval_covers_the_mean_and_is_reproducible() -> None:
    values = np.random.default_rng(0).random(400) < 0.3
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values)
    expected = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.15)
    assert bootstrap_interval([1.0, 1.0]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_interval_over_clips_is_wider_than_over_their_frames() -> None:
    """Frames of a clip that are all right or all wrong are one observation, not ten."""
    clips = (np.random.default_rng(0).random(50) < 0.5).astype(float)
    over_clips = bootstrap_interval(clips, weights=np.full(50, 10))
    over_frames = bootstrap_interval(np.repeat(clips, 10))
    assert np.diff(over_clips)[0] > 2 * np.diff(over_frames)[0]


def test_a_class_without_a_positive_has_no_precision() -> None:
    target = np.array([[1, 0, 1], [0, 0, 1]])
    score = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.2]])
    precision, area = metrics.average_precision(target, score), metrics.area_under_roc(target, score)
    assert precision[0] == 1.0
    assert precision[2] == 1.0
    assert np.isnan(precision[1])
    assert area[0] == 1.0
    assert np.isnan(area[1:]).all()


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
    assert metrics.overlap_with_box(mask.astype(float), mask) == 1.0
    assert metrics.overlap_with_box(1.0 - mask, mask) == pytest.approx(0.0)
    half = metrics.box_mask((0.5, 0.0, 1.0, 0.25), 8, 8) + metrics.box_mask((0.5, 0.5, 1.0, 0.75), 8, 8) * 0.5
    assert metrics.overlap_with_box(half, mask) == pytest.approx(8 / 24)
    assert metrics.points_into(half, mask) == 1.0
    assert metrics.points_into(np.zeros((8, 8)), mask) == 0.25
    assert metrics.box_mask((0.51, 0.51, 0.52, 0.52), 8, 8).sum() == 1
    assert metrics.box_mask((1.0, 1.0, 1.0, 1.0), 8, 8)[7, 7]
