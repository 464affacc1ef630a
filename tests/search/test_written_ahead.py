"""If these fail, a very long file fills the memory, or what is written of it before its end is doubled or seen."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crawled import by_path, crawl
from index_contents import assert_same, contents
from lookhear.data import stretch
from lookhear.data.stretch import decode_stretch
from lookhear.embedder import Embedder
from lookhear.search import crawl as crawling
from lookhear.search.crawl import index
from lookhear.search.index import FileRow, Index
from lookhear.search.tables import MomentRows
from tiny_embedder import make_clip

MOST = 3  # moments in memory; the clips have more


@pytest.fixture
def whole(media: Path, embedder: Embedder, tmp_path: Path) -> Path:
    """An index of the folder in which every file was written once, when it was complete."""
    index([media], model=embedder, index_path=tmp_path / "whole", workers=0)
    return tmp_path / "whole"


@pytest.fixture
def ahead(whole: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is written, content and number of moments, when files are long and memory is short."""
    plan, write = Embedder.plan, Index.write
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(plan(self, **options), span_seconds=0.8))
    monkeypatch.setattr(embedder, "batch_size", 1)
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 0.8)
    monkeypatch.setattr(crawling, "_MOST_MOMENTS", MOST)
    written: list[tuple[str, int]] = []

    def noted(self: Index, rows: list[FileRow], moments: list[MomentRows]) -> None:
        written.extend((part.file_id, len(part.start_seconds)) for part in moments)
        write(self, rows, moments)
        assert contents(self.path).rows == Index(self.path).files(), "what has no row yet is not seen"

    monkeypatch.setattr(Index, "write", noted)
    return written


def test_a_long_file_is_written_piece_by_piece(
    media: Path, embedder: Embedder, whole: Path, ahead: list[tuple[str, int]]
) -> None:
    crawl(media, embedder)
    assert_same(media.parent / "index", whole)
    longest = max(by_path(media).values(), key=lambda row: row.num_moments)
    pieces = [count for file_id, count in ahead if file_id == longest.file_id]
    assert sum(pieces) == longest.num_moments > 2 * MOST
    assert max(pieces) <= 2 * MOST, "as many as come with one stretch, beside those that are kept"


def test_copies_of_a_long_file(media: Path, embedder: Embedder, ahead: list[tuple[str, int]]) -> None:
    for number in range(3):
        shutil.copy(media / "sub1" / "clip5.mp4", media / f"copy{number}.mp4")
    summary = crawl(media, embedder)
    assert (summary.files, summary.counts["ok"]) == (10, 9)
    contents(media.parent / "index")
    assert len({row.num_moments for row in by_path(media).values() if "copy" in row.path or "clip5" in row.path}) == 1


@pytest.mark.parametrize("begun", ["copy.mp4", "sub1/clip5.mp4"])
def test_a_copy_that_is_done_first(
    media: Path, embedder: Embedder, ahead: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """When it ends, pieces are written of the one that was begun before it."""
    shutil.copy(media / "sub1" / "clip5.mp4", media / "copy.mp4")
    real = crawling.decode_stretches

    def in_turns(pool: object, jobs: object) -> object:
        def turn(each: tuple[stretch.StretchJob, object]) -> tuple[int, int]:
            job, _ = each
            if not job.path.endswith(("copy.mp4", "clip5.mp4")):
                return 0, 0
            is_begun = job.path.endswith(begun)
            return (1 if is_begun and job.stretch < 3 else 3 if is_begun else 2), job.stretch

        return iter(sorted(real(pool, jobs), key=turn))  # type: ignore[arg-type]

    monkeypatch.setattr(crawling, "decode_stretches", in_turns)
    crawl(media, embedder)
    contents(media.parent / "index")
    rows = by_path(media)
    assert rows["copy.mp4"].num_moments == rows["sub1/clip5.mp4"].num_moments > 0
    assert rows["copy.mp4"].status == rows["sub1/clip5.mp4"].status == "ok"
    pieces = [count for file_id, count in ahead if file_id == rows["copy.mp4"].file_id]
    assert sum(pieces) > rows["copy.mp4"].num_moments, "some were written in vain"


def test_a_long_file_that_is_changed_while_it_is_read(
    media: Path, embedder: Embedder, ahead: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(media / "sub1" / "clip5.mp4", media / "sub1" / "clip6.mp4")

    def changing(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip5.mp4") and job.stretch == 2:
            make_clip(media / "sub1" / "clip5.mp4", 77)
        return decode_stretch(job)

    monkeypatch.setattr(stretch, "decode_stretch", changing)
    crawl(media, embedder)
    rows = by_path(media)
    assert "changed while it was read" in rows["sub1/clip5.mp4"].reason
    assert rows["sub1/clip6.mp4"].status == "ok"
    contents(media.parent / "index")
    monkeypatch.setattr(stretch, "decode_stretch", decode_stretch)
    assert crawl(media, embedder).counts["ok"] == 7
    contents(media.parent / "index")


def test_killed_in_a_long_file(
    media: Path, embedder: Embedder, whole: Path, ahead: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip5.mp4") and job.stretch == 3:
            raise KeyboardInterrupt
        return decode_stretch(job)

    with monkeypatch.context() as killed:
        killed.setattr(stretch, "decode_stretch", dying)
        with pytest.raises(KeyboardInterrupt):
            crawl(media, embedder)
    target = media.parent / "index"
    assert len(np.unique([name for name, _ in ahead])) > len(Index(target).files())
    contents(target)
    crawl(media, embedder)
    assert_same(target, whole)


def test_stopped_in_a_long_file(media: Path, embedder: Embedder, ahead: list[tuple[str, int]]) -> None:
    target = media.parent / "index"
    crawl(media, embedder)
    make_clip(media / "late.mp4", 50, seconds=4.0)
    ahead.clear()
    opened = Index(target, model=embedder)
    summary = crawling.crawl(opened, [media.resolve()], crawling.CrawlOptions(workers=0), stop=lambda: len(ahead) >= 1)
    assert [Path(each.path).name for each in summary.waiting] == ["late.mp4"]
    assert summary.moments == len(Index(target).library())
    assert len(opened._tables.moment_file_ids()) == 7, "what nobody names is not left behind"
