"""`Index`: the moments of a library on disk, and the model that made them.

    lookhear.index/
      index.json       format, model, fingerprint, preprocessing, window, hop, libraries: one atomic file
      writing.lock     held by the process that writes
      tables/          LanceDB: `files`, a row for every media file found; `moments`, a row for every model window

A file's id is the sha256 of its bytes, and moments belong to an id, not to a path: a renamed or copied file needs no
decoding. Moments are written before the rows that name their id, and a row changes in one commit, so whatever is
killed, every row that is there has all its moments. Moments that no row names are invisible, and the next writer
deletes them.

This is the only file that imports LanceDB (and its pyarrow), when a table is first touched.
"""

import contextlib
import datetime
import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lookhear.config import to_dict
from lookhear.data.lock import only_writer
from lookhear.errors import IndexStateError
from lookhear.search.calibration import Calibration, calibrate
from lookhear.search.facts import FORMAT, IndexFacts, check_place, read_facts, write_facts
from lookhear.search.library import Library, LibraryFile, Modality

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.search.query import Hit, Within

# Older versions of the tables are kept this long for processes that are still reading them.
KEEP_VERSIONS = datetime.timedelta(hours=1)
_IDS_A_DELETE = 500


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


@dataclass(frozen=True, kw_only=True)
class IndexStatus:
    """What an index holds."""

    path: str
    model: str
    fingerprint: str
    window_seconds: float
    hop_seconds: float
    libraries: tuple[str, ...]
    counts: dict[str, int]  # of files, by status
    seconds: float  # of media, refused files left out
    moments: int
    files: tuple[FileRow, ...]


class Index:
    """An index that exists; `create_index` makes one. Opening it reads index.json only.

    Raises IndexStateError where there is no index, or one of a newer format.
    """

    def __init__(self, path: str | Path, *, model: "str | Path | Embedder | None" = None) -> None:
        """`model` is used for queries; without it the checkpoint that index.json names."""
        self.path = Path(path)
        self.facts = read_facts(self.path)
        self._model = model
        self._embedder: Embedder | None = None
        self._tables = _Tables(self.path / "tables", self.facts.embedding_width)
        self._library: tuple[tuple[int, int], Library] | None = None
        self._calibrations: dict[tuple[Any, ...], Calibration] = {}
        self._lock = threading.Lock()

    # ---- reading

    def files(self) -> list[FileRow]:
        """All rows, in the order of library and path."""
        return self._tables.files()

    def status(self) -> IndexStatus:
        """Counts and rows as they are now."""
        files = self.files()
        counts: dict[str, int] = {}
        for row in files:
            counts[row.status] = counts.get(row.status, 0) + 1
        facts = read_facts(self.path)
        return IndexStatus(
            path=str(self.path),
            model=facts.model,
            fingerprint=facts.fingerprint,
            window_seconds=facts.window_seconds,
            hop_seconds=facts.hop_seconds,
            libraries=facts.libraries,
            counts=dict(sorted(counts.items())),
            seconds=sum(row.seconds for row in files if row.status != "refused"),
            # Files with the same bytes share their moments.
            moments=sum({row.file_id: row.num_moments for row in files}.values()),
            files=tuple(files),
        )

    def library(self) -> Library:
        """All moments in memory; read again only when the tables have changed."""
        with self._lock:
            version = self._tables.version()
            if self._library is None or self._library[0] != version:
                self._library = (version, self._read_library())
                self._calibrations = {}
            return self._library[1]

    def search(
        self,
        *,
        sound: str | Path | None = None,
        picture: str | Path | None = None,
        clip: str | Path | None = None,
        within: "Within" = "both",
        balance: float = 0.5,
        top: int = 10,
    ) -> "list[Hit]":
        """The moments that match one sound, picture or clip best (see `query.find_moments`).

        Raises MediaError for a query that cannot be read, IndexStateError where the index's model has changed.
        """
        from lookhear.search.query import find_moments, make_query

        query = make_query(self.embedder(), sound=sound, picture=picture, clip=clip, hop_seconds=self.facts.hop_seconds)
        library = self.library()

        def calibrated(asked: Modality, searched: Modality, offset_seconds: np.ndarray) -> Calibration:
            return self._calibration(library, asked, searched, offset_seconds)

        return find_moments(library, query, calibrated, within=within, balance=balance, top=top)

    def embedder(self) -> "Embedder":
        """The model of this index, loaded when first asked for."""
        from lookhear.embedder import Embedder, load

        if self._embedder is None:
            model = self.facts.model if self._model is None else self._model
            if model == "":
                raise IndexStateError(
                    f"{self.path} was made by a model in memory, so it names no checkpoint; "
                    "say which model made it with model= (--model): its Embedder, or a checkpoint of it"
                )
            if self._model is None and not Path(model).exists():  # type: ignore[arg-type]
                raise IndexStateError(
                    f"{self.path} was made by the model {model}, which is no longer there; "
                    "put it back, or run `lookhear index` again with --model and its new place"
                )
            embedder = model if isinstance(model, Embedder) else load(model)
            self.check_model(embedder)
            self._embedder = embedder
        return self._embedder

    def check_model(self, embedder: "Embedder") -> None:
        """Raises IndexStateError if another model made this index."""
        ours, theirs = self.facts.fingerprint, embedder.fingerprint
        if ours != theirs:
            raise IndexStateError(
                f"{self.path} was made by another model: its vectors have the fingerprint {ours[:12]} "
                f"({self.facts.model}), this model has {theirs[:12]}; use the model that made it, "
                "or make another index (--index DIR) with this one"
            )

    def _calibration(
        self, library: Library, asked: Modality, searched: Modality, offset_seconds: np.ndarray
    ) -> Calibration:
        key = (id(library), asked, searched, tuple(np.round(offset_seconds, 3)))
        with self._lock:
            known = self._calibrations.get(key)
        if known is None:
            known = calibrate(library, asked, searched, offset_seconds)
            with self._lock:
                self._calibrations[key] = known
        return known

    def _read_library(self) -> Library:
        # The rows first: their moments were there before them.
        by_id: dict[str, list[FileRow]] = {}
        for row in self.files():
            if row.file_id and row.num_moments:
                by_id.setdefault(row.file_id, []).append(row)
        contents = []
        for file_id, rows in by_id.items():
            paths = sorted(row.full_path for row in rows)
            contents.append(LibraryFile(file_id=file_id, path=paths[0], copies=tuple(paths[1:]), status=rows[0].status))
        contents.sort(key=lambda content: content.path)
        return self._tables.library(
            tuple(contents), window_seconds=self.facts.window_seconds, hop_seconds=self.facts.hop_seconds
        )

    # ---- writing; only inside `with index.writing()`

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the right to write, which ends with the process at the latest, and clears what a killed writer left.

        Raises IndexStateError while another process has it.
        """
        with only_writer(self.path, IndexStateError):
            self.remove_orphans()
            yield

    def add_libraries(self, folders: Iterable[str]) -> None:
        """Remembers more folders."""
        libraries = tuple(sorted({*self.facts.libraries, *folders}))
        if libraries != self.facts.libraries:
            self.facts = replace(self.facts, libraries=libraries)
            write_facts(self.path, self.facts)

    def record_model(self, path: Path) -> None:
        """Remembers where the checkpoint is now."""
        place = str(path.resolve())
        if place != self.facts.model:
            self.facts = replace(self.facts, model=place)
            write_facts(self.path, self.facts)

    def write(self, rows: Sequence[FileRow], moments: Sequence[MomentRows] = ()) -> None:
        """Adds moments, then adds or replaces rows (by library and path) in one commit."""
        self._tables.add_moments([part for part in moments if len(part.start_seconds)])
        if rows:
            self._tables.put_files(rows)

    def remove_files(self, rows: Sequence[FileRow]) -> None:
        """Deletes rows; moments that no other row names go with `remove_orphans`."""
        self._tables.delete_files(rows)

    def remove_orphans(self) -> None:
        """Deletes the moments that no row names."""
        named = {row.file_id for row in self.files() if row.num_moments}
        self._tables.delete_moments(sorted(self._tables.moment_file_ids() - named))

    def compact(self) -> None:
        """Joins small fragments and drops versions that nobody can still be reading."""
        self._tables.compact()


def create_index(path: str | Path, embedder: "Embedder", *, hop_seconds: float | None = None) -> Index:
    """A new, empty index for one model; `hop_seconds` None is half a window.

    Raises IndexStateError if something else lies at `path` already, or it cannot be written.
    """
    path = Path(path)
    check_place(path)
    config = embedder.preprocess.config
    hop = config.window_seconds / 2 if hop_seconds is None else hop_seconds
    if not 0.0 < hop <= config.window_seconds:
        raise IndexStateError(
            f"a hop of {hop:g} s is not possible; it must be above 0 "
            f"and at most one window, {config.window_seconds:g} s"
        )
    facts = IndexFacts(
        format=FORMAT,
        model=str(embedder.path.resolve()) if embedder.path is not None else "",
        fingerprint=embedder.fingerprint,
        preprocess=to_dict(config),
        window_seconds=config.window_seconds,
        hop_seconds=hop,
        embedding_width=embedder.embedding_width,
    )
    write_facts(path, facts)
    return Index(path, model=embedder)


class _Tables:
    """The two LanceDB tables. They are made when first touched, and every read sees the latest commit."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._opened: tuple[Any, Any] | None = None
        self._lock = threading.Lock()

    def _open(self) -> tuple[Any, Any]:
        import lancedb
        import pyarrow as pa

        with self._lock:
            if self._opened is None:
                connection = lancedb.connect(str(self._path), read_consistency_interval=datetime.timedelta(0))
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
                self._opened = (
                    connection.create_table("files", schema=files, exist_ok=True),
                    connection.create_table("moments", schema=moments, exist_ok=True),
                )
            return self._opened

    def version(self) -> tuple[int, int]:
        files, moments = self._open()
        return int(files.version), int(moments.version)

    def files(self) -> list[FileRow]:
        table, _ = self._open()
        rows = []
        for values in table.to_arrow().drop_columns(["row_id"]).to_pylist():
            text = {name: _from_text(values[name]) for name in ("library", "path", "reason")}
            rows.append(FileRow(**(values | text)))
        return sorted(rows, key=lambda row: (row.library, row.path))

    def put_files(self, rows: Sequence[FileRow]) -> None:
        import pyarrow as pa

        table, _ = self._open()
        records = []
        for row in rows:
            text = {name: _to_text(getattr(row, name)) for name in ("library", "path", "reason")}
            records.append(asdict(row) | text | {"row_id": _row_id(row)})
        new = pa.Table.from_pylist(records, schema=table.schema)
        table.merge_insert("row_id").when_matched_update_all().when_not_matched_insert_all().execute(new)

    def delete_files(self, rows: Sequence[FileRow]) -> None:
        table, _ = self._open()
        _delete(table, "row_id", [_row_id(row) for row in rows])

    def add_moments(self, parts: Sequence[MomentRows]) -> None:
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

    def delete_moments(self, file_ids: Sequence[str]) -> None:
        _, table = self._open()
        _delete(table, "file_id", file_ids)

    def moment_file_ids(self) -> set[str]:
        _, table = self._open()
        return set(table.search().select(["file_id"]).to_arrow().column("file_id").unique().to_pylist())

    def compact(self) -> None:
        for table in self._open():
            table.optimize(cleanup_older_than=KEEP_VERSIONS)

    def library(self, contents: tuple[LibraryFile, ...], *, window_seconds: float, hop_seconds: float) -> Library:
        _, table = self._open()
        data = table.to_arrow()
        ranks = {content.file_id: rank for rank, content in enumerate(contents)}
        rank = np.array([ranks.get(file_id, -1) for file_id in data.column("file_id").to_pylist()], np.int64)
        start = data.column("start_seconds").to_numpy()
        order = np.lexsort((start, rank))
        order = order[np.searchsorted(rank[order], 0) :]  # without the moments that no row names
        audio, visual = (self._vectors(data.column(name), order) for name in ("audio", "visual"))
        return Library(
            files=contents,
            file_rank=rank[order],
            start_seconds=start[order],
            end_seconds=data.column("end_seconds").to_numpy()[order],
            audio=audio.vectors,
            visual=visual.vectors,
            has_audio=audio.present,
            has_visual=visual.present,
            window_seconds=window_seconds,
            hop_seconds=hop_seconds,
        )

    def _vectors(self, column: Any, order: np.ndarray) -> "_Vectors":
        parts = [np.zeros((0, self._width), np.float32)]
        present = [np.zeros(0, bool)]
        for chunk in column.chunks:
            first = chunk.offset * self._width
            values = chunk.values[first : first + len(chunk) * self._width]
            parts.append(values.to_numpy(zero_copy_only=False).reshape(-1, self._width))
            present.append(chunk.is_valid().to_numpy(zero_copy_only=False))
        has = np.concatenate(present)[order]
        vectors = np.concatenate(parts)[order]
        vectors[~has] = 0.0
        return _Vectors(vectors=torch.from_numpy(vectors), present=has)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Vectors:
    vectors: torch.Tensor  # float32 (M, E)
    present: np.ndarray  # bool (M,)


def _delete(table: Any, column: str, ids: Sequence[str]) -> None:
    for first in range(0, len(ids), _IDS_A_DELETE):
        quoted = ", ".join(f"'{name}'" for name in ids[first : first + _IDS_A_DELETE])  # hexadecimal digits only
        table.delete(f"{column} IN ({quoted})")


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
