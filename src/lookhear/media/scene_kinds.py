"""How each kind of scene event looks: at rest, about to happen, and as its after-effects die away.

All that moves follows from a `Moment`, the time since the last event and until the next one; at `since == 0` the
picture shows the strike itself, which is the instant when the sound begins.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lookhear.media.scene_pen import NEVER, Look, Moment, Pen, turned

Draw = Callable[[Pen, Moment, Look], None]


def _ball(pen: Pen, m: Moment, look: Look) -> None:
    """Hops from the ground in silence and lands at the event: squash and dust."""
    p = m.run_up
    height = 1.9 * 4 * p * (1 - p) if p > 0 else 0.0
    squash = 0.45 * m.decay(0.12) if p < 0.05 else 0.0
    wobble = squash * math.cos(18 * m.since) if squash > 0.01 else 0.0
    spread = 0.5 + 2.6 * min(m.since, 0.6)
    for side in (-1, 1):
        pen.disc(
            side * spread, 0.85, 0.1 + 0.3 * min(m.since, 0.6), look.effect, alpha=1.2 * m.decay(0.25), solid=False
        )
        pen.disc(
            side * 0.75 * spread, 0.65, 0.1 + 0.2 * min(m.since, 0.6), look.effect, alpha=m.decay(0.2), solid=False
        )
    pen.glow(0, 0.75, 1.25, look.effect, 1.5 * m.decay(0.12))
    pen.box(-1.1, 1.0, 1.1, 1.14, look.second)
    for side in (-1, 1):
        for k in range(3):
            foot = (side * (0.95 + 1.5 * min(m.since, 0.5)), 0.85 - 0.3 * k)
            head = (foot[0] + 0.6 * side, foot[1] - 0.15 - 0.2 * k)
            pen.line([foot, head], 0.11, look.effect, alpha=1.3 * m.decay(0.16), solid=False)
    rx, ry = 0.72 * (1 + wobble), 0.72 * (1 - wobble)
    y = 1.0 - ry - height
    pen.ellipse(0, y, rx, ry, look.main)
    pen.line([(-rx, y), (-0.4 * rx, y + 0.3 * ry), (0.4 * rx, y + 0.3 * ry), (rx, y)], 0.13, look.second)
    pen.line([(0, y - ry), (0.3 * rx, y - 0.1), (0, y + ry)], 0.13, look.second)


def _bell(pen: Pen, m: Moment, look: Look) -> None:
    """A hammer hits the rim of a bell; the bell trembles and waves run from it."""
    for k in range(3):
        r = 0.9 + 0.25 * k + 1.3 * min(m.since, 0.8)
        pen.ring(0.3, 0.1, r, r, 0.1, look.effect, alpha=1.3 * m.decay(0.3) - 0.25 * k)
    shift = 0.3 + 0.16 * m.decay(0.3) * math.cos(60 * m.since)
    shape = [(-0.16, -1), (0.16, -1), (0.4, -0.72), (0.5, -0.1), (0.62, 0.45), (0.85, 0.75), (-0.85, 0.75)]
    shape += [(-0.62, 0.45), (-0.5, -0.1), (-0.4, -0.72)]
    pen.disc(shift, 0.82, 0.2, look.dark)
    pen.polygon([(x + shift, y) for x, y in shape], look.main)
    pen.polygon([(0.62 + shift, 0.45), (0.85 + shift, 0.75), (shift - 0.85, 0.75), (shift - 0.62, 0.45)], look.second)
    angle = 0.95 + 0.9 * m.swing()
    x, y = -1.35 + 0.85 * math.cos(angle), 1.0 - 1.1 * math.sin(angle)
    pen.line([(-1.35, 1.0), (x, y)], 0.14, look.dark)
    pen.disc(x, y, 0.26, look.second)
    pen.glow(-0.45, 0.2, 0.55, look.effect, m.decay(0.15))


def _bird(pen: Pen, m: Moment, look: Look) -> None:
    """Opens its beak and lifts its wing; notes fly from the beak."""
    voice = m.decay(0.3) if m.since < NEVER else 0.0
    y = 0.22 * math.sin(0.5 * math.pi * m.run_up) - 0.1 * voice
    pen.polygon([(-0.55, 0.1 + y), (-1.35, -0.1 + y), (-1.25, 0.45 + y)], look.second)
    pen.line([(-0.1, 0.6), (-0.1, 1.0)], 0.1, look.dark)
    pen.line([(0.15, 0.6), (0.15, 1.0)], 0.1, look.dark)
    pen.ellipse(0, 0.25 + y, 0.75, 0.5, look.main)
    pen.disc(0.5, -0.4 + y, 0.42, look.main)
    pen.disc(0.6, -0.48 + y, 0.1, look.dark)
    gape = 0.06 + 0.42 * voice
    pen.polygon([(0.85, -0.5 + y), (0.85, -0.36 + y), (1.35, -0.42 - gape + y)], look.second)
    pen.polygon([(0.85, -0.44 + y), (0.82, -0.25 + y), (1.3, -0.36 + gape + y)], look.second)
    wing = 1.1 * voice - 0.7 * m.run_up
    pen.polygon(turned([(0.25, 0), (-0.65, -0.18), (-0.6, 0.3)], wing, -0.05, 0.2 + y), look.dark)
    for k in range(3):
        age = m.since - 0.07 * k
        if 0 <= age < 0.9:
            x, up = 1.5 + 1.1 * age + 0.2 * k, -0.6 - 0.9 * age + 0.35 * k
            pen.disc(x, up, 0.17, look.effect, alpha=1.4 * m.decay(0.35), solid=False)
            pen.line([(x + 0.15, up), (x + 0.15, up - 0.5)], 0.08, look.effect, alpha=1.4 * m.decay(0.35), solid=False)


def _clap(pen: Pen, m: Moment, look: Look) -> None:
    """Two blocks meet."""
    gap = 0.12 + 0.62 * m.swing(0.45)
    for k, side in enumerate((-1, 1)):
        color = (look.main, look.second)[k]
        pen.box(side * gap, -0.95, side * (gap + 0.42), 0.95, color)
        pen.box(side * (gap + 0.42), -0.2, side * (gap + 0.85), 0.2, look.dark)
        pen.line([(side * gap, -0.95), (side * gap, 0.95)], 0.1, look.dark)
    strength = 1.3 * m.decay(0.16)
    reach = min(m.since, 0.5)
    for k in (-2, -1, 0, 1, 2):
        for side in (-1, 1):
            foot, head = 1.05 + 1.2 * reach, 1.5 + 2.2 * reach
            pen.line([(0.22 * k, side * foot), (0.42 * k, side * head)], 0.11, look.effect, alpha=strength, solid=False)
    pen.glow(0, 0, 1.2, look.effect, 1.5 * m.decay(0.12))


def _drop(pen: Pen, m: Moment, look: Look) -> None:
    """A drop falls from a tap into water: a crown, then ripples."""
    pen.polygon([(-0.9, -1.5), (0.2, -1.5), (0.2, -1.1), (-0.15, -1.1), (-0.15, -1.25), (-0.9, -1.25)], look.second)
    pen.ellipse(0, 0.75, 1.45, 0.42, look.dark)
    pen.ellipse(0, 0.72, 1.35, 0.36, look.main)
    for k in range(3):
        age = m.since - 0.12 * k
        if age >= 0:
            grow = 0.2 + 1.4 * min(age, 0.8)
            alpha = 1.4 * math.exp(-age / 0.35)
            pen.ring(0, 0.72, 0.95 * grow, 0.27 * grow, 0.11, look.effect, alpha=alpha)
    if m.since < 0.4:
        up = 0.85 * math.sin(math.pi * m.since / 0.4) + 0.25
        for x in (-0.42, 0, 0.42):
            pen.disc(x * (0.8 + 2 * m.since), 0.65 - up * (1 - 0.5 * abs(x)), 0.15, look.effect, solid=False)
    pen.glow(0, 0.55, 1.0, look.effect, 1.4 * m.decay(0.12))
    fall = 1.55 * m.run_up**2
    size = 0.07 + 0.15 * min(1.0, 2.5 * m.run_up)
    if m.run_up > 0 or m.since > 0.3:
        y = -0.98 + fall
        pen.disc(0.02, y, size, look.effect)
        pen.polygon(
            [(0.02 - 0.9 * size, y - 0.3 * size), (0.02, y - 2.3 * size), (0.02 + 0.9 * size, y - 0.3 * size)],
            look.effect,
        )


def _drum(pen: Pen, m: Moment, look: Look) -> None:
    """A stick falls on a drum; the skin shakes and lights up, crumbs jump."""
    pen.box(-0.95, -0.1, 0.95, 0.8, look.main)
    pen.ellipse(0, 0.8, 0.95, 0.25, look.main)
    for k in range(-2, 3):
        pen.line([(0.42 * k - 0.2, 0.0), (0.42 * k, 0.9), (0.42 * k + 0.2, 0.0)], 0.07, look.second)
    pen.ellipse(0, -0.1, 1.0, 0.32, look.dark)
    pen.ellipse(0, -0.12, 0.9, 0.25, look.second)
    lit = m.decay(0.18)
    pen.glow(0, -0.3, 1.0, look.effect, lit)
    pen.ellipse(0, -0.12, 0.9, 0.25, look.effect, alpha=lit, solid=False)
    ring = 0.25 + 1.6 * min(m.since, 0.6)
    pen.ring(0, -0.12, ring, 0.3 * ring, 0.1, look.effect, alpha=m.decay(0.3))
    for k, x in enumerate((-0.65, -0.25, 0.25, 0.65)):
        top = 0.85 + 0.2 * (k % 2)
        up = 4 * top * (m.since / 0.5) * (1 - m.since / 0.5)
        if up > 0:
            pen.disc(x, -0.2 - up, 0.11, look.effect, solid=False)
    raised = m.swing(0.5)
    angle = 0.25 + 0.95 * raised
    tip = (0.05, -0.28 - 0.75 * raised)
    hand = (tip[0] + 1.35 * math.cos(angle), tip[1] - 1.35 * math.sin(angle))
    pen.line([tip, hand], 0.15, look.dark)
    pen.disc(*tip, 0.16, look.second)


def _engine(pen: Pen, m: Moment, look: Look) -> None:
    """An engine with a wheel with spokes: its piston rises, then it fires, turns and puffs."""
    turn = 1.5 * m.count - 1.5 * m.decay(0.2) + 6.28 * m.variant
    kick = 0.1 * m.decay(0.12) * math.cos(50 * m.since) + 0.07 * m.run_up
    for k in range(3):
        age = m.since + 0.05 * k
        rise = -1.35 - 1.25 * min(age, 0.8) - 0.1 * k
        alpha = 1.3 * m.decay(0.3)
        pen.disc(
            -0.85 + (0.5 * k - 0.4) * (0.4 + age),
            rise,
            0.22 + 0.5 * min(age, 0.8),
            look.effect,
            alpha=alpha,
            solid=False,
        )
    pen.box(-1.1, -1.2 + kick, -0.6, -0.2, look.dark)
    piston = 0.5 * math.sin(0.5 * math.pi * m.run_up) + 0.08
    pen.box(-0.4, -0.35 - piston + kick, -0.1, -0.2, look.dark)
    pen.box(-0.55, -0.5 - piston + kick, 0.05, -0.32 - piston + kick, look.second)
    pen.box(-1.3, -0.35 + kick, 0.3, 0.85, look.main)
    pen.box(-1.3, 0.85, 1.1, 1.0, look.dark)
    pen.disc(0.4, 0.1, 0.9, look.second)
    pen.disc(0.4, 0.1, 0.68, look.dark)
    for k in range(5):
        angle = turn + 2 * math.pi * k / 5
        pen.line([(0.4, 0.1), (0.4 + 0.75 * math.cos(angle), 0.1 + 0.75 * math.sin(angle))], 0.14, look.second)
    pen.disc(0.4, 0.1, 0.2, look.main)
    pen.glow(-1.0, 0.3, 0.5, look.effect, 1.3 * m.decay(0.2))


def _firework(pen: Pen, m: Moment, look: Look) -> None:
    """A rocket rises from a mortar and bursts: sparks fly out and fall."""
    top = -0.75
    pen.polygon([(-0.3, 0.35), (0.3, 0.35), (0.42, 1.0), (-0.42, 1.0)], look.main)
    pen.line([(-0.34, 0.55), (0.34, 0.55)], 0.13, look.second)
    pen.box(-0.6, 0.95, 0.6, 1.1, look.dark)
    if m.run_up > 0:
        y = 0.3 + (top - 0.3) * m.run_up
        pen.line([(0, y), (0, min(y + 0.7, 0.35))], 0.12, look.second, alpha=0.9)
        pen.disc(0, y, 0.15, look.effect)
    if m.since < 1.2:
        r = 0.25 + 1.15 * (1 - math.exp(-m.since / 0.2))
        fall = 0.9 * m.since**2
        strength = 1.6 * m.decay(0.4)
        for k in range(11):
            angle = 2 * math.pi * (k + m.variant) / 11
            c, s = math.cos(angle), math.sin(angle)
            head = (r * c, top + r * s + fall)
            tail = (0.72 * r * c, top + 0.72 * r * s + 0.6 * fall)
            pen.line([tail, head], 0.1, look.effect, alpha=strength, solid=False)
            pen.disc(*head, 0.14, (look.main, look.effect)[k % 2], alpha=strength, solid=m.since < 0.5)
        pen.glow(0, top, 1.0, look.effect, 1.3 * m.decay(0.12))


def _glass(pen: Pen, m: Moment, look: Look) -> None:
    """A stone drops on a goblet: shards fly; after a while a new one has grown in its place."""
    whole = 0.0 if m.since < 0.3 else min(1.0, (m.since - 0.3) / 0.25)
    pen.box(-0.8, 0.9, 0.8, 1.05, look.dark)
    if whole > 0:
        y = 0.9 - 1.25 * whole
        pen.line([(0, 0.9), (0, 0.9 - 0.6 * whole)], 0.12, look.second)
        pen.ellipse(0, 0.88, 0.42, 0.09, look.second)
        cup = [(-0.6, y), (0.6, y), (0.45, y + 0.55 * whole), (0.1, y + 0.75 * whole), (-0.1, y + 0.75 * whole)]
        pen.polygon([*cup, (-0.45, y + 0.55 * whole)], look.main)
        pen.line([(-0.35, y + 0.1), (-0.28, y + 0.45 * whole)], 0.1, look.effect, solid=False)
    if m.run_up > 0:
        pen.disc(0, -1.75 + 1.3 * m.run_up**2, 0.24, look.dark)
        pen.disc(0.05, -1.8 + 1.3 * m.run_up**2, 0.1, look.second)
    if m.since < 0.9:
        strength = 1.7 * m.decay(0.35)
        for k in range(10):
            angle = math.pi * (1.08 + 0.84 * (k + 0.5) / 10) + 0.1 * math.sin(9 * k + 6 * m.variant)
            speed = (2.2, 3.1, 2.6)[k % 3]
            x = 0.25 * math.cos(angle) + speed * m.since * math.cos(angle)
            y = 0.1 + speed * m.since * math.sin(angle) + 3.2 * m.since**2
            size = 0.3 - 0.08 * (k % 3)
            shard = turned([(-size, -0.4 * size), (size, 0), (-0.3 * size, size)], 5 * m.since * (k - 5) + k, x, y)
            pen.polygon(shard, (look.main, look.effect)[k % 2], alpha=strength, solid=m.since < 0.25)
        pen.glow(0, -0.1, 0.9, look.effect, m.decay(0.1))


def _jaw(pen: Pen, m: Moment, look: Look) -> None:
    """A head that says "ah": the jaw falls and comes back."""
    voice = 0.0
    if m.since < NEVER:
        voice = min(1.0, 0.45 + m.since / 0.08) * math.exp(-max(0.0, m.since - 0.2) / 0.14)
    drop = 0.14 + 0.7 * voice - 0.12 * m.run_up
    pen.box(-0.72, 0.05 + drop, 0.72, 0.45 + drop, look.second)
    pen.box(-0.6, -0.05, 0.6, 0.1 + drop, look.dark)
    pen.ellipse(0, 0.08 + 0.6 * drop, 0.35, 0.4 * drop, (200, 60, 70))
    pen.box(-0.8, -0.9, 0.8, 0.0, look.main)
    for k in range(4):
        x = -0.54 + 0.36 * k
        pen.polygon([(x - 0.14, 0.0), (x + 0.14, 0.0), (x, 0.2)], look.effect)
        pen.polygon([(x - 0.14, 0.06 + drop), (x + 0.14, 0.06 + drop), (x, drop - 0.13)], look.effect)
    for side in (-1, 1):
        pen.disc(0.4 * side, -0.5, 0.25, look.effect)
        pen.disc(0.4 * side, -0.5, 0.12, look.dark)
        if m.run_up > 0:  # shuts its eyes
            pen.ellipse(0.4 * side, -0.5 - 0.26 * (1 - m.run_up), 0.26, 0.26 * m.run_up, look.second)
        pen.line([(side * 0.12, -0.8 - 0.15 * voice), (side * 0.65, -0.85 - 0.15 * voice)], 0.1, look.dark)
    for k in range(2):
        r = 0.9 + 0.4 * k + 0.8 * min(m.since, 0.7)
        pen.ring(0, 0.15, r, r, 0.09, look.effect, alpha=voice - 0.3 * k)


def _kettle(pen: Pen, m: Moment, look: Look) -> None:
    """The lid begins to dance, then steam shoots from the spout."""
    strength = math.exp(-max(0.0, m.since - 0.2) / 0.22)
    boil = 0.22 * m.run_up * math.sin(24 * m.until) ** 2 if m.run_up > 0 else 0.0
    push = boil + 0.1 * m.run_up + 0.3 * m.decay(0.25)
    pen.line([(-0.75, -0.2), (-0.8, -1.0), (0.4, -1.0), (0.45, -0.35)], 0.13, look.dark)
    pen.polygon([(-0.62, -0.35), (0.42, -0.35), (0.75, 0.9), (-0.95, 0.9)], look.main)
    pen.polygon([(0.5, 0.15), (0.6, 0.5), (1.25, -0.25), (1.05, -0.35)], look.second)
    pen.ellipse(-0.1, -0.4 - push, 0.5, 0.13, look.second)
    pen.disc(-0.1, -0.56 - push, 0.13, look.dark)
    pen.box(-0.95, 0.75, 0.75, 0.9, look.second)
    for k in range(3):
        if m.run_up > 0.25 * k:
            pen.disc(-0.5 + 0.4 * k, -0.75 - push - 0.35 * m.run_up, 0.13, look.effect, alpha=0.8, solid=False)
    if m.since < 1.2:
        length = 1.0 + 0.7 * min(m.since / 0.25, 1.0)
        for k in range(6):
            along = (k + 0.6) / 6 * length
            x, y = 1.2 + 0.75 * along, -0.4 - 0.75 * along
            pen.disc(x, y, 0.14 + 0.28 * along, look.effect, alpha=0.85 * strength, solid=False)


def _lamp(pen: Pen, m: Moment, look: Look) -> None:
    """Two pilot lights fill up, then the siren lamp flashes and its beam turns."""
    lit = math.exp(-max(0.0, m.since - 0.3) / 0.16)
    if lit > 0.03:
        for k in range(2):
            angle = 5.0 * m.since + math.pi * k + 0.5
            beam = turned([(0, 0), (2.6, -0.55), (2.6, 0.55)], angle, 0.0, -0.1)
            pen.polygon(beam, look.main, alpha=0.5 * lit, solid=False)
        pen.glow(0, -0.15, 1.35, look.main, 1.1 * lit)
    pen.box(-0.95, 0.55, 0.95, 1.0, look.dark)
    pen.box(-0.95, 0.55, 0.95, 0.64, look.second)
    dim = (look.main[0] // 2, look.main[1] // 2, look.main[2] // 2)
    for color, alpha in ((dim, 1.0), (look.main, lit)):
        if alpha > 0.03:
            pen.disc(0, -0.2, 0.7, color, alpha=alpha)
            pen.polygon([(-0.7, -0.2), (0.7, -0.2), (0.7, 0.55), (-0.7, 0.55)], color, alpha=alpha)
    pen.disc(0, -0.1, 0.38, look.effect, alpha=lit)
    for side in (-1, 1):
        if m.run_up > 0:
            pen.disc(0.6 * side, 0.78, 0.1 + 0.12 * m.run_up, look.second)
    for k in (-1, 1):
        pen.line([(0.35 * k, -0.75), (0.35 * k, 0.5)], 0.06, look.dark)


def _metronome(pen: Pen, m: Moment, look: Look) -> None:
    """The arm swings across and clicks as it passes upright; a window lights."""
    side = 1 - 2 * (m.count % 2)
    away = 0.62
    p = m.run_up
    if p > 0:
        angle = side * away * math.cos(0.5 * math.pi * p)
    else:
        angle = side * away * (1 - m.decay(0.12))
    if m.since < 0.4 and p <= 0:
        angle = side * away * math.sin(0.5 * math.pi * min(1.0, m.since / 0.25))
    pen.polygon([(-0.35, -0.8), (0.35, -0.8), (0.85, 1.0), (-0.85, 1.0)], look.main)
    pen.polygon([(-0.22, -0.6), (0.22, -0.6), (0.4, 0.4), (-0.4, 0.4)], look.dark)
    pen.polygon(
        [(-0.22, -0.6), (0.22, -0.6), (0.4, 0.4), (-0.4, 0.4)], look.effect, alpha=1.1 * m.decay(0.16), solid=False
    )
    pen.box(-0.95, 0.6, 0.95, 1.0, look.dark)
    tip = (1.75 * math.sin(angle), 0.55 - 1.75 * math.cos(angle))
    pen.line([(0, 0.55), tip], 0.12, look.second)
    pen.polygon(turned([(-0.24, -1.15), (0.24, -1.15), (0.17, -0.8), (-0.17, -0.8)], angle, 0.0, 0.55), look.second)
    pen.rays(0, -1.25, 0.35 + m.since, 0.75 + 2.2 * min(m.since, 0.5), 8, look.effect, 1.2 * m.decay(0.14))


def _rattle(pen: Pen, m: Moment, look: Look) -> None:
    """A ratchet: its crank is wound back, then the cogwheel spins under a tongue and slows down."""
    travelled = 4 * math.pi * (1 - m.decay(0.28)) if m.since < NEVER else 0.0
    turn = travelled - 1.5 * math.sin(0.5 * math.pi * m.run_up)
    pen.line([(0, 0.2), (0, 1.1)], 0.24, look.dark)
    speed = m.decay(0.28)
    for k in range(3):
        start = turn + 2.1 * k
        arc = [(1.2 * math.cos(start + a / 5), -0.2 + 1.2 * math.sin(start + a / 5)) for a in range(7)]
        pen.line(arc, 0.16, look.effect, alpha=1.3 * speed - 0.1, solid=False)
    cogs = []
    for k in range(10):
        for offset, r in ((0.0, 0.72), (0.1, 0.98), (0.3, 0.98), (0.4, 0.72)):
            angle = turn + 2 * math.pi * k / 10 + offset
            cogs.append((r * math.cos(angle), -0.2 + r * math.sin(angle)))
    pen.polygon(cogs, look.main)
    pen.disc(0, -0.2, 0.5, look.second)
    pen.disc(0, -0.2, 0.5, look.effect, alpha=0.9 * speed, solid=False)
    knob = turned([(1.45, 0.0)], turn - 0.6, 0.0, -0.2)[0]
    pen.line([(0.0, -0.2), knob], 0.15, look.dark)
    pen.disc(*knob, 0.2, look.second)
    for k in range(3):
        angle = turn + 2.094 * k
        pen.disc(0.3 * math.cos(angle), -0.2 + 0.3 * math.sin(angle), 0.12, look.dark)
    shake = 0.12 * speed * math.cos(70 * m.since)
    pen.polygon([(-0.12, -1.5), (0.12, -1.5), (0.06 + shake, -1.02), (shake - 0.06, -1.02)], look.dark)


def _spring(pen: Pen, m: Moment, look: Look) -> None:
    """A head on a coil spring is pressed down and let go."""
    p = m.run_up
    push = -0.62 * math.sin(0.5 * math.pi * min(1.0, p / 0.8)) if p > 0 else 0.0
    bounce = 0.62 * m.decay(0.28) * math.cos(2 * math.pi * 4.5 * m.since) if p < 0.3 else 0.0
    stretch = 1.0 + push - bounce
    top = 0.9 - 1.15 * stretch
    sway = 0.35 * m.decay(0.28) * math.sin(2 * math.pi * 3.0 * m.since)
    pen.box(-0.75, 0.85, 0.75, 1.05, look.dark)
    coil = []
    for k in range(13):
        along = k / 12
        coil.append((0.42 * (1 if k % 2 else -1) + sway * along, 0.85 + (top - 0.85) * along))
    pen.line(coil, 0.13, look.second)
    pen.disc(sway, top - 0.3, 0.42, look.main)
    for side in (-1, 1):
        pen.polygon(
            [(sway + 0.1 * side, top - 0.6), (sway + 0.5 * side, top - 0.95), (sway + 0.4 * side, top - 0.4)], look.main
        )
        pen.disc(sway + 0.16 * side, top - 0.35, 0.09, look.dark)
    for k in range(2):
        y = top - 0.3 + 0.5 * k
        for side in (-1, 1):
            x = sway + side * (0.65 + 0.5 * min(m.since, 0.6))
            arc = [(x, y - 0.25), (x + 0.14 * side, y), (x, y + 0.25)]
            pen.line(arc, 0.11, look.effect, alpha=1.3 * m.decay(0.3), solid=False)
    pen.glow(0, 0.85, 0.6, look.effect, m.decay(0.13))


def _string(pen: Pen, m: Moment, look: Look) -> None:
    """A finger pulls a string aside and lets go; the string swings between its pegs."""
    width = 0.55 * m.decay(0.3)
    pull = 0.5 * math.sin(0.5 * math.pi * min(1.0, m.run_up / 0.9)) if m.run_up > 0 else 0.0
    for side in (-1, 1):
        pen.polygon([(1.4 * side, -0.8), (1.75 * side, -0.95), (1.75 * side, 0.95), (1.4 * side, 0.8)], look.main)
    pen.box(-1.75, 0.7, 1.75, 0.98, look.main)
    pen.disc(-1.58, 0.0, 0.13, look.second)
    pen.disc(1.58, 0.0, 0.13, look.second)
    upper = [(-1.4 + 0.28 * k, -width * math.sin(math.pi * k / 10)) for k in range(11)]
    if width > 0.03:
        lower = [(x, -y) for x, y in reversed(upper)]
        pen.polygon([*upper, *lower], look.effect, alpha=0.55, solid=False)
        pen.line(upper, 0.07, look.effect, solid=False)
        pen.line(lower, 0.07, look.effect, solid=False)
    phase = math.cos(2 * math.pi * 11 * m.since) if m.since < NEVER else 0.0
    now = [(x, -y * phase) for x, y in upper]
    if pull > 0:
        now = [(-1.4, 0.0), (0.45, -pull), (1.4, 0.0)]
    pen.line(now, 0.13, look.second)
    hand = pull + 0.12 if pull > 0 else 0.45 + 0.35 * m.decay(0.15)
    pen.polygon([(0.3, -hand - 0.6), (0.6, -hand - 0.6), (0.45, -hand)], look.dark)
    pen.disc(0.45, -hand - 0.55, 0.2, look.dark)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a kind is drawn, and how much room it needs around (0, 0), in units."""

    draw: Draw
    left: float = 1.2
    top: float = 1.2
    right: float = 1.2
    bottom: float = 1.1


# Kind of event -> how it looks.
SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "ball": Shape(draw=_ball, top=2.1),
        "bell": Shape(draw=_bell, left=1.5),
        "bird": Shape(draw=_bird, left=1.4, right=1.6),
        "clap": Shape(draw=_clap, left=1.7, right=1.7),
        "drop": Shape(draw=_drop, left=1.5, top=1.5, right=1.5),
        "drum": Shape(draw=_drum, right=1.4, top=1.7),
        "engine": Shape(draw=_engine, left=1.4, top=1.7, right=1.4),
        "firework": Shape(draw=_firework, top=1.9),
        "glass": Shape(draw=_glass, top=1.7),
        "jaw": Shape(draw=_jaw, bottom=1.3),
        "kettle": Shape(draw=_kettle, right=1.7, top=1.3),
        "lamp": Shape(draw=_lamp, top=1.1),
        "metronome": Shape(draw=_metronome, left=1.2, right=1.2, top=1.3),
        "rattle": Shape(draw=_rattle, left=1.5, top=1.6, right=1.5),
        "spring": Shape(draw=_spring, top=1.7),
        "string": Shape(draw=_string, left=1.8, right=1.8),
    }
)
