"""`Store`: prepared clips in tar shards, memory-mapped, with random access to every frame and sample.

A store is a folder:

    store.json      format number, PrepareConfig, counts, shards, digest; written last, so that it marks a whole store
    source.jsonl    which files it was made from (size and time of change); only `prepare` reads it
    manifest.jsonl  a row for every file that was found
    index.npz       where everything is: clips in order of (path, start), their times, offsets into the shards
    shard-00000.tar <clip>.000.jpg ..., <clip>.wav (int16), <clip>.json for each clip; webdataset reads them as they are

It is immutable once store.json exists. C clips, F frames of all clips.
"""

import io
import json
import mmap
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from lookhear.config import from_dict
from lookhear.data.manifest import ManifestRow, read_manifest, splits_of
from lookhear.errors import ConfigError, StoreError

FORMAT = 1
STORE_NAME, SOURCE_NAME = "store.json", "source.jsonl"
MANIFEST_NAME, INDEX_NAME = "manifest.jsonl", "index.npz"
WAV_HEADER_BYTES = 44
# A mapping keeps its file open, and systems allow 256 to 1024 open files.
_MAX_OPEN_SHARDS = 128


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What a store holds of each file."""

    # length of a clip; a rest shorter than one second is joined to the clip before it
    clip_seconds: float = 10.0
    # pictures kept for each second
    frames_per_second: float = 1.0
    # pictures are shrunk to this short side, never enlarged
    short_side: int = 256
    jpeg_quality: int = 90
    sample_rate: int = 16000
    # how many channels become one: their mean, or the first alone (as the published CAV-MAE weights want)
    channel: Literal["mix", "first"] = "mix"

    def __post_init__(self) -> None:
        if self.clip_seconds < 1.0:
            raise ConfigError(f"clip_seconds must be at least 1, not {self.clip_seconds}")
        if self.frames_per_second <= 0 or self.short_side < 1 or self.sample_rate < 1000:
            raise ConfigError("frames_per_second and short_side must be positive, sample_rate at least 1000")
        if not 1 <= self.jpeg_quality <= 100:
            raise ConfigError(f"jpeg_quality must be 1 to 100, not {self.jpeg_quality}")


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredClip:
    """One clip of a store: what it is, when it is, and what is there of it. Times are on the clock of its file."""

    clip_id: str
    index: int
    path: str
    start_seconds: float
    end_seconds: float
    # float64 (n,): when each stored frame is first shown
    frame_seconds: np.ndarray
    num_samples: int
    # the range that the decoded picture covers, and the same of the sound; None where there is none
    picture_span: tuple[float, float] | None
    sound_span: tuple[float, float] | None
    labels: tuple[str, ...]
    # of its file; several with `;` between (see `splits`)
    split: str
    # how often training draws it, relative to others, where clips are drawn by weight (as published lists say)
    weight: float = 1.0

    @property
    def splits(self) -> tuple[str, ...]:
        """The names in `split`."""
        return splits_of(self.split)

    @property
    def has_picture(self) -> bool:
        """Whether at least one frame is stored."""
        return len(self.frame_seconds) > 0

    @property
    def has_sound(self) -> bool:
        """Whether a waveform is stored."""
        return self.num_samples > 0


def clip_id(path: str, start_seconds: float) -> str:
    """The name of a clip: the path of its file and its start in milliseconds."""
    return f"{path}@{round(start_seconds * 1000)}"


def file_of_clip(name: str) -> tuple[str, int]:
    """The path of a clip's file, and the clip's start in milliseconds: what `clip_id` made a name of."""
    path, _, start = name.rpartition("@")
    return path, int(start)


class Store:
    """A finished store, opened for reading. Threads may share it; a pickled copy opens the files again.

    Raises StoreError where there is none, it is unfinished, damaged, or of another format.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._description = read_description(self.path)
        self.config: PrepareConfig = from_dict(PrepareConfig, self._description["config"])
        self._shards: list[dict[str, Any]] = self._description["shards"]
        try:
            with np.load(self.path / INDEX_NAME, allow_pickle=False) as arrays:
                self._index = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, KeyError) as error:
            raise StoreError(f"the index of the store {path} is missing or damaged ({error})") from error
        if len(self._index["start_seconds"]) != self._description["clips"]:
            raise StoreError(f"the index of the store {path} does not fit its store.json; prepare it again")
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Store"], tuple[Path]]:
        return Store, (self.path,)

    def __len__(self) -> int:
        return int(self._description["clips"])

    @property
    def digest(self) -> str:
        """sha256 of everything that the store holds."""
        return str(self._description["digest"])

    @cached_property
    def manifest(self) -> list[ManifestRow]:
        """A row for every file that was found, in order of path."""
        return read_manifest(self.path / MANIFEST_NAME)

    @cached_property
    def clips(self) -> Sequence[StoredClip]:
        """The clips in order of (path, start); each is built when it is asked for."""
        return _Clips(self)

    def clips_in_split(self, split: str) -> np.ndarray:
        """int64: index of every clip whose file belongs to `split`. Raises StoreError if there is none."""
        belongs = np.array([split in row.splits for row in self.manifest], dtype=bool)
        indices = np.flatnonzero(belongs[self._index["row"]])
        if not len(indices):
            known = ", ".join(sorted({name for row in self.manifest for name in row.splits}))
            if not known:
                raise StoreError(
                    f"the store {self.path} has no split '{split}', for its files are in no splits; prepare it with "
                    "--labels FILE, a CSV file with a column split (path,label,split)"
                )
            raise StoreError(f"the store {self.path} has no split '{split}'; it has: {known}")
        return indices

    def frames(self, index: int, which: Sequence[int]) -> np.ndarray:
        """uint8 (n, 3, H, W), RGB: the stored frames of clip `index` with the numbers `which`; only these are decoded.

        The memory is channels-last. (0, 3, 0, 0) where `which` is empty.
        """
        from PIL import Image, UnidentifiedImageError

        first, stop = self._index["first_frame"][index : index + 2]
        pictures = []
        for number in which:
            if not 0 <= number < stop - first:
                raise IndexError(f"clip {index} has {stop - first} frames; there is no frame {number}")
            offset = int(self._index["frame_offset"][first + number])
            data = self._read(index, offset, int(self._index["frame_bytes"][first + number]))
            try:
                with Image.open(io.BytesIO(data)) as image:
                    pictures.append(np.asarray(image.convert("RGB")))
            except (UnidentifiedImageError, OSError) as error:
                raise self._damaged(index, f"frame {number} is no JPEG picture") from error
        if not pictures:
            return np.zeros((0, 3, 0, 0), dtype=np.uint8)
        return np.stack(pictures).transpose(0, 3, 1, 2)

    def waveform(self, index: int, start_sample: int = 0, stop_sample: int | None = None) -> np.ndarray:
        """float32 (S,) in -1..1: samples [start_sample, stop_sample) of clip `index`, cut to what it has."""
        num_samples = int(self._index["num_samples"][index])
        start_sample = min(max(start_sample, 0), num_samples)
        stop_sample = num_samples if stop_sample is None else min(max(stop_sample, start_sample), num_samples)
        if start_sample == stop_sample:
            return np.zeros(0, dtype=np.float32)
        offset = int(self._index["waveform_offset"][index]) + 2 * start_sample
        data = self._read(index, offset, 2 * (stop_sample - start_sample))
        return np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768.0

    def _read(self, index: int, offset: int, num_bytes: int) -> bytes:
        data = self._map(int(self._index["shard"][index]))[offset : offset + num_bytes]
        if len(data) != num_bytes:
            raise self._damaged(index, "the shard ends too early")
        return data

    def _map(self, shard: int) -> mmap.mmap:
        with self._lock:
            if shard not in self._maps:
                entry = self._shards[shard]
                path = self.path / entry["name"]
                try:
                    with path.open("rb") as file:
                        self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise StoreError(f"cannot read the shard {path}: {error}; prepare the store again") from error
                if len(self._maps[shard]) != entry["bytes"]:
                    size = len(self._maps.pop(shard))
                    raise StoreError(f"the shard {path} is damaged: {size} bytes, not {entry['bytes']}")
                while len(self._maps) > _MAX_OPEN_SHARDS:
                    self._maps.popitem(last=False)  # closed as soon as no thread reads from it any more
            self._maps.move_to_end(shard)
            return self._maps[shard]

    def _damaged(self, index: int, what: str) -> StoreError:
        name = self._shards[int(self._index["shard"][index])]["name"]
        clip = self.clips[index].clip_id
        return StoreError(f"{self.path / name} is damaged at clip {clip}: {what}; prepare the store again")

    def _clip(self, index: int) -> StoredClip:
        arrays = self._index
        row = self.manifest[int(arrays["row"][index])]
        start = float(arrays["start_seconds"][index])
        return StoredClip(
            clip_id=clip_id(row.path, start),
            index=index,
            path=row.path,
            start_seconds=start,
            end_seconds=float(arrays["end_seconds"][index]),
            frame_seconds=arrays["frame_seconds"][slice(*arrays["first_frame"][index : index + 2])],
            num_samples=int(arrays["num_samples"][index]),
            picture_span=_span(arrays["picture_span"][index]),
            sound_span=_span(arrays["sound_span"][index]),
            labels=row.labels,
            split=row.split,
            weight=row.weight,
        )


class _Clips(Sequence[StoredClip]):
    def __init__(self, store: Store):
        self._store = store

    def __len__(self) -> int:
        return len(self._store)

    @overload
    def __getitem__(self, index: int) -> StoredClip: ...
    @overload
    def __getitem__(self, index: slice) -> list[StoredClip]: ...
    def __getitem__(self, index: int | slice) -> StoredClip | list[StoredClip]:
        numbers = range(len(self))[index]  # understands negative numbers, raises IndexError
        if isinstance(numbers, range):
            return [self._store._clip(number) for number in numbers]
        return self._store._clip(numbers)


def _span(values: np.ndarray) -> tuple[float, float] | None:
    return None if np.isnan(values[0]) else (float(values[0]), float(values[1]))


def read_description(path: Path) -> dict[str, Any]:
    """The contents of store.json. Raises StoreError where it is missing, damaged, or of another format."""
    try:
        description: dict[str, Any] = json.loads((path / STORE_NAME).read_bytes())
        number = description["format"]
    except FileNotFoundError:
        if (path / SOURCE_NAME).exists():
            problem = "is unfinished; run `lookhear prepare` again with the same source to finish it"
        else:
            problem = "does not exist; make one with `lookhear prepare`"
        raise StoreError(f"the store {path} {problem}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path / STORE_NAME} cannot be read ({error}); prepare the store again") from error
    if number != FORMAT:
        raise StoreError(
            f"the store {path} has format {number}, this version of lookhear reads {FORMAT}; prepare it again"
        )
    return description
