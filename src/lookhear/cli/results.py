"""How the evaluations give their figures: a line a figure, or JSON, and a file that says everything."""

import json
from pathlib import Path
from typing import Any

from lookhear import console
from lookhear.config import finite
from lookhear.console import print_record
from lookhear.errors import UserError

# What only a program reads, clip by clip; a result file has it, and so has --json.
_LISTS = ("clip_list", "left_out")


def give_result(name: str, record: dict[str, Any], *, as_json: bool, out: Path | None = None) -> None:
    """Prints `record` under `name`, and writes all of it to the file `out`. Raises UserError where it cannot."""
    text = json.dumps(finite({name: record}), indent=1, allow_nan=False)
    if as_json:
        console.out(text)
    else:
        print_record({name: _counted(record)}, as_json=False)
    if out is None:
        return
    try:  # after printing: what took hours to measure is not lost
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; the result was only printed") from error


def _counted(value: Any) -> Any:
    """A record with the length of each list of clips in its place, however deep it stands."""
    if not isinstance(value, dict):
        return value
    return {
        key: len(item) if key in _LISTS and isinstance(item, (list, tuple)) else _counted(item)
        for key, item in value.items()
    }
