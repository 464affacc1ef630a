"""Runs of the surveyed methods: state that goes on after a kill, phases, and what one run hands to the next.

If these fail, a killed run has other banks than one that was never stopped, or CMA begins with random positives.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_store import FakeStore
from lookhear.config import override
from lookhear.data.store import Store
from lookhear.errors import ConfigError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.models.multi_stream import MultiStream
from lookhear.objectives.agreement import AgreementConfig
from lookhear.training.loop import TrainSummary, train
from lookhear.training.resume import newest_checkpoint
from lookhear.training.run import Run
from methods import BANK, METHODS, method_run


class Killed(BaseException):
    """What a test raises in place of SIGKILL."""


def learn(run: Run, folder: Path, store: Any = None, **options: Any) -> TrainSummary:
    return train(run, store or FakeStore(), folder, **options)


def state_of(folder: Path) -> dict[str, Any]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    found: dict[str, Any] = torch.load(newest / "state" / "training.pt")
    return found


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint / "model.safetensors").model.state_dict()


def assert_equal_states(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    """Banks, queue, copy, levels of noise, agreeing clips and phase: killed two steps after a checkpoint."""
    learn(method_run(name), tmp_path / "whole")

    def kill(done: int, total: int | None, note: str = "") -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        learn(method_run(name), tmp_path / "killed", progress=kill)
    assert learn(method_run(name), tmp_path / "killed").finished
    whole, killed = (tmp_path / folder for folder in ("whole", "killed"))
    assert (whole / "journal.jsonl").read_bytes() == (killed / "journal.jsonl").read_bytes()
    assert_equal_states(state_of(whole)["objective"], state_of(killed)["objective"])
    newest = [newest_checkpoint(folder) for folder in (whole, killed)]
    assert_equal_states(weights_of(newest[0]), weights_of(newest[1]))  # type: ignore[arg-type]


def test_stopped_between_two_epochs(tmp_path: Path) -> None:
    """The change of phase is made by the call that goes on."""
    for name in ("sscl", "cma"):
        learn(method_run(name), tmp_path / name / "whole")
        learn(method_run(name), tmp_path / name / "parts", stop_after=3)
        learn(method_run(name), tmp_path / name / "parts")
        whole, parts = (tmp_path / name / folder / "journal.jsonl" for folder in ("whole", "parts"))
        assert whole.read_bytes() == parts.read_bytes()


def test_the_side_that_stands_still_keeps_its_weights_over_a_phase(tmp_path: Path) -> None:
    run = override(method_run("sscl"), ["checkpoint_every=3", "keep_checkpoints=0", "optim.weight_decay=0.1"])
    learn(run, tmp_path / "run")
    epochs = [weights_of(tmp_path / "run" / "checkpoints" / f"step-{step}") for step in (3, 6, 9, 12)]
    start = replace(run, optim=replace(run.optim, learning_rate=0.0), steps=1)
    learn(start, tmp_path / "start")
    newest = newest_checkpoint(tmp_path / "start")
    assert newest is not None
    untrained = weights_of(newest)

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], side: str) -> bool:
        return any(not torch.equal(before[name], after[name]) for name in before if name.startswith(side))

    assert not moved(untrained, epochs[0], "audio")
    assert moved(untrained, epochs[0], "visual")
    assert moved(epochs[0], epochs[1], "audio")
    assert moved(epochs[0], epochs[1], "visual")
    assert not moved(epochs[1], epochs[2], "visual")
    assert moved(epochs[1], epochs[2], "audio")


def test_the_optimiser_forgets_where_a_phase_begins(tmp_path: Path) -> None:
    """Adam counts its steps: after the one step of phase II.a in epoch 2 it has counted one."""
    run = override(method_run("sscl"), ["checkpoint_every=1"])
    learn(run, tmp_path / "run", stop_after=7)
    counted = {int(state["step"]) for state in state_of(tmp_path / "run")["optimizer"].values()}
    assert counted == {1}
    learn(method_run("avid_cross"), tmp_path / "cross", stop_after=7)
    counted = {int(state["step"]) for state in state_of(tmp_path / "cross")["optimizer"].values()}
    assert counted == {7}


def test_a_run_starts_from_the_banks_of_another(tmp_path: Path) -> None:
    learn(method_run("avid_cross"), tmp_path / "avid")
    agreement = AgreementConfig(count=3, warmup_epochs=0)
    objective = replace(METHODS["cma"], keys=replace(BANK, num_negatives=6, agreement=agreement))
    run = method_run("cma", objective=objective, initial=str(tmp_path / "avid"))
    still = replace(run, optim=replace(run.optim, learning_rate=0.0), steps=1)
    still = replace(still, objective=replace(objective, keys=replace(objective.keys, visual_momentum=1.0)))
    learn(still, tmp_path / "cma")
    banks = [state_of(tmp_path / name)["objective"]["source.banks.visual.vectors"] for name in ("avid", "cma")]
    assert torch.equal(*banks)
    # another store: its rows are other clips
    with pytest.raises(ConfigError, match="banks hold 0 clips"):
        learn(run, tmp_path / "other", FakeStore(14))
    learn(method_run("avid_cross", data=replace(run.data, split="train")), tmp_path / "part")
    with pytest.raises(ConfigError, match=r"other clips of the store|banks hold 0 clips"):
        learn(replace(run, initial=str(tmp_path / "part")), tmp_path / "parts")


def test_banks_have_a_row_for_each_clip_that_is_learned_from(tmp_path: Path) -> None:
    store = FakeStore(14, silent=(2,))
    assert not isinstance(store, Store)
    learn(method_run("avid_cross"), tmp_path / "run", store)
    found = state_of(tmp_path / "run")["objective"]["source.banks.audio.instances"]
    assert found.tolist() == [index for index in range(14) if index != 2]


def test_what_a_model_draws_by_itself_is_the_same_after_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout follows from seed and step, not from a generator that runs along."""
    forward = MultiStream.encode_frames

    def dropping(self: MultiStream, *given: Any, **options: Any) -> Any:
        found = forward(self, *given, **options)
        return replace(found, pooled=torch.nn.functional.dropout(found.pooled, 0.5, self.training))

    monkeypatch.setattr(MultiStream, "encode_frames", dropping)
    learn(method_run("end_to_end"), tmp_path / "whole")
    learn(method_run("end_to_end"), tmp_path / "parts", stop_after=4)
    torch.rand(7)
    learn(method_run("end_to_end"), tmp_path / "parts")
    whole, parts = (tmp_path / name / "journal.jsonl" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
