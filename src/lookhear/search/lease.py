"""Who may write to an index.

In a folder the system keeps a lock, which ends with the process. A bucket has none: there a table of one row names the
owner, and until when if nothing more is heard of it. It changes hands by a commit that can succeed for one only, and is
renewed while the owner lives, so that a killed one is succeeded after `LEASE_SECONDS`. The clocks of machines that
write to one bucket must agree better than that.
"""

import contextlib
import datetime
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol
from uuid import uuid4

from lookhear.data.lock import LOCK_NAME, only_writer
from lookhear.errors import IndexStateError
from lookhear.search.bucket import BucketPath, Place
from lookhear.search.snapshot import telling
from lookhear.search.tables import connect

LEASE_SECONDS = 120.0
_TABLE = "writing"
_KEEP = datetime.timedelta(hours=1)


class Right(Protocol):
    """The right to write."""

    def check(self) -> None:
        """Raises IndexStateError where it was lost."""


@contextlib.contextmanager
def right_to_write(place: Place) -> Iterator[Right]:
    """Holds the right to write to the index at `place`.

    Raises IndexStateError while another process has it.
    """
    if isinstance(place, BucketPath):
        lease = _Lease(place)
        with lease.held():
            yield lease
    else:
        with only_writer(place, IndexStateError):
            yield LASTING


def is_trace_of_writer(place: Place) -> bool:
    """Whether this is what `right_to_write` leaves in an index."""
    return place.name in (LOCK_NAME, f"{_TABLE}.lance")


class _Lasting:
    def check(self) -> None:
        """Nothing: what the system holds is not lost."""


LASTING = _Lasting()


class _Lease:
    def __init__(self, place: BucketPath) -> None:
        self._place = place
        self._owner = uuid4().hex
        self._until = 0.0
        self._released = threading.Event()

    def check(self) -> None:
        """Raises IndexStateError where the lease could not be renewed in time, or another process has it."""
        if time.time() >= self._until:
            raise IndexStateError(
                f"the right to write to {self._place} was lost: for {LEASE_SECONDS:.0f} s the bucket could not be "
                "reached, or this process stood still; run the same command again, what was complete is in the index"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """From taking it to giving it back."""
        with telling(self._place):
            table = self._take()
        renewing = threading.Thread(target=self._renew, args=(table,), daemon=True, name="lookhear-lease")
        renewing.start()
        try:
            yield
        finally:
            self._released.set()
            renewing.join()
            with contextlib.suppress(Exception):  # a later writer does it
                table.optimize(cleanup_older_than=_KEEP)
            with contextlib.suppress(Exception):  # it ends by itself
                self._say(table, before=self._owner, until=0.0)

    def _take(self) -> Any:
        connection = connect(self._place)
        try:
            table = connection.open_table(_TABLE)
        except ValueError:  # there is none yet; others may be making it at this moment
            free = [{"owner": "", "until": 0.0, "who": ""}]
            with contextlib.suppress(ValueError, RuntimeError):
                connection.create_table(_TABLE, free, mode="create")
            table = connection.open_table(_TABLE)
        before = table.to_arrow().to_pylist()[0]
        if before["until"] > time.time():
            raise IndexStateError(
                f"another process ({before['who']}) is writing to {self._place}; wait until it is done, then run the "
                f"same command again; if it was killed, it is forgotten in {LEASE_SECONDS:.0f} s at most"
            )
        self._say(table, before=before["owner"], until=time.time() + LEASE_SECONDS)
        if not self._until:
            raise IndexStateError(
                f"another process has just begun to write to {self._place}; wait until it is done, then run the same "
                "command again"
            )
        return table

    def _renew(self, table: Any) -> None:
        while not self._released.wait(LEASE_SECONDS / 4):
            with contextlib.suppress(Exception):  # what the next try does not mend, `check` says
                self._say(table, before=self._owner, until=time.time() + LEASE_SECONDS)

    def _say(self, table: Any, *, before: str, until: float) -> None:
        """Writes this owner in the place of the one before; where that is not there any more, the right is lost."""
        values = {"owner": self._owner, "until": until, "who": f"{socket.gethostname()}, process {os.getpid()}"}
        done = table.update(where=f"owner = '{before}'", values=values)
        self._until = until if done.rows_updated else 0.0
