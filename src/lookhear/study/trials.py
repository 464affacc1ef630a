"""Runs many small trainings and judges each: what is done stays done, what was stopped goes on.

A trial is one training with one seed. Trials run side by side, each on its own share of the cores and after those that
it needs, and leave a file each; a study is the table over these files.
"""

import dataclasses
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lookhear.config import from_dict, override, to_dict
from lookhear.errors import ConfigError, UserError
from lookhear.progress import Progress, quiet

if TYPE_CHECKING:
    from lookhear.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial cost and what came out. A figure that has no meaning for it is missing."""

    row: str
    data: str
    seed: int
    steps: int
    encoder_parameters: int
    gigaflops: float | None  # of a step: forward and backward; None: not counted
    train_seconds: float  # of CPU, over all threads: the same beside other work
    judge_seconds: float  # likewise
    figures: dict[str, float]
    # chance, baselines and sample sizes: the same for all rows that are judged alike
    context: dict[str, float] = field(default_factory=dict)
    window_megaflops: float | None = None  # of one window, forward alone; None: not counted


class Trial(Protocol):
    """A training and what it stands for; a frozen value that travels to a process."""

    @property
    def row(self) -> str:
        """Of the table."""

    @property
    def data(self) -> str:
        """Which table: the name of the data."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the trials whose run folders it reads."""

    def about(self) -> dict[str, Any]:
        """All that the outcome depends on, as JSON values."""

    def run_in(self, out: Path) -> Outcome:
        """Trains and judges; run folders are `run_folder(out, name)`."""


def trial_name(*, data: str, row: str, seed: int) -> str:
    """Of a trial's folder and its result."""
    slug = re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")
    return f"{data}-{slug}-{seed}"


def name_of(trial: Trial) -> str:
    """Of its folder and its result."""
    return trial_name(data=trial.data, row=trial.row, seed=trial.seed)


def run_folder(out: Path, name: str) -> Path:
    """Where the trial `name` trains."""
    return out / "runs" / name


def run_trials(trials: Sequence[Trial], out: Path, *, workers: int = 2, progress: Progress = quiet) -> list[Outcome]:
    """The outcome of every trial, in their order; those that `out` already holds are read, not run.

    `workers` trials at a time share the cores evenly; 0: one after another in this process. Raises UserError where
    `out` holds a result of the same name of another trial, and where a trial fails (the others that are under way are
    finished first); ConfigError for names that come twice, and for trials that need one that there is not.
    """
    (out / "results").mkdir(parents=True, exist_ok=True)
    by_name = {name_of(trial): trial for trial in trials}
    if len(by_name) < len(trials):
        raise ConfigError("two trials have the same data, row and seed")
    missing = {need for trial in trials for need in trial.needs} - by_name.keys()
    if missing:
        raise ConfigError(f"there is no trial {min(missing)}, which another needs; put it into the study")
    found = {name: _read(trial, out) for name, trial in by_name.items()}
    waiting = {name: trial for name, trial in by_name.items() if found[name] is None}
    threads = max(1, (os.cpu_count() or 1) // max(workers, 1))
    done = len(trials) - len(waiting)
    progress(done, len(trials), "")
    for name, failure in _run(waiting, out, threads, workers):
        if failure is not None:
            raise UserError(f"the trial {name} failed: {failure}; the same command goes on from there")
        done += 1
        progress(done, len(trials), name)
    outcomes = [_read(trial, out) for trial in trials]
    return [outcome for outcome in outcomes if outcome is not None]


def _run(waiting: Mapping[str, Trial], out: Path, threads: int, workers: int) -> Iterator[tuple[str, str | None]]:
    """Name and failure (None: done) of each, as they end; each begins when those that it needs are done."""
    left = dict(waiting)

    def ready() -> list[str]:
        return [name for name, trial in left.items() if not left.keys() & set(trial.needs) - {name}]

    if workers == 0:
        import torch

        torch.set_num_threads(threads)
        while left:
            name = _first(ready(), left)
            _do(left[name], out, threads)
            del left[name]
            yield name, None
        return
    # spawned: forking after torch has started its threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, max_tasks_per_child=1, initializer=_limit_threads, initargs=(threads,)
    ) as pool:
        running: dict[Future[None], str] = {}
        begun: set[str] = set()
        while left:
            for name in ready():
                if name not in begun:
                    running[pool.submit(_do, left[name], out, threads)] = name
                    begun.add(name)
            _first(list(running.values()), left)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, error = running.pop(future), future.exception()
                if error is not None:
                    pool.shutdown(cancel_futures=True)
                    yield name, f"{type(error).__name__}: {error}"
                del left[name]
                yield name, None


def _first(names: Sequence[str], left: Mapping[str, Trial]) -> str:
    """The first of `names`. Raises ConfigError where there is none, though trials are left."""
    if not names:
        raise ConfigError(f"the trials {', '.join(sorted(left))} need each other; none of them can begin")
    return names[0]


def _limit_threads(threads: int) -> None:
    """For every library that computes; they look here when they are imported, which is after this."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def _do(trial: Trial, out: Path, threads: int) -> None:
    """Trains, judges, and writes the result."""
    if "torch" in sys.modules:  # imported later, it looks at what `_limit_threads` said
        sys.modules["torch"].set_num_threads(threads)
    outcome = trial.run_in(out)
    record = trial.about() | {"outcome": to_dict(outcome)}
    beside = _result(trial, out).with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    beside.replace(_result(trial, out))


def add_seconds(folder: Path, seconds: float) -> float:
    """CPU seconds that training in `folder` took, with those of calls that were over before it was judged."""
    path = folder / "cpu_seconds.json"
    if path.exists():
        seconds += json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(seconds), encoding="utf-8")
    return round(seconds, 1)


def _result(trial: Trial, out: Path) -> Path:
    return out / "results" / f"{name_of(trial)}.json"


def _read(trial: Trial, out: Path) -> Outcome | None:
    """The outcome of a trial that is done. Raises UserError where it is one of something else."""
    path = _result(trial, out)
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    outcome = record.pop("outcome")
    if record != json.loads(json.dumps(trial.about())):
        raise UserError(f"{path} is the result of other settings or data; remove it, or name another --out")
    return from_dict(Outcome, outcome)


# ---- a run of the trainer


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a judge says about a run folder."""

    figures: dict[str, float]
    context: dict[str, float]


# Takes a trial and the run folder that it was trained in; a module-level function, as it travels to a process.
Judge = Callable[["Training", Path], Judgement]


@dataclass(frozen=True, kw_only=True)
class Training:
    """A trial of one `Run` on one store. `run.seed` is its seed."""

    row: str
    data: str
    run: "Run"
    store: Path  # what it learns from
    judge: Judge
    judged_on: Mapping[str, Any]  # what figures depend on besides the run: digests of stores, settings of the judge
    taught_by: Mapping[str, str] = field(default_factory=dict)  # settings that name teachers -> names of their trials

    @property
    def seed(self) -> int:
        """The run's."""
        return self.run.seed

    @property
    def needs(self) -> tuple[str, ...]:
        """The teachers."""
        return tuple(self.taught_by.values())

    def about(self) -> dict[str, Any]:
        """The run, what it is judged on, and who teaches. Where teachers lie is no part of it."""
        taught = {"taught_by": dict(self.taught_by)} if self.taught_by else {}
        return {"run": self.run.to_dict(), "judged_on": dict(self.judged_on), **taught}

    def run_in(self, out: Path) -> Outcome:
        """Trains in its run folder and judges it."""
        from lookhear.data.store import Store
        from lookhear.recipes.teaching import fit_to_teachers
        from lookhear.study.costs import encoder_parameters, step_gigaflops, window_megaflops
        from lookhear.training.loop import train

        folder = run_folder(out, name_of(self))
        places = [f"{setting}={run_folder(out, name).resolve()}" for setting, name in self.taught_by.items()]
        run = fit_to_teachers(override(self.run, places)) if places else self.run
        begun = time.process_time()
        summary = train(run, Store(self.store), folder)
        seconds = add_seconds(folder, time.process_time() - begun)
        if not summary.finished:
            raise UserError("it was stopped")
        begun = time.process_time()
        judged = self.judge(self, folder)
        return Outcome(
            row=self.row,
            data=self.data,
            seed=self.seed,
            steps=summary.step,
            encoder_parameters=encoder_parameters(run),
            gigaflops=step_gigaflops(run),
            train_seconds=seconds,
            judge_seconds=round(time.process_time() - begun, 1),
            figures=judged.figures,
            context=judged.context,
            window_megaflops=window_megaflops(run),
        )


def with_seed(run: "Run", seed: int) -> "Run":
    """The same run from other weights, in another order, with other windows and masks."""
    return dataclasses.replace(run, seed=seed)
