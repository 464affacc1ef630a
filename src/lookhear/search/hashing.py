"""`HashAhead`: the ids of large files, computed beside the decoding of others."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lookhear.data.stretch import hash_file


class HashAhead:
    """Hashes files ahead, one at a time, in a thread of this process; a context manager that ends it."""

    def __init__(self, paths: Mapping[int, Path]) -> None:
        """`paths`: which file has which rank in the crawl; in this order they are hashed."""
        self._unwanted = threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lookhear-hash")
        self._ids: dict[int, Future[str]] = {
            rank: self._thread.submit(hash_file, path, is_unwanted=self._unwanted.is_set)
            for rank, path in paths.items()
        }

    def __enter__(self) -> "HashAhead":
        return self

    def __exit__(self, *exception: object) -> None:
        self._unwanted.set()
        self._thread.shutdown(cancel_futures=True)

    def result(self, rank: int, stop: Callable[[], bool]) -> str:
        """The id of a file; empty of one that is not among these, or where `stop` says that it is not wanted."""
        if rank not in self._ids:
            return ""
        while not stop():
            try:
                return self._ids[rank].result(timeout=0.5)
            except TimeoutError:
                continue
        return ""
