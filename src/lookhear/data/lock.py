"""The lock that lets one process at a time write into a folder."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lookhear.errors import StoreError, UserError

LOCK_NAME = "writing.lock"


@contextlib.contextmanager
def only_writer(path: Path, error: type[UserError] = StoreError) -> Iterator[None]:
    """Holds the right to write into the folder `path`. The system takes it back when the process ends, however.

    Raises `error` while another process holds it.
    """
    try:
        file = (path / LOCK_NAME).open("ab")
    except OSError as problem:
        raise error(f"cannot write {path}: {problem.strerror or problem}; mend that and try again") from None
    with file:
        try:
            _lock(file)
        except OSError:
            raise error(
                f"another process is writing to {path}; wait until it is done, then run the same command again"
            ) from None
        yield


def _lock(file: IO[bytes]) -> None:
    """Locks `file` until it is closed; OSError if another holds it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
