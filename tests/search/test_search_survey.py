"""If these fail, a file has several rows or none, because of how the folders of an index lie in each other."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from index_contents import assert_same
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import survey as survey_module
from lookhear.search.crawl import CrawlSummary, index
from lookhear.search.index import Index
from tiny_embedder import make_clip, make_clips, tiny_embedder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips."""
    return make_clips(tmp_path_factory.mktemp("originals"), 5)


@pytest.fixture
def media(tmp_path: Path, originals: Path) -> Path:
    return Path(shutil.copytree(originals, (tmp_path / "media").resolve()))


def crawl(media: Path, embedder: Embedder) -> CrawlSummary:
    return index([media], index_path=media.parent / "index", model=embedder, workers=0)


def test_a_folder_takes_in_those_inside_it(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    """A file has one row: with one in each of two libraries it would be counted twice, and be found as it once was."""
    inside, copy = media / "inside", media / "inside" / "again.mp4"
    make_clip(inside / "a.mp4", 31)
    shutil.copy(inside / "a.mp4", copy)
    place = tmp_path / "index"
    index([inside], index_path=place, model=embedder, workers=0)
    summary = crawl(media, embedder)
    assert (summary.files, summary.unchanged, summary.moved, summary.copied, summary.deleted) == (7, 2, 0, 0, 0)
    assert Index(place).facts.libraries == (str(media.resolve()),)
    assert {row.library for row in Index(place).files()} == {str(media.resolve())}
    again = crawl(media, embedder)
    assert (again.files, again.unchanged, again.deleted) == (7, 7, 0)
    with pytest.raises(
        IndexStateError,
        match=r"inside is in .*media, which the index has already; run `lookhear index .*media --index .*index`",
    ):
        index([inside], index_path=place, model=embedder, workers=0)
    both = index([inside, media], index_path=place, model=embedder, workers=0)
    assert (both.files, both.unchanged) == (7, 7)
    index([media], index_path=tmp_path / "at once", model=embedder, workers=0)
    assert_same(place, tmp_path / "at once")


def test_one_row_a_file_where_both_were_libraries(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    """As earlier versions left an index."""
    place = tmp_path / "index"
    crawl(media, embedder)
    target = Index(place)
    old = [row for row in target.files() if row.path.startswith("sub0/")]
    with target.writing():
        target.keep_libraries([str(media), str(media / "sub0")])
        target.write([replace(row, library=str(media / "sub0"), path=row.path[5:]) for row in old])
    make_clip(media / "sub0" / "clip0.mp4", 32)
    summary = crawl(media, embedder)
    assert (summary.files, summary.unchanged, summary.changed, summary.deleted) == (5, 4, 1, 0)
    assert sorted(row.path for row in Index(place).files()) == sorted({row.path for row in Index(place).files()})
    hits = Index(place).search(like="clip2.mp4@1", top=100)
    assert not any(hit.path in hit.copies for hit in hits)
    index([media], index_path=tmp_path / "at once", model=embedder, workers=0)
    assert_same(place, tmp_path / "at once")


def test_a_disk_inside_that_is_not_mounted(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    make_clip(media / "disk" / "a.mp4", 31)
    index([media / "disk"], index_path=tmp_path / "index", model=embedder, workers=0)
    (media / "disk").rename(tmp_path / "elsewhere")
    (media / "disk").mkdir()
    with pytest.raises(IndexStateError, match=r"disk holds no media, but .* knows files in it"):
        crawl(media, embedder)


def test_files_that_do_not_answer_keep_their_moments(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a network folder goes after it was listed."""
    before = crawl(media, embedder)
    real = survey_module.stat_of
    with monkeypatch.context() as gone:
        gone.setattr(survey_module, "stat_of", lambda path: (0, 0) if path.name == "clip2.mp4" else real(path))
        summary = crawl(media, embedder)
    assert (summary.counts, summary.moments, summary.unchanged) == (before.counts, before.moments, 5)
    assert [Path(each.path).name for each in summary.waiting] == ["clip2.mp4"]
    assert "does not answer" in summary.waiting[0].reason
    (media / "clip2.mp4").unlink(missing_ok=True)
    (media / "sub0" / "clip2.mp4").unlink(missing_ok=True)
    after = crawl(media, embedder)
    assert (after.deleted, after.waiting) == (1, ())


def test_a_folder_of_copies_that_is_renamed_is_moved(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    make_clip(media / "old" / "a.mp4", 31)
    shutil.copy(media / "old" / "a.mp4", media / "old" / "b.mp4")
    crawl(media, embedder)
    (media / "old").rename(media / "new")
    summary = crawl(media, embedder)
    assert (summary.moved, summary.copied, summary.deleted) == (2, 0, 0)
