"""`Snapshot`: the table of moments as it was at one commit, read row by row. `tables.py` gives it."""

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from lookhear.errors import IndexStateError
from lookhear.search.bucket import BucketPath, Place, refusal
from lookhear.search.library import Modality, Vectors, runs

COLUMNS: dict[Modality, str] = {"sound": "audio", "picture": "visual"}
_ROWS_A_BATCH = 8192
# What LanceDB says of a table, or a file of one, that is not there.
_LOST = re.compile(r"\bnot found\b", re.IGNORECASE)
BOTH: tuple[Modality, ...] = ("sound", "picture")


@dataclass(frozen=True, kw_only=True, eq=False)
class Keys:
    """All moments without their vectors, in the order of (content, start); F contents, M moments."""

    file_ids: tuple[str, ...]  # of the contents
    first: np.ndarray  # int64 (F,): the first moment of each content
    count: np.ndarray  # int64 (F,)
    start_seconds: np.ndarray  # float64 (M,)
    end_seconds: np.ndarray  # float64 (M,)
    row_id: np.ndarray  # uint64 (M,): by which the snapshot knows the moment

    def of(self, file_ids: Collection[str]) -> "Keys":
        """Those of these contents."""
        kept = np.array([name in file_ids for name in self.file_ids], bool)
        rows = runs(self.first[kept], self.count[kept])
        count = self.count[kept]
        return Keys(
            file_ids=tuple(itertools.compress(self.file_ids, kept)),
            first=np.cumsum(count) - count,
            count=count,
            start_seconds=self.start_seconds[rows],
            end_seconds=self.end_seconds[rows],
            row_id=self.row_id[rows],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Moments near to a vector, nearest first."""

    row_id: np.ndarray  # uint64 (N,)
    cosine: np.ndarray  # float32 (N,)


P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def telling(path: Place) -> Iterator[None]:
    """What the disk or the database says against the tables at `path` becomes one sentence."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(path, BucketPath) and (why := refusal(str(error))):
            raise IndexStateError(f"cannot use {path}: {why}; what was complete is in the index") from error
        if _LOST.search(str(error)):
            raise IndexStateError(
                f"cannot use {path}: a part of it is gone ({_reason(error)}); run the same command again, and if it "
                "stays so, put it back from a copy or make another one (--index DIR)"
            ) from error
        raise IndexStateError(
            f"cannot use {path}: {_reason(error)}; mend that and run the same command again, what was complete is in "
            "the index; if it stays so the index is damaged, so make another one (--index DIR)"
        ) from error


def told(method: Callable[P, R]) -> Callable[P, R]:
    """A method, under `telling`, of something with the `path` of tables."""

    @functools.wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with telling(args[0].path):  # type: ignore[attr-defined]
            return method(*args, **kwargs)

    return wrapped


def _reason(error: Exception) -> str:
    """What the system said, which LanceDB gives between names of its own and places in its source."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    said = " ".join(str(error).split())
    if from_system := re.search(r"([^:]+) \(os error \d+\)", said):
        return from_system[1].strip()
    return re.sub(r", /\S+\.rs:\d+:\d+|^lance error: ", "", said)


class Snapshot:
    """Reads of one commit agree with each other, whatever others write meanwhile.

    Every method raises IndexStateError where the disk or the database fails.
    """

    def __init__(self, table: Any, width: int, path: Place) -> None:
        """`table` is a LanceDB table that was checked out at one version; `path` names it in errors."""
        self._table = table
        self.path = path
        self.width = width
        self.version = int(table.version)

    @told
    def __len__(self) -> int:
        return int(self._table.count_rows())

    @told
    def keys(self) -> Keys:
        """All moments."""
        data = self._table.search().select(["file_id", "start_seconds", "end_seconds"]).with_row_id(True).to_arrow()
        # Sixty-four letters a moment would be most of the memory.
        content = data.column("file_id").dictionary_encode().combine_chunks()
        names = content.dictionary.to_pylist()
        code = content.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        start, end, row_id = (data.column(name).to_numpy() for name in ("start_seconds", "end_seconds", "_rowid"))
        order = np.lexsort((start, code))
        count = np.bincount(code, minlength=len(names))
        return Keys(
            file_ids=tuple(names),
            first=np.cumsum(count) - count,
            count=count,
            start_seconds=start[order],
            end_seconds=end[order],
            row_id=row_id[order],
        )

    @told
    def vectors(self, row_id: np.ndarray, modalities: Sequence[Modality] = BOTH) -> Vectors:
        """Of moments (N,), in their order; what is not among `modalities` is left out, as if they had none."""
        found = {modality: self._absent(len(row_id)) for modality in BOTH}
        if len(row_id):
            rows = self._table.take_row_ids(row_id.tolist()).select([COLUMNS[name] for name in modalities])
            data = rows.with_row_id().to_arrow()
            # They come in the order of the table.
            there = data.column("_rowid").to_numpy()
            order = np.argsort(there)
            order = order[np.searchsorted(there, row_id, sorter=order)]
            for modality in modalities:
                found[modality] = vectors_of(data.column(COLUMNS[modality]), self.width, order)
        (audio, has_audio), (visual, has_visual) = found["sound"], found["picture"]
        return Vectors(audio=audio, visual=visual, has_audio=has_audio, has_visual=has_visual)

    def batches(self, modality: Modality) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """uint64 (N,) and float32 (N, E), piece by piece: all moments that have a vector of this modality."""
        column = COLUMNS[modality]
        with telling(self.path):
            for batch in self._table.search().select([column]).with_row_id(True).to_batches(batch_size=_ROWS_A_BATCH):
                vectors, has = vectors_of(batch.column(column), self.width, np.arange(batch.num_rows))
                yield batch.column("_rowid").to_numpy()[has], vectors[torch.from_numpy(has)]

    @told
    def neighbours(
        self, modality: Modality, vector: torch.Tensor, count: int, *, probes: int, refine: int, condition: str = ""
    ) -> Neighbours:
        """About the `count` moments nearest to `vector` (E,), by the index of neighbours, where it was made.

        `condition` says in SQL which moments are looked at.
        """
        asked = self._table.search(vector.numpy(), vector_column_name=COLUMNS[modality], query_type="vector")
        asked = asked.distance_type("cosine").nprobes(probes).refine_factor(refine).limit(count)
        if condition:
            # The partitions nearest to the vector may be full of what is not looked at: then others are searched, too.
            asked = asked.where(condition).maximum_nprobes(0)
        found = asked.select(["_distance"]).with_row_id(True).to_arrow()
        return Neighbours(row_id=found.column("_rowid").to_numpy(), cosine=1.0 - found.column("_distance").to_numpy())

    def _absent(self, count: int) -> tuple[torch.Tensor, np.ndarray]:
        return torch.zeros(1, self.width).expand(count, -1), np.zeros(count, bool)


def vectors_of(column: Any, width: int, order: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    """float32 (N, E) and bool (N,): the vectors of an Arrow column in another order, zeros where there is none."""
    parts = [np.zeros((0, width), np.float32)]
    present = [np.zeros(0, bool)]
    for chunk in getattr(column, "chunks", [column]):
        first = chunk.offset * width
        values = chunk.values[first : first + len(chunk) * width]
        parts.append(values.to_numpy(zero_copy_only=False).reshape(-1, width))
        present.append(chunk.is_valid().to_numpy(zero_copy_only=False))
    has = np.concatenate(present)[order]
    vectors = np.concatenate(parts)[order]
    vectors[~has] = 0.0
    return torch.from_numpy(vectors), has
