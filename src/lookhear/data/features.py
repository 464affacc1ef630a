"""Features of the moments of media files, made before: by `lookhear embed`, or by another program as .npy files.

What learns from them (skimming, distillation) asks by the path of a file and by time. N moments of a file, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookhear.config import to_dict
from lookhear.data.store import file_of_clip
from lookhear.data.vectors import FACTS_NAME, EmbeddedFile, EmbeddedWindows, StoredEmbeddings
from lookhear.errors import StoreError

NAMES = ("audio", "visual")
_TIMES = "times"
PLAIN = ""  # the name of features in a file that says of no modality that they are


@dataclass(frozen=True, kw_only=True, eq=False)
class FileFeatures:
    """The features of one file's moments, in order of time."""

    path: str
    # by `audio`, `visual`, or PLAIN: float (N, D); a row is NaN where the moment has no such modality
    arrays: Mapping[str, np.ndarray]
    # float64 (N,), the middle of each moment on the clock of the file; None where nobody says
    seconds: np.ndarray | None

    def __len__(self) -> int:
        return max((len(rows) for rows in self.arrays.values()), default=0)

    def nearest(self, seconds: np.ndarray) -> np.ndarray:
        """int64, as `seconds`: the moment whose middle is nearest to each time. Raises StoreError without times."""
        if self.seconds is None:
            raise StoreError(f"the features of {self.path} have no times; add {self.path}.times.npy, seconds of each")
        return np.abs(self.seconds - np.asarray(seconds)[..., None]).argmin(axis=-1)


class Features(Protocol):
    """The features of many files."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that have any, sorted."""

    @property
    def identity(self) -> dict[str, Any]:
        """How they were made, as JSON values: a run that goes on wants the same."""

    def file(self, path: str) -> FileFeatures | None:
        """The features of the file with the relative path `path`; None where there are none."""


def open_features(path: str | Path) -> Features:
    """The features in a folder: one that `lookhear embed` wrote, or .npy files.

    Of a file `a/b.mp4` these are `a/b.mp4.audio.npy` and `a/b.mp4.visual.npy`, float (N, D) or (D,) for the whole file,
    and `a/b.mp4.times.npy`, float (N,) seconds, where N is more than one; `a/b.audio.npy` is found too, and `a/b.npy`
    for a folder of one modality. Raises StoreError where there are none.
    """
    path = Path(path)
    if (path / FACTS_NAME).is_file():
        return _Embedded(StoredEmbeddings(path))
    return _Arrays(path)


def holds_features(path: str | Path) -> bool:
    """Whether `path` is a folder that `open_features` reads, rather than a model."""
    path = Path(path)
    return path.is_dir() and ((path / FACTS_NAME).is_file() or next(path.rglob("*.npy"), None) is not None)


class _Embedded:
    """What `lookhear embed` wrote: of media files, or of the clips of a store, which are joined to files again."""

    def __init__(self, stored: StoredEmbeddings) -> None:
        self._stored = stored
        self._shards: dict[int, EmbeddedWindows] = {}
        if stored.facts.what == "tokens":
            raise StoreError(f"{stored.path} holds all tokens; embed with --what pooled or embedding")

    @cached_property
    def _files(self) -> dict[str, list[EmbeddedFile]]:
        """What was embedded of each media file, in order of time: all of it, or its clips in a store."""
        of_clips = bool(self._stored.facts.store_digest)
        files: dict[str, list[tuple[int, EmbeddedFile]]] = {}
        for file in self._stored.files:
            path, start = file_of_clip(file.path) if of_clips else (file.path, 0)
            if file.num_rows:
                files.setdefault(path, []).append((start, file))
        return {path: [file for _, file in sorted(parts, key=lambda part: part[0])] for path, parts in files.items()}

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self._files))

    @property
    def identity(self) -> dict[str, Any]:
        values: dict[str, Any] = to_dict(self._stored.facts)
        return {name: value for name, value in values.items() if name != "source"}  # the same vectors in another place

    def file(self, path: str) -> FileFeatures | None:
        parts = [self._windows(file) for file in self._files.get(path, ())]
        if not parts:
            return None
        found = {name: _joined([getattr(part, name) for part in parts], parts) for name in NAMES}
        times = [(part.start_seconds + part.end_seconds) / 2 for part in parts]
        return FileFeatures(
            path=path,
            arrays={name: rows for name, rows in found.items() if rows is not None},
            seconds=np.concatenate(times),
        )

    def _windows(self, file: EmbeddedFile) -> EmbeddedWindows:
        if file.shard not in self._shards:
            self._shards[file.shard] = self._stored.shard(file.shard)
        return self._shards[file.shard].rows(file.first_row, file.num_rows)


def _joined(rows: Sequence[np.ndarray | None], parts: Sequence[EmbeddedWindows]) -> np.ndarray | None:
    """The rows of consecutive clips as one array, NaN where a clip has none; None where no clip has any."""
    width = next((found.shape[1] for found in rows if found is not None), None)
    if width is None:
        return None
    gaps = [np.full((len(part), width), np.nan, np.float32) for part in parts]
    return np.concatenate([gap if found is None else found for found, gap in zip(rows, gaps, strict=True)])


class _Arrays:
    """A folder of .npy files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[str, dict[str, Path]] = {}
        for place in sorted(folder.rglob("*.npy")):
            name = place.relative_to(folder).as_posix().removesuffix(".npy")
            stem, dot, ending = name.rpartition(".")
            if dot and ending in (*NAMES, _TIMES):
                self._places.setdefault(stem, {})[ending] = place
            else:
                self._places.setdefault(name, {})[PLAIN] = place
        if not self._places:
            raise StoreError(f"there are no features in {folder}; name a folder of `lookhear embed`, or of .npy files")

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted(self._places))

    @property
    def identity(self) -> dict[str, Any]:
        sizes = [place.stat().st_size for places in self._places.values() for place in places.values()]
        return {"files": len(self._places), "bytes": sum(sizes)}

    def file(self, path: str) -> FileFeatures | None:
        places = self._places.get(path) or self._places.get(Path(path).with_suffix("").as_posix())
        if places is None or set(places) == {_TIMES}:
            return None
        arrays = {name: _read(place) for name, place in places.items() if name != _TIMES}
        counts = {len(rows) for rows in arrays.values()}
        seconds = np.load(places[_TIMES], allow_pickle=False).reshape(-1) if _TIMES in places else None
        if len(counts) > 1 or (seconds is not None and counts != {len(seconds)}):
            raise StoreError(f"the features of {path} in {self._folder} differ in number; make them of equal moments")
        return FileFeatures(path=path, arrays=arrays, seconds=seconds)


def _read(place: Path) -> np.ndarray:
    """Float (N, D) of an array file."""
    try:
        rows = np.load(place, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{place} cannot be read ({error}); write it again with numpy.save") from None
    if rows.ndim not in (1, 2) or not rows.size or not np.issubdtype(rows.dtype, np.floating):
        raise StoreError(f"{place} holds {rows.dtype} {rows.shape}; features are float (N, D), or (D,) of a file")
    return rows.reshape(-1, rows.shape[-1])
