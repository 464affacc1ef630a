"""Fine-tuning recipes and the function that runs them.

If these fail, a published recipe is not what runs, classes get the wrong names, or a checkpoint is chosen on clips
that it learned from.
"""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import synthetic
from fake_store import LabelledStore, small_classifier_run
from lookhear import cli
from lookhear.config import override
from lookhear.data.lists.classes import Classes
from lookhear.data.manifest import FileLabels
from lookhear.data.prepare import prepare
from lookhear.errors import ConfigError, StoreError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.models.classifier import CAVMAEClassifier
from lookhear.recipes.finetune import FINETUNE_RECIPES, finetune, fit_to_labels, judge_split, with_splits
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.optim import learning_rate
from lookhear.training.run import Run

# batch, learning rate, head ratio, epochs, epochs at full rate, sampling, loss, epochs averaged, classes
PUBLISHED = {
    "as20k": (36, 5e-5, 100, 15, 5, "shuffle", "bce", (3, 15), 527),
    "as2m": (48, 1e-5, 50, 10, 2, "balanced", "bce", (1, 10), 527),
    "vggsound": (48, 1e-4, 10, 10, 2, "balanced", "ce", (3, 10), 309),
}
# Those of Listen to Look and CCL, and their encoders.
TAUGHT = {
    "listen_to_look_teacher": ("visual",),
    "listen_to_look_finetune": ("audio", "visual"),
    "ccl": ("visual",),
    "listen_to_look_teacher_small": ("visual",),
    "listen_to_look_finetune_small": ("audio", "visual"),
    "image_teacher_small": ("visual",),
    "audio_teacher_small": ("audio",),
    "ccl_small": ("visual",),
}
SMALL_ENCODER = ["width=16", "heads=2", "audio_depth=0", "visual_depth=0", "joint_depth=1"]


@pytest.mark.parametrize("name", FINETUNE_RECIPES)
def test_a_recipe_is_complete(name: str) -> None:
    run = FINETUNE_RECIPES[name]()
    run.check()
    assert run.name == name
    assert Run.from_dict(run.to_dict()) == run
    assert all(
        word in (FINETUNE_RECIPES[name].__doc__ or "") for word in ("Command:", "Data:", "Hardware:", "Promise:")
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_recipes(name: str) -> None:
    batch, rate, ratio, epochs, full, sampling, loss, averaged, classes = PUBLISHED[name]
    run = FINETUNE_RECIPES[name]()
    assert (run.data.batch_size, run.data.sampling, run.epochs) == (batch, sampling, epochs)
    assert (run.objective.loss, run.objective.label_smoothing) == (loss, 0.1)
    assert (run.average_epochs, run.num_classes, run.optim.head_ratio) == (averaged, classes, ratio)
    optim = run.optim
    assert (optim.name, optim.betas, optim.weight_decay, optim.decay_vectors) == ("adam", (0.95, 0.999), 5e-7, True)
    rates = [learning_rate(optim, step=epoch, total_steps=epochs, steps_per_epoch=1) for epoch in range(epochs)]
    assert rates == pytest.approx([rate * 0.5 ** max(0, epoch + 1 - full) for epoch in range(epochs)])
    augment = run.augment
    assert (augment.mask_mel_bins, augment.mask_frames, augment.mixup) == (48, 192, 0.5)
    assert (augment.published_noise, augment.roll) == (True, True)
    assert (run.preprocess.audio_frames, run.preprocess.channel) == (1024, "first")
    assert run.model.encoder.learned_positions
    assert run.checkpoint_every == 5000


@pytest.mark.parametrize("name", FINETUNE_RECIPES)
def test_a_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    """The published ones with a small encoder: the way of the data is theirs."""
    settings = [f"model.encoder.{setting}" for setting in SMALL_ENCODER] if name in PUBLISHED else []
    if name in ("ucf101", "hmdb51"):
        settings = ["model.encoder.visual.width=32", "model.encoder.visual.blocks=[1,1,1,1]"]
        settings += [
            f"{room}.picture_{side}=32" for room in ("preprocess", "model.encoder") for side in ("height", "width")
        ]
    if name in TAUGHT:
        settings = [f"model.encoder.{stream}.width=32" for stream in TAUGHT[name]]
        settings += [
            f"{room}.picture_{side}=32" for room in ("preprocess", "model.encoder") for side in ("height", "width")
        ]
        settings += ["objective.teachers=none"] if name.startswith("ccl") else []
    settings += ["data.batch_size=2", "steps=2", "average_epochs=null", "device=cpu", "data.num_workers=0"]
    store = LabelledStore(4)
    store.config = dataclasses.replace(store.config, channel=FINETUNE_RECIPES[name]().preprocess.channel)
    run = fit_to_labels(override(FINETUNE_RECIPES[name](), settings), store)  # type: ignore[arg-type]
    assert run.num_classes == 2
    summary = train(run, store, tmp_path / "run")  # type: ignore[arg-type]
    assert summary.finished
    assert summary.last is not None
    assert np.isfinite(summary.last["loss"])


def test_classes_and_loss_follow_the_labels() -> None:
    run = small_classifier_run()
    bare = dataclasses.replace(run, data=dataclasses.replace(run.data, classes=()))
    bare = override(bare, ["objective.loss=auto"])
    store: Any = LabelledStore()
    fitted = fit_to_labels(bare, store)
    assert (fitted.data.classes, fitted.num_classes, fitted.objective.loss) == (("high", "low"), 2, "ce")
    several: Any = LabelledStore()
    several.clips[0] = dataclasses.replace(several.clips[0], labels=("low", "buzz"))
    fitted = fit_to_labels(bare, several)
    assert (fitted.data.classes, fitted.objective.loss) == (("buzz", "high", "low"), "bce")
    assert fit_to_labels(run, several).objective.loss == "ce"  # buzz is not learned
    listed = Classes(names=("low", "mid", "high"), mids=("/m/1", "/m/2", "/m/3"))
    assert fit_to_labels(bare, store, listed).data.classes == ("low", "mid", "high")
    by_mid = Classes(names=("Low", "High"), mids=("low", "high"))
    assert fit_to_labels(bare, store, by_mid).data.classes == ("low", "high")
    with pytest.raises(StoreError, match="no clip of memory has a label to learn"):
        fit_to_labels(override(run, ['data.classes=["cough"]']), store)


class Watched(LabelledStore):
    """Notes which clips are read."""

    read: set[int]

    def waveform(self, index: int, start_sample: int = 0, stop_sample: int | None = None) -> np.ndarray:
        self.__dict__.setdefault("read", set()).add(index)
        return super().waveform(index, start_sample, stop_sample)


def test_the_choice_sees_the_validation_split_alone(tmp_path: Path) -> None:
    store: Any = Watched()
    run = override(small_classifier_run(), ["data.split=train", "data.validation_split=val"])
    run = fit_to_labels(run, store)
    assert (run.select, run.evaluate_every) == ("validation.accuracy", "epoch")
    torch.manual_seed(0)
    model = CAVMAEClassifier(run.model).eval()
    judge = judge_split(run, store)
    with torch.no_grad():
        found = judge(model, run.preprocess)
    assert store.read == set(store.clips_in_split("val").tolist())
    assert found.keys() == {"accuracy", "mean_average_precision"}
    for index in store.clips_in_split("val"):
        store.clips[index] = dataclasses.replace(store.clips[index], labels=("low",))
    with torch.no_grad():
        alone = judge_split(run, store)(model, run.preprocess)
    assert alone["mean_average_precision"] == 1.0, "of the one class that has a clip, all of which are its"
    store.read.clear()
    train(run, store, tmp_path / "run", evaluators={"validation": lambda *given: {"accuracy": 0.0}})
    assert store.read == set(store.clips_in_split("train").tolist())


def _in_splits(*splits: str) -> Any:
    """A store of as many clips, each in the splits of its name."""
    store: Any = LabelledStore(len(splits))
    store.clips = [dataclasses.replace(clip, split=own) for clip, own in zip(store.clips, splits, strict=True)]

    def clips_in_split(name: str) -> np.ndarray:
        return np.flatnonzero([name in clip.splits for clip in store.clips])

    store.clips_in_split = clips_in_split
    return store


@pytest.mark.parametrize(
    ("splits", "learned", "held"),
    [
        (("train", "val", "test"), "train", "val"),
        (("train", "other", "test1"), "train", None),
        (("fold1", "fold2"), ("fold1", "fold2"), None),
        (("fold1", "dev", "eval"), "fold1", "dev"),
        (("train;val", "test"), "train", None),  # a clip that is learned from chooses nothing
        (("", ""), None, None),
    ],
)
def test_a_test_split_is_not_learned_from_unless_it_is_named(
    splits: tuple[str, ...], learned: Any, held: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    found = with_splits(small_classifier_run(), _in_splits(*splits)).data
    assert (found.split, found.validation_split) == (learned, held)
    assert bool(caplog.records) == (learned is not None)
    named = override(small_classifier_run(), ["data.split=test"])
    assert with_splits(named, _in_splits(*splits)) == named


def test_a_validation_split_that_is_named_is_not_learned_from() -> None:
    run = override(small_classifier_run(), ["data.validation_split=fold2"])
    found = with_splits(run, _in_splits("fold1", "fold2", "fold3")).data
    assert (found.split, found.validation_split) == (("fold1", "fold3"), "fold2")


@pytest.mark.parametrize("splits", [("test", "test"), ("train1;test2", "train2;test1"), ("train;test", "train")])
def test_where_splits_are_not_plain_they_must_be_named(splits: tuple[str, ...]) -> None:
    with pytest.raises(StoreError, match=r"name them, such as --set data\.split="):
        with_splits(small_classifier_run(), _in_splits(*splits))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twelve sound files without picture, of two labels, in three folds."""
    folder = tmp_path_factory.mktemp("sounds")
    labels = {}
    for number in range(12):
        synthetic.make_sound(folder / f"{number}.wav", seconds=1.2)
        labels[f"{number}.wav"] = FileLabels(labels=("ab"[number % 2],), split=f"fold{number // 4 + 1}")
    prepare(folder, folder.parent / "store", workers=0, labels=labels)
    return folder.parent / "store"


SHORT = ["preprocess.audio_frames=96", "model.encoder.audio_frames=96", "data.batch_size=4", "epochs=2", "device=cpu"]


def test_sound_files_from_store_to_checkpoint(sounds: Path, tmp_path: Path) -> None:
    folds = ['data.split=["fold1","fold2"]', "data.validation_split=fold3", "average_epochs=[1,2]"]
    summary = finetune("esc10", store=sounds, folder=tmp_path / "first", settings=[*SHORT, *folds])
    assert summary.finished
    assert summary.clips == 8
    records = read_records(tmp_path / "first" / "journal.jsonl")
    scores = [record["evaluation"]["validation"]["accuracy"] for record in records if "evaluation" in record]
    best = json.loads((tmp_path / "first" / "best.json").read_text(encoding="utf-8"))
    assert len(scores) == 2
    assert best["value"] == max(scores)
    average = load_checkpoint(tmp_path / "first" / "checkpoints" / "average" / "model.safetensors")
    assert average.labels == ("a", "b")

    order = tmp_path / "labels.csv"
    with order.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["index", "mid", "display_name"], [0, "b", "Bee"], [1, "a", "Ay"], [2, "c", "Sea"]])
    again = finetune(
        "esc10",
        store=sounds,
        folder=tmp_path / "second",
        initial=tmp_path / "first",
        labels=order,
        settings=[*SHORT, "optim.freeze=encoder"],
    )
    assert again.checkpoint is not None
    second = load_checkpoint(again.checkpoint / "model.safetensors")
    assert second.labels == ("b", "a", "c")
    given, taken = average.model.encoder.state_dict(), second.model.encoder.state_dict()
    assert taken.keys() == given.keys()
    assert all(torch.equal(taken[name], given[name]) for name in taken), "a run is named: its average is meant"


def test_what_cannot_be_fine_tuned_is_said(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe to fine-tune 'esc11'; did you mean 'esc10'"):
        finetune("esc11", store=sounds, folder=tmp_path / "run")
    with pytest.raises(ConfigError, match="'tiny' learns without labels: `lookhear pretrain tiny`"):
        finetune("tiny", store=sounds, folder=tmp_path / "run")
    settings = ["data.split=fold1", "data.validation_split=fold9"]
    with pytest.raises(StoreError, match="has no split 'fold9'"):
        finetune("esc10", store=sounds, folder=tmp_path / "run", settings=[*SHORT, *settings])
    store: Any = LabelledStore()
    for index in store.clips_in_split("val"):
        store.clips[index] = dataclasses.replace(store.clips[index], labels=())
    run = override(small_classifier_run(), ["data.split=train", "data.validation_split=val"])
    with pytest.raises(StoreError, match="4 have none of the labels"):
        judge_split(run, store)


def test_the_verb_prints_where_the_checkpoint_lies(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "esc10", "--store", str(sounds), "--run", str(tmp_path / "run"), "--json"]
    words += [word for setting in (*SHORT, "steps=1") for word in ("--set", setting)]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["checkpoint"] == str(tmp_path / "run" / "checkpoints" / "step-1")
    assert (told["clips"], told["best"]) == (12, None)
    assert told["model"] == str(tmp_path / "run" / "checkpoints" / "step-1" / "model.safetensors")
    assert cli.main(["finetune", "esc11", "--store", str(sounds)]) == 1
    assert "did you mean 'esc10'" in capsys.readouterr().err
