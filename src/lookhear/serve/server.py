"""Runs the application until it is told to stop. The only place that knows uvicorn."""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from lookhear.errors import UserError
from lookhear.serve import pictures, uploads
from lookhear.serve.app import create_app
from lookhear.serve.archive import Archive
from lookhear.serve.security import Access
from lookhear.serve.settings import ServeSettings
from lookhear.serve.work import Workshop

_STOP_SECONDS = 3  # for answers that are under way
_WAIT_SECONDS = 0.1
# A browser keeps at most six. Each may have a file open, and some systems allow a process 256 of all kinds.
_MAX_CONNECTIONS = 100
_HEAD_SECONDS = 10.0  # until a request has begun and its head is complete
# As many are taken on before any of them is counted.
_BACKLOG = 32


class _Bounded(H11Protocol):
    """A connection that is closed when it asks nothing for a while, or when it has waited longest and there are many.

    Somebody who opens connections and says nothing needs no token for that.
    """

    _deadline: asyncio.TimerHandle | None = None  # while no answer is under way

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Makes room where there is none: what is answered stays, of the others the oldest goes."""
        super().connection_made(transport)
        self._look()
        if len(self.connections) > _MAX_CONNECTIONS:
            waiting = {each: each._deadline for each in self.connections if isinstance(each, _Bounded)}
            oldest = min((timer.when(), id(each), each) for each, timer in waiting.items() if timer is not None)[-1]
            oldest._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends its timer."""
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_deadline()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self._end)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None

    def _end(self) -> None:
        self._forget_deadline()
        self.connections.discard(self)  # at once, so that the next one finds another to close
        self.transport.abort()


@contextmanager
def serving(
    index_path: str | Path,
    access: Access,
    *,
    host: str,
    port: int,
    settings: ServeSettings | None = None,
    model: str | None = None,
) -> Iterator[int]:
    """Inside, an index is served at `host` and the port that this gives: `port`, or a free one where that is 0.

    `model` is used for queries; without it the checkpoint that the index names.
    Raises IndexStateError without an index, UserError where the address cannot be used.
    """
    settings = settings or ServeSettings()
    archive = Archive(index_path, settings, model=model)
    with _bound(host, port) as listening, Workshop(settings) as workshop:
        config = uvicorn.Config(
            create_app(archive, workshop, access),
            http=_Bounded,
            backlog=_BACKLOG,
            lifespan="off",
            log_level="warning",
            access_log=False,  # addresses hold what people look for
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), name="lookhear-serve", daemon=True)
        thread.start()
        ending = threading.Event()
        # No daemon: the interpreter must not end while a thread is inside the model or the tables, which abort then.
        warming = threading.Thread(target=_warm, args=(archive, workshop, ending), name="lookhear-warm")
        warming.start()
        try:
            while not server.started and thread.is_alive():
                thread.join(_WAIT_SECONDS)
            if not server.started:
                raise UserError(f"the server did not start on {host}; the lines above say why")
            yield int(listening.getsockname()[1])
        finally:
            server.should_exit = True
            ending.set()
            workshop.close()  # so that what is under way ends with a sentence
            thread.join(_STOP_SECONDS + 1)
            warming.join()


def _warm(archive: Archive, workshop: Workshop, ending: threading.Event) -> None:
    """Imports and reads what the first visitor would wait for, until the server ends."""
    steps: tuple[Callable[[], object], ...] = (
        archive.catalogue,
        lambda: workshop.media.warm(pictures.awake),
        lambda: workshop.uploads.warm(uploads.awake),
        archive.embedder,
        archive.index.library,
    )
    with suppress(UserError):  # the visitor hears of it
        for step in steps:
            if ending.is_set():
                return
            step()


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --host or --port"
        ) from None
    with listening:
        yield listening


def read_token(file: Path) -> str:
    """The token in the first line of a file. Raises UserError where there is none."""
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot read the token in {file}: {reason}") from None
    if not token or not token.isascii() or len(token.split()) != 1:
        raise UserError(f"{file} holds no token: it must be one line of plain letters, digits and signs")
    return token


def make_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)
