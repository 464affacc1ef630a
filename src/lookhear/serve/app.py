"""The application: the page, the API behind it, and one sentence of JSON for everything that goes wrong."""

import hashlib
import importlib.resources
from pathlib import PurePath
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

import lookhear
from lookhear.errors import IndexStateError, MediaError, UserError
from lookhear.serve.archive import Archive, StaleExampleError
from lookhear.serve.catalogue import UnknownFileError, shown
from lookhear.serve.routes import Service, api
from lookhear.serve.security import COOKIE, SESSION_PATH, Access, Guard, Sessions
from lookhear.serve.uploads import ForgottenError, TooLargeError, TooSlowError
from lookhear.serve.work import BusyError, UnreadableError, Workshop

# What an error of ours is in HTTP; the nearest class counts.
_STATUS: dict[type[UserError], int] = {
    UserError: 400,
    UnknownFileError: 404,
    ForgottenError: 404,
    TooSlowError: 408,
    IndexStateError: 409,
    StaleExampleError: 409,
    TooLargeError: 413,
    MediaError: 422,
    UnreadableError: 422,
    BusyError: 503,
}
# Of a request that is no upload.
MAX_QUESTION_BYTES = 1 << 20
_ASSET_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DESCRIPTION = """Moments of a media library by a sound, a picture, a clip or another moment.

Upload an example (`POST /api/uploads`), search by it and by moments of the library (`POST /api/search`), and play,
show or hand over what is found. Times are seconds on each file's own clock. Every error is `{"error": sentence}`.
A server that wants a token takes it as `Authorization: Bearer TOKEN`."""


def create_app(archive: Archive, workshop: Workshop, access: Access) -> Guard:
    """The whole server as one ASGI application. `archive` and `workshop` belong to the caller, who closes them."""
    app = FastAPI(
        title="lookhear",
        version=lookhear.__version__,
        description=_DESCRIPTION,
        openapi_url="/api/openapi.json",
        docs_url=None,  # they would fetch scripts from the network
        redoc_url=None,
        max_body_size=MAX_QUESTION_BYTES,
    )
    sessions = Sessions()
    app.state.service = Service(archive, workshop, access, sessions)
    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, _answer_with(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    app.include_router(api)
    if access.token is not None:
        _describe_token(app)
    for name, (content, media_type) in _assets().items():
        _add_asset(app, "/" if name == "index.html" else f"/{name}", content, media_type)
    return Guard(app, access=access, sessions=sessions)


def _describe_token(app: FastAPI) -> None:
    """Has the description of the API say what `Guard` wants."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        description = plain()
        description["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
        }
        description["security"] = [{"token": []}, {"session": []}]
        description["paths"][SESSION_PATH]["post"]["security"] = [{"token": []}]
        return description

    app.openapi = described  # type: ignore[method-assign]  # as FastAPI's manual does it


def _assets() -> dict[str, tuple[bytes, str]]:
    """The files of the page with their types, by name. There are no others, so no name leads anywhere else."""
    folder = importlib.resources.files("lookhear.serve") / "page"
    found = {}
    for file in folder.iterdir():
        kind = _ASSET_TYPES.get(PurePath(file.name).suffix)
        if kind is not None:
            found[file.name] = (file.read_bytes(), kind)
    return found


def _add_asset(app: FastAPI, path: str, content: bytes, media_type: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}  # asked for each time, sent when another version runs

    async def give(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    app.add_route(path, give, methods=["GET", "HEAD"], include_in_schema=False)


# ---- what goes wrong


def _answer_with(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        return problem(status, str(error))

    return answer


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    reason = first["msg"].removeprefix("Value error, ")  # which pydantic puts before what our own checks say
    reason = reason.replace("valid tuple", "valid list")  # as JSON calls it
    return problem(422, f"{place or 'the request'}: {reason}; see /api/openapi.json")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {
        404: "there is nothing here; /api/openapi.json says what there is",
        405: "not by this method; /api/openapi.json says by which",
    }
    answer = problem(error.status_code, sentences.get(error.status_code, str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def _gone(request: Request, error: Exception) -> Response:
    return problem(400, "the request broke off; send it again")  # nobody reads it, but it is no defect of ours


async def _failed(request: Request, error: Exception) -> Response:
    return problem(500, "the server failed at this, and its log says why; this is a defect, please report it")


def problem(status: int, sentence: str) -> JSONResponse:
    """An error as it is sent."""
    return JSONResponse({"error": shown(sentence)}, status_code=status)
