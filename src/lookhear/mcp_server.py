"""`lookhear mcp`: an index for assistants, by the Model Context Protocol over stdin and stdout.

Three tools: search, locate, describe. They answer what the web page does, by the same parts (`serve/archive.py`), and
decode in the same limited processes. Which files they read is up to whoever starts the server, not to the assistant:
those of the library, and those in folders that were named at the start. Errors are sentences.

The only place that knows the package `mcp`, which keeps stdout for the protocol while it serves.
"""

import base64
import io
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import numpy as np
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import Field, ValidationError

import lookhear
from lookhear.embedder import Embedder
from lookhear.errors import UserError
from lookhear.media.clip import Clip
from lookhear.search.examples import read_moment
from lookhear.search.facts import Approximate
from lookhear.search.labelled import from_text
from lookhear.search.library import LIKENESS
from lookhear.search.survey import stat_of
from lookhear.search.tables import FileRow
from lookhear.serve import schemas
from lookhear.serve.archive import Archive, file_row
from lookhear.serve.catalogue import UnknownFileError, shown
from lookhear.serve.pictures import HeatJob, find_heat, read_heat
from lookhear.serve.previews import read_info
from lookhear.serve.settings import ServeSettings
from lookhear.serve.uploads import plain_name, read_example
from lookhear.serve.work import Workshop
from lookhear.tasks.labels.moments import classify
from lookhear.tasks.localization.drawing import overlay
from lookhear.tasks.localization.overlays import Located
from lookhear.tasks.localization.visibility import Visibility

_INSTRUCTIONS = """An archive of sound and video files, searched by example: a sound, a picture, a clip, or a moment \
of one of its files finds moments that sound or look alike, and sounds find pictures and pictures sounds. There is no \
search by words, except for names of files and labels of moments, where there are any (`describe`). \
All times are seconds on each file's own clock."""
# Rows of a list of files.
LISTED = 50
# A longer file is not labelled while somebody waits.
MAX_LABELLED_SECONDS = 600.0
_ALL_FILES = schemas.Filters()
_THIRDS = {"x": ("left", "middle", "right"), "y": ("top", "centre", "bottom")}

Paths = Annotated[tuple[str, ...], Field(max_length=16)]
Moments = Annotated[tuple[str, ...], Field(max_length=16)]


class SearchAnswer(schemas.Found):
    """Moments that match."""

    answer: str = Field(description="what the hits are worth, in a sentence")


class LocateAnswer(schemas.Value):
    """Where in the frame the sound comes from; the picture shows it."""

    answer: str
    path: str
    at_seconds: float
    x: float = Field(description="of the hottest point, as a fraction of the frame's width, from the left")
    y: float = Field(description="as a fraction of its height, from the top")
    cosine: float = Field(description="how well the model finds that sound and picture fit")
    visible: bool | None = Field(description="false: nothing in the picture makes this sound; null: not calibrated")


class Skipped(schemas.Value):
    """A file that is not in the index, and why."""

    path: str
    reason: str


class IndexAnswer(schemas.Value):
    """What the index holds."""

    libraries: tuple[str, ...]
    files: int
    counts: dict[str, int] = Field(description="of files, by status")
    seconds: float
    moments: int
    window_seconds: float
    hop_seconds: float
    model: str
    fingerprint: str
    labels: int = Field(description="classes that the model can name; 0 where it names none")
    named: tuple[schemas.Label, ...] = Field(description="labels of moments; `search` takes one as filters.label")
    approximate: str | None = Field(description="how many of the nearest moments a search finds; null: all of them")
    skipped: tuple[Skipped, ...] = Field(description=f"the first {LISTED}")
    listed: schemas.FilePage = Field(description=f"{LISTED} files from `offset` on, of those that were asked for")


class Label(schemas.Value):
    """A stretch of a file to which the model gives one name."""

    label: str
    start_seconds: float
    end_seconds: float
    peak_seconds: float
    score: float = Field(description="a probability")


class FileAnswer(schemas.Value):
    """What is known of one file."""

    row: schemas.FileRow
    about: schemas.FileAbout | None = Field(description="its tracks; null where it was not indexed")
    labels: tuple[Label, ...] = Field(description="what happens when, where it was labelled or the model names events")


class DescribeAnswer(schemas.Value):
    """Of the index, or of one file."""

    answer: str
    index: IndexAnswer | None = None
    file: FileAnswer | None = None


class Assistant:
    """The tools. Their docstrings and descriptions are what an assistant knows of them."""

    def __init__(
        self, archive: Archive, workshop: Workshop, *, folders: Sequence[Path] = (), calibration: Path | None = None
    ) -> None:
        """`folders` may be read from besides the library; `calibration` is what `evaluate localization` wrote."""
        self._archive = archive
        self._workshop = workshop
        self._folders = tuple(folder.resolve() for folder in folders)
        self._calibration = calibration

    async def search(
        self,
        sound: Annotated[Paths, Field(description="files: what sounds or looks like this sound?")] = (),
        picture: Annotated[Paths, Field(description="pictures or videos: what looks or sounds like this?")] = (),
        clip: Annotated[Paths, Field(description="videos: what sounds and looks like this?")] = (),
        like: Annotated[Moments, Field(description="moments of the library: FILE@12.5 or FILE@1:02-1:05")] = (),
        not_sound: Annotated[Paths, Field(description="counter-examples")] = (),
        not_picture: Annotated[Paths, Field(description="counter-examples")] = (),
        not_clip: Annotated[Paths, Field(description="counter-examples")] = (),
        not_like: Annotated[Moments, Field(description="counter-examples")] = (),
        within: Annotated[
            Literal["both", "sound", "picture"], Field(description="what of the library is compared")
        ] = "both",
        balance: Annotated[float, Field(ge=0, le=1, description="of sound against picture, where both are")] = 0.5,
        likeness: Annotated[
            float, Field(ge=0, le=1, description="1 finds this very sound or shot, 0 what the model takes for the same")
        ] = LIKENESS,
        filters: Annotated[schemas.Filters, Field(description="which files are searched")] = _ALL_FILES,
        at_least: Annotated[float | None, Field(ge=0, le=1000, description="the least score of a hit")] = None,
        page: Annotated[int, Field(ge=1, le=schemas.MAX_PAGE)] = 1,
        page_size: Annotated[int, Field(ge=1, le=100)] = 10,
    ) -> SearchAnswer:
        """Finds moments of the archive by examples: files, or moments of its own files. Several are one question.
        Without any, `filters.label` lists the moments with this label.

        A hit has its file, start, end and peak in seconds, and a score: -log10 of how often a random pair matches as
        well (up to 5; beyond, below 8, only which matches better), or by a label alone its probability. What scores
        below `chance_score` is most likely nothing.
        """
        found: dict[bool, list[schemas.Example]] = {True: [], False: []}
        files: list[tuple[bool, schemas.Use, Sequence[str]]] = [
            (True, "sound", sound), (True, "picture", picture), (True, "both", clip),
            (False, "sound", not_sound), (False, "picture", not_picture), (False, "both", not_clip),
        ]  # fmt: skip
        for is_wanted, use, paths in files:
            found[is_wanted] += [await self._example(path, use) for path in paths]
        for is_wanted, moments in ((True, like), (False, not_like)):
            found[is_wanted] += [await self._workshop.look(self._moment, text) for text in moments]
        if not found[True] and (found[False] or not filters.label):
            raise UserError("there is nothing to search by; give sound, picture, clip or like, or filters.label alone")
        asked = schemas.Search(
            examples=tuple(found[True]),
            counter_examples=tuple(found[False]),
            within=within,
            balance=balance,
            likeness=likeness,
            filters=filters,
            at_least=at_least,
            page=page,
            page_size=page_size,
        )
        answer = await self._workshop.search(self._archive.search, asked)
        return SearchAnswer(answer=_worth(answer, at_least), **dict(answer))

    async def locate(
        self,
        file: Annotated[str, Field(description="a file of the library: its path, or the end of it")],
        at_seconds: Annotated[schemas.Seconds, Field(description="such as the peak of a hit")],
        height: Annotated[int, Field(ge=64, le=1080, description="of the picture, in pixels")] = 360,
    ) -> Annotated[CallToolResult, LocateAnswer]:
        """Shows where in the frame the sound of a moment comes from: the frame with heat on it, and the point."""
        path = await self._workshop.look(self._library_file, file)
        embedder = await self._workshop.infer(self._archive.embedder)
        visibility = None if self._calibration is None else Visibility.load(self._calibration, embedder)
        job = HeatJob(path=str(path), at_seconds=at_seconds, preprocess=embedder.preprocess.config)
        clip: Clip = await self._workshop.media.run(read_heat, job)
        found: Located = await self._workshop.infer(find_heat, embedder, clip, at_seconds, visibility)
        place = found.place
        answer = LocateAnswer(
            answer=_whereabouts(found),
            path=shown(str(path)),
            at_seconds=at_seconds,
            x=place.x,
            y=place.y,
            cosine=place.score,
            visible=place.visible,
        )
        drawn = found.frame if place.visible is False else overlay(found.frame, found.heat)
        picture = base64.b64encode(_png(drawn, height)).decode()
        return CallToolResult(
            content=[
                TextContent(type="text", text=answer.model_dump_json()),
                ImageContent(type="image", data=picture, mime_type="image/png"),
            ],
            structured_content=answer.model_dump(mode="json"),
        )

    async def describe(
        self,
        file: Annotated[str | None, Field(description="one file: its path, or the end of it; null: the index")] = None,
        words: Annotated[schemas.Text, Field(description="list files whose path has these words")] = "",
        status: Annotated[
            tuple[schemas.AnyStatus, ...], Field(max_length=6, description="list files with one of these")
        ] = (),
        offset: Annotated[int, Field(ge=0, le=100_000_000, description="list files from here on")] = 0,
    ) -> DescribeAnswer:
        """Says what the archive holds: counts, folders, skipped files and why, and a list of files; or what is known
        of one file: length, tracks, status, number of moments, and what happens when, if the model names events."""
        if file is not None:
            return await self._describe_file(file)
        index = await self._workshop.look(self._index_answer, words, status, offset)
        embedder = await self._workshop.infer(self._embedder_or_none)
        index = index.model_copy(update={"labels": 0 if embedder is None else len(embedder.labels)})
        skipped = index.counts.get("refused", 0)
        answer = (
            f"{index.files} files in {len(index.libraries)} folder(s), {index.seconds / 3600:.2f} hours, "
            f"{index.moments} moments; {skipped} files were skipped"
        )
        return DescribeAnswer(answer=answer, index=index)

    # ---- behind the tools

    async def _example(self, name: str, use: schemas.Use) -> schemas.Example:
        path = await self._workshop.look(self._readable_file, name)
        embedder = await self._workshop.infer(self._archive.embedder)
        hop_seconds = self._archive.index.facts.hop_seconds
        read = await read_example(
            path, plain_name(path.name), embedder=embedder, hop_seconds=hop_seconds, workshop=self._workshop
        )
        return schemas.UploadedExample(kind="upload", id=self._archive.examples.keep(read).id, use=use)

    def _moment(self, text: str) -> schemas.Example:
        named = read_moment(text)
        row = self._archive.catalogue().row_named(named.file)
        end = named.end_seconds if named.end_seconds > named.start_seconds else None
        return schemas.MomentExample(
            kind="moment", file_id=self._id_of(row), start_seconds=named.start_seconds, end_seconds=end
        )

    def _id_of(self, row: Any) -> str:
        file_id = file_row(row).file_id
        if file_id is None:
            raise UnknownFileError(f"'{shown(row.path)}' has no moments: {shown(row.reason) or row.status}")
        return file_id

    def _library_file(self, name: str) -> Path:
        catalogue = self._archive.catalogue()
        return catalogue.path_of(self._id_of(catalogue.row_named(name)))

    def _readable_file(self, name: str) -> Path:
        """A file of the library, or one in a folder that may be read. Raises UnknownFileError."""
        try:
            real = Path(name).resolve(strict=True) if Path(name).is_absolute() else None
        except (OSError, RuntimeError, ValueError):
            real = None
        if real is not None and any(real.is_relative_to(folder) for folder in self._folders) and real.is_file():
            return real
        try:
            return self._library_file(name)
        except UnknownFileError as error:
            named = ", ".join(map(str, self._folders)) or "none were named with --examples"
            raise UnknownFileError(
                f"{error}; other examples are read from folders that the owner of the archive named ({named}), by "
                "their whole path"
            ) from None

    def _index_answer(self, words: str, status: Sequence[str], offset: int) -> IndexAnswer:
        held = self._archive.status()

        def files(text: str, wanted: Sequence[str], first: int) -> schemas.FilePage:
            return self._archive.files(
                text=text, status=wanted, library=None, order="path", descending=False, offset=first, limit=LISTED
            )

        approximate: Approximate | None = self._archive.index.facts.approximate
        return IndexAnswer(
            libraries=held.libraries,
            files=held.files,
            counts=held.counts,
            seconds=held.seconds,
            moments=held.moments,
            window_seconds=held.window_seconds,
            hop_seconds=held.hop_seconds,
            model=held.model,
            fingerprint=held.fingerprint,
            labels=0,
            named=self._archive.labels(),
            approximate=None if approximate is None else approximate.recall,
            skipped=tuple(Skipped(path=row.path, reason=row.reason) for row in files("", ("refused",), 0).rows),
            listed=files(words, status, offset),
        )

    def _embedder_or_none(self) -> Embedder | None:
        try:
            return self._archive.embedder()
        except UserError:  # the index can be described where its model does not lie
            return None

    async def _describe_file(self, name: str) -> DescribeAnswer:
        row = await self._workshop.look(lambda: self._archive.catalogue().row_named(name))
        sent = file_row(row)
        if sent.file_id is None:
            answer = f"'{sent.path}' is not indexed: {sent.reason or sent.status}"
            return DescribeAnswer(answer=answer, file=FileAnswer(row=sent, about=None, labels=()))
        path = await self._workshop.look(self._library_file, sent.file_id)
        info = await self._workshop.media.run(read_info, str(path))
        about = await self._workshop.look(self._archive.about, sent.file_id, info)
        labels, note = await self._labels(row, path)
        tracks = " and ".join(
            what for what, there in (("sound", about.sound), ("picture", about.picture)) if there is not None
        )
        answer = f"'{sent.path}': {row.seconds:.2f} s of {tracks}, {row.num_moments} moments{note}"
        return DescribeAnswer(answer=answer, file=FileAnswer(row=sent, about=about, labels=labels))

    async def _labels(self, row: FileRow, path: Path) -> tuple[tuple[Label, ...], str]:
        """What the index says or else its model finds in the file at `path`, and why nothing is named."""
        known = from_text(row.labels)
        if known is not None:
            return tuple(Label(**vars(stretch)) for stretch in known.stretches), ""
        embedder = await self._workshop.infer(self._embedder_or_none)
        if embedder is None or not embedder.labels:
            return (), ""
        if row.seconds > MAX_LABELLED_SECONDS:
            return (), f"; longer than {MAX_LABELLED_SECONDS:.0f} s, so its events are not named here"
        if stat_of(path) != (row.size_bytes, row.mtime_ns):  # only bytes that were read in limited processes are here
            return (), "; changed since it was indexed, so its events are not named"
        return await self._workshop.infer(_named, path, embedder), ""


def _named(path: Path, embedder: Embedder) -> tuple[Label, ...]:
    return tuple(Label(**vars(moment)) for moment in classify(path, model=embedder))


def _worth(found: schemas.Found, at_least: float | None) -> str:
    """What hits are worth."""
    best = found.best_score
    if best is None:
        return "nothing here: the index has no moment that can be compared and that the filters let pass"
    if not found.hits:
        if at_least is not None and best < at_least:
            return f"nothing here: no moment reaches {at_least:g}, the best has {best:.2f}"
        return f"nothing here: there is no page {found.page}"
    count = f"{len(found.hits)} moments{', and there are more' if found.has_more else ''}"
    if found.chance_score is None:
        return f"{count}; the best has this label with a probability of {best:.2f}"
    if best < found.chance_score:
        return (
            f"most likely nothing: {count}, but the best score is {best:.2f}, and in so large an archive the best of "
            f"pure chance has about {found.chance_score:.2f}"
        )
    return f"{count}; the best score is {best:.2f}, that of pure chance would be about {found.chance_score:.2f}"


def _whereabouts(found: Located) -> str:
    place = found.place
    if place.visible is False:
        return f"no visible source: sound and picture do not fit at {place.at_seconds:.2f} s"
    row, column = (_THIRDS[axis][min(2, int(3 * value))] for axis, value in (("y", place.y), ("x", place.x)))
    certain = "" if place.visible else "; a map always has a hottest point, and none was calibrated to tell more"
    return f"at {place.at_seconds:.2f} s the sound fits best to the {row} {column} of the frame{certain}"


def _png(picture: np.ndarray, height: int) -> bytes:
    """A PNG of uint8 (3, H, W), shrunk to at most `height` rows."""
    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    image.thumbnail((4 * height, height))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


# ---- the protocol


class _Server(MCPServer[Any]):
    """Says what is wrong with a call in one sentence."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """As the package does, but an argument that does not exist is refused: a misspelt filter is no filter."""
        known = {tool.name: tool.input_schema.get("properties", {}) for tool in await self.list_tools()}
        if name not in known:
            raise ToolError(f"there is no tool '{shown(name)}'; there are {', '.join(known)}")
        if unknown := sorted(set(arguments) - set(known[name])):
            raise ToolError(f"{name} has no argument {shown(', '.join(unknown))}; it has {', '.join(known[name])}")
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, UserError):
                raise ToolError(shown(str(cause))) from None
            if isinstance(cause, ValidationError):
                first = cause.errors()[0]
                place = ".".join(map(str, first["loc"]))
                reason = first["msg"].replace("valid tuple", "valid list")  # as JSON calls it
                raise ToolError(shown(f"{place or name}: {reason}; mend that and call {name} again")) from None
            raise


def make_server(assistant: Assistant) -> MCPServer[Any]:
    """The server with its tools, of any transport."""
    server = _Server("lookhear", version=lookhear.__version__, instructions=_INSTRUCTIONS, log_level="WARNING")
    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    for tool in (assistant.search, assistant.locate, assistant.describe):
        server.add_tool(tool, annotations=reads)
    return server


def run(
    index_path: str | Path,
    *,
    model: str | None = None,
    folders: Sequence[Path] = (),
    calibration: Path | None = None,
    settings: ServeSettings | None = None,
) -> None:
    """Serves an index on stdin and stdout until stdin ends, or a signal comes.

    `model` is used for queries; without it the checkpoint that the index names. Raises IndexStateError without an
    index, UserError for a folder that is none.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder; name folders whose files may be examples")
    settings = settings or ServeSettings()
    archive = Archive(index_path, settings, model=model)
    with Workshop(settings) as workshop, _ending_on_signals(workshop):
        make_server(Assistant(archive, workshop, folders=folders, calibration=calibration)).run("stdio")


@contextmanager
def _ending_on_signals(workshop: Workshop) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM stop the decoding processes, remove what they left, and end this process at once: a
    thread that waits for a line of stdin cannot be called back."""

    def end(number: int) -> None:
        workshop.close()
        os._exit(128 + number)

    def handle(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=end, args=(number,), daemon=True).start()  # this one may hold what `close` waits for

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
