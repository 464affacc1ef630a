"""The data of studies: made scenes and films with labels, as stores. What is there already is kept."""

from pathlib import Path
from typing import TYPE_CHECKING

from lookhear.data.manifest import FileLabels
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.progress import Progress, quiet

if TYPE_CHECKING:
    from lookhear.media.scenes import SceneSettings


def scene_store(
    folder: Path,
    *,
    count: int,
    seed: int,
    config: PrepareConfig,
    scene: "SceneSettings | None" = None,
    workers: int = 2,
    progress: Progress = quiet,
) -> Path:
    """The store `folder`.store of `count` made scenes in `folder`, each with its kind as label."""
    from lookhear.media.scenes import SceneSettings, make_scenes

    settings = scene or SceneSettings()
    scenes = make_scenes(folder, count=count, seed=seed, settings=settings, workers=workers, progress=progress)
    labels = {scene.path: FileLabels(labels=(scene.kind,)) for scene in scenes}
    return _store(folder, labels, config, workers)


def film_store(
    folder: Path,
    *,
    count: int,
    shots: int,
    seed: int,
    config: PrepareConfig,
    scene: "SceneSettings | None" = None,
    workers: int = 2,
    progress: Progress = quiet,
) -> Path:
    """The store `folder`.store of `count` made films of `shots` scenes, with what they are about and their split."""
    from lookhear.data.lists import read_labels
    from lookhear.media.films import FilmSettings, make_films
    from lookhear.media.scenes import SceneSettings
    from lookhear.media.truth import LABELS_NAME

    settings = FilmSettings(shots=shots, scene=scene or SceneSettings())
    make_films(folder, count=count, seed=seed, workers=workers, settings=settings, progress=progress)
    return _store(folder, read_labels(folder / LABELS_NAME), config, workers)


def _store(folder: Path, labels: dict[str, FileLabels], config: PrepareConfig, workers: int) -> Path:
    store = folder.with_name(f"{folder.name}.store")
    prepare(folder, store, config=config, labels=labels, workers=workers)
    return store
