"""The surveyed methods on two processes of half a batch against one of a whole batch.

If these fail, banks and queues of processes drift apart, or the same recipe learns something else on two devices, also
where teachers lack some clips. All is done by the same two processes: to start them takes longer than their work.
"""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import taught_steps
from fake_store import FakeStore
from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.objectives.agreement import find_agreeing
from lookhear.objectives.step import Step
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.resume import newest_checkpoint
from methods import ENCODER, METHODS, MODEL, NUM_CLIPS, make_batch, make_model, method_run

EPOCHS = {"sscl": (0, 1, 2, 3), "cma": (0, 1)}
BATCH_NORM = replace(MODEL, audio=replace(ENCODER, norm="batch"), visual=replace(ENCODER, norm="batch"))


class Pair(nn.Module):
    """Model and objective as the loop wraps them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = make_model()
        torch.manual_seed(1)
        self.objective = METHODS[name].build(self.model, num_instances=NUM_CLIPS, num_classes=0)

    def forward(self, batch: Batch, draws: Draws) -> Step:
        step: Step = self.objective(self.model, batch, draws)
        return step


def steps_of(name: str, rank: int, world: int) -> list[dict[str, Tensor]]:
    """For each step its loss, gradients, and what the objective knows after it; the model stays as it is."""
    pair = Pair(name)
    wrapped = distributed.wrap(pair)
    found = []
    # clip 5 is in two steps, and in the last one twice
    for number, (epoch, clips) in enumerate(
        [(epoch, (3 * epoch % 9, 5, 12 - epoch, 5 if epoch == 1 else 2)) for epoch in EPOCHS.get(name, (0, 1))]
    ):
        pair.objective.begin_epoch(epoch)
        whole = make_batch(clips, seed=number)
        rows = slice(rank, None, world)
        tensors = {key: getattr(whole, key)[rows] for key in ("index", "start_seconds", "audio", "frames")}
        batch = replace(whole, clip_ids=whole.clip_ids[rows], **tensors)
        pair.zero_grad(set_to_none=True)
        step = wrapped(batch, Draws(seed=3, epoch=epoch, step=number))
        step.loss.backward()
        pair.objective.after_step(pair.model)
        record = {key: value.grad for key, value in pair.named_parameters() if value.grad is not None}
        record |= {f"state {key}": value.clone() for key, value in pair.objective.state_dict().items()}
        found.append(record | {"loss": distributed.average(step.loss)})
    return found


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found: dict[str, Any] = {}
    with distributed.process_group(torch.device("cpu")):
        for name in METHODS:
            found[name] = steps_of(name, rank, 2)
        half = taught_steps.half_batch(rank)
        found |= {case: taught_steps.loss_and_gradients(case, folder / "taught", half) for case in taught_steps.CASES}
        generator = torch.Generator().manual_seed(0)
        vectors = torch.nn.functional.normalize(torch.randn(2, 13, 8, generator=generator), dim=2)
        found["agreeing"] = find_agreeing(
            *vectors, torch.ones(13, dtype=torch.bool), count=4, device=torch.device("cpu")
        )
        for steps in (5, None):
            train(method_run("cma"), FakeStore(), folder / "cma", stop_after=steps)  # type: ignore[arg-type]
        # running statistics differ between processes unless they are shared: the side that stands still shows it
        run = method_run("sscl", model=BATCH_NORM)
        train(run, FakeStore(), folder / "norm")  # type: ignore[arg-type]
        for steps in (5, None):
            train(run, FakeStore(), folder / "norm_parts", stop_after=steps)  # type: ignore[arg-type]
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did their part."""
    folder = tmp_path_factory.mktemp("two")
    taught_steps.save_teachers(folder / "taught")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(port, folder), nprocs=2)
    return folder


def found_by(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{rank}.pt")
    return found


@pytest.mark.parametrize("name", METHODS)
def test_two_halves_equal_one_whole(two: Path, name: str) -> None:
    """Loss and gradients of every step, and banks after it; of a queue the keys stand in another order."""
    wanted = steps_of(name, 0, 1)
    for rank in (0, 1):
        for ours, theirs in zip(found_by(two, rank)[name], wanted, strict=True):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                if name != "moco" or ".queues." not in key:
                    torch.testing.assert_close(
                        ours[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: key + text
                    )


@pytest.mark.parametrize("name", METHODS)
def test_what_processes_know_is_the_same_to_the_bit(two: Path, name: str) -> None:
    for one, other in zip(found_by(two, 0)[name], found_by(two, 1)[name], strict=True):
        states = [key for key in one if key.startswith("state ")]
        assert states or name == "end_to_end"
        assert all(torch.equal(one[key], other[key]) for key in states)


@pytest.mark.parametrize("case", taught_steps.CASES)
def test_two_processes_learn_from_teachers_what_one_does(two: Path, case: str) -> None:
    alone = taught_steps.loss_and_gradients(case, two / "taught", taught_steps.whole_batch())
    assert any(bool(value.any()) for name, value in alone.items() if not name.startswith("term"))
    for rank in (0, 1):
        found = found_by(two, rank)[case]
        for name, value in alone.items():
            assert torch.allclose(found[name], value, atol=1e-5, rtol=1e-4), name


def test_agreement_is_shared_out_and_the_same_everywhere(two: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(2, 13, 8, generator=generator), dim=2)
    alone = find_agreeing(*vectors, torch.ones(13, dtype=torch.bool), count=4, device=torch.device("cpu"))
    assert all(torch.equal(found_by(two, rank)["agreeing"], alone) for rank in (0, 1))


def test_a_run_on_two_processes_is_the_run_on_one(two: Path, tmp_path: Path) -> None:
    """Also through a stop in the middle of an epoch."""
    train(method_run("cma"), FakeStore(), tmp_path / "run")  # type: ignore[arg-type]
    one, pair = (read_records(folder / "journal.jsonl") for folder in (tmp_path / "run", two / "cma"))
    assert len(pair) == 12
    assert pair[0]["loss"] == pytest.approx(one[0]["loss"], abs=1e-5)
    assert [record["loss"] for record in pair] == pytest.approx([record["loss"] for record in one], abs=5e-2)


def test_a_stop_changes_nothing_where_statistics_are_kept(two: Path) -> None:
    whole, parts = (two / name for name in ("norm", "norm_parts"))
    assert (whole / "journal.jsonl").read_bytes() == (parts / "journal.jsonl").read_bytes()
    newest = [newest_checkpoint(folder) for folder in (whole, parts)]
    states = [torch.load(path / "state" / "training.pt")["objective"] for path in newest if path is not None]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
