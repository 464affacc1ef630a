"""If these fail, intervals of classification are not those of resampled clips, or ties are counted wrongly."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from lookhear.tasks.labels.metrics import bootstrap_class_means, d_prime, pool_rounds, resampled_class


def test_resamples_equal_scikit_learn_on_the_clips_written_out() -> None:
    rng = np.random.default_rng(0)
    target = rng.random(40) < 0.3
    score = rng.integers(0, 8, 40) / 8.0  # many ties
    draws = rng.multinomial(40, np.full(40, 1 / 40), size=20)
    found = resampled_class(target, score, draws)
    for row, draw in enumerate(draws):
        truth, value = np.repeat(target, draw), np.repeat(score, draw)
        assert found[0, row] == pytest.approx(average_precision_score(truth, value))
        assert found[1, row] == pytest.approx(roc_auc_score(truth, value))


def test_undefined_figures_are_nan_and_left_out() -> None:
    nobody = np.array([[2, 0, 0], [0, 1, 1], [1, 1, 1]])
    found = resampled_class(np.array([True, False, False]), np.array([0.3, 0.2, 0.1]), nobody)
    assert found[0].tolist()[0::2] == [1.0, 1.0]
    assert math.isnan(found[0, 1])
    assert math.isnan(found[1, 0])  # no negative
    assert found[1, 2] == 1.0


def test_intervals_hold_the_figure_and_are_reproducible() -> None:
    rng = np.random.default_rng(1)
    target = np.eye(4, dtype=bool)[rng.integers(0, 4, 80)]
    score = target + rng.standard_normal((80, 4))
    found = bootstrap_class_means(target, score)
    mean = np.mean([average_precision_score(target[:, column], score[:, column]) for column in range(4)])
    assert found.mean_average_precision[0] < mean < found.mean_average_precision[1]
    assert found == bootstrap_class_means(target, score)
    one = bootstrap_class_means(target[:1], score[:1])
    assert one.mean_average_precision == (1.0, 1.0)
    assert math.isnan(one.mean_area_under_roc[0])


def test_d_prime_of_two_normal_distributions() -> None:
    """Scores of unit width whose means are 1.5 apart have d' 1.5; the area is Phi(1.5 / sqrt 2)."""
    area = 0.5 * (1 + math.erf(1.5 / 2))
    assert d_prime(area) == pytest.approx(1.5)
    assert d_prime(0.5) == pytest.approx(0.0)
    assert d_prime(1.0) == math.inf
    assert math.isnan(d_prime(math.nan))


def test_what_several_rounds_judged_counts_once() -> None:
    """HMDB51's test splits share videos: a bootstrap that drew them apart would be too sure."""
    found = pool_rounds([(["a", "b"], [True, False]), (["b", "c"], [False, True])])
    assert found.num_judged == 3
    low, high = found.accuracy_ci95
    assert low <= 0.5 <= high
    assert pool_rounds([(["a", "b"], [True, True])]).accuracy_ci95 == (1.0, 1.0)
    names = [str(number) for number in range(50)]
    right = np.arange(50) % 2 == 0
    once, twice = pool_rounds([(names, right)]), pool_rounds([(names, right), (names, right)])
    assert once.accuracy_ci95 == twice.accuracy_ci95
