"""What a run writes down as it goes: journal.jsonl, what it learned, and speed.jsonl, how fast.

The journal holds nothing but values that follow from the run and its data, so that a run that was killed and resumed
leaves the same journal, byte for byte, as one that was not. Times are in the other file.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookhear.config import leaves
from lookhear.errors import UserError
from lookhear.training.loggers import Loggers, Numbers

JOURNAL = "journal.jsonl"
SPEED = "speed.jsonl"


@dataclass(frozen=True, kw_only=True)
class Records:
    """What a .jsonl file holds."""

    found: list[dict[str, Any]]
    damaged: tuple[int, ...] = ()
    """numbers, from 1, of the lines that are no record of a step"""


def scan_records(path: Path) -> Records:
    """Every record that can be read; a last line that is still being written, or was cut short by a kill, is left out.

    No file: no record. Raises UserError where it cannot be opened.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Records(found=[])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    found, damaged = [], []
    for number, line in enumerate(lines[:-1], start=1):  # after the last line break: nothing, or half a line
        try:
            record = json.loads(line)
            if type(record["step"]) is not int:
                raise TypeError
            found.append(record)
        except (ValueError, TypeError, KeyError):  # no UTF-8, no JSON, no record, no step
            damaged.append(number)
    return Records(found=found, damaged=tuple(damaged))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a .jsonl file as `scan_records` finds them. Raises UserError where a line is damaged."""
    records = scan_records(path)
    if records.damaged:
        raise UserError(
            f"line {records.damaged[0]} of {path} is damaged; take it out with an editor to go on, or begin a new run "
            "in another folder"
        )
    return records.found


def append_records(path: Path, records: list[dict[str, Any]]) -> None:
    """Adds `records`, a line each. Raises UserError where they cannot be written."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}); the newest checkpoint is whole: make room and "
            "run the same command again"
        ) from error


def cut_back(path: Path, step: int) -> None:
    """Takes out every record after `step`: those steps will be done again."""
    kept = [record for record in read_records(path) if record["step"] <= step]
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    append_records(temporary, kept)
    temporary.replace(path)


class Journal:
    """The two files of one running run; a rank that is not the first writes nothing.

    Records wait until `flush`, so that a step need not wait for its numbers. `loggers` get what is written too.
    """

    def __init__(self, folder: Path, *, writes: bool = True, loggers: Loggers | None = None) -> None:
        self.folder = folder
        self.writes = writes
        self.loggers = loggers
        self._waiting: list[dict[str, Any]] = []

    def add(self, record: dict[str, Any]) -> None:
        """Keeps `record` (plain values, or scalar tensors that may still be on a device) for the next flush."""
        self._waiting.append(record)

    def flush(self) -> dict[str, Any] | None:
        """Writes what waits and returns the last record, or None where nothing waited.

        Raises UserError at the first loss that is not a number; records before it are written.
        """
        records = [_plain(record) for record in self._waiting]
        self._waiting = []
        bad = next((i for i, record in enumerate(records) if not math.isfinite(record["loss"])), None)
        if self.writes:
            append_records(self.folder / JOURNAL, records[:bad])
            self._log(records[:bad])
        if bad is not None:
            raise UserError(_not_finite(records[bad]))
        return records[-1] if records else None

    def add_speed(self, record: dict[str, Any]) -> None:
        """Writes `record`, times and rates, to the other file, at once."""
        if self.writes:
            append_records(self.folder / SPEED, [record])
            self._log([{"step": record["step"], "speed": {name: record[name] for name in record if name != "step"}}])

    def close(self) -> None:
        """Ends what the loggers have open."""
        if self.loggers is not None:
            self.loggers.close()

    def _log(self, records: list[dict[str, Any]]) -> None:
        if self.loggers is not None:
            self.loggers.write([Numbers(step=record["step"], values=_by_name(record)) for record in records])


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value.item() if hasattr(value, "item") else value


def _by_name(record: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a record as `terms/contrastive`, but for the step, which is where they belong."""
    numbers = {path: value for path, value in leaves(record).items() if type(value) in (int, float)}
    return {path.replace(".", "/"): float(value) for path, value in numbers.items() if path != "step"}


def _not_finite(record: dict[str, Any]) -> str:
    terms = [name for name, value in record["terms"].items() if not math.isfinite(value)]
    return (
        f"the loss of step {record['step']} is {record['loss']} (in {', '.join(terms) or 'the sum'}), so training "
        "stopped; the last checkpoint is from before it. Try a lower optim.learning_rate, optim.clip_norm=1, or "
        "dtype=float32, in a new run folder"
    )
