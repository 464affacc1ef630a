"""If these fail, a broken, changed or wrong download passes for published weights, or a good one starts anew."""

import errno
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lookhear.errors import CheckpointError
from lookhear.models import fetch as room
from lookhear.models.fetch import fetch
from lookhear.models.weights import WEIGHTS, file_of, known_weights, locate

BODY = bytes(range(256)) * 4096 * 4  # 4 MiB
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """A file server that can misbehave."""

    body: bytes = BODY
    tag: str = '"one"'
    status: int = 200
    content_type: str = "application/octet-stream"
    break_after: list[int] = field(default_factory=list)  # bytes of each of the next answers, then whole ones
    failures: int = 0  # bad answers before the first good one
    failure: int = 503
    refuse_ranges: bool = False  # whether what goes on is answered with 416
    shift: list[int] = field(default_factory=list)  # how far off the bytes of each of the next parts lie
    asked: list[str | None] = field(default_factory=list)  # the Range of each request
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            state.asked.append(self.headers.get("Range"))
            if state.failures or state.status != 200:
                state.failures -= 1
                self.send_error(state.failure if state.status == 200 else state.status)
                return
            if state.refuse_ranges and self.headers.get("Range"):
                self.send_error(416)
                return
            start = 0
            if self.headers.get("Range") and self.headers.get("If-Range") == state.tag:
                start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                start += state.shift.pop(0) if state.shift else 0
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", state.content_type)
            self.send_header("ETag", state.tag)
            self.send_header("Content-Length", str(len(state.body) - start))
            self.end_headers()
            stop = start + state.break_after.pop(0) if state.break_after else len(state.body)
            self.wfile.write(state.body[start:stop])
            if stop < len(state.body):
                self.wfile.flush()
                self.close_connection = True

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{served.server_port}/w/weights.pth?dl=1"
    monkeypatch.setattr(room, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(room, "CHUNK_BYTES", 1 << 16)
    yield state
    served.shutdown()
    served.server_close()
    thread.join()


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_verified_kept_and_not_repeated(server: Server, tmp_path: Path) -> None:
    seen: list[int] = []
    found = fetch(server.url, tmp_path, sha256=SHA256.upper(), progress=lambda done, total, note="": seen.append(done))
    assert found.path.read_bytes() == BODY
    assert (found.sha256, found.size_bytes, found.verified, found.downloaded) == (SHA256, len(BODY), True, True)
    assert seen == sorted(seen)
    assert seen[-1] == len(BODY)
    assert _left(tmp_path) == ["weights.pth", "weights.pth.sha256"]
    again = fetch(server.url, tmp_path, sha256=SHA256)
    assert not again.downloaded
    assert server.asked == [None]


def test_what_cannot_be_verified_needs_consent_and_its_hash_is_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="--accept-unverified"):
        fetch(server.url, tmp_path)
    assert server.asked == []
    found = fetch(server.url, tmp_path, accept_unverified=True)
    assert not found.verified
    assert (tmp_path / "weights.pth.sha256").read_text() == f"# {server.url}\n{SHA256}  weights.pth\n"
    again = fetch(server.url, tmp_path)
    assert (again.verified, again.sha256) == (False, SHA256), "a hash that we kept ourselves was stated by nobody"
    found.path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(CheckpointError, match="changed or damaged; remove it"):
        fetch(server.url, tmp_path)
    found.path.unlink()
    server.body = BODY[::-1]
    with pytest.raises(CheckpointError, match=f"not {SHA256}: it was removed"):
        fetch(server.url, tmp_path, accept_unverified=True)
    assert _left(tmp_path) == ["weights.pth.sha256"]


def test_a_file_of_the_same_name_from_elsewhere_is_not_taken_for_it(server: Server, tmp_path: Path) -> None:
    """Two published files are called audio_model.25.pth."""
    fetch(server.url, tmp_path, accept_unverified=True)
    elsewhere = server.url.replace("/w/", "/v/")
    for accept in (False, True):
        with pytest.raises(CheckpointError, match=r"weights\.pth is of another address, .*/w/weights\.pth"):
            fetch(elsewhere, tmp_path, accept_unverified=accept)
    assert not fetch(elsewhere, tmp_path, sha256=SHA256).downloaded  # whose hash is known, may come from anywhere
    assert fetch(elsewhere, tmp_path / "v", accept_unverified=True).downloaded


@pytest.mark.parametrize("end", ["", "..", "%2e%2e", "a/..", "a%00b.pth", "sp ace.pth", "modèle.pth"])
def test_addresses_that_name_no_file(tmp_path: Path, end: str) -> None:
    with pytest.raises(CheckpointError, match=r"the name of a file|is no address as servers read it"):
        fetch(f"http://127.0.0.1:1/{end}", tmp_path / "cache", accept_unverified=True)


def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.break_after = [1_000_000, 500_000]
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_goes_on_where_the_first_was_killed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(done: int, total: int | None, note: str = "") -> None:
        if done >= 1 << 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path, sha256=SHA256, progress=kill)
    kept = (tmp_path / "weights.pth.part").stat().st_size
    assert 0 < kept < len(BODY)
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == [None, f"bytes={kept}-"]


def test_a_file_that_changed_meanwhile_starts_anew(server: Server, tmp_path: Path) -> None:
    server.break_after = [1_000_000, 0, 0, 0, 0, 0]
    with pytest.raises(CheckpointError, match=r"broke after 1,000,000 of .*; 1,000,000 bytes are kept"):
        fetch(server.url, tmp_path, accept_unverified=True)
    server.body, server.tag = BODY[::-1], '"two"'
    assert fetch(server.url, tmp_path, accept_unverified=True).path.read_bytes() == BODY[::-1]


def test_a_part_without_a_version_is_not_built_upon(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"of something else")
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == [None]


def test_a_part_that_the_server_cannot_go_on_from_is_dropped(server: Server, tmp_path: Path) -> None:
    server.break_after, server.refuse_ranges = [1_000_000], True
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-", None]


def test_other_bytes_than_were_asked_for_are_not_joined(server: Server, tmp_path: Path) -> None:
    server.break_after, server.shift = [1_000_000, 10], [7, 0]
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == [None, "bytes=1000000-", "bytes=1000000-"]
    server.break_after, server.shift = [1_000_000], [7] * 9
    with pytest.raises(CheckpointError, match=r"sent bytes 1000007-\S+ where those from 1000000 were asked"):
        fetch(server.url, tmp_path / "other", sha256=SHA256)
    assert (tmp_path / "other" / "weights.pth.part").read_bytes() == BODY[:1_000_000]


def test_a_part_that_was_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(BODY)
    about = {"url": server.url, "version": '"one"', "total": len(BODY)}
    (tmp_path / "weights.pth.part.json").write_text(json.dumps(about))
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY
    assert server.asked == []


def test_damage_on_the_way_is_found_and_removed(server: Server, tmp_path: Path) -> None:
    server.body = BODY[:100] + b"\x00" + BODY[101:]
    with pytest.raises(CheckpointError, match=f"not {SHA256}: it was removed"):
        fetch(server.url, tmp_path, sha256=SHA256)
    assert _left(tmp_path) == []


@pytest.mark.parametrize("failure", [503, 429, 408])
def test_a_server_that_is_busy_is_asked_again(server: Server, tmp_path: Path, failure: int) -> None:
    server.failures, server.failure = 2, failure
    assert fetch(server.url, tmp_path, sha256=SHA256).downloaded
    server.failures = 99
    with pytest.raises(CheckpointError, match=f"answered {failure}"):
        fetch(server.url, tmp_path / "other", sha256=SHA256)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"status": 404}, r"there is no such file \(HTTP 404\)"),
        ({"status": 403}, r"not allowed \(HTTP 403\)"),
        ({"content_type": "text/html; charset=utf-8"}, "a web page instead of the file"),
        ({"body": b"\n<!DOCTYPE html><p>quota exceeded</p>"}, "a web page instead of the file"),
    ],
)
def test_what_is_no_file_is_refused(server: Server, tmp_path: Path, changes: dict, words: str) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(CheckpointError, match=words) as caught:
        fetch(server.url, tmp_path, accept_unverified=True)
    assert "\n" not in str(caught.value)
    assert _left(tmp_path) == []


def test_an_address_that_no_client_reads_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PAUSE_SECONDS", 9.0)
    with pytest.raises(CheckpointError, match=r"is no address as servers read it \(nonnumeric port"):
        fetch("http://127.0.0.1:x/weights.pth", tmp_path, accept_unverified=True)


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.pth").write_bytes(b"here")

    def deny(path: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(room, "_sha256", deny)
    with pytest.raises(CheckpointError, match=r"cannot read .*weights\.pth \(Permission denied\); make it readable"):
        fetch("http://127.0.0.1:1/weights.pth", tmp_path)


def test_no_network_is_said(tmp_path: Path, server: Server) -> None:
    with pytest.raises(CheckpointError, match="is there a network here"):
        fetch("http://127.0.0.1:1/weights.pth", tmp_path, accept_unverified=True)
    with pytest.raises(CheckpointError, match="is there a network here") as told:
        fetch("https://nowhere.invalid/weights.pth", tmp_path, accept_unverified=True)
    assert "Errno" not in str(told.value)


def test_a_full_disk_is_said_before_and_during(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = room.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(room.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(CheckpointError, match=r"no room for weights.pth: 4,194,304 more bytes.*1,000 are free"):
            fetch(server.url, tmp_path, sha256=SHA256)

    def fill(done: int, total: int | None, note: str = "") -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="make room and run the same command"):
        fetch(server.url, tmp_path, sha256=SHA256, progress=fill)
    assert fetch(server.url, tmp_path, sha256=SHA256).path.read_bytes() == BODY


def test_known_names_and_their_size(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "cavmae-base"
    here = replace(WEIGHTS[name], url=server.url, size_bytes=len(BODY), sha256=SHA256)
    monkeypatch.setitem(WEIGHTS, name, here)
    monkeypatch.setenv("LOOKHEAR_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="run `lookhear models fetch cavmae-base`"):
        locate(name)
    found = fetch(name)
    assert found.path == file_of(here) == locate(name).path
    assert found.path.name == "cav-mae-base.pth"
    monkeypatch.setitem(WEIGHTS, name, replace(here, size_bytes=7))
    with pytest.raises(CheckpointError, match="4,194,304 bytes where 7 are expected"):
        fetch(name, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="did you mean 'cavmae-base'"):
        fetch("cavmae-bas")
    with pytest.raises(CheckpointError, match=r"is not known here; get cav_mae_sync.pth from github.com"):
        fetch("cavmae-sync")
    with pytest.raises(CheckpointError, match="only names of weights"):
        fetch("file:///etc/passwd")


def test_the_table_says_what_it_knows() -> None:
    assert len(WEIGHTS) == 25
    for name, weights in WEIGHTS.items():
        assert known_weights(name) is weights
        assert weights.licence.startswith("not stated")
        assert weights.url is None or weights.url.endswith(f"/{weights.file}?dl=1")
    assert {weights.choices.mode for weights in WEIGHTS.values() if weights.loss} == {"both", "audio", "visual"}
    assert WEIGHTS["cavmae-sync"].url is None
