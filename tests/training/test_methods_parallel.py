"""The surveyed methods where two processes share out weights (FSDP2), and where a batch is asked for in pieces.

If these fail, banks, queues, slow copies or composers learn something else with `parallel=fsdp` than without.
"""

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_store import INPUT, FakeStore, LabelledStore, small_run
from lookhear import distributed
from lookhear.data.preprocess import PreprocessConfig
from lookhear.errors import ConfigError
from lookhear.models.encoders import EncoderConfig
from lookhear.objectives.compositional import CompositionalConfig
from lookhear.objectives.distillation import DistillationConfig, StageMatch
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.resume import newest_checkpoint
from lookhear.training.run import Run
from methods import METHODS, MODEL, method_run
from taught import CLASSES, CLIP_STUDENT, PICTURES, STUDENT, save_teacher

TAUGHT = ("ccl", "plain", "listen_to_look")
# An encoder of transformer blocks, which FSDP shares out one by one.
BLOCKS = replace(
    MODEL,
    audio=EncoderConfig(kind="vit", width=16, blocks=(1, 1), patch=(16, 16), heads=2),
    visual=EncoderConfig(kind="vit", width=16, blocks=(1, 1), patch=(8, 8), heads=2),
)
STEPS = 8


def run_of(name: str, folder: Path, **changes: Any) -> Run:
    """Twelve steps of a method; teachers lie in `folder`."""
    if name not in TAUGHT:
        return method_run(name, model=BLOCKS if name == "moco" else MODEL, **changes)
    teacher = str(folder / "teacher.safetensors")
    if name == "listen_to_look":
        stages = (StageMatch(how="attention"), StageMatch(how="l2", student="audio"))
        objective: Any = DistillationConfig(teacher=teacher, stages=stages, labels_weight=0.5)
    else:
        objective = CompositionalConfig(audio_teacher=teacher, image_teacher=teacher, composed=name == "ccl")
    return small_run(
        model=STUDENT if name == "listen_to_look" else CLIP_STUDENT,
        preprocess=PreprocessConfig(**INPUT, frames_per_window=PICTURES),
        objective=objective,
        data=replace(small_run().data, classes=CLASSES),
        **changes,
    )


def store_of(name: str) -> Any:
    return LabelledStore() if name in TAUGHT else FakeStore()


def learn(name: str, folder: Path, kind: str, *, stop_after: int | None = STEPS, **changes: Any) -> None:
    run = run_of(name, folder, checkpoint_every=3, **changes)
    train(run, store_of(name), folder / kind / name, stop_after=stop_after)


def worker(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.process_group(torch.device("cpu")):
        for name in (*METHODS, *TAUGHT):
            learn(name, folder, "ddp", parallel="ddp")
            for steps in (3, STEPS - 3):
                learn(name, folder, "fsdp", parallel="fsdp", stop_after=steps)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes learned every method, one way and the other (there stopped after 3 steps)."""
    folder = tmp_path_factory.mktemp("two")
    save_teacher(folder / "teacher.safetensors")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(port, folder), nprocs=2)
    return folder


def state_of(folder: Path) -> dict[str, Any]:
    newest = newest_checkpoint(folder)
    assert newest is not None
    found: dict[str, Any] = torch.load(newest / "state" / "training.pt")
    assert found["step"] == STEPS
    return found


@pytest.mark.ci
@pytest.mark.parametrize("name", [*METHODS, *TAUGHT])
def test_weights_that_are_shared_out_learn_the_same(two: Path, name: str) -> None:
    """Losses, and what the objective keeps; up to the rounding of sums taken in another order."""
    one, other = (read_records(two / kind / name / "journal.jsonl") for kind in ("ddp", "fsdp"))
    assert [record["step"] for record in other] == list(range(1, STEPS + 1))
    assert [record["loss"] for record in other] == pytest.approx([record["loss"] for record in one], rel=1e-5)
    kept, found = (state_of(two / kind / name)["objective"] for kind in ("ddp", "fsdp"))
    assert kept.keys() == found.keys()
    for key, value in kept.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert found[key].shape == value.shape, key
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-4, msg=lambda text, key=key: key + text)
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found[key], value), key


@pytest.mark.ci
@pytest.mark.parametrize("name", ["moco", "cma", "sscl", "ccl"])
def test_one_process_goes_on_from_two(two: Path, name: str) -> None:
    learn(name, two, "fsdp", stop_after=None)
    records = read_records(two / "fsdp" / name / "journal.jsonl")
    assert len(records) == 12
    assert all(record["loss"] == record["loss"] for record in records)


@pytest.mark.parametrize("name", [*METHODS, *TAUGHT])
def test_a_batch_in_pieces_is_refused(name: str, tmp_path: Path) -> None:
    save_teacher(tmp_path / "teacher.safetensors")
    run = run_of(name, tmp_path)
    whole = replace(run, optim=replace(run.optim, accumulate=2))
    with pytest.raises(ConfigError, match=r"optim\.accumulate is 2, but \w+ learns from a batch as a whole only; set"):
        train(whole, store_of(name), tmp_path / "run")
