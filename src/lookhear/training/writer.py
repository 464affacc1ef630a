"""Checkpoints are written while training goes on: by a thread, from copies, one at a time."""

import threading
from collections.abc import Callable
from typing import Self


class CheckpointWriter:
    """Calls one function at a time in a thread of its own; what it raises is raised again in the loop.

    Leaving the `with` block waits for what is being written. A process that is killed meanwhile leaves the checkpoint
    before it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
        if kind is None:
            self.check()

    def start(self, write: Callable[[], None]) -> None:
        """Calls `write` in the thread, as soon as the call before has ended. Raises what that one raised."""
        if self._thread is not None:
            self._thread.join()
        self.check()
        # not a daemon: an interpreter that ends waits for it
        self._thread = threading.Thread(target=self._call, args=(write,), name="checkpoint")
        self._thread.start()

    def check(self) -> None:
        """Raises what a call raised that has ended; does not wait."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _call(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:
            self._error = error
