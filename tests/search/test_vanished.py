"""If these fail, an index loses files that are only out of sight, or keeps those that are gone."""

import shutil
from pathlib import Path

import pytest

from crawled import by_path, crawl
from locked_folders import lock_folders
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search.index import Index


def test_a_folder_that_is_empty_may_be_a_disk_that_is_not_mounted(media: Path, embedder: Embedder) -> None:
    crawl(media, embedder)
    disk, elsewhere = media / "sub1", media.parent / "disk"
    moments = Index(media.parent / "index").status().moments
    disk.rename(elsewhere)
    disk.mkdir()
    count = len(list(elsewhere.iterdir()))
    for _ in range(2):
        summary = crawl(media, embedder)
        assert (summary.deleted, summary.moments, summary.unchanged) == (0, moments, 7)
        (kept,) = summary.kept
        assert kept.path == str(disk)
        assert f"({count}) stays" in kept.reason
    disk.rmdir()
    elsewhere.rename(disk)  # mounted again
    summary = crawl(media, embedder)
    assert (summary.unchanged, summary.kept) == (7, ())
    disk.rename(media / "sub2")  # moved, and an empty folder left behind
    disk.mkdir()
    summary = crawl(media, embedder)
    assert (summary.moved, summary.deleted, summary.kept, summary.files) == (count, 0, (), 7)


def test_an_empty_folder_whose_files_were_copied_elsewhere(media: Path, embedder: Embedder) -> None:
    """A copy has another time, so size and time do not say that the file has moved."""
    (media / "old").mkdir()
    (media / "sub1" / "clip5.mp4").rename(media / "old" / "a.mp4")
    (media / "old" / "bad.mp4").write_bytes(b"nonsense" * 100)
    crawl(media, embedder)
    before = Index(media.parent / "index").status()
    shutil.copyfile(media / "old" / "a.mp4", media / "z.mp4")
    for path in (media / "old").iterdir():
        path.unlink()
    summary = crawl(media, embedder)
    assert (summary.moved, summary.copied, summary.deleted, summary.kept) == (1, 0, 1, ())
    assert (summary.files, summary.moments) == (7, before.moments)
    assert not any(path.startswith("old") for path in by_path(media))
    shutil.copyfile(media / "sub0" / "clip0.mp4", media / "y.mp4")
    crawl(media, embedder)  # sees both
    for path in (media / "sub0").iterdir():
        path.unlink()
    summary = crawl(media, embedder)
    assert [kept.reason.count("(2) stays") for kept in summary.kept] == [1], "two of three are nowhere else"
    assert set(by_path(media)) >= {"y.mp4", "sub0/clip2.mp4", "sub0/clip4.mp4"}
    assert "sub0/clip0.mp4" not in by_path(media)


def test_refused_files_of_an_empty_folder_are_gone(media: Path, embedder: Embedder) -> None:
    (media / "bad").mkdir()
    (media / "bad" / "bad.mp4").write_bytes(b"nonsense" * 100)
    assert crawl(media, embedder).counts["refused"] == 1
    (media / "bad" / "bad.mp4").unlink()
    summary = crawl(media, embedder)
    assert (summary.deleted, summary.refused, summary.kept, summary.files) == (1, (), (), 7)


def test_a_folder_that_is_gone_is_gone(media: Path, embedder: Embedder) -> None:
    crawl(media, embedder)
    count = len(list((media / "sub1").iterdir()))
    shutil.rmtree(media / "sub1")
    summary = crawl(media, embedder)
    assert (summary.deleted, summary.kept, summary.files) == (count, (), 7 - count)


def test_a_library_whose_disk_is_not_mounted_stays(media: Path, embedder: Embedder) -> None:
    crawl(media, embedder)
    shutil.rmtree(media)
    media.mkdir()
    with pytest.raises(IndexStateError, match="mount") as raised:
        crawl(media, embedder)
    assert "\n" not in str(raised.value)
    assert len(by_path(media)) == 7
    assert len(Index(media.parent / "index").library())


def test_what_is_in_a_folder_that_cannot_be_listed_stays(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = crawl(media, embedder)
    (media / "sound.wav").unlink()
    with monkeypatch.context() as locked:
        lock_folders(locked, media / "sub0")
        summary = crawl(media, embedder)
    assert (summary.deleted, summary.counts["ok"], summary.counts["refused"]) == (1, 6, 1)
    assert "no permission to list" in by_path(media)["sub0"].reason
    assert {row.path for row in Index(media.parent / "index").files()} >= {f"sub0/clip{n}.mp4" for n in (0, 2, 4)}
    after = crawl(media, embedder)
    assert (after.files, after.unchanged) == (6, 6)
    assert before.counts["ok"] == after.counts["ok"]
