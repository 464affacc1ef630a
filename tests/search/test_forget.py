"""If these fail, what was to be forgotten is still in the index, or on its disk, or something else went with it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import forget as forgetting
from lookhear.search.crawl import index
from lookhear.search.forget import forget
from lookhear.search.index import Index, create_index_beside
from tiny_embedder import make_clip, tiny_embedder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def target(tmp_path: Path, embedder: Embedder) -> Path:
    for number, name in enumerate(["a/secret.mp4", "a/other.mp4", "b/last.mp4"]):
        make_clip(tmp_path / "media" / name, number)
    shutil.copy(tmp_path / "media" / "a" / "other.mp4", tmp_path / "media" / "b" / "copy.mp4")
    index(
        [tmp_path / "media" / "a", tmp_path / "media" / "b"], model=embedder, index_path=tmp_path / "index", workers=0
    )
    return tmp_path / "index"


def on_disk(folder: Path, needle: bytes) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def vector_bytes(target: Path, name: str) -> bytes:
    library = Index(target).library()
    rank = next(rank for rank, file in enumerate(library.files) if file.path.name == name)
    return library.audio[library.first[rank]].numpy().tobytes()[:64]


def test_nothing_is_left_of_a_file(target: Path, tmp_path: Path) -> None:
    vector = vector_bytes(target, "secret.mp4")
    assert on_disk(target, vector)  # so that its absence means something
    assert on_disk(target, b"secret.mp4")
    searcher = Index(target)
    kept = vector_bytes(target, "last.mp4")
    before = searcher.library()
    (tmp_path / "media" / "a" / "secret.mp4").unlink()
    summary = forget([tmp_path / "media" / "a" / "secret.mp4"], index_path=target)
    assert (summary.files, summary.kept_for_copies) == (1, 0)
    assert summary.moments == len(before) - len(searcher.library()) > 0
    assert on_disk(target, vector) == on_disk(target, b"secret.mp4") == []
    assert on_disk(target, kept)
    rest = before.file_rank != next(r for r, file in enumerate(before.files) if file.path.name == "secret.mp4")
    assert np.array_equal(searcher.library().audio.numpy(), before.audio.numpy()[rest])
    assert np.array_equal(searcher.library().has_visual, before.has_visual[rest])
    assert {row.path for row in searcher.files()} == {"other.mp4", "last.mp4", "copy.mp4"}
    assert index([tmp_path / "media" / "a"], index_path=target, workers=0).unchanged == 1


def test_a_folder_goes_with_its_library_and_copies_elsewhere_stay(target: Path, tmp_path: Path) -> None:
    summary = forget([tmp_path / "media" / "a"], index_path=target)
    assert (summary.files, summary.kept_for_copies) == (2, 1)
    found = Index(target)
    assert found.facts.libraries == (str((tmp_path / "media" / "b").resolve()),)
    assert {file.path.name for file in found.library().files} == {"copy.mp4", "last.mp4"}
    assert on_disk(target, b"secret.mp4") == []
    everything = forget([tmp_path / "media"], index_path=target)
    assert everything.files == 2
    assert len(Index(target).library()) == 0
    assert Index(target).search(picture=tmp_path / "media" / "b" / "last.mp4") == []


def test_a_new_index_beside_forgets_too(target: Path, tmp_path: Path) -> None:
    other = tiny_embedder(tmp_path, 5)
    beside = create_index_beside(target, other)
    with beside.writing():
        beside.write(Index(target).files())
    assert len(on_disk(target, b"secret.mp4")) >= 2
    forget([tmp_path / "media" / "a" / "secret.mp4"], index_path=target)
    assert on_disk(target, b"secret.mp4") == []
    assert len(Index(target, is_next=True).files()) == 3


def test_what_is_not_known_changes_nothing(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Index(target).files()
    with pytest.raises(IndexStateError, match=r"knows nothing of .* status --files --index "):
        forget([tmp_path / "media" / "a" / "secret.mp4", tmp_path / "nowhere"], index_path=target)
    with pytest.raises(IndexStateError, match="nothing to forget"):
        forget([], index_path=target)
    # Killed before the one step that counts.
    monkeypatch.setattr("lookhear.search.index.write_facts", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        forget([tmp_path / "media" / "a"], index_path=target)
    monkeypatch.undo()
    assert Index(target).files() == before
    with Index(target).writing():
        assert len(list(target.glob("tables*"))) == 1  # what the killed one left is gone
        with pytest.raises(IndexStateError, match="another process"):
            forgetting.forget([tmp_path / "media" / "a"], index_path=target)


def test_killed_between_two_indexes_it_can_be_run_again(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_embedder(tmp_path, 5)
    beside = create_index_beside(target, other)
    with beside.writing():
        beside.write(Index(target).files())
    erase, erased = Index.erase, []

    def dying(self: Index, *arguments: object) -> None:
        if erased:
            raise KeyboardInterrupt
        erased.append(erase(self, *arguments))  # type: ignore[arg-type]

    with monkeypatch.context() as killed:
        killed.setattr(Index, "erase", dying)
        with pytest.raises(KeyboardInterrupt):
            forget([tmp_path / "media" / "a" / "secret.mp4"], index_path=target)
    assert forget([tmp_path / "media" / "a" / "secret.mp4"], index_path=target).files == 1
    assert on_disk(target, b"secret.mp4") == []


def test_an_empty_folder_that_is_gone_can_be_forgotten(target: Path, tmp_path: Path, embedder: Embedder) -> None:
    (tmp_path / "media" / "empty").mkdir()
    index([tmp_path / "media" / "empty"], index_path=target, workers=0)
    (tmp_path / "media" / "empty").rmdir()
    assert forget([tmp_path / "media" / "empty"], index_path=target).files == 0
    assert len(Index(target).facts.libraries) == 2
