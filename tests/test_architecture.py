"""The house rules, checked: who may import whom, one door per third party, sizes, no print outside console.py.

If these fail, data no longer flows one way, or a file has grown past what a reader can hold.
"""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "lookhear"
FILES = sorted(SOURCE.rglob("*.py"))

# Everyone may import these.
GROUND = {"errors", "config", "progress", "cache"}
# Room -> the rooms that it may import (besides itself and the ground).
MAY_IMPORT = {
    "errors": set(),
    "config": set(),
    "progress": set(),
    "cache": set(),
    "media": set(),
    "data": {"media"},
    "models": set(),
    "distributed": set(),
    "device": {"distributed"},
    "objectives": {"models", "data", "distributed"},
    "training": {"objectives", "models", "data", "distributed", "device"},
    "hub": {"models"},
    "embedder": {"models", "data", "media", "device", "hub"},
    "tasks": {"embedder", "models", "data", "media", "distributed"},
    "recipes": {"training", "tasks", "objectives", "models", "data", "media", "embedder", "device", "distributed"},
    "search": {"embedder", "tasks", "data", "media"},
    "serve": {"search", "embedder", "tasks", "data", "media"},
    "mcp_server": {"serve", "search", "embedder", "tasks", "media"},
}
# These may import everything, lazily.
TOP = {"__init__", "__main__", "cli", "console", "bench", "demo", "demo_page", "report", "doctor", "study"}

# Third party -> the files and rooms that may import it.
DOORS = {
    # bench/media.py: the plain form that decoding is compared with must not run through the code it is compared with
    "av": {"media/decode.py", "media/encode.py", "media/remux.py", "media/timing.py", "bench/media.py"},
    "opentimelineio": {"search/timeline.py"},
    "torch.distributed": {"distributed.py"},
    "lancedb": {"search/tables.py"},
    "pyarrow": {"search/tables.py", "search/bucket.py"},
    "pandas": {"search/query.py"},
    "huggingface_hub": {"hub.py"},
    "ray": {"data/cluster.py"},
    "tyro": {"cli"},
    "rich": {"console.py"},
    "matplotlib": {"report/figures.py"},
    "torch.utils.tensorboard": {"training/loggers.py"},
    "wandb": {"training/loggers.py"},
    "fastapi": {"serve"},
    "starlette": {"serve"},
    "pydantic": {"serve/schemas.py", "mcp_server.py"},
    "mcp": {"mcp_server.py"},
    "uvicorn": {"serve/server.py"},
}
# These rooms run on a training machine that has torch, numpy and safetensors and nothing else.
LEAN_ROOMS = ("models", "objectives", "training", "distributed.py", "device.py")
LEAN = {"torch", "numpy", "safetensors"}
# What they may import where a run asks for it: extras, whose absence stops nothing.
ASKED_FOR = {("loggers.py", "wandb")}

MAX_FILE_LINES = 520
MAX_FUNCTION_LINES = 80


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@functools.cache
def _imports(path: Path) -> list[str]:
    """Full names of all modules that `path` imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names.append(str(node.module))
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    room = _room(path)
    assert room in MAY_IMPORT or room in TOP, f"{room} is not on the map; add it here and to docs/architecture.md"
    if room in TOP:
        return
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "lookhear" and len(parts) > 1 and parts[1] != "__version__":
            target = parts[1]
            allowed = target == room or target in GROUND or target in MAY_IMPORT[room]
            assert allowed, f"{path.relative_to(SOURCE)} imports {name}: {room} may not import {target}"


@pytest.mark.parametrize(("library", "doors"), DOORS.items(), ids=DOORS)
def test_each_third_party_has_one_door(library: str, doors: set[str]) -> None:
    users = {
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if any(name == library or name.startswith(library + ".") for name in _imports(path))
    }
    strangers = {user for user in users if not {user, user.split("/")[0]} & doors}
    assert not strangers, f"{library} is also imported in {sorted(strangers)}"


def test_training_needs_torch_numpy_and_safetensors_only() -> None:
    foreign = set()
    for path in FILES:
        if not path.relative_to(SOURCE).as_posix().startswith(LEAN_ROOMS):
            continue
        tops = {name.split(".")[0] for name in _imports(path)}
        foreign |= {(path.name, top) for top in tops - LEAN - sys.stdlib_module_names - {"lookhear"}}
    assert foreign <= ASKED_FOR


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_sizes_and_prints(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES, "split the file along an idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
        if path.name != "console.py" and isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"line {node.lineno} prints; only console.py talks to the user"


def test_no_drawers() -> None:
    drawers = {"utils", "helpers", "common", "misc", "base", "legacy", "util", "helper"}
    assert not [path for path in FILES if path.stem in drawers]


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_front_door_is_light() -> None:
    """`lookhear --help` must not wait for torch."""
    heavy = {"torch", "lancedb", "av", "matplotlib", "sklearn", "pyarrow", "numpy", "fastapi", "uvicorn"}
    assert not _modules_after("import lookhear, lookhear.cli") & heavy


def test_training_imports_no_decoder_and_no_database() -> None:
    loaded = _modules_after("import lookhear.models.checkpoint, lookhear.training.loop, lookhear.recipes")
    assert not loaded & {"av", "lancedb", "PIL", "sklearn", "rich", "tyro", "tensorboard", "wandb"}
