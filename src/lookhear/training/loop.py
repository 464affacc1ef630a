"""The training loop: one for every model and objective, on one process or many.

Read `train`, then `_learn`: a run folder is opened and the state made or read back; then each step takes a batch, asks
the objective for its loss, moves the weights, and writes down what happened.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.augment import augment
from lookhear.data.batch import Batch
from lookhear.data.dataset import LeftOut, WindowDataset, make_batches, num_steps
from lookhear.data.draws import Draws
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import Store
from lookhear.device import keep_freed_memory, pick_device, pick_dtype
from lookhear.errors import UserError
from lookhear.models.checkpoint import find_checkpoint
from lookhear.objectives.step import Objective, Step
from lookhear.progress import Progress, quiet
from lookhear.training.journal import Journal
from lookhear.training.optim import OptimConfig, clip_gradients, learning_rate, set_learning_rate
from lookhear.training.resume import State, newest_checkpoint, open_run_folder, save_state, start_or_resume
from lookhear.training.run import Run
from lookhear.training.selection import Best, better_of, check_choice

# Takes the model (in eval mode) and its preprocessing; returns numbers by name, for the journal.
Evaluator = Callable[[nn.Module, PreprocessConfig], Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """How a call of `train` ended."""

    step: int
    """steps done, in this call and before"""
    total_steps: int
    """steps of the whole run"""
    interrupted: bool
    """stopped by SIGTERM; the same call goes on from here"""
    checkpoint: Path | None
    """folder of the newest checkpoint, from which training goes on"""
    model: Path | None
    """file that `lookhear.load` reads of this run: the average, the best step or the newest"""
    last: dict[str, Any] | None
    """the last record of the journal that this call wrote"""
    clips: int
    """clips that were learned from"""
    left_out: LeftOut
    """clips that could not be learned from, and why"""
    seconds: float
    """wall time of this call"""
    best: Best | None = None
    """the best step, where the run chooses one"""

    @property
    def finished(self) -> bool:
        """Whether the run is done."""
        return self.step >= self.total_steps


def train(
    run: Run,
    store: Store,
    folder: Path,
    *,
    evaluators: Mapping[str, Evaluator] | None = None,
    progress: Progress = quiet,
    stop_after: int | None = None,
) -> TrainSummary:
    """Trains `run` on `store` in `folder`, going on from its newest checkpoint if it has one.

    `stop_after` ends this call after so many steps, with a checkpoint. SIGTERM ends it after the step at hand, with
    a checkpoint and `interrupted` set. Raises UserError where the folder belongs to another run, the store has fewer
    clips than a batch, the disk is full, or the loss is no longer a number; the newest checkpoint is whole then.
    """
    run.check()
    check_choice(run.select, evaluators or ())
    begun = time.monotonic()
    device = pick_device(run.device)
    if device.type == "cpu":
        keep_freed_memory()
    with distributed.process_group(device), _sigterm() as terminated:
        preprocess = Preprocess(open_run_folder(run, store, folder))
        dataset = _open_dataset(run, store, preprocess.config)
        state = start_or_resume(run, folder, device, num_instances=len(store), classes=dataset.classes)
        plan = _Plan.of(run, dataset, start=state.step, stop_after=stop_after)
        keep = partial(
            save_state,
            run,
            state,
            folder,
            preprocess=preprocess.config,
            store_digest=store.digest,
            labels=dataset.classes if run.num_classes else (),
        )
        judge = partial(_evaluate, evaluators or {}, state.model, preprocess.config)
        with closing(_feed(run, dataset, plan)) as batches:
            journal = Journal(folder, writes=distributed.rank() == 0)
            last = _learn(
                run,
                state,
                plan,
                batches,
                preprocess,
                journal,
                keep=keep,
                judge=judge,
                stop=terminated,
                progress=progress,
            )
    checkpoint = newest_checkpoint(folder)
    return TrainSummary(
        step=state.step,
        total_steps=plan.total,
        interrupted=state.step < plan.last,
        checkpoint=checkpoint,
        model=None if checkpoint is None else find_checkpoint(folder),
        last=last,
        clips=len(dataset),
        left_out=dataset.left_out,
        seconds=time.monotonic() - begun,
        best=state.best,
    )


def _learn(
    run: Run,
    state: State,
    plan: "_Plan",
    batches: Iterator[Batch],
    preprocess: Preprocess,
    journal: Journal,
    *,
    keep: Callable[[], Path],
    judge: Callable[[], dict[str, Any]],
    stop: threading.Event,
    progress: Progress,
) -> dict[str, Any] | None:
    """Every step until the plan ends or `stop` is set; returns the last record of the journal."""
    device = next(state.model.parameters()).device
    dtype = pick_dtype(run.dtype, device)
    trained = distributed.wrap(_Trained(state.model, state.objective))
    clock = _Clock(samples_per_step=run.data.batch_size * run.data.windows_per_clip)
    last = None
    for batch in clock.waits(batches):
        epoch = plan.epoch(state.step)
        rate = plan.learning_rate(run.optim, state.step)
        set_learning_rate(state.optimizer, rate)
        draws = Draws(seed=run.seed, epoch=epoch, step=state.step)
        ready = preprocess(batch.to(device))
        ready = augment(ready, run.augment, draws, masked_value=preprocess.config.normalised_zero)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            result = trained(ready, draws)
        state.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        norm = None if run.optim.clip_norm is None else clip_gradients(state.parts, run.optim.clip_norm)
        state.optimizer.step()
        state.objective.after_step()
        state.step += 1
        if state.average is not None and plan.epoch(state.step) > epoch:
            state.average.add(state.model, epoch=epoch + 1)

        record = _record(result, step=state.step, epoch=epoch, rate=rate, norm=norm)
        judging = plan.is_due(run.evaluate_every, state.step, end=plan.total)
        if judging:
            record |= judge()
            state.best = _choose(run, state, record)
        journal.add(record)
        saving = plan.is_due(run.checkpoint_every, state.step, end=plan.last) or (judging and run.select is not None)
        looking = saving or plan.is_due(run.journal_every, state.step, end=plan.last)
        stopping = _agreed(stop, device, now=looking)
        if looking or stopping:
            last = journal.flush()
            speed = clock.lap(state.step)
            journal.add_speed(speed)
            progress(state.step, plan.total, _note(last, speed))
        if saving or stopping:
            keep()
        if stopping:
            break
    return last


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which steps there are."""

    steps_per_epoch: int
    total: int  # of the run
    start: int  # of this call
    last: int  # of this call

    @classmethod
    def of(cls, run: Run, dataset: WindowDataset, *, start: int, stop_after: int | None) -> "_Plan":
        world_size = distributed.world_size()
        share = run.data.batch_size // world_size
        steps_per_epoch = num_steps(dataset, batch_size=share, world_size=world_size)
        total = run.steps or run.epochs * steps_per_epoch
        last = total if stop_after is None else min(total, start + stop_after)
        return cls(steps_per_epoch=steps_per_epoch, total=total, start=start, last=last)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def learning_rate(self, config: OptimConfig, step: int) -> float:
        return learning_rate(config, step=step, total_steps=self.total, steps_per_epoch=self.steps_per_epoch)

    def is_due(self, every: int | Literal["epoch"] | None, step: int, *, end: int) -> bool:
        """Whether something done every `every` steps (or epoch), and at the end, is done after `step` steps."""
        every = self.steps_per_epoch if every == "epoch" else every
        return step == end or (every is not None and step % every == 0)


class _Trained(nn.Module):
    """Model and objective as one module, so that the gradients of both are averaged over ranks."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch, draws: Draws) -> Step:
        step: Step = self.objective(self.model, batch, draws)
        return step


class _Clock:
    """How fast steps go, and how much of the time they wait for data."""

    def __init__(self, *, samples_per_step: int) -> None:
        self.samples_per_step = samples_per_step
        self._waited = 0.0
        self._steps = 0
        self._since = time.monotonic()

    def waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, with the time until each comes counted as waiting."""
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            self._waited += time.monotonic() - begun
            if batch is None:
                return
            self._steps += 1
            yield batch

    def lap(self, step: int) -> dict[str, Any]:
        """The record of the time since the last lap; samples are windows, of all ranks."""
        seconds = time.monotonic() - self._since
        record = {
            "step": step,
            "seconds": round(seconds, 4),
            "samples_per_second": round(self._steps * self.samples_per_step / max(seconds, 1e-9), 3),
            "data_wait_share": round(self._waited / max(seconds, 1e-9), 4),
        }
        self._waited, self._steps, self._since = 0.0, 0, time.monotonic()
        return record


def _open_dataset(run: Run, store: Store, preprocess: PreprocessConfig) -> WindowDataset:
    if run.data.batch_size % distributed.world_size():
        raise UserError(
            f"data.batch_size is {run.data.batch_size}, which {distributed.world_size()} processes cannot share "
            "evenly; use a multiple of their number"
        )
    return WindowDataset(
        store,
        preprocess,
        windows_per_clip=run.data.windows_per_clip,
        indices=run.data.clips_of(store),
        seed=run.seed,
        mode=run.data.windows,
        pairs_per_clip=run.data.pairs_per_clip,
        classes=run.data.classes or None,
        modalities=run.modalities,
        labelled=run.num_classes > 0,
        sampling=run.data.sampling,
        mixup=run.augment.mixup,
    )


def _feed(run: Run, dataset: WindowDataset, plan: _Plan) -> Generator[Batch, None, None]:
    """This rank's batches from step `plan.start` to `plan.last`, epoch after epoch."""
    step = plan.start
    while step < plan.last:
        batches = make_batches(
            dataset,
            batch_size=run.data.batch_size // distributed.world_size(),
            epoch=plan.epoch(step),
            start_step=step % plan.steps_per_epoch,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            num_workers=run.data.num_workers,
        )
        for batch in batches:
            yield batch
            step += 1
            if step == plan.last:
                break


def _record(result: Step, *, step: int, epoch: int, rate: float, norm: Tensor | None) -> dict[str, Any]:
    """One line of the journal: means over ranks, still on the device."""
    names = [*result.terms, *result.report]
    scalars = [result.loss, *result.terms.values(), *result.report.values()]
    loss, *values = distributed.average(torch.stack([scalar.detach().float() for scalar in scalars])).unbind()
    by_name = dict(zip(names, values, strict=True))
    record: dict[str, Any] = {"step": step, "epoch": epoch, "loss": loss}
    record["terms"] = {name: by_name[name] for name in result.terms}
    record["report"] = {name: by_name[name] for name in result.report}
    record["learning_rate"] = rate
    if norm is not None:
        record["gradient_norm"] = norm
    return record


def _evaluate(evaluators: Mapping[str, Evaluator], model: nn.Module, preprocess: PreprocessConfig) -> dict[str, Any]:
    """The journal's `evaluation`, or nothing without evaluators; rank 0 evaluates and the others wait."""
    if not evaluators:
        return {}
    results: dict[str, Any] = {}
    if distributed.rank() == 0:
        model.eval()
        with torch.no_grad():
            results = {name: dict(evaluator(model, preprocess)) for name, evaluator in evaluators.items()}
        model.train()
    distributed.barrier()
    return {"evaluation": results}


def _choose(run: Run, state: State, record: Mapping[str, Any]) -> Best | None:
    """The best step so far; on rank 0, which evaluates and saves."""
    if run.select is None or distributed.rank() != 0:
        return state.best
    return better_of(state.best, run.select, record.get("evaluation", {}), step=state.step)


def _agreed(stop: threading.Event, device: torch.device, *, now: bool) -> bool:
    """Whether to stop here; ranks ask each other only every so often, and stop together."""
    if distributed.is_grouped() and not now:
        return False
    return distributed.any_rank(stop.is_set(), device)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, while the body runs; the old handler comes back after it.

    Only the main thread may set handlers: elsewhere the event stays unset.
    """
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _note(last: dict[str, Any] | None, speed: dict[str, Any]) -> str:
    """One line for a person: loss, speed, and whether the data keep up."""
    loss = "" if last is None else f"loss {last['loss']:.4f} · "
    wait = speed["data_wait_share"]
    return f"{loss}{speed['samples_per_second']:.1f} samples/s · {wait:.0%} waiting for data"
