"""If these fail, the page fetches something from the network, or is not there where lookhear was installed."""

import re
import zipfile
from pathlib import Path

import pytest

from web_library import Running

PAGE = Path(__file__).parents[2] / "src" / "lookhear" / "serve" / "page"
FILES = sorted(path for path in PAGE.iterdir() if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_of_the_page_is_served(web: Running, path: Path) -> None:
    answer = web.client.get("/" if path.name == "index.html" else f"/{path.name}")
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].startswith(kinds[path.suffix])
    assert answer.headers["cache-control"] == "no-cache"
    tag = {"if-none-match": answer.headers["etag"]}
    again = web.client.get("/" if path.name == "index.html" else f"/{path.name}", headers=tag)
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_comes_from_the_network(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\s\"'`)]*", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}, "an address of a namespace is none of the network"
    assert "@import" not in text
    assert "eval(" not in text
    assert "innerHTML" not in text, "what files are called would become markup"


def test_the_page_keeps_its_own_policy() -> None:
    """The policy allows no script, style or handler inside the page."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son[a-z]+=", text)
    assert not re.search(r"\sstyle=", text)
    assert "<style" not in text
    assert set(re.findall(r"<script([^>]*)>", text)) == {' type="module" src="app.js"'}


def test_every_id_that_is_asked_for_is_there() -> None:
    there = set(re.findall(r'\sid="([^"]+)"', (PAGE / "index.html").read_text(encoding="utf-8")))
    for path in FILES:
        asked = set(re.findall(r'\$\("([^"]+)"\)', path.read_text(encoding="utf-8")))
        assert asked <= there, path.name


def test_every_part_is_small_enough_to_read() -> None:
    for path in FILES:
        assert path.read_text(encoding="utf-8").count("\n") <= 500, path.name


def test_the_page_is_in_the_wheel(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(PAGE.parents[3])).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"lookhear/serve/page/{path.name}" for path in FILES} <= names
