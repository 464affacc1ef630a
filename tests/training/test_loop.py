"""The training loop: it learns, resumes to the bit, and stops with what it has intact.

If these fail, a killed run loses its work or leaves a journal that no other run can be compared with.
"""

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fake_store import FakeStore, small_run
from lookhear.config import override
from lookhear.data.preprocess import PreprocessConfig
from lookhear.data.sampling import epoch_order
from lookhear.errors import CheckpointError, ConfigError, StoreError, UserError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.training import loop
from lookhear.training.journal import read_records
from lookhear.training.loop import TrainSummary, train
from lookhear.training.resume import newest_checkpoint, read_run
from lookhear.training.run import Run
from lookhear.training.writer import CheckpointWriter


class Killed(BaseException):
    """What a test raises in place of SIGKILL: nothing in the loop may catch it."""


SEVEN = ("learning_rate", "eps", "momentum", "weight_decay", "warmup_share", "final_share", "head_ratio")


class NamedSplits(FakeStore):
    """Says so where there is no such split, as a real store does."""

    def clips_in_split(self, split: str) -> np.ndarray:
        found = super().clips_in_split(split)
        if not len(found):
            raise StoreError(f"the store has no split '{split}'")
        return found


def learn(run: Run, folder: Path, store: FakeStore | None = None, **options: Any) -> TrainSummary:
    return train(run, store or FakeStore(), folder, **options)  # type: ignore[arg-type]


def killed_after(step: int) -> Any:
    def progress(done: int, total: int | None, note: str = "") -> None:
        if done == step:
            raise Killed

    return progress


def weights(folder: Path) -> dict[str, torch.Tensor]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    return load_checkpoint(newest / "model.safetensors").model.state_dict()


def assert_same_weights(left: Path, right: Path) -> None:
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_run_learns_and_says_so(tmp_path: Path) -> None:
    notes: list[tuple[int, int | None, str]] = []
    summary = learn(
        small_run(), tmp_path / "run", FakeStore(14, silent=(2,)), progress=lambda *told: notes.append(told)
    )
    assert summary.finished
    assert not summary.interrupted
    assert (summary.step, summary.total_steps, summary.clips, summary.left_out.no_sound) == (12, 12, 13, 1)
    records = read_records(tmp_path / "run" / "journal.jsonl")
    assert [record["step"] for record in records] == list(range(1, 13))
    assert summary.last == records[-1]
    assert records[-1]["loss"] < records[0]["loss"]
    for record in records:
        assert sum(record["terms"].values()) == pytest.approx(record["loss"], rel=1e-5)
    assert "samples/s" in notes[-1][2]
    assert notes[-1][:2] == (12, 12)
    speed = read_records(tmp_path / "run" / "speed.jsonl")
    assert all(0 <= record["data_wait_share"] <= 1 for record in speed)
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-10", "step-12"]
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-12" / "model.safetensors")
    assert saved.preprocess["audio_frames"] == 32
    learned = {"run": "small", "step": 12, "store": "fake-14-(2,)", "splits": []}
    assert saved.extra == learned | {"objective": small_run().to_dict()["objective"]}
    assert read_run(tmp_path / "run") == small_run()


def test_a_killed_run_resumes_to_the_bit(tmp_path: Path) -> None:
    """Killed at step 7, two steps after its checkpoint and in the middle of an epoch."""
    learn(small_run(), tmp_path / "whole")
    with pytest.raises(Killed):
        learn(small_run(), tmp_path / "killed", progress=killed_after(7))
    assert len(read_records(tmp_path / "killed" / "journal.jsonl")) == 7
    assert learn(small_run(), tmp_path / "killed").finished
    whole, killed = (tmp_path / name / "journal.jsonl" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_killed_before_the_first_checkpoint(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "whole")
    with pytest.raises(Killed):
        learn(small_run(), tmp_path / "killed", progress=killed_after(2))
    learn(small_run(), tmp_path / "killed")
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    checkpoint = learn(small_run(), tmp_path / "run", stop_after=1).checkpoint
    assert checkpoint is not None
    path = checkpoint / "state" / "training.pt"
    saved = torch.load(path, weights_only=True)
    del saved["format"]
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match="written by another version of lookhear; finish the run with that one"):
        learn(small_run(), tmp_path / "run")


def test_a_journal_written_seldom_is_the_same(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "often")
    learn(small_run(journal_every=7), tmp_path / "seldom")
    often, seldom = (tmp_path / name / "journal.jsonl" for name in ("often", "seldom"))
    assert often.read_bytes() == seldom.read_bytes()


def test_stop_after_and_go_on(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "whole")
    first = learn(small_run(), tmp_path / "parts", stop_after=4)
    assert (first.step, first.finished, first.interrupted) == (4, False, False)
    assert first.checkpoint == tmp_path / "parts" / "checkpoints" / "step-4"
    learn(small_run(), tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    again = learn(small_run(), tmp_path / "parts")
    assert again.finished
    assert again.last is None


def test_another_run_is_refused_with_the_difference(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "run", stop_after=1)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError, match=r"run\.optim\.learning_rate: saved 0\.003, asked 0\.5"):
        learn(override(small_run(), ["optim.learning_rate=0.5"]), tmp_path / "run")
    with pytest.raises(UserError, match=r"store\.clips: saved 13, asked 9"):
        learn(small_run(), tmp_path / "run", FakeStore(9))
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    with pytest.raises(UserError) as told:  # of a hundred differences the first are enough to see what it is
        learn(override(small_run(), [f"optim.{name}=0.5" for name in SEVEN]), tmp_path / "run")
    assert str(told.value).count(": saved") == 5
    assert "; and 2 more)" in str(told.value)
    changed = override(small_run(), ["checkpoint_every=3", "data.num_workers=0", "journal_every=2"])
    assert learn(changed, tmp_path / "run").finished


@pytest.mark.skipif(sys.platform == "win32", reason="there a process cannot be asked to end, only ended")
def test_sigterm_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    def terminate(done: int, total: int | None, note: str = "") -> None:
        if done == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    summary = learn(small_run(), tmp_path / "stopped", progress=terminate)
    assert summary.interrupted
    assert summary.step == 7
    assert summary.checkpoint == tmp_path / "stopped" / "checkpoints" / "step-7"
    assert signal.getsignal(signal.SIGTERM) == handler
    learn(small_run(), tmp_path / "stopped")
    learn(small_run(), tmp_path / "whole")
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    order = epoch_order(small_run().seed, 0, 13)
    broken = int(order[9])  # the tenth clip of the first epoch is in its third step
    with pytest.raises(UserError, match=r"the loss of step 3 is nan .*learning_rate"):
        learn(small_run(checkpoint_every=1), tmp_path / "run", FakeStore(nan_clip=broken))
    assert [record["step"] for record in read_records(tmp_path / "run" / "journal.jsonl")] == [1, 2]
    newest = newest_checkpoint(tmp_path / "run")
    assert newest == tmp_path / "run" / "checkpoints" / "step-2"
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    run = override(small_run(checkpoint_every=1), ["optim.learning_rate=1e30", "optim.clip_norm=null"])
    with pytest.raises(UserError, match=r"no longer numbers|the loss of step"):
        learn(run, tmp_path / "run")
    newest = newest_checkpoint(tmp_path / "run")
    if newest is not None:
        assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run").values())


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files there")
@pytest.mark.parametrize("last", [False, True])
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, last: bool) -> None:
    """No file may grow larger than a journal does, from step 6 on; with `last`, what fails is the last checkpoint."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: int, total: int | None, note: str = "") -> None:
        if done == 6:
            while not last and newest_checkpoint(tmp_path / "run") is None:
                time.sleep(0.01)  # it is still being written
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    run = small_run(checkpoint_every=5 if not last else 12)
    try:
        with pytest.raises(UserError, match=r"could not be written to .*checkpoints .*the one before it is whole"):
            learn(run, tmp_path / "run", progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept == ([] if last else ["step-5"])
    assert learn(run, tmp_path / "run").finished
    learn(run, tmp_path / "whole")
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_checkpoints_are_of_their_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights go on changing while a checkpoint is written: here it is not begun before the next one is due."""
    waiting: list[Any] = []

    class Late(CheckpointWriter):
        def start(self, write: Any) -> None:
            waiting.append(write)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CheckpointWriter", Late)
        learn(small_run(keep_checkpoints=0), tmp_path / "late")
    for write in waiting:
        write()
    learn(small_run(), tmp_path / "short", stop_after=5)
    steps = tmp_path / "late" / "checkpoints" / "step-5", tmp_path / "short" / "checkpoints" / "step-5"
    ours, theirs = (load_checkpoint(step / "model.safetensors").model.state_dict() for step in steps)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (torch.load(step / "state" / "training.pt", weights_only=True)["optimizer"] for step in steps)
    for name, known in theirs.items():
        assert all(torch.equal(ours[name][key], value) for key, value in known.items())


def test_evaluators_write_into_the_journal(tmp_path: Path) -> None:
    def judge(model: nn.Module, preprocess: PreprocessConfig) -> dict[str, float]:
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"frames": preprocess.audio_frames}

    learn(small_run(evaluate_every=5), tmp_path / "run", evaluators={"size": judge})
    records = read_records(tmp_path / "run" / "journal.jsonl")
    found = {record["step"]: record["evaluation"] for record in records if "evaluation" in record}
    assert found == {step: {"size": {"frames": 32}} for step in (5, 10, 12)}


def test_statistics_are_measured_once_and_saved(tmp_path: Path) -> None:
    run = override(small_run(), ["data.measure_statistics=true"])
    learn(run, tmp_path / "run", stop_after=1)
    saved = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert saved["run"]["preprocess"]["audio_mean"] == run.preprocess.audio_mean
    assert saved["preprocess"]["audio_mean"] != run.preprocess.audio_mean
    learn(run, tmp_path / "run", stop_after=1)
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert load_checkpoint(newest / "model.safetensors").preprocess == saved["preprocess"]


def test_only_the_clips_of_a_split(tmp_path: Path) -> None:
    summary = learn(override(small_run(), ["data.split=val"]), tmp_path / "run", stop_after=1)
    assert summary.clips == 4


def test_one_clip_one_window(tmp_path: Path) -> None:
    data = dataclasses.replace(small_run().data, batch_size=1, windows_per_clip=1)
    summary = learn(small_run(data=data, epochs=2), tmp_path / "run", FakeStore(1))
    assert summary.finished
    assert summary.last is not None
    assert summary.last["terms"]["contrastive"] == 0  # nothing to confuse it with


def test_bfloat16_learns_too(tmp_path: Path) -> None:
    summary = learn(small_run(dtype="bfloat16"), tmp_path / "run")
    records = read_records(tmp_path / "run" / "journal.jsonl")
    assert summary.finished
    assert records[-1]["loss"] < records[0]["loss"]
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "run").values())


def test_a_folder_of_a_run_that_was_refused_can_be_used(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="batch"):
        learn(small_run(), tmp_path / "run", FakeStore(3))
    fewer = override(small_run(), ["data.batch_size=2", "steps=2"])
    assert learn(fewer, tmp_path / "run", FakeStore(3)).finished
    saved = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert saved["run"]["data"]["batch_size"] == 2
    with pytest.raises(UserError, match="belongs to another run"):  # now it has begun
        learn(override(fewer, ["data.batch_size=1"]), tmp_path / "run", FakeStore(3))


def test_a_validation_split_is_looked_up_in_the_store(tmp_path: Path) -> None:
    data = ["data.validation_split=vall"]
    with pytest.raises(StoreError, match="has no split 'vall'"):
        learn(override(small_run(), data), tmp_path / "run", NamedSplits())
    with pytest.raises(StoreError, match=r"'val' would be learned from as well, as all of the store is"):
        learn(override(small_run(), ["data.validation_split=val"]), tmp_path / "run", NamedSplits())
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="batch"):
        learn(small_run(), tmp_path / "few", FakeStore(3))
    with pytest.raises(ConfigError, match=r"model\.audio_frames is 64 but the preprocessing gives 32"):
        learn(override(small_run(), ["model.audio_frames=64"]), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()
    with pytest.raises(UserError, match="no device 'gpu'"):
        learn(small_run(device="gpu"), tmp_path / "gpu")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot make the run folder"):
        learn(small_run(), tmp_path / "file" / "run")


def test_a_damaged_run_folder_is_said(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "run", stop_after=1)
    (tmp_path / "run" / "checkpoints" / "step-1" / "state" / "training.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"training\.pt cannot be read"):
        learn(small_run(), tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        learn(small_run(), tmp_path / "run")


def test_what_a_kill_left_half_written_is_removed(tmp_path: Path) -> None:
    learn(small_run(), tmp_path / "run", stop_after=1)
    half = tmp_path / "run" / "checkpoints" / ".step-2.part"
    half.mkdir()
    learn(small_run(), tmp_path / "run", stop_after=1)
    assert not half.exists()


def test_the_caller_keeps_its_random_numbers(tmp_path: Path) -> None:
    torch.manual_seed(11)
    wanted = torch.rand(3)
    torch.manual_seed(11)
    learn(small_run(), tmp_path / "run", stop_after=1)
    assert torch.equal(torch.rand(3), wanted)
