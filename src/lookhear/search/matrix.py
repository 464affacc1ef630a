"""`Matrix`: the vectors of an index as bfloat16 numbers, for the exact search of more moments than are held in memory.

    matrix/
      rows.npz           which moment lies in which row, at which version of the table; replaced in one step
      audio-ID.bf16      (P, E) numbers; new moments are appended
      visual-ID.bf16
      writing.lock

The files are mapped into memory: what is not in use can be taken back by the system, and several processes share one
copy. Rows of moments that are gone stay until they are a quarter of all; then the rest is copied to new files.

Half the bytes of float32 are half the memory and half the time of a scan. What rounding costs is known: a cosine of
the scan is off by at most `max_error`, so moments that can be among the best are few, and of these the float32 vectors
in the table decide. The answer is that of an exact search.
"""

import contextlib
import functools
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import numpy as np
import torch
from torch import Tensor

from lookhear.data.lock import LOCK_NAME, only_writer
from lookhear.errors import StoreError
from lookhear.search.library import Modality, runs
from lookhear.search.snapshot import BOTH, Keys, Snapshot

_FORMAT = 2
_ROWS_NAME = "rows.npz"
# Moments that are read from the table at once.
_ROWS_A_READ = 8192
# Rows of a product, which limits what the library of matrix products copies.
_ROWS_A_PRODUCT = 65_536
# So many of the rows may belong to moments that are gone.
_DEAD_SHARE = 0.25
_WAIT_SECONDS = 0.2
# Half a unit in the last of the 8 bits of a bfloat16 number up to 1, and the rounding of a sum of float32 products.
_OUTPUT_ERROR, _SUM_ERROR = 2.0**-9, 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What lies in which row; F contents, P rows."""

    version: int  # of the table of moments
    identity: str  # in the names of the files with the vectors
    file_ids: np.ndarray  # bytes (F,)
    first: np.ndarray  # int64 (F,): the first row of each content, whose moments follow each other
    count: np.ndarray  # int64 (F,)
    start_seconds: np.ndarray  # float64 (P,), of rows that are in use
    end_seconds: np.ndarray  # float64 (P,), likewise
    row_id: np.ndarray  # uint64 (P,), likewise
    has_audio: np.ndarray  # bool (P,)
    has_visual: np.ndarray  # bool (P,)
    rounding: float  # the largest length of (vector - vector in bfloat16)
    length: float  # the largest of a vector

    def __len__(self) -> int:
        return len(self.start_seconds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Vectors in bfloat16, for scans."""

    rows: Rows
    audio: Tensor  # bfloat16 (P, E)
    visual: Tensor  # bfloat16 (P, E)

    def has(self, modality: Modality) -> np.ndarray:
        """bool (P,)."""
        return self.rows.has_audio if modality == "sound" else self.rows.has_visual

    def cosines(self, modality: Modality, vectors: Tensor) -> Tensor:
        """(W, P), bfloat16 or float32: dot products within -1..1 of vectors (W, E) with all rows, off by `max_error` at
        most."""
        return products(self.audio if modality == "sound" else self.visual, vectors)

    def max_error(self, vectors: Tensor) -> float:
        """How far a cosine of one of `vectors` (W, E) may be off."""
        return max_error(vectors, self.rows.rounding, self.rows.length)


def products(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(W, P), bfloat16 or float32: of vectors (W, E) with bfloat16 rows (P, E), in whichever way is fast here."""
    is_fast = bfloat16_is_fast()
    asked = vectors.bfloat16() if is_fast else vectors
    found = torch.empty(len(vectors), len(matrix), dtype=asked.dtype)
    with torch.inference_mode():
        for first in range(0, len(matrix), _ROWS_A_PRODUCT):
            some = matrix[first : first + _ROWS_A_PRODUCT]
            product = asked @ some.T if is_fast else (some.float() @ asked.T).T
            found[:, first : first + len(some)] = product
    return found


def max_error(vectors: Tensor, rounding: float, length: float) -> float:
    """How far one of `products` may be off, by the inequality of Cauchy and Schwarz.

    `rounding` is the largest length of what rows lost when they were rounded, `length` the largest of a row before.
    """
    is_fast = bfloat16_is_fast()
    own = float((vectors - vectors.bfloat16().float()).norm(dim=1).max()) if is_fast else 0.0
    # A rounded row is longer than the row by no more than its own rounding.
    error = rounding * float(vectors.norm(dim=1).max()) + own * (length + rounding)
    return error + (_OUTPUT_ERROR if is_fast else 0.0) + _SUM_ERROR


@functools.cache
def bfloat16_is_fast() -> bool:
    """Whether this machine multiplies bfloat16 numbers faster than it turns them into float32 and multiplies these."""
    # More than a cache holds.
    matrix, vectors = torch.ones(16_384, 768, dtype=torch.bfloat16), torch.ones(1, 768)

    def seconds(product: Callable[[], Tensor]) -> float:
        started = time.perf_counter()
        product()
        return time.perf_counter() - started

    with torch.inference_mode():
        direct = min(seconds(lambda: vectors.bfloat16() @ matrix.T) for _ in range(4))
        converted = min(seconds(lambda: matrix.float() @ vectors.T) for _ in range(4))
    return direct <= converted


# ---- keeping it up to date


def open_matrix(snapshot: Snapshot, file_ids: Set[str], folders: Sequence[Path] = ()) -> Matrix:
    """The matrix of the moments that `snapshot` has of these contents, and perhaps of more.

    It is kept in the first of `folders` that can be written, where only what is new since the last time is read from
    the table. Where there is none, it is made in memory.
    """
    for folder in folders:
        # Twice: another process may replace the files between a look at rows.npz and at them.
        for _ in range(2):
            with contextlib.suppress(OSError):
                return _kept(snapshot, file_ids, folder)
    plan = _plan(snapshot, file_ids, None)
    audio, visual = (_InMemory(len(plan.rows), snapshot.width) for _ in BOTH)
    rows = _fill(snapshot, plan, (audio, visual), None)
    return Matrix(rows=rows, audio=audio.rows, visual=visual.rows)


def _kept(snapshot: Snapshot, file_ids: Set[str], folder: Path) -> Matrix:
    rows = _read_rows(folder, snapshot.width)
    if rows is None or not _has_all(rows, snapshot, file_ids):
        folder.mkdir(parents=True, exist_ok=True)
        with _turn(folder):
            rows = _read_rows(folder, snapshot.width)  # another process may have made it meanwhile
            if rows is None or not _has_all(rows, snapshot, file_ids):
                rows = _bring_up_to_date(snapshot, file_ids, folder, rows)
    return _map(folder, rows, snapshot.width)


def _has_all(rows: Rows, snapshot: Snapshot, file_ids: Set[str]) -> bool:
    # Moments are there before the row that names them: then one version has more contents than it had before.
    return rows.version == snapshot.version and {name.encode() for name in file_ids} <= set(rows.file_ids.tolist())


def _bring_up_to_date(snapshot: Snapshot, file_ids: Set[str], folder: Path, old: Rows | None) -> Rows:
    plan = _plan(snapshot, file_ids, old)
    before = None if old is None else _map(folder, old, snapshot.width)
    new = folder / f"{_ROWS_NAME}.{os.getpid()}.tmp"
    try:
        with contextlib.ExitStack() as files:
            sinks = [
                files.enter_context(_InFile(path, plan.num_there, snapshot.width))
                for path in _paths(folder, plan.rows.identity)
            ]
            rows = _fill(snapshot, plan, sinks, before)
        with new.open("wb") as file:
            np.savez(file, format=_FORMAT, width=snapshot.width, **vars(rows))
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / _ROWS_NAME)
    except OSError:  # a disk that is full
        _remove([new, *(() if plan.num_there else _paths(folder, plan.rows.identity))])
        raise
    # With what killed processes left.
    _remove({*folder.glob("*.bf16"), *folder.glob("*.tmp")} - set(_paths(folder, rows.identity)))
    return rows


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # another process may still have it open; it goes the next time
            path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """How a matrix comes to be that of a snapshot."""

    rows: Rows  # as they will be, except for what only the new vectors tell
    num_there: int  # rows that are in the files already
    copied: np.ndarray  # int64: old rows that come first in new files
    first_new: int  # from this row on vectors are read from the table


def _plan(snapshot: Snapshot, file_ids: Set[str], old: Rows | None) -> _Plan:
    keys = snapshot.keys().of(file_ids)
    old_first = _old_places(keys, old)
    is_new = old_first < 0
    num_old = 0 if old is None else len(old)
    used = int(keys.count[~is_new].sum())
    copied = np.zeros(0, np.int64)
    if old is None or num_old - used > _DEAD_SHARE * num_old:
        identity, num_there = uuid4().hex[:8], 0
        copied = runs(old_first[~is_new], keys.count[~is_new])
        first = np.where(is_new, 0, np.cumsum(np.where(is_new, 0, keys.count)) - keys.count)
        first_new = used
    else:
        identity, num_there, first_new, first = old.identity, num_old, num_old, old_first
    count_new = np.where(is_new, keys.count, 0)
    first = np.where(is_new, first_new + np.cumsum(count_new) - count_new, first)
    num_rows = first_new + int(count_new.sum())
    rows = runs(first, keys.count)
    start, end = np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    row_id = np.zeros(num_rows, np.uint64)
    start[rows], end[rows], row_id[rows] = keys.start_seconds, keys.end_seconds, keys.row_id
    has = np.zeros((2, num_rows), bool)
    if old is not None:
        known = copied if num_there == 0 else np.arange(num_old)
        has[:, : len(known)] = old.has_audio[known], old.has_visual[known]
    return _Plan(
        rows=Rows(
            version=snapshot.version,
            identity=identity,
            file_ids=np.array(keys.file_ids, np.bytes_),
            first=first,
            count=keys.count,
            start_seconds=start,
            end_seconds=end,
            row_id=row_id,
            has_audio=has[0],
            has_visual=has[1],
            rounding=0.0 if old is None else old.rounding,
            length=0.0 if old is None else old.length,
        ),
        num_there=num_there,
        copied=copied,
        first_new=first_new,
    )


def _old_places(keys: Keys, old: Rows | None) -> np.ndarray:
    """int64 (F,): the first old row of each content, -1 where it was not there or had other moments."""
    places = np.full(len(keys.file_ids), -1)
    if old is None:
        return places
    known = {name.decode(): rank for rank, name in enumerate(old.file_ids.tolist())}
    for rank, name in enumerate(keys.file_ids):
        before = known.get(name)
        if before is None or old.count[before] != keys.count[rank]:
            continue
        there, here = int(old.first[before]), int(keys.first[rank])
        count = int(keys.count[rank])
        if np.array_equal(old.start_seconds[there : there + count], keys.start_seconds[here : here + count]):
            places[rank] = there
    return places


def _fill(snapshot: Snapshot, plan: _Plan, sinks: "Sequence[_Sink]", before: Matrix | None) -> Rows:
    """Writes the rows that are copied and those that are read from the table; what `plan.rows` is, completed."""
    for first in range(0, len(plan.copied), _ROWS_A_PRODUCT):
        assert before is not None
        some = torch.from_numpy(plan.copied[first : first + _ROWS_A_PRODUCT])
        for sink, whole in zip(sinks, (before.audio, before.visual), strict=True):
            sink.append(whole[some])
    rows, rounding, length = plan.rows, plan.rows.rounding, plan.rows.length
    for first in range(plan.first_new, len(rows), _ROWS_A_READ):
        found = snapshot.vectors(rows.row_id[first : first + _ROWS_A_READ])
        place = slice(first, first + _ROWS_A_READ)
        rows.has_audio[place], rows.has_visual[place] = found.has_audio, found.has_visual
        for sink, vectors in zip(sinks, (found.audio, found.visual), strict=True):
            rounded = vectors.bfloat16()
            rounding = max(rounding, float((vectors - rounded.float()).norm(dim=1).max()))
            length = max(length, float(vectors.norm(dim=1).max()))
            sink.append(rounded)
    return replace(rows, rounding=rounding, length=length)


class _Sink(Protocol):
    """Where rows of one modality are written, one batch after the other."""

    def append(self, rows: Tensor) -> None:
        """Writes bfloat16 (N, E)."""


class _InMemory:
    def __init__(self, num_rows: int, width: int) -> None:
        self.rows = torch.empty(num_rows, width, dtype=torch.bfloat16)
        self._place = 0

    def append(self, rows: Tensor) -> None:
        self.rows[self._place : self._place + len(rows)] = rows
        self._place += len(rows)


class _InFile:
    """Appends to a file of which the first rows are there; a context manager that puts the file on the disk."""

    def __init__(self, path: Path, num_there: int, width: int) -> None:
        self._file = path.open("r+b" if num_there else "wb")
        self._file.truncate(num_there * width * 2)  # a killed process may have left more
        self._file.seek(0, os.SEEK_END)

    def append(self, rows: Tensor) -> None:
        if rows.any():
            self._file.write(rows.contiguous().view(torch.uint8).numpy().data)
        else:  # of what the library does not have, nothing lies on the disk
            self._file.truncate(self._file.seek(rows.numel() * 2, os.SEEK_CUR))

    def __enter__(self) -> "_InFile":
        return self

    def __exit__(self, *exception: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Waits until no other process brings the matrix up to date. Raises OSError where that cannot be known."""
    (folder / LOCK_NAME).open("ab").close()
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(only_writer(folder))
                break
            except StoreError:
                time.sleep(_WAIT_SECONDS)
        yield


def _paths(folder: Path, identity: str) -> tuple[Path, Path]:
    return folder / f"audio-{identity}.bf16", folder / f"visual-{identity}.bf16"


def _map(folder: Path, rows: Rows, width: int) -> Matrix:
    audio, visual = (_mapped(path, len(rows), width) for path in _paths(folder, rows.identity))
    return Matrix(rows=rows, audio=audio, visual=visual)


def _mapped(path: Path, num_rows: int, width: int) -> Tensor:
    if not num_rows:
        return torch.zeros(0, width, dtype=torch.bfloat16)
    # "c" is read-only for the file; torch warns of arrays that cannot be written.
    values = np.memmap(path, np.int16, mode="c", shape=(num_rows, width))
    return torch.from_numpy(values).view(torch.bfloat16)


def _read_rows(folder: Path, width: int) -> Rows | None:
    """What rows.npz says; None where there is none, or not all that it names."""
    try:
        with np.load(folder / _ROWS_NAME) as data:
            if (int(data["format"]), int(data["width"])) != (_FORMAT, width):
                return None
            values = {name: data[name] for name in Rows.__dataclass_fields__}
        rows = Rows(
            **values
            | {
                "version": int(values["version"]),
                "identity": str(values["identity"]),
                "rounding": float(values["rounding"]),
                "length": float(values["length"]),
            }
        )
        least = len(rows) * width * 2
        is_whole = all(path.stat().st_size >= least for path in _paths(folder, rows.identity))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    return rows if is_whole else None
