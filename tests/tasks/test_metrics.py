"""If these fail, the figures we report are not the figures we name: wrong ranks, inflated ties, wrong windows."""

import numpy as np
import pytest

from lookhear.tasks import metrics
from lookhear.tasks.metrics import bootstrap_interval, ranks


def test_precision_and_area_equal_the_golden_ones(golden: dict[str, np.ndarray]) -> None:
    target, score = golden["multilabel.target"], golden["multilabel.score"]
    np.testing.assert_allclose(metrics.average_precision(target, score), golden["multilabel.ap"], atol=1e-6)
    np.testing.assert_allclose(metrics.area_under_roc(target, score), golden["multilabel.auc"], atol=1e-6)


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


def test_without_a_right_answer_there_is_no_rank() -> None:
    with pytest.raises(ValueError, match="no right answer"):
        ranks(np.ones((1, 2)), np.zeros((1, 2), dtype=bool))


def test_what_has_no_score_has_failed_and_stands_in_nobodys_way() -> None:
    similarity = np.array([[0.2, np.nan, 0.1], [0.3, np.nan, 0.1], [np.nan, np.nan, 0.5]])
    found = ranks(similarity, np.arange(3))
    assert found.failed.tolist() == [False, True, False]
    assert found.expected.tolist() == [1.0, 4.0, 1.0]
    assert metrics.hits_at(found, 3).tolist() == [1.0, 0.0, 1.0]
    assert metrics.recall_at(found, 10) == pytest.approx(2 / 3), (
        "a failed query counts as not found, however large k is"
    )
    assert metrics.recall_at(found, 1, ties="published") == 1.0, "the public code loses it"
    several = np.array([[True, True, False]])
    assert ranks(similarity[:1], several).expected.tolist() == [1.0], "the best right answer that has a score counts"


def _published_places(similarity: np.ndarray) -> np.ndarray:
    """The slow form: every place of the sorted row that holds the score of the right answer, from 0."""
    return np.concatenate([np.flatnonzero(np.sort(row)[::-1] == row[own]) for own, row in enumerate(similarity)])


def test_the_published_rule_counts_every_tied_place() -> None:
    example = np.array([[1, 1, 0], [0.5, 0.2, 0.1], [0.3, 0.3, 0.3]])
    assert metrics.recall_at(ranks(example, np.arange(3)), 1, ties="published") == pytest.approx(2 / 6)
    rng = np.random.default_rng(0)
    for similarity in (rng.integers(0, 6, (40, 40)) / 6, rng.random((40, 40)), np.ones((40, 40))):
        found, places = ranks(similarity, np.arange(40)), _published_places(similarity)
        for k in (1, 5, 10, 40):
            assert metrics.recall_at(found, k, ties="published") == pytest.approx((places < k).mean())
        assert metrics.median_rank(found, ties="published") == np.median(places) + 1


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
