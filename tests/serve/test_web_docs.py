"""If these fail, docs/web.md tells people of requests and keys that do not work."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lookhear.serve.security import access_of
from web_library import Made, Running, running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "web.md").read_text(encoding="utf-8")
CURLS = re.findall(r"^curl .*$", PAGE, re.MULTILINE)
TOKEN = "a-token-that-nobody-guesses"


@pytest.fixture(scope="module")
def web(made: Made) -> Iterator[Running]:
    with running(made.index, access=access_of("127.0.0.1", token=TOKEN)) as server:
        server.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield server


def run_curl(web: Running, line: str, made: Made) -> tuple[int, bytes]:
    """Does what curl does for the few options that the page uses. Raises KeyError for others."""
    method, headers, content, url = "GET", {}, b"", ""
    words = iter(shlex.split(line)[1:])
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-X":
            method = next(words)
        elif word == "-o":
            next(words)
        elif word == "--data-binary":
            assert next(words).startswith("@")
            method, content = "POST", (made.media / "sound only.m4a").read_bytes()
        elif word == "--json":
            method, content = "POST", next(words).encode()
            headers["Content-Type"] = "application/json"
        elif word.startswith("http://127.0.0.1:8710/"):
            url = word
        else:
            raise KeyError(word)
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    answer = web.client.request(method, path, headers=headers, content=content)
    return answer.status_code, answer.content


def test_every_request_of_the_docs_is_answered(made: Made, web: Running) -> None:
    assert len(CURLS) >= 8
    example = web.upload(made.clip(0))["id"]
    for line in CURLS:
        filled = line.replace("EXAMPLE", example).replace("FILE", web.file_id(made.clip(1))).replace("TOKEN", TOKEN)
        status, content = run_curl(web, filled, made)
        expected = 206 if "Range:" in line else 201 if "uploads?" in line else 204 if "DELETE" in line else 200
        assert status == expected, f"{line}\n{content[:300]!r}"


def test_the_routes_of_the_docs_are_all_there_are(web: Running) -> None:
    described = set(web.client.get("/api/openapi.json").json()["paths"])
    table = " ".join(re.findall(r"^\| (`(?:GET|POST) /api.*?) \|", PAGE, re.MULTILINE))
    told = set()
    for group in re.findall(r"`(?:GET|POST) (/api/[^`]*)`((?:, `/[^`]*`)*)", table):
        first = group[0].partition("?")[0]
        told.add(first)
        for more in re.findall(r"`(/[^`]*)`", group[1]):
            told.add(more if more.startswith("/api") else f"{first.rpartition('/')[0]}{more}")
    told = {path.replace("/ID", "/{file_id}") for path in told}
    untold = {"/api/session", "/api/uploads/{example_id}", "/api/uploads/{example_id}/picture"}
    assert described - untold == told


def test_the_keys_of_the_docs_are_those_of_the_page() -> None:
    script = (ROOT / "src" / "lookhear" / "serve" / "page" / "app.js").read_text(encoding="utf-8")
    listed = re.search(r"const KEYS = \[(.*?)\n\];", script, re.DOTALL)
    assert listed is not None
    keys = {key for entry in re.findall(r'^  \["([^"]+)"', listed[1], re.MULTILINE) for key in entry.split()}
    keyboard = PAGE.partition("## Keyboard")[2].partition("## ")[0]
    told = set(re.findall(r"`([^`]+)`", keyboard))
    assert {key for key in keys if len(key) == 1 and key not in "←→↑↓"} == told
    for name in ("Enter", "Space", "Esc", "arrows"):
        assert name in keyboard


def test_the_pictures_of_the_docs_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (ROOT / "docs" / picture).stat().st_size < 300_000
