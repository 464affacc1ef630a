"""How results and talk reach the terminal: results on stdout, talk and progress on stderr."""

import io
import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lookhear.progress import Progress


def prepare_streams() -> None:
    """File names are printed as the bytes that they are, also those that are no text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def finish() -> int:
    """Sends what is still to be printed; 0 also where the reader has gone away, as `head` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to complain at exit
    return 0


def out(text: str) -> None:
    """A line of results."""
    print(text)


def say(text: str) -> None:
    """A line of talk."""
    print(_plain(text, keep="\n"), file=sys.stderr, flush=True)


def _plain(text: str, *, keep: str = "") -> str:
    """A file name may hold what a terminal obeys: it is shown without."""
    return "".join(letter if letter in keep or unicodedata.category(letter)[0] != "C" else "\ufffd" for letter in text)


def _escape(value: object) -> str:
    text = str(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def print_rows(rows: Iterable[Sequence[object]]) -> None:
    """Rows as tab-separated lines; tab, newline, carriage return and backslash are escaped."""
    for row in rows:
        out("\t".join(map(_escape, row)))


def print_record(record: Any, *, as_json: bool, is_one_of_many: bool = False) -> None:
    """A (nested) record as JSON, or as one `name<TAB>value` line for each leaf that is there.

    JSON is indented, but a line a record where it is one of many. A value that is no text or number is spelled as in
    JSON (true, [0.0, 0.125]); what is None has no line.
    """
    if as_json:
        out(json.dumps(record, indent=None if is_one_of_many else 1, default=str))
        return

    def leaves(value: Any, path: str) -> Iterator[tuple[str, object]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from leaves(item, f"{path}.{key}" if path else str(key))
        elif isinstance(value, (bool, list, tuple)):
            yield path, json.dumps(value, default=str, ensure_ascii=False)
        elif value is not None:
            yield path, value

    print_rows(leaves(record, ""))


@dataclass
class ProgressLines:
    """Progress as plain lines on stderr, at most one every ten seconds; a task that begins anew is timed anew."""

    unit: str
    started: float = field(default_factory=time.monotonic)
    last: float = 0.0

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Says how far it is, if it is time for a line."""
        now = time.monotonic()
        if not done:
            self.started = now
        if now - self.last < 10 and done != total:
            return
        self.last = now
        rate = done / max(now - self.started, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
        say(f"  {done}/{total if total is not None else '?'} {self.unit}, {rate:.1f}/s{left} {_plain(note)}".rstrip())


@contextmanager
def show_progress(unit: str) -> Iterator[Progress]:
    """A progress bar on a terminal, plain lines elsewhere; both on stderr."""
    if not sys.stderr.isatty():
        yield ProgressLines(unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TextColumn("{task.fields[rate]}"))
    with Bar(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("", total=None, rate="", note="")
        started = time.monotonic()

        def show(done: int, total: int | None, note: str = "") -> None:
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=done, total=total, note=_plain(note), rate=f"{rate:.1f}/s")

        yield show
