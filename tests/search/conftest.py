"""What tests of crawls read."""

import shutil
from pathlib import Path

import pytest

from lookhear.embedder import Embedder
from lookhear.media.encode import write_sound
from tiny_embedder import RATE, make_clips, tiny_embedder, tune


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips and one sound."""
    folder = make_clips(tmp_path_factory.mktemp("originals"), 6, seconds=2.0, longer=0.3)
    write_sound(folder / "sound.wav", tune(50, 2.0), RATE)
    return folder


@pytest.fixture
def media(tmp_path: Path, originals: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "media"))
