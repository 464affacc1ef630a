"""Recipes that are no part of lookhear: a function in a file of yours, which may bring an objective of its own."""

import importlib
import sys
from pathlib import Path

from lookhear.config import nearest
from lookhear.errors import ConfigError
from lookhear.training.run import Run


def recipe_of_file(name: str) -> Run:
    """The run that `FILE.py:FUNCTION` returns. The file is imported, and finds modules that lie beside it.

    Raises ConfigError where there is no such file or function, or it returns something else.
    """
    file, _, function = name.rpartition(":")
    path = Path(file).resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"there is no recipe file '{file}'; give FILE.py:FUNCTION, or the name of a recipe")
    sys.path.insert(0, str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(path.parent))
    if Path(module.__file__ or "").resolve() != path:
        raise ConfigError(f"'{path.stem}' is the name of another Python module; rename {path}")
    make = getattr(module, function, None)
    if not callable(make):
        known = [own for own, value in vars(module).items() if callable(value) and not own.startswith("_")]
        raise ConfigError(f"{file} has no function '{function}'{nearest(function, known)}")
    run = make()
    if not isinstance(run, Run):
        raise ConfigError(f"{name} returned a {type(run).__name__}; a recipe returns a Run")
    return run
