"""README.md and docs/: every command that is shown can be typed, and those marked `<!-- run -->` are run."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from lookhear import cli
from lookhear.recipes import RECIPES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?P<mark><!-- run -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def _commands(text: str) -> list[list[str]]:
    """The words of every `lookhear` command of a shell block; comments, prompts and continued lines are understood."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == "lookhear"]


def _fences(path: Path) -> list[re.Match[str]]:
    return list(FENCE.finditer(path.read_text(encoding="utf-8")))


SHOWN = [
    (path.name, words)
    for path in PAGES
    for fence in _fences(path)
    if fence["language"] in ("sh", "console", "bash", "shell")
    for words in _commands(fence["text"])
]


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[f"{page}: {shlex.join(words)}" for page, words in SHOWN])
def test_command_can_be_typed(page: str, words: list[str]) -> None:
    try:
        parsed = cli.parse(words)
    except SystemExit as wrong:
        pytest.fail(f"{page}: `lookhear {shlex.join(words)}` is refused (exit {wrong.code})")
    if settings := getattr(parsed, "settings", ()):
        _check_settings(words, settings)


def _check_settings(words: list[str], settings: tuple[str, ...]) -> None:
    from lookhear.config import override
    from lookhear.data.prepare import PrepareConfig
    from lookhear.demo import DemoSettings
    from lookhear.media.scenes import SceneSettings
    from lookhear.recipes.finetune import FINETUNE_RECIPES
    from lookhear.recipes.skimming import SKIM_RECIPES
    from lookhear.study.cavmae import StudySettings
    from lookhear.study.methods import MethodsSettings
    from lookhear.tasks.inpainting import InpaintConfig
    from lookhear.tasks.labels.probes import CONFIGS

    configs: dict[str, Any] = {
        "prepare": PrepareConfig,
        "demo": DemoSettings,
        "scenes": SceneSettings,
        "study": MethodsSettings if "methods" in words[:2] else StudySettings,
        "inpaint": InpaintConfig,
    }
    if words[:2] == ["evaluate", "probe"]:
        override(CONFIGS[words[words.index("--probe") + 1]](), settings)  # type: ignore[index]
        return
    recipes = {"pretrain": RECIPES, "finetune": FINETUNE_RECIPES | SKIM_RECIPES}
    config = recipes[words[0]][words[1]]() if words[0] in recipes else configs[words[0]]()
    override(config, settings)


def test_there_is_something_to_check() -> None:
    assert len(SHOWN) > 20, "the pattern finds no commands any more"
    assert sum(bool(fence["mark"]) for fence in _fences(ROOT / "README.md")) == 2


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_verbs_in_running_text_exist(path: Path) -> None:
    for verb in re.findall(r"`lookhear ([a-z]+)", path.read_text(encoding="utf-8")):
        assert verb in cli.VERBS, f"{path.name} speaks of `lookhear {verb}`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^ *)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_explained(verb: str) -> None:
    assert re.search(rf"lookhear {verb}\b", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_python_blocks_compile(path: Path) -> None:
    for fence in _fences(path):
        if fence["language"] == "python":
            compile(fence["text"], f"{path.name}", "exec")


@pytest.mark.ci
def test_quickstart_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The marked blocks of the README, in their order, in one folder."""
    monkeypatch.chdir(tmp_path)
    printed: dict[str, str] = {}
    for fence in _fences(ROOT / "README.md"):
        if fence["mark"] and fence["language"] == "python":
            exec(compile(fence["text"], "README.md", "exec"), {"__name__": "readme"})
        elif fence["mark"]:
            for words in _commands(fence["text"]):
                assert cli.main(words) == 0, shlex.join(words)
                printed[words[0]] = capsys.readouterr().out
    hits = [line.split("\t") for line in printed["search"].splitlines()]
    assert len(hits) == 3
    assert Path(hits[0][0]).name == "scene-00003.mp4", "a whole file must find itself"
    assert (tmp_path / "heat.png").stat().st_size > 1000
    assert "counts.ok\t16" in printed["status"]


def test_readme_is_filled_from_a_report() -> None:
    spec = importlib.util.spec_from_file_location("fill_readme", ROOT / "docs" / "fill_readme.py")
    assert spec is not None
    assert spec.loader is not None
    filler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filler)
    filled = filler.fill((ROOT / "README.md").read_text(encoding="utf-8"), _REPORT)
    table = [line for line in filled.splitlines() if line.startswith("| a sound finds its picture, R@1")]
    assert table == ["| a sound finds its picture, R@1 | 0.427 | 0.330 – 0.520 | 0.010 | 0.050 | 0.011 | 96 clips |"]
    assert "2 cores of a processor" in filled
    assert filler.fill(filled, _REPORT) == filled
    assert filled.count("<!-- demo:end -->") == 1
    with pytest.raises(SystemExit):
        filler.fill("no block", _REPORT)


_DIRECTION = json.loads(
    """{"r1": 0.427, "r1_ci95": [0.33, 0.52], "ridge_r1": 0.05, "shuffled_r1": 0.011, "within_kind_r1": 0.5,
    "within_kind_r1_ci95": [0.4, 0.6], "within_kind_chance": 0.167}"""
)
_REPORT: dict[str, Any] = {
    "lookhear": "0.1.0",
    "retrieval": {
        "audio_to_visual": _DIRECTION,
        "visual_to_audio": _DIRECTION,
        "chance_r1": 1 / 96,
        "kind_only_r1": 1 / 6,
        "clips": 96,
    },
    "sync": {
        "event_only_accuracy": 0.33,
        "accuracy": 0.6,
        "accuracy_ci95": [0.5, 0.7],
        "chance": 0.17,
        "ridge_accuracy": 0.3,
        "shuffled_accuracy": 0.17,
        "frames": 570,
        "with_event": None,
        "without_event": None,
    },
    "localization": {"ciou": None, "pointing": None, "chance": None, "reason": "no truth"},
    "machine": {
        "system": "Linux",
        "processor": "a processor",
        "cores": 2,
        "device": "cpu",
        "dtype": "float32",
        "torch": "2",
    },
    "command": "lookhear demo --out demo",
    "went_on": False,
    "seconds": {"all": 400.0},
}
