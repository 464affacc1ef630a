"""If these fail, a broken file crashes, hangs or bloats the server or the indexer, or stays on the server's disk."""

import collections
import ctypes
import gc
import os
import re
import time
from pathlib import Path

import pytest

from lookhear.search.crawl import index
from lookhear.search.index import Index
from mutations import Mutant, make_originals, mutants
from tiny_embedder import make_clip, save_tiny
from web_library import Made, Running, running

FEW, MANY = 40, 1000
# Other files come first, until everything is imported and what is kept has about its size: remembered examples, and the
# kernels that oneDNN makes for each new shape of a batch and keeps (1,024 of them).
WARM_UP = 1000
LIMIT_SECONDS = 30.0
GROWTH = 1.10
# The same files once more have no new shapes: what grows then is lost.
GROWTH_AGAIN = 1.05
# What a decoder or Pillow threw and nobody turned into a sentence.
UNEXPECTED = re.compile(r"\b[A-Za-z.]*(Error|Exception|error): |Traceback|crashed|took longer|GiB of memory")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return make_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def moving(originals: dict[str, bytes]) -> dict[str, bytes]:
    """Those that an index takes: it has no use for still pictures."""
    return {name: content for name, content in originals.items() if not name.startswith("picture")}


def memory_mib() -> float:
    """Resident, of this process and of all its children and theirs."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not say how much memory a process holds")
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is free already is no leak
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family, grew = {os.getpid()}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in family} - family
        family, grew = family | more, bool(more)
    pages = 0
    for pid in family:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def upload_all(web: Running, files: list[Mutant]) -> collections.Counter[str]:
    """What became of each; fails for what is no sentence, hangs, or stays."""
    counts: collections.Counter[str] = collections.Counter()
    for file in files:
        began = time.monotonic()
        answer = web.client.post("/api/uploads", params={"name": file.name}, content=file.content)
        assert answer.status_code in (201, 422), f"{file.what}: {answer.text}"
        assert time.monotonic() - began < LIMIT_SECONDS + 10, file.what
        if answer.status_code == 422:
            sentence = answer.json()["error"]
            assert file.name in sentence, file.what
            assert str(web.workshop.folder) not in sentence, file.what
            assert not UNEXPECTED.search(sentence), f"{file.what}: {sentence}"
        counts["ok" if answer.status_code == 201 else "refused"] += 1
    left = {path.name for path in web.workshop.folder.iterdir()} - {"previews", "writing.lock"}
    assert left == set()
    return counts


def write_all(folder: Path, files: list[Mutant]) -> Path:
    folder.mkdir(parents=True)
    for file in files:
        (folder / file.name).write_bytes(file.content)
    return folder


def index_all(folder: Path, index_path: Path, workers: int) -> collections.Counter[str]:
    """What became of each; fails for what is not counted or has no reason."""
    summary = index([folder], index_path=index_path, workers=workers, time_limit_seconds=LIMIT_SECONDS)
    rows = [row for row in Index(index_path).files() if row.library == str(folder)]
    names = {row.path for row in rows}
    assert len(names) == len(rows)
    for row in rows:
        assert row.status in ("ok", "partial", "sound_only", "picture_only", "refused"), row
        assert row.reason or row.status == "ok", row
        assert str(folder) not in row.reason, row
        assert not UNEXPECTED.search(row.reason), row
    counts = collections.Counter(row.status for row in rows)
    assert summary.files == len(rows)
    assert {status: count for status, count in summary.counts.items() if count} == counts
    return counts


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    """An index of one good clip."""
    make_clip(tmp_path / "good" / "clip.mp4", 1)
    model = save_tiny(tmp_path / "model.safetensors")
    index([tmp_path / "good"], model=model, index_path=tmp_path / "index", workers=0)
    return tmp_path / "index"


def test_mutants_are_the_same_every_time(originals: dict[str, bytes]) -> None:
    first, again, others = (mutants(originals, 50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != others
    assert sum(file.content not in originals.values() for file in first) > 40


def test_a_few_are_uploaded(made: Made, web: Running, originals: dict[str, bytes]) -> None:
    for name, content in originals.items():
        answer = web.client.post("/api/uploads", params={"name": name}, content=content)
        assert answer.status_code == 201, f"{name}: {answer.text}"
    counts = upload_all(web, mutants(originals, FEW))
    assert counts["ok"] >= 5
    assert counts["refused"] >= 5
    web.upload(made.clip(0))


@pytest.mark.ci
def test_a_few_are_indexed(index_path: Path, tmp_path: Path, moving: dict[str, bytes]) -> None:
    counts = index_all(write_all((tmp_path / "broken").resolve(), mutants(moving, FEW)), index_path, workers=1)
    assert counts.total() == FEW
    assert counts["refused"] >= 3
    assert counts.total() - counts["refused"] >= 5
    hits = Index(index_path).search(clip=tmp_path / "good" / "clip.mp4", top=1)
    assert Path(hits[0].path).name == "clip.mp4"


@pytest.mark.slow
def test_a_thousand_are_uploaded(made: Made, originals: dict[str, bytes]) -> None:
    def settle() -> float:
        for name, content in originals.items():  # so that every child is there, and has decoded everything
            assert web.client.post("/api/uploads", params={"name": name}, content=content).status_code == 201
        return memory_mib()

    with running(made.index, workers=1, decode_seconds=LIMIT_SECONDS) as web:
        upload_all(web, mutants(originals, WARM_UP, seed=1))
        before, began = settle(), time.monotonic()
        counts = upload_all(web, mutants(originals, MANY))
        seconds, after = time.monotonic() - began, settle()
        assert upload_all(web, mutants(originals, MANY)) == counts
        again = settle()
    print(f"\n{MANY} uploads in {seconds:.0f} s: {dict(counts)}; MiB {before:.0f}, {after:.0f}, {again:.0f}")
    assert counts.total() == MANY
    assert after <= GROWTH * before
    assert again <= GROWTH_AGAIN * after


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_are_indexed(index_path: Path, tmp_path: Path, moving: dict[str, bytes]) -> None:
    warm_up = write_all((tmp_path / "first").resolve(), mutants(moving, WARM_UP, seed=1))
    many = write_all((tmp_path / "many").resolve(), mutants(moving, MANY))
    index_all(warm_up, index_path, workers=2)
    before, began = memory_mib(), time.monotonic()
    counts = index_all(many, index_path, workers=2)
    seconds, after = time.monotonic() - began, memory_mib()
    index([tmp_path / "good"], model=tmp_path / "model.safetensors", index_path=tmp_path / "second", workers=0)
    assert index_all(many, tmp_path / "second", workers=2) == counts
    again = memory_mib()
    print(f"\n{MANY} files in {seconds:.0f} s: {dict(counts)}; MiB {before:.0f}, {after:.0f}, {again:.0f}")
    assert counts.total() == MANY
    assert after <= GROWTH * before
    assert again <= GROWTH_AGAIN * after
