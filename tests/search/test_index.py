"""If these fail, an index loses or doubles moments, answers for the wrong model, or hides what is wrong with it."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookhear.errors import IndexStateError
from lookhear.search import large as large_module
from lookhear.search.calibration import Calibration
from lookhear.search.crawl import index as crawl
from lookhear.search.index import FileRow, Index, MomentRows, create_index
from lookhear.search.likeness import PLAIN_WIDTH
from tiny_embedder import in_memory_embedder, make_clip, save_tiny, tiny_embedder

WIDTH = 32 + PLAIN_WIDTH


def row(path: str, file_id: str, *, library: str = "/videos", num_moments: int = 3, status: str = "ok") -> FileRow:
    return FileRow(
        library=library,
        path=path,
        file_id=file_id,
        size_bytes=10,
        mtime_ns=1,
        status=status,
        reason="" if status == "ok" else "for a reason",
        seconds=1.0,
        num_moments=num_moments,
    )


def moments(file_id: str, *, count: int = 3, seed: int = 0) -> MomentRows:
    rng = np.random.default_rng(seed)
    audio, visual = (rng.normal(size=(count, WIDTH)).astype(np.float32) for _ in range(2))
    audio /= np.linalg.norm(audio, axis=1, keepdims=True)
    visual /= np.linalg.norm(visual, axis=1, keepdims=True)
    visual[0] = np.nan
    start = 0.24 * np.arange(count)
    return MomentRows(file_id=file_id, start_seconds=start, end_seconds=start + 0.48, audio=audio, visual=visual)


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return create_index(tmp_path / "index", in_memory_embedder())


def test_what_is_written_is_read(index: Index) -> None:
    first, second = moments("a" * 32, seed=1), moments("b" * 32, count=5, seed=2)
    with index.writing():
        index.write([row("z.mp4", "a" * 32), row("b/c.mp4", "b" * 32, num_moments=5)], [first, second])
    for reader in (index, Index(index.path)):
        assert [file.path for file in reader.files()] == ["b/c.mp4", "z.mp4"]
        library = reader.library()
        assert [str(file.path) for file in library.files] == [str(Path("/videos/b/c.mp4")), str(Path("/videos/z.mp4"))]
        assert library.count.tolist() == [5, 3]
        assert np.allclose(library.start_seconds, np.concatenate([second.start_seconds, first.start_seconds]))
        assert np.array_equal(library.audio.numpy(), np.concatenate([second.audio, first.audio]))
        assert library.has_audio.all()
        assert library.has_visual.tolist() == [False, True, True, True, True, False, True, True]
        assert not library.visual[0].any()  # zeros, never NaN: it goes through a matrix product
        assert library.hop_seconds == pytest.approx(0.24)


def test_the_library_in_memory_follows_the_tables(index: Index) -> None:
    other = Index(index.path)
    assert len(other.library()) == 0
    with index.writing():
        index.write([row("a.mp4", "a" * 32)], [moments("a" * 32)])
    assert len(other.library()) == 3
    assert other.library() is other.library()
    with index.writing():
        index.remove_files([row("a.mp4", "a" * 32)])
        index.remove_orphans()
        index.compact()
    assert len(other.library()) == 0


def test_calibrations_are_kept_but_not_without_end(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with index.writing():
        index.write(
            [row("a.mp4", "a" * 32, num_moments=8), row("b.mp4", "b" * 32, num_moments=8)],
            [moments("a" * 32, count=8), moments("b" * 32, count=8, seed=1)],
        )
    made: list[int] = []

    def counted(
        *arguments: object, original: Callable[..., Calibration] = large_module.calibrate, **options: float
    ) -> Calibration:
        made.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(large_module, "calibrate", counted)
    monkeypatch.setattr(large_module, "_MAX_CALIBRATIONS", 2)

    def num_made(num_windows: int) -> int:
        made.clear()
        assert index.search(like=f"a.mp4@0-{0.24 * num_windows + 0.24:.2f}", within="sound")
        return len(made)

    assert [num_made(1), num_made(1), num_made(2), num_made(1)] == [1, 0, 1, 0]
    assert [num_made(3), num_made(2), num_made(1)] == [1, 0, 1]
    assert len(index._calibrations) == 2


def test_nobody_waits_for_a_library_that_is_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a page shows no picture for seconds after each commit of a crawl."""
    under_way, go_on = threading.Event(), threading.Event()
    read = index._read_library

    def waiting(*arguments: Any) -> Any:
        under_way.set()
        assert go_on.wait(60)
        return read(*arguments)

    monkeypatch.setattr(index, "_read_library", waiting)
    reading = threading.Thread(target=index.library)
    reading.start()
    assert under_way.wait(60)
    asking = threading.Thread(target=index.version, daemon=True)
    asking.start()
    asking.join(10)
    has_answered = not asking.is_alive()
    go_on.set()
    reading.join()
    assert has_answered


def test_tables_that_are_replaced_while_they_are_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with index.writing():
        index.write([row("a.mp4", "a" * 32), row("b.mp4", "b" * 32)], [moments("a" * 32), moments("b" * 32)])
    reader = Index(index.path)
    assert len(reader.library()) == 6
    read = reader._tables.version

    def replaced() -> tuple[int, int]:
        with index.writing():
            index.erase([row("a.mp4", "a" * 32)])
        return read()  # of tables that are gone

    monkeypatch.setattr(reader._tables, "version", replaced)
    assert len(reader.library()) == 3
    monkeypatch.setattr(reader._tables, "version", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # what is no fault of a replacement is not hidden
        reader.library()


def test_moments_without_a_row_are_invisible_and_then_deleted(index: Index) -> None:
    with index.writing():
        index.write([row("a.mp4", "a" * 32)], [moments("a" * 32)])
        index.write([], [moments("b" * 32)])  # as a writer leaves it that is killed between the two commits
    assert len(index.library()) == 3
    with index.writing():
        index.write([row("b.mp4", "b" * 32)], [moments("b" * 32)])
    assert len(index.library()) == 6  # and not 9


def test_a_row_is_replaced_not_doubled(index: Index) -> None:
    with index.writing():
        index.write([row("a.mp4", "a" * 32)], [moments("a" * 32)])
        index.write([row("a.mp4", "b" * 32, num_moments=2)], [moments("b" * 32, count=2)])
        assert len(index.library()) == 2
        index.remove_orphans()
    assert [file.file_id for file in index.files()] == ["b" * 32]


def test_equal_files_share_moments(index: Index) -> None:
    rows = [row("z.mp4", "a" * 32), row("a.mp4", "a" * 32, library="/other")]
    with index.writing():
        index.write(rows, [moments("a" * 32)])
    library = index.library()
    assert len(library) == 3
    assert (library.files[0].path, library.files[0].copies) == (Path("/other/a.mp4"), (Path("/videos/z.mp4"),))
    assert index.status().moments == 3
    with index.writing():
        index.remove_files(rows[1:])
        index.remove_orphans()
    assert len(index.library()) == 3


def test_names_of_any_kind(index: Index) -> None:
    names = [
        "it's.mp4",
        "new\nline.mp4",
        'tab\t"quoted".mp4',
        "Ünï ☃.mp4",
        os.fsdecode(b"bytes\xff\xfe.mp4"),
        "a\\b.mp4",
    ]
    rows = [row(name, f"{number:032x}") for number, name in enumerate(names)]
    with index.writing():
        index.write(rows, [moments(each.file_id) for each in rows])
        index.write(rows)
        assert sorted(file.path for file in index.files()) == sorted(names)
        index.remove_files(rows[:3])
        assert sorted(file.path for file in index.files()) == sorted(names[3:])


def test_status_counts_what_is_there(index: Index) -> None:
    with index.writing():
        index.write(
            [row("a.mp4", "a" * 32), row("b.mp4", "", num_moments=0, status="refused")],
            [moments("a" * 32)],
        )
    status = index.status()
    assert status.counts == {"ok": 1, "refused": 1}
    assert (status.moments, status.seconds) == (3, 1.0)
    assert [file.reason for file in status.files] == ["", "for a reason"]


def test_seconds_of_media_are_said_in_milliseconds(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [replace(row(f"{seconds}.mp4", f"{seconds}"), seconds=seconds) for seconds in (0.1, 0.2, 3.0)]
    monkeypatch.setattr(index, "files", lambda: rows)
    assert index.status().seconds == 3.3  # 0.1 + 0.2 + 3.0 is 3.3000000000000003


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    mine, other = tiny_embedder(tmp_path, 1), tiny_embedder(tmp_path, 2)
    path = create_index(tmp_path / "index", mine).path
    with pytest.raises(IndexStateError) as raised:
        Index(path, model=other).search(sound=tmp_path / "any.wav")
    for part in (mine.fingerprint[:12], other.fingerprint[:12], "another model", "--index"):
        assert part in str(raised.value)
    folder = make_clip(tmp_path / "media" / "a.mp4", 1).parent
    with pytest.raises(IndexStateError, match="another model"):
        crawl([folder], model=other, index_path=path, workers=0)
    with pytest.raises(IndexStateError, match=r"every 0\.24 s, not every 0\.1 s"):
        crawl([folder], model=mine, index_path=path, hop_seconds=0.1, workers=0)
    assert Index(path).files() == []


def test_a_checkpoint_that_has_moved(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "media" / "a.mp4", 1).parent
    old = save_tiny(tmp_path / "old.safetensors")
    crawl([folder], model=old, index_path=tmp_path / "index", workers=0)
    new = old.rename(tmp_path / "new.safetensors")
    with pytest.raises(IndexStateError, match="no longer there"):
        Index(tmp_path / "index").search(picture=folder / "a.mp4")
    crawl([folder], model=new, index_path=tmp_path / "index", workers=0)
    assert Index(tmp_path / "index").search(picture=folder / "a.mp4")


def test_an_index_of_a_model_in_memory_asks_for_it(index: Index, tmp_path: Path) -> None:
    assert index.facts.model == ""
    with pytest.raises(IndexStateError, match="model="):
        Index(index.path).search(sound=tmp_path / "any.wav")
    assert Index(index.path, model=in_memory_embedder()).embedder()


def test_what_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexStateError, match="there is no index at"):
        Index(tmp_path / "nowhere")
    with pytest.raises(IndexStateError, match="is not an index"):
        Index(tmp_path)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(IndexStateError, match="is not an index"):
        Index(tmp_path / "file")
    with pytest.raises(IndexStateError, match="is a file"):
        create_index(tmp_path / "file", in_memory_embedder())
    with pytest.raises(IndexStateError, match="not empty"):
        create_index(tmp_path, in_memory_embedder())
    with pytest.raises(IndexStateError, match="hop"):
        create_index(tmp_path / "new", in_memory_embedder(), hop_seconds=9.0)


def test_damaged_and_newer_facts(index: Index) -> None:
    facts = index.path / "index.json"
    data = json.loads(facts.read_text())
    facts.write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(IndexStateError, match="format 99"):
        Index(index.path)
    facts.write_text(json.dumps({name: value for name, value in data.items() if name != "fingerprint"}))
    with pytest.raises(IndexStateError, match=r"damaged.*fingerprint"):
        Index(index.path)
    facts.write_text("{")
    with pytest.raises(IndexStateError, match="cannot read"):
        Index(index.path)


def test_only_one_writes(index: Index) -> None:
    with index.writing():
        with pytest.raises(IndexStateError, match="another process"), Index(index.path).writing():
            pass
        assert Index(index.path).files() == []  # reading goes on
    with Index(index.path).writing():
        pass


def test_searching_an_empty_index(index: Index, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", 1)
    searcher = Index(index.path, model=in_memory_embedder())
    assert searcher.search(sound=clip) == searcher.search(picture=clip) == searcher.search(clip=clip) == []
