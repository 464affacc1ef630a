"""If these fail, what one listens to is not the spectrogram that one sees."""

import numpy as np
import pytest
import torch

from lookhear.data.griffin_lim import sound_of_log_mel
from lookhear.data.preprocess import ENERGY_FLOOR, PreprocessConfig, log_mel, mel_filters
from tiny_embedder import tune


def _log_mel(waveform: np.ndarray) -> np.ndarray:
    return log_mel(torch.from_numpy(waveform)).numpy()


@pytest.mark.parametrize("kind", ["chords", "noise"])
def test_the_sound_has_the_spectrogram_it_was_made_from(kind: str) -> None:
    """Within 1 on the natural-log scale on average (a factor 1.6 in amplitude), and far nearer than noise as loud."""
    rng = np.random.default_rng(0)
    original = tune(0, 1.0) if kind == "chords" else rng.standard_normal(16000).astype(np.float32) * 0.1
    target = _log_mel(original)
    made = sound_of_log_mel(target)
    assert made.dtype == np.float32
    assert len(made) == 400 + (len(target) - 1) * 160
    error = np.abs(_log_mel(made) - target).mean()
    noise = rng.standard_normal(len(made)).astype(np.float32) * np.sqrt(np.mean(original**2))
    assert error < 1.0
    assert error < 0.25 * np.abs(_log_mel(noise) - target).mean()
    assert np.sqrt(np.mean(made**2)) == pytest.approx(np.sqrt(np.mean(original**2)), rel=0.1)
    np.testing.assert_array_equal(made, sound_of_log_mel(target))  # the same seed, the same sound


def test_silence_stays_silent() -> None:
    silent = np.full((20, 128), np.log(ENERGY_FLOOR), dtype=np.float32)
    assert np.abs(sound_of_log_mel(silent)).max() < 1e-4


def test_one_frame_and_another_rate() -> None:
    assert sound_of_log_mel(np.zeros((1, 64), np.float32), sample_rate=8000).shape == (200,)


@pytest.mark.parametrize("num_mel_bins", [16, 128])
def test_edges_of_mel_bins_lie_between_the_peaks_of_the_filters(num_mel_bins: int) -> None:
    edges = PreprocessConfig(num_mel_bins=num_mel_bins).mel_edges_hz
    assert len(edges) == num_mel_bins + 1
    fine = mel_filters(16000, num_mel_bins, 1 << 16)  # a transform long enough to see every peak
    peaks = fine.argmax(axis=0) * 16000 / (1 << 16)
    assert (edges[:-1] < peaks).all()
    assert (peaks < edges[1:]).all()
