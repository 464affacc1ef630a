"""Vectors on disk, read: what `lookhear embed` wrote, memory-mapped (`tasks.vectors` writes it).

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

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lookhear.config import from_dict, nearest
from lookhear.data.manifest import Status
from lookhear.errors import ConfigError, StoreError

FORMAT = 1
FACTS_NAME = "embeddings.json"
# of what a model says about a window: its vector in the shared space, its pooled token, all of its tokens
Part = Literal["embedding", "pooled", "tokens"]
Dtype = Literal["float32", "float16"]
HEADER_BYTES = 256  # of an .npy file, so that the number of rows can be filled in at the end
ARRAYS = ("times", "audio", "visual")


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

    def rows(self, first: int, count: int) -> "EmbeddedWindows":
        """`count` of them, from `first` on."""
        some = slice(first, first + count)
        return EmbeddedWindows(
            start_seconds=self.start_seconds[some],
            end_seconds=self.end_seconds[some],
            audio=None if self.audio is None else self.audio[some],
            visual=None if self.visual is None else self.visual[some],
        )


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
        found = {name: _load(self.path, number, name) for name in ARRAYS}
        times = found["times"]
        if times is None:
            raise StoreError(f"{self.path} has no shard {number} (of {self.num_shards}) or has lost its times")
        return EmbeddedWindows(
            start_seconds=times[:, 0], end_seconds=times[:, 1], audio=found["audio"], visual=found["visual"]
        )

    def windows(self, file: EmbeddedFile | str | Path) -> EmbeddedWindows:
        """The windows of one of `files`, or of the one with that path, as it is listed; none of a refused one.

        Raises StoreError for a path that is not among them, with the nearest.
        """
        if not isinstance(file, EmbeddedFile):
            by_path = {row.path: row for row in self.files}
            name = Path(file).as_posix()
            if name not in by_path:
                raise StoreError(f"{self.path} has no file '{name}'{nearest(name, by_path)}")
            file = by_path[name]
        return self.shard(file.shard).rows(file.first_row, file.num_rows)


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
    while (place := shard_file(path, number, "jsonl")).exists():
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


def _load(path: Path, number: int, name: str) -> np.ndarray | None:
    place = shard_file(path, number, f"{name}.npy")
    try:
        return np.load(place, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except ValueError as error:
        # numpy maps no empty file
        array = np.load(place, allow_pickle=False) if place.stat().st_size == HEADER_BYTES else None
        if array is None:
            raise StoreError(f"{place} is damaged ({error}); embed into another folder") from None
        return array


def shard_file(path: Path, number: int, ending: str) -> Path:
    """Where a part of a shard is."""
    return path / f"shard-{number:05d}.{ending}"
