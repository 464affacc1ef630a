"""What `lookhear bench search` measures in a process of its own: it imports what a search needs, and nothing else."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lookhear.config import to_dict
from lookhear.console import out
from lookhear.search.index import Index


def run(what: str, place: str, *words: str) -> None:
    """Runs one of the measurements below on the index at `place` and prints what it found as JSON."""
    out(json.dumps(_MEASUREMENTS[what](Path(place), *words)))


def _build_exact(place: Path) -> dict[str, Any]:
    started = time.perf_counter()
    Index(place).library()
    return {"seconds": time.perf_counter() - started, "peak_bytes": _peak_bytes()}


def _build_approximate(place: Path) -> dict[str, Any]:
    index = Index(place)
    started = time.perf_counter()
    with index.writing():
        index.keep_up(0)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak_bytes": _peak_bytes(), "facts": to_dict(index.facts.approximate)}


def _first_answer(place: Path, like: str, begun: str) -> dict[str, Any]:
    """`begun`: when the process was started, in seconds since 1970."""
    imported = time.time()
    index = Index(place)
    index.search(like=like, within="sound")
    answered = time.time()
    index.search(like=like, within="sound")
    return {
        "seconds": answered - float(begun),
        "open_seconds": answered - imported,
        "next_ms": 1000.0 * (time.time() - answered),
        "peak_bytes": _peak_bytes(),
        "anonymous_bytes": _status_bytes("RssAnon"),
    }


_MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "build_exact": _build_exact,
    "build_approximate": _build_approximate,
    "first_answer": _first_answer,
}


def _peak_bytes() -> int | None:
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status_bytes("VmHWM")


def _status_bytes(name: str) -> int | None:
    """What Linux says of this process's memory; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
