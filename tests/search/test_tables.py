"""If these fail, a full or read-only disk, or a damaged table, ends in a traceback or leaves a wrong index."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_contents import assert_same, contents
from lookhear import cli
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import tables as tables_module
from lookhear.search.crawl import index
from lookhear.search.forget import forget
from lookhear.search.index import Index
from lookhear.search.tables import FileRow, Tables
from made_library import HOP, WIDTH, WINDOW, make_library, parts_of
from tiny_embedder import make_clip, tiny_embedder

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# As LanceDB 0.40 says it.
LANCE_FULL = RuntimeError(
    "lance error: LanceError(IO): Generic LocalFileSystem error: Unable to copy data to file: "
    "No space left on device (os error 28), /x/lance-table-13.0.0/src/io/commit.rs:1663:50"
)
LANCE_READ_ONLY = RuntimeError(
    'lance error: LanceError(IO): Read-only file system (os error 30) at path "/x/files.lance/data/.tmp", /x/lib.rs:1:2'
)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for number in range(3):
        make_clip(folder / "media" / f"clip{number}.mp4", number, seconds=1.5)
    return folder


@pytest.fixture
def made(tmp_path: Path, originals: Path, embedder: Embedder) -> Path:
    """A folder with `media` and an `index` of it, to which one file was added, one changed and one taken away."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    index([tmp_path / "media"], model=embedder, index_path=tmp_path / "index", workers=0)
    make_clip(tmp_path / "media" / "new.mp4", 5)
    make_clip(tmp_path / "media" / "clip0.mp4", 6)
    (tmp_path / "media" / "clip1.mp4").unlink()
    return tmp_path


class _Failing:
    """A table of LanceDB whose methods fail as on a full disk."""

    def __init__(self, table: Any, names: tuple[str, ...], error: Exception) -> None:
        self._table, self._names, self._error = table, names, error

    def __getattr__(self, name: str) -> Any:
        def fail(*arguments: object, **options: object) -> None:
            raise self._error

        return fail if name in self._names else getattr(self._table, name)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], error: Exception) -> Iterator[None]:
    def opened(self: Tables, original: Callable[[Tables], tuple[Any, Any]] = Tables._open) -> tuple[Any, ...]:
        return tuple(_Failing(table, names, error) for table in original(self))

    with monkeypatch.context() as patched:
        patched.setattr(Tables, "_open", opened)
        yield


@pytest.mark.parametrize("name", ["add", "merge_insert", "delete", "optimize"])
@pytest.mark.parametrize("error", [FULL, LANCE_FULL], ids=["system", "lance"])
def test_a_full_disk_ends_in_a_sentence_and_a_true_index(
    made: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def crawl(path: str) -> None:
        index([made / "media"], model=embedder, index_path=made / path, workers=0)

    with failing(monkeypatch, (name,), error), pytest.raises(IndexStateError) as told:
        crawl("index")
    said = str(told.value)
    tables = made / "index" / Index(made / "index").facts.tables
    assert said.startswith(f"cannot use {tables}: No space left on device; mend that and run")
    assert "\n" not in said
    contents(made / "index")
    crawl("index")
    crawl("fresh")
    assert_same(made / "index", made / "fresh")


def test_a_full_disk_while_forgetting_forgets_nothing(
    made: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(made / "index").rows
    with failing(monkeypatch, ("add", "merge_insert"), FULL), pytest.raises(IndexStateError, match="No space left"):
        forget([made / "media" / "clip2.mp4"], index_path=made / "index")
    assert contents(made / "index").rows == before
    assert forget([made / "media" / "clip2.mp4"], index_path=made / "index").files == 1
    assert sorted(path.name for path in (made / "index").glob("tables*")) == [Index(made / "index").facts.tables]


def test_tables_that_cannot_be_deleted_are_named(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(path: Path, **options: object) -> None:
        if not options.get("ignore_errors"):
            raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stuck)
        with pytest.raises(IndexStateError, match=r"cannot delete .*tables-\w+: Permission denied; .* on the disk"):
            forget([made / "media" / "clip2.mp4"], index_path=made / "index")
    assert [row.path for row in contents(made / "index").rows] == ["clip0.mp4", "clip1.mp4"]
    forget([made / "media" / "clip1.mp4"], index_path=made / "index")
    assert len(list((made / "index").glob("tables*"))) == 1  # the next writer could


def test_a_read_only_index_is_searched_and_not_written(
    made: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permissions do not stop root, so the system's answers are made here."""

    def refuse(self: Path, mode: str = "r", *arguments: Any, original: Any = Path.open, **options: Any) -> Any:
        if self.is_relative_to(made / "index") and not mode.startswith("r"):
            raise OSError(errno.EROFS, "Read-only file system")
        return original(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    changes = ("add", "merge_insert", "delete", "optimize")
    with failing(monkeypatch, changes, LANCE_READ_ONLY):
        found = Index(made / "index", model=embedder)
        assert len(found.search(like="clip2.mp4@0.5")) > 0
        assert found.status().counts == {"ok": 3}
        words = [str(made / "media"), "--index", str(made / "index"), "--model", str(embedder.path)]
        assert cli.main(["index", *words, "--workers", "0"]) == 1
        assert cli.main(["forget", str(made / "media"), "--index", str(made / "index")]) == 1
        said = capsys.readouterr().err.splitlines()
        assert [line.partition(": ")[2] for line in said] == 2 * [
            f"cannot write {made / 'index'}: Read-only file system; mend that and try again"
        ]
        with pytest.raises(IndexStateError, match=r"tables-\w+: Read-only file system; mend that"):
            found.write(found.files())


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


@pytest.mark.parametrize("damage", [_cut_short, _overwrite, Path.unlink])
@pytest.mark.parametrize("table", ["files", "moments"])
def test_a_damaged_table_is_named(
    made: Path, capsys: pytest.CaptureFixture[str], table: str, damage: Callable[[Path], None]
) -> None:
    tables = made / "index" / Index(made / "index").facts.tables
    for path in (tables / f"{table}.lance" / "data").iterdir():
        damage(path)
    assert cli.main(["search", "--index", str(made / "index"), "--like", "clip2.mp4@0.5"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"lookhear: cannot use {tables}: ")
    assert printed.err.count("\n") == 1
    assert "make another one (--index DIR)" in printed.err
    assert ".rs:" not in printed.err


@pytest.mark.parametrize("gone", ["files.lance", "moments.lance", ""])
def test_a_table_that_is_gone_is_named_and_not_made_anew(
    made: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    place = made / "index"
    before = Index(place)
    assert before.library().files
    tables = place / before.facts.tables
    shutil.rmtree(tables / gone)
    for words in (["status"], ["search", "--like", "clip2.mp4@0.5"], ["index", str(made / "media")]):
        if words == ["status"] and gone == "moments.lance":
            continue  # which reads the rows only
        assert cli.main([*words, "--index", str(place)]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"lookhear: cannot use {tables}: a part of it is gone (")
        assert printed.count("\n") == 1
    with pytest.raises(IndexStateError, match="a part of it is gone"):
        before.search(like="clip2.mp4@0.5")
    assert not (tables / (gone or "files.lance")).exists()


def test_a_long_crawl_leaves_no_fragment_for_every_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each commit looks into all of them, so a crawl of days would slow down with the square of its length."""
    monkeypatch.setattr(tables_module, "_COMMITS_A_JOIN", 4)
    tables = Tables(tmp_path / "tables", 8)
    facts = {"size_bytes": 1, "mtime_ns": 1, "status": "refused", "reason": "", "seconds": 0.0, "num_moments": 0}
    rows = [FileRow(library="/m", path=f"{n:02d}.mp4", file_id=f"{n:032x}", **facts) for n in range(10)]  # type: ignore[arg-type]
    for row in rows:
        tables.put_files([row])
    assert tables.files() == rows
    assert tables._open()[0].stats()["fragment_stats"]["num_fragments"] <= 4


def test_what_has_no_row_yet_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a very long file that is being indexed it may be much more than all else."""
    library = make_library([10.0, 400.0, 6.0])
    tables = Tables(tmp_path, WIDTH)
    tables.add_moments(parts_of(library, range(3)))
    read, real = [], tables_module.vectors_of
    monkeypatch.setattr(
        tables_module, "vectors_of", lambda column, *rest: read.append(len(column)) or real(column, *rest)
    )
    found = tables.library((library.files[0], library.files[2]), window_seconds=WINDOW, hop_seconds=HOP)
    rows = library.file_rank != 1
    assert np.array_equal(found.audio, library.audio[rows])
    assert read == [rows.sum()] * 2
