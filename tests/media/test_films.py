"""If these fail, what a film is labelled with is not what happens in it, or other shots give it away."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lookhear.errors import ConfigError, UserError
from lookhear.media.decode import read_clip
from lookhear.media.films import FilmSettings, make_films
from lookhear.media.scenes import KINDS, SceneSettings, SceneTruth, load_truth

SCENE = SceneSettings(width=64, height=48, min_seconds=2.0, max_seconds=2.4, max_events=2, off_screen_share=0.0)
SETTINGS = FilmSettings(shots=4, scene=SCENE)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_films(folder, count=5, seed=3, workers=0, settings=SETTINGS)
    return folder


def shot_of(truth: SceneTruth, second: float) -> int:
    starts = [shot["start_seconds"] for shot in truth.parameters["shots"]]
    return int(np.searchsorted(starts, second, side="right")) - 1


def test_one_shot_acts_and_gives_the_film_its_kind(films: Path) -> None:
    for truth in load_truth(films).values():
        shots = truth.parameters["shots"]
        assert len(shots) == SETTINGS.shots
        assert {shots[shot_of(truth, at)]["kind"] for at in truth.event_seconds} == {truth.kind}
        assert len({shot_of(truth, at) for at in truth.event_seconds}) == 1
        assert truth.kind in KINDS
        assert len(truth.boxes) == round(truth.seconds * truth.frames_per_second)
        acting = shot_of(truth, truth.event_seconds[0])
        seconds = np.arange(len(truth.boxes)) / truth.frames_per_second + 1e-6
        boxed = [any(box) for box in truth.boxes]
        assert boxed == [shot_of(truth, second) == acting for second in seconds]


def test_it_is_loud_when_something_happens_and_quiet_otherwise(films: Path) -> None:
    for path, truth in load_truth(films).items():
        clip = read_clip(films / path, frames_per_second=truth.frames_per_second)
        assert clip.waveform is not None
        assert clip.frames is not None
        assert len(clip.frames) == len(truth.boxes)
        assert len(clip.waveform) / 16000 == pytest.approx(truth.seconds, abs=0.1)
        times = np.arange(len(clip.waveform)) / 16000
        near = np.zeros(len(times), bool)
        for at in truth.event_seconds:
            near |= (times > at - 0.05) & (times < at + 1.5)
        assert np.abs(clip.waveform[near]).max() > 5 * np.abs(clip.waveform[~near]).max()


def test_films_differ_in_where_it_happens_and_do_not_depend_on_their_number(films: Path, tmp_path: Path) -> None:
    truths = list(load_truth(films).values())
    assert len({shot_of(truth, truth.event_seconds[0]) for truth in truths}) > 1
    assert len({truth.kind for truth in truths}) == 5
    again = make_films(tmp_path, count=2, seed=3, workers=0, settings=SETTINGS)
    assert again == truths[:2]
    assert (tmp_path / "film-00001.mp4").read_bytes() == (films / "film-00001.mp4").read_bytes()


def test_labels_and_splits(films: Path, tmp_path: Path) -> None:
    with (films / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [truth.kind for truth in load_truth(films).values()]
    assert [row["split"] for row in rows] == ["train", "train", "train", "train", "test"]
    make_films(films, count=5, seed=3, workers=0, settings=SETTINGS)
    with pytest.raises(UserError, match="another recipe"):
        make_films(films, count=5, seed=4, workers=0, settings=SETTINGS)
    for wrong in ({"shots": 0}, {"test_share": 2.0}):
        with pytest.raises(ConfigError):
            dataclasses.replace(SETTINGS, **wrong)
