"""bench/loader.py: the plain form must prepare the same clips, or its time means nothing."""

from typing import Any

import numpy as np
import pytest
import torch

from fake_store import FakeStore
from lookhear.bench import loader as bench
from lookhear.data.dataset import WindowDataset
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.progress import quiet

CONFIG = PreprocessConfig(audio_frames=64, picture_height=16, picture_width=16)


def test_the_plain_form_prepares_the_same_clips() -> None:
    store: Any = FakeStore()
    dataset = WindowDataset(store, CONFIG)
    positions = np.array([4, 0, 9])
    ready = Preprocess(CONFIG)(dataset.batch(2, positions))
    assert ready.audio is not None
    assert ready.frames is not None
    audio, pictures = bench.plain_batch(dataset, 2, positions)
    assert audio.shape == ready.audio[:, 0].shape
    # ours begins half a frame less half a hop earlier
    assert (audio - ready.audio[:, 0]).abs().median() < 0.2
    # one cuts before it scales, the other after: the noise of these pictures moves, their levels (by clip) do not
    assert pictures.shape == ready.frames[:, 0].shape
    levels, wanted = pictures.mean((1, 2, 3)), ready.frames.mean((1, 2, 3, 4))
    torch.testing.assert_close(levels, wanted, atol=0.02, rtol=0)


def test_figures() -> None:
    store: Any = FakeStore()
    before = torch.get_num_threads()
    found = bench._measure(store, 2, 3, CONFIG, quiet)
    assert found.ratio == pytest.approx(found.clips_per_second / found.plain_clips_per_second)
    assert (found.repeats, found.clips) == (3, 13)
    assert found.read_share > 0
    assert torch.get_num_threads() == before
