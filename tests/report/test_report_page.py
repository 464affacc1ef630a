"""report/page.py: one HTML file that needs nothing else."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lookhear.errors import UserError
from lookhear.report.page import Figure, Section, Table, write_page

PNG = b"\x89PNG\r\n"
VOID = {"meta", "img", "br"}


class Nesting(HTMLParser):
    """Fails where an element is not closed in its turn; counts elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> dict[str, int]:
    parser = Nesting()
    parser.feed(page)
    assert parser.open == []
    return parser.counts


def test_all_text_is_escaped_and_nothing_is_fetched(tmp_path: Path) -> None:
    odd = "<b>odd & 'name'</b>"
    figure = Figure(drawing=PNG, alt=odd, title=odd, caption=odd)
    svg = Figure(drawing=b"<svg viewBox='0 0 1 1'><text>x</text></svg>", alt=odd)
    table = Table(title=odd, head=(odd, "n"), rows=((odd, "1"), ("two", "2")), marked=frozenset({1}), series=True)
    folded = Table(title=odd, head=("x",), rows=(("y",),), folded=True)
    sections = [Section(title=odd, paragraphs=(odd,), tables=(table, folded), figures=(figure,), panels=(svg, figure))]
    path = tmp_path / "new" / "page.html"
    write_page(path, title=odd, intro=odd, sections=sections, legend=[odd, "two"])
    page = path.read_text(encoding="utf-8")
    counts = parse(page)
    assert (counts["img"], counts["svg"], counts["details"], counts["li"]) == (2, 1, 1, 2)
    assert "b" not in counts
    assert page.count("class=marked") == 1
    assert not re.search(r"(src|href)=['\"](?!data:)", page), "the page reaches for another file"
    assert "http" not in page
    assert "prefers-color-scheme: dark" in page
    assert list(path.parent.iterdir()) == [path]


def test_a_table_without_rows_and_an_empty_page(tmp_path: Path) -> None:
    write_page(
        tmp_path / "page.html", title="", intro="", sections=[Section(title="x", tables=(Table(head=("a",), rows=()),))]
    )
    assert parse((tmp_path / "page.html").read_text())["table"] == 1


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", title="caf\udce9.mp4", intro="", sections=[])
    assert "caf?.mp4" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_cannot_be_written_leaves_the_page_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="name another file"):
        write_page(tmp_path / "page.html", title="", intro="", sections=[])
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
