"""If these fail, a kill, a vanishing file or another process at work loses or doubles moments, or miscounts files."""

import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from index_contents import assert_same, contents
from lookhear.data import stretch
from lookhear.data.stretch import decode_stretch
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import crawl as crawling
from lookhear.search.crawl import index
from lookhear.search.forget import forget
from lookhear.search.index import Index
from tiny_embedder import make_clip, make_clips, save_tiny, tiny_embedder

SECONDS = 2.0


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of one length."""
    return make_clips(tmp_path_factory.mktemp("originals"), 6, seconds=SECONDS)


@pytest.fixture
def media(tmp_path: Path, originals: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "media"))


# ---- files that go away


@pytest.mark.parametrize("stretch_at", [0, 1])
def test_a_file_that_is_deleted_between_the_walk_and_its_decoding(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, stretch_at: int
) -> None:
    """Before it is opened, and when its first stretch is decoded already."""
    whole = Embedder.plan
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(whole(self, **options), span_seconds=0.8))
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 0.8)

    def deleting(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip3.mp4") and job.stretch == stretch_at:
            Path(job.path).unlink()
        return decode_stretch(job)

    with monkeypatch.context() as patched:
        patched.setattr(stretch, "decode_stretch", deleting)
        summary = index([media], model=embedder, index_path=media.parent / "index", workers=0)
    assert (summary.files, summary.counts["ok"], summary.counts["refused"]) == (6, 5, 1)
    assert [Path(each.path).name for each in summary.refused] == ["clip3.mp4"]
    assert "deleted while it was read" in summary.refused[0].reason
    assert summary.moments == sum(row.num_moments for row in contents(media.parent / "index").rows)
    again = index([media], model=embedder, index_path=media.parent / "index", workers=0)
    assert (again.files, again.deleted, again.counts["refused"]) == (5, 1, 0)
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(media.parent / "index", media.parent / "fresh")


# ---- kill -9

_CRAWL = """
import sys, time
from lookhear.search import crawl, tables
crawl._WRITE_FILES = 1
for name in ("add_moments", "put_files", "delete_files", "delete_moments", "compact"):
    def slow(self, *arguments, original=getattr(tables.Tables, name)):
        time.sleep(0.05)
        original(self, *arguments)
        time.sleep(0.05)
    setattr(tables.Tables, name, slow)
print("ready", flush=True)
crawl.index([sys.argv[1]], model=sys.argv[2], index_path=sys.argv[3], workers=0)
print("done", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_moment(kills: int, media: Path, tmp_path: Path) -> None:
    """First on a new index, then on one to which files are added and from which they go."""
    model = save_tiny(tmp_path / "model.safetensors")
    target = tmp_path / "killed"
    rng = random.Random(kills)
    for number in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", _CRAWL, str(media), str(model), str(target)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.1, 1.6))
        process.kill()
        process.wait()
        process.stdout.close()
        if (target / "index.json").exists():  # nothing that is there is half there
            found = Index(target)
            library = found.library()
            have = {file.file_id: int(count) for file, count in zip(library.files, library.count, strict=True)}
            assert all(have[row.file_id] == row.num_moments for row in found.files() if row.num_moments)
        if number % 2:
            make_clip(media / f"new{number}.mp4", 60 + number)
            min(media.rglob("clip*.mp4"), default=media / f"new{number - 2}.mp4").unlink(missing_ok=True)
            make_clip(media / "changing.mp4", 190 + number)
    index([media], model=model, index_path=target, workers=0)
    index([media], model=model, index_path=tmp_path / "undisturbed", workers=0)
    assert_same(target, tmp_path / "undisturbed")


# ---- several at once


def test_a_second_indexer_refuses_and_harms_nothing(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a thread of this process: the right to write belongs to an open file, not to a process."""
    target = media.parent / "index"
    under_way, go_on = threading.Event(), threading.Event()

    def waiting(job: stretch.StretchJob) -> stretch.Decoded:
        under_way.set()
        assert go_on.wait(60)
        return decode_stretch(job)

    monkeypatch.setattr(stretch, "decode_stretch", waiting)
    first = threading.Thread(
        target=index, args=([media],), kwargs={"model": embedder, "index_path": target, "workers": 0}
    )
    first.start()
    assert under_way.wait(60)
    sentence = f"another process is writing to {target}; wait until it is done"
    for second in (
        lambda: index([media], model=embedder, index_path=target, workers=0),
        lambda: index([], model=embedder, index_path=target, workers=0, beside=True, hop_seconds=0.1),
        lambda: forget([media], index_path=target),
    ):
        with pytest.raises(IndexStateError, match=sentence):
            second()
    assert Index(target).status().counts == {}
    go_on.set()
    first.join()
    assert index([media], model=embedder, index_path=target, workers=0).unchanged == 6
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(target, media.parent / "fresh")


def test_two_that_make_an_index_at_once(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another model: what the faster one made must not be written over."""
    target = media.parent / "index"
    other = tiny_embedder(tmp_path, 7)
    original = crawling.create_index

    def late(*arguments: object, **options: object) -> Index:
        monkeypatch.setattr(crawling, "create_index", original)
        index([media], model=other, index_path=target, workers=0)
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(crawling, "create_index", late)
    with pytest.raises(IndexStateError, match=r"is not an index and is not empty|another process has just made"):
        index([media], model=embedder, index_path=target, workers=0)
    assert Index(target).facts.fingerprint == other.fingerprint
    assert len(contents(target).rows) == 6


_TOGETHER = """
import sys
from pathlib import Path
from lookhear.errors import UserError
from lookhear.search import crawl
print("ready", flush=True)
sys.stdin.readline()
try:
    crawl.index([sys.argv[1]], model=sys.argv[2], index_path=sys.argv[3], workers=1)
    print("done")
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_three_processes_that_begin_together(media: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model.safetensors")
    for number in range(3):
        target = tmp_path / f"index{number}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _TOGETHER, str(media), str(model), str(target)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        said = [process.communicate("go\n") for process in processes]
        ends = [out.strip() for out, _ in said]
        assert "done" in ends
        assert all(end == "done" or "another process" in end for end in ends), ends
        assert len(contents(target).rows) == 6
    assert_same(tmp_path / "index0", tmp_path / "index2")


_KEEP_INDEXING = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4:6]
from test_disturbances import keep_indexing
from lookhear.embedder import load
media, model, target, *_, sign = sys.argv[1:]
keep_indexing(Path(media), load(model, device="cpu", dtype="float32"), Path(target), Path(sign).exists)
"""


def keep_indexing(media: Path, embedder: Embedder, target: Path, has_stopped: Callable[[], object]) -> int:
    """Adds, changes, deletes and forgets files, and indexes after each, until it is stopped; how often it did."""
    rng = random.Random(0)
    number = 0
    while not has_stopped():
        number += 1
        make_clip(media / f"new{number % 5}.mp4", 300 + number, seconds=SECONDS)
        gone = rng.choice(sorted(media.rglob("*.mp4")))
        if number % 3 == 0:
            gone.unlink()
        index([media], model=embedder, index_path=target, workers=0)
        if number % 4 == 0:
            with_moments = [row.full_path for row in Index(target).files()]
            forget([rng.choice(with_moments)], index_path=target)
    return number


@contextmanager
def writing_elsewhere(media: Path, embedder: Embedder, target: Path, *, process: bool) -> Iterator[Callable[[], bool]]:
    """`keep_indexing` in a thread or in another process, and whether it is still at work; it must end well."""
    if not process:
        stop, rounds = threading.Event(), []
        thread = threading.Thread(target=lambda: rounds.append(keep_indexing(media, embedder, target, stop.is_set)))
        thread.start()
        try:
            yield thread.is_alive
        finally:
            stop.set()
            thread.join()
        assert rounds
        return
    sign = media.parent / "stop"
    words = map(str, (media, embedder.path, target, *Path(__file__).parents[:2], sign))
    child = subprocess.Popen([sys.executable, "-c", _KEEP_INDEXING, *words], stderr=subprocess.PIPE, text=True)
    try:
        yield lambda: child.poll() is None
    finally:
        sign.touch()
        _, said = child.communicate()
    assert child.returncode == 0, said


@pytest.mark.parametrize(
    ("seconds", "process"), [(1.0, False), pytest.param(120.0, True, marks=pytest.mark.slow)], ids=["thread", "process"]
)
def test_searches_while_it_is_indexed(media: Path, embedder: Embedder, seconds: float, process: bool) -> None:
    target = media.parent / "index"
    first = index([media], model=embedder, index_path=target, workers=0)
    num_of_file = first.moments // 6
    query = make_clip(media.parent / "query.mp4", 2, seconds=1.0)
    found = Index(target, model=embedder)
    versions = set()
    with writing_elsewhere(media, embedder, target, process=process) as is_writing:
        end = time.monotonic() + seconds
        while time.monotonic() < end or (len(versions) < 4 and is_writing()):
            for asked in (found, Index(target, model=embedder)):  # one that stays open, and a new one
                hits = asked.search(clip=query, top=5)
                assert hits
                assert all(0.0 <= hit.start_seconds < hit.end_seconds <= SECONDS + 0.1 for hit in hits)
                library = asked.library()
                assert (library.count == num_of_file).all(), "a file has lost moments, or has them twice"
                assert len({file.file_id for file in library.files}) == len(library.files)
                status = asked.status()
                assert sum(status.counts.values()) == len(status.files)
                assert status.moments == num_of_file * len({row.file_id for row in status.files if row.num_moments})
                versions.add(tuple(row.file_id for row in status.files))
    assert len(versions) >= 4  # it did change meanwhile
    index([media], model=embedder, index_path=target, workers=0)
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(target, media.parent / "fresh")
