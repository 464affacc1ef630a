"""If these fail, the shared towers give other logits than a plain forward, or the sound is computed more than once."""

from typing import get_args

import numpy as np
import pytest
import torch

from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.classifier import Mode
from lookhear.tasks.labels.logits import classes_of, classifier_of, probabilities, window_logits
from tiny_embedder import PREPROCESS, classifier_embedder, in_memory_embedder

LABELS = ("dog", "rain", "siren")


def raw(num_windows: int, num_pictures: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.standard_normal((num_windows, PREPROCESS.window_samples)).astype(np.float32)
    return waveform, rng.integers(0, 256, (num_pictures, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_ensemble_equals_one_whole_forward_a_picture(mode: Mode, batch_size: int) -> None:
    embedder = classifier_embedder(LABELS, batch_size=batch_size)
    owner = np.array([0, 0, 0, 0, 1, 1, 2])
    waveform, frames = raw(3, len(owner))
    found = window_logits(embedder, waveform=waveform, frames=frames, owner=owner, mode=mode)
    naive = []
    for row, window in enumerate(owner):
        batch = embedder.batch(torch.from_numpy(waveform[window][None]), torch.from_numpy(frames[row][None]))
        with torch.inference_mode():
            naive.append(embedder.model(batch.audio, batch.frames, mode=mode).logits[0, 0].numpy())
    expected = np.stack(naive)
    if mode.startswith("audio"):
        expected = expected[[0, 4, 6]]  # no picture is read: one row a window
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_sound_passes_its_tower_once_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = classifier_embedder(LABELS, batch_size=8)
    calls = {"audio": 0, "visual": 0}
    for name in calls:
        tower = getattr(classifier_of(embedder).encoder, f"{name}_tower")
        monkeypatch.setattr(tower, "forward", _counted(tower.forward, calls, name))
    waveform, frames = raw(4, 40)
    window_logits(embedder, waveform=waveform, frames=frames, owner=np.repeat(np.arange(4), 10), mode="both")
    assert calls == {"audio": 4, "visual": 40}


def _counted(forward, calls: dict[str, int], name: str):  # type: ignore[no-untyped-def]
    def counting(patches, *rest):  # type: ignore[no-untyped-def]
        calls[name] += len(patches)
        return forward(patches, *rest)

    return counting


def test_one_window_without_what_the_mode_does_not_read() -> None:
    embedder = classifier_embedder(LABELS)
    waveform, frames = raw(1, 1)
    assert window_logits(embedder, waveform=waveform, frames=None, mode="audio_of_both").shape == (1, 3)
    assert window_logits(embedder, waveform=None, frames=frames, mode="visual").shape == (1, 3)
    with pytest.raises(ConfigError, match="mode 'both' reads audio and visual"):
        window_logits(embedder, waveform=waveform, frames=None, mode="both")


def test_probabilities_of_one_label_or_of_many() -> None:
    logits = np.array([[0.0, np.log(3.0)]], np.float32)
    np.testing.assert_allclose(probabilities(logits, multi_label=False), [[0.25, 0.75]], atol=1e-6)
    np.testing.assert_allclose(probabilities(logits, multi_label=True), [[0.5, 0.75]], atol=1e-6)


def test_a_model_without_classes_or_without_their_names_is_refused() -> None:
    with pytest.raises(CheckpointError, match="names no classes"):
        classifier_of(in_memory_embedder())
    nameless = classifier_embedder(LABELS)
    nameless.labels = ()
    with pytest.raises(CheckpointError, match="does not name its 3 classes"):
        classes_of(nameless)
    assert classes_of(nameless, LABELS) == LABELS
    with pytest.raises(ConfigError, match="3 classes and 2 different names"):
        classes_of(nameless, ("dog", "dog", "rain"))
