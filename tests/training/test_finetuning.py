"""Fine-tuning through the training loop: modes, averaging, choosing, kills, two processes.

If these fail, a fine-tuned model is not the one that its recipe describes.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fake_store import LabelledStore, small_classifier_run
from lookhear.config import override
from lookhear.data.preprocess import PreprocessConfig
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.checkpoint import find_checkpoint, load_checkpoint
from lookhear.training.journal import read_records
from lookhear.training.loop import TrainSummary, train
from lookhear.training.resume import newest_checkpoint
from lookhear.training.run import Run
from lookhear.training.selection import Best

AVERAGED = {"average_epochs": (2, 4)}


class Killed(BaseException):
    """What a test raises in place of SIGKILL."""


def learn(run: Run, folder: Path, store: LabelledStore | None = None, **options: Any) -> TrainSummary:
    return train(run, store or LabelledStore(), folder, **options)  # type: ignore[arg-type]


def tensors(path: Path) -> Mapping[str, torch.Tensor]:
    return load_checkpoint(path / "model.safetensors").model.state_dict()


def test_labels_are_learned_and_kept_with_the_weights(tmp_path: Path) -> None:
    run = override(small_classifier_run(epochs=20), ["augment.mixup=0", "augment.roll=false"])
    summary = learn(run, tmp_path / "run")
    records = read_records(tmp_path / "run" / "journal.jsonl")
    assert sum(r["report"]["accuracy"] for r in records[-6:]) > sum(r["report"]["accuracy"] for r in records[:6])
    assert records[-1]["loss"] < records[0]["loss"]
    assert summary.checkpoint is not None
    assert load_checkpoint(summary.checkpoint / "model.safetensors").labels == ("high", "low")


@pytest.mark.parametrize("classes", [("high", "low"), ("low", "high")])
def test_a_head_goes_on_only_for_the_same_labels(tmp_path: Path, classes: tuple[str, ...]) -> None:
    learn(small_classifier_run(epochs=1), tmp_path / "first")
    data = replace(small_classifier_run().data, classes=classes)
    run = small_classifier_run(epochs=1, data=data, initial=str(tmp_path / "first"))
    learn(run, tmp_path / "second", stop_after=1)
    report = json.loads((tmp_path / "second" / "initial.json").read_text(encoding="utf-8"))
    assert report["new"] == ({} if classes == ("high", "low") else {"classification head": 4})


@pytest.mark.parametrize("sampling", ["shuffle", "balanced"])
def test_files_of_sound_alone(tmp_path: Path, sampling: str) -> None:
    run = override(small_classifier_run(), ["model.mode=audio", f"data.sampling={sampling}"])
    summary = learn(run, tmp_path / "run", LabelledStore(mute_pictures=True))
    assert summary.finished
    assert (summary.clips, summary.left_out.total) == (13, 0)


@pytest.mark.parametrize("mode", ["both", "visual"])
def test_one_clip_in_a_batch(tmp_path: Path, mode: str) -> None:
    run = override(small_classifier_run(epochs=1), [f"model.mode={mode}", "data.batch_size=1", "augment.mixup=1"])
    assert learn(run, tmp_path / "run", LabelledStore(2)).finished


def test_a_frozen_encoder_is_what_it_was(tmp_path: Path) -> None:
    run = override(small_classifier_run(), ["optim.freeze=encoder"])
    learn(run, tmp_path / "run", stop_after=1)
    first = tensors(tmp_path / "run" / "checkpoints" / "step-1")
    learn(run, tmp_path / "run")
    last = tensors(tmp_path / "run" / "checkpoints" / "step-12")
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed == {"head_norm.weight", "head_norm.bias", "head.weight", "head.bias"}


def test_the_average_is_that_of_the_ends_of_the_epochs(tmp_path: Path) -> None:
    run = small_classifier_run(**AVERAGED, checkpoint_every=3, keep_checkpoints=0)
    stopped = learn(run, tmp_path / "run", stop_after=11)
    assert stopped.checkpoint is not None
    assert stopped.model == stopped.checkpoint / "model.safetensors"
    average = tmp_path / "run" / "checkpoints" / "average"
    assert not average.exists(), "an average of fewer epochs must not pass for the whole one"
    done = learn(run, tmp_path / "run")
    assert done.model == average / "model.safetensors"
    ends = [tensors(tmp_path / "run" / "checkpoints" / f"step-{step}") for step in (6, 9, 12)]
    found = tensors(average)
    assert found.keys() == ends[0].keys()
    for name, value in found.items():
        torch.testing.assert_close(value, (ends[0][name] + ends[1][name] + ends[2][name]) / 3)
    loaded = load_checkpoint(average / "model.safetensors")
    assert loaded.labels == ("high", "low")
    assert loaded.extra["epochs_averaged"] == 3
    assert find_checkpoint(tmp_path / "run") == average / "model.safetensors"
    assert newest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoints" / "step-12"


def by_weights(model: nn.Module, preprocess: PreprocessConfig) -> dict[str, float]:
    """Some number that follows from the weights alone."""
    return {"accuracy": float(model.head.weight.square().sum())}  # type: ignore[union-attr, operator]


def test_the_best_checkpoint_is_kept_and_named(tmp_path: Path) -> None:
    scores = iter([0.2, 0.9, 0.4, 0.3])

    def rises_then_falls(model: nn.Module, preprocess: PreprocessConfig) -> dict[str, float]:
        return {"accuracy": next(scores)}

    run = small_classifier_run(evaluate_every="epoch", select="validation.accuracy", keep_checkpoints=1)
    summary = learn(run, tmp_path / "run", evaluators={"validation": rises_then_falls})
    best = json.loads((tmp_path / "run" / "best.json").read_text(encoding="utf-8"))
    assert best == {"step": 6, "metric": "validation.accuracy", "value": 0.9}
    assert summary.best == Best(**best)
    assert summary.model == tmp_path / "run" / "checkpoints" / "step-6" / "model.safetensors"
    names = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert names == {"step-6", "step-12"}
    assert find_checkpoint(tmp_path / "run").parent.name == "step-6"
    (tmp_path / "run" / "best.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"best\.json cannot be read"):
        find_checkpoint(tmp_path / "run")
    judged = [r["step"] for r in read_records(tmp_path / "run" / "journal.jsonl") if "evaluation" in r]
    assert judged == [3, 6, 9, 12]


def test_nothing_to_choose_by_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="select is"):
        learn(small_classifier_run(select="validation.accuracy"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("killed_after", [4, 10, 12])
def test_a_killed_run_has_the_same_average_and_best(tmp_path: Path, killed_after: int) -> None:
    """Killed before, between and after the epochs that are averaged; the checkpoints lie inside epochs."""
    run = small_classifier_run(
        **AVERAGED, evaluate_every="epoch", select="validation.accuracy", keep_checkpoints=1, checkpoint_every=5
    )
    evaluators = {"validation": by_weights}

    def kill(done: int, total: int | None, note: str = "") -> None:
        if done == killed_after:
            raise Killed

    learn(run, tmp_path / "whole", evaluators=evaluators)
    with pytest.raises(Killed):
        learn(run, tmp_path / "killed", evaluators=evaluators, progress=kill)
    learn(run, tmp_path / "killed", evaluators=evaluators)
    for name in ("journal.jsonl", "best.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    averages = [
        load_checkpoint(tmp_path / name / "checkpoints" / "average" / "model.safetensors")
        for name in ("whole", "killed")
    ]
    assert averages[0].fingerprint == averages[1].fingerprint
    steps = [sorted(p.name for p in (tmp_path / name / "checkpoints").iterdir()) for name in ("whole", "killed")]
    assert steps[0] == steps[1]


def test_contradictions_are_said() -> None:
    with pytest.raises(ConfigError, match=r"average_epochs is 2 to 9; the run has epochs 1 to 4"):
        small_classifier_run(average_epochs=(2, 9)).check()
    with pytest.raises(ConfigError, match="average_epochs counts epochs and the run is counted in steps"):
        small_classifier_run(average_epochs=(2, 4), steps=3).check()
    with pytest.raises(ConfigError, match=r"model\.num_classes is 2 but data\.classes has 1"):
        override(small_classifier_run(), ['data.classes=["high"]']).check()
    with pytest.raises(ConfigError, match=r"model\.encoder\.audio_frames is 64 but the preprocessing gives 32"):
        override(small_classifier_run(), ["model.encoder.audio_frames=64"]).check()
    with pytest.raises(ConfigError, match="mode 'both' needs another tower"):
        override(small_classifier_run(), ["model.encoder.modalities=audio"])
