"""The tables of an index: `files`, a row for every media file found; `moments`, a row for every model window.

This is the only file that imports LanceDB, when a table is first touched.
"""

import datetime
import hashlib
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lookhear.search.bucket import ENDPOINT_VARIABLE, BucketPath, Place
from lookhear.search.library import Library, LibraryFile
from lookhear.search.snapshot import Snapshot, told, vectors_of

# Older versions of the tables are kept this long for processes that are still reading them.
KEEP_VERSIONS = datetime.timedelta(hours=1)
# A commit of rows looks into every fragment of `files`, and each leaves one: joined after so many, commits stay quick.
_COMMITS_A_JOIN = 100
_IDS_A_DELETE = 500
_ROWS_A_COPY = 10_000
# LanceDB's index of nearest neighbours takes vectors whose width is a multiple of this.
NEIGHBOURS_WIDTH = 8


@dataclass(frozen=True, kw_only=True)
class FileRow:
    """One media file of a library, whatever became of it."""

    library: str  # the folder that was indexed
    path: str  # relative to it, with forward slashes
    file_id: str  # of its bytes; empty where they could not be read
    size_bytes: int
    mtime_ns: int
    status: str  # ok, picture_only, sound_only, partial or refused, as in a manifest
    reason: str
    seconds: float  # from the start of its first track to the end of its last
    num_moments: int
    labels: str = ""  # what a classifier found in it (`labelled.py`); empty where none was asked

    @property
    def full_path(self) -> Path:
        """Where the file lies on this machine."""
        return Path(self.library, self.path)


@dataclass(frozen=True, kw_only=True, eq=False)
class MomentRows:
    """All moments of one content."""

    file_id: str
    start_seconds: np.ndarray  # float64 (M,)
    end_seconds: np.ndarray  # float64 (M,)
    audio: np.ndarray  # float32 (M, E), NaN rows where there is no sound
    visual: np.ndarray  # float32 (M, E), NaN rows where there is no picture


def connect(place: Place) -> Any:
    """The LanceDB database at a place. Every read sees the latest commit."""
    import lancedb

    # A server of one's own may speak plain HTTP.
    plain = os.environ.get(ENDPOINT_VARIABLE, "").startswith("http://")
    options = {"allow_http": "true"} if plain and isinstance(place, BucketPath) else None
    return lancedb.connect(str(place), read_consistency_interval=datetime.timedelta(0), storage_options=options)


class Tables:
    """The two LanceDB tables. New ones are made when first touched, and every read sees the latest commit.

    Every method raises IndexStateError where the disk or the database fails: full, read-only, damaged.
    """

    def __init__(self, path: Place, width: int, *, is_new: bool = True) -> None:
        """`is_new`: they may not be there yet. Of an index that was crawled, tables that are not there are lost."""
        self.path = path
        self._width = width
        self._is_new = is_new
        self._opened: tuple[Any, Any] | None = None
        self._num_commits = 0  # of rows, by this process
        self._lock = threading.Lock()

    def _open(self) -> tuple[Any, Any]:
        import pyarrow as pa

        with self._lock:
            if self._opened is None:
                connection = connect(self.path)
                vector = pa.list_(pa.float32(), self._width)
                files = pa.schema(
                    [
                        ("row_id", pa.string()),
                        ("library", pa.string()),
                        ("path", pa.string()),
                        ("file_id", pa.string()),
                        ("size_bytes", pa.int64()),
                        ("mtime_ns", pa.int64()),
                        ("status", pa.string()),
                        ("reason", pa.string()),
                        ("seconds", pa.float64()),
                        ("num_moments", pa.int64()),
                        ("labels", pa.string()),
                    ]
                )
                moments = pa.schema(
                    [
                        ("moment_id", pa.string()),
                        ("file_id", pa.string()),
                        ("start_seconds", pa.float64()),
                        ("end_seconds", pa.float64()),
                        ("audio", vector),
                        ("visual", vector),
                    ]
                )
                if self._is_new:
                    self._opened = (
                        connection.create_table("files", schema=files, exist_ok=True),
                        connection.create_table("moments", schema=moments, exist_ok=True),
                    )
                else:
                    self._opened = connection.open_table("files"), connection.open_table("moments")
            return self._opened

    @told
    def copy_to(self, other: "Tables", rows: Sequence[FileRow]) -> None:
        """Writes `rows`, and the moments that they name, into other tables, which are empty."""
        import pyarrow as pa
        import pyarrow.compute

        _, ours = self._open()
        _, theirs = other._open()
        named = pa.array(sorted({row.file_id for row in rows if row.num_moments}), pa.string())
        for batch in ours.search().to_batches(batch_size=_ROWS_A_COPY):
            kept = batch.filter(pyarrow.compute.is_in(batch.column("file_id"), value_set=named))
            if kept.num_rows:
                theirs.add(pa.Table.from_batches([kept]))
        if rows:
            other.put_files(rows)

    @told
    def version(self) -> tuple[int, int]:
        """Of both tables; another one after every commit."""
        files, moments = self._open()
        return int(files.version), int(moments.version)

    @told
    def files(self) -> list[FileRow]:
        """All rows, in the order of library and path."""
        table, _ = self._open()
        rows = []
        for values in table.to_arrow().drop_columns(["row_id"]).to_pylist():
            text = {name: _from_text(values[name]) for name in ("library", "path", "reason")}
            rows.append(FileRow(**(values | text)))
        return sorted(rows, key=lambda row: (row.library, row.path))

    @told
    def put_files(self, rows: Sequence[FileRow]) -> None:
        """Adds or replaces rows (by library and path) in one commit."""
        import pyarrow as pa

        table, _ = self._open()
        records = []
        for row in rows:
            text = {name: _to_text(getattr(row, name)) for name in ("library", "path", "reason")}
            records.append(asdict(row) | text | {"row_id": _row_id(row)})
        new = pa.Table.from_pylist(records, schema=table.schema)
        table.merge_insert("row_id").when_matched_update_all().when_not_matched_insert_all().execute(new)
        self._num_commits += 1
        if self._num_commits % _COMMITS_A_JOIN == 0:
            table.optimize(cleanup_older_than=KEEP_VERSIONS)

    @told
    def delete_files(self, rows: Sequence[FileRow]) -> None:
        """Deletes rows (by library and path)."""
        table, _ = self._open()
        _delete(table, "row_id", [_row_id(row) for row in rows])

    @told
    def add_moments(self, parts: Sequence[MomentRows]) -> None:
        """Adds moments in one commit."""
        import pyarrow as pa

        if not parts:
            return
        _, table = self._open()
        ids = [f"{part.file_id}@{start:.3f}" for part in parts for start in part.start_seconds]
        owners = [part.file_id for part in parts for _ in part.start_seconds]
        vectors = []
        for modality in ("audio", "visual"):
            rows = np.concatenate([getattr(part, modality) for part in parts]).astype(np.float32)
            missing = pa.array(np.isnan(rows[:, 0]))
            flat = pa.array(np.nan_to_num(rows).reshape(-1))
            vectors.append(pa.FixedSizeListArray.from_arrays(flat, self._width, mask=missing))
        columns = [
            pa.array(ids),
            pa.array(owners),
            pa.array(np.concatenate([part.start_seconds for part in parts])),
            pa.array(np.concatenate([part.end_seconds for part in parts])),
            *vectors,
        ]
        table.add(pa.Table.from_arrays(columns, schema=table.schema))

    @told
    def delete_moments(self, file_ids: Sequence[str]) -> None:
        """Deletes all moments of these contents."""
        _, table = self._open()
        _delete(table, "file_id", file_ids)

    @told
    def moment_file_ids(self) -> set[str]:
        """The contents that have moments."""
        _, table = self._open()
        return set(table.search().select(["file_id"]).to_arrow().column("file_id").unique().to_pylist())

    @told
    def compact(self) -> None:
        """Joins small fragments and drops versions that nobody can still be reading."""
        for table in self._open():
            table.optimize(cleanup_older_than=KEEP_VERSIONS)

    @told
    def snapshot(self) -> Snapshot:
        """The moments as they are now, to be read piece by piece."""
        _, table = self._open()
        fixed = connect(self.path).open_table("moments")
        fixed.checkout(table.version)
        return Snapshot(fixed, self._width, self.path)

    @told
    def index_neighbours(self, column: str) -> None:
        """Makes LanceDB's index of nearest neighbours of a column of vectors, in place of one that is there."""
        from lancedb.index import IvfRq

        _, table = self._open()
        table.create_index(column, config=IvfRq(distance_type="cosine"), replace=True)

    @told
    def drop_neighbours(self) -> None:
        """Drops the indices of nearest neighbours."""
        _, table = self._open()
        for found in table.list_indices():
            table.drop_index(found.name)

    @told
    def library(
        self, contents: tuple[LibraryFile, ...], *, window_seconds: float, hop_seconds: float, plain_width: int = 0
    ) -> Library:
        """The moments of `contents` in memory."""
        _, table = self._open()
        ranks = {content.file_id: rank for rank, content in enumerate(contents)}
        asked = table.search()
        # What is written of a very long file before it has a row may be much more than all else.
        if nameless := self.moment_file_ids() - ranks.keys():
            asked = asked.where(f"file_id NOT IN ({_quoted(sorted(nameless))})")
        data = asked.to_arrow()
        rank = np.array([ranks.get(file_id, -1) for file_id in data.column("file_id").to_pylist()], np.int64)
        start = data.column("start_seconds").to_numpy()
        order = np.lexsort((start, rank))
        order = order[np.searchsorted(rank[order], 0) :]  # without the moments that no row names
        audio, has_audio = vectors_of(data.column("audio"), self._width, order)
        visual, has_visual = vectors_of(data.column("visual"), self._width, order)
        return Library(
            files=contents,
            file_rank=rank[order],
            start_seconds=start[order],
            end_seconds=data.column("end_seconds").to_numpy()[order],
            audio=audio,
            visual=visual,
            has_audio=has_audio,
            has_visual=has_visual,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
            plain_width=plain_width,
        )


def _delete(table: Any, column: str, ids: Sequence[str]) -> None:
    for first in range(0, len(ids), _IDS_A_DELETE):
        table.delete(f"{column} IN ({_quoted(ids[first : first + _IDS_A_DELETE])})")


def _quoted(ids: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in ids)  # hexadecimal digits only


def _row_id(row: FileRow) -> str:
    return hashlib.sha256(f"{row.library}\0{row.path}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _to_text(name: str) -> str:
    """`name` as valid Unicode: a file name may hold bytes that are not UTF-8, which Python shows as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "\0" + name.encode("utf-8", "surrogatepass").hex()  # no file name has a NUL
    return name


def _from_text(text: str) -> str:
    return bytes.fromhex(text[1:]).decode("utf-8", "surrogatepass") if text.startswith("\0") else text
