"""One HTML file that shows what a run learned; it opens without a server or a network.

Figures are drawn by matplotlib (imported only here) and put into the page as PNG data. The page is plain HTML with
its own style, readable in a narrow window and in dark mode.
"""

import base64
import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# Chosen to stay apart for colour-blind readers, on white and on print.
COLOURS = ("#2a78b5", "#d1682a", "#4c9a5b", "#8a5fb0", "#7a7a7a")

# above a picture of a row of six
_TITLE_LETTERS = 30


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture in the page: PNG bytes, what it shows (for those who cannot see it), and a caption."""

    png: bytes
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of text under a heading row. Numbers are formatted by whoever made the table."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a title, paragraphs, tables, figures, in this order."""

    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = field(default=())


def write_page(path: Path, *, title: str, intro: str, sections: Sequence[Section]) -> None:
    """Writes the sections as one self-contained HTML file. All text is escaped."""
    body = [f"<h1>{html.escape(title)}</h1><p class='intro'>{html.escape(intro)}</p>"]
    for section in sections:
        body.append(f"<section><h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
        body += [_table(table) for table in section.tables]
        body += [_figure(figure) for figure in section.figures]
        body.append("</section>")
    page = _PAGE.replace("{title}", html.escape(title)).replace("{body}", "\n".join(body))
    path.write_text(page, encoding="utf-8")


def loss_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """The loss and its terms over the steps, from journal records (dicts with `step`, `loss`, `terms`)."""
    steps = [record["step"] for record in records]
    names = sorted({name for record in records for name in record.get("terms", {})})
    series = {"loss": [record["loss"] for record in records]}
    series |= {name: [record.get("terms", {}).get(name, np.nan) for record in records] for name in names}

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(series))
        for axis, (name, values), colour in zip(np.atleast_1d(axes), series.items(), COLOURS * 3, strict=False):
            axis.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
            axis.plot(steps, _smooth(np.asarray(values, float)), color=colour, linewidth=2)
            axis.set_title(name.replace("_", " "), loc="left")
            axis.set_xlabel("step")
            axis.set_ylim(bottom=0)

    return Figure(
        png=_draw(draw, width=3.4 * len(series), height=2.6),
        alt=f"loss from {series['loss'][0]:.3g} to {series['loss'][-1]:.3g} in {steps[-1]} steps",
        caption="What training minimises, and its weighted terms. Thin: every step; thick: running mean.",
    )


def similarity_matrix(matrix: np.ndarray, *, groups: Sequence[str] | None = None) -> Figure:
    """Cosines of N sounds (rows) with N pictures (columns); clips of one group are put side by side."""
    order = np.argsort(np.asarray(groups), kind="stable") if groups is not None else np.arange(len(matrix))
    shown = matrix[np.ix_(order, order)]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        image = axis.imshow(shown, cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=axis, label="cosine", shrink=0.8)
        axis.set_xlabel("picture of clip")
        axis.set_ylabel("sound of clip")
        if groups is not None:
            names = [groups[i] for i in order]
            starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
            for start in starts[1:]:
                axis.axhline(start - 0.5, color="white", linewidth=0.4)
                axis.axvline(start - 0.5, color="white", linewidth=0.4)
            axis.set_yticks(starts, [names[i] for i in starts], fontsize=7)
            axis.set_xticks(starts, [names[i] for i in starts], fontsize=7, rotation=90)

    return Figure(
        png=_draw(draw, width=6.4, height=5.6),
        alt=f"similarity of {len(matrix)} sounds with {len(matrix)} pictures",
        caption="Bright diagonal: a sound is nearest to its own picture. Bright squares: the kind is known.",
    )


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A figure from 0 to 1 beside its interval, chance and baseline."""

    name: str
    value: float
    ci95: tuple[float, float] | None = None
    chance: float | None = None
    baseline: float | None = None


def bars(shown: Sequence[Bar]) -> Figure:
    """Figures as bars, the first on top."""

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        for y, bar in enumerate(shown):
            axis.barh(y, bar.value, height=0.5, color=COLOURS[0], label="measured" if y == 0 else None)
            if bar.ci95 is not None:
                axis.plot(bar.ci95, (y, y), color="black", linewidth=1.4, label="95 % interval" if y == 0 else None)
        for name, values, marker, colour in (
            ("chance", [bar.chance for bar in shown], "|", COLOURS[1]),
            ("baseline", [bar.baseline for bar in shown], "D", COLOURS[2]),
        ):
            known = [(value, y) for y, value in enumerate(values) if value is not None]
            if known:
                size, edge = (260, 2.6) if marker == "|" else (34, 0.0)
                xs, ys = np.array(known).T
                axis.scatter(xs, ys, marker=marker, s=size, linewidths=edge, color=colour, label=name)
        axis.set_yticks(range(len(shown)), [bar.name for bar in shown])
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.grid(axis="x", color="#d9dde2", linewidth=0.6)
        axis.set_axisbelow(True)
        figure.legend(loc="outside upper right", ncols=4, frameon=False)

    return Figure(
        png=_draw(draw, width=9.0, height=0.9 + 0.42 * len(shown)),
        alt="; ".join(f"{bar.name}: {bar.value:.3f}" for bar in shown),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Thumbnail:
    """A picture (3, H, W) uint8 under its title. `mark` frames it: "asked" in orange, "same" in green, "" not."""

    picture: np.ndarray
    title: str
    mark: str = ""


def thumbnails(shown: Sequence[Thumbnail], *, alt: str, caption: str = "", columns: int = 6) -> Figure:
    """A row of pictures, each under its title; where there are fewer than `columns`, room is left."""
    marks = {"asked": COLOURS[1], "same": COLOURS[2]}
    columns = max(columns, len(shown))

    def draw(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(1, columns))
        for axis in axes:
            axis.set_axis_off()
        for axis, item in zip(axes, shown, strict=False):
            axis.imshow(item.picture.transpose(1, 2, 0))
            _title(axis, item.title)
            if item.mark:
                height, width = item.picture.shape[1:]
                x, y = np.array([0, 1, 1, 0, 0]) * width - 0.5, np.array([0, 0, 1, 1, 0]) * height - 0.5
                axis.plot(x, y, color=marks[item.mark], linewidth=4, clip_on=False, solid_joinstyle="miter")

    return Figure(png=_draw(draw, width=1.9 * columns, height=1.9), alt=alt, caption=caption)


@dataclass(frozen=True, kw_only=True, eq=False)
class Located:
    """A picture (3, H, W) uint8, its heat map (H, W), and the true box (x0, y0, x1, y1 as fractions) if known."""

    picture: np.ndarray
    heat: np.ndarray
    box: tuple[float, float, float, float] | None = None
    title: str = ""


def heat_maps(located: Sequence[Located], *, columns: int = 6, caption: str = "") -> Figure:
    """Pictures that glow where their heat maps are high, with the true boxes drawn in white."""
    rows = -(-len(located) // columns)

    def draw(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
        for axis in axes:
            axis.set_axis_off()
        for axis, item in zip(axes, located, strict=False):
            height, width = item.picture.shape[1:]
            strength = (item.heat - item.heat.min()) / (np.ptp(item.heat) or 1.0)
            axis.imshow((item.picture.transpose(1, 2, 0) * 0.75).astype(np.uint8))
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axis.imshow(strength, cmap="autumn", alpha=0.75 * strength**2, extent=extent)
            _title(axis, item.title)
            axis.set_xlim(-0.5, width - 0.5)
            axis.set_ylim(height - 0.5, -0.5)
            if item.box is not None:
                x0, y0, x1, y1 = np.asarray(item.box) * (width, height, width, height)
                axis.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="white", linewidth=1.2)

    return Figure(png=_draw(draw, width=1.9 * columns, height=1.7 * rows), alt="heat maps", caption=caption)


def _title(axis: Any, text: str) -> None:
    """Small text above a picture, each line cut to about its width; dollar signs in file names are no formulas."""
    letters = _TITLE_LETTERS
    lines = [f"{line[: letters - 9]}…{line[-8:]}" if len(line) > letters else line for line in text.split("\n")]
    axis.set_title("\n".join(lines), fontsize=7, parse_math=False)


def _smooth(values: np.ndarray) -> np.ndarray:
    width = max(1, len(values) // 20)
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _draw(draw: Any, *, width: float, height: float) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # file names in any script; the page has them
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    caption = f"<figcaption>{html.escape(figure.caption)}</figcaption>" if figure.caption else ""
    alt = html.escape(figure.alt, quote=True)
    return f"<figure><img alt='{alt}' src='data:image/png;base64,{data}'>{caption}</figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<div class='wide'><table><tr>{head}</tr>{rows}</table></div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --quiet: #5d6570; --paper: #ffffff; --line: #d9dde2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --quiet: #9aa3ad; --paper: #15181b; --line: #343a40; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 2rem auto; max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
.intro, figcaption { color: var(--quiet); } figure { margin: 1rem 0; } figcaption { font-size: .88rem; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 500; }
</style></head><body>
{body}
</body></html>
"""
