"""If these fail, a scan reads vectors of other moments than it believes, or an exact search misses what it rounded."""

import errno
import os
import threading
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.data.lock import only_writer
from lookhear.search import matrix as matrix_module
from lookhear.search.library import Library
from lookhear.search.matrix import Matrix, open_matrix
from lookhear.search.snapshot import Snapshot
from lookhear.search.tables import Tables
from made_library import WIDTH, make_library, parts_of, unit

ROOM = "matrix"


@pytest.fixture
def library() -> Library:
    library = make_library([10.0, 3.0, 0.4, 25.0, 8.0, 6.0, 12.0, 9.0])
    library.has_audio[4:9] = False
    library.has_visual[library.file_rank == 6] = False
    return library


def opened(snapshot: Snapshot, folders: Sequence[Path] = (), *, file_ids: Set[str] | None = None) -> Matrix:
    return open_matrix(snapshot, set(snapshot.keys().file_ids) if file_ids is None else file_ids, folders)


def tables_of(library: Library, path: Path) -> Tables:
    tables = Tables(path / "tables", WIDTH)
    tables.add_moments(parts_of(library, range(len(library.files))))
    return tables


def assert_holds(matrix: Matrix, library: Library, ranks: list[int]) -> None:
    """The matrix has the moments of these files, and no others in use."""
    rows = matrix.rows
    assert set(rows.file_ids.tolist()) == {library.files[rank].file_id.encode() for rank in ranks}
    for rank in ranks:
        place = rows.file_ids.tolist().index(library.files[rank].file_id.encode())
        there = slice(int(rows.first[place]), int(rows.first[place] + rows.count[place]))
        here = np.flatnonzero(library.file_rank == rank)
        assert rows.start_seconds[there].tolist() == library.start_seconds[here].tolist()
        assert rows.end_seconds[there].tolist() == library.end_seconds[here].tolist()
        for name, vectors in (("audio", matrix.audio), ("visual", matrix.visual)):
            has = getattr(library, f"has_{name}")[here]
            assert (getattr(rows, f"has_{name}")[there] == has).all()
            wanted = getattr(library, name)[here].bfloat16() * torch.from_numpy(has)[:, None]
            assert torch.equal(vectors[there], wanted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many vectors each read of the table gave."""
    counts: list[int] = []
    real = Snapshot.vectors

    def counted(snapshot: Snapshot, row_id: np.ndarray, *rest: object) -> object:
        counts.append(len(row_id))
        return real(snapshot, row_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "vectors", counted)
    return counts


@pytest.mark.parametrize("folder", [ROOM, None])
def test_it_holds_the_moments_whatever_the_size_of_a_read(
    library: Library, tmp_path: Path, folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_module, "_ROWS_A_READ", 7)
    matrix = opened(tables_of(library, tmp_path).snapshot(), [tmp_path / folder] if folder else [])
    assert_holds(matrix, library, list(range(8)))
    assert (tmp_path / ROOM).exists() == bool(folder)


@pytest.mark.parametrize("folder", [ROOM, None])
def test_what_is_written_of_a_file_that_has_no_row_yet_is_not_read(
    library: Library, tmp_path: Path, reads: list[int], folder: str | None
) -> None:
    """Of a very long one that is being indexed it grows all the time."""
    snapshot = tables_of(library, tmp_path).snapshot()
    folders = [tmp_path / folder] if folder else []
    named = {library.files[rank].file_id for rank in (0, 3)}
    assert_holds(opened(snapshot, folders, file_ids=named), library, [0, 3])
    assert sum(reads) == library.count[[0, 3]].sum()
    reads.clear()
    named.add(library.files[6].file_id)  # its row came later than its moments
    assert_holds(opened(snapshot, folders, file_ids=named), library, [0, 3, 6])
    assert sum(reads) == library.count[[6] if folder else [0, 3, 6]].sum()
    reads.clear()
    opened(snapshot, folders, file_ids=named)
    assert bool(reads) is (folder is None)


def test_only_what_is_new_is_read(library: Library, tmp_path: Path, reads: list[int]) -> None:
    tables = Tables(tmp_path / "tables", WIDTH)
    tables.add_moments(parts_of(library, [3, 0]))
    opened(tables.snapshot(), [tmp_path / ROOM])
    assert sum(reads) == library.count[[3, 0]].sum()
    reads.clear()
    assert_holds(opened(tables.snapshot(), [tmp_path / ROOM]), library, [0, 3])
    assert not reads, "the version is the same"
    tables.add_moments(parts_of(library, [6, 1]))
    assert_holds(opened(tables.snapshot(), [tmp_path / ROOM]), library, [0, 1, 3, 6])
    assert sum(reads) == library.count[[6, 1]].sum()
    reads.clear()
    tables.compact()  # which gives every moment another row id
    tables.delete_moments([library.files[1].file_id])
    matrix = opened(tables.snapshot(), [tmp_path / ROOM])
    assert_holds(matrix, library, [0, 3, 6])
    assert not reads
    rows = np.arange(len(matrix.rows))[: library.count[3]]
    ids = matrix.rows.row_id[rows]
    assert torch.equal(tables.snapshot().vectors(ids).audio.bfloat16(), matrix.audio[rows])


def test_what_is_gone_leaves_the_disk_when_it_is_much(library: Library, tmp_path: Path, reads: list[int]) -> None:
    tables = tables_of(library, tmp_path)
    opened(tables.snapshot(), [tmp_path / ROOM])
    before = {path.name for path in (tmp_path / ROOM).glob("*.bf16")}
    reads.clear()
    tables.delete_moments([library.files[rank].file_id for rank in (3, 5)])
    tables.add_moments([replace(parts_of(library, [3])[0], file_id="f" * 32)])
    matrix = opened(tables.snapshot(), [tmp_path / ROOM])
    after = {path.name for path in (tmp_path / ROOM).glob("*.bf16")}
    assert len(after) == 2
    assert not after & before
    assert len(matrix.rows) == matrix.rows.count.sum()
    assert sum(reads) == library.count[3], "what it had was copied"
    renamed = replace(
        library, files=tuple(replace(f, file_id="f" * 32) if n == 3 else f for n, f in enumerate(library.files))
    )
    assert_holds(matrix, renamed, [0, 1, 2, 3, 4, 6, 7])


def test_a_content_with_other_moments_is_read_again(library: Library, tmp_path: Path) -> None:
    tables = tables_of(library, tmp_path)
    opened(tables.snapshot(), [tmp_path / ROOM])
    tables.delete_moments([library.files[4].file_id])
    other = make_library([10.0, 3.0, 0.4, 25.0, 8.0, 6.0, 12.0, 9.0], seed=9)
    other.start_seconds[other.file_rank == 4] += 0.1
    tables.add_moments(parts_of(other, [4]))
    matrix = opened(tables.snapshot(), [tmp_path / ROOM])
    place = matrix.rows.file_ids.tolist().index(library.files[4].file_id.encode())
    there = slice(int(matrix.rows.first[place]), int(matrix.rows.first[place] + matrix.rows.count[place]))
    assert torch.equal(matrix.audio[there], other.audio[other.file_rank == 4].bfloat16())


@pytest.mark.parametrize("harm", ["rows.npz", "*.bf16", "killed"])
def test_what_is_damaged_is_made_again(library: Library, tmp_path: Path, harm: str) -> None:
    tables = tables_of(library, tmp_path)
    opened(tables.snapshot(), [tmp_path / ROOM])
    if harm == "killed":  # while it appended
        for path in (tmp_path / ROOM).glob("*.bf16"):
            path.write_bytes(path.read_bytes() + b"\1" * 999)
        tables.add_moments([replace(parts_of(library, [3])[0], file_id="f" * 32)])
        matrix = opened(tables.snapshot(), [tmp_path / ROOM])
        assert torch.equal(matrix.audio[-int(library.count[3]) :], library.audio[library.file_rank == 3].bfloat16())
        return
    for path in (tmp_path / ROOM).glob(harm):
        path.write_bytes(path.read_bytes()[:-100])
    assert_holds(opened(tables.snapshot(), [tmp_path / ROOM]), library, list(range(8)))


def test_without_a_place_on_the_disk_it_is_in_memory(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = tables_of(library, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_holds(opened(tables.snapshot(), [tmp_path / ROOM]), library, list(range(8)))
    assert not list((tmp_path / ROOM).glob("*.bf16"))
    (tmp_path / "file").touch()
    assert_holds(opened(tables.snapshot(), [tmp_path / "file" / ROOM]), library, list(range(8)))


def test_a_disk_that_is_full_or_a_kill_leaves_no_half_written_rows(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, folder = tables_of(library, tmp_path / "tables"), tmp_path / "matrix"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", full)
        assert_holds(opened(tables.snapshot(), [folder]), library, list(range(len(library.files))))
    assert not [*folder.glob("*.tmp"), *folder.glob("*.bf16")]
    (folder / "rows.npz.1.tmp").touch()  # of a process that was killed
    opened(tables.snapshot(), [folder])
    assert not list(folder.glob("*.tmp"))


def test_a_second_process_waits_for_the_first(library: Library, tmp_path: Path, reads: list[int]) -> None:
    tables = tables_of(library, tmp_path)
    (tmp_path / ROOM).mkdir()
    found: list[Matrix] = []
    with only_writer(tmp_path / ROOM):
        other = threading.Thread(target=lambda: found.append(opened(tables.snapshot(), [tmp_path / ROOM])))
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert not reads
    other.join(30)
    assert_holds(found[0], library, list(range(8)))


@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("length", [1.0, 2.0**0.5])
def test_no_cosine_is_off_by_more_than_is_said(
    tmp_path: Path, is_fast: bool, length: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix_module, "bfloat16_is_fast", lambda: is_fast)
    monkeypatch.setattr(matrix_module, "_ROWS_A_PRODUCT", 1000)
    rng = np.random.default_rng(0)
    values = length * unit(rng.normal(size=(3000, 384)) * np.exp(rng.normal(size=(3000, 1)) * 3))
    near = unit(values[:40].numpy() + 0.01 * rng.normal(size=(40, 384))) / length
    rows = opened(Tables(tmp_path, WIDTH).snapshot()).rows
    rounding = float((values - values.bfloat16().float()).norm(dim=1).max())
    rows = replace(rows, rounding=rounding, length=length)
    matrix = Matrix(rows=rows, audio=values.bfloat16(), visual=values[:0].bfloat16())
    for vectors in (values[:1] / length**2, near, values[:5] / length**2):
        exact = vectors.double() @ values.double().T
        off = (matrix.cosines("sound", vectors).double() - exact).abs().max()
        assert off <= matrix.max_error(vectors)
        assert matrix.max_error(vectors) < 0.008
    assert matrix.cosines("picture", near).shape == (40, 0)


def test_an_empty_table_has_an_empty_matrix(tmp_path: Path) -> None:
    assert len(opened(Tables(tmp_path / "tables", WIDTH).snapshot(), [tmp_path / ROOM]).rows) == 0
