"""Choosing a checkpoint. If these fail, another model is kept than the one that did best."""

import math

import pytest

from lookhear.errors import ConfigError
from lookhear.training.run import DataConfig
from lookhear.training.selection import Best, better_of, check_choice


def judged(value: float) -> dict[str, dict[str, float]]:
    return {"validation": {"accuracy": value, "other": 1.0}}


def test_the_highest_the_first_of_equal_ones_and_never_nan() -> None:
    best = None
    for step, value in enumerate([0.5, math.nan, 0.7, 0.7, 0.6], start=1):
        best = better_of(best, "validation.accuracy", judged(value), step=step)
    assert best == Best(step=3, metric="validation.accuracy", value=0.7)
    assert better_of(None, "validation.accuracy", judged(math.nan), step=1) is None


def test_a_number_that_is_not_measured_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'validation\.map', which no evaluation gives; there is: validation\.acc"):
        better_of(None, "validation.map", judged(0.5), step=1)
    with pytest.raises(ConfigError, match=r"measured as the run goes is: validation\.NUMBER"):
        check_choice("test.accuracy", ["validation"])
    with pytest.raises(ConfigError, match=r"nothing; name data\.validation_split"):
        check_choice("validation.accuracy", [])
    check_choice("validation.accuracy", ["validation"])
    check_choice(None, [])


def test_a_split_that_may_not_choose_is_refused() -> None:
    with pytest.raises(ConfigError, match="chosen on the test set"):
        DataConfig(split="train", validation_split="test")
    with pytest.raises(ConfigError, match="chosen on the test set"):
        DataConfig(split="train", validation_split="Test")
    with pytest.raises(ConfigError, match="would be learned from as well"):
        DataConfig(split=("fold1", "fold2"), validation_split="fold2")
    assert DataConfig(split=("fold1", "fold2"), validation_split="fold3").splits == ("fold1", "fold2")
