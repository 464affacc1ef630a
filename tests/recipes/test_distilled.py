"""Runs with teachers: what they take from them, how they go on after a kill, and the published settings.

If these fail, a student reads other windows than its teacher was trained on, or a killed run ends elsewhere.
"""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_store import LabelledStore
from lookhear.config import override
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.checkpoint import MODELS, load_checkpoint
from lookhear.recipes.distilled import (
    ccl,
    distil_stages,
    listen_to_look,
    listen_to_look_finetune,
    listen_to_look_teacher,
)
from lookhear.recipes.distilled_small import (
    audio_teacher_small,
    ccl_small,
    distil_stages_small,
    image_teacher_small,
    listen_to_look_finetune_small,
    listen_to_look_small,
    listen_to_look_teacher_small,
)
from lookhear.recipes.finetune import fit_to_labels
from lookhear.recipes.teaching import fit_to_teachers
from lookhear.training.journal import read_records
from lookhear.training.loop import TrainSummary, train
from lookhear.training.optim import learning_rate
from lookhear.training.run import Run, model_kind

PICTURES = ["preprocess.picture_height=16", "preprocess.picture_width=24", "preprocess.audio_frames=32"]
ENCODER = ["model.encoder.picture_height=16", "model.encoder.picture_width=24", "model.encoder.audio_frames=32"]
STEPS = [
    "dtype=float32",
    "device=cpu",
    "data.batch_size=4",
    "epochs=4",
    "data.windows_per_clip=1",
    "checkpoint_every=5",
    "journal_every=1",
]


def small(run: Run, *settings: str) -> Run:
    """12 steps, three an epoch, of a few channels."""
    widths = [
        f"model.encoder.{stream}.width=16"
        for stream in ("audio", "visual")
        if getattr(run.model.encoder, stream) is not None
    ]
    fusion = ["model.fusion=[16,16]"] if run.model.fusion else []
    pictures = min(run.preprocess.frames_per_window, 2)
    shown = [f"preprocess.frames_per_window={pictures}", f"model.encoder.picture_channels={3 * pictures}"]
    return override(run, [*PICTURES, *ENCODER, *STEPS, *shown, *widths, *fusion, *settings])


def learn(run: Run, folder: Path, *, labelled: bool = True, **options: Any) -> TrainSummary:
    store: Any = LabelledStore()
    fitted = fit_to_labels(run, store) if labelled else run
    return train(fit_to_teachers(fitted), store, folder, **options)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    learn(small(listen_to_look_teacher_small()), folder / "clip")
    learn(small(image_teacher_small()), folder / "image")
    learn(small(audio_teacher_small()), folder / "audio")
    return folder


def taught(teachers: Path) -> list[str]:
    return [f"objective.audio_teacher={teachers / 'audio'}", f"objective.image_teacher={teachers / 'image'}"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = folder / "checkpoints" / "step-12" / "model.safetensors"
    return load_checkpoint(newest).model.state_dict()


def test_listen_to_look_from_teacher_to_tuned_student(teachers: Path, tmp_path: Path) -> None:
    run = small(listen_to_look_small(), f"objective.teacher={teachers / 'clip'}")
    summary = learn(run, tmp_path / "student", labelled=False)
    assert summary.clips == 13
    records = read_records(tmp_path / "student" / "journal.jsonl")
    assert set(records[0]["terms"]) == {"features", "logits"}
    assert records[-1]["terms"]["features"] < records[0]["terms"]["features"]
    assert set(records[0]["report"]) == {"divergence", "agreement", "accuracy", "teacher_accuracy"}
    saved = load_checkpoint(tmp_path / "student" / "checkpoints" / "step-12" / "model.safetensors")
    assert saved.labels == ("high", "low")
    assert saved.extra["objective"]["teacher"] == "clip", "a path of this machine is nobody else's"
    tuned = small(listen_to_look_finetune_small(), f"initial={tmp_path / 'student'}")
    learn(tuned, tmp_path / "tuned")
    taken = (tmp_path / "tuned" / "initial.json").read_text()
    assert '"new": {}' in taken


def test_stages_are_matched(teachers: Path, tmp_path: Path) -> None:
    run = small(distil_stages_small(), f"objective.teacher={teachers / 'clip'}", "epochs=1")
    learn(run, tmp_path / "run", labelled=False)
    (first, *_) = read_records(tmp_path / "run" / "journal.jsonl")
    assert set(first["terms"]) == {
        "features",
        "logits",
        "visual_stage_1_attention",
        "visual_stage_2_l2",
        "audio_stage_last_soft_labels",
    }


@pytest.mark.parametrize("which", ["none", "audio", "image", "both"])
def test_ccl_with_each_choice_of_teachers(which: str, teachers: Path, tmp_path: Path) -> None:
    learn(small(ccl_small(), f"objective.teachers={which}", "epochs=1", *taught(teachers)), tmp_path / "run")
    (first, *_) = read_records(tmp_path / "run" / "journal.jsonl")
    names = {"audio": {"audio"}, "image": {"image"}, "both": {"audio", "image"}, "none": set()}[which]
    assert set(first["terms"]) == {"classification"} | {
        f"{name}_{part}" for name in names for part in ("contrast", "divergence", "composer")
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("listen_to_look_small", marks=pytest.mark.ci),
        pytest.param("distil_stages_small", marks=pytest.mark.ci),
        "ccl_small",
    ],
)
def test_a_killed_run_resumes_to_the_bit(name: str, teachers: Path, tmp_path: Path) -> None:
    """Composers and fits are state of the run; the teacher is read again."""

    class Killed(BaseException):
        pass

    def kill(done: int, total: int | None, note: str = "") -> None:
        if done == 7:
            raise Killed

    recipes = {
        "listen_to_look_small": (listen_to_look_small, [f"objective.teacher={teachers / 'clip'}"]),
        "distil_stages_small": (distil_stages_small, [f"objective.teacher={teachers / 'clip'}"]),
        "ccl_small": (ccl_small, taught(teachers)),
    }
    make, settings = recipes[name]
    run = small(make(), *settings)
    learn(run, tmp_path / "whole", labelled=name == "ccl_small")
    with pytest.raises(Killed):
        learn(run, tmp_path / "killed", labelled=name == "ccl_small", progress=kill)
    learn(run, tmp_path / "killed", labelled=name == "ccl_small")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "journal.jsonl").read_bytes() == (killed / "journal.jsonl").read_bytes()
    other = weights(killed)
    assert all(torch.equal(value, other[key]) for key, value in weights(whole).items())


def test_another_teacher_in_the_same_place_is_noticed(teachers: Path, tmp_path: Path) -> None:
    place = tmp_path / "teacher"
    learn(small(listen_to_look_teacher_small(), "epochs=1"), place)
    run = small(listen_to_look_small(), f"objective.teacher={place}")
    learn(run, tmp_path / "student", labelled=False, stop_after=5)
    learn(small(listen_to_look_teacher_small(), "epochs=1", "seed=3"), tmp_path / "other")
    newest = place / "checkpoints" / "step-3" / "model.safetensors"
    newest.write_bytes((tmp_path / "other" / "checkpoints" / "step-3" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not the one that this run began with"):
        learn(run, tmp_path / "student", labelled=False)


def test_what_a_run_takes_from_its_teacher(teachers: Path) -> None:
    """The statistics of the sound, so that it is normalised as the teacher knows it; its classes, for soft labels."""
    run = small(ccl_small(), *taught(teachers))
    assert run.modalities == "visual"
    assert run.read_modalities == "both", "the audio teacher listens although the student does not"
    fitted = fit_to_teachers(run)
    audio = load_checkpoint(teachers / "audio" / "checkpoints" / "step-12" / "model.safetensors").preprocess
    assert (fitted.preprocess.audio_mean, fitted.preprocess.audio_std) == (audio["audio_mean"], audio["audio_std"])
    assert not fitted.data.measure_statistics
    student = fit_to_teachers(small(listen_to_look_small(), f"objective.teacher={teachers / 'clip'}"))
    assert (student.num_classes, student.data.classes) == (2, ("high", "low"))
    assert not student.labelled
    assert student.data.measure_statistics, "the clip teacher hears nothing, so the student's sound is its own matter"
    plain = small(listen_to_look_finetune_small())
    assert fit_to_teachers(plain) is plain


def test_a_teacher_of_other_windows_is_refused(teachers: Path) -> None:
    run = small(listen_to_look_small(), f"objective.teacher={teachers / 'clip'}")
    bright = dataclasses.replace(run, preprocess=dataclasses.replace(run.preprocess, picture_mean=(0.5, 0.5, 0.5)))
    with pytest.raises(ConfigError, match=r"trained with preprocess\.picture_mean"):
        fit_to_teachers(bright)
    with pytest.raises(ConfigError, match="names no teacher"):
        small(ccl_small()).objective.build(MODELS["stream_classifier"][1](ccl_small().model))


@pytest.mark.parametrize("make", [listen_to_look, distil_stages])
def test_recipes_without_labels_are_complete(make: Any) -> None:
    run = make()
    run.check()
    assert run.name == make.__name__
    assert Run.from_dict(run.to_dict()) == run
    assert all(word in make.__doc__ for word in ("Command:", "Data:", "Hardware:", "Promise:"))


def test_published_settings() -> None:
    """The networks of Listen to Look and all of CCL's training, as their repositories have them."""
    run = ccl()
    optim = run.optim
    assert (optim.name, optim.learning_rate, optim.momentum, optim.weight_decay) == ("sgd", 1e-3, 0.9, 5e-4)
    rates = [learning_rate(optim, step=epoch, total_steps=300, steps_per_epoch=1) for epoch in (149, 150, 224, 225)]
    assert rates == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])
    assert (run.data.batch_size, run.epochs, optim.constant_objective) == (16, 300, True)
    assert (run.objective.audio_temperature, run.objective.image_temperature) == (0.5, 0.1)
    assert (run.preprocess.frames_per_window, run.preprocess.picture_height) == (16, 112)
    parameters = {}
    for name, made in (("ccl", run), ("student", listen_to_look_finetune()), ("teacher", listen_to_look_teacher())):
        with torch.device("meta"):
            model = MODELS[model_kind(made.model)][1](made.model)
        parameters[name] = {
            part: sum(value.numel() for key, value in model.named_parameters() if key.startswith(part))
            for part in ("encoder.visual_encoder", "encoder.audio_encoder", "fusion")
        }
    assert parameters["ccl"]["encoder.visual_encoder"] == pytest.approx(14.37e6, rel=2e-3)
    assert parameters["student"]["fusion"] == 1_574_400
    assert parameters["student"]["encoder.visual_encoder"] == pytest.approx(11.18e6, rel=1e-3)
    assert listen_to_look().model.features_width == listen_to_look_teacher().model.features_width == 512
