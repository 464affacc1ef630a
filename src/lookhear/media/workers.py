"""`LimitedPool`: child processes that work on one item at a time under a time limit and a memory limit.

Media files come from anywhere, and a decoder can hang, crash or eat all memory on a bad one. Here that costs one item:
its child is stopped and replaced, the item ends as a `Done` with a failure sentence, and the others go on.

How it is built: a thread in this process owns each child and talks to it over the child's stdin and stdout; one more
thread watches clocks and memory. Children are started as `python -c`, not through `multiprocessing`, because that
would run the caller's main script again in every child. They import nothing but this module until the first function
arrives, ignore Ctrl-C (the parent decides), and exit as soon as the parent is gone.
"""

import collections
import contextlib
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lookhear.errors import UserError

WATCH_SECONDS = 0.05
# A child must be up and have imported the function within this; slow disks and large imports are not the item's fault.
START_LIMIT_SECONDS = 120.0
# What no decoder does to itself, unlike SIGSEGV or SIGABRT.
_OUTSIDE_SIGNALS = frozenset(
    int(getattr(signal, name)) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Done:
    """What became of one item: `value` if `failure` is None, otherwise a sentence that says what went wrong."""

    item: Any
    value: Any = None
    # a UserError's message as it is; "Type: message" of another exception; or that the limits or a crash ended it
    failure: str | None = None
    # the traceback, where an exception that is not a UserError ended the item; for people who debug
    details: str = ""
    seconds: float = 0.0
    # somebody else stopped the child (an operator, the system for lack of memory): the item may be innocent
    is_from_outside: bool = False


class LimitedPool:
    """`num_workers` child processes with limits; a context manager whose end stops all of them.

    `num_threads` limits the numerical libraries inside each child. Memory is the resident size of the child; it is
    watched where the system has /proc, elsewhere only time is limited. With `num_workers=0` items run in this process,
    one by one and without limits.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        time_limit_seconds: float = 120.0,
        memory_limit_bytes: int = 2 << 30,
        num_threads: int = 1,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, not {num_workers}")
        self.num_workers = num_workers
        limits = _Limits(time_limit_seconds, memory_limit_bytes, num_threads)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._slots = [_Slot(limits, self._tasks) for _ in range(num_workers)]
        self._closed = threading.Event()
        self._started = False
        # The threads know the slots, never the pool, so that a forgotten pool is collected and its children end.
        self._finish = weakref.finalize(self, _finish, self._slots, self._tasks, self._closed)

    def __enter__(self) -> "LimitedPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops all children at once; items that are under way end as failures. May be called twice."""
        self._finish()

    def map(
        self, function: Callable[[Any], Any], items: Iterable[Any], *, max_pending: int | None = None
    ) -> Iterator[Done]:
        """`Done` for every item, in the order of `items`.

        Lazy: an item is taken from `items` only when fewer than `max_pending` (3 per worker) are under way or wait to
        be yielded. `function` and the items are pickled; `function` must be importable by name from a module other
        than `__main__`. Closing the iterator early drops what is under way. Raises ValueError for a function that
        cannot travel, RuntimeError if children cannot start or cannot import it.
        """
        if self._closed.is_set():
            raise RuntimeError("this pool is closed")
        if self.num_workers == 0:
            return _run_here(function, items)
        if max_pending is not None and max_pending < 1:
            raise ValueError(f"max_pending must be 1 or more, not {max_pending}")
        return self._map(_pickle_function(function), items, max_pending or 3 * self.num_workers)

    def _map(self, function: bytes, items: Iterable[Any], max_pending: int) -> Iterator[Done]:
        self._start()
        pending: collections.deque[_Task] = collections.deque()
        remaining = iter(items)
        more = True
        try:
            while more or pending:
                while more and len(pending) < max_pending:
                    try:
                        item = next(remaining)
                    except StopIteration:
                        more = False
                        break
                    task = _Task(function, item, _dump(item))
                    pending.append(task)
                    self._tasks.put(task)
                if pending:
                    done = self._wait(pending[0])
                    pending.popleft()
                    yield done
        finally:
            unwanted = [task for task in pending if not task.future.cancel()]
            for slot in self._slots:
                slot.drop(unwanted)

    def _wait(self, task: "_Task") -> Done:
        while True:
            try:  # short waits, because Windows delivers Ctrl-C only between them
                return task.future.result(timeout=0.5)
            except TimeoutError:
                if task.future.done():
                    raise
                if self._closed.is_set():
                    raise RuntimeError("the pool was closed while its results were awaited") from None

    def _start(self) -> None:
        if self._started:
            return
        self._started = True
        for slot in self._slots:
            threading.Thread(target=slot.serve, name="lookhear-worker", daemon=True).start()
        watch = threading.Thread(target=_watch, args=(self._slots, self._closed), name="lookhear-watch", daemon=True)
        watch.start()


def _run_here(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done]:
    for item in items:
        start = time.monotonic()
        try:
            value = function(item)
        except Exception as error:
            failure, details = _describe(error)
            yield Done(item=item, failure=failure, details=details, seconds=time.monotonic() - start)
        else:
            yield Done(item=item, value=value, seconds=time.monotonic() - start)


def _describe(error: BaseException) -> tuple[str, str]:
    """The failure sentence and the traceback (empty for a UserError) of an exception."""
    if isinstance(error, UserError):
        return str(error), ""
    message = " ".join(str(error).split())
    name = type(error).__name__
    return (f"{name}: {message}" if message else name), traceback.format_exc()


# ---- the parent's side


@dataclass(frozen=True)
class _Limits:
    time_seconds: float
    memory_bytes: int
    num_threads: int


@dataclass(eq=False)
class _Task:
    function: bytes
    item: Any
    message: list[bytes | memoryview]
    future: Future[Done] = field(default_factory=Future)
    unwanted: bool = False


class _ChildEndedError(Exception):
    """The child's pipe closed."""


class _Slot:
    """One place for a child: starts it, gives it tasks, replaces it when it ends."""

    def __init__(self, limits: _Limits, tasks: "queue.SimpleQueue[_Task | None]") -> None:
        self._limits = limits
        self._tasks = tasks
        self._lock = threading.Lock()  # guards what the watching and the caller's threads touch, below
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._task: _Task | None = None
        self._deadline: float | None = None
        self._verdict: str | None = None  # why this process stopped the child
        self._function: bytes | None = None  # the one that the child has loaded

    def serve(self) -> None:
        """The thread: runs tasks until a None comes."""
        while (task := self._tasks.get()) is not None:
            with self._lock:  # before the task counts as running, so that whoever cannot cancel it finds it here
                self._task = task
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                task.future.set_result(self._run(task))
            except Exception as error:
                task.future.set_exception(error)
            with self._lock:
                self._task = None
            del task
        if self._child is not None:
            self._remove_child()

    def close(self) -> None:
        """Stops the child for good."""
        with self._lock:
            self._closed = True
            self._stop("the work was cancelled")
            child = self._child
        if child is not None:
            child.wait()

    def drop(self, unwanted: list[_Task]) -> None:
        """Stops the child if it works on one of these tasks."""
        with self._lock:
            if self._task is not None and self._task in unwanted:
                self._task.unwanted = True
                self._stop("the work was cancelled")

    def check(self) -> None:
        """Stops the child if it is beyond its limits. Called by the watching thread."""
        with self._lock:
            if self._child is None or self._deadline is None or self._verdict is not None:
                return
            limits = self._limits
            if time.monotonic() > self._deadline:
                self._stop(f"took longer than {limits.time_seconds:g} s and was stopped")
            elif _resident_bytes(self._child.pid) > limits.memory_bytes:
                self._stop(f"used more than {limits.memory_bytes / 2**30:.2g} GiB of memory and was stopped")

    def _stop(self, verdict: str) -> None:
        self._verdict = self._verdict or verdict
        if self._child is not None:
            self._child.kill()

    def _run(self, task: _Task) -> Done:
        self._prepare_child(task)
        start = time.monotonic()
        with self._lock:
            self._deadline = start + self._limits.time_seconds
        try:
            kind, value = self._exchange("task", task.message)
        except _ChildEndedError:
            ours, child = self._verdict is not None, self._child
            failure = self._remove_child()
            return Done(
                item=task.item,
                failure=failure,
                seconds=time.monotonic() - start,
                is_from_outside=not ours and child is not None and -child.returncode in _OUTSIDE_SIGNALS,
            )
        except Exception as error:  # the answer cannot be unpickled here, or is not an answer: trust the child no more
            self._remove_child()
            failure, details = _describe(error)
            return Done(item=task.item, failure=failure, details=details, seconds=time.monotonic() - start)
        with self._lock:
            self._deadline = None
            child, stopped = self._child, self._verdict is not None
        # A child that keeps much memory would be stopped in the middle of the next item, which is innocent.
        if stopped or (child and _resident_bytes(child.pid) > self._limits.memory_bytes // 2):
            self._remove_child()
        seconds = time.monotonic() - start
        if kind == "value":
            return Done(item=task.item, value=value, seconds=seconds)
        failure, details = value
        return Done(item=task.item, failure=failure, details=details, seconds=seconds)

    def _prepare_child(self, task: _Task) -> None:
        """A child that is up and has loaded the task's function."""
        if self._child is not None and (self._verdict is not None or self._child.poll() is not None):
            self._remove_child()
        with self._lock:
            if self._closed or task.unwanted:
                raise RuntimeError("the work was cancelled")
            if self._child is None:
                self._child = _start_child(self._limits)
                self._verdict = self._function = None
            self._deadline = time.monotonic() + START_LIMIT_SECONDS
        if self._function == task.function:
            return
        try:
            # The child ends itself some time after the limit, should this process die while its decoder hangs.
            alarm = struct.pack("<d", self._limits.time_seconds + 10.0)
            kind, value = self._exchange("function", [task.function, alarm])
        except _ChildEndedError:
            raise RuntimeError(f"a worker process could not start: {self._remove_child()}") from None
        if kind != "loaded":
            raise RuntimeError(f"a worker process cannot import the function it should run:\n{value[1]}")
        self._function = task.function

    def _exchange(self, kind: str, parts: list[bytes | memoryview]) -> tuple[str, Any]:
        child = self._child
        assert child is not None
        try:
            _send(child.stdin, kind, parts)
            answer, received = _receive(child.stdout)
        except (OSError, EOFError) as error:
            raise _ChildEndedError from error
        return answer, _load(received) if received else None

    def _remove_child(self) -> str:
        """Takes the child away; the sentence that says why it ended."""
        child = self._child
        assert child is not None
        try:  # it closed its pipes, so it is about to end; if it is not, it must
            child.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        with self._lock:
            verdict, self._verdict, self._child, self._deadline = self._verdict, None, None, None
        return verdict or _describe_end(child.returncode)


def _watch(slots: list[_Slot], closed: threading.Event) -> None:
    while not closed.wait(WATCH_SECONDS):
        for slot in slots:
            slot.check()


def _finish(slots: list[_Slot], tasks: "queue.SimpleQueue[_Task | None]", closed: threading.Event) -> None:
    closed.set()
    with contextlib.suppress(queue.Empty):
        while True:
            task = tasks.get_nowait()
            if task is not None:
                task.future.cancel()
    for slot in slots:
        tasks.put(None)
        slot.close()


def _describe_end(returncode: int) -> str:
    if returncode >= 0:
        return f"the process that worked on it ended by itself (exit code {returncode})"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    reason = ", perhaps for lack of memory" if name == "SIGKILL" else ""
    return f"the process that worked on it crashed ({name}{reason})"


def _resident_bytes(pid: int) -> int:
    """The memory that a process holds; 0 where the system does not say or the process is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def _pickle_function(function: Callable[[Any], Any]) -> bytes:
    if getattr(function, "__module__", None) == "__main__":
        raise ValueError(
            f"worker processes cannot import '{getattr(function, '__name__', function)}' from the main script: "
            "define it in a module of its own, or use 0 workers"
        )
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(f"worker processes need a function at the top level of a module: {error}") from None


def _start_child(limits: _Limits) -> subprocess.Popen[bytes]:
    # The caller's import path, so that whatever it could import the child can import too.
    code = f"import sys; sys.path[:] = {sys.path!r}; from lookhear.media.workers import serve; serve()"
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    threads = dict.fromkeys(names, str(limits.num_threads))
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **threads}
    )


# ---- the child's side


def serve() -> None:
    """The whole life of a child: loads functions, runs tasks, answers, until stdin ends."""
    # Ctrl-C reaches the whole terminal group, but only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The pipes become private; what a function or a library prints goes to stderr and cannot garble an answer.
    incoming = os.fdopen(os.dup(0), "rb")
    outgoing = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(incoming, messages), daemon=True).start()
    function: Callable[[Any], Any] | None = None
    alarm_seconds = 0.0
    while True:
        kind, parts = messages.get()
        answer: tuple[str, list[bytes | memoryview]]
        try:
            if kind == "function":
                alarm_seconds = struct.unpack("<d", parts[1])[0]
                function = pickle.loads(parts[0])
                answer = ("loaded", [])
            else:
                assert function is not None
                with _alarm(alarm_seconds):
                    answer = ("value", _dump(function(_load(parts))))
        except BaseException as error:
            answer = ("failure", _dump(_describe(error)))
        _send(outgoing, *answer)
        del parts, answer  # holds no result while it waits


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """The system ends this process after `seconds`, even if it hangs in native code; nothing where it has no alarm."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, min(seconds, 1e6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _listen(incoming: BinaryIO, messages: "queue.SimpleQueue[_Message]") -> None:
    """Waits for messages in a thread of its own: so a child in the middle of a task, too, notices its parent's end."""
    try:
        while True:
            messages.put(_receive(incoming))
    except (EOFError, OSError):
        os._exit(0)


# ---- messages: a kind and parts. A pickled value is the pickle and, apart from it, its large buffers (protocol 5).

_Message = tuple[str, list[bytearray]]
_HEADER = struct.Struct("<16sI")
_LENGTH = struct.Struct("<Q")


def _dump(value: Any) -> list[bytes | memoryview]:
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return [head, *(buffer.raw() for buffer in buffers)]


def _load(parts: list[bytearray]) -> Any:
    return pickle.loads(parts[0], buffers=parts[1:])


def _send(pipe: Any, kind: str, parts: list[bytes | memoryview]) -> None:
    pipe.write(_HEADER.pack(kind.encode(), len(parts)))
    for part in parts:
        pipe.write(_LENGTH.pack(len(part)))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _receive(pipe: Any) -> _Message:
    kind, count = _HEADER.unpack(_read(pipe, _HEADER.size))
    lengths = [_LENGTH.unpack(_read(pipe, _LENGTH.size))[0] for _ in range(count)]
    return kind.rstrip(b"\0").decode(), [_read(pipe, length) for length in lengths]


def _read(pipe: Any, length: int) -> bytearray:
    data = bytearray(length)
    view, filled = memoryview(data), 0
    while filled < length:
        count = pipe.readinto(view[filled:])
        if not count:
            raise EOFError
        filled += count
    return data
