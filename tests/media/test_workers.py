"""If these failed, one bad media file could stop a whole run, or leave processes behind."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookhear.errors import MediaError
from lookhear.media.workers import LimitedPool

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is watched through /proc")
needs_signals = pytest.mark.skipif(os.name == "nt", reason="there are no such signals on Windows")


def square(item: int) -> int:
    return item * item


def sleep_then_return(item: float) -> float:
    time.sleep(item)
    return item


def process_id(item: object) -> int:
    return os.getpid()


def misbehave(item: str) -> object:
    if item == "hang":
        time.sleep(60)
    elif item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif item == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif item == "exit":
        os._exit(3)
    elif item == "hog":
        hog = [np.ones(1 << 22) for _ in range(100)]  # 3.2 GB
        time.sleep(60)
        return len(hog)
    elif item == "raise":
        raise ValueError("seven is\nnot a colour")
    elif item == "user error":
        raise MediaError("'x.mp4' is empty (0 bytes): copy it again")
    elif item == "exit politely":
        sys.exit(1)
    elif item == "unpicklable":
        return lambda: None
    elif item == "print":
        print("this goes to stderr, not into the answer")
        os.write(1, b"nor does this")
    return item


def make_arrays(item: tuple[int, ...]) -> dict[str, np.ndarray]:
    array = np.arange(np.prod(item), dtype=np.int64).reshape(item)
    return {"whole": array, "strided": array[::2], "fortran": np.asfortranarray(array)}


def total(item: np.ndarray) -> float:
    item += 1  # what arrives is the child's own and may be written to
    return float(item.sum())


def loaded_modules(item: object) -> list[str]:
    return sorted(name for name in ("torch", "av", "lancedb") if name in sys.modules)


def num_threads(item: str) -> str:
    return os.environ[item]


def interrupted_work(seen: list[int]) -> None:
    with LimitedPool(1) as pool:
        for done in pool.map(process_id, range(8)):
            seen.append(done.value)
            raise KeyboardInterrupt


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_are_those_of_a_loop_in_the_order_of_the_items(num_workers: int) -> None:
    with LimitedPool(num_workers) as pool:
        done = list(pool.map(square, range(40)))
        again = list(pool.map(square, [7]))
        nothing = list(pool.map(square, []))
    assert [result.value for result in done] == [item * item for item in range(40)]
    assert [result.item for result in done] == list(range(40))
    assert all(result.failure is None for result in done)
    assert [result.value for result in again] == [49]
    assert nothing == []


def test_slow_items_keep_their_place() -> None:
    items = [0.3, 0.0, 0.1, 0.0]
    with LimitedPool(2) as pool:
        done = list(pool.map(sleep_then_return, items))
    assert [result.value for result in done] == items
    assert done[0].seconds >= 0.3


def test_items_are_taken_only_as_far_ahead_as_asked() -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in itertools.count():
            taken.append(item)
            yield item

    with LimitedPool(2) as pool:
        results = pool.map(square, items(), max_pending=4)
        assert taken == []
        for count in range(1, 6):
            assert next(results).value == (count - 1) ** 2
            assert len(taken) <= count + 3
        results.close()  # type: ignore[attr-defined]


@needs_signals
def test_one_bad_item_costs_one_item() -> None:
    bad = ["fine", "hang", "kill", "segfault", "exit", "raise", "user error", "exit politely", "unpicklable", "print"]
    with LimitedPool(2, time_limit_seconds=1.0) as pool:
        done = list(pool.map(misbehave, [*bad, "fine"]))
    failures = {result.item: result.failure for result in done}
    # A crash is the item's own doing, and so is what this process stops it for.
    assert [result.item for result in done if result.is_from_outside] == ["kill"]
    assert failures["hang"] == "took longer than 1 s and was stopped"
    assert "crashed (SIGKILL" in str(failures["kill"])
    assert "crashed (SIGSEGV)" in str(failures["segfault"])
    assert "exit code 3" in str(failures["exit"])
    assert failures["raise"] == "ValueError: seven is not a colour"
    assert failures["user error"] == "'x.mp4' is empty (0 bytes): copy it again"
    assert failures["exit politely"] == "SystemExit: 1"
    assert "lambda" in str(failures["unpicklable"])
    assert [result.value for result in done if result.failure is None] == ["fine", "print", "fine"]
    assert "in misbehave" in next(result.details for result in done if result.item == "raise")


@needs_proc
def test_a_memory_hog_is_stopped_and_the_next_item_is_not() -> None:
    with LimitedPool(1, memory_limit_bytes=400 << 20) as pool:
        done = list(pool.map(misbehave, ["hog", "fine"]))
    assert done[0].failure == "used more than 0.39 GiB of memory and was stopped"
    assert not done[0].is_from_outside
    assert done[1].value == "fine"
    assert done[0].seconds < 30


def test_large_arrays_travel_both_ways() -> None:
    shapes = [(2, 3), (1, 1), (0, 4), (500, 600)]
    with LimitedPool(2) as pool:
        for shape, done in zip(shapes, pool.map(make_arrays, shapes), strict=True):
            for name, expected in make_arrays(shape).items():
                np.testing.assert_array_equal(done.value[name], expected)
            assert done.value["whole"].flags.writeable
        sent = np.ones((300, 400))
        assert next(pool.map(total, [sent])).value == 240000.0
    assert sent.sum() == 120000.0


def test_a_child_starts_lean_and_with_limited_threads() -> None:
    with LimitedPool(1, num_threads=3) as pool:
        assert next(pool.map(loaded_modules, [None])).value == []
        assert next(pool.map(num_threads, ["OMP_NUM_THREADS"])).value == "3"


@needs_signals
def test_no_child_outlives_the_pool() -> None:
    with LimitedPool(2) as pool:
        ids = {done.value for done in pool.map(process_id, range(8))}
        assert ids
        assert os.getpid() not in ids
    assert all(wait_for_end(pid) for pid in ids)
    with pytest.raises(RuntimeError, match="closed"):
        pool.map(square, [1])

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted_work(seen)
    assert wait_for_end(seen[0])

    forgotten = LimitedPool(1)
    pid = next(forgotten.map(process_id, [None])).value
    del forgotten
    assert wait_for_end(pid)


def test_closing_the_results_early_stops_the_work_and_keeps_the_pool() -> None:
    with LimitedPool(2) as pool:
        results = pool.map(sleep_then_return, [0.0, 60.0, 60.0, 60.0])
        assert next(results).value == 0.0
        start = time.monotonic()
        results.close()  # type: ignore[attr-defined]
        assert [done.value for done in pool.map(square, range(5))] == [0, 1, 4, 9, 16]
    assert time.monotonic() - start < 20


def test_an_exception_of_the_items_reaches_the_caller() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the list ended badly")

    with LimitedPool(1) as pool, pytest.raises(OSError, match="ended badly"):
        list(pool.map(square, items()))


def test_functions_that_cannot_travel_are_refused() -> None:
    with LimitedPool(1) as pool:
        with pytest.raises(ValueError, match="top level"):
            list(pool.map(lambda item: item, [1]))
        with pytest.raises(ValueError, match="max_pending"):
            pool.map(square, [1], max_pending=0)
    with pytest.raises(ValueError, match="num_workers"):
        LimitedPool(-1)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import test_workers
from lookhear.media.workers import LimitedPool
with LimitedPool(1) as pool:
    for done in pool.map(test_workers.process_id, [1]):
        print(done.value, flush=True)
    {then}
"""


def run_script(tmp_path: Path, then: str) -> "subprocess.Popen[str]":
    script = tmp_path / "script.py"  # has no `if __name__ == "__main__"`
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), then=then), encoding="utf-8")
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_script_without_a_main_guard_works(tmp_path: Path) -> None:
    process = run_script(tmp_path, "pass")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert len(output.split()) == 1
    assert errors == ""


@needs_signals
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path, signal_name: str) -> None:
    process = run_script(tmp_path, "list(pool.map(test_workers.sleep_then_return, [60.0]))")
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    time.sleep(0.2)
    process.send_signal(getattr(signal, signal_name))
    process.communicate(timeout=20)
    assert wait_for_end(pid)
