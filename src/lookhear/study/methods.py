"""The study of the surveyed methods: one table, made by one command that goes on where it was stopped.

All rows learn from the same made scenes, as many clips a step and as many steps, and are judged on scenes that no
choice was made on. Rows that compare sound with picture need no labels; rows that learn names have them, or a teacher
that had. Rows that a claim is about are trained from several seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lookhear.errors import ConfigError
from lookhear.progress import Progress, quiet
from lookhear.study.method_rows import CHANCE_NAMED, CLAIMS, NAMED, STUDENT, MethodRow, method_rows, skim_rows
from lookhear.study.skim_trials import FILMS, Skimming, embed_films
from lookhear.study.trials import Judgement, Outcome, Training, Trial, run_trials, trial_name, with_seed

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder
    from lookhear.media.scenes import SceneSettings
    from lookhear.tasks.labels.features import ClipFeatures

__all__ = ["CLAIMS", "MethodsSettings", "study"]

SCENES = "scenes"


@dataclass(frozen=True, kw_only=True)
class MethodsSettings:
    """How much is made, learned and judged."""

    learn: int = 480
    """scenes to learn from, with and without their labels"""
    test: int = 192
    """scenes to be judged on"""
    test_seed: int = 4000
    """of these scenes; settings were chosen on others (seed 77)"""
    width: int = 160
    """pixels of the scenes"""
    height: int = 120
    """pixels of the scenes"""
    epochs: int = 28
    """passes over the scenes to learn from; a multiple of 4"""
    claim_seeds: int = 3
    """runs of every row that a claim is about"""
    other_seeds: int = 1
    """runs of every other row"""
    films: int = 200
    """films, a quarter of them to be judged on"""
    shots: int = 6
    """scenes of a film, in one of which something happens"""
    looks: int = 10
    """moments of a film that are looked at"""
    skim_epochs: int = 40
    """passes over the films"""

    def __post_init__(self) -> None:
        if self.claim_seeds < 1 or self.other_seeds < 0 or self.other_seeds > self.claim_seeds:
            raise ConfigError("claim_seeds must be at least 1, and other_seeds from 0 to claim_seeds")


@dataclass(frozen=True, kw_only=True)
class MethodsData:
    """The stores of the study."""

    learn: Path
    test: Path
    films: Path


def study(
    out: Path, *, settings: MethodsSettings | None = None, workers: int = 2, progress: Progress = quiet
) -> list[Outcome]:
    """Makes the data, trains and judges every row; what an earlier call finished in `out` is not done again.

    Raises UserError where a trial fails, and ConfigError for settings that do not fit.
    """
    from lookhear.data.store import Store
    from lookhear.media.scenes import KINDS

    settings = settings or MethodsSettings()
    rows = method_rows(epochs=settings.epochs, clips=settings.learn, classes=KINDS)
    data = _make_data(out, settings, workers, progress)
    about = {name: Store(path).digest for name, path in vars(data).items()}
    trials: list[Trial] = []
    for seed in range(settings.claim_seeds):
        chosen = {name: row for name, row in rows.items() if row.claimed or seed < settings.other_seeds}
        trials += [_training(name, row, seed, data, about) for name, row in chosen.items()]
        reader = trial_name(data=SCENES, row=STUDENT, seed=seed)
        trials += [
            Skimming(row=name, run=replace(run, seed=seed), reader=reader, films=data.films, films_digest=about[FILMS])
            for name, run in skim_rows(epochs=settings.skim_epochs, looks=settings.looks, classes=KINDS).items()
        ]
    outcomes = run_trials(trials, out, workers=workers, progress=progress)
    order = list(dict.fromkeys(trial.row for trial in _in_order_of_page(trials)))
    return sorted(outcomes, key=lambda outcome: (order.index(outcome.row), outcome.seed))


def _training(name: str, row: MethodRow, seed: int, data: MethodsData, about: dict[str, str]) -> Training:
    return Training(
        row=name,
        data=SCENES,
        run=with_seed(row.run, seed),
        store=data.learn,
        judge=partial(judge, data=data),
        judged_on=about,
        taught_by={setting: trial_name(data=SCENES, row=by, seed=seed) for setting, by in row.taught_by.items()},
    )


def _in_order_of_page(trials: list[Trial]) -> list[Trial]:
    """Methods without labels first, then those with; in the study, teachers come before all others."""
    return sorted(
        trials, key=lambda trial: (trial.data != SCENES, isinstance(trial, Training) and _learns_names(trial))
    )


def _learns_names(trial: Training) -> bool:
    return trial.run.num_classes > 0


def _make_data(out: Path, settings: MethodsSettings, workers: int, progress: Progress) -> MethodsData:
    from lookhear.data.prepare import PrepareConfig
    from lookhear.study.made_data import film_store, scene_store

    # every picture of the scenes, at the height that the models see
    config = PrepareConfig(frames_per_second=12.5, short_side=72)
    shared: dict[str, Any] = {"config": config, "scene": scenes_of(settings), "workers": workers, "progress": progress}
    return MethodsData(
        learn=scene_store(out / SCENES / "learn", count=settings.learn, seed=0, **shared),
        test=scene_store(out / SCENES / "test", count=settings.test, seed=settings.test_seed, **shared),
        films=film_store(
            out / FILMS, count=settings.films, shots=settings.shots, seed=settings.test_seed + 1, **shared
        ),
    )


def scenes_of(settings: MethodsSettings) -> "SceneSettings":
    """Short scenes with many events: a bank has one row a clip, so that each window must show what the clip is."""
    from lookhear.media.scenes import SceneSettings

    return SceneSettings(
        width=settings.width,
        height=settings.height,
        min_seconds=3.4,
        max_seconds=3.8,
        min_events=4,
        max_events=5,
    )


# ---- judging


def judge(trial: Training, folder: Path, *, data: MethodsData) -> Judgement:
    """Retrieval where sound and picture are compared; what its frozen features tell; what its own head names.

    The student of Listen to Look also looks at the films, for the trials that skim.
    """
    from lookhear import embedder
    from lookhear.data.store import Store
    from lookhear.models.stream_classifier import StreamClassifier
    from lookhear.tasks.labels.classification import evaluate_classification
    from lookhear.tasks.matching.retrieval import evaluate_retrieval

    model, learn, test = embedder.load(folder), Store(data.learn), Store(data.test)
    classifies = isinstance(model.model, StreamClassifier)
    figures, context = {}, {"clips": float(len(test))}
    if not classifies:
        retrieval = evaluate_retrieval(model, test)
        figures["sound finds picture"] = retrieval.audio_to_visual.r1
        figures["picture finds sound"] = retrieval.visual_to_audio.r1
        context["chance of R@1"] = retrieval.chance_r1
        if retrieval.kind_only_r1 is not None:
            context["R@1 of who knows the kind alone"] = retrieval.kind_only_r1
    told, majority = _features_tell(model, learn, test, trial.run.modalities)
    figures |= told
    context |= {CHANCE_NAMED: 1 / len({label for clip in learn.clips for label in clip.labels})}
    context |= {"always the most frequent kind": majority}
    if classifies:
        figures[NAMED] = evaluate_classification(model, test, frames="one").accuracy
    if trial.row == STUDENT:
        embed_films(model, data.films, folder)
    return Judgement(figures=figures, context=context)


def _features_tell(model: "Embedder", learn: "Store", test: "Store", modalities: str) -> tuple[dict[str, float], float]:
    """Accuracy of nearest neighbours and of linear probes on each modality and on both, and of a constant answer."""
    from lookhear.tasks.labels.features import clip_features
    from lookhear.tasks.labels.neighbours import neighbour_probe
    from lookhear.tasks.labels.probes import linear_probe

    sides: dict[str, list[_Side]] = {}
    figures = {}
    majority = 0.0
    for name, modality in _MODALITIES.items():
        if modalities in ("both", modality):
            found = [clip_features(model, store, modality=modality).clips for store in (learn, test)]
            neighbours = neighbour_probe(*found)
            figures[f"k-NN, {name}"], majority = neighbours.accuracy, neighbours.majority
            sides[name] = [_Side.of(clips) for clips in found]

    def probed(train: _Side, judged: _Side) -> float:
        return linear_probe(train.rows, train.labels, judged.rows, judged.labels).accuracy

    if len(sides) == len(_MODALITIES):
        joined = [
            replace(one, rows=np.hstack([one.rows, other.rows])) for one, other in zip(*sides.values(), strict=True)
        ]
        figures["linear probe, both"] = probed(*joined)
    for name, pair in sides.items():
        figures[_RECOGNISED[name]] = probed(*pair)
    return figures, majority


_MODALITIES: dict[str, Literal["audio", "visual"]] = {"sound": "audio", "pictures": "visual"}
_RECOGNISED = {"sound": "sound recognition", "pictures": "action recognition"}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """The clips of one store, for a linear probe."""

    rows: np.ndarray  # float32 (n, D): the mean over each clip's windows
    labels: np.ndarray  # str (n,)

    @classmethod
    def of(cls, clips: "Sequence[ClipFeatures]") -> "_Side":
        return cls(
            rows=np.stack([clip.steps.mean(axis=0) for clip in clips]), labels=np.array([clip.label for clip in clips])
        )
