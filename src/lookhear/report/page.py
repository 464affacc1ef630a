"""One HTML file of text, tables and figures; it opens without a server or a network, in light and in dark.

Drawings that are SVG stand in the page itself and take its colours; photographs are PNG data.
"""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookhear.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Colour:
    """One of the page's colours, as it is on white (which is how it is drawn and printed) and on black."""

    name: str
    light: str
    dark: str


INK = Colour(name="ink", light="#1c1e21", dark="#e6e8ea")
QUIET = Colour(name="quiet", light="#5d6570", dark="#9aa3ad")
LINE = Colour(name="line", light="#d9dde2", dark="#343a40")
# What belongs to one run, or is one kind of thing; chosen to stay apart for colour-blind readers.
SERIES = (
    Colour(name="series-0", light="#2a78b5", dark="#5aa9e6"),
    Colour(name="series-1", light="#d1682a", dark="#f0935a"),
    Colour(name="series-2", light="#4c9a5b", dark="#76c787"),
    Colour(name="series-3", light="#8a5fb0", dark="#b892dc"),
    Colour(name="series-4", light="#b03a5b", dark="#ea7a99"),
    Colour(name="series-5", light="#7d6a1f", dark="#cdb552"),
    Colour(name="series-6", light="#1f8a8a", dark="#5cc9c9"),
    Colour(name="series-7", light="#7a7a7a", dark="#a8a8a8"),
)
COLOURS = (INK, QUIET, LINE, *SERIES)

_PNG = b"\x89PNG"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing in the page, what it shows (for those who cannot see it), a title above and a caption below it."""

    drawing: bytes
    """PNG, or an SVG element that uses the colours of `COLOURS` as they are on white"""
    alt: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a heading row. Numbers are formatted by whoever made the table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    folded: bool = False
    """shown when its title is clicked on"""
    marked: frozenset[int] = frozenset()
    """rows that stand out"""
    series: bool = False
    """the rows are the series of the legend, each with its colour in front"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a title, paragraphs, tables, small figures side by side, and wide ones, in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    panels: tuple[Figure, ...] = ()
    figures: tuple[Figure, ...] = ()


def write_page(path: Path, *, title: str, intro: str, sections: Sequence[Section], legend: Sequence[str] = ()) -> None:
    """Writes the sections as one self-contained HTML file, whole or not at all. All text is escaped.

    `legend` names the series, in the order of `SERIES`; it stays in view. Raises UserError where nothing can be
    written.
    """
    body = [f"<header><h1>{html.escape(title)}</h1><p class='intro'>{html.escape(intro)}</p></header>"]
    if legend:
        names = "".join(f"<li>{_chip(i)}{html.escape(name)}</li>" for i, name in enumerate(legend))
        body.append(f"<ul class='legend' aria-label='colours'>{names}</ul>")
    for section in sections:
        body.append(f"<section><h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
        body += [_table(table) for table in section.tables]
        if section.panels:
            body.append(f"<div class='panels'>{''.join(_figure(panel) for panel in section.panels)}</div>")
        body += [_figure(figure, wide=True) for figure in section.figures]
        body.append("</section>")
    parts = {"TITLE": html.escape(title), "COLOURS": _colours(), "BODY": "\n".join(body)}
    page = _PAGE
    for name, text in parts.items():  # BODY last: what it holds is not looked at again
        page = page.replace(f"[[{name}]]", text)
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(page, encoding="utf-8", errors="replace")  # names of files may be no text
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}; name another file") from None


def _colours() -> str:
    light, dark = (
        "".join(f"--{colour.name}: {getattr(colour, side)}; " for colour in COLOURS) for side in ("light", "dark")
    )
    return (
        f":root {{ color-scheme: light dark; --paper: #ffffff; --raised: #f6f7f9; {light}}}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ --paper: #15181b; --raised: #1d2125; {dark}}} }}"
    )


def _chip(series: int) -> str:
    """The colour of a series; beyond the last colour they begin again, dashed, as their lines do."""
    dashed = " class='dashed'" if series >= len(SERIES) else ""
    return f"<i{dashed} style='--own: var(--{SERIES[series % len(SERIES)].name})'></i>"


def _figure(figure: Figure, *, wide: bool = False) -> str:
    alt = html.escape(figure.alt, quote=True)
    if figure.drawing.startswith(_PNG):
        data = base64.b64encode(figure.drawing).decode("ascii")
        drawing = f"<img alt='{alt}' src='data:image/png;base64,{data}'>"
    else:
        drawing = figure.drawing.decode("utf-8").replace("<svg", f"<svg role='img' aria-label='{alt}'", 1)
    title = f"<h3>{html.escape(figure.title)}</h3>" if figure.title else ""
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if figure.caption else ""
    drawing = f"<div class='wide'>{drawing}</div>" if wide else drawing
    return f"<figure>{title}{drawing}{caption}</figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in table.head)
    rows = []
    for i, row in enumerate(table.rows):
        first, *others = (html.escape(cell) for cell in row)
        chip = _chip(i) if table.series else ""
        cells = f"<td>{chip}{first}</td>" + "".join(f"<td>{cell}</td>" for cell in others)
        rows.append(f"<tr{' class=marked' if i in table.marked else ''}>{cells}</tr>")
    whole = f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    if table.folded:
        return f"<details><summary>{html.escape(table.title)}</summary>{whole}</details>"
    return f"<h3>{html.escape(table.title)}</h3>{whole}" if table.title else whole


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>[[TITLE]]</title>
<style>
[[COLOURS]]
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  color: var(--ink); background: var(--paper); margin: 2rem auto 4rem; max-width: 70rem; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: .92rem; font-weight: 600; margin: .6rem 0 .2rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .4rem 0; }
.intro, figcaption { color: var(--quiet); } figure { margin: 1rem 0; }
figcaption { font-size: .85rem; line-height: 1.4; max-width: 46rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1rem; margin: 1rem 0; }
.panels figure { margin: 0; padding: .5rem .7rem .3rem; background: var(--raised); border-radius: 8px; }
.panels h3 { margin: 0 0 .3rem; }
.legend { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; list-style: none;
  margin: 1rem 0 0; padding: .55rem 0; background: var(--paper); border-bottom: 1px solid var(--line);
  font-size: .9rem; }
.legend li { overflow-wrap: anywhere; }
i { display: inline-block; width: .8rem; height: .8rem; margin-right: .45rem; border-radius: 3px;
  vertical-align: -.08rem; background: var(--own); print-color-adjust: exact; }
i.dashed { background: repeating-linear-gradient(90deg, var(--own) 0 .25rem, transparent .25rem .4rem); }
.wide { overflow-x: auto; margin: .4rem 0; } .wide svg { min-width: 36rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { text-align: left; padding: .28rem 1.1rem .28rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--quiet); font-weight: 500; } th, td:first-child { white-space: nowrap; }
tr.marked td { font-weight: 600; }
summary { cursor: pointer; margin: .8rem 0 .2rem; }
@media print { .legend { position: static; }
  figure { break-inside: avoid; } }
</style></head><body>
[[BODY]]
</body></html>
"""
