"""Folders of made files: what is true of each, and how they are made side by side and gone on with.

`truth.jsonl` holds a `SceneTruth` a line, `labels.csv` path, label (the kind) and split of each file.
"""

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lookhear.config import difference, from_dict, to_dict
from lookhear.errors import ConfigError, UserError
from lookhear.media.workers import LimitedPool
from lookhear.progress import Progress

TRUTH_NAME = "truth.jsonl"
LABELS_NAME = "labels.csv"
TEST_SHARE = 0.25
_SAVE_EVERY = 32  # files between two writings of truth.jsonl


@dataclass(frozen=True, kw_only=True)
class SceneTruth:
    """What is true of one file."""

    path: str  # relative to the folder, POSIX
    kind: str
    seconds: float
    event_seconds: tuple[float, ...]  # when each event is seen and heard
    frames_per_second: float
    width: int
    height: int
    # the solid parts of the sounding object, per frame: left, top, right, bottom as fractions of the picture
    boxes: tuple[tuple[float, float, float, float], ...]
    # pitch_hz, size, x, y, mirrored, loudness, distractor, off_screen, noise, and what the file was made from
    parameters: dict[str, Any]


class FileTask(Protocol):
    """One file that is to be made, in a form that travels to a worker."""

    @property
    def name(self) -> str:
        """Of the file."""


def make_files(
    folder: Path,
    tasks: Sequence[FileTask],
    make: Callable[[Any], SceneTruth],
    *,
    recipe: dict[str, Any],
    workers: int,
    progress: Progress,
) -> list[SceneTruth]:
    """Makes the files of `tasks` that `folder` does not hold yet, with truth.jsonl; the truths in their order.

    `recipe` is what the files were made from, and in the `parameters` of every truth. Raises UserError where the folder
    holds files of another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make scenes in '{folder}': {error.strerror}; choose another folder") from error
    known = _keepable(folder, recipe)
    missing = [task for task in tasks if task.name not in known]
    done = len(tasks) - len(missing)
    progress(done, len(tasks), "")
    try:
        with LimitedPool(workers if missing else 0) as pool:
            for result in pool.map(make, missing):
                if result.failure is not None:
                    raise UserError(
                        f"could not make '{folder / result.item.name}': {' '.join(result.failure.split())}; "
                        "what was made is kept, call again to go on"
                    ) from RuntimeError(result.details)  # the worker's traceback, for --debug
                known[result.value.path] = result.value
                done += 1
                if done % _SAVE_EVERY == 0:
                    _save_truth(folder, known)
                progress(done, len(tasks), result.value.path)
    finally:
        if missing:
            _save_truth(folder, known)
    return [known[task.name] for task in tasks]


def load_truth(folder: Path) -> dict[str, SceneTruth]:
    """The truth of every file of a folder of scenes, by relative path. Raises UserError if there is none."""
    path = Path(folder) / TRUTH_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"'{folder}' is no folder of scenes: cannot read {TRUTH_NAME} ({error.strerror})") from error
    truths = {}
    for number, line in enumerate(lines, start=1):
        try:
            truth = from_dict(SceneTruth, json.loads(line))
        except (ValueError, ConfigError) as error:
            raise UserError(f"'{path}', line {number}, is no truth record: {error}; make the scenes again") from error
        truths[truth.path] = truth
    return truths


def _save_truth(folder: Path, truths: Mapping[str, SceneTruth]) -> None:
    lines = [json.dumps(to_dict(truths[path])) + "\n" for path in sorted(truths)]
    partial = folder / f".{TRUTH_NAME}.{os.getpid()}.partial"
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(folder / TRUTH_NAME)


def _keepable(folder: Path, recipe: dict[str, Any]) -> dict[str, SceneTruth]:
    """The truths of files that are there and made by this very recipe."""
    if not (folder / TRUTH_NAME).exists():
        return {}
    truths = load_truth(folder)
    for truth in truths.values():
        different = difference(truth.parameters["recipe"], recipe, names=("there", "asked"))
        if different:
            raise UserError(
                f"'{folder}' holds scenes of another recipe ({'; '.join(different)}): "
                "choose another folder or delete this one"
            )
    return {path: truth for path, truth in truths.items() if (folder / path).is_file()}


def write_labels(folder: Path, truths: Sequence[SceneTruth], *, test_share: float = TEST_SHARE) -> None:
    """Writes labels.csv of `truths` into `folder`, in their order.

    The last `test_share` of the files are the split test; of the others, evenly spread, one in five is val and the rest
    is train. Raises UserError where it cannot be written.
    """
    learned = round(len(truths) * (1 - test_share))
    splits = [("val" if index % 5 == 4 else "train") if index < learned else "test" for index in range(len(truths))]
    try:
        with (folder / LABELS_NAME).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "split"])
            writer.writerows((truth.path, truth.kind, split) for truth, split in zip(truths, splits, strict=True))
    except OSError as error:
        raise UserError(f"cannot write {LABELS_NAME} in '{folder}': {error.strerror}; mend that, call again") from error
