"""Small media and stores that the tests of the data room share."""

from pathlib import Path

import pytest

import synthetic
from lookhear.data.manifest import FileLabels
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.data.store import Store


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven videos of different lengths in two folders, one without sound, and a sound file."""
    folder = tmp_path_factory.mktemp("media")
    for name in ("first", "second"):
        (folder / name).mkdir()
    for number, seconds in enumerate([3.0, 2.0, 4.0, 2.5, 3.5, 12.5, 3.0]):
        path = folder / ("first" if number % 2 else "second") / f"clip {number}.mp4"
        beeps = [0.3 + 0.1 * number + 0.7 * beep for beep in range(int(seconds))]
        synthetic.make_video(path, seconds=seconds, frames_per_second=10, beep_times=beeps)
    synthetic.make_video(folder / "mute.mp4", seconds=2.0, frames_per_second=10, sound=False)
    synthetic.make_sound(folder / "rain.wav", seconds=2.0)
    return folder


@pytest.fixture(scope="session")
def config() -> PrepareConfig:
    """How the shared stores are made."""
    return PrepareConfig(frames_per_second=5.0)


@pytest.fixture(scope="session")
def store_path(media: Path, config: PrepareConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of `media`, with some labels, made in one go in this process."""
    path = tmp_path_factory.mktemp("store") / "whole"
    labels = {
        "first/clip 1.mp4": FileLabels(labels=("bell", "door"), split="val"),
        "second/clip 0.mp4": FileLabels(labels=("alarm",), split="train"),
    }
    prepare(media, path, config=config, workers=0, labels=labels)
    return path


@pytest.fixture
def store(store_path: Path) -> Store:
    return Store(store_path)
