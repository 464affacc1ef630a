"""If these fail, a library of 10,000 files is slow to look through, or is not searched while it grows."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookhear.search.crawl import index
from lookhear.search.index import Index
from lookhear.search.tables import FileRow, MomentRows
from tiny_embedder import WINDOW_SECONDS, make_clip, save_tiny
from web_library import Running, running

FILES, MOMENTS_EACH = 10_000, 2
# Far more than an answer takes where nothing else runs, and far less than one that grows with the square of the files.
QUICK_SECONDS = 2.0
KINDS = ("ok", "ok", "ok", "sound_only", "picture_only", "partial", "refused", "ok", "ok", "ok")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An index of 10,000 rows with random vectors; the files themselves are not there."""
    folder = tmp_path_factory.mktemp("large").resolve()
    make_clip(folder / "seed" / "clip.mp4", 1)
    index([folder / "seed"], model=save_tiny(folder / "m.safetensors"), index_path=folder / "index", workers=0)
    target = Index(folder / "index")
    facts, rng = target.facts, np.random.default_rng(0)
    starts = np.arange(MOMENTS_EACH) * target.facts.hop_seconds

    def vectors(is_there: bool) -> np.ndarray:
        if not is_there:
            return np.full((MOMENTS_EACH, facts.vector_width), np.nan, np.float32)
        parts = [rng.standard_normal((MOMENTS_EACH, width)) for width in (facts.embedding_width, facts.plain_width)]
        unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
        return np.concatenate(unit, axis=1, dtype=np.float32)

    rows, moments = [], []
    for number in range(FILES):
        kind, file_id = KINDS[number % len(KINDS)], f"{number:032x}"
        is_refused = kind == "refused"
        rows.append(
            FileRow(
                library=str(folder / "films"),
                path=f"{number % 40:02d}/reel {number % 200:03d}/tape {number:05d}.mov",
                file_id=file_id,
                size_bytes=1000 + number,
                mtime_ns=(1_500_000_000 + 1000 * number) * 10**9,
                status=kind,
                reason="it is not a media file" if is_refused else "" if kind == "ok" else "for some reason",
                seconds=0.0 if is_refused else float(number % 600),
                num_moments=0 if is_refused else MOMENTS_EACH,
            )
        )
        if not is_refused:
            moments.append(
                MomentRows(
                    file_id=file_id,
                    start_seconds=starts,
                    end_seconds=starts + WINDOW_SECONDS,
                    audio=vectors(kind != "picture_only"),
                    visual=vectors(kind != "sound_only"),
                )
            )
    with target.writing():
        target.keep_libraries([str(folder / "films")])
        target.write(rows, moments)
    with running(folder / "index") as web:
        yield web


def quickly(web: Running, method: str, path: str, **asked: Any) -> Any:
    """The answer, the second time that it is asked for: the first reads the tables."""
    web.client.request(method, path, **asked)
    began = time.monotonic()
    answer = web.client.request(method, path, **asked)
    seconds = time.monotonic() - began
    assert answer.status_code == 200, answer.text
    assert seconds < QUICK_SECONDS
    return answer.json()


def test_every_part_of_the_list_comes_quickly(large: Running) -> None:
    status = quickly(large, "GET", "/api/status")
    assert status["files"] == FILES + 1
    assert status["counts"]["refused"] == FILES // 10
    seen: list[str] = []
    for offset in range(0, FILES + 1, 500):
        page = quickly(large, "GET", "/api/files", params={"offset": offset, "limit": 500})
        assert page["total"] == FILES + 1
        seen += [row["path"] for row in page["rows"]]
    assert len(set(seen)) == FILES + 1
    assert seen == sorted(seen)
    folders = quickly(large, "GET", "/api/folders")
    assert len(folders) == 1 + 1 + 40 + 200


def test_what_is_looked_for_comes_quickly(large: Running) -> None:
    found = quickly(large, "GET", "/api/files", params={"text": "tape 0123", "order": "size", "descending": True})
    numbers = [*range(1239, 1229, -1), 123]
    assert found["total"] == len(numbers)
    assert [row["path"][-9:-4] for row in found["rows"]] == [f"{number:05d}" for number in numbers]
    skipped = quickly(large, "GET", "/api/files", params={"status": "refused", "offset": 900})
    assert skipped["total"] == FILES // 10
    assert len(skipped["rows"]) == 100
    assert {row["reason"] for row in skipped["rows"]} == {"it is not a media file"}


def test_filters_and_pages_of_a_search_come_quickly(large: Running) -> None:
    films = next(path for path in large.archive.status().libraries if path.endswith("films"))
    asked: dict[str, Any] = {"examples": [{"kind": "moment", "file_id": f"{1:032x}", "start_seconds": 0.1}]}
    everything = quickly(large, "POST", "/api/search", json=asked | {"page_size": 100, "page": 50})
    assert len(everything["hits"]) == 100
    filters = {"folder": f"{films}/07", "status": ["sound_only", "ok"], "longer_seconds": 100, "after": "2017-07-15"}
    some = quickly(large, "POST", "/api/search", json=asked | {"filters": filters, "page_size": 100})
    assert some["hits"]
    for hit in some["hits"]:
        assert hit["folder"].startswith("07/")
        assert hit["status"] in ("sound_only", "ok")
        assert hit["seconds"] > 100


@pytest.mark.ci
def test_a_library_is_searched_while_it_grows(tmp_path: Path) -> None:
    """Every answer is whole: of one state of the index or the next, never an error."""
    media = (tmp_path / "media").resolve()
    for number in range(4):
        make_clip(media / f"first {number}.mp4", number)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    answers: list[tuple[int, int]] = []
    with running(tmp_path / "index") as web:
        upload = web.upload(media / "first 1.mp4")
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                asked = {"examples": [{"kind": "upload", "id": upload["id"]}], "page_size": 100}
                found = web.client.post("/api/search", json=asked)
                names = {hit["name"] for hit in found.json().get("hits", ())}
                assert found.status_code != 200 or {f"first {number}.mp4" for number in range(4)} <= names
                answers.append((found.status_code, len(names)))
                answers.append((web.client.get("/api/files").status_code, 0))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(4, 12):
                make_clip(media / f"then {number}.mp4", number)
                index([media], index_path=tmp_path / "index", workers=0)
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert {status for status, _ in answers} == {200}
        assert len(answers) > 20
        most = web.client.post("/api/search", json={"examples": [{"kind": "upload", "id": upload["id"]}]}).json()
        assert len({hit["name"] for hit in most["hits"]}) == 12
