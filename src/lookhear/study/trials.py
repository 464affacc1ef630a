"""Runs many small trainings and judges each: what is done stays done, what was stopped goes on.

A trial is one `Run` on one store with one seed. Trials run side by side, each on its own share of the cores, and leave
a file each; a study is the table over these files.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookhear.config import from_dict, to_dict
from lookhear.errors import ConfigError, UserError
from lookhear.progress import Progress, quiet

if TYPE_CHECKING:
    from lookhear.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training and what it stands for. `run.seed` is its seed."""

    row: str  # of the table
    data: str  # which table: the name of the data
    run: "Run"
    store: Path  # what it learns from

    @property
    def name(self) -> str:
        """Of its folder and its result."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.row.lower()).strip("-")
        return f"{self.data}-{slug}-{self.run.seed}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial cost and what came out. A figure that has no meaning for it is missing."""

    row: str
    data: str
    seed: int
    steps: int
    encoder_parameters: int
    gigaflops: float  # of a step: forward and backward
    train_seconds: float  # of CPU, over all threads: the same beside other work
    judge_seconds: float  # likewise
    figures: dict[str, float]
    # chance, baselines and sample sizes: the same for all rows that are judged alike
    context: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says about a run folder."""

    figures: dict[str, float]
    context: dict[str, float]


# Takes a trial and the run folder that it was trained in; a module-level function, as it travels to a process.
Judge = Callable[[Trial, Path], Judgement]


def run_trials(
    trials: Sequence[Trial],
    out: Path,
    judge: Judge,
    *,
    judged_on: Mapping[str, Any],
    workers: int = 2,
    progress: Progress = quiet,
) -> list[Outcome]:
    """The outcome of every trial, in their order; those that `out` already holds are read, not run.

    `judged_on` is what figures depend on besides the run: digests of stores, settings of the judge. `workers` trials
    at a time share the cores evenly. Raises UserError where `out` holds a result of the same name of another run or
    judged on something else, and where a trial fails (the others that are under way are finished first).
    """
    (out / "results").mkdir(parents=True, exist_ok=True)
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names):
        raise ConfigError("two trials have the same data, row and seed")
    abouts = [{"run": trial.run.to_dict(), "judged_on": dict(judged_on)} for trial in trials]
    told = list(zip(trials, abouts, strict=True))
    waiting = [(trial, about) for trial, about in told if _read(trial, about, out) is None]
    threads = max(1, (os.cpu_count() or 1) // max(workers, 1))
    done = len(trials) - len(waiting)
    progress(done, len(trials), "")
    for name, failure in _run(waiting, out, judge, threads, workers):
        if failure is not None:
            raise UserError(f"the trial {name} failed: {failure}; the same command goes on from there")
        done += 1
        progress(done, len(trials), name)
    outcomes = [_read(trial, about, out) for trial, about in told]
    return [outcome for outcome in outcomes if outcome is not None]


def _run(
    trials: Sequence[tuple[Trial, dict[str, Any]]], out: Path, judge: Judge, threads: int, workers: int
) -> Iterable[tuple[str, str | None]]:
    """Name and failure (None: done) of each, as they end."""
    if workers == 0:
        for trial, about in trials:
            _do(trial, about, out, judge, threads)
            yield trial.name, None
        return
    # spawned: forking after torch has started its threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, max_tasks_per_child=1, initializer=_limit_threads, initargs=(threads,)
    ) as pool:
        running = {pool.submit(_do, trial, about, out, judge, threads): trial for trial, about in trials}
        for future in as_completed(running):
            error = future.exception()
            if error is not None:
                pool.shutdown(cancel_futures=True)
            yield running[future].name, None if error is None else f"{type(error).__name__}: {error}"


def _limit_threads(threads: int) -> None:
    """For every library that computes; they look here when they are imported, which is after this."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def _do(trial: Trial, about: dict[str, Any], out: Path, judge: Judge, threads: int) -> None:
    """Trains, judges, and writes the result."""
    import torch

    from lookhear.data.store import Store
    from lookhear.study.costs import encoder_parameters, step_gigaflops
    from lookhear.training.loop import train

    torch.set_num_threads(threads)
    folder = out / "runs" / trial.name
    begun = time.process_time()
    summary = train(trial.run, Store(trial.store), folder)
    seconds = _add_seconds(folder, time.process_time() - begun)
    if not summary.finished:
        raise UserError("it was stopped")
    begun = time.process_time()
    judged = judge(trial, folder)
    outcome = Outcome(
        row=trial.row,
        data=trial.data,
        seed=trial.run.seed,
        steps=summary.step,
        encoder_parameters=encoder_parameters(trial.run),
        gigaflops=step_gigaflops(trial.run),
        train_seconds=seconds,
        judge_seconds=round(time.process_time() - begun, 1),
        figures=judged.figures,
        context=judged.context,
    )
    record = about | {"outcome": to_dict(outcome)}
    beside = _result(trial, out).with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    beside.replace(_result(trial, out))


def _add_seconds(folder: Path, seconds: float) -> float:
    """What training took, with what it took in calls that were over before it was judged."""
    path = folder / "cpu_seconds.json"
    if path.exists():
        seconds += json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(seconds), encoding="utf-8")
    return round(seconds, 1)


def _result(trial: Trial, out: Path) -> Path:
    return out / "results" / f"{trial.name}.json"


def _read(trial: Trial, about: dict[str, Any], out: Path) -> Outcome | None:
    """The outcome of a trial that is done. Raises UserError where it is one of something else."""
    path = _result(trial, out)
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if {name: record.get(name) for name in about} != json.loads(json.dumps(about)):
        raise UserError(f"{path} is the result of other settings or data; remove it, or name another --out")
    return from_dict(Outcome, record["outcome"])


def with_seed(run: "Run", seed: int) -> "Run":
    """The same run from other weights, in another order, with other windows and masks."""
    return dataclasses.replace(run, seed=seed)
