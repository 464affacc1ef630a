"""The routes of the API: each checks what is asked, hands it on, and sends what comes back."""

import json
import shutil
import tempfile
import urllib.parse
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from lookhear.serve import schemas
from lookhear.serve.archive import Archive, ChosenHits
from lookhear.serve.catalogue import Order, media_type, status_of
from lookhear.serve.handover import Handover, Made, check_clips, check_sheet, hand_over, without_banned
from lookhear.serve.pictures import (
    FrameJob,
    HeatJob,
    Kept,
    StripJob,
    StripKind,
    draw_frame,
    draw_heat,
    draw_strip,
    read_heat,
)
from lookhear.serve.previews import PreviewJob, Previews, read_info
from lookhear.serve.ranged import RangedFile
from lookhear.serve.security import COOKIE, Access, Sessions, session_of
from lookhear.serve.uploads import plain_name, read_example, receive
from lookhear.serve.work import UnreadableError, Workshop

MAX_STRIP_SECONDS = 300.0
REPORT_HEADER = "x-lookhear-report"
# Pictures of a file are as lasting as its bytes, which its id names.
_LASTING = {"cache-control": "private, max-age=86400"}
# What depends on more than the bytes, such as where they lie or the model of the index.
_CHANGING = {"cache-control": "private, no-cache"}
# Uploads are counted as they are received, against the settings of the server.
_UNCOUNTED = 1 << 60
_OCTETS = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": {"format": "binary"}}}}}


class Service:
    """What the routes share."""

    def __init__(self, archive: Archive, workshop: Workshop, access: Access, sessions: Sessions) -> None:
        self.archive = archive
        self.workshop = workshop
        self.access = access
        self.sessions = sessions
        self.kept = Kept(workshop.settings.picture_bytes)
        self.previews = Previews(workshop)

    async def path_of(self, file_id: str) -> Path:
        """Where a file of the library lies. Raises UnknownFileError."""
        return await self.workshop.look(lambda: self.archive.catalogue().path_of(file_id))

    async def made(
        self,
        kind: str,
        key: tuple[object, ...],
        make: Callable[[], Awaitable[bytes]],
        headers: Mapping[str, str] = _LASTING,
    ) -> Response:
        """What `make` gives, or gave lately for the same `key`."""
        found = self.kept.find(key)
        if found is None:
            found = await make()
            self.kept.keep(key, found)
        return Response(found, media_type=kind, headers=headers)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]
FileId = Annotated[schemas.FileId, fastapi.Path(description="as a hit or a row of GET /api/files gives it")]
ExampleId = Annotated[schemas.ExampleId, fastapi.Path(description="as POST /api/uploads gave it")]
At = Annotated[schemas.Seconds, Query(description="seconds on the file's clock")]
Height = Annotated[int, Query(ge=16, le=1080, description="pixels")]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Which errors a route has besides those that every one has."""
    always = (400, 401, 403, 409, 421, 422, 500, 503)
    return {status: {"model": schemas.Problem} for status in sorted({*always, *statuses})}


def _gives(*kinds: str) -> dict[str, Any]:
    """Describes an answer that is a file; one of JSON may hold anything."""
    bytes_of_it = {"type": "string", "format": "binary"}
    return {"content": {kind: {"schema": {} if kind == "application/json" else bytes_of_it} for kind in kinds}}


api = APIRouter(prefix="/api", responses=_problems())


# ---- who asks


@api.post("/session", status_code=204, tags=["session"], summary="Begin a session with the token")
async def begin_session(serving: Serving) -> Response:
    """For browsers, whose players send no header: the token as `Authorization: Bearer` gives a cookie."""
    answer = Response(status_code=204)
    if serving.access.token is not None:
        answer.set_cookie(COOKIE, serving.sessions.begin(), httponly=True, samesite="strict", path="/")
    return answer


@api.delete("/session", status_code=204, tags=["session"], summary="End the session")
async def end_session(request: Request, serving: Serving) -> Response:
    """Forgets the cookie."""
    serving.sessions.end(session_of(request.headers))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/")
    return answer


# ---- the library


@api.get("/status", tags=["library"], summary="What the index holds")
async def status(serving: Serving) -> schemas.Status:
    """Counts, model and limits; `generation` changes whenever the index does."""
    return await serving.workshop.look(serving.archive.status)


@api.get("/files", tags=["library"], summary="Files, and what became of them")
async def files(
    serving: Serving,
    text: Annotated[schemas.Text, Query(description="words that the path contains")] = "",
    status: Annotated[tuple[schemas.AnyStatus, ...], Query(max_length=6, description="any of these")] = (),
    library: Annotated[schemas.Text | None, Query(description="in this one of the library's folders")] = None,
    order: Order = "path",
    descending: bool = False,
    offset: Annotated[int, Query(ge=0, le=100_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> schemas.FilePage:
    """A part of the list, which may have any length. Skipped files are there with the reason."""
    return await serving.workshop.look(
        lambda: serving.archive.files(
            text=text,
            status=status,
            library=library,
            order=order,
            descending=descending,
            offset=offset,
            limit=limit,
        )
    )


@api.get("/folders", tags=["library"], summary="Folders with files")
async def folders(serving: Serving) -> tuple[schemas.Folder, ...]:
    """What `filters.folder` of a search can be."""
    return await serving.workshop.look(serving.archive.folders)


@api.get("/labels", tags=["library"], summary="Labels of moments")
async def labels(serving: Serving) -> tuple[schemas.Label, ...]:
    """What `filters.label` of a search can be: none before `lookhear label`."""
    return await serving.workshop.look(serving.archive.labels)


@api.get(
    "/files/{file_id}",
    tags=["library"],
    summary="One file",
    responses={**_problems(404), 200: {"model": schemas.FileAbout}},
)
async def about(file_id: FileId, serving: Serving) -> Response:
    """Its tracks, its length, and whether a browser can be expected to play it as it is."""

    async def read() -> bytes:
        info = await serving.workshop.media.run(read_info, str(path))
        made = await serving.workshop.look(serving.archive.about, file_id, info)
        return made.model_dump_json().encode()

    path = await serving.path_of(file_id)
    changed = (await serving.workshop.look(status_of, path)).st_mtime_ns
    version = (await serving.workshop.look(serving.archive.catalogue)).version
    return await serving.made("application/json", ("about", file_id, changed, version), read, _CHANGING)


# ---- moments, to be played and seen


@api.head("/files/{file_id}/media", include_in_schema=False)
@api.get(
    "/files/{file_id}/media",
    tags=["moments"],
    summary="The file itself",
    response_class=Response,
    responses={
        **_problems(404),
        200: _gives("video/*", "audio/*", "application/octet-stream"),
        206: _gives("video/*", "audio/*", "application/octet-stream", "multipart/byteranges"),
        304: {"description": "the same as If-None-Match names"},
        416: {"description": "a Range beyond the file", "model": schemas.Problem},
    },
)
async def media(file_id: FileId, serving: Serving) -> Response:
    """Its bytes, or the ranges of them that a player asks for."""
    path = await serving.path_of(file_id)
    return RangedFile(path, media_type=media_type(path), headers=_CHANGING)


@api.head("/files/{file_id}/preview", include_in_schema=False)
@api.get(
    "/files/{file_id}/preview",
    tags=["moments"],
    summary="A stretch of a file that every browser plays",
    response_class=Response,
    responses={
        **_problems(404),
        200: _gives("video/mp4"),
        206: _gives("video/mp4", "multipart/byteranges"),
        304: {"description": "the same as If-None-Match names"},
        416: {"description": "a Range beyond the preview", "model": schemas.Problem},
    },
)
async def preview(
    file_id: FileId,
    serving: Serving,
    start: At,
    seconds: Annotated[float, Query(ge=0.1, le=60, allow_inf_nan=False)] = 10.0,
) -> Response:
    """Made when it is asked for: small, H.264 and AAC in mp4. Its second 0 is `start` on the file's clock."""
    path = await serving.path_of(file_id)
    seconds = min(seconds, serving.workshop.settings.preview_seconds)
    found = await serving.previews.find(
        PreviewJob(path=str(path), start_seconds=round(start, 3), seconds=round(seconds, 3))
    )
    return RangedFile(found, media_type="video/mp4", headers=_CHANGING)


@api.get(
    "/files/{file_id}/frame",
    tags=["moments"],
    summary="The frame that is shown at a time",
    response_class=Response,
    responses={**_problems(404), 200: _gives("image/jpeg")},
)
async def frame(file_id: FileId, serving: Serving, at: At, height: Height = 180) -> Response:
    """A JPEG, at most `height` high. Before and after the picture track, its first or last frame."""
    path, at = await serving.path_of(file_id), round(at, 2)
    job = FrameJob(path=str(path), at_seconds=at, height=height)
    return await serving.made(
        "image/jpeg", ("frame", file_id, at, height), lambda: serving.workshop.media.run(draw_frame, job)
    )


@api.get(
    "/files/{file_id}/strip",
    tags=["moments"],
    summary="The sound of a stretch as a picture",
    response_class=Response,
    responses={**_problems(404), 200: _gives("image/png")},
)
async def strip(
    file_id: FileId,
    serving: Serving,
    start: At,
    end: At,
    kind: StripKind = "spectrogram",
    width: Annotated[int, Query(ge=16, le=2000, description="pixels")] = 480,
    height: Height = 64,
) -> Response:
    """A PNG whose alpha says how loud it is: a waveform, or a spectrogram with low pitches at the bottom."""
    path = await serving.path_of(file_id)
    start, end = round(start, 2), round(min(max(end, start + 0.05), start + MAX_STRIP_SECONDS), 2)
    job = StripJob(path=str(path), start_seconds=start, end_seconds=end, kind=kind, width=width, height=height)
    return await serving.made(
        "image/png",
        ("strip", file_id, start, end, kind, width, height),
        lambda: serving.workshop.media.run(draw_strip, job),
    )


@api.get(
    "/files/{file_id}/heat",
    tags=["moments"],
    summary="Where in the picture the sound comes from",
    response_class=Response,
    responses={**_problems(404), 200: _gives("image/jpeg")},
)
async def heat(file_id: FileId, serving: Serving, at: At, height: Height = 360) -> Response:
    """A JPEG of the frame with heat on what the match with its sound depends on."""
    path, at = await serving.path_of(file_id), round(at, 2)

    async def draw() -> bytes:
        embedder = await serving.workshop.infer(serving.archive.embedder)
        job = HeatJob(path=str(path), at_seconds=at, preprocess=embedder.preprocess.config)
        clip = await serving.workshop.media.run(read_heat, job)
        return await serving.workshop.infer(draw_heat, embedder, clip, at, height)

    fingerprint = serving.archive.index.facts.fingerprint
    return await serving.made("image/jpeg", ("heat", fingerprint, file_id, at, height), draw, _CHANGING)


# ---- searching


@api.post(
    "/uploads",
    status_code=201,
    tags=["search"],
    summary="Give an example",
    responses=_problems(408, 413),
    openapi_extra=_OCTETS,
    max_body_size=_UNCOUNTED,
)
async def upload(
    request: Request,
    serving: Serving,
    name: Annotated[str, Query(max_length=1000, description="what it is called; its bytes say what it is")] = "example",
) -> schemas.Upload:
    """The body is a sound, a picture or a clip. It is read, embedded and removed; the vectors are kept for a while."""
    workshop, archive = serving.workshop, serving.archive
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise UnreadableError("this is a form; send the bytes of the file alone, as `curl --data-binary @FILE` does")
    declared = request.headers.get("content-length", "")
    embedder = await workshop.infer(archive.embedder)
    hop_seconds = archive.index.facts.hop_seconds
    with workshop.receiving():
        file = await receive(
            request.stream(), int(declared) if declared.isdecimal() else None, workshop.folder, workshop.settings
        )
        try:
            example = await read_example(
                file, plain_name(name), embedder=embedder, hop_seconds=hop_seconds, workshop=workshop
            )
        finally:
            file.unlink(missing_ok=True)
    kept = archive.examples.keep(example)
    return schemas.Upload(
        id=kept.id,
        name=kept.name,
        kind=kept.kind,
        seconds=kept.seconds,
        has_sound=kept.has_sound,
        has_picture=kept.has_picture,
        peaks=kept.peaks,
        note=kept.query.note,
    )


@api.get(
    "/uploads/{example_id}/picture",
    tags=["search"],
    summary="What an example looks like",
    response_class=Response,
    responses={**_problems(404), 200: _gives("image/jpeg")},
)
async def example_picture(example_id: ExampleId, serving: Serving) -> Response:
    """A small JPEG of a picture or of the middle of a clip; 404 for a sound."""
    thumbnail = serving.archive.examples.named(example_id).thumbnail
    if thumbnail is None:
        raise fastapi.HTTPException(404)
    return Response(thumbnail, media_type="image/jpeg", headers=_LASTING)


@api.delete("/uploads/{example_id}", status_code=204, tags=["search"], summary="Forget an example")
async def forget_example(example_id: ExampleId, serving: Serving) -> Response:
    """Forgets its vectors; it need not be known."""
    serving.archive.examples.forget(example_id)
    return Response(status_code=204)


@api.post("/search", tags=["search"], summary="Find moments", responses=_problems(404))
async def search(asked: schemas.Search, serving: Serving) -> schemas.Found:
    """Moments like the examples, best first."""
    return await serving.workshop.search(serving.archive.search, asked)


# ---- handing over


@api.post(
    "/export",
    tags=["hand over"],
    summary="Hits for another program",
    response_class=Response,
    responses={**_problems(404), 200: _gives("application/json", "application/zip", "audio/x-mpegurl", "text/*")},
)
async def export(asked: schemas.Export, serving: Serving) -> Response:
    """A file in one of the formats of `lookhear search --format`; several edit lists come as a zip.

    The header x-lookhear-report says in JSON (percent-encoded) what was left out, and why.
    """
    chosen = await serving.workshop.search(serving.archive.hits, asked.chosen)
    return await _handed_over(serving, chosen, asked.format)


@api.post(
    "/cut",
    tags=["hand over"],
    summary="Hits as clips",
    response_class=Response,
    responses={**_problems(404), 200: _gives("application/zip")},
)
async def cut(asked: schemas.Cut, serving: Serving) -> Response:
    """A zip of clips, with clips.csv that says what each one is. Packets are copied where that can be right."""
    chosen = await serving.workshop.search(serving.archive.hits, asked.chosen)
    check_clips(chosen.hits, serving.workshop.settings)
    return await _handed_over(serving, chosen, "exact clips" if asked.exact else "clips")


@api.post(
    "/sheet",
    tags=["hand over"],
    summary="Hits as one picture",
    response_class=Response,
    responses={**_problems(404), 200: _gives("image/png")},
)
async def sheet(asked: schemas.Sheet, serving: Serving) -> Response:
    """A contact sheet: a frame of every hit, with file, time and score."""
    chosen = await serving.workshop.search(serving.archive.hits, asked.chosen)
    check_sheet(chosen.hits)
    return await _handed_over(serving, chosen, "sheet")


async def _handed_over(serving: Service, chosen: ChosenHits, kind: Any) -> Response:
    folder = tempfile.mkdtemp(dir=serving.workshop.folder, prefix="export-")
    try:
        wanted = Handover(
            hits=chosen.hits,
            kind=kind,
            folder=folder,
            max_bytes=serving.workshop.settings.max_cut_bytes,
            left_out=chosen.forgotten,
        )
        wanted = await serving.workshop.look(lambda: without_banned(wanted, serving.archive.catalogue()))
        made: Made = await serving.workshop.exports.run(hand_over, wanted)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return FileResponse(
        made.path,
        media_type=made.media_type,
        filename=made.name,
        headers={REPORT_HEADER: urllib.parse.quote(json.dumps(made.report)), "cache-control": "no-store"},
        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True),
    )
