"""If these fail, a watched folder and its index drift apart, half-written files are indexed, or it does not end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lookhear.errors import IndexStateError
from lookhear.search.crawl import CrawlOptions, index
from lookhear.search.index import Index
from lookhear.search.summary import CrawlSummary
from lookhear.search.watch import watch
from tiny_embedder import make_clip, save_tiny, tiny_embedder

OPTIONS = CrawlOptions(workers=0, settle_seconds=0.0)


class Looks:
    """Runs `watch` in this thread; before each look after the first, one of `steps` changes the folder."""

    def __init__(self, folder: Path, target: Path, steps: list[Callable[[], object]], **options: object) -> None:
        self.reports: list[CrawlSummary | None] = []
        self.complaints: list[str] = []
        self._steps = steps
        self._stop = threading.Event()
        self._stop.wait = self._next  # type: ignore[assignment]
        self._last: CrawlSummary | None = None
        model = tiny_embedder(target.parent)
        watch(
            [folder],
            stop=self._stop,
            report=self._report,
            complain=self.complaints.append,
            model=model,
            index_path=target,
            options=OPTIONS,
            **options,  # type: ignore[arg-type]
        )

    def _report(self, summary: CrawlSummary) -> None:
        self._last = summary

    def _next(self, timeout: float | None = None) -> bool:
        self.reports.append(self._last)
        self._last = None
        if self._steps:
            self._steps.pop(0)()
        else:
            self._stop.set()
        return True


def grow(path: Path, source: Path, share: float) -> None:
    whole = source.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def nothing() -> None:
    pass


def test_an_index_follows_its_folder(tmp_path: Path) -> None:
    media, target = tmp_path / "media", tmp_path / "index"
    first = make_clip(media / "first.mp4", 1)
    source = make_clip(tmp_path / "elsewhere" / "second.mp4", 2)
    second = media / "second.mp4"
    looks = Looks(
        media,
        target,
        [
            nothing,
            lambda: grow(second, source, 0.3),
            lambda: grow(second, source, 0.7),
            lambda: grow(second, source, 1.0),
            nothing,
            nothing,
            lambda: first.rename(media / "renamed.mp4"),
            nothing,
            second.unlink,
            nothing,
        ],
    )
    told = [
        None if each is None else (each.added, each.moved, each.deleted, len(each.waiting), each.counts["waiting"])
        for each in looks.reports
    ]
    assert told == [
        (1, 0, 0, 0, 0),
        None,
        (0, 0, 0, 1, 1),
        (0, 0, 0, 1, 1),
        (0, 0, 0, 1, 1),
        (1, 0, 0, 0, 0),
        None,
        (0, 1, 0, 0, 0),  # a renamed file does not wait
        None,
        (0, 0, 1, 0, 0),
        None,
    ]
    assert looks.complaints == []
    rows = Index(target).files()
    assert [(row.path, row.status) for row in rows] == [("renamed.mp4", "ok")]
    index([media], model=tiny_embedder(tmp_path), index_path=tmp_path / "fresh", workers=0)
    assert Index(tmp_path / "fresh").files() == rows


def test_a_folder_that_vanishes_comes_back(tmp_path: Path) -> None:
    media, target = tmp_path / "media", tmp_path / "index"
    make_clip(media / "a.mp4", 1)
    away = tmp_path / "away"

    def unmount() -> None:
        media.rename(away)
        media.mkdir()

    def mount() -> None:
        media.rmdir()
        away.rename(media)
        make_clip(media / "b.mp4", 2)

    looks = Looks(media, target, [unmount, nothing, mount, nothing, nothing])
    assert len(looks.complaints) == 1
    assert "mount" in looks.complaints[0]
    assert {row.path for row in Index(target).files()} == {"a.mp4", "b.mp4"}
    with pytest.raises(IndexStateError, match="does not exist"):
        Looks(tmp_path / "nowhere", tmp_path / "other", [])
    shutil.rmtree(media)
    media.mkdir()
    with pytest.raises(IndexStateError, match="mount"):
        Looks(media, target, [])


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(number: int, code: int, tmp_path: Path) -> None:
    media, target = tmp_path / "media", tmp_path / "index"
    make_clip(media / "a.mp4", 1)
    words = [
        "index",
        str(media),
        "--index",
        str(target),
        "--watch",
        "--every",
        "0.2",
        "--settle",
        "0",
        "--workers",
        "0",
        *(["--json"] if number == signal.SIGTERM else []),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "lookhear", *words, "--model", str(save_tiny(tmp_path / "model.safetensors"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert json.loads(first)["added"] == 1 if number == signal.SIGTERM else first.startswith("index\t")
        make_clip(media / "b.mp4", 2)
        deadline = time.monotonic() + 60
        while len(Index(target).library().files) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(number)
        _, talk = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code
    assert "watching, a look every 0.2 s" in talk.splitlines()[0]
    assert "1/1 files" in talk
    assert "stopped watching" in talk
    assert "Traceback" not in talk
    assert {row.path for row in Index(target).files() if row.status == "ok"} == {"a.mp4", "b.mp4"}
    with Index(target).writing():
        pass
