"""Every recipe: complete, without contradictions, and able to take a step."""

import dataclasses
from pathlib import Path

import pytest

from fake_store import FakeStore
from lookhear.config import override
from lookhear.errors import ConfigError
from lookhear.recipes import RECIPES, recipe
from lookhear.training.loop import train
from lookhear.training.run import Run


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete(name: str) -> None:
    run = recipe(name)
    run.check()
    assert run.name == name
    assert Run.from_dict(run.to_dict()) == run
    assert all(word in (RECIPES[name].__doc__ or "") for word in ("Command:", "Data:", "Hardware:", "Promise:"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    run = override(recipe(name), ["data.batch_size=2", "data.windows_per_clip=2", "steps=2", "device=cpu"])
    summary = train(dataclasses.replace(run), FakeStore(4), tmp_path / "run")  # type: ignore[arg-type]
    assert summary.finished


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no recipe 'tinny'; did you mean 'tiny'"):
        recipe("tinny")
