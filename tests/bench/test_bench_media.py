"""bench.py: figures beside a plain form that gives the same result."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.bench import media as bench
from lookhear.media.decode import read_clip
from synthetic import make_video


def test_every_link_is_measured_beside_its_plain_form(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")  # what cannot be read is not timed and stops nothing
    make_video(tmp_path / "clip.mp4")
    figures = bench.measure(tmp_path, repeats=2)
    assert [figure.name.split()[0] for figure in figures] == ["decode", "log-mel"]
    for figure in figures:
        assert figure.milliseconds > 0
        assert figure.ratio == pytest.approx(figure.plain_milliseconds / figure.milliseconds)
        assert figure.repeats == 2


def test_threads_are_given_back(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4")
    before = torch.get_num_threads()
    bench.measure(tmp_path, repeats=1)
    assert torch.get_num_threads() == before


def test_the_plain_decode_shows_the_same_moments(tmp_path: Path) -> None:
    """A ratio against something that reads other frames would mean nothing."""
    path = tmp_path / "clip.mp4"
    make_video(path)
    times = np.linspace(0.05, 1.5, 6)
    pictures, sound = bench._plain_decode(path, times)
    clip = read_clip(path, frame_seconds=tuple(times), short_side=224)
    assert len(pictures) == len(clip.frames)
    assert 0 <= sound.shape[1] - len(clip.waveform) <= 1100, "AAC pads its last packet; nothing else may differ"
