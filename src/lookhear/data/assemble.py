"""Pieces -> shards, manifest, index and store.json: the last part of `prepare`."""

import hashlib
import io
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from lookhear.config import from_dict, to_dict
from lookhear.data.manifest import STATUSES, ManifestRow, json_line
from lookhear.data.staging import TAR_END, appearing, record_path
from lookhear.data.store import FORMAT, INDEX_NAME, MANIFEST_NAME, STORE_NAME, PrepareConfig
from lookhear.errors import StoreError

# A shard is closed before the piece that would take it beyond this; a larger piece has a shard of its own.
SHARD_BYTES = 256 << 20


def assemble(store: Path, config: PrepareConfig, piece_paths: list[Path]) -> None:
    """Turns all pieces, in the order given, into a finished store.

    Shards that an earlier run has finished are kept. Two runs may do this at the same time: they write the same
    bytes, and whichever comes second finds things done. Raises StoreError for a damaged piece (which is then staged
    again by the next run) and OSError where the store cannot be written.
    """
    building = _Index()
    shards: list[dict[str, Any]] = []
    waiting: list[_Piece] = []

    def close_shard() -> None:
        name = f"shard-{len(shards):05d}.tar"
        size = sum(piece.bytes for piece in waiting) + len(TAR_END)
        _write_shard(store / name, size, waiting)
        shards.append({"name": name, "bytes": size})
        waiting.clear()

    for number, path in enumerate(piece_paths):
        record = _read_record(path)
        piece = _Piece(path=path, bytes=record["bytes"], sha256=record["sha256"])
        if waiting and sum(other.bytes for other in waiting) + piece.bytes > SHARD_BYTES:
            close_shard()
        offset = sum(other.bytes for other in waiting)
        building.add(number, record, shard=len(shards), offset=offset)
        if piece.bytes:
            waiting.append(piece)
    if waiting:
        close_shard()
    _finish(store, config, building, shards)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    path: Path
    bytes: int
    sha256: str


def _read_record(piece_path: Path) -> dict[str, Any]:
    path = record_path(piece_path)
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError as error:  # only a loss of power leaves one that is not whole
        path.unlink()
        raise StoreError(f"a staged record was damaged ({error}); run the same command again") from error
    return record


def _write_shard(path: Path, size: int, pieces: list[_Piece]) -> None:
    if not _is_there(path, size):
        try:
            with appearing(path, durable=True) as file:
                for piece in pieces:
                    _copy(piece, file)
                file.write(TAR_END)
        except FileNotFoundError as error:
            if _is_there(path, size):
                return  # another run was faster, and has removed the pieces
            _forget(pieces)
            raise StoreError(f"a staged piece is gone ({error.filename}); run the same command again") from error
    for piece in pieces:
        piece.path.unlink(missing_ok=True)


def _is_there(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _copy(piece: _Piece, target: IO[bytes]) -> None:
    digest = hashlib.sha256()
    with piece.path.open("rb") as source:
        while data := source.read(4 << 20):
            digest.update(data)
            target.write(data)
    if digest.hexdigest() != piece.sha256:
        record_path(piece.path).unlink(missing_ok=True)
        raise StoreError(f"the staged piece {piece.path} was damaged; run the same command again to make it anew")


def _forget(pieces: list[_Piece]) -> None:
    for piece in pieces:
        if not piece.path.exists():
            record_path(piece.path).unlink(missing_ok=True)


# The arrays of index.npz: C clips, F frames of all clips.
_COLUMNS: dict[str, type] = {
    "row": np.int32,  # (C,): line of the manifest
    "shard": np.int32,  # (C,)
    "start_seconds": np.float64,  # (C,)
    "end_seconds": np.float64,  # (C,)
    "picture_span": np.float64,  # (C, 2), NaN where there is none
    "sound_span": np.float64,  # (C, 2)
    "num_samples": np.int64,  # (C,)
    "waveform_offset": np.int64,  # (C,): of the first sample in the shard
    "first_frame": np.int64,  # (C + 1,)
    "frame_seconds": np.float64,  # (F,)
    "frame_offset": np.int64,  # (F,): of the JPEG in the shard
    "frame_bytes": np.int32,  # (F,)
}


@dataclass
class _Index:
    """The arrays of index.npz as they grow, and what goes into the manifest and the digest."""

    rows: list[ManifestRow] = field(default_factory=list)
    hash: Any = field(default_factory=hashlib.sha256)
    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    num_frames: int = 0
    seconds: float = 0.0

    def add(self, number: int, record: dict[str, Any], *, shard: int, offset: int) -> None:
        """One file: its row, and its clips, whose piece begins at `offset` of `shard`."""
        row = from_dict(ManifestRow, record["row"])
        self.rows.append(row)
        self.hash.update(json_line(to_dict(row)))
        self.hash.update(record["sha256"].encode())
        columns = self.columns
        for clip in record["clips"]:
            columns["row"].append(number)
            columns["shard"].append(shard)
            columns["start_seconds"].append(clip["start_seconds"])
            columns["end_seconds"].append(clip["end_seconds"])
            columns["picture_span"].append(clip["picture_span"] or (np.nan, np.nan))
            columns["sound_span"].append(clip["sound_span"] or (np.nan, np.nan))
            columns["num_samples"].append(clip["num_samples"])
            columns["waveform_offset"].append(offset + clip["waveform_offset"])
            columns["first_frame"].append(self.num_frames)
            columns["frame_seconds"] += clip["frame_seconds"]
            columns["frame_offset"] += [offset + frame[0] for frame in clip["frames"]]
            columns["frame_bytes"] += [frame[1] for frame in clip["frames"]]
            self.num_frames += len(clip["frames"])
            self.seconds += clip["end_seconds"] - clip["start_seconds"]

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns as arrays; `first_frame` has one more entry, so that clip i has frames [i] to [i + 1]."""
        columns = self.columns | {"first_frame": [*self.columns["first_frame"], self.num_frames]}
        arrays: dict[str, np.ndarray] = {
            name: np.array(values, dtype=_COLUMNS[name]) for name, values in columns.items()
        }
        for name in ("picture_span", "sound_span"):
            arrays[name] = arrays[name].reshape(-1, 2)
        return arrays


def _finish(store: Path, config: PrepareConfig, building: _Index, shards: list[dict[str, Any]]) -> None:
    with appearing(store / MANIFEST_NAME, durable=True) as file:
        for row in building.rows:
            file.write(json_line(to_dict(row)))
    buffer = io.BytesIO()  # numpy seeks back and forth while it writes
    np.savez(buffer, allow_pickle=False, **building.arrays())
    with appearing(store / INDEX_NAME, durable=True) as file:
        file.write(buffer.getbuffer())
    found = Counter(row.status for row in building.rows)
    building.hash.update(json_line(to_dict(config)))
    description = {
        "format": FORMAT,
        "config": to_dict(config),
        "files": len(building.rows),
        "clips": len(building.columns["row"]),
        "seconds": round(building.seconds, 3),
        "counts": {status: found[status] for status in STATUSES},
        "shards": shards,
        "digest": building.hash.hexdigest(),
    }
    with appearing(store / STORE_NAME, durable=True) as file:
        file.write(json.dumps(description, indent=1).encode() + b"\n")
