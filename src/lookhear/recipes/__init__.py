"""Complete runs, as functions that return a `Run`; each docstring says what it promises.

A recipe of your own calls one of these and replaces what differs:

    run = dataclasses.replace(tiny(), name="tiny_long", epochs=60)
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from lookhear.config import nearest, override
from lookhear.data.store import Store
from lookhear.errors import ConfigError
from lookhear.progress import Progress, quiet
from lookhear.recipes.conv_towers import conv_towers
from lookhear.recipes.grid import grid
from lookhear.recipes.published import (
    av_mae,
    cav,
    cavmae_base,
    cavmae_bidirectional,
    cavmae_nonorm,
    cavmae_scale_plus,
    cavmae_scale_plus_plus,
    cavmae_sync,
    cavmae_vggsound,
    cavmae_vggsound_continued,
)
from lookhear.recipes.small import small
from lookhear.recipes.tiny import tiny
from lookhear.training.loop import TrainSummary, train
from lookhear.training.run import Run

RECIPES: dict[str, Callable[[], Run]] = {
    "tiny": tiny,
    "grid": grid,
    "small": small,
    "conv_towers": conv_towers,
    "cavmae_base": cavmae_base,
    "cavmae_scale_plus": cavmae_scale_plus,
    "cavmae_scale_plus_plus": cavmae_scale_plus_plus,
    "cavmae_nonorm": cavmae_nonorm,
    "cavmae_vggsound": cavmae_vggsound,
    "cavmae_vggsound_continued": cavmae_vggsound_continued,
    "cavmae_bidirectional": cavmae_bidirectional,
    "av_mae": av_mae,
    "cav": cav,
    "cavmae_sync": cavmae_sync,
}


def recipe(name: str) -> Run:
    """The run of the recipe `name`. Raises ConfigError for an unknown name, with the nearest known one."""
    if name not in RECIPES:
        raise ConfigError(f"no recipe '{name}'{nearest(name, RECIPES)}")
    return RECIPES[name]()


def pretrain(
    name: str,
    *,
    store: str | Path,
    folder: str | Path,
    settings: Iterable[str] = (),
    progress: Progress = quiet,
) -> TrainSummary:
    """Trains the recipe `name`, changed by `settings` (`a.b=value`), on a finished store; see `training.loop.train`.

    With data.validation_split, retrieval among the clips of that split is measured every `evaluate_every` (every epoch
    unless the run says otherwise). On a run folder that exists it goes on where that stopped.
    """
    run, opened = override(recipe(name), settings), Store(store)
    if run.data.validation_split is None:
        return train(run, opened, Path(folder), progress=progress)
    from lookhear.recipes.judge import RETRIEVAL, judge_retrieval  # reads media, which plain training does not need

    every = "epoch" if run.evaluate_every is None else run.evaluate_every
    run = dataclasses.replace(run, evaluate_every=every)
    return train(run, opened, Path(folder), evaluators={RETRIEVAL: judge_retrieval(run, opened)}, progress=progress)
