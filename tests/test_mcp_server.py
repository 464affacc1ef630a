"""If these fail, an assistant is told of moments that are not there, reads files that it must not, or gets tracebacks.

The client is that of the package.
"""

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

pytest.importorskip("mcp")

from mcp import Client, StdioServerParameters

from lookhear import cli, mcp_server
from lookhear.embedder import Embedder
from lookhear.errors import UserError
from lookhear.mcp_server import Assistant, make_server, run
from lookhear.search.crawl import index
from lookhear.search.filters import Where
from lookhear.search.forget import forget
from lookhear.search.index import Index
from lookhear.serve.archive import Archive
from lookhear.serve.settings import ServeSettings
from lookhear.serve.work import Workshop
from lookhear.tasks.labels.moments import classify
from tiny_embedder import classifier_embedder, make_clip, save_tiny
from web_library import labelled_index, stretch

T = TypeVar("T")
Call = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Folders."""

    library: Path
    examples: Path
    index: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("assistant")
    found = Made(library=folder / "library", examples=folder / "examples", index=folder / "index")
    for number in range(3):
        make_clip(found.library / f"day{number}" / f"clip{number}.mp4", number, seconds=3.0)
    make_clip(found.library / "day2" / "again" / "clip0.mp4", 9, seconds=2.0)
    make_clip(found.library / "sound.m4a", 20, seconds=2.0, picture=False)
    (found.library / "broken.mp4").write_bytes(b"no video" * 1000)
    make_clip(found.examples / "example.mp4", 1, seconds=3.0)
    (found.examples / "text.wav").write_text("no sound")
    (found.examples / "link.mp4").symlink_to(folder / "private.mp4")
    make_clip(folder / "private.mp4", 2, seconds=2.0)
    index([found.library], model=save_tiny(folder / "model.safetensors"), index_path=found.index, workers=0)
    return found


def finished(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, in a thread of its own: other tests of a process may leave an event loop running."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def calling(index_path: Path, *folders: Path, model: Embedder | None = None) -> Iterator[Call]:
    """A function that calls a tool by a client in this process."""
    settings = ServeSettings(workers=0)
    with Workshop(settings) as workshop:
        server = make_server(Assistant(Archive(index_path, settings, model=model), workshop, folders=folders))

        def call(name: str, **arguments: Any) -> Any:
            async def ask() -> Any:
                async with Client(server) as client:
                    return await client.call_tool(name, arguments)

            return finished(ask())

        yield call


@pytest.fixture(scope="module")
def call(made: Made) -> Iterator[Call]:
    yield from calling(made.index, made.examples)


def answered(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content[0].text
    found: dict[str, Any] = result.structured_content
    assert json.loads(result.content[0].text) == found, "clients of either kind read the same"
    return found


def refused(result: Any) -> str:
    assert result.is_error
    text: str = result.content[0].text
    assert "\n" not in text
    assert "Traceback" not in text
    return text.removeprefix("Error executing tool ")


# ---- search


def test_a_clip_finds_its_moment(made: Made, call: Call) -> None:
    found = answered(call("search", clip=[str(made.examples / "example.mp4")], page_size=3))
    best = found["hits"][0]
    assert best["path"] == str((made.library / "day1" / "clip1.mp4").resolve())
    assert best["start_seconds"] <= best["peak_seconds"] <= best["end_seconds"]
    assert best["peak_seconds"] == pytest.approx(1.5, abs=0.3)
    assert found["best_score"] == best["score"]
    assert "moments" in found["answer"]
    assert len(found["hits"]) == 3
    assert found["has_more"]


def test_a_moment_and_filters_answer_as_the_index_does(made: Made, call: Call) -> None:
    found = answered(call("search", like=["day2/clip2.mp4@1.5"], within="sound", filters={"name": "clip*"}))
    hits = Index(made.index).search(like="day2/clip2.mp4@1.5", within="sound", where=Where(name="clip*"))
    assert [(hit["path"], hit["peak_seconds"]) for hit in found["hits"]] == [
        (hit.path, hit.peak_seconds) for hit in hits
    ]
    looks, meaning = (
        answered(call("search", like=["day2/clip2.mp4@1.5"], within="sound", likeness=likeness))["hits"]
        for likeness in (1.0, 0.0)
    )
    direct = Index(made.index).search(like="day2/clip2.mp4@1.5", within="sound", likeness=1.0)
    assert [hit["score"] for hit in looks] == pytest.approx([hit.score for hit in direct])
    assert [hit["score"] for hit in looks] != [hit["score"] for hit in meaning]
    stretch = answered(call("search", like=["day2/clip2.mp4@1-2"], not_like=["day0/clip0.mp4@1"], page_size=1))
    assert len(stretch["hits"]) == 1


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ({"at_least": 900.0}, "nothing here: no moment reaches 900, the best has "),
        ({"page": 90}, "nothing here: there is no page 90"),
        ({"filters": {"name": "nothing*"}}, "nothing here: the index has no moment that can be compared"),
    ],
)
def test_nothing_here_is_a_sentence(call: Call, arguments: dict[str, Any], answer: str) -> None:
    found = answered(call("search", like=["day1/clip1.mp4@1.5"], **arguments))
    assert found["hits"] == []
    assert found["answer"].startswith(answer)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "there is nothing to search by"),
        ({"like": ["clip1.mp4"]}, "names no moment; write FILE@SECONDS"),
        ({"like": ["clip1.mp4@99"]}, "there is nothing at 99 s"),
        ({"like": ["nowhere.mp4@1"]}, "the library has no file nowhere.mp4"),
        ({"like": ["clip0.mp4@1"]}, "2 files of the library are named clip0.mp4"),
        ({"like": ["broken.mp4@1"]}, "'broken.mp4' has no moments"),
        ({"like": ["@1"]}, "names no moment"),
        ({"like": ["\0@1"]}, "the library has no file"),
        ({"like": ["clip1.mp4@1"], "balance": 7}, "balance: Input should be less than or equal to 1"),
        ({"like": ["clip1.mp4@1"], "within": "smell"}, "within: Input should be"),
        ({"like": ["clip1.mp4@1"], "filters": {"colour": "red"}}, "filters.colour: Extra inputs are not permitted"),
        ({"like": ["clip1.mp4@1"], "filters": {"folder": "/nowhere"}}, "the library has no folder /nowhere"),
        ({"like": ["clip1.mp4@1"], "colour": "red"}, "search has no argument colour; it has sound, picture, clip"),
        ({"like": 3}, "like: Input should be a valid list"),
        ({"clip": ["example.mp4"]}, "the library has no file example.mp4; give its path"),
        ({"sound": ["broken.mp4"]}, "'broken.mp4' has no moments"),
    ],
)
def test_what_cannot_be_searched_for_is_a_sentence(call: Call, arguments: dict[str, Any], reason: str) -> None:
    assert reason in refused(call("search", **arguments))


def test_a_file_that_is_no_media_is_a_sentence(made: Made, call: Call) -> None:
    assert refused(call("search", sound=[str(made.examples / "text.wav")])).startswith("'text.wav' cannot be used: ")


def test_only_files_that_may_be_read_are_read(made: Made, call: Call) -> None:
    """Of another folder, through a link or by a way round: the file is there, and it is a video."""
    private = made.examples.parent / "private.mp4"
    assert private.is_file()
    ways = [
        private,
        made.examples / "link.mp4",
        made.examples / ".." / "private.mp4",
        made.examples,
        Path("/etc/passwd"),
    ]
    for way in ways:
        said = refused(call("search", clip=[str(way)]))
        assert "other examples are read from folders that the owner of the archive named" in said
        assert "has no file" in refused(call("locate", file=str(way), at_seconds=1.0))
        assert "has no file" in refused(call("describe", file=str(way)))
    # The folder of examples is for examples only.
    assert "has no file" in refused(call("locate", file=str(made.examples / "example.mp4"), at_seconds=1.0))


def test_without_folders_only_the_library_is_read(made: Made) -> None:
    for ask in calling(made.index):
        said = refused(ask("search", clip=[str(made.examples / "example.mp4")]))
        assert "none were named with --examples" in said
        assert answered(ask("search", clip=["clip2.mp4"], page_size=1))["hits"]


def test_a_link_out_of_the_library_is_not_followed(made: Made, tmp_path: Path) -> None:
    make_clip(tmp_path / "library" / "clip.mp4", 5)
    make_clip(tmp_path / "private.mp4", 6)
    model = made.index.parent / "model.safetensors"
    index([tmp_path / "library"], model=model, index_path=tmp_path / "index", workers=0)
    (tmp_path / "library" / "clip.mp4").unlink()
    (tmp_path / "library" / "clip.mp4").symlink_to(tmp_path / "private.mp4")
    for ask in calling(tmp_path / "index"):
        for name, arguments in (("locate", {"at_seconds": 1.0}), ("describe", {})):
            assert "is a link out of the library now" in refused(ask(name, file="clip.mp4", **arguments))
        assert "is a link out of the library now" in refused(ask("search", clip=["clip.mp4"]))


# ---- locate


def test_a_heat_map_is_a_picture_and_a_place(made: Made, call: Call) -> None:
    result = call("locate", file="clip1.mp4", at_seconds=1.5)
    found = answered(result)
    assert found["path"] == str((made.library / "day1" / "clip1.mp4").resolve())
    assert 0.0 < found["x"] < 1.0
    assert 0.0 < found["y"] < 1.0
    assert found["visible"] is None
    assert "of the frame" in found["answer"]
    picture = result.content[1]
    assert picture.mime_type == "image/png"
    image = Image.open(io.BytesIO(base64.b64decode(picture.data)))
    assert (image.format, image.size) == ("PNG", (64, 48))
    column, row = int(found["x"] * 64), int(found["y"] * 48)
    assert image.getpixel((column, row))[0] > 150, "the point that is named glows"  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"file": "clip1.mp4", "at_seconds": 99.0}, "has nothing at 99 s; it goes from 0 to 3 s"),
        ({"file": "clip1.mp4", "at_seconds": -1.0}, "has nothing at -1 s"),
        ({"file": "sound.m4a", "at_seconds": 1.0}, "sound.m4a' has no picture at all"),
        ({"file": "clip1.mp4"}, "at_seconds: Field required"),
        ({"file": "clip1.mp4", "at_seconds": "soon"}, "at_seconds: Input should be a valid number"),
        ({"file": "broken.mp4", "at_seconds": 1.0}, "'broken.mp4' has no moments"),
    ],
)
def test_what_cannot_be_located_is_a_sentence(call: Call, arguments: dict[str, Any], reason: str) -> None:
    assert reason in refused(call("locate", **arguments))


# ---- describe


def test_the_index_is_described(made: Made, call: Call) -> None:
    found = answered(call("describe"))
    held, status = found["index"], Index(made.index).status()
    assert (held["files"], held["counts"], held["moments"]) == (6, status.counts, status.moments)
    assert held["libraries"] == list(status.libraries)
    (skipped,) = held["skipped"]
    assert skipped["path"] == "broken.mp4"
    assert skipped["reason"] in {row.reason for row in status.files if row.path == "broken.mp4"}
    assert skipped["reason"]
    assert len(held["listed"]["rows"]) == 6
    assert found["answer"].startswith("6 files in 1 folder(s), ")
    listed = answered(call("describe", words="clip0", offset=1))["index"]["listed"]
    assert (listed["total"], [row["path"] for row in listed["rows"]]) == (2, ["day2/again/clip0.mp4"])


def test_a_file_is_described(made: Made, call: Call) -> None:
    found = answered(call("describe", file="day0/clip0.mp4"))["file"]
    assert found["row"]["moments"] > 0
    assert found["about"]["end_seconds"] == pytest.approx(3.0, abs=0.2)
    assert found["about"]["picture"]["width"] == 64
    assert found["about"]["sound"]["sample_rate"] == 16000
    assert found["labels"] == []
    broken = answered(call("describe", file="broken.mp4"))
    assert broken["answer"].startswith("'broken.mp4' is not indexed: ")
    assert broken["file"]["about"] is None
    assert "has no file" in refused(call("describe", file="nowhere.mp4"))


def test_events_are_named_where_the_model_names_them(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = classifier_embedder(("bark", "meow"))
    index([made.library], model=embedder, index_path=tmp_path / "index", workers=0)
    for ask in calling(tmp_path / "index", model=embedder):
        assert answered(ask("describe"))["index"]["labels"] == 2
        labels = answered(ask("describe", file="clip1.mp4"))["file"]["labels"]
        assert labels == [vars(moment) for moment in classify(made.library / "day1" / "clip1.mp4", model=embedder)]
        assert {label["label"] for label in labels} <= {"bark", "meow"}
        monkeypatch.setattr(mcp_server, "MAX_LABELLED_SECONDS", 1.0)
        found = answered(ask("describe", file="clip1.mp4"))
        assert found["file"]["labels"] == []
        assert "longer than 1 s" in found["answer"]
        monkeypatch.undo()
        monkeypatch.setattr(mcp_server, "stat_of", lambda path: (0, 0))
        found = answered(ask("describe", file="clip1.mp4"))
        assert found["file"]["labels"] == []
        assert "changed since it was indexed" in found["answer"]


def test_labels_of_the_index(made: Made, tmp_path: Path) -> None:
    labels = {"clip1.mp4": (stretch("bark", 0.5, 1.5, 0.75),), "clip2.mp4": (stretch("bark", 1.0, 2.0, 0.5),)}
    for ask in calling(labelled_index(made.index, tmp_path / "index", labels)):
        assert answered(ask("describe"))["index"]["named"] == [{"name": "bark", "moments": 2}]
        found = answered(ask("describe", file="clip1.mp4"))["file"]["labels"]
        assert [(each["label"], each["start_seconds"], each["score"]) for each in found] == [("bark", 0.5, 0.75)]
        found = answered(ask("search", filters={"label": "bark"}))
        assert [(hit["name"], hit["score"]) for hit in found["hits"]] == [("clip1.mp4", 0.75), ("clip2.mp4", 0.5)]
        assert found["answer"] == "2 moments; the best has this label with a probability of 0.75"
        assert "has the label 'meow'" in refused(ask("search", filters={"label": "meow"}))
        like = refused(ask("search", filters={"label": "bark"}, not_like=["clip1.mp4@1"]))
        assert "nothing to search by" in like


def test_an_index_that_changes_meanwhile(made: Made, tmp_path: Path) -> None:
    for number in range(2):
        make_clip(tmp_path / "library" / f"{number}.mp4", number)
    model = made.index.parent / "model.safetensors"
    index([tmp_path / "library"], model=model, index_path=tmp_path / "index", workers=0)
    for ask in calling(tmp_path / "index"):
        assert answered(ask("describe"))["index"]["files"] == 2
        forget([tmp_path / "library" / "0.mp4"], index_path=tmp_path / "index")
        assert answered(ask("describe"))["index"]["files"] == 1
        assert "has no file 0.mp4" in refused(ask("search", like=["0.mp4@1"]))


# ---- the protocol


def test_tools_say_what_they_take_and_give(made: Made) -> None:
    settings = ServeSettings(workers=0)
    with Workshop(settings) as workshop:
        server = make_server(Assistant(Archive(made.index, settings), workshop))

        async def ask() -> tuple[Any, Any]:
            async with Client(server) as client:
                return await client.list_tools(), await client.call_tool("delete", {})

        listed, unknown = finished(ask())
    assert [tool.name for tool in listed.tools] == ["search", "locate", "describe"]
    assert all(tool.output_schema and tool.description and tool.annotations.read_only_hint for tool in listed.tools)
    assert "there is no tool 'delete'; there are search, locate, describe" in refused(unknown)


def test_what_cannot_be_served_is_a_sentence(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["mcp", "--index", str(tmp_path / "nothing")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"lookhear: there is no index at {tmp_path / 'nothing'}; make one")
    with pytest.raises(UserError, match="is no folder; name folders whose files may be examples"):
        run(made.index, folders=[tmp_path / "nothing"])


@pytest.mark.ci
def test_a_process_speaks_the_protocol_alone_on_stdout(made: Made, tmp_path: Path) -> None:
    """By the client over pipes; what is no message on stdout would be an error here."""
    words = ["-m", "lookhear", "mcp", "--index", str(made.index), "--examples", str(made.examples), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parameters = StdioServerParameters(command=sys.executable, args=words, env=environment)

    async def ask() -> list[Any]:
        strangers: list[Any] = []

        async def note(message: Any) -> None:
            if isinstance(message, Exception):
                strangers.append(message)

        async with Client(parameters, message_handler=note, read_timeout_seconds=120) as client:
            found = await client.call_tool("search", {"clip": [str(made.examples / "example.mp4")], "page_size": 1})
            placed = await client.call_tool("locate", {"file": "clip1.mp4", "at_seconds": 1.5})
            wrong = await client.call_tool("search", {"sound": [str(made.examples / "text.wav")]})
        return [found, placed, wrong, strangers]

    found, placed, wrong, strangers = finished(ask())
    assert Path(answered(found)["hits"][0]["path"]).name == "clip1.mp4"
    assert placed.content[1].type == "image"
    assert "cannot be used" in refused(wrong)
    assert strangers == []


@pytest.mark.ci
@pytest.mark.skipif(os.name == "nt", reason="signals are other ones there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_while_it_waits_for_a_line(made: Made, tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "lookhear", "mcp", "--index", str(made.index), "--workers", "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        who = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": who}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "lookhear"
        assert list(tmp_path.glob("lookhear-serve-*"))
        process.send_signal(number)
        assert process.wait(30) == 128 + number
    assert not list(tmp_path.glob("lookhear-serve-*"))
