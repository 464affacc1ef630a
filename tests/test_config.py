"""config.py: dataclasses to JSON and back, overrides, and messages that help."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from lookhear.config import difference, from_dict, nearest, override, to_dict
from lookhear.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Train:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["cosine", "constant"] = "cosine"


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str
    steps: int = 10
    fast: bool = False
    limit: int | None = None
    train: Train = field(default_factory=Train)
    ratios: tuple[float, ...] = ()


def test_round_trip_through_json() -> None:
    settings = Settings(name="x", limit=3, ratios=(0.5, 0.75), train=Train(betas=(0.1, 0.2)))
    assert from_dict(Settings, json.loads(json.dumps(to_dict(settings)))) == settings


def test_override_types() -> None:
    changed = override(Settings(name="x"), ["train.lr=1", "fast=true", "limit=null", "ratios=[0.5, 1]", "name=12"])
    assert changed.train.lr == 1.0
    assert isinstance(changed.train.lr, float)
    assert changed.fast is True
    assert changed.ratios == (0.5, 1.0)
    assert changed.name == "12"  # JSON says int, the field says str: the text as typed


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("train.lrr=1", "no setting 'train.lrr'; did you mean 'lr'?"),
        ("steps=1.5", "'steps' must be int, not 1.5"),
        ("steps=true", "'steps' must be int, not True"),
        ("train.schedule=step", "'train.schedule' must be one of 'cosine', 'constant', not 'step'"),
        ("train.betas=[1]", "'train.betas' must have 2 values, not 1"),
        ("steps.deep=1", "'steps' has no settings of its own"),
        ("steps", "'steps' is not of the form name=value"),
    ],
)
def test_override_refuses_with_a_reason(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Settings(name="x"), [assignment])
    assert str(caught.value) == said


@dataclass(frozen=True, kw_only=True)
class Pair:
    width: int = 192
    heads: int = 3

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}")


def test_settings_that_must_fit_together_change_together() -> None:
    assert override(Pair(), ["width=128", "heads=2"]) == Pair(width=128, heads=2)
    with pytest.raises(ConfigError, match="width 128 is not a multiple of heads 3"):
        override(Pair(), ["width=128"])


def test_the_later_of_two_assignments_counts() -> None:
    assert override(Settings(name="x"), ["train.lr=1", "steps=3", "train.lr=2"]).train.lr == 2.0


def test_override_names_every_mistake() -> None:
    with pytest.raises(ConfigError, match=r"zzz.*steps"):
        override(Settings(name="x"), ["zzz=1", "steps=no"])


def test_from_dict_refuses_unknown_missing_and_wrong() -> None:
    with pytest.raises(ConfigError, match=r"no setting .train\.bates.; did you mean .betas."):
        from_dict(Settings, {"name": "x", "train": {"bates": [1, 2]}})
    with pytest.raises(ConfigError, match="'name' is missing"):
        from_dict(Settings, {})
    with pytest.raises(ConfigError, match="'limit' must be int or null"):
        from_dict(Settings, {"name": "x", "limit": "many"})


def test_difference_names_leaves() -> None:
    lines = difference(Settings(name="x"), Settings(name="x", train=Train(lr=0.5)))
    assert lines == ["train.lr: saved 0.001, asked 0.5"]
    assert difference({"a": 1}, {"b": 1}) == ["a: saved 1, asked nothing", "b: saved nothing, asked 1"]


def test_nearest_lists_all_when_nothing_is_near() -> None:
    assert nearest("tinny", ["tiny", "small"]) == "; did you mean 'tiny'?"
    assert nearest("qqqq", ["tiny", "small"]) == "; known: small, tiny"
