"""If these fail, `lookhear serve` does not start, does not end, or tells its token to a log."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from lookhear import cli
from lookhear.search.crawl import index
from tiny_embedder import make_clip, save_tiny

TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_clip(folder / "media" / "clip.mp4", 1)
    index([folder / "media"], model=save_tiny(folder / "model.safetensors"), index_path=folder / "index", workers=0)
    return folder


def started(made: Path, *words: str, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A server and its address."""
    server = subprocess.Popen(
        [sys.executable, "-m", "lookhear", "serve", "--index", str(made / "index"), "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )
    assert server.stdout is not None
    line = server.stdout.readline().strip()
    if not line:
        pytest.fail(server.communicate(timeout=60)[1])
    return server, line


def ended(server: subprocess.Popen[str], number: int) -> tuple[int, str]:
    server.send_signal(number)
    out, err = server.communicate(timeout=60)
    return server.returncode, out + err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max-upload", "nan"), "--max-upload is nan"),
        (("--max-upload", "0"), "give limits above 0"),
        (("--time-limit", "nan"), "give limits above 0"),
        (("--workers", "0"), "at least one process"),
    ],
)
def test_limits_that_cannot_be(
    made: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    assert cli.main(["serve", "--index", str(made / "index"), "--port", "0", *words]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals are other ones there")
def test_it_serves_until_it_is_told_to_stop(made: Path) -> None:
    server, address = started(made)
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(f"{address}api/status", timeout=60) as answer:
            assert json.load(answer)["files"] == 1
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"<title>lookhear</title>" in answer.read()
    finally:
        code, printed = ended(server, signal.SIGINT)
    assert code == 130
    assert "the server has stopped" in printed
    assert "Traceback" not in printed


@pytest.mark.skipif(os.name == "nt", reason="signals are other ones there")
def test_the_token_is_told_to_nobody(made: Path, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    server, address = started(made, "--token-file", str(file), "--host", "0.0.0.0")
    try:
        port = address.rstrip("/").rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/api/status"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}?token={TOKEN}", timeout=60)
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert answer.status == 200
    finally:
        code, printed = ended(server, signal.SIGTERM)
    assert code == 143
    assert TOKEN not in address + printed


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        (("--host", "0.0.0.0"), "", "--token-file"),
        (("--host", "0.0.0.0"), "short", "can be guessed"),
        (("--token-file", "nothing"), "", "cannot read the token"),
        (("--port", "99999"), "", "cannot listen"),
        (("--host", "no.such.host.invalid"), TOKEN, "cannot listen"),
        (("--workers", "0"), "", "at least one process"),
        (("--index", "nothing"), "", "there is no index at nothing"),
    ],
)
def test_what_cannot_be_served(
    made: Path,
    words: tuple[str, ...],
    environment: str,
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOOKHEAR_TOKEN", environment)
    where = () if "--index" in words else ("--index", str(made / "index"))
    assert cli.main(["serve", *where, *words]) == 1
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.out == ""


def test_a_token_file_holds_one_token(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("", "two words", "schlüssel-für-alle-türen"):
        (tmp_path / "token").write_text(content, encoding="utf-8")
        assert cli.main(["serve", "--index", str(made / "index"), "--token-file", str(tmp_path / "token")]) == 1
        assert "holds no token" in capsys.readouterr().err


def test_a_port_that_is_taken(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", "--index", str(made / "index"), "--port", port]) == 1
    assert "--port" in capsys.readouterr().err


def test_without_the_extra(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith(("lookhear.serve", "fastapi"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert cli.main(["serve", "--index", str(made / "index")]) == 1
    assert "pip install 'lookhear[web]'" in capsys.readouterr().err
