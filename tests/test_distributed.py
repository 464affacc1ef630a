"""Two processes of half a batch against one of a whole batch.

If these fail, the same recipe learns something else on two devices than on one.
"""

import dataclasses
import json
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fake_store import FakeStore, LabelledStore, small_classifier_run, small_run
from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.distributed import Parallel
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.models.checkpoint import find_checkpoint, load_checkpoint
from lookhear.objectives import CAVMAEObjectiveConfig
from lookhear.training.blocks import blocks_of, prepare_blocks
from lookhear.training.gradients import Pair, compute_gradients
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.resume import newest_checkpoint

OBJECTIVE = CAVMAEObjectiveConfig(contrastive_weight=1.0, direction="both", learn_temperature=True)
LOCAL = dataclasses.replace(OBJECTIVE, negatives="local")
# A ratio drawn in every step, a pass of its own for contrast, and global and local loss.
OTHERS = dataclasses.replace(OBJECTIVE, mask_ratio_range=(0.3, 0.8), contrastive_mask_ratio=0.25, local_share=0.5)
# The other model, two joint blocks, and a tower that is no transformer.
SIZES = {f.name: getattr(small_run().model, f.name) for f in dataclasses.fields(CAVMAEConfig)}
CONV = CAVMAEConfig(**SIZES | {"joint_depth": 2, "visual_tower": "conv"})
PARALLEL: tuple[Parallel, ...] = ("ddp", "fsdp")


def make_pair(config: CAVMAEObjectiveConfig, sizes: CAVMAEConfig | None = None) -> Pair:
    torch.manual_seed(0)
    model = CAVMAESync(small_run().model) if sizes is None else CAVMAE(sizes)
    return Pair(model, config.build(model), torch.float32)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def whole_batch() -> Batch:
    """Four clips of two windows that overlap in clip 1 alone."""
    generator = torch.Generator().manual_seed(0)
    start = torch.tensor([[0.0, 1.0], [0.0, 0.1], [0.5, 3.0], [0.0, 0.4]], dtype=torch.float64)
    return Batch(
        clip_ids=("a", "b", "c", "d"),
        index=torch.arange(4),
        start_seconds=start,
        audio=torch.randn(4, 2, 32, 32, generator=generator),
        frames=torch.randn(4, 2, 3, 16, 24, generator=generator),
    )


def loss_and_gradients(
    config: CAVMAEObjectiveConfig,
    batch: Batch,
    sizes: CAVMAEConfig | None = None,
    *,
    parallel: Parallel = "ddp",
    pieces: int = 1,
    checkpointed: bool = False,
) -> dict[str, torch.Tensor]:
    pair = make_pair(config, sizes)
    prepare_blocks(pair.model, checkpointed=checkpointed)
    # it must live until the backward pass, whose hooks are its own
    wrapped = distributed.wrap(pair, parallel=parallel, units=blocks_of(pair.model))
    step = compute_gradients(wrapped, batch, Draws(seed=3, epoch=1, step=5), pieces=pieces)
    found = {name: distributed.gathered(p.grad) for name, p in pair.named_parameters() if p.grad is not None}
    return found | {"loss": distributed.average(step.loss)}


def fine_tune(folder: Path, *, stop_after: int | None = None) -> None:
    """Everything that fine-tuning draws, averages and chooses."""
    data = dataclasses.replace(small_classifier_run().data, sampling="balanced")
    run = small_classifier_run(
        data=data, average_epochs=(2, 4), evaluate_every="epoch", select="validation.size", keep_checkpoints=0
    )
    evaluators = {"validation": lambda model, preprocess: {"size": float(model.head.weight.square().sum())}}
    train(run, LabelledStore(), folder, evaluators=evaluators, stop_after=stop_after)  # type: ignore[arg-type]


def worker(rank: int, port: int, folder: Path) -> None:
    """One of two processes: writes what it found to `folder`."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    found: dict[str, Any] = {}
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (rank, 2, rank)
        assert distributed.any_rank(rank == 1, torch.device("cpu"))
        assert not distributed.any_rank(False, torch.device("cpu"))
        own = torch.tensor([[rank + 1.0]], requires_grad=True)
        gathered = distributed.all_gather(own)
        (gathered * torch.tensor([[1.0], [10.0]]) * (rank + 1)).sum().backward()
        found["gathered"], found["gradient"] = gathered.detach(), own.grad
        found["average"] = distributed.average(torch.tensor(float(rank)))
        half = whole_batch().rows(slice(2 * rank, 2 * rank + 2))
        for parallel in PARALLEL:
            found |= {
                f"{parallel} all": loss_and_gradients(OBJECTIVE, half, parallel=parallel),
                f"{parallel} local": loss_and_gradients(LOCAL, half, parallel=parallel),
                f"{parallel} others": loss_and_gradients(OTHERS, half, parallel=parallel),
                f"{parallel} conv": loss_and_gradients(OBJECTIVE, half, CONV, parallel=parallel),
                f"{parallel} in pieces": loss_and_gradients(OTHERS, half, parallel=parallel, pieces=2),
                f"{parallel} twice": loss_and_gradients(
                    OBJECTIVE, half, parallel=parallel, pieces=2, checkpointed=True
                ),
            }
            train(small_run(parallel=parallel), FakeStore(), folder / parallel)  # type: ignore[arg-type]
        train(small_run(), FakeStore(), folder / "wide", stop_after=5)  # type: ignore[arg-type]
        train(small_run(parallel="fsdp"), FakeStore(), folder / "narrow")  # type: ignore[arg-type]
        for steps in (7, None):
            fine_tune(folder / "labels", stop_after=steps)
        try:
            data = dataclasses.replace(small_run().data, batch_size=3)
            train(small_run(data=data), FakeStore(), folder / "odd")  # type: ignore[arg-type]
        except UserError as error:
            found["odd"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did their part."""
    folder = tmp_path_factory.mktemp("two")
    train(small_run(), FakeStore(), folder / "narrow", stop_after=5)  # type: ignore[arg-type]
    torch.multiprocessing.spawn(worker, args=(free_port(), folder), nprocs=2)
    return folder


def found_by(folder: Path, rank: int) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / f"{rank}.pt")
    return found


@pytest.mark.ci
def test_gathering_brings_the_gradient_back(two: Path) -> None:
    for rank in (0, 1):
        found = found_by(two, rank)
        assert found["gathered"].tolist() == [[1.0], [2.0]]
        # row r is weighted 1 or 10; rank 0 counts it once and rank 1 twice
        assert found["gradient"].tolist() == [[3.0 * 10**rank]]
        assert found["average"] == 0.5


@pytest.mark.ci
@pytest.mark.parametrize("parallel", PARALLEL)
@pytest.mark.parametrize(
    ("name", "objective", "sizes"),
    [
        ("all", OBJECTIVE, None),
        ("others", OTHERS, None),
        ("conv", OBJECTIVE, CONV),
        ("in pieces", OTHERS, None),
        ("twice", OBJECTIVE, None),
    ],
)
def test_two_halves_equal_one_whole(
    two: Path, parallel: Parallel, name: str, objective: CAVMAEObjectiveConfig, sizes: CAVMAEConfig | None
) -> None:
    whole = loss_and_gradients(objective, whole_batch(), sizes)
    for rank in (0, 1):
        found = found_by(two, rank)[f"{parallel} {name}"]
        assert found.keys() == whole.keys()
        # of the largest one: before a normalisation the gradient of a bias is 0, and what is found is its rounding
        tolerance = 1e-5 * max(1.0, max(float(wanted.abs().max()) for wanted in whole.values()))
        for key, wanted in whole.items():
            if key.endswith("stem.layers.0.bias"):
                assert max(found[key].abs().max(), wanted.abs().max()) < 1e-3
                continue
            torch.testing.assert_close(found[key], wanted, rtol=1e-5, atol=tolerance)


@pytest.mark.ci
@pytest.mark.parametrize("parallel", PARALLEL)
def test_local_negatives_are_those_of_the_rank(two: Path, parallel: Parallel) -> None:
    halves = [loss_and_gradients(LOCAL, whole_batch().rows(rows)) for rows in (slice(0, 2), slice(2, 4))]
    found = found_by(two, 0)[f"{parallel} local"]
    for name, value in found.items():
        torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found["loss"], found_by(two, 0)[f"{parallel} all"]["loss"])


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_records(folder / "journal.jsonl")]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    train(small_run(), FakeStore(), folder)  # type: ignore[arg-type]
    return folder


@pytest.mark.ci
@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_run_on_two_processes_is_the_run_on_one(two: Path, one: Path, parallel: Parallel) -> None:
    alone, pair = (read_records(folder / "journal.jsonl") for folder in (one, two / parallel))
    assert [record["step"] for record in pair] == [record["step"] for record in alone]
    assert pair[0]["loss"] == pytest.approx(alone[0]["loss"], abs=1e-5)
    assert pair[0]["gradient_norm"] == pytest.approx(alone[0]["gradient_norm"], rel=1e-5)
    # rounding grows with every step of the optimiser
    assert losses(two / parallel) == pytest.approx(losses(one), abs=5e-3)
    saved = [newest_checkpoint(folder) for folder in (one, two / parallel)]
    assert [path.name for path in saved if path is not None] == ["step-12"] * 2
    loaded = [load_checkpoint(find_checkpoint(folder)) for folder in (one, two / parallel)]
    assert loaded[0].extra == loaded[1].extra
    wanted, found = (checkpoint.model.state_dict() for checkpoint in loaded)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-2)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["wide", "narrow"])
def test_another_number_of_processes_goes_on(two: Path, one: Path, name: str) -> None:
    """Two processes for five steps and one for the rest, and the reverse, with FSDP."""
    train(small_run(), FakeStore(), two / name)  # type: ignore[arg-type]
    assert len(losses(two / name)) == 12
    assert losses(two / name) == pytest.approx(losses(one), abs=5e-3)


@pytest.mark.ci
def test_local_negatives_want_as_many_processes_as_before(two: Path) -> None:
    path = two / "local"
    run = small_run(objective=dataclasses.replace(small_run().objective, negatives="local"))
    train(run, FakeStore(), path, stop_after=1)  # type: ignore[arg-type]
    values = json.loads((path / "run.json").read_text(encoding="utf-8"))
    (path / "run.json").write_text(json.dumps(values | {"processes": 4}), encoding="utf-8")
    with pytest.raises(UserError, match="begun on 4 processes and this is 1"):
        train(run, FakeStore(), path)  # type: ignore[arg-type]


@pytest.mark.ci
def test_fine_tuning_on_two_processes_is_that_on_one(two: Path, tmp_path: Path) -> None:
    """Also through a stop: balanced draws, mixing and masks, the average, and which step is best."""
    fine_tune(tmp_path / "labels")
    one, pair = (folder / "labels" for folder in (tmp_path, two))
    losses = [[record["loss"] for record in read_records(run / "journal.jsonl")] for run in (one, pair)]
    assert len(losses[1]) == 12
    assert losses[1][0] == pytest.approx(losses[0][0], abs=1e-5)
    assert losses[1] == pytest.approx(losses[0], abs=5e-3)
    averages = [load_checkpoint(find_checkpoint(run)).model.state_dict() for run in (one, pair)]
    for name, value in averages[0].items():
        torch.testing.assert_close(averages[1][name], value, rtol=0, atol=5e-3)
    best = [json.loads((run / "best.json").read_text(encoding="utf-8"))["step"] for run in (one, pair)]
    assert best[0] == best[1]


@pytest.mark.ci
def test_a_batch_that_cannot_be_shared_is_refused_by_every_rank(two: Path) -> None:
    assert all("2 processes cannot share evenly" in found_by(two, rank)["odd"] for rank in (0, 1))


def test_alone_everything_gives_back_what_it_got() -> None:
    tensor = torch.ones(2, 3, requires_grad=True)
    assert distributed.all_gather(tensor) is tensor
    assert distributed.own_rows(2) == slice(0, 2)
    assert not distributed.average(tensor).requires_grad
    module = nn.Linear(1, 1)
    assert distributed.wrap(module) is module
    distributed.barrier()
    with distributed.process_group(torch.device("cpu")):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_processes_wait_longer_than_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's own 10 minutes end before rank 0 has judged a large split."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **options: given.update(options))
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for name, value in alone.items():
        monkeypatch.setenv(name, value)
    with distributed.process_group(torch.device("cpu")):
        pass
    assert given["timeout"] >= timedelta(hours=12)


def test_a_launcher_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="torchrun"), distributed.process_group(torch.device("cpu")):
        pass
