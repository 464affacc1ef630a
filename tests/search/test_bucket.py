"""If these fail, an index in a bucket is no index: searched otherwise, written by two at once, or left half deleted.

The bucket is one of moto's server, in this process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookhear import cli
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.search import index as index_module
from lookhear.search import lease as lease_module
from lookhear.search.bucket import BucketPath, Place, kept_folders, place_of, refusal, remove_all
from lookhear.search.crawl import CrawlOptions
from lookhear.search.crawl import index as crawl
from lookhear.search.facts import has_next, read_facts, write_facts
from lookhear.search.forget import forget
from lookhear.search.index import Index, create_index_beside
from lookhear.search.lease import right_to_write
from lookhear.search.query import Hit
from lookhear.search.summary import CrawlSummary
from lookhear.search.watch import watch
from tiny_embedder import make_clip, tiny_embedder

with_server = pytest.mark.ci


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    moto_server = pytest.importorskip("moto.server")
    found = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    yield "http://{}:{}".format(*found.get_host_and_port())
    found.stop()


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BucketPath:
    """A place in a new bucket of a server on this machine."""
    settings = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "LOOKHEAR_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    from pyarrow import fs

    name = f"videos-{time.monotonic_ns()}"
    fs.S3FileSystem(allow_bucket_creation=True, endpoint_override=server).create_dir(name)
    return BucketPath(f"{name}/archive/news")


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


def tables_in(place: BucketPath) -> list[str]:
    return sorted(name for name in names(place) if name.startswith("tables"))


# ---- used like a folder


@with_server
def test_an_index_in_a_bucket_answers_as_one_in_a_folder(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl([media], model=embedder, index_path=tmp_path / "index", workers=0)
    summary = crawl([media], model=embedder, index_path=str(bucket), workers=0)
    assert (summary.added, summary.index) == (3, str(bucket))
    assert crawl([media], index_path=Path(str(bucket)), workers=0).unchanged == 3
    asked = {"like": "1.mp4@1.5", "top": 5}
    right = told(Index(tmp_path / "index").search(**asked))  # type: ignore[arg-type]
    there = Index(str(bucket))
    assert told(there.search(**asked)) == right  # type: ignore[arg-type]
    assert not (tmp_path / "cache" / "indexes").exists()
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    scanned = Index(str(bucket))
    assert [place[:2] for place in told(scanned.search(**asked))] == [place[:2] for place in right]  # type: ignore[arg-type]
    assert list((tmp_path / "cache" / "indexes").rglob("*.bf16"))
    (tables,) = tables_in(bucket)
    assert names(bucket / tables) == {"files.lance", "moments.lance"}
    assert crawl([media], index_path=str(bucket), workers=0, exact_moments=5).approximate is not None
    assert [place[:2] for place in told(scanned.search(**asked))] == [place[:2] for place in right]  # type: ignore[arg-type]
    assert scanned.search(sound=media / "2.mp4", top=1)[0].path == str((media / "2.mp4").resolve())


@with_server
def test_forgetting_and_another_model_beside(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    reader = Index(str(bucket))
    reader.search(like="1.mp4@1.5")
    (kept,) = (tmp_path / "cache" / "indexes").iterdir()
    before = tables_in(bucket)
    assert [folder.name for folder in kept.iterdir()] == before
    assert forget([media / "1.mp4"], index_path=str(bucket)).files == 1
    (tables,) = tables_in(bucket)
    assert [tables] != before
    assert Path(reader.search(like="2.mp4@1.5")[0].path).name != "1.mp4"
    assert [folder.name for folder in kept.iterdir()] == [tables], "what was kept of the old tables is gone too"
    with pytest.raises(IndexStateError, match="no moments of a file"):
        reader.search(like="1.mp4@1.5")
    other = tiny_embedder(tmp_path, seed=3)
    crawl([media], model=other, index_path=str(bucket), beside=True, workers=0)
    assert len(tables_in(bucket)) == 1
    assert tables not in tables_in(bucket)
    assert "index.next.json" not in names(bucket)
    assert Index(str(bucket)).status().fingerprint == other.fingerprint


@with_server
def test_an_index_made_anew_in_the_same_place_is_not_searched_by_what_was_kept_of_the_old_one(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_module, "IN_MEMORY_MOMENTS", 5)
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    Index(str(bucket)).search(like="1.mp4@1.5")
    remove_all(bucket)
    for number in range(3):
        make_clip(tmp_path / "other" / f"{number}.mp4", 10 + number, seconds=3.0)
    crawl([tmp_path / "other"], model=embedder, index_path=str(bucket), workers=0)
    crawl([tmp_path / "other"], model=embedder, index_path=tmp_path / "index", workers=0)
    asked = {"like": "1.mp4@1.5", "top": 5}
    right = told(Index(tmp_path / "index").search(**asked))  # type: ignore[arg-type]
    assert told(Index(str(bucket)).search(**asked)) == right  # type: ignore[arg-type]


@with_server
def test_an_index_that_was_killed_while_it_took_the_place_of_another(
    bucket: BucketPath, media: Path, embedder: Embedder
) -> None:
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    write_facts(bucket, read_facts(bucket), is_next=True)  # it was copied, and not deleted yet
    assert forget([media / "1.mp4"], index_path=str(bucket)).files == 1
    assert not has_next(bucket)
    assert [row.path for row in Index(str(bucket)).files()] == ["0.mp4", "2.mp4"]


@with_server
def test_the_command_line(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    assert embedder.path is not None
    model.write_bytes(embedder.path.read_bytes())
    words = ["index", str(media), "--model", str(model), "--index", str(bucket), "--workers", "0", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["index"] == str(bucket)
    assert cli.main(["search", "--index", str(bucket), "--like", "0.mp4@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    model.unlink()  # as on another machine
    assert cli.main(["search", "--index", str(bucket), "--sound", str(media / "0.mp4")]) == 1
    assert "say with --model where it is now" in capsys.readouterr().err
    words = ["search", "--index", str(bucket), "--sound", str(media / "0.mp4"), "--model", str(embedder.path)]
    assert cli.main([*words, "--top", "1"]) == 0
    assert capsys.readouterr().out.startswith(str((media / "0.mp4").resolve()))
    assert cli.main(["status", "--index", str(bucket)]) == 0
    assert f"path\t{bucket}\n" in capsys.readouterr().out
    assert cli.main(["forget", str(media / "0.mp4"), "--index", str(bucket)]) == 0
    assert "files\t1\n" in capsys.readouterr().out
    assert cli.main(["status", "--index", str(bucket / "nothing")]) == 1
    assert capsys.readouterr().err.startswith(f"lookhear: there is no index at {bucket}/nothing; make one")


@with_server
def test_a_folder_is_watched_into_a_bucket(bucket: BucketPath, tmp_path: Path, embedder: Embedder) -> None:
    make_clip(tmp_path / "media" / "0.mp4", 0, seconds=2.0)
    stop, added = threading.Event(), []

    def report(summary: CrawlSummary) -> None:
        added.append(summary.added)
        if len(added) == 1:
            make_clip(tmp_path / "media" / "1.mp4", 1, seconds=2.0)
            (tmp_path / "media" / "0.mp4").unlink()
        elif summary.added:
            stop.set()

    alarm = threading.Timer(60.0, stop.set)
    alarm.start()
    watch(
        [tmp_path / "media"],
        stop=stop,
        report=report,
        complain=lambda said: pytest.fail(said),
        model=embedder,
        index_path=str(bucket),
        every_seconds=0.2,
        options=CrawlOptions(workers=0),
    )
    alarm.cancel()
    assert [row.path for row in Index(str(bucket)).files()] == ["1.mp4"]


@with_server
def test_the_server_of_the_web_page_asks_a_bucket(bucket: BucketPath, media: Path, embedder: Embedder) -> None:
    from lookhear.serve.archive import Archive
    from lookhear.serve.schemas import MomentExample, Search
    from lookhear.serve.settings import ServeSettings

    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    archive = Archive(str(bucket), ServeSettings(workers=0))
    assert archive.status().counts == {"ok": 3}
    file_id = archive.catalogue().id_of(str((media / "1.mp4").resolve()))
    assert file_id is not None
    found = archive.search(Search(examples=(MomentExample(kind="moment", file_id=file_id, start_seconds=1.0),)))
    assert found.hits
    before = archive.status().generation
    forget([media / "1.mp4"], index_path=str(bucket))
    assert archive.status().generation != before
    assert archive.status().files == 2


# ---- who may write


@with_server
def test_one_process_writes_at_a_time(bucket: BucketPath) -> None:
    with (
        right_to_write(bucket) as right,
        pytest.raises(IndexStateError, match=r"another process \(.*process \d+\) is writing"),
        right_to_write(bucket),
    ):
        pass
    with pytest.raises(IndexStateError, match="was lost"):
        right.check()
    with right_to_write(bucket):
        pass
    assert names(bucket) == {"writing.lance"}


@with_server
@pytest.mark.parametrize("is_first", [True, False])
def test_of_many_that_ask_at_once_one_may_write(bucket: BucketPath, is_first: bool) -> None:
    if not is_first:
        with right_to_write(bucket):
            pass
    begin, all_answered, outcomes = threading.Barrier(4), threading.Event(), []

    def ask() -> None:
        begin.wait()
        try:
            with right_to_write(bucket):
                outcomes.append("in")
                all_answered.wait(30.0)
        except IndexStateError as error:
            outcomes.append("refused" if "begun to write" in str(error) or "is writing" in str(error) else str(error))
        if len(outcomes) == 4:
            all_answered.set()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in", "refused", "refused", "refused"]


@with_server
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


@with_server
def test_one_that_stood_still_does_not_take_back_what_another_took(
    bucket: BucketPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "LEASE_SECONDS", 0.5)
    slow = lease_module._Lease(bucket)
    table = slow._take()
    time.sleep(0.6)
    with right_to_write(bucket) as right:
        slow._say(table, before=slow._owner, until=time.time() + 60.0)  # as its thread does when it wakes up
        with pytest.raises(IndexStateError, match="was lost"):
            slow.check()
        right.check()


@with_server
def test_a_writer_that_lost_its_right_writes_nothing(
    bucket: BucketPath, media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    index = Index(str(bucket))
    with index.writing():
        rows = index.files()
        beside = create_index_beside(bucket, tiny_embedder(tmp_path, seed=3))
        beside.right = index.right
        before = index.version()
        changes: list[Callable[[], object]] = [
            lambda: index.write(rows),
            lambda: index.remove_files(rows),
            lambda: index.keep_libraries(["/elsewhere"]),
            lambda: index.erase(rows),
            index.compact,
            beside.switch,
        ]
        with monkeypatch.context() as later:
            later.setattr(lease_module.time, "time", lambda: 9e9)
            for change in changes:
                with pytest.raises(IndexStateError, match="was lost"):
                    change()
        assert index.version() == before
        assert has_next(bucket)


# Says when it begins to embed, and stands there until it is killed.
KILLED = """
import sys, time
from lookhear import cli
from lookhear.search import crawl, lease
lease.LEASE_SECONDS = 3.0
def stand(*_):
    print("embedding", flush=True)
    time.sleep(60)
crawl._Crawl._embed = stand
cli.main(sys.argv[1:])
"""


@with_server
def test_a_process_that_is_killed_while_it_indexes(
    bucket: BucketPath, media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["index", str(media), "--model", str(embedder.path), "--index", str(bucket), "--workers", "0"]
    with subprocess.Popen([sys.executable, "-c", KILLED, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "embedding\n"
        with pytest.raises(IndexStateError, match=f"process {process.pid}\\) is writing"):
            crawl([media], index_path=str(bucket), workers=0)
        assert Index(str(bucket)).files() == []  # to be searched meanwhile
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(60):
        with contextlib.suppress(IndexStateError):  # until the lease of the killed one has ended
            assert crawl([media], index_path=str(bucket), workers=0).added == 3
            return
        time.sleep(0.5)
    pytest.fail("a killed writer is never succeeded")


# ---- what goes wrong


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@with_server
@pytest.mark.parametrize("verb", ["search", "index"])
def test_no_such_bucket(
    bucket: BucketPath, media: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    words = {"search": ["--like", "0.mp4@1"], "index": [str(media), "--model", str(embedder.path)]}[verb]
    assert cli.main([verb, *words, "--index", "s3://no-such-bucket/a"]) == 1
    said = one_sentence(capsys)
    assert said.startswith("lookhear: cannot use s3://no-such-bucket/a")
    assert said.endswith(": there is no such bucket; make it, or name another one")


@with_server
def test_no_access(
    server: str, bucket: BucketPath, media: Path, embedder: Embedder, capsys: pytest.CaptureFixture[str]
) -> None:
    crawl([media], model=embedder, index_path=str(bucket), workers=0)
    opened = Index(str(bucket))
    opened.files()

    def check_access(after: str) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        asked = urllib.request.Request(f"{server}/moto-api/reset-auth", data=after.encode(), headers=headers)
        urllib.request.urlopen(asked).close()

    check_access("0")
    try:
        for words in (["status"], ["index", str(media)], ["index", str(media), "--model", str(embedder.path)]):
            assert cli.main([*words, "--index", str(bucket)]) == 1
            said = one_sentence(capsys)
            assert said.startswith(f"lookhear: cannot use {bucket}"), said
            assert "refuses access; set AWS_ACCESS_KEY_ID" in said
        with pytest.raises(IndexStateError, match=r"refuses access; .* what was complete is in the index$"):
            opened.files()
    finally:
        check_access("inf")


@with_server
def test_no_way_to_the_server(
    bucket: BucketPath, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert cli.main(["status", "--index", str(bucket)]) == 1
    way = "the server http://127.0.0.1:9 cannot be reached; check the network and AWS_ENDPOINT_URL"
    assert one_sentence(capsys) == f"lookhear: cannot use {bucket}/index.json: {way}"


# ---- without a server


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation", "there is no such bucket"),
        ('Status { status: 404, body: Some("<Error><Code>NoSuchBucket</Code>', "there is no such bucket"),
        ("AWS Error ACCESS_DENIED during HeadObject operation: No response body.", "the server refuses access"),
        ("inner: Status { status: 403, body: None }", "the server refuses access"),
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7", "the server cannot be reached"),
        ("inner: Http(HttpError { kind: Connect, source: reqwest::Error", "the server cannot be reached"),
        ("Table 'files' was not found", ""),
        ("inner: Status { status: 404, body: None }", ""),
    ],
)
def test_what_clients_say_in_a_sentence(said: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert refusal(said).partition(";")[0] == why


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ("s3://videos/news", "s3://videos/news"),
        ("s3://videos/news/", "s3://videos/news"),
        (Path("s3://videos/news"), "s3://videos/news"),
        ("s3://videos//a//b", "s3://videos/a/b"),
        (BucketPath("videos/a"), "s3://videos/a"),
        ("s3://videos", "s3://videos"),
        ("a/b", str(Path("a/b"))),
        (Path("s3/b"), str(Path("s3/b"))),
    ],
)
def test_places_by_name(named: str | Place, place: str) -> None:
    assert str(place_of(named)) == place
    assert isinstance(place_of(named), BucketPath) == place.startswith("s3://")


@pytest.mark.parametrize(
    "named", ["s3://", "s3:///", "s3://videos/a b", "s3://videos/../b", "s3://v%20s/a", "s3://ü/a"]
)
def test_what_names_no_place_in_a_bucket(named: str) -> None:
    with pytest.raises(IndexStateError, match="names no place in a bucket"):
        place_of(named)


def test_what_is_kept_of_replaced_tables_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKHEAR_CACHE", str(tmp_path / "cache"))
    place = BucketPath("videos/news")
    (old,) = kept_folders(place, "tables")
    old.mkdir(parents=True)
    (old / "rows.npz").touch()
    other = kept_folders(BucketPath("videos/sport"), "tables")[0]
    other.mkdir(parents=True)
    assert kept_folders(place, "tables") == [old]
    assert old.exists()
    assert kept_folders(place, "tables-2") == [old.parent / "tables-2"]
    assert not old.exists()
    assert other.exists()
    assert kept_folders(tmp_path / "index", "tables")[0] == tmp_path / "index" / "tables" / "matrix"
