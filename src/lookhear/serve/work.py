"""`Workshop`: where a server's work is done, so that the loop that answers never waits.

What touches media runs in limited child processes, what computes on the index or with the model in a few threads.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from lookhear.data.lock import only_writer
from lookhear.errors import MediaError, StoreError, UserError
from lookhear.media.workers import LimitedPool
from lookhear.serve.settings import ServeSettings

Job = TypeVar("Job")
Made = TypeVar("Made")
_log = logging.getLogger(__name__)
_PREFIX = "lookhear-serve-"
# Threads that hand jobs to children and wait for them.
_WAITING_THREADS = 8
# A folder that is younger may be one that another server is just making.
_STALE_SECONDS = 60.0


class UnreadableError(UserError):
    """A file that cannot be used, and why; never with the place where it lay for a moment."""


class BusyError(UserError):
    """More is asked for at one time than the server does."""


def reasoned(work: Callable[[Job], Made], job: Job) -> Made | UnreadableError:
    """`work(job)`, or why its file cannot be used, without its path: for functions that run in a child."""
    try:
        return work(job)
    except MediaError as error:
        return UnreadableError(error.reason)


class Bench:
    """Some child processes with one time limit."""

    def __init__(self, name: str, workers: int, settings: ServeSettings, time_limit_seconds: float) -> None:
        self._pool = LimitedPool(
            workers, time_limit_seconds=time_limit_seconds, memory_limit_bytes=settings.memory_limit_bytes
        )
        next(self._pool.map(_nothing, [None]))  # its threads are started once, not by several callers at one time
        self._is_closed = False
        self._queue = _Queue(name, _WAITING_THREADS, settings.max_waiting)

    async def run(self, function: Callable[[Job], Made | UnreadableError], job: Job) -> Made:
        """What `function` (importable by name) makes of `job` in a child.

        Raises UnreadableError for a file that it cannot use, that takes too long or too much memory, or that crashes
        the decoder; BusyError where too many wait already.
        """
        return await self._queue.run(self._run, function, job)

    def _run(self, function: Callable[[Job], Made | UnreadableError], job: Job) -> Made:
        try:
            done = next(self._pool.map(function, [job]))
        except (RuntimeError, CancelledError):
            if self._is_closed:
                raise BusyError("the server is about to stop") from None
            raise
        if done.failure is not None:
            if done.details:  # no sentence of ours: either the file or lookhear has a defect that nobody thought of
                _log.error("a child failed at a file in a way that is not known:\n%s", done.details)
            raise UnreadableError(done.failure)
        if isinstance(done.value, UnreadableError):
            raise done.value
        made: Made = done.value
        return made

    def warm(self, function: Callable[[None], None]) -> None:
        """Has every child import where `function` is from, and waits for it."""
        with contextlib.suppress(RuntimeError, CancelledError):  # the server has ended meanwhile
            for _ in self._pool.map(function, [None] * self._pool.num_workers):
                pass

    def close(self) -> None:
        """Stops its children; may be called twice."""
        self._is_closed = True
        self._queue.close()
        self._pool.close()


def _nothing(_: Any) -> None:
    return None


class _Queue:
    """A few threads, and a limit to what waits for them."""

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"lookhear-{name}")
        self._max_waiting = threads + max_waiting
        self._num_asked = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Made], *arguments: Any) -> Made:
        """What `function` returns. Raises BusyError where too many wait already."""
        with self._lock:
            if self._num_asked >= self._max_waiting:
                raise BusyError("the server has more to do than it can; try again in a moment")
            self._num_asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        finally:
            with self._lock:
                self._num_asked -= 1

    def close(self) -> None:
        """Drops what waits."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Workshop:
    """Children, threads, and a folder for files that live for a moment. A context manager."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        _sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # for this user only
        self._open = contextlib.ExitStack()
        self._open.enter_context(only_writer(self.folder))  # which tells the next server that this one is alive
        one = min(settings.workers, 1)
        self.uploads = Bench("uploads", one, settings, settings.decode_seconds)
        self.media = Bench("media", settings.workers, settings, settings.decode_seconds)
        self.exports = Bench("exports", one, settings, settings.cut_seconds)
        self._looks = _Queue("look", _WAITING_THREADS, settings.max_waiting)
        self._searches = _Queue("search", settings.searches, settings.max_waiting)
        self._num_receiving = 0  # touched by the loop alone
        self._model = _Queue("model", 1, settings.max_waiting)  # one at a time: it uses all cores

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def receiving(self) -> Iterator[None]:
        """While an upload is received and read. Raises BusyError where too many are."""
        if self._num_receiving >= self.settings.max_receiving:
            raise BusyError("the server is reading as many files as it can; try again in a moment")
        self._num_receiving += 1
        try:
            yield
        finally:
            self._num_receiving -= 1

    async def look(self, function: Callable[..., Made], *arguments: Any) -> Made:
        """Runs something that reads a little in a thread, such as where a file lies. Raises BusyError."""
        return await self._looks.run(function, *arguments)

    async def search(self, function: Callable[..., Made], *arguments: Any) -> Made:
        """Runs something that computes on the index in a thread. Raises BusyError."""
        return await self._searches.run(function, *arguments)

    async def infer(self, function: Callable[..., Made], *arguments: Any) -> Made:
        """Runs something that computes with the model in a thread. Raises BusyError."""
        return await self._model.run(function, *arguments)

    def close(self) -> None:
        """Stops the children and removes what they left; may be called twice."""
        for part in (self.uploads, self.media, self.exports, self._looks, self._searches, self._model):
            part.close()
        self._open.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _sweep() -> None:
    """Removes what a server that was killed left of its folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if folder.is_symlink():  # none of ours; what it leads to is nobody's business
            continue
        with contextlib.suppress(OSError, StoreError):
            if time.time() - folder.stat().st_mtime < _STALE_SECONDS:
                continue
            with only_writer(folder):
                pass
            shutil.rmtree(folder, ignore_errors=True)
