"""If these fail, somebody who opens connections and says nothing keeps everybody else out, without any token."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lookhear.serve import server
from lookhear.serve.security import access_of
from lookhear.serve.server import serving
from web_library import Made

HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
PATIENCE_SECONDS = 20.0


@pytest.fixture
def port(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 0.5)
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 8)
    monkeypatch.setattr(server, "_warm", lambda *_: None)
    with serving(made.index, access_of("127.0.0.1", token=None), host="127.0.0.1", port=0) as port:
        yield port


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)


def answer_of(connection: socket.socket) -> bytes:
    """What comes until the connection ends."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize("sent", [b"", b"G", HEAD])
def test_half_a_request_is_not_waited_for(port: int, sent: bytes) -> None:
    with connected(port) as connection:
        connection.sendall(sent)
        assert answer_of(connection) == b""


def test_neither_is_the_next_one(port: int) -> None:
    with connected(port) as connection:
        connection.sendall(HEAD + b"\r\n" + b"GET")
        answer = answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"</html>\n")


def test_a_slow_head_and_an_answer_take_their_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", PATIENCE_SECONDS)
    with connected(port) as connection:
        for part in (HEAD[:10], HEAD[10:], b"Connection: close\r\n", b"\r\n"):
            connection.sendall(part)
        assert answer_of(connection).endswith(b"</html>\n")


def test_many_silent_ones_keep_nobody_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 1000.0)
    with ExitStack() as open_ones:
        silent = [open_ones.enter_context(connected(port)) for _ in range(40)]
        with connected(port) as connection:
            connection.sendall(HEAD + b"Connection: close\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
        assert all(answer_of(each) == b"" for each in silent[:32])  # the oldest were closed
