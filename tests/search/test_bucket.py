"""If these fail, an index in a bucket is not an index: searched otherwise, written by two at once, or left half deleted."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookhear import cli
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import index as index_module
from lookhear.search import lease as lease_module
from lookhear.search.bucket import BucketPath, Place, kept_folders, place_of
from lookhear.search.crawl import index as crawl
from lookhear.search.forget import forget
from lookhear.search.index import Index
from lookhear.search.lease import right_to_write
from lookhear.search.query import Hit
from tiny_embedder import make_clip, tiny_embedder

moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    found = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    yield "http://{}:{}".format(*found.get_host_and_port())
    found.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketPath:
    """A place in a new bucket of a server on this machine."""
    import boto3

    settings = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LOOKHEAR_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    name = f"videos-{time.monotonic_ns()}"
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket=name)
    return BucketPath(f"s3://{name}/archive/news")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        make_clip(folder / f"{number}.mp4", number, seconds=3.0)
    return folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


def told(hits: list[Hit]) -> list[tuple[str, float, float]]:
    return [(hit.path, hit.peak_seconds, round(hit.score, 3)) for hit in hits]


def names(place: BucketPath) -> set[str]:
    return {path.name for path in place.iterdir()}


def test_an_index_in_a_bucket_answers_as_one_in_a_folder(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl([media], model=embedder, index_path=tmp_path / "index", workers=0)
    summary = crawl([media], model=embedder, index_path=str(bucket), workers=0)
    assert (summary.added, summary.index) == (3, str(bucket))
    assert crawl([media], index_path=Path(str(bucket)), workers=0).unchanged == 3  # as the command line gives it
    asked = {"like": "1.mp4@1.5", "top": 5}
    right = told(Index(tmp_path / "index").search(**asked))  # type: ignore[arg-type]
    there = Index(str(bucket))
    assert told(there.search(**asked)) == right  # type: ignore[arg-type]
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    scanned = Index(str(bucket))
    assert [place[:2] for place in told(scanned.search(**asked))] == [place[:2] for place in right]  # type: ignore[arg-type]
    assert list((tmp_path / "cache" / "indexes").rglob("*.bf16"))
    assert "matrix" not in names(bucket / "tables")
    assert crawl([media], index_path=str(bucket), workers=0, exact_moments=5).approximate is not None
    assert [place[:2] for place in told(scanned.search(**asked))] == [place[:2] for place in right]  # type: ignore[arg-type]
    assert scanned.search(sound=media / "2.mp4", top=1)[0].path == str((media / "2.mp4").resolve())


def test_forgetting_and_another_model_beside(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    reader = Index(str(bucket))
    reader.search(like="1.mp4@1.5")
    (kept,) = (tmp_path / "cache" / "indexes").iterdir()
    assert [folder.name for folder in kept.iterdir()] == ["tables"]
    assert forget([media / "1.mp4"], index_path=str(bucket)).files == 1
    (tables,) = [name for name in names(bucket) if name.startswith("tables")]
    assert tables != "tables"
    assert Path(reader.search(like="2.mp4@1.5")[0].path).name != "1.mp4"
    assert [folder.name for folder in kept.iterdir()] == [tables], "what was kept of the old tables is gone too"
    with pytest.raises(IndexStateError, match="no moments of a file"):
        reader.search(like="1.mp4@1.5")
    other = tiny_embedder(tmp_path, seed=3)
    crawl([media], model=other, index_path=str(bucket), beside=True, workers=0)
    assert {name for name in names(bucket) if name.startswith("tables")}.isdisjoint({tables})
    assert "index.next.json" not in names(bucket)
    assert Index(str(bucket)).status().fingerprint == other.fingerprint


def test_the_command_line(
    bucket: BucketPath, media: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", str(media), "--model", str(embedder.path), "--index", str(bucket), "--workers", "0", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["index"] == str(bucket)
    assert cli.main(["search", "--index", str(bucket), "--like", "0.mp4@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.main(["status", "--index", str(bucket / "nothing")]) == 1
    assert capsys.readouterr().err.startswith(f"lookhear: there is no index at {bucket}/nothing; make one")


def test_one_process_writes_at_a_time(bucket: BucketPath) -> None:
    with (
        right_to_write(bucket) as right,
        pytest.raises(IndexStateError, match=r"another process \(.*process \d+\) is writing"),
        right_to_write(bucket),
    ):
        pass
    with right_to_write(bucket):
        right.check() if False else None
    assert names(bucket) == {"writing.lance"}


def test_of_many_that_ask_at_once_one_may_write(bucket: BucketPath) -> None:
    with right_to_write(bucket):
        pass
    begin, outcomes = threading.Barrier(4), []

    def ask() -> None:
        begin.wait()
        try:
            with right_to_write(bucket):
                outcomes.append("in")
                time.sleep(3.0)
        except IndexStateError:
            outcomes.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", "refused", "refused", "refused"]


def test_a_killed_writer_is_succeeded_and_a_living_one_is_not(
    bucket: BucketPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 1.0)
    killed = lease_module._Lease(bucket)
    killed._take()
    with pytest.raises(IndexStateError, match="if it was killed"), right_to_write(bucket):
        pass
    time.sleep(1.1)
    with pytest.raises(IndexStateError, match="was lost"):
        killed.check()
    with right_to_write(bucket) as right:
        time.sleep(1.6)
        right.check()  # renewed
        with pytest.raises(IndexStateError, match="is writing"), right_to_write(bucket):
            pass


def test_a_writer_that_lost_its_right_writes_nothing(
    bucket: BucketPath, media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    index = Index(str(bucket))
    with index.writing():
        rows = index.files()
        monkeypatch.setattr(lease_module.time, "time", lambda: 9e9)
        with pytest.raises(IndexStateError, match="was lost"):
            index.write(rows)
        monkeypatch.undo()


# ---- without a server


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("s3://videos/news", "s3://videos/news"),
        ("s3://videos/news/", "s3://videos/news"),
        (Path("s3://videos/news"), "s3://videos/news"),
        (BucketPath("s3://videos//a//b"), "s3://videos/a/b"),
        ("s3://videos", "s3://videos"),
        ("a/b", "a/b"),
        (Path("s3/b"), "s3/b"),
    ],
)
def test_places_by_name(named: str | Place, place: str) -> None:
    assert str(place_of(named)) == place.replace("/", "/")
    assert isinstance(place_of(named), BucketPath) == place.startswith("s3://")


def test_a_place_needs_a_bucket() -> None:
    with pytest.raises(IndexStateError, match="names no bucket"):
        place_of("s3://")


def test_what_is_kept_of_replaced_tables_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKHEAR_CACHE", str(tmp_path / "cache"))
    place = BucketPath("s3://videos/news")
    (old,) = kept_folders(place, "tables")
    old.mkdir(parents=True)
    (old / "rows.npz").touch()
    other = kept_folders(BucketPath("s3://videos/sport"), "tables")[0]
    other.mkdir(parents=True)
    assert kept_folders(place, "tables") == [old]
    assert old.exists()
    assert kept_folders(place, "tables-2") == [old.parent / "tables-2"]
    assert not old.exists()
    assert other.exists()
    assert kept_folders(tmp_path / "index", "tables")[0] == tmp_path / "index" / "tables" / "matrix"
