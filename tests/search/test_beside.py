"""If these fail, an index of another model is searched before it is whole, or holds vectors of two models."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from crawled import by_path, crawl
from index_contents import assert_same, contents
from locked_folders import lock_folders
from lookhear.data import stretch
from lookhear.data.stretch import decode_stretch
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import crawl as crawling
from lookhear.search import index as indexing
from lookhear.search import survey as survey_module
from lookhear.search.crawl import index
from lookhear.search.index import Index
from tiny_embedder import make_clip, tiny_embedder


def test_another_model_beside_the_old_one(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tiny_embedder(tmp_path, 7)
    target = media.parent / "index"
    crawl(media, embedder)
    searcher = Index(target)
    before = searcher.search(sound=media / "sound.wav")
    with pytest.raises(IndexStateError, match="--beside"):
        crawl(media, other)
    with pytest.raises(IndexStateError, match="very model"):
        index([], model=embedder, index_path=target, beside=True, workers=0)

    def dying(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip3.mp4"):
            raise KeyboardInterrupt
        return decode_stretch(job)

    with monkeypatch.context() as killed:
        killed.setattr(stretch, "decode_stretch", dying)
        killed.setattr(crawling, "_WRITE_FILES", 1)
        with pytest.raises(KeyboardInterrupt):
            index([], model=other, index_path=target, beside=True, workers=0)
    assert Index(target).facts.fingerprint == embedder.fingerprint
    assert searcher.search(sound=media / "sound.wav") == before
    decoded: list[str] = []
    monkeypatch.setattr(stretch, "decode_stretch", lambda job: decoded.append(job.path) or decode_stretch(job))
    summary = index([], model=other, index_path=target, beside=True, workers=0)
    assert 0 < len(decoded) < 7  # it went on
    assert (summary.files, summary.counts["ok"]) == (7, 6)
    monkeypatch.undo()
    fresh = tmp_path / "fresh"
    index([media], model=other, index_path=fresh, workers=0)
    assert_same(target, fresh)
    assert Index(target).facts.fingerprint == other.fingerprint
    after = searcher.search(sound=media / "sound.wav")  # it was open all the time
    assert after == Index(fresh).search(sound=media / "sound.wav")
    assert len(list(target.glob("tables*"))) == 1
    assert crawl(media, other).unchanged == 7
    closer = index([], index_path=target, beside=True, hop_seconds=0.12, workers=0)
    assert closer.moments > 1.5 * summary.moments
    shutil.rmtree(media)
    media.mkdir()
    with pytest.raises(IndexStateError, match="mount"):
        index([], model=embedder, index_path=target, beside=True, workers=0)
    assert len(Index(target).library()) == closer.moments


def test_beside_takes_the_folders_that_came_while_it_waited(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl(media, embedder)
    make_clip(tmp_path / "more" / "late.mp4", 30)
    target = media.parent / "index"
    lock = indexing.right_to_write

    def late(*arguments: object) -> AbstractContextManager[None]:
        monkeypatch.setattr(indexing, "right_to_write", lock)
        index([tmp_path / "more"], model=embedder, index_path=target, workers=0)
        return lock(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(indexing, "right_to_write", late)
    summary = index([], model=tiny_embedder(tmp_path, 7), index_path=target, beside=True, workers=0)
    assert summary.files == 8
    assert "late.mp4" in by_path(media)


def test_an_index_whose_model_was_replaced_takes_no_vectors_of_the_old_one(
    media: Path, embedder: Embedder, tmp_path: Path
) -> None:
    crawl(media, embedder)
    late = Index(media.parent / "index", model=embedder)
    request = late.request(sound=media / "sound.wav")
    index([], model=tiny_embedder(tmp_path, 7), index_path=late.path, beside=True, workers=0)
    (media / "sound.wav").touch()
    with pytest.raises(IndexStateError, match="another model"):
        crawling.crawl(late, [media.resolve()], crawling.CrawlOptions(workers=0))
    with pytest.raises(IndexStateError, match="make it again"):
        late.find(request)
    assert late.find(late.request(sound=media / "sound.wav"))


@pytest.mark.parametrize("out_of_sight", ["not mounted", "locked", "silent"])
def test_what_is_out_of_sight_is_not_lost(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out_of_sight: str
) -> None:
    crawl(media, embedder)
    target, disk = media.parent / "index", media / "sub1"
    before = contents(target)
    other = tiny_embedder(tmp_path, 7)
    with monkeypatch.context() as away:
        if out_of_sight == "not mounted":
            disk.rename(tmp_path / "away")
            disk.mkdir()
        elif out_of_sight == "locked":
            lock_folders(away, disk)
        else:
            real = survey_module.stat_of
            away.setattr(survey_module, "stat_of", lambda path: (0, 0) if path.parent == disk else real(path))
        crawl(media, embedder)  # keeps what it has
        with pytest.raises(IndexStateError, match=r"sub1.* nothing was changed .*lookhear forget .*sub1.* --index "):
            index([], model=other, index_path=target, beside=True, workers=0)
    assert before.rows == [row for row in contents(target).rows if row.path != "sub1"]
    if out_of_sight == "not mounted":
        disk.rmdir()
        (tmp_path / "away").rename(media / "moved")
        disk.mkdir()  # its files are elsewhere now
    summary = index([], model=other, index_path=target, beside=True, workers=0)
    assert (summary.files, summary.counts["ok"]) == (7, 6)
