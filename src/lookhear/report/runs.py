"""Run folders as a person wants to see them: what each run is, where it stands, and its numbers over its steps.

A run that has just begun, was killed, or is going on at this moment is read like one that is done.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookhear.report.figures import Curve
from lookhear.training.journal import JOURNAL, SPEED, scan_records
from lookhear.training.resume import newest_checkpoint, read_run_json

# A run is thought to be going while it has been silent for no longer than this, or than a few of its usual pauses.
_SILENT_SECONDS = 60.0
_USUAL_PAUSES = 5
_RECENT_LAPS = 50
_WHERE = {"step", "epoch"}
_OF_STATUS = {"seconds", "total_steps"}


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a run is."""

    state: Literal["not begun", "going", "stopped", "finished"]
    step: int
    total_steps: int | None
    """of the whole run; None where nothing tells"""
    silent_seconds: float | None
    """since anything was written; None where nothing was"""
    left_seconds: float | None
    """until the last step at the speed so far; None unless it is going"""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunLog:
    """One run folder, read."""

    name: str
    """short, and unlike those of the other runs"""
    folder: Path
    config: Mapping[str, Any]
    """run.json: `run`, `store`, `preprocess`"""
    journal: Mapping[str, Curve]
    """by name over steps: loss, terms.NAME, report.NAME, learning_rate, evaluation.EVALUATOR.NUMBER"""
    speed: Mapping[str, Curve]
    """by name over steps: samples_per_second, data_wait_share, ..."""
    step_seconds: Curve
    """seconds of training, evaluation and saving up to each step; time between two calls does not count"""
    status: Status
    checkpoint_step: int | None
    problems: tuple[str, ...]
    """lines that could not be read: file, numbers, what was done"""

    def mean_of_last(self, name: str) -> float | None:
        """Mean of the last twentieth of the values of a curve of the journal, of one at least; None without any."""
        curve = self.journal.get(name)
        return None if curve is None else float(curve.y[-max(1, len(curve.y) // 20) :].mean())


def read_runs(folders: Sequence[str | Path], *, now: float | None = None) -> list[RunLog]:
    """The runs of `folders`, each once, in that order; `now` (seconds since 1970) is the time their silence ends.

    Raises UserError for a folder that is no run folder.
    """
    paths = list({Path(folder).resolve(): Path(folder) for folder in folders}.values())
    names = _short_names([path.resolve() for path in paths])
    now = time.time() if now is None else now
    return [_read(path, name, series, now) for series, (path, name) in enumerate(zip(paths, names, strict=True))]


def _read(folder: Path, name: str, series: int, now: float) -> RunLog:
    config = read_run_json(folder)
    journal, speed = scan_records(folder / JOURNAL), scan_records(folder / SPEED)
    problems = tuple(
        f"{folder / file}: {_lines(records.damaged)} damaged and left out"
        for file, records in ((JOURNAL, journal), (SPEED, speed))
        if records.damaged
    )
    laps = curves_of(speed.found, series)
    none = Curve(x=np.zeros(0), y=np.zeros(0), series=series)
    seconds = laps.get("seconds", none)
    step_seconds = Curve(x=seconds.x, y=np.cumsum(seconds.y), series=series)
    step = max((record["step"] for record in journal.found), default=0)
    total = _total_steps(config["run"], journal.found, laps)
    newest = newest_checkpoint(folder)
    return RunLog(
        name=name,
        folder=folder,
        config=config,
        journal=curves_of(journal.found, series),
        speed={name: curve for name, curve in laps.items() if name not in _OF_STATUS},
        step_seconds=step_seconds,
        status=_status(folder, total, step, step_seconds, now),
        checkpoint_step=None if newest is None else int(newest.name.removeprefix("step-")),
        problems=problems,
    )


def curves_of(records: Iterable[Mapping[str, Any]], series: int = 0) -> dict[str, Curve]:
    """Every number of `records` by its name (`terms.contrastive`), over the steps, in the order of appearance.

    What is no number, or no finite one, is left out; of a step that comes twice the later record counts.
    """
    found: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in _numbers(record):
            found.setdefault(name, {})[record["step"]] = value
    curves = {}
    for name, by_step in found.items():
        steps = sorted(by_step)
        curves[name] = Curve(x=np.array(steps, float), y=np.array([by_step[step] for step in steps]), series=series)
    return curves


def _numbers(record: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}{key}.")
        elif (path or key not in _WHERE) and type(value) in (int, float) and math.isfinite(value):
            yield f"{path}{key}", float(value)


def _status(folder: Path, total: int | None, step: int, step_seconds: Curve, now: float) -> Status:
    written = [path.stat().st_mtime for name in (JOURNAL, SPEED) if (path := folder / name).exists()]
    silent = max(0.0, now - max(written)) if written else None
    steps, seconds = step_seconds.x[-_RECENT_LAPS:], step_seconds.y[-_RECENT_LAPS:]
    pause = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    state: Literal["not begun", "going", "stopped", "finished"] = "stopped" if step else "not begun"
    left = None
    if total is not None and step >= total:
        state = "finished"
    elif step and silent is not None and silent <= max(_SILENT_SECONDS, _USUAL_PAUSES * pause):
        state = "going"
        if total is not None and len(steps) > 1:
            left = (total - step) * float((seconds[-1] - seconds[0]) / (steps[-1] - steps[0]))
    return Status(state=state, step=step, total_steps=total, silent_seconds=silent, left_seconds=left)


def _total_steps(run: Mapping[str, Any], journal: Sequence[Mapping[str, Any]], laps: Mapping[str, Curve]) -> int | None:
    """As the run wrote it down or asked for it; of older runs from where an epoch ended, if one has."""
    if "total_steps" in laps:
        return int(laps["total_steps"].y[-1])
    if type(run.get("steps")) is int:
        return int(run["steps"])
    epochs = [(record["step"], record["epoch"]) for record in journal if type(record.get("epoch")) is int]
    # the last step of an epoch; one before it where lines are missing
    lengths = [before[0] // after[1] for before, after in pairwise(epochs) if before[1] < after[1]]
    return max(lengths) * int(run["epochs"]) if lengths and type(run.get("epochs")) is int else None


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as it takes to tell them all apart."""
    longest = max((len(path.parts) for path in paths), default=0)
    choices = ([Path(*path.parts[-length:]).as_posix() for path in paths] for length in range(1, longest + 1))
    return next((names for names in choices if len(set(names)) == len(names)), [])


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"line {shown} is" if len(numbers) == 1 else f"lines {shown} are"
