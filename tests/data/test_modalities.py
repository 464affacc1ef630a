"""Datasets of one modality, and of labelled clips alone. If these fail, sound files cannot be learned from."""

import pytest
import torch

from lookhear.data.dataset import WindowDataset
from lookhear.data.preprocess import PreprocessConfig
from lookhear.data.store import Store
from lookhear.errors import StoreError

CONFIG = PreprocessConfig(audio_frames=80, picture_height=24, picture_width=24)


def test_sound_alone_needs_no_picture(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, modalities="audio")
    assert "rain.wav" in {clip.path for clip in dataset.clips}
    assert (dataset.left_out.no_picture, dataset.left_out.no_sound) == (0, 1)
    both = WindowDataset(store, CONFIG)
    batch = dataset.batch(0, range(len(dataset)))
    assert batch.frames is None
    assert batch.waveform is not None
    assert batch.waveform.shape == (len(both) + 1, 1, CONFIG.window_samples)
    for position, clip in enumerate(dataset.clips):
        assert clip.sound_span is not None
        assert clip.sound_span[0] <= dataset.starts(0, position)[0]
        assert dataset.starts(0, position)[0] + 0.8 <= clip.sound_span[1] + 1e-6


def test_picture_alone_needs_no_sound(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, modalities="visual")
    assert "mute.mp4" in {clip.path for clip in dataset.clips}
    assert (dataset.left_out.no_picture, dataset.left_out.no_sound) == (1, 0)
    batch = dataset.batch(0, [0])
    assert batch.waveform is None
    assert batch.frames is not None
    assert batch.frames.shape == (1, 1, 3, 24, 24)


def test_windows_longer_than_the_clip_are_padded(store: Store) -> None:
    rain = next(clip.index for clip in store.clips if clip.path == "rain.wav")
    long = PreprocessConfig(audio_frames=400)
    batch = WindowDataset(store, long, modalities="audio", indices=[rain]).batch(0, [0])
    assert batch.waveform is not None
    assert float(batch.waveform[0, 0, 16000 * 3 :].abs().max()) == 0
    assert float(batch.waveform[0, 0, : 16000 * 2].abs().max()) > 0


def test_short_windows_of_sound_do_not_ask_for_pictures(store: Store) -> None:
    """The store has 5 pictures a second: too few for windows of 0.1 s, which matters to who looks at them."""
    short = PreprocessConfig(audio_frames=10)
    assert len(WindowDataset(store, short, modalities="audio")) == len(store) - 1
    with pytest.raises(StoreError, match="pictures a second"):
        WindowDataset(store, short)


def test_clips_without_the_labels_are_left_out_and_counted(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, labelled=True)
    assert dataset.classes == ("alarm", "bell", "door")
    assert len(dataset) == 2
    assert dataset.left_out.no_label == len(store) - 2
    one = WindowDataset(store, CONFIG, labelled=True, classes=("door", "other"))
    assert one.batch(0, [0]).labels is not None
    torch.testing.assert_close(one.batch(0, [0]).labels, torch.tensor([[1.0, 0.0]]))
    with pytest.raises(StoreError, match="have none of the labels"):
        WindowDataset(store, CONFIG, labelled=True, classes=("nothing",))
