"""A step must not make the CPU wait for a GPU. If these fail, a GPU stands idle while the CPU prepares the next step.

Without a GPU, the operations are counted that would make a CPU wait for one; with one, torch itself is asked.
"""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fake_store import FakeStore, LabelledStore, small_classifier_run, small_run
from lookhear.config import override
from lookhear.training import loop
from lookhear.training.loop import train
from lookhear.training.run import Run

aten = torch.ops.aten
# Reading a number, counting what is true, and making a tensor of Python's numbers, which is a copy from the CPU.
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.lift_fresh, aten._unique2}
AUGMENTED = [
    "augment.flip=0.5",
    "augment.zoom=0.7",
    "augment.color=0.5",
    "augment.gain=0.1",
    "augment.equaliser=0.1",
    "augment.noise=0.1",
    "augment.mask_mel_bins=4",
    "augment.mask_frames=4",
    "augment.published_noise=true",
    "augment.roll=true",
]
RUNS: dict[str, Run] = {
    "pre-training": override(small_run(), [*AUGMENTED, "objective.mask_ratio_range=[0.3,0.8]"]),
    "in pieces": override(small_run(), ["optim.accumulate=2", "objective.contrastive_mask_ratio=0.25"]),
    "structured masks": override(small_run(), ["objective.mask.audio_structure=time", "objective.local_share=0.5"]),
    "labels": override(small_classifier_run(), [*AUGMENTED, "augment.mixup=0"]),
}


class Waits(TorchDispatchMode):
    """Where the CPU would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        chosen = packet is aten.index and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        if packet in WAITING or chosen:
            own = [frame for frame in traceback.extract_stack() if "/lookhear/" in frame.filename]
            self.places.append(f"{func} in {own[-1].name}, line {own[-1].lineno}" if own else str(func))
        return func(*args, **(kwargs or {}))


def watch_steps(monkeypatch: pytest.MonkeyPatch, watch: Callable[[Callable[[], Any]], Any]) -> None:
    """Puts `watch` around every step but the first, which fills tables that are kept."""
    take_step = loop._take_step
    seen = []

    def watched(*values: Any) -> Any:
        seen.append(1)
        return take_step(*values) if len(seen) == 1 else watch(lambda: take_step(*values))

    monkeypatch.setattr(loop, "_take_step", watched)


def learn(run: Run, folder: Path) -> None:
    store = LabelledStore() if run.num_classes else FakeStore()
    assert train(run, store, folder, stop_after=3).step == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RUNS)
def test_nothing_in_a_step_reads_from_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    waits = Waits()

    def watch(step: Callable[[], Any]) -> Any:
        with waits:
            return step()

    watch_steps(monkeypatch, watch)
    learn(RUNS[name], tmp_path / "run")
    assert not waits.places


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: torch.tensor([1.0, 2.0]) + x[:2],
        lambda x: x.nonzero(),
    ],
)
def test_what_waits_is_found(wait: Callable[[torch.Tensor], Any]) -> None:
    with Waits() as waits:
        wait(torch.ones(4))
    assert waits.places


@pytest.mark.gpu
@pytest.mark.parametrize("name", RUNS)
def test_torch_finds_no_waiting_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def watch(step: Callable[[], Any]) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    watch_steps(monkeypatch, watch)
    learn(override(RUNS[name], ["device=cuda"]), tmp_path / "run")
