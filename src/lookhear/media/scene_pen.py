"""What scenes are drawn with: `Moment` (where in its story an object is), `Look` (its colours) and `Pen`.

An object is drawn in its own coordinates: x to the right and y down, about 2 units high around (0, 0).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Color = tuple[int, int, int]
Point = tuple[float, float]

RUN_UP_SECONDS = 0.4  # how long before its event a movement begins
NEVER = 99.0  # seconds since or until an event that there is not


@dataclass(frozen=True, kw_only=True)
class Moment:
    """An instant of a clip as its object knows it."""

    since: float  # seconds since the last event, NEVER before the first
    until: float  # seconds until the next event, NEVER after the last
    count: int  # events so far
    variant: float  # 0..1, the same for the whole clip: what differs between two objects of one kind

    def decay(self, tau: float) -> float:
        """1 at the event, dying away with the time constant `tau` seconds."""
        return math.exp(-self.since / tau)

    @property
    def run_up(self) -> float:
        """0 when the movement towards the next event begins, 1 at the event; 0 while there is none."""
        return max(0.0, 1.0 - self.until / RUN_UP_SECONDS)

    def swing(self, rest: float = 0.35) -> float:
        """A tool that strikes: `rest` at rest, raised to 1, 0 at the event, then back to rest."""
        p = self.run_up
        home = rest * (1.0 - self.decay(0.12))
        if p <= 0.0:
            return home
        if p < 0.55:
            return home + (1.0 - home) * math.sin(0.5 * math.pi * p / 0.55)
        return 1.0 - ((p - 0.55) / 0.45) ** 2


@dataclass(frozen=True, kw_only=True)
class Look:
    """The colours of one object."""

    main: Color
    second: Color
    dark: Color
    effect: Color


class Pen:
    """Draws in the object's coordinates on a picture, and remembers how far its solid parts reach."""

    def __init__(self, picture: Image.Image, *, center: Point, unit: float, mirrored: bool) -> None:
        self._draw = ImageDraw.Draw(picture, "RGBA")
        self._center = center
        self._unit = unit
        self._sign = -1.0 if mirrored else 1.0
        self.extent: tuple[float, float, float, float] | None = None  # pixels: left, top, right, bottom

    def _place(self, points: Sequence[Point]) -> list[Point]:
        x0, y0 = self._center
        return [(x0 + self._sign * self._unit * x, y0 + self._unit * y) for x, y in points]

    def _reach(self, points: Sequence[Point], margin: float, solid: bool) -> None:
        if not solid:
            return
        left, top, right, bottom = self.extent or (1e9, 1e9, -1e9, -1e9)
        for x, y in points:
            left, top = min(left, x - margin), min(top, y - margin)
            right, bottom = max(right, x + margin), max(bottom, y + margin)
        self.extent = (left, top, right, bottom)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, color: Color, *, alpha: float = 1.0, solid: bool = True
    ) -> None:
        """A filled ellipse."""
        (cx, cy), rx, ry = self._place([(x, y)])[0], rx * self._unit, ry * self._unit
        box = [(cx - rx, cy - ry), (cx + rx, cy + ry)]
        self._reach(box, 0.0, solid)
        self._draw.ellipse(box, fill=(*color, _opacity(alpha)))

    def disc(self, x: float, y: float, r: float, color: Color, *, alpha: float = 1.0, solid: bool = True) -> None:
        """A filled circle."""
        self.ellipse(x, y, r, r, color, alpha=alpha, solid=solid)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, color: Color, *, alpha: float = 1.0) -> None:
        """The outline of an ellipse; an effect, not a solid part."""
        if alpha <= 0.02:
            return
        (cx, cy), rx, ry = self._place([(x, y)])[0], rx * self._unit, ry * self._unit
        box = [(cx - rx, cy - ry), (cx + rx, cy + ry)]
        self._draw.ellipse(box, outline=(*color, _opacity(alpha)), width=max(1, round(width * self._unit)))

    def polygon(self, points: Sequence[Point], color: Color, *, alpha: float = 1.0, solid: bool = True) -> None:
        """A filled polygon."""
        placed = self._place(points)
        self._reach(placed, 0.0, solid)
        self._draw.polygon(placed, fill=(*color, _opacity(alpha)))

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """A filled upright rectangle."""
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def line(
        self, points: Sequence[Point], width: float, color: Color, *, alpha: float = 1.0, solid: bool = True
    ) -> None:
        """A line through the points."""
        if alpha <= 0.02:
            return
        placed = self._place(points)
        self._reach(placed, 0.5 * width * self._unit, solid)
        wide = max(1, round(width * self._unit))
        self._draw.line(placed, fill=(*color, _opacity(alpha)), width=wide, joint="curve")

    def glow(self, x: float, y: float, r: float, color: Color, strength: float) -> None:
        """Light around a point, `strength` 0..1."""
        if strength > 0.03:
            self.disc(x, y, r, color, alpha=0.35 * strength, solid=False)
            self.disc(x, y, 0.65 * r, color, alpha=0.6 * strength, solid=False)

    def rays(self, x: float, y: float, inner: float, outer: float, count: int, color: Color, strength: float) -> None:
        """Lines that fly out from a point."""
        for k in range(count):
            angle = 2 * math.pi * (k + 0.5) / count
            c, s = math.cos(angle), math.sin(angle)
            ends = [(x + inner * c, y + inner * s), (x + outer * c, y + outer * s)]
            self.line(ends, 0.09, color, alpha=strength, solid=False)


def _opacity(alpha: float) -> int:
    return max(0, min(255, round(255 * alpha)))


def turned(points: Sequence[Point], angle: float, x: float = 0.0, y: float = 0.0) -> list[Point]:
    """The points turned by `angle` radians around (0, 0), then moved by (x, y)."""
    c, s = math.cos(angle), math.sin(angle)
    return [(x + px * c - py * s, y + px * s + py * c) for px, py in points]
