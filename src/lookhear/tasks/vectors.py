"""Vectors on disk: what `embed` writes and `read_embeddings` gives back, memory-mapped.

A folder:

    embeddings.json         how all of it was made: model, settings; written first
    writing.lock            held by the process that writes
    shard-00000.jsonl       a line a file: path, status, reason, and which rows are its windows; written last of its
                            shard, so that it marks a whole one; the last line of a file counts (see `embed`)
    shard-00000.times.npy   float64 (M, 2): start and end of each window in seconds, on its file's clock
    shard-00000.audio.npy   float32 or float16 (M, ...), NaN in the rows of windows without sound
    shard-00000.visual.npy  likewise; a modality that no window of the shard has is no file

M windows of a shard. Every array is a plain .npy file: `numpy.load(path, mmap_mode="r")` opens it without us.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from lookhear.config import from_dict, to_dict
from lookhear.data.lock import LOCK_NAME, only_writer
from lookhear.data.manifest import Status, json_line
from lookhear.data.staging import appearing
from lookhear.embedder import Part
from lookhear.errors import ConfigError, StoreError

FORMAT = 1
FACTS_NAME = "embeddings.json"
Dtype = Literal["float32", "float16"]
_HEADER_BYTES = 256  # of an .npy file, so that the number of rows can be filled in at the end
_ARRAYS = ("times", "audio", "visual")


@dataclass(frozen=True, kw_only=True)
class EmbeddingFacts:
    """How the vectors of a folder were made: all of them in this one way."""

    format: int = FORMAT
    source: str
    """the folder, file or store, as an absolute path"""
    store_digest: str = ""
    """of what a store holds; nothing where the source is media"""
    fingerprint: str
    """of the model's tensors and preprocessing"""
    what: Part
    """embedding (E,) of unit length in the shared space, pooled (D,), or tokens (L, D)"""
    dtype: Dtype
    """of the vectors as they are stored"""
    precision: str
    """that the model computed in: float32, or bfloat16, whose numbers differ by far more than rounding"""
    window_seconds: float
    """length of a window"""
    hop_seconds: float
    """from the start of a window to the next"""
    preprocess: dict[str, Any]
    """the model's preprocessing"""


@dataclass(frozen=True, kw_only=True)
class EmbeddedFile:
    """One file (or clip of a store), and where its windows are."""

    path: str  # relative to the source, with forward slashes; of a store the id of the clip
    status: Status
    reason: str = ""  # why it is not simply ok
    shard: int = 0
    first_row: int = 0
    num_rows: int = 0
    # of the media file, to see whether it has changed since; 0 for a clip of a store
    size_bytes: int = 0
    mtime_ns: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedWindows:
    """Windows and their vectors, memory-mapped: of a shard, or of one file."""

    start_seconds: np.ndarray  # float64 (M,)
    end_seconds: np.ndarray  # float64 (M,)
    # (M, E), (M, D) or (M, L, D), NaN where the window has no such modality; None where no window of the shard has
    audio: np.ndarray | None
    visual: np.ndarray | None

    def __len__(self) -> int:
        return len(self.start_seconds)


class StoredEmbeddings:
    """A folder of vectors, opened for reading; also one that is still being written, as far as it is.

    Raises StoreError where there is none, or one that this version cannot read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        facts = read_facts(self.path)
        if facts is None:
            raise StoreError(f"there are no embeddings at {path}; make them with `lookhear embed SOURCE --out {path}`")
        self.facts = facts
        written = tuple(read_files(self.path))
        self.files = latest(written)
        """A row for every file, refused ones too."""
        self._num_shards = written[-1].shard + 1 if written else 0

    @property
    def num_shards(self) -> int:
        """How many shards are finished."""
        return self._num_shards

    def shard(self, number: int) -> EmbeddedWindows:
        """All windows of a shard, in the order of its files."""
        found = {name: _load(self.path, number, name) for name in _ARRAYS}
        times = found["times"]
        if times is None:
            raise StoreError(f"{self.path} has no shard {number} (of {self.num_shards}) or has lost its times")
        return EmbeddedWindows(
            start_seconds=times[:, 0], end_seconds=times[:, 1], audio=found["audio"], visual=found["visual"]
        )

    def windows(self, file: EmbeddedFile) -> EmbeddedWindows:
        """The windows of one of `files`; none of a refused one."""
        whole = self.shard(file.shard)
        rows = slice(file.first_row, file.first_row + file.num_rows)
        return EmbeddedWindows(
            start_seconds=whole.start_seconds[rows],
            end_seconds=whole.end_seconds[rows],
            audio=None if whole.audio is None else whole.audio[rows],
            visual=None if whole.visual is None else whole.visual[rows],
        )


def read_embeddings(path: str | Path) -> StoredEmbeddings:
    """The vectors that `embed` wrote to the folder `path`, as memory-mapped arrays. Raises StoreError."""
    return StoredEmbeddings(path)


def read_facts(path: Path) -> EmbeddingFacts | None:
    """What embeddings.json says, None where there is none. Raises StoreError for one that cannot be read."""
    place = path / FACTS_NAME
    try:
        data = json.loads(place.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {place} ({error}); embed into another folder") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise StoreError(f"{path} has embedding format {found}, this version reads {FORMAT}; embed into another folder")
    try:
        return from_dict(EmbeddingFacts, data)
    except ConfigError as error:
        raise StoreError(f"{place} is damaged ({error}); embed into another folder") from None


def read_files(path: Path) -> Iterator[EmbeddedFile]:
    """The rows of all finished shards, in order; of a file that was tried again, several."""
    number = 0
    while (place := _place(path, number, "jsonl")).exists():
        try:
            for line in place.read_bytes().splitlines():
                yield from_dict(EmbeddedFile, json.loads(line))
        except (OSError, ValueError, ConfigError) as error:
            raise StoreError(f"{place} is damaged ({error}); embed into another folder") from None
        number += 1


def latest(files: Iterable[EmbeddedFile]) -> tuple[EmbeddedFile, ...]:
    """The last row of each file: one that was refused may have been tried again."""
    found: dict[str, EmbeddedFile] = {}
    for file in files:
        found.pop(file.path, None)
        found[file.path] = file
    return tuple(found.values())


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
    has, wants = to_dict(before), json.loads(json.dumps(to_dict(facts)))
    other = [name for name in wants if has.get(name) != wants[name]]
    if other:
        said = "; ".join(f"{name} {_short(has.get(name))} there, {_short(wants[name])} now" for name in other)
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
            array.finish(_place(self._path, self._number, f"{name}.npy"))
        for name in set(_ARRAYS) - set(self._arrays):  # of a run that was killed between its renamings
            _place(self._path, self._number, f"{name}.npy").unlink(missing_ok=True)
        with appearing(_place(self._path, self._number, "jsonl"), durable=True) as file:
            file.writelines(json_line(to_dict(row)) for row in self._files)

    def _array(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> "_GrowingArray":
        place = _place(self._path, self._number, f"{name}.npy")
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
        text = repr(description).encode().ljust(_HEADER_BYTES - 11) + b"\n"
        self._file.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)


def _load(path: Path, number: int, name: str) -> np.ndarray | None:
    place = _place(path, number, f"{name}.npy")
    try:
        return np.load(place, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except ValueError as error:
        # numpy maps no empty file
        array = np.load(place, allow_pickle=False) if place.stat().st_size == _HEADER_BYTES else None
        if array is None:
            raise StoreError(f"{place} is damaged ({error}); embed into another folder") from None
        return array


def _place(path: Path, number: int, ending: str) -> Path:
    return path / f"shard-{number:05d}.{ending}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
