"""Makes small real video files whose sound and picture follow from one cause, with the truth about each.

In a scene one object does one thing a few times: a hammer strikes a bell, a ball lands, a drop falls into water. What
it is decides shape and timbre; how big, size and pitch; when, each visible strike and the sound's onset. Where it is,
its colour, the background, a silent moving distractor, a sound from outside the picture and the noise of camera and
microphone are drawn independently, so that they say nothing about the sound.

A folder of scenes is the video files `scene-00000.mp4`, ... and `truth.jsonl`, a `SceneTruth` a line.
"""

import colorsys
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookhear.config import to_dict
from lookhear.errors import ConfigError
from lookhear.media.encode import write_video
from lookhear.media.scene_kinds import SHAPES
from lookhear.media.scene_pen import NEVER, Color, Look, Moment, Pen
from lookhear.media.scene_sounds import MIDDLE_PITCH_HZ, off_screen_sound, sound_of
from lookhear.media.truth import SceneTruth, load_truth, make_files
from lookhear.progress import Progress, quiet

__all__ = ["KINDS", "SceneSettings", "SceneTruth", "load_truth", "make_scenes"]

KINDS: tuple[str, ...] = tuple(sorted(SHAPES))
SAMPLE_RATE = 16000
# Goes into every truth record; a folder made by another version is not continued.
FORMAT = 1

LEAD_SECONDS = 0.5  # before the first event
TAIL_SECONDS = 0.6  # after the last
GAP_SECONDS = 0.55  # between two at least
OCTAVES = 2.0  # between the pitch of the smallest and of the largest
_SUPERSAMPLING = 2


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """What the scenes of a folder have in common. Shares are fractions of the files."""

    width: int = field(default=160, metadata={"help": "of the picture, in pixels, even"})
    height: int = field(default=120, metadata={"help": "of the picture, in pixels, even"})
    frames_per_second: float = 12.5
    min_seconds: float = 4.0
    max_seconds: float = 6.0
    min_events: int = 1
    max_events: int = 5
    min_size: float = field(default=0.26, metadata={"help": "height of the smallest object as a share of the picture"})
    max_size: float = field(default=0.56, metadata={"help": "height of the largest object as a share of the picture"})
    distractor_share: float = field(default=0.35, metadata={"help": "files with a second, silent, moving object"})
    off_screen_share: float = field(default=0.25, metadata={"help": "files with a soft sound from outside the picture"})
    idle_share: float = field(default=0.0, metadata={"help": "files in which nothing happens and only noise is heard"})
    picture_noise: float = field(default=4.0, metadata={"help": "largest camera noise, standard deviation in levels"})
    sound_noise: float = field(default=0.006, metadata={"help": "largest microphone noise, standard deviation"})
    crf: int = field(default=23, metadata={"help": "H.264 quality, lower is better"})
    preset: str = field(default="ultrafast", metadata={"help": "H.264 speed"})

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32 or self.width % 2 or self.height % 2:
            raise ConfigError(f"a scene's sides must be even and at least 32, not {self.width} x {self.height}")
        if not 1 <= self.min_events <= self.max_events:
            raise ConfigError(f"min_events {self.min_events} and max_events {self.max_events} must ascend from 1")
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ConfigError(f"min_seconds {self.min_seconds} and max_seconds {self.max_seconds} must ascend from 0")
        if not 0 < self.min_size <= self.max_size <= 1:
            raise ConfigError(f"min_size {self.min_size} and max_size {self.max_size} must ascend within 0..1")
        if self.frames_per_second < 5:
            raise ConfigError(f"frames_per_second must be 5 or more to show the events, not {self.frames_per_second}")
        needed = LEAD_SECONDS + (self.max_events - 1) * GAP_SECONDS + TAIL_SECONDS
        if needed > self.min_seconds:
            raise ConfigError(f"{self.max_events} events need {needed:g} s, but min_seconds is {self.min_seconds:g}")


def make_scenes(
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    workers: int = 2,
    progress: Progress | None = None,
    settings: SceneSettings = SceneSettings(),
) -> list[SceneTruth]:
    """Makes the files `scene-00000.mp4` to `count - 1` in `folder` and returns their truths in that order.

    File i depends on (seed, i, settings) alone: not on `count`, nor on the number of workers. Every run of
    `len(KINDS)` files holds each kind once. Files that are there with their truth are kept, so an interrupted call is
    continued by calling again. Raises UserError if the folder holds scenes of another seed, other settings or another
    version.
    """
    folder = Path(folder)
    recipe = _recipe(seed, settings)
    tasks = [SceneTask(folder=str(folder), index=index, seed=seed, settings=settings) for index in range(count)]
    return make_files(folder, tasks, _make_scene, recipe=recipe, workers=workers, progress=progress or quiet)


def _recipe(seed: int, settings: SceneSettings) -> dict[str, Any]:
    return {"format": FORMAT, "seed": seed, "settings": to_dict(settings)}


# ---- one scene


@dataclass(frozen=True, kw_only=True)
class SceneTask:
    """One scene that is to be made: everything about it follows from this."""

    folder: str
    index: int
    seed: int
    settings: SceneSettings

    @property
    def name(self) -> str:
        """Of the file."""
        return f"scene-{self.index:05d}.mp4"

    def rng(self, subject: int) -> np.random.Generator:
        """Every subject draws from its own stream, so that none depends on what another happened to need."""
        return np.random.default_rng([self.seed, self.index, subject])


_CAUSE, _PICTURE, _DISTRACTOR, _SOUND, _NOISE = range(5)


@dataclass(frozen=True, kw_only=True)
class _Actor:
    """An object in the picture."""

    kind: str
    size: float  # height of its 2 units as a share of the picture's height
    x: float  # its (0, 0), in pixels
    y: float
    mirrored: bool
    variant: float
    look: Look


@dataclass(frozen=True, kw_only=True, eq=False)
class ComposedScene:
    """A scene that is not written yet."""

    frames: Iterator[np.ndarray]  # uint8 (H, W, 3) each
    waveform: np.ndarray  # float32 (S,)
    truth: Callable[[], SceneTruth]  # to be asked once the frames are drawn


def _make_scene(task: SceneTask) -> SceneTruth:
    """Writes one file; runs in a worker."""
    scene, settings = compose_scene(task), task.settings
    write_video(
        Path(task.folder) / task.name,
        frames=scene.frames,
        frames_per_second=settings.frames_per_second,
        waveform=scene.waveform,
        sample_rate=SAMPLE_RATE,
        crf=settings.crf,
        preset=settings.preset,
    )
    return scene.truth()


def compose_scene(task: SceneTask) -> ComposedScene:
    """What `task` shows and what it sounds like."""
    settings = task.settings
    order = np.random.default_rng([task.seed, task.index // len(KINDS), len(KINDS)]).permutation(len(KINDS))
    kind = KINDS[order[task.index % len(KINDS)]]
    cause = task.rng(_CAUSE)
    num_frames = round(cause.uniform(settings.min_seconds, settings.max_seconds) * settings.frames_per_second)
    seconds = num_frames / settings.frames_per_second
    events = _draw_events(cause, seconds, settings)
    smallness = cause.uniform()  # 0 the largest, 1 the smallest: the one cause of size and pitch
    pitch_hz = MIDDLE_PITCH_HZ[kind] * 2 ** (OCTAVES * (smallness - 0.5))
    size = settings.max_size * (settings.min_size / settings.max_size) ** smallness

    picture = task.rng(_PICTURE)
    background, brightness = _draw_background(picture, settings)
    actor = _draw_actor(picture, kind, size, brightness, settings)
    distractor = _Distractor.draw(task.rng(_DISTRACTOR), actor, brightness, settings)
    sound = _compose_sound(task, kind, pitch_hz, events, seconds)
    boxes: list[tuple[float, float, float, float]] = []
    picture_noise = float(picture.uniform(0.25, 1.0) * settings.picture_noise)

    def frames() -> Iterator[np.ndarray]:
        noise = _CameraNoise(task.rng(_NOISE), picture_noise, settings)
        for number in range(num_frames):
            now = number / settings.frames_per_second
            canvas = background.copy()
            if distractor is not None:
                distractor.paint(canvas, now)
            boxes.append(_paint(canvas, actor, _moment(events, now, actor.variant), settings))
            yield noise.add(np.asarray(canvas.reduce(_SUPERSAMPLING)))

    parameters = {
        "index": task.index,
        "pitch_hz": round(float(pitch_hz), 3),
        "size": round(float(size), 5),
        "x": round(actor.x / settings.width, 5),
        "y": round(actor.y / settings.height, 5),
        "mirrored": actor.mirrored,
        "brightness": round(brightness, 4),
        "distractor": distractor.name if distractor is not None else None,
        "off_screen": sound.off_screen,
        "loudness": round(sound.loudness, 4),
        "picture_noise": round(picture_noise, 4),
        "sound_noise": round(sound.noise, 6),
        "recipe": _recipe(task.seed, settings),
    }

    def truth() -> SceneTruth:
        return SceneTruth(
            path=task.name,
            kind=kind,
            seconds=seconds,
            event_seconds=events,
            frames_per_second=settings.frames_per_second,
            width=settings.width,
            height=settings.height,
            boxes=tuple(boxes),
            parameters=parameters,
        )

    return ComposedScene(frames=frames(), waveform=sound.waveform, truth=truth)


def _draw_events(rng: np.random.Generator, seconds: float, settings: SceneSettings) -> tuple[float, ...]:
    """Irregular times: uniform among all that keep the gaps."""
    idle = rng.uniform() < settings.idle_share
    count = int(rng.integers(settings.min_events, settings.max_events + 1))
    room = seconds - LEAD_SECONDS - TAIL_SECONDS - (count - 1) * GAP_SECONDS
    offsets = np.sort(rng.uniform(0.0, room, count)) + LEAD_SECONDS + GAP_SECONDS * np.arange(count)
    return () if idle else tuple(round(float(at), 4) for at in offsets)


def _moment(events: tuple[float, ...], now: float, variant: float) -> Moment:
    past = [at for at in events if at <= now]
    coming = [at for at in events if at > now]
    return Moment(
        since=now - past[-1] if past else NEVER,
        until=coming[0] - now if coming else NEVER,
        count=len(past),
        variant=variant,
    )


# ---- picture


def _paint(
    canvas: Image.Image, actor: _Actor, moment: Moment, settings: SceneSettings
) -> tuple[float, float, float, float]:
    """Draws an object on the canvas (larger than the frame by the supersampling) and returns its box in fractions."""
    pen = Pen(
        canvas,
        center=(actor.x * _SUPERSAMPLING, actor.y * _SUPERSAMPLING),
        unit=0.5 * actor.size * settings.height * _SUPERSAMPLING,
        mirrored=actor.mirrored,
    )
    SHAPES[actor.kind].draw(pen, moment, actor.look)
    left, top, right, bottom = pen.extent or (0.0, 0.0, 0.0, 0.0)
    sides = (left / canvas.width, top / canvas.height, right / canvas.width, bottom / canvas.height)
    x0, y0, x1, y1 = (round(min(1.0, max(0.0, side)), 4) for side in sides)
    return x0, y0, x1, y1


def _draw_actor(rng: np.random.Generator, kind: str, size: float, brightness: float, settings: SceneSettings) -> _Actor:
    shape, unit = SHAPES[kind], 0.5 * size * settings.height
    mirrored = bool(rng.uniform() < 0.5)
    left, right = (shape.right, shape.left) if mirrored else (shape.left, shape.right)
    return _Actor(
        kind=kind,
        size=size,
        x=_place(rng, left * unit, settings.width - right * unit),
        y=_place(rng, shape.top * unit, settings.height - shape.bottom * unit),
        mirrored=mirrored,
        variant=float(rng.uniform()),
        look=_draw_look(rng, brightness),
    )


def _place(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high)) if low < high else 0.5 * (low + high)


def _color(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, min(1.0, value))
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_look(rng: np.random.Generator, brightness: float) -> Look:
    """Colours that stand out from the background; their hue says nothing about the kind."""
    hue = float(rng.uniform())
    return Look(
        main=_color(hue, rng.uniform(0.5, 0.95), brightness * rng.uniform(0.8, 1.0)),
        second=_color(hue + rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.7), brightness * rng.uniform(0.75, 1.0)),
        dark=_color(hue + rng.uniform(0.3, 0.7), rng.uniform(0.0, 0.6), brightness * rng.uniform(0.03, 0.14)),
        effect=_color(rng.uniform(), rng.uniform(0.0, 0.25), brightness),
    )


def _draw_background(rng: np.random.Generator, settings: SceneSettings) -> tuple[Image.Image, float]:
    """A plain, graded or mottled wall as a canvas, and the brightness of the light (a factor for all colours)."""
    brightness = float(rng.uniform(0.8, 1.0))
    hue = float(rng.uniform())
    ends = []
    for _ in range(2):
        color = _color(hue + rng.uniform(-0.15, 0.15), rng.uniform(0.1, 0.7), brightness * rng.uniform(0.18, 0.5))
        ends.append(np.array(color, dtype=np.float32))
    width, height = settings.width * _SUPERSAMPLING, settings.height * _SUPERSAMPLING
    angle = rng.uniform(0, 2 * math.pi)
    ramp_x = np.linspace(-0.5, 0.5, width, dtype=np.float32) * np.float32(math.cos(angle))
    ramp_y = np.linspace(-0.5, 0.5, height, dtype=np.float32) * np.float32(math.sin(angle))
    ramp = np.clip(ramp_y[:, None] + ramp_x[None, :] + 0.5, 0, 1)[..., None]
    wall = ends[0] * (1 - ramp) + ends[1] * ramp
    mottle = float(rng.uniform(0, 22) * (rng.uniform() < 0.6))
    cells = int(rng.integers(4, 20))
    grain = rng.standard_normal((cells * 3 // 4 + 1, cells)).astype(np.float32)
    wall += mottle * np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.clip(wall, 0, 255).astype(np.uint8)), brightness


@dataclass(frozen=True, kw_only=True)
class _Distractor:
    """An object that wanders about without a sound: a plain shape, or another kind's object at rest."""

    name: str
    actor: _Actor
    settings: SceneSettings
    reach: tuple[float, float]  # how far it wanders, pixels
    hertz: tuple[float, float]
    phase: tuple[float, float]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, actor: _Actor, brightness: float, settings: SceneSettings
    ) -> "_Distractor | None":
        """Draws one for the share of the files that has one."""
        if rng.uniform() >= settings.distractor_share:
            return None
        others = [kind for kind in KINDS if kind != actor.kind]
        name = str(rng.choice(others)) if rng.uniform() < 0.3 else str(rng.choice(list(PLAIN_SHAPES)))
        size = float(rng.uniform(settings.min_size, 0.7 * settings.min_size + 0.3 * settings.max_size))
        width, height = settings.width, settings.height
        places = [(rng.uniform(0.1, 0.9) * width, rng.uniform(0.15, 0.85) * height) for _ in range(6)]
        x, y = max(places, key=lambda place: math.hypot(place[0] - actor.x, place[1] - actor.y))
        wanderer = _Actor(kind=name, size=size, x=x, y=y, mirrored=False, variant=0.0, look=_draw_look(rng, brightness))
        return cls(
            name=name,
            actor=wanderer,
            settings=settings,
            reach=(float(rng.uniform(0.03, 0.12) * width), float(rng.uniform(0.03, 0.12) * height)),
            hertz=(float(rng.uniform(0.15, 0.6)), float(rng.uniform(0.15, 0.6))),
            phase=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
        )

    def paint(self, canvas: Image.Image, now: float) -> None:
        """Draws it where it is at `now` seconds."""
        angles = [2 * math.pi * hertz * now + phase for hertz, phase in zip(self.hertz, self.phase, strict=True)]
        x, y = self.actor.x + self.reach[0] * math.sin(angles[0]), self.actor.y + self.reach[1] * math.sin(angles[1])
        there = dataclasses.replace(self.actor, x=x, y=y)
        if self.name in SHAPES:
            _paint(canvas, there, _moment((), now, 0.0), self.settings)
            return
        unit = 0.5 * self.actor.size * self.settings.height * _SUPERSAMPLING
        pen = Pen(canvas, center=(x * _SUPERSAMPLING, y * _SUPERSAMPLING), unit=unit, mirrored=False)
        corners, inner = PLAIN_SHAPES[self.name]
        points = []
        for k in range(2 * corners):
            r = 1.0 if k % 2 == 0 else inner
            turn = math.pi * k / corners + 0.5 * angles[0]
            points.append((r * math.cos(turn), r * math.sin(turn)))
        pen.polygon(points, there.look.main)


# Distractors of no kind: the number of corners, and how far in the outline comes between two of them.
PLAIN_SHAPES: Mapping[str, tuple[int, float]] = {
    "triangle": (3, 0.5),
    "square": (4, 0.7071),
    "star": (5, 0.42),
    "cross": (4, 0.3),
}


class _CameraNoise:
    """Adds noise to frames: one large field, shifted at random from frame to frame (drawing it anew costs more)."""

    def __init__(self, rng: np.random.Generator, deviation: float, settings: SceneSettings) -> None:
        self._rng = rng
        shape = (settings.height + 32, settings.width + 32, 3)
        self._field = np.rint(deviation * rng.standard_normal(shape, dtype=np.float32)).astype(np.int16)

    def add(self, frame: np.ndarray) -> np.ndarray:
        """The frame (H, W, 3) uint8 with noise."""
        height, width = frame.shape[:2]
        top, left = self._rng.integers(0, 33, 2)
        noisy = frame + self._field[top : top + height, left : left + width]
        return np.clip(noisy, 0, 255, out=noisy).astype(np.uint8)


# ---- sound


@dataclass(frozen=True, kw_only=True, eq=False)
class _ScoredSound:
    waveform: np.ndarray  # float32 (S,)
    loudness: float  # peak of the loudest event
    noise: float  # standard deviation
    off_screen: bool


def _compose_sound(
    task: SceneTask, kind: str, pitch_hz: float, events: tuple[float, ...], seconds: float
) -> _ScoredSound:
    """The events of one object at their times, with what else a microphone hears."""
    rng = task.rng(_SOUND)
    num_samples = round(seconds * SAMPLE_RATE)
    one = sound_of(kind, rng, pitch_hz, SAMPLE_RATE)
    waveform = np.zeros(num_samples + len(one), dtype=np.float32)
    for at in events:
        start = round(at * SAMPLE_RATE)
        waveform[start : start + len(one)] += one * np.float32(10 ** (rng.uniform(-3, 0) / 20))
    waveform = waveform[:num_samples]
    loudness = float(rng.uniform(0.25, 0.8))
    if events:
        waveform *= np.float32(loudness / np.abs(waveform).max())
    off_screen = bool(rng.uniform() < task.settings.off_screen_share)
    if off_screen:
        level = loudness * 10 ** (rng.uniform(-22, -12) / 20)
        waveform += np.float32(level) * off_screen_sound(rng, num_samples, SAMPLE_RATE)
    noise = float(rng.uniform(0.1, 1.0) * task.settings.sound_noise)
    waveform += np.float32(noise) * rng.standard_normal(num_samples, dtype=np.float32)
    return _ScoredSound(waveform=np.clip(waveform, -1.0, 1.0), loudness=loudness, noise=noise, off_screen=off_screen)
