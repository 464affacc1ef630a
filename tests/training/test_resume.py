"""If these fail, a run does not start from the weights it names, or takes them a second time when it is resumed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fake_store import FakeStore, small_run
from lookhear.errors import CheckpointError
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint
from lookhear.training.loop import train
from lookhear.training.run import Run


def _steady(**changes: object) -> Run:
    """A run that leaves its weights as they are."""
    run = small_run(**changes)
    return replace(run, optim=replace(run.optim, learning_rate=0.0, weight_decay=0.0))


def _source(path: Path) -> CAVMAESync:
    torch.manual_seed(7)
    model = CAVMAESync(small_run().model)
    save_checkpoint(path, model, preprocess={})
    return model


def _learn(run: Run, folder: Path, **options: object) -> Path:
    summary = train(run, FakeStore(), folder, **options)  # type: ignore[arg-type]
    assert summary.checkpoint is not None
    return summary.checkpoint / "model.safetensors"


def test_a_run_starts_from_named_weights_and_says_what_it_took(tmp_path: Path) -> None:
    source = _source(tmp_path / "source.safetensors")
    run = _steady(initial=str(tmp_path / "source.safetensors"))
    saved = load_checkpoint(_learn(run, tmp_path / "run"))
    trained = saved.model.state_dict()
    assert all(torch.equal(trained[name], tensor) for name, tensor in source.state_dict().items())
    report = json.loads((tmp_path / "run" / "initial.json").read_text())
    assert report["taken"] == len(trained)
    assert (report["new"], report["left_out"]) == ({}, {})
    assert saved.extra["started_from"] == "source.safetensors"  # without the folder, which is of this machine
    assert Run.from_dict(run.to_dict()) == run


def test_resuming_does_not_look_at_them_again(tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    _source(path)
    run = small_run(initial=str(path))
    whole = load_checkpoint(_learn(run, tmp_path / "whole"))
    _learn(run, tmp_path / "cut", stop_after=5)
    path.unlink()
    resumed = load_checkpoint(_learn(run, tmp_path / "cut"))
    assert resumed.fingerprint == whole.fingerprint
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        _learn(run, tmp_path / "new")


def test_without_a_name_nothing_is_written(tmp_path: Path) -> None:
    saved = load_checkpoint(_learn(small_run(), tmp_path / "run", stop_after=1))
    assert not (tmp_path / "run" / "initial.json").exists()
    assert "started_from" not in saved.extra
    # what the decoder's predictions mean, which inpainting asks for
    assert saved.extra["objective"]["normalise_patches"] == _steady().objective.normalise_patches
