"""Makes films: several made scenes one after another, in one of which something happens.

All other shots show an object at rest, of any kind, with noise and now and then a sound from outside the picture. What
the film is about is the kind of the shot with events. So neither its first moment nor the mean of all its pictures
tells what it is; who listens for something that happens knows where to look.

A folder of films is the video files `film-00000.mp4`, ..., `truth.jsonl` (`scenes.SceneTruth`, a line a film) and
`labels.csv` with path, label (the kind) and split.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from lookhear.config import to_dict
from lookhear.errors import ConfigError
from lookhear.media.encode import write_video
from lookhear.media.scenes import FORMAT, SAMPLE_RATE, SceneSettings, SceneTask, compose_scene
from lookhear.media.truth import SceneTruth, make_files, write_labels
from lookhear.progress import Progress, quiet

_NOWHERE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class FilmSettings:
    """What the films of a folder have in common."""

    shots: int = 12
    """scenes in a film"""
    test_share: float = 0.25
    """films whose split is test; of the others one in five is val, the rest train"""
    scene: SceneSettings = dataclasses.field(default_factory=SceneSettings)
    """of every shot"""

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ConfigError(f"shots is {self.shots}; it must be at least 1")
        if not 0 <= self.test_share <= 1:
            raise ConfigError(f"test_share is {self.test_share}; it is a fraction")


def make_films(
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    workers: int = 2,
    settings: FilmSettings | None = None,
    progress: Progress = quiet,
) -> list[SceneTruth]:
    """Makes the files `film-00000.mp4` to `count - 1` in `folder` and returns their truths in that order.

    Film i depends on (seed, i, settings) alone, and what is there is kept, as with `make_scenes`. Boxes of shots in
    which nothing happens are zeros. Raises UserError where the folder holds something else.
    """
    settings = settings or FilmSettings()
    recipe = {"format": FORMAT, "seed": seed, "films": to_dict(settings)}
    tasks = [_Film(folder=str(folder), index=index, seed=seed, settings=settings) for index in range(count)]
    truths = make_files(Path(folder), tasks, _make_film, recipe=recipe, workers=workers, progress=progress)
    write_labels(Path(folder), truths, test_share=settings.test_share)
    return truths


@dataclass(frozen=True, kw_only=True)
class _Film:
    folder: str
    index: int
    seed: int
    settings: FilmSettings

    @property
    def name(self) -> str:
        return f"film-{self.index:05d}.mp4"

    def shots(self) -> list[SceneTask]:
        """Its scenes in order. The one that acts is scene number `index`, so that kinds take turns over the films."""
        number = self.settings.shots
        place = int(np.random.default_rng([self.seed, self.index, number]).integers(number))
        at_rest, acting = (dataclasses.replace(self.settings.scene, idle_share=share) for share in (1.0, 0.0))
        tasks = [
            SceneTask(folder=self.folder, index=self.index * number + shot, seed=self.seed + 1, settings=at_rest)
            for shot in range(number)
        ]
        tasks[place] = SceneTask(folder=self.folder, index=self.index, seed=self.seed, settings=acting)
        return tasks


def _make_film(film: _Film) -> SceneTruth:
    """Writes one file; runs in a worker."""
    scene = film.settings.scene
    shots = [compose_scene(shot) for shot in film.shots()]
    truths: list[SceneTruth] = []

    def frames() -> Iterator[np.ndarray]:
        for shot in shots:
            yield from shot.frames
            truths.append(shot.truth())

    write_video(
        Path(film.folder) / film.name,
        frames=frames(),
        frames_per_second=scene.frames_per_second,
        waveform=np.concatenate([shot.waveform for shot in shots]),
        sample_rate=SAMPLE_RATE,
        crf=scene.crf,
        preset=scene.preset,
    )
    starts = np.cumsum([0.0, *(truth.seconds for truth in truths)])
    acting = next(truth for truth in truths if truth.event_seconds)
    events = [[round(float(start + at), 4) for at in t.event_seconds] for start, t in zip(starts, truths, strict=False)]
    boxes = [truth.boxes if truth.event_seconds else (_NOWHERE,) * len(truth.boxes) for truth in truths]
    parameters: dict[str, Any] = {
        "recipe": {"format": FORMAT, "seed": film.seed, "films": to_dict(film.settings)},
        "shots": [{"start_seconds": round(float(s), 4), "kind": t.kind} for s, t in zip(starts, truths, strict=False)],
    }
    return dataclasses.replace(
        acting,
        path=film.name,
        seconds=float(starts[-1]),
        event_seconds=tuple(chain.from_iterable(events)),
        boxes=tuple(chain.from_iterable(boxes)),
        parameters=parameters,
    )
