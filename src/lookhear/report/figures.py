"""Drawings by matplotlib, which is imported here and nowhere else.

Curves, bars and matrices are SVG in the page's own colours and letters; rows of photographs are PNG. No pyplot: a
drawing changes nothing outside itself. H, W pixels of a picture.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from lookhear.report.page import COLOURS, INK, LINE, QUIET, SERIES, Figure
from lookhear.tasks.localization.drawing import REMOVED_COLOUR

# above a picture of a row of six
_TITLE_LETTERS = 30
# Points of a curve, at most: more would not be seen, and a page of a long run must stay small.
MOST_POINTS = 600
# Of a panel, in inches at 72 pixels each; the page scales it to the room there is.
_PANEL = (4.2, 2.5)
_PIXELS_AN_INCH = 130  # at most, where there is room
_FEW_POINTS = 30
_STAGES = ("original", "masked", "filled in")
_PITCHES_HZ = (250, 1000, 4000)


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Values over something that grows, float64 (n,) each; what is not a number is left out."""

    x: np.ndarray
    y: np.ndarray
    series: int = 0
    """which of the legend's names it belongs to"""


def curve_panel(
    curves: Sequence[Curve],
    *,
    title: str,
    x_name: str = "step",
    smooth: bool = False,
    floor: float | None = None,
    reference: float | None = None,
) -> Figure:
    """A small figure of one quantity, with a curve a run on the same axes.

    `smooth` draws the values thin and their running mean thick, and chooses the axis so that the most extreme half
    percent at either end may lie outside it; `floor` is the lowest value of the axis; `reference` a dotted line, such
    as chance. Curves of a few values are drawn with a mark at each.
    """
    curves = [Curve(x=c.x[kept], y=c.y[kept], series=c.series) for c in curves if (kept := np.isfinite(c.y)).any()]

    def draw(figure: Any) -> None:
        # the same margins in each, so that axes line up across the page
        axis = figure.subplots(gridspec_kw={"left": 0.13, "right": 0.98, "bottom": 0.17, "top": 0.93})
        for curve in curves:
            _draw_curve(axis, curve, smooth=smooth)
        if reference is not None:
            axis.axhline(reference, color=QUIET.light, linewidth=1, linestyle=":")
        _scale_axes(axis, curves, floor=floor, robust=smooth, also=reference)
        axis.set_xlabel(x_name)

    spans = "; ".join(f"{c.y[0]:.4g} to {c.y[-1]:.4g} in {len(c.y)} values" for c in curves)
    width, height = _PANEL
    alt = f"{title} over {x_name}: {spans or 'no values'}"
    return Figure(drawing=_svg(draw, width=width, height=height, fixed=True), alt=alt, title=title)


def running_mean(values: np.ndarray) -> np.ndarray:
    """float64 (n,): the mean over a twentieth of the values around each; fewer at both ends."""
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    mean: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return mean


def thin_out(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` of the points (n,): of each stretch its lowest and its highest, so that no peak is lost."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    pairs = ((y[a:b].argmin() + a, y[a:b].argmax() + a) for a, b in pairwise(edges))
    kept = sorted({int(place) for pair in pairs for place in pair})
    return x[kept], y[kept]


def _draw_curve(axis: Any, curve: Curve, *, smooth: bool) -> None:
    few = len(curve.x) <= _FEW_POINTS
    style = {
        "color": SERIES[curve.series % len(SERIES)].light,
        "linestyle": "-" if curve.series < len(SERIES) else "--",
    }
    if smooth and not few:
        axis.plot(*thin_out(curve.x, curve.y), **style, alpha=0.28, linewidth=0.8)
        axis.plot(*thin_out(curve.x, running_mean(curve.y)), **style, linewidth=1.7)
    else:
        marks = {"marker": "o", "markersize": 3.2} if few else {}
        axis.plot(*thin_out(curve.x, curve.y), **style, **marks, linewidth=1.5)


def _scale_axes(axis: Any, curves: Sequence[Curve], *, floor: float | None, robust: bool, also: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ends = []
    for curve in curves:
        inside = robust and len(curve.y) > _FEW_POINTS
        ends += list(np.percentile(curve.y, [0.5, 99.5])) if inside else [curve.y.min(), curve.y.max()]
    ends += [] if also is None else [also]
    ends += [] if floor is None else [floor]
    if ends:
        low, high = min(ends), max(ends)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axis.set_ylim(low - room if floor is None or low < floor else low, high + room)
    last = max((curve.x[-1] for curve in curves), default=1.0)
    first = min((curve.x[0] for curve in curves), default=0.0)
    axis.set_xlim(min(first, 0.0), last * 1.02 if last > first else last + 1.0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=last >= 5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value, last)))
    axis.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axis.ticklabel_format(axis="y", useOffset=False, scilimits=(-3, 5))
    axis.grid(axis="y")


def _short(value: float, last: float) -> str:
    """A place on an axis that ends with `last`: 15k of 20k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if last >= 10 * size:
            return f"{value / size:g}{letter}" if value else "0"
    return f"{value:g}"


def similarity_matrix(matrix: np.ndarray, *, groups: Sequence[str] | None = None) -> Figure:
    """Cosines of N sounds (rows) with N pictures (columns); clips of one group are put side by side."""
    order = np.argsort(np.asarray(groups), kind="stable") if groups is not None else np.arange(len(matrix))
    shown = matrix[np.ix_(order, order)]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        image = axis.imshow(shown, cmap="viridis", interpolation="none")
        figure.colorbar(image, ax=axis, label="cosine", shrink=0.8)
        axis.set_xlabel("picture of clip")
        axis.set_ylabel("sound of clip")
        if groups is not None:
            names = [groups[i] for i in order]
            starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
            for start in starts[1:]:
                axis.axhline(start - 0.5, color="white", linewidth=0.4)
                axis.axvline(start - 0.5, color="white", linewidth=0.4)
            shown_names = [names[i] for i in starts]
            axis.set_yticks(starts, shown_names, fontsize=7, parse_math=False)
            axis.set_xticks(starts, shown_names, fontsize=7, parse_math=False, rotation=90)

    return Figure(
        drawing=_svg(draw, width=6.4, height=5.6),
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
            axis.barh(y, bar.value, height=0.5, color=SERIES[0].light, label="measured" if y == 0 else None)
            if bar.ci95 is not None:
                axis.plot(bar.ci95, (y, y), color=INK.light, linewidth=1.4, label="95 % interval" if y == 0 else None)
        for name, values, marker, colour in (
            ("chance", [bar.chance for bar in shown], "|", SERIES[1]),
            ("baseline", [bar.baseline for bar in shown], "D", SERIES[2]),
        ):
            known = [(value, y) for y, value in enumerate(values) if value is not None]
            if known:
                size, edge = (260, 2.6) if marker == "|" else (34, 0.0)
                xs, ys = np.array(known).T
                axis.scatter(xs, ys, marker=marker, s=size, linewidths=edge, color=colour.light, label=name)
        axis.set_yticks(range(len(shown)), [bar.name for bar in shown])
        axis.invert_yaxis()
        axis.set_xlim(0, 1)
        axis.grid(axis="x")
        figure.legend(loc="outside upper right", ncols=4)

    return Figure(
        drawing=_svg(draw, width=9.0, height=0.9 + 0.42 * len(shown)),
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
    marks = {"asked": SERIES[1].light, "same": SERIES[2].light}
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

    return Figure(drawing=_png(draw, width=1.9 * columns, height=1.9), alt=alt, caption=caption)


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

    return Figure(drawing=_png(draw, width=1.9 * columns, height=1.7 * rows), alt="heat maps", caption=caption)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stages:
    """One window as it was, under a mask, and filled in: pictures uint8 (3, H, W), log-mel float32 (F, T)."""

    pictures: tuple[np.ndarray, np.ndarray, np.ndarray]
    spectrograms: tuple[np.ndarray, np.ndarray, np.ndarray]
    removed: np.ndarray
    """bool (F, T): what the mask took of the spectrogram"""
    seconds: float
    """length of the window"""
    edges_hz: np.ndarray
    """(F + 1,): where mel bins begin and end"""


def reconstruction(stages: Stages, *, title: str, caption: str = "") -> Figure:
    """Picture and spectrogram of a window, each original, masked and filled in; low pitches at the bottom."""
    low, high = (float(end) for end in np.percentile(stages.spectrograms[0], [0.5, 99.5]))

    def draw(figure: Any) -> None:
        # the same column is at the same place in each drawing
        places = {"left": 0.0, "right": 0.995, "bottom": 0.17, "top": 0.9, "wspace": 0.06}
        axes = figure.subplots(1, 7, gridspec_kw={"width_ratios": (1, 1, 1, 0.3, 1, 1, 1), **places})
        axes[3].set_axis_off()  # room for the pitches
        for axis, name, picture in zip(axes[:3], _STAGES, stages.pictures, strict=True):
            axis.imshow(picture.transpose(1, 2, 0), interpolation="none")
            axis.set_title(name, fontsize=8, color=QUIET.light)
            axis.set_axis_off()
            axis.set_anchor("N")
        for axis, name, values in zip(axes[4:], _STAGES, stages.spectrograms, strict=True):
            shown = np.ma.masked_array(values, stages.removed if name == "masked" else False)
            axis.set_facecolor(np.array(REMOVED_COLOUR) / 255)
            axis.imshow(
                shown,
                cmap="magma",
                vmin=low,
                vmax=high,
                origin="lower",
                aspect="auto",
                interpolation="none",
                extent=(0, stages.seconds, -0.5, len(values) - 0.5),
            )
            axis.set_title(name, fontsize=8, color=QUIET.light)
            axis.set_yticks(np.interp(_PITCHES_HZ, stages.edges_hz, np.arange(len(values) + 1) - 0.5), [])
            axis.set_xticks([0, stages.seconds], ["0", f"{stages.seconds:.3g} s"])
            for label, side in zip(axis.get_xticklabels(), ("left", "right"), strict=True):
                label.set_horizontalalignment(side)
        axes[4].set_yticklabels([f"{pitch / 1000:g} kHz" for pitch in _PITCHES_HZ])

    alt = "a picture and a spectrogram, each original, masked and filled in"
    return Figure(drawing=_svg(draw, width=11.0, height=2.1, fixed=True), alt=alt, title=title, caption=caption)


def _title(axis: Any, text: str) -> None:
    """Small text above a picture, each line cut to about its width; dollar signs in file names are no formulas."""
    letters = _TITLE_LETTERS
    lines = [f"{line[: letters - 9]}…{line[-8:]}" if len(line) > letters else line for line in text.split("\n")]
    axis.set_title("\n".join(lines), fontsize=7, parse_math=False)


# ---- from matplotlib to the page


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters: the page's, and they can be found and copied
    "svg.hashsalt": "lookhear",  # the same drawing has the same bytes
    "font.size": 8.5,
    "text.color": INK.light,
    "axes.labelcolor": QUIET.light,
    "axes.edgecolor": LINE.light,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE.light,
    "grid.linewidth": 0.6,
    "xtick.color": LINE.light,
    "ytick.color": LINE.light,
    "xtick.labelcolor": QUIET.light,
    "ytick.labelcolor": QUIET.light,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def _svg(draw: Callable[[Any], None], *, width: float, height: float, fixed: bool = False) -> bytes:
    """An SVG element of `width` x `height` inches that fills the room it is given and follows the page's colours.

    `fixed`: `draw` sets the margins itself; otherwise they are made to fit.
    """
    text = _saved(draw, width=width, height=height, kind="svg", style=_STYLE, fixed=fixed).decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+(?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', rf'\1 style="max-width: {_PIXELS_AN_INCH * width:.0f}px"', text, count=1
    )
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # names are used by drawings that have them; in a page of many drawings each name must be of one alone
    used = {one or other for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)}
    own = hashlib.sha256(text.encode()).hexdigest()[:10]
    text = re.sub(r' id="([^"]+)"', lambda found: f' id="{own}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{own}-", text)
    for colour in COLOURS:
        text = text.replace(colour.light, f"var(--{colour.name})")
    return text.encode("utf-8")


def _png(draw: Callable[[Any], None], *, width: float, height: float) -> bytes:
    """A picture on white, of `width` x `height` inches."""
    return _saved(draw, width=width, height=height, kind="png", style={})


def _saved(
    draw: Callable[[Any], None],
    *,
    width: float,
    height: float,
    kind: str,
    style: dict[Any, Any],
    fixed: bool = False,
) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # file names in any script; the page has them
        figure = Canvas(figsize=(width, height), dpi=110, layout=None if fixed else "constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    return stream.getvalue()
