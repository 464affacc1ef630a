"""Batches on their way. If these fail, nobody is told that the loader is too slow, or a GPU waits for copies."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_store import FakeStore, made_batch, small_run
from lookhear.data.batch import Batch
from lookhear.training.feed import Clock, on_device
from lookhear.training.loop import train


class SlowStore(FakeStore):
    """A store that takes its time."""

    def frames(self, index: int, which: Any) -> np.ndarray:
        time.sleep(0.05)
        return super().frames(index, which)


def slow_batches(count: int, seconds: float) -> Iterator[Batch]:
    for _ in range(count):
        time.sleep(seconds)
        yield made_batch(2, 1)


def test_waiting_is_what_passes_until_a_batch_comes() -> None:
    clock = Clock(torch.device("cpu"), samples_per_step=2, num_workers=0)
    for _ in clock.waits(slow_batches(4, 0.03)):
        time.sleep(0.01)
    record = clock.lap(4)
    assert 0.5 < record["data_wait_share"] < 1
    assert record["samples_per_second"] == pytest.approx(8 / record["seconds"], rel=0.01)
    for _ in clock.waits(slow_batches(4, 0.0)):
        time.sleep(0.03)
    assert clock.lap(8)["data_wait_share"] < 0.5


def test_a_device_that_is_busy_waits_for_nothing() -> None:
    """On a GPU the CPU is ahead: a batch that comes while the step before is computed came in time."""

    class Busy:
        def query(self) -> bool:
            return False

        def record(self, stream: object) -> None: ...

    clock = Clock(torch.device("cuda"), samples_per_step=2, num_workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Event", Busy)
        patch.setattr(torch.cuda, "current_stream", lambda device: None)
        for _ in clock.waits(slow_batches(6, 0.02)):
            pass
    assert clock.lap(6)["data_wait_share"] < 0.4, "the first batch alone is waited for"


def test_what_to_do_is_said_once(tmp_path: Path) -> None:
    notes: list[str] = []

    def note(done: int, total: int | None, text: str = "") -> None:
        notes.append(text)

    train(small_run(), SlowStore(), tmp_path / "slow", progress=note)  # type: ignore[arg-type]
    told = [text for text in notes if "the loader does not keep up" in text]
    assert len(told) == 1
    assert "data.num_workers (now 0;" in told[0]
    assert told[0] != notes[0], "the first lap has the start of the loader in it"


def test_a_lap_without_waiting_says_nothing() -> None:
    clock = Clock(torch.device("cpu"), samples_per_step=2, num_workers=2)
    for share in (0.9, 0.1):
        clock.lap(1)
        assert clock.advice({"data_wait_share": share}) == ""
    assert "now 2;" in clock.advice({"data_wait_share": 0.3})


def test_on_the_cpu_batches_stay_what_they_are() -> None:
    batch = made_batch()
    (moved,) = on_device(iter([batch]), torch.device("cpu"))
    assert all(torch.equal(value, moved.tensors()[name]) for name, value in batch.tensors().items())


@pytest.mark.gpu
def test_copies_to_a_gpu_arrive_before_they_are_used() -> None:
    device = torch.device("cuda")
    batches = [made_batch(8).pin_memory() for _ in range(20)]
    work = torch.randn(2000, 2000, device=device)
    for found, wanted in zip(on_device(iter(batches), device), batches, strict=True):
        work = work @ work / 2000
        assert wanted.audio is not None
        assert torch.equal(found.tensors()["audio"].cpu(), wanted.audio)
