"""Who may ask: `Guard` stands before the whole application and lets nothing else through.

- Only hosts that this server is known by, so that a foreign page cannot reach it under a name of its own (DNS
  rebinding).
- Nothing that a browser sends on behalf of another site (cross-site requests), be it to change or to read something.
- With a token, nothing of the library without it. The token comes in a header, never in an address, which is what logs
  keep; a browser gets a session cookie for it, which scripts cannot read and other sites cannot send.
"""

import ipaddress
import secrets
import socket
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookhear.errors import UserError

COOKIE = "lookhear-session"
LEAST_TOKEN_LETTERS = 16
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_MAX_SESSIONS = 1000
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Everything else is the page itself, which holds nothing of the library and asks for the token.
API_PREFIX = "/api/"
SESSION_PATH = "/api/session"
# Scripts, styles and pictures of this server only; the microphone for its own page only; no frames anywhere.
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
        "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "permissions-policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass(frozen=True, kw_only=True)
class Access:
    """Under which names the server may be asked, and with which token."""

    hosts: frozenset[str] = _LOCAL_NAMES
    any_address: bool = False  # any IP address as a host: rebinding needs a name
    token: str | None = field(default=None, repr=False)

    def knows(self, host: str) -> bool:
        """Whether a Host header (with or without a port) names this server."""
        name = host_name(host)
        if name is None:
            return False
        if name in self.hosts:
            return True
        return self.any_address and _is_address(name)


def is_local(host: str) -> bool:
    """Whether a server bound to `host` is reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def access_of(host: str, *, token: str | None, names: Iterable[str] = ()) -> Access:
    """Who may ask a server that is bound to `host`, under further `names`.

    Raises UserError for a token that can be guessed or cannot be sent, for a name that is none, and for a server that
    others can reach without a token.
    """
    if token is not None and (not token.isascii() or token.split() != [token]):
        raise UserError("the token cannot be sent in a header; use plain letters, digits and signs without spaces")
    if token is not None and len(token) < LEAST_TOKEN_LETTERS:
        raise UserError(
            f"a token of {len(token)} characters can be guessed; use at least {LEAST_TOKEN_LETTERS}, "
            "or leave it out to have one made"
        )
    if not is_local(host) and token is None:
        raise UserError(f"a server on {host} can be reached from other machines, and so needs a token")
    hosts = {*_LOCAL_NAMES, host.lower(), *map(_allowed, names)}
    is_everywhere = _is_address(host) and ipaddress.ip_address(host).is_unspecified
    if is_everywhere:
        hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(hosts=frozenset(hosts), any_address=is_everywhere, token=token)


def _allowed(name: str) -> str:
    """A further name as Host headers are compared with it. Ports are not compared, so one that is given is dropped."""
    found = name.lower() if _is_address(name) else host_name(name)
    if found is None:
        raise UserError(f"'{name}' is no name of a host; give --allow-host one such as archive.example")
    return found


def host_name(host: str) -> str | None:
    """The name in a Host header, in small letters and without port and brackets; None for what is no host."""
    text = host.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and _is_port(port) else None
    name, colon, port = text.partition(":")
    name = name.removesuffix(".")
    return name if name and _is_port(colon + port) else None


def _is_port(text: str) -> bool:
    return text == "" or (text.startswith(":") and text[1:].isdecimal() and len(text) <= 6)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Sessions:
    """The cookies that were given for the token; they end with the server."""

    def __init__(self) -> None:
        self._known: deque[str] = deque(maxlen=_MAX_SESSIONS)
        self._lock = threading.Lock()

    def begin(self) -> str:
        """A new one."""
        session = secrets.token_urlsafe(32)
        with self._lock:
            self._known.append(session)
        return session

    def knows(self, session: str) -> bool:
        """Whether this server gave it."""
        with self._lock:
            return any(secrets.compare_digest(session.encode(), known.encode()) for known in self._known)

    def end(self, session: str) -> None:
        """Forgets one."""
        with self._lock:
            if session in self._known:
                self._known.remove(session)


class Guard:
    """ASGI middleware: answers what is not allowed, and adds the headers that tell browsers what is."""

    def __init__(self, app: ASGIApp, *, access: Access, sessions: Sessions) -> None:
        self._app = app
        self._access = access
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or refuses it with a sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no other connections

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        answer = self._app if refusal is None else refusal
        await answer(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._access.knows(hosts[0]):
            return _refuse(421, "this server is not known by that name; allow it with --allow-host if it is yours")
        if why := _foreign(scope["method"], scope["path"], headers, hosts[0]):
            return _refuse(403, f"refused: {why}")
        path = scope["path"]
        if self._access.token is None or not path.startswith(API_PREFIX):
            return None
        if path == SESSION_PATH and scope["method"] == "POST":
            return None if self._has_token(headers) else _refuse(401, "that is not the token of this server")
        if self._has_token(headers) or self._sessions.knows(session_of(headers)):
            return None
        return _refuse(
            401, "this server wants its token, as `Authorization: Bearer TOKEN` or in the address after #token="
        )

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        expected = self._access.token or ""
        return kind.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), expected.encode())


def session_of(headers: Headers) -> str:
    """The session cookie of a request, or nothing.

    Other programs on this host send theirs, too, whatever their port and syntax; `SimpleCookie` drops what follows one
    that it dislikes.
    """
    for part in ";".join(headers.getlist("cookie")).split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _foreign(method: str, path: str, headers: Headers, host: str) -> str:
    """Why a request comes from another site, if it does. Programs that are no browsers send none of these headers."""
    site = headers.get("sec-fetch-site", "none")
    is_visit = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not (is_visit and method == "GET" and not path.startswith(API_PREFIX)):
        return "this request was sent by a page of another site"
    origins = headers.getlist("origin")
    if not origins or (method in _SAFE_METHODS and site == "same-origin"):
        return ""
    expected = host.strip().lower()
    if any(origin.strip().lower().partition("://")[2] != expected for origin in origins):
        return "this request was sent by a page of another site"
    return ""


def _refuse(status: int, sentence: str) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": sentence}, status_code=status, headers=headers)
