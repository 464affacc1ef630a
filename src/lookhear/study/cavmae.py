"""The study of CAV-MAE and CAV-MAE Sync: are the claims that were published true of small runs on small data?

Rows share data, number of steps, clips in a step, optimiser, augmentation and encoder (within 20 % of its parameters);
they differ in what the method says: losses, global tokens and registers. As published, a CAV-MAE sees one window as
long as the clip, and Sync short ones; so that this is not mixed up with the rest, CAV-MAE is also run on the short
windows, and the rows of single losses are compared with that.
"""

import csv
import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.errors import UserError
from lookhear.progress import Progress, quiet
from lookhear.study.claims import Claim
from lookhear.study.trials import Judgement, Outcome, Training, run_trials, with_seed

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.models.cavmae import CAVMAEConfig
    from lookhear.training.run import Run

NOT_TRAINED = "not trained"
RECONSTRUCTION, CONTRAST = "reconstruction only", "contrastive only"
CAV_MAE, WHOLE_CLIPS = "CAV-MAE", "CAV-MAE of whole clips"
SYNC = "CAV-MAE Sync"
NUM_REGISTERS = 4  # of each modality
NO_REGISTERS, NO_GLOBAL = "Sync without registers", "Sync without global tokens"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """How much is made, learned and judged."""

    learn: int = 1200
    """scenes to learn from"""
    test: int = 192
    """scenes to be judged on"""
    test_seed: int = 3000
    """of these scenes; settings were chosen on others (seed 77)"""
    probe_clips: int = 240
    """scenes whose labels the linear probe learns from"""
    located: int = 96
    """scenes to be judged on whose maps are made, one event each"""
    steps: int = 280
    """of every run on scenes"""
    grid_steps: int = 140
    """of every run on GRID"""
    seeds: int = 3
    """runs of every row on scenes"""
    grid_seeds: int = 1
    """runs of every row on GRID"""


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """One data set: stores to learn from and to be judged on."""

    name: str
    learn: Path
    test: Path
    sync_frames: int  # spectrogram frames of the windows that synchrony is judged with, for all rows alike
    truth: Path | None = None  # the folder of made scenes that `test` was prepared from
    located: int = 0  # clips of `test` whose maps are judged
    probe_clips: int = 0  # of `learn`, whose labels are used; 0: no probe


def study(
    out: Path,
    *,
    grid: Path | None = None,
    settings: StudySettings | None = None,
    workers: int = 2,
    progress: Progress = quiet,
) -> list[Outcome]:
    """Makes the data, trains and judges every row; what an earlier call finished in `out` is not done again.

    `grid` is a folder with the clips of one GRID speaker and a list `*.csv` with the columns path and split (train,
    val); without it there are no rows on GRID. Raises UserError where a trial fails.
    """
    settings = settings or StudySettings()
    outcomes = []
    for data, steps, seeds in _data(out, grid, settings, workers, progress):
        rows = scene_rows(steps) if data.truth is not None else grid_rows(steps)
        judged, about = partial(judge, data=data), _about(data)
        trials = [
            Training(row=row, data=data.name, run=with_seed(run, seed), store=data.learn, judge=judged, judged_on=about)
            for seed in range(seeds)
            for row, run in rows.items()
        ]
        outcomes += run_trials(trials, out, workers=workers, progress=progress)
    return outcomes


# ---- rows


def scene_rows(steps: int) -> "dict[str, Run]":
    """The runs on made scenes: four windows of 0.8 s of each clip of 5 s, or one of 4.8 s."""
    from lookhear.recipes.tiny import tiny

    return rows_like(dataclasses.replace(tiny(), steps=steps), audio_frames=480)


def grid_rows(steps: int) -> "dict[str, Run]":
    """The runs on GRID: seven windows of 0.4 s of each clip of 3 s, or one of 2.8 s."""
    from lookhear.recipes.grid import grid

    rows = rows_like(dataclasses.replace(grid(), steps=steps), audio_frames=280)
    return {row: rows[row] for row in (NOT_TRAINED, RECONSTRUCTION, CONTRAST, CAV_MAE, SYNC)}


def rows_like(sync: "Run", *, audio_frames: int) -> "dict[str, Run]":
    """All rows, of which `sync` is Sync without registers; `audio_frames` are those of a window as long as a clip."""
    from lookhear.models.tokens import MaskConfig

    # The towers have no blocks, in which registers would have nothing to do: they go through the joint block, as in
    # the figure of the paper.
    registers = dataclasses.replace(sync.model, num_registers=NUM_REGISTERS, keep_registers=True)
    sync = dataclasses.replace(sync, model=registers)
    both = dataclasses.replace(sync, model=_cav_mae(sync, sync.preprocess.audio_frames))
    whole = dataclasses.replace(
        sync,
        model=_cav_mae(sync, audio_frames),
        preprocess=dataclasses.replace(sync.preprocess, audio_frames=audio_frames),
        data=dataclasses.replace(sync.data, windows_per_clip=1),
    )
    contrast = dataclasses.replace(both.objective, reconstruction_weight=0.0)
    reconstruction = dataclasses.replace(
        both.objective,
        mask=MaskConfig(),  # the published ratio: where nothing is contrasted, nothing speaks for a lighter mask
        contrastive_weight=0.0,
        reconstruction_weight=1.0,
    )
    untrained = dataclasses.replace(sync.optim, learning_rate=0.0)
    runs = {
        NOT_TRAINED: dataclasses.replace(both, optim=untrained, steps=1),
        RECONSTRUCTION: dataclasses.replace(both, objective=reconstruction),
        CONTRAST: dataclasses.replace(both, objective=contrast),
        CAV_MAE: both,
        WHOLE_CLIPS: whole,
        SYNC: sync,
        NO_REGISTERS: dataclasses.replace(
            sync, model=dataclasses.replace(sync.model, num_registers=0, keep_registers=False)
        ),
        NO_GLOBAL: dataclasses.replace(sync, model=dataclasses.replace(sync.model, num_global_tokens=0)),
    }
    return {row: dataclasses.replace(run, name="study", keep_checkpoints=1) for row, run in runs.items()}


def _cav_mae(sync: "Run", audio_frames: int) -> "CAVMAEConfig":
    """A CAV-MAE of the same sizes: the mean of its tokens instead of global tokens, and no registers."""
    from lookhear.models.cavmae import CAVMAEConfig

    names = [field.name for field in dataclasses.fields(CAVMAEConfig)]
    return CAVMAEConfig(**{name: getattr(sync.model, name) for name in names} | {"audio_frames": audio_frames})


# ---- data


def _data(
    out: Path, grid: Path | None, settings: StudySettings, workers: int, progress: Progress
) -> list[tuple[StudyData, int, int]]:
    """The data sets, with the steps and seeds of their runs."""
    found = [(_scenes(out / "scenes", settings, workers, progress), settings.steps, settings.seeds)]
    if grid is not None:
        found.append((_grid(grid, out / "grid", workers, progress), settings.grid_steps, settings.grid_seeds))
    return found


def _scenes(folder: Path, settings: StudySettings, workers: int, progress: Progress) -> StudyData:
    from lookhear.data.prepare import PrepareConfig
    from lookhear.study.made_data import scene_store

    config = PrepareConfig(frames_per_second=8.0, short_side=96)
    stores = {
        half: scene_store(folder / half, count=count, seed=seed, config=config, workers=workers, progress=progress)
        for half, count, seed in (("learn", settings.learn, 0), ("test", settings.test, settings.test_seed))
    }
    return StudyData(
        name="scenes",
        learn=stores["learn"],
        test=stores["test"],
        sync_frames=80,
        truth=folder / "test",
        located=settings.located,
        probe_clips=settings.probe_clips,
    )


def _grid(source: Path, folder: Path, workers: int, progress: Progress) -> StudyData:
    from lookhear.data.prepare import PrepareConfig, prepare

    folder.mkdir(parents=True, exist_ok=True)
    config = PrepareConfig(frames_per_second=25.0, short_side=112)
    for half in ("train", "val"):
        chosen = folder / f"{half}.csv"
        names = [path for path, split in _listed(source) if split == half]
        if not names:
            raise UserError(f"{source} has no clips of the split '{half}' in its list; is this GRID with its list?")
        with chosen.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path"], *([str((source / name).resolve())] for name in names)])
        prepare(chosen, folder / f"{half}.store", config=config, workers=workers, progress=progress)
    return StudyData(name="GRID", learn=folder / "train.store", test=folder / "val.store", sync_frames=40)


def _listed(source: Path) -> list[tuple[str, str]]:
    """Path and split of every line of the list in a folder."""
    lists = sorted(source.glob("*.csv"))
    if len(lists) != 1:
        raise UserError(f"{source} holds {len(lists)} lists (*.csv); it must be one, with the columns path and split")
    with lists[0].open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "split"} <= rows[0].keys():
        raise UserError(f"{lists[0]} lacks the columns path and split")
    return [(row["path"], row["split"]) for row in rows]


# ---- judging


def _about(data: StudyData) -> dict[str, Any]:
    """What a figure depends on besides the run."""
    from lookhear.data.store import Store

    stores = {"learn": Store(data.learn).digest, "test": Store(data.test).digest}
    settings = {"sync_frames": data.sync_frames, "located": data.located, "probe_clips": data.probe_clips}
    return stores | settings


def judge(trial: Training, folder: Path, *, data: StudyData) -> Judgement:
    """Retrieval and synchrony; with truth also places; with labels also what a linear probe reads from the features."""
    from lookhear import embedder
    from lookhear.data.store import Store
    from lookhear.media.scenes import load_truth
    from lookhear.tasks.localization.evaluation import evaluate_localization
    from lookhear.tasks.matching.retrieval import evaluate_retrieval
    from lookhear.tasks.matching.sync import evaluate_sync

    model, test = embedder.load(folder), Store(data.test)
    truth = load_truth(data.truth) if data.truth is not None else None
    retrieval = evaluate_retrieval(model, test)
    # windows of the same length for all: of a CAV-MAE of whole clips, the position table is cut
    sync = evaluate_sync(embedder.load(folder, audio_frames=data.sync_frames), test, truth=truth)
    figures = {
        "sound finds picture": retrieval.audio_to_visual.r1,
        "picture finds sound": retrieval.visual_to_audio.r1,
        "sync": sync.accuracy,
    }
    context = {
        "clips": float(retrieval.clips),
        "chance of R@1": retrieval.chance_r1,
        "chance of sync": sync.chance,
        "sync from position": sync.shuffled_accuracy or 0.0,
    }
    if sync.event_only_accuracy is not None:
        context["sync from event or not"] = sync.event_only_accuracy
    if truth is not None:
        located = range(min(data.located, len(test)))
        places = evaluate_localization(model, test, truth, indices=located, events_per_clip=1, num_examples=0)
        figures |= {"cIoU": places.ciou, "pointing": places.pointing}
        context |= {"cIoU of the centre": places.centre_ciou, "pointing of the centre": places.centre_pointing}
        context |= {"frames with a box": float(places.frames)}
    if data.probe_clips:
        probed, chance = _probes(model, data)
        figures |= probed
        context["chance of the probe"] = chance
    return Judgement(figures=figures, context=context)


def _probes(model: "Embedder", data: StudyData) -> tuple[dict[str, float], float]:
    """Accuracy of a linear probe on sound, picture and both, and chance."""
    from lookhear.data.store import Store
    from lookhear.tasks.labels.probes import linear_probe, pooled_features

    sides = []
    for store, indices in ((Store(data.learn), range(data.probe_clips)), (Store(data.test), None)):
        sound, labels, _ = pooled_features(model, store, modality="audio", indices=indices)
        picture, _, _ = pooled_features(model, store, modality="visual", indices=indices)
        sides.append(({"sound": sound, "picture": picture, "both": np.hstack([sound, picture])}, labels))
    (train, train_labels), (test, test_labels) = sides
    found = {name: linear_probe(train[name], train_labels, test[name], test_labels) for name in train}
    return {f"probe, {name}": probe.accuracy for name, probe in found.items()}, found["both"].chance


# ---- claims


CLAIMS: tuple[Claim, ...] = (
    Claim(
        says="both losses beat contrast alone",
        better=CAV_MAE,
        worse=CONTRAST,
        figures=("sound finds picture", "picture finds sound", "probe, sound", "probe, picture", "probe, both"),
    ),
    Claim(
        says="both losses beat reconstruction alone",
        better=CAV_MAE,
        worse=RECONSTRUCTION,
        figures=("sound finds picture", "picture finds sound", "probe, sound", "probe, picture", "probe, both"),
    ),
    Claim(
        says="audio-visual pre-training beats random weights at classification by sound alone",
        better=CAV_MAE,
        worse=NOT_TRAINED,
        figures=("probe, sound",),
    ),
    Claim(
        says="Sync beats CAV-MAE of whole clips at retrieval and localization",
        better=SYNC,
        worse=WHOLE_CLIPS,
        figures=("sound finds picture", "picture finds sound", "sync", "cIoU", "pointing"),
    ),
    Claim(
        says="Sync beats CAV-MAE on the same short windows",
        better=SYNC,
        worse=CAV_MAE,
        figures=("sound finds picture", "picture finds sound", "sync", "cIoU", "pointing"),
    ),
    Claim(
        says="registers help",
        better=SYNC,
        worse=NO_REGISTERS,
        figures=("sound finds picture", "picture finds sound", "sync", "cIoU", "probe, both"),
    ),
    Claim(
        says="global tokens help",
        better=SYNC,
        worse=NO_GLOBAL,
        figures=("sound finds picture", "picture finds sound", "sync", "cIoU", "probe, both"),
    ),
)
