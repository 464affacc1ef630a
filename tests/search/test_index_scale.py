"""If these fail, an index is searched otherwise than its size asks for, or what is forgotten is still on the disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear import cli
from lookhear.embedder import Embedder
from lookhear.errors import ConfigError
from lookhear.search import index as index_module
from lookhear.search.approximate import NearLibrary
from lookhear.search.crawl import CrawlOptions
from lookhear.search.crawl import index as crawl
from lookhear.search.forget import forget
from lookhear.search.index import Index
from lookhear.search.large import ScannedLibrary
from lookhear.search.library import Library, Stretches
from lookhear.search.query import Hit
from tiny_embedder import in_memory_embedder, make_clip, tiny_embedder


@pytest.fixture
def media(tmp_path: Path) -> Path:
    for number in range(3):
        make_clip(tmp_path / "media" / f"{number}.mp4", number, seconds=3.0)
    return tmp_path / "media"


@pytest.fixture
def embedder(tmp_path: Path) -> Embedder:
    return tiny_embedder(tmp_path)


@pytest.fixture
def near_index(media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index that is too large for an exact search."""
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    crawl([media], model=embedder, index_path=tmp_path / "index", workers=0, exact_moments=5)
    return tmp_path / "index"


def places(hits: list[Hit]) -> list[tuple[str, float, float]]:
    return [(hit.path, hit.peak_seconds, round(hit.score, 2)) for hit in hits]


def test_every_way_to_search_gives_the_same_hits(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "index"
    assert crawl([media], model=embedder, index_path=where, workers=0).approximate is None
    asked = {"like": "1.mp4@1.5", "top": 5}
    small = Index(where)
    hits = small.search(**asked)  # type: ignore[arg-type]
    assert isinstance(small.library(), Library)
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    scanned = Index(where)
    assert isinstance(scanned.library(), ScannedLibrary)
    assert places(scanned.search(**asked)) == places(hits)  # type: ignore[arg-type]
    assert list((where / Index(where).facts.tables / "matrix").glob("*.bf16"))
    summary = crawl([media], index_path=where, workers=0, exact_moments=5)
    assert summary.approximate is not None
    assert summary.approximate.moments == summary.moments
    assert Index(where).status().approximate == summary.approximate
    near = scanned  # an index that is open notices
    assert places(near.search(**asked)) == places(hits)  # type: ignore[arg-type]
    assert isinstance(near.library(), NearLibrary)
    built = summary.approximate.build_seconds
    assert crawl([media], index_path=where, workers=0, exact_moments=5).approximate.build_seconds == built  # type: ignore[union-attr]
    make_clip(media / "3.mp4", 9, seconds=4.0)
    make_clip(media / "4.mp4", 10, seconds=4.0)
    crawl([media], index_path=where, workers=0, exact_moments=5)
    assert near.search(like="3.mp4@1", top=1)
    grown = Index(where).facts.approximate
    assert grown is not None
    assert grown.moments > summary.moments
    assert crawl([media], index_path=where, workers=0).approximate == grown, "it remembers"
    assert crawl([media], index_path=where, workers=0, exact_moments=10**6).approximate is None
    assert isinstance(near.library(), ScannedLibrary)
    assert near.search(like="3.mp4@1", top=1)


def test_new_moments_are_found_at_once(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    monkeypatch.setattr(index_module, "_GROWTH", 100.0)
    for way in (0, 10**6):
        where = tmp_path / f"index{way}"
        crawl([media], model=embedder, index_path=where, workers=0, exact_moments=way)
        reader = Index(where)
        make_clip(media / f"new{way}.mp4", 20 + way % 7, seconds=3.0)
        assert reader.search(sound=media / f"new{way}.mp4", top=1)
        crawl([media], index_path=where, workers=0, exact_moments=way)
        assert Path(reader.search(sound=media / f"new{way}.mp4", top=1)[0].path).name == f"new{way}.mp4"


def test_nothing_of_a_forgotten_file_is_kept(media: Path, near_index: Path) -> None:
    where, reader = near_index, Index(near_index)
    reader.search(like="1.mp4@1.5")
    crawl([media], index_path=where, workers=0, exact_moments=10**6)
    library = reader.library()
    rows = np.flatnonzero(library.file_rank == 1)
    vectors = library.part(Stretches(first=rows[:1], end=rows[-1:] + 1)).audio.bfloat16()
    trace = vectors[0].view(torch.uint8).numpy().tobytes()
    reader.search(like="0.mp4@1.5")
    kept = b"".join(path.read_bytes() for path in where.rglob("*") if path.is_file())
    assert trace in kept
    forget([media / "1.mp4"], index_path=where)
    reader.search(like="0.mp4@1.5")
    kept = b"".join(path.read_bytes() for path in where.rglob("*") if path.is_file())
    assert trace not in kept
    assert Index(where).facts.approximate is None


def test_vectors_that_no_index_of_neighbours_takes_are_searched_exactly(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    embedder = in_memory_embedder(width=36)
    summary = crawl([media], model=embedder, index_path=tmp_path / "index", workers=0, exact_moments=5)
    assert summary.approximate is None
    assert "still searched exactly, which takes longer" in caplog.text
    assert Index(tmp_path / "index", model=embedder).search(like="1.mp4@1.5")


def test_an_index_by_another_model_remembers_how_the_one_before_it_was_searched(
    media: Path, embedder: Embedder, tmp_path: Path
) -> None:
    crawl([media], model=embedder, index_path=tmp_path / "index", workers=0, exact_moments=5)
    crawl([], model=tiny_embedder(tmp_path, 7), index_path=tmp_path / "index", beside=True, workers=0)
    facts = Index(tmp_path / "index").facts
    assert facts.exact_moments == 5
    assert facts.approximate is not None


def test_what_is_forgotten_leaves_an_approximate_index_approximate(media: Path, near_index: Path) -> None:
    """The next search would read the whole table otherwise."""
    where, reader = near_index, Index(near_index)
    before = {hit.path for hit in reader.search(like="1.mp4@1.5", top=1000)}
    summary = forget([media / "0.mp4"], index_path=where)
    found = Index(where).facts.approximate
    assert found is not None
    assert found.moments == len(reader.library())
    assert summary.moments > 0
    assert isinstance(reader.library(), NearLibrary)
    assert {hit.path for hit in reader.search(like="1.mp4@1.5", top=1000)} == before - {str(media / "0.mp4")}
    forget([media], index_path=where)
    assert reader.search(sound=media / "1.mp4") == []


def test_nothing_of_a_forgotten_file_is_kept_elsewhere(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the index lies in a folder that cannot be written to by those who search."""
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    monkeypatch.setenv("LOOKHEAR_CACHE", str(tmp_path / "cache"))
    where = tmp_path / "index"
    crawl([media], model=embedder, index_path=where, workers=0)
    (where / Index(where).facts.tables / "matrix").write_bytes(b"")  # no folder can be made there
    Index(where).search(like="1.mp4@1.5")
    kept = list((tmp_path / "cache").rglob("*.bf16"))
    assert kept
    forget([media / "1.mp4"], index_path=where)
    assert not any(path.exists() for path in kept)


def test_the_command_line_prints_the_recall(
    media: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path / "index")
    model = str(embedder.path)
    assert (
        cli.main(["index", str(media), "--model", model, "--index", where, "--workers", "0", "--exact-moments", "3"])
        == 0
    )
    assert "approximate.recall_at_10.sound>sound\t" in capsys.readouterr().out
    assert cli.main(["status", "--index", where, "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["approximate"]["recall_at_10"]["sound>sound"] <= 1
    assert cli.main(["search", "--index", where, "--like", "1.mp4@1"]) == 0
    assert "of the 10 nearest moments are found" in capsys.readouterr().err


def test_a_threshold_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        CrawlOptions(exact_moments=-1)
