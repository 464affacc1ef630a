"""Vectors on disk, written: shard after shard, each whole or not there (`data.vectors` says what is in a folder)."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lookhear.config import leaves, to_dict
from lookhear.data.lock import LOCK_NAME, only_writer
from lookhear.data.manifest import json_line
from lookhear.data.staging import appearing
from lookhear.data.vectors import (
    ARRAYS,
    FACTS_NAME,
    HEADER_BYTES,
    Dtype,
    EmbeddedFile,
    EmbeddingFacts,
    read_facts,
    read_files,
    shard_file,
)
from lookhear.errors import StoreError

_MOST_SHOWN = 5  # differences in a message


@contextlib.contextmanager
def writing(path: Path, facts: EmbeddingFacts) -> Iterator[tuple[EmbeddedFile, ...]]:
    """Makes the folder, or goes on with it; gives the rows that are there, and holds the right to write.

    Raises StoreError for a folder that holds something else, or vectors that were made in another way, or that another
    process is writing to.
    """
    try:
        if read_facts(path) is None:  # before the lock, which is a file too
            if path.exists() and not path.is_dir():
                raise StoreError(f"{path} is a file; embeddings need a folder (--out DIR)")
            if path.is_dir() and any(
                not entry.name.endswith(".tmp") and entry.name not in (LOCK_NAME, FACTS_NAME)
                for entry in path.iterdir()
            ):
                raise StoreError(f"{path} holds no embeddings and is not empty; choose another folder (--out DIR)")
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None
    with only_writer(path):
        try:
            _same_facts(path, facts)
            for left in path.glob("shard-*.tmp"):  # of a run that was killed
                left.unlink()
            done = tuple(read_files(path))
        except OSError as error:
            raise _cannot_write(path, error) from None
        yield done


def _same_facts(path: Path, facts: EmbeddingFacts) -> None:
    """Writes embeddings.json, or sees that it says the same."""
    before = read_facts(path)
    if before is None:
        with appearing(path / FACTS_NAME, durable=True) as file:
            file.write(json.dumps(to_dict(facts), indent=1).encode())
        return
    has, wants = leaves(to_dict(before)), leaves(json.loads(json.dumps(to_dict(facts))))
    other = [name for name in wants if has.get(name) != wants[name]]
    if other:
        shown = [f"{name} {_short(has.get(name))} there, {_short(wants[name])} now" for name in other[:_MOST_SHOWN]]
        said = "; ".join([*shown, *([f"and {len(other) - len(shown)} more"] if len(other) > len(shown) else [])])
        raise StoreError(f"{path} was made in another way ({said}); choose another folder (--out DIR)")


def _cannot_write(path: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write {path}: {error.strerror or error}; mend that or choose another folder")


class ShardWriter:
    """One shard: rows go to disk as they come, and `finish` makes them count, all of them or none."""

    def __init__(self, path: Path, number: int, *, dtype: Dtype) -> None:
        self._path, self._number = path, number
        self._dtype = np.dtype(dtype)
        self._arrays: dict[str, _GrowingArray] = {"times": self._array("times", np.dtype(np.float64), (2,))}
        self._files: list[EmbeddedFile] = []

    @property
    def num_rows(self) -> int:
        """Windows so far."""
        return self._arrays["times"].num_rows

    @property
    def num_files(self) -> int:
        """Files so far."""
        return len(self._files)

    def add_rows(self, times: np.ndarray, audio: np.ndarray | None, visual: np.ndarray | None) -> None:
        """Windows: float64 (m, 2), and float32 (m, ...) or None where none of them has the modality."""
        before = self.num_rows
        self._arrays["times"].append(times)
        for name, vectors in (("audio", audio), ("visual", visual)):
            if vectors is not None and name not in self._arrays:
                self._arrays[name] = self._array(name, self._dtype, vectors.shape[1:])
                self._arrays[name].append_missing(before)
            if name in self._arrays:
                if vectors is None:
                    self._arrays[name].append_missing(len(times))
                else:
                    self._arrays[name].append(vectors)

    def add_file(self, file: EmbeddedFile) -> EmbeddedFile:
        """The next file, whose rows follow those of the one before, with its place filled in."""
        first = self._files[-1].first_row + self._files[-1].num_rows if self._files else 0
        self._files.append(replace(file, shard=self._number, first_row=first))
        return self._files[-1]

    def finish(self) -> None:
        """Puts the shard in its place; its index comes last."""
        for name, array in self._arrays.items():
            array.finish(shard_file(self._path, self._number, f"{name}.npy"))
        for name in set(ARRAYS) - set(self._arrays):  # of a run that was killed between its renamings
            shard_file(self._path, self._number, f"{name}.npy").unlink(missing_ok=True)
        with appearing(shard_file(self._path, self._number, "jsonl"), durable=True) as file:
            file.writelines(json_line(to_dict(row)) for row in self._files)

    def _array(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> "_GrowingArray":
        place = shard_file(self._path, self._number, f"{name}.npy")
        return _GrowingArray(place.with_name(f"{place.name}.{os.getpid()}.tmp"), dtype, shape)


class _GrowingArray:
    """An .npy file that rows are appended to."""

    def __init__(self, path: Path, dtype: np.dtype, shape: Sequence[int]) -> None:
        self._path, self._dtype, self._shape = path, dtype, tuple(shape)
        self.num_rows = 0
        self._file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, rows: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).tobytes())
        self.num_rows += len(rows)

    def append_missing(self, count: int) -> None:
        row = np.full((1, *self._shape), np.nan, dtype=self._dtype)
        for _ in range(count):
            self.append(row)

    def finish(self, place: Path) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())  # the index, which comes later, must not outlive it
        self._file.close()
        self._path.replace(place)

    def _write_header(self) -> None:
        """As numpy's format 1.0: magic, length, and a dictionary filled up with spaces."""
        description = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.num_rows, *self._shape)}
        text = repr(description).encode().ljust(HEADER_BYTES - 11) + b"\n"
        self._file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
