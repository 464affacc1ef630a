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
from lookhear.recipes.distilled import distil_stages, listen_to_look
from lookhear.recipes.distilled_small import distil_stages_small, listen_to_look_small
from lookhear.recipes.grid import grid
from lookhear.recipes.methods import avid_cross, avid_joint, avid_self, cma, end_to_end, memory_bank, moco, sscl
from lookhear.recipes.methods_small import (
    avid_cross_small,
    avid_joint_small,
    avid_self_small,
    cma_small,
    end_to_end_small,
    memory_bank_small,
    moco_small,
    sscl_small,
)
from lookhear.recipes.own import recipe_of_file
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
from lookhear.recipes.teaching import fit_to_teachers
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
    "end_to_end": end_to_end,
    "memory_bank": memory_bank,
    "avid_self": avid_self,
    "avid_cross": avid_cross,
    "avid_joint": avid_joint,
    "cma": cma,
    "moco": moco,
    "sscl": sscl,
    "end_to_end_small": end_to_end_small,
    "memory_bank_small": memory_bank_small,
    "avid_self_small": avid_self_small,
    "avid_cross_small": avid_cross_small,
    "avid_joint_small": avid_joint_small,
    "cma_small": cma_small,
    "moco_small": moco_small,
    "sscl_small": sscl_small,
    "listen_to_look": listen_to_look,
    "distil_stages": distil_stages,
    "listen_to_look_small": listen_to_look_small,
    "distil_stages_small": distil_stages_small,
}


def recipe(name: str) -> Run:
    """The run of the recipe `name`, or of `FILE.py:FUNCTION`, a recipe of your own (docs/extending.md).

    Raises ConfigError for an unknown name, with the nearest known one, and for a file that gives no run.
    """
    if ":" in name:
        return recipe_of_file(name)
    if name not in RECIPES:
        from lookhear.recipes.finetune import FINETUNE_RECIPES
        from lookhear.recipes.skimming import SKIM_RECIPES

        if name in FINETUNE_RECIPES or name in SKIM_RECIPES:
            raise ConfigError(f"'{name}' learns labels: `lookhear finetune {name}`, on a store that has some")
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
    run, opened = fit_to_teachers(override(recipe(name), settings)), Store(store)
    if run.data.validation_split is None:
        return train(run, opened, Path(folder), progress=progress)
    from lookhear.recipes.judge import RETRIEVAL, judge_retrieval  # reads media, which plain training does not need

    every = "epoch" if run.evaluate_every is None else run.evaluate_every
    run = dataclasses.replace(run, evaluate_every=every)
    return train(run, opened, Path(folder), evaluators={RETRIEVAL: judge_retrieval(run, opened)}, progress=progress)
