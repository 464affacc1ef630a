"""Fine-tuning: a recipe fitted to the labels of a store, started from a pre-trained model, judged as it goes.

n clips, K classes.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lookhear.config import nearest, override
from lookhear.data.dataset import WindowDataset, make_batches
from lookhear.data.features import open_features
from lookhear.data.lists.classes import Classes, read_classes
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import Store
from lookhear.device import pick_dtype
from lookhear.errors import ConfigError, StoreError
from lookhear.progress import Progress, quiet
from lookhear.recipes.actions import actions_tiny, hmdb51, ucf101
from lookhear.recipes.classifiers import as2m, as20k, esc10, finetune_tiny, vggsound
from lookhear.recipes.distilled import ccl, listen_to_look_finetune, listen_to_look_teacher
from lookhear.recipes.distilled_small import (
    audio_teacher_small,
    ccl_small,
    image_teacher_small,
    listen_to_look_finetune_small,
    listen_to_look_teacher_small,
)
from lookhear.recipes.skimming import SKIM_RECIPES, SkimTraining, train_skimmer
from lookhear.recipes.teaching import fit_to_teachers
from lookhear.tasks.labels.videos import video_labels
from lookhear.tasks.metrics import average_precision
from lookhear.training.loop import Evaluator, TrainSummary, train
from lookhear.training.run import TEST_SPLITS, Run

FINETUNE_RECIPES: dict[str, Callable[[], Run]] = {
    "as20k": as20k,
    "as2m": as2m,
    "vggsound": vggsound,
    "finetune_tiny": finetune_tiny,
    "esc10": esc10,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "actions_tiny": actions_tiny,
    "listen_to_look_teacher": listen_to_look_teacher,
    "listen_to_look_finetune": listen_to_look_finetune,
    "ccl": ccl,
    "listen_to_look_teacher_small": listen_to_look_teacher_small,
    "listen_to_look_finetune_small": listen_to_look_finetune_small,
    "image_teacher_small": image_teacher_small,
    "audio_teacher_small": audio_teacher_small,
    "ccl_small": ccl_small,
}
# What validation splits are called, in lower case and without a number.
VALIDATION_SPLITS = frozenset({"val", "valid", "validation", "dev"})
VALIDATION = "validation"  # the evaluator's name in the journal

# Shown on stderr without any setting up, from Python too: nobody should learn from a split without knowing it.
_log = logging.getLogger("lookhear")


def finetune(
    name: str,
    *,
    store: str | Path,
    folder: str | Path,
    initial: str | Path | None = None,
    labels: str | Path | None = None,
    settings: Iterable[str] = (),
    progress: Progress = quiet,
) -> TrainSummary | SkimTraining:
    """Trains the recipe `name`, changed by `settings` (`a.b=value`), on the labels of a finished store.

    `initial` is what the model starts from (see `models.initial.initialise_from`); None: from scratch. `labels` is a
    label CSV (index, mid, display_name) that puts the classes in order; without it, and without data.classes, they
    are the labels of the store, sorted. What is learned from and chosen on is data.split and data.validation_split, or
    what `with_splits` takes for them. With a validation split every epoch is judged on that split, and the best
    checkpoint is kept and named in best.json. On a run folder that exists it goes on where that stopped.

    A recipe of SKIM_RECIPES learns from features instead (`store`: see `open_features`), and from `labels` as
    `video_labels` reads them.

    Raises ConfigError for an unknown recipe or a contradiction, StoreError for a store without labels.
    """
    if name in SKIM_RECIPES:
        skimming = override(SKIM_RECIPES[name](), settings)
        if initial is not None:
            skimming = dataclasses.replace(skimming, initial=str(initial))
        named = video_labels(labels, store)
        return train_skimmer(skimming, open_features(store), named, Path(folder), progress=progress)
    if name not in FINETUNE_RECIPES:
        from lookhear.recipes import RECIPES

        if name in RECIPES:
            raise ConfigError(
                f"'{name}' learns without labels: `lookhear pretrain {name}`; to learn labels, take a recipe "
                "such as finetune_tiny, and start from what was learned with --initial"
            )
        raise ConfigError(f"no recipe to fine-tune '{name}'{nearest(name, FINETUNE_RECIPES | SKIM_RECIPES)}")
    opened = Store(store)
    run = override(FINETUNE_RECIPES[name](), settings)
    if initial is not None:
        run = dataclasses.replace(run, initial=str(initial))
    run = with_splits(run, opened)
    run = fit_to_teachers(fit_to_labels(run, opened, None if labels is None else read_classes(labels)))
    evaluators = {} if run.data.validation_split is None else {VALIDATION: judge_split(run, opened)}
    return train(run, opened, Path(folder), evaluators=evaluators, progress=progress)


def with_splits(run: Run, store: Store) -> Run:
    """`run` with a split to learn from, and one to choose on, where it names none and the files of `store` are in some.

    `train` is learned from where there is such a split, otherwise all that are neither for validation nor for test;
    never a test split. What was taken is said on stderr. Raises StoreError where nothing but a name can say it: there
    are only test splits, or others share clips with them.
    """
    names = sorted({name for row in store.manifest if row.status != "refused" for name in row.splits})
    if run.data.split is not None or not names:
        return run
    held, asked = [name for name in names if _plain(name) in VALIDATION_SPLITS], run.data.validation_split
    tests = [name for name in names if _plain(name) in TEST_SPLITS]
    learned = ["train"] if "train" in names else [name for name in names if name not in (*held, *tests, asked)]
    which = [store.clips_in_split(name) for name in learned]
    if not learned or any(len(np.intersect1d(store.clips_in_split(name), own)) for name in tests for own in which):
        raise StoreError(
            f"the files of {store.path} are in the splits {', '.join(names)}, and which of them are to be learned from "
            f"is not plain; name them, such as --set data.split={(learned or names)[0]}"
        )
    # weights that are averaged over stated epochs are not chosen, so that judging every epoch would only take time
    free = asked is None and len(held) == 1 and run.average_epochs is None
    if free and not any(len(np.intersect1d(store.clips_in_split(held[0]), own)) for own in which):
        asked = held[0]
    split = learned[0] if len(learned) == 1 else tuple(learned)
    chosen = f"the best epoch is chosen on '{asked}'" if asked else "no epoch is chosen"
    _log.warning(
        "learning from %s of the splits %s; %s; data.split and data.validation_split name others",
        ", ".join(learned),
        ", ".join(names),
        chosen,
    )
    return dataclasses.replace(run, data=dataclasses.replace(run.data, split=split, validation_split=asked))


def _plain(split: str) -> str:
    return split.lower().rstrip("0123456789")


def fit_to_labels(run: Run, store: Store, listed: Classes | None = None) -> Run:
    """`run` with classes, their number, a loss instead of auto, and a number to choose the best checkpoint by.

    What `run` already says about classes, loss and choice stays. Raises StoreError where there is nothing to learn.
    """
    found = _labels_of(store, run.data.splits)
    classes = run.data.classes or _in_order(found, listed)
    known = frozenset(classes)
    if not any(known.intersection(labels) for labels in found):
        raise StoreError(
            f"no clip of {store.path} has a label to learn; prepare it with --labels, or name others in data.classes"
        )
    objective = run.objective
    if getattr(objective, "loss", None) == "auto":
        several = any(len(known.intersection(labels)) > 1 for labels in found)
        objective = dataclasses.replace(objective, loss="bce" if several else "ce")
    run = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, num_classes=len(classes)),
        objective=objective,
        data=dataclasses.replace(run.data, classes=classes),
    )
    if run.data.validation_split is not None and run.select is None:
        number = "mean_average_precision" if getattr(objective, "loss", None) == "bce" else "accuracy"
        every = "epoch" if run.evaluate_every is None else run.evaluate_every
        run = dataclasses.replace(run, select=f"{VALIDATION}.{number}", evaluate_every=every)
    return run


def _labels_of(store: Store, splits: Sequence[str]) -> list[tuple[str, ...]]:
    """The labels of every file that is learned from."""
    rows = [row for row in store.manifest if row.status != "refused"]
    return [row.labels for row in rows if not splits or not set(splits).isdisjoint(row.splits)]


def _in_order(found: Sequence[Sequence[str]], listed: Classes | None) -> tuple[str, ...]:
    """The labels that were `found`, sorted; or all that are `listed`, as the store writes them: by name or by mid."""
    labels = {label for own in found for label in own}
    if listed is None:
        return tuple(sorted(labels))
    return listed.as_written(labels)


def judge_split(run: Run, store: Store) -> Evaluator:
    """An evaluator: accuracy and mean average precision on the validation split of `run`, one window a clip.

    The window lies in the middle of its clip. Accuracy is the share of clips whose highest logit is one of their
    labels; classes without a positive clip are left out of the mean. Both are quick numbers to choose by; the scores
    to report come from `lookhear evaluate classification`. Raises StoreError where the split has no clip to judge on,
    or shares some with what is learned from.
    """
    assert run.data.validation_split is not None
    run.data.check_splits(store)
    dataset = WindowDataset(
        store,
        run.preprocess,
        indices=store.clips_in_split(run.data.validation_split),
        seed=run.seed,
        mode="disjoint",
        classes=run.data.classes,
        modalities=run.modalities,
        labelled=True,
    )

    def judge(model: nn.Module, preprocess: PreprocessConfig) -> dict[str, float]:
        logits, labels = _scores(model, dataset, Preprocess(preprocess), run)
        right = np.take_along_axis(labels, logits.argmax(1)[:, None], axis=1) > 0
        return {
            "accuracy": float(right.mean()),
            "mean_average_precision": float(np.nanmean(average_precision(labels, logits))),
        }

    return judge


def _scores(model: nn.Module, dataset: WindowDataset, ready: Preprocess, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, K) each: logits and labels of every clip."""
    device = next(model.parameters()).device
    dtype = pick_dtype(run.dtype, device)
    logits, labels = [], []
    for batch in make_batches(
        dataset,
        batch_size=run.data.batch_size,
        epoch=0,
        num_workers=run.data.num_workers,
        shuffle=False,
        drop_last=False,
    ):
        batch = ready(batch.to(device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            found = model(batch.audio, batch.frames).logits  # (B, 1, K)
        assert batch.labels is not None
        logits.append(found[:, 0].float().cpu())
        labels.append(batch.labels.cpu())
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()
