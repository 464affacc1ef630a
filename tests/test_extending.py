"""docs/extending.md, executed: three files are a new method, and nothing of lookhear is changed for it."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_store import FakeStore
from lookhear.config import override
from lookhear.errors import ConfigError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.objectives import OBJECTIVES
from lookhear.recipes import recipe
from lookhear.training.loop import train
from lookhear.training.resume import read_run

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
FILE = re.compile(r"^```python\n# (?P<name>\w+\.py)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
SMALL = [
    *("model.audio.width=16", "model.visual.width=16", "data.batch_size=4", "data.windows_per_clip=2"),
    *("epochs=2", "device=cpu", "dtype=float32"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page, in a folder of their own; what they change in this process is taken back."""
    for found in FILE.finditer(PAGE.read_text(encoding="utf-8")):
        (tmp_path / found["name"]).write_text(found["text"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known, modules, path = dict(OBJECTIVES), set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    OBJECTIVES.clear()
    OBJECTIVES.update(known)
    for name in ("margin", "margin_recipe", "test_margin"):
        if name not in modules:
            sys.modules.pop(name, None)


def test_a_new_method_is_three_files(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["margin.py", "margin_recipe.py", "test_margin.py"]
    run = override(recipe("margin_recipe.py:margin_small"), [*SMALL, "objective.margin=0.3"])
    first = train(run, FakeStore(), folder / "run", stop_after=2)  # type: ignore[arg-type]
    assert not first.finished
    summary = train(run, FakeStore(), folder / "run")  # type: ignore[arg-type]
    assert summary.finished
    assert summary.last is not None
    assert set(summary.last["terms"]) == {"audio_to_visual", "visual_to_audio"}
    assert read_run(folder / "run") == run
    assert summary.model is not None
    assert load_checkpoint(summary.model).name == "multi_stream"


def test_its_own_test_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    importlib.import_module("test_margin").test_a_margin_is_its_literal_form()
    monkeypatch.undo()


def test_what_is_no_recipe_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe file 'margins\.py'"):
        recipe("margins.py:margin_small")
    with pytest.raises(ConfigError, match=r"no function 'margin_smal'; did you mean 'margin_small'"):
        recipe("margin_recipe.py:margin_smal")
    with pytest.raises(ConfigError, match="returned a MarginConfig; a recipe returns a Run"):
        recipe("margin.py:MarginConfig")
    (folder / "json.py").write_text("def run():\n    return None\n")
    with pytest.raises(ConfigError, match=r"'json' is the name of another Python module; rename"):
        recipe("json.py:run")
