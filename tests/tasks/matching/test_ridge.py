"""If these fail, the baseline is weaker than it should be (we would look good for nothing), or it cheats."""

import numpy as np
import pytest

from lookhear.errors import ConfigError, StoreError
from lookhear.tasks.matching.retrieval import evaluate_retrieval
from lookhear.tasks.matching.ridge import (
    RidgeConfig,
    WindowFeatures,
    fit_ridge,
    fit_ridge_on,
    mean_log_mel,
    ridge_similarity,
)
from lookhear.tasks.matching.sync import evaluate_sync
from stand_ins import EmbedderStandIn, make_store


def _linear(seed: int, *, related: bool = True, num_clips: int = 60, width: int = 30) -> WindowFeatures:
    """Windows whose sound is a noisy linear function of the picture."""
    maps, rng = np.random.default_rng(99), np.random.default_rng(seed)
    causes, others = rng.standard_normal((2, num_clips * 5, 6))
    to_picture, to_sound = maps.standard_normal((6, width)), maps.standard_normal((6, 20))
    pictures = causes @ to_picture + 0.3 * rng.standard_normal((len(causes), width)) + 5.0
    sounds = (causes if related else others) @ to_sound + 0.3 * rng.standard_normal((len(causes), 20)) - 3.0
    return WindowFeatures(
        pictures=pictures.astype(np.float32), sounds=sounds.astype(np.float32), clip=np.repeat(np.arange(num_clips), 5)
    )


@pytest.mark.parametrize("width", [30, 500])  # more windows than features, and fewer
def test_a_linear_relation_is_recovered(width: int) -> None:
    baseline = fit_ridge_on(_linear(0, width=width))
    similarity = ridge_similarity(baseline, test := _linear(1, width=width), baseline.audio_to_visual)
    assert similarity.shape == (60, 60)
    assert (similarity.argmax(axis=1) == np.arange(60)).mean() > 0.95
    backward = ridge_similarity(baseline, test, baseline.visual_to_audio).T
    assert (backward.argmax(axis=1) == np.arange(60)).mean() > 0.95


def test_unrelated_pairs_are_at_chance() -> None:
    baseline = fit_ridge_on(_linear(0, related=False))
    similarity = ridge_similarity(baseline, _linear(1, related=False), baseline.audio_to_visual)
    assert (similarity.argmax(axis=1) == np.arange(60)).mean() < 0.1


def test_both_forms_of_the_solution_equal_the_textbook() -> None:
    features = _linear(0, num_clips=12)
    config = RidgeConfig(penalties=(0.3,))
    for some in (features, _linear(0, num_clips=12, width=400)):
        fitted = fit_ridge_on(some, config=config).sound_from_picture
        x = (some.pictures - some.pictures.mean(0)) / some.pictures.std(0)
        y = (some.sounds - some.sounds.mean(0)) / some.sounds.std(0)
        gram = x.T.astype(np.float64) @ x
        expected = np.linalg.solve(gram + 0.3 * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y)
        np.testing.assert_allclose(fitted.weight, expected, atol=1e-4)


def test_a_pixel_that_never_changes_is_ignored() -> None:
    features = _linear(0)
    features.pictures[:, 3] = 0.5
    other = _linear(1)
    other.pictures[:, 3] = 0.9  # at test time it does
    baseline = fit_ridge_on(features)
    similarity = ridge_similarity(baseline, other, baseline.visual_to_audio)
    assert np.isfinite(similarity).all()
    assert (similarity.argmax(axis=1) == np.arange(60)).mean() > 0.9


def test_on_the_windows_of_a_store() -> None:
    embedder = EmbedderStandIn("random")
    train, test = make_store(count=60, seed=1), make_store(count=20, seed=2)
    ridge = fit_ridge(embedder, train)
    assert ridge.num_windows == 60 * 7
    retrieval = evaluate_retrieval(embedder, test, ridge=ridge)
    assert retrieval.audio_to_visual.ridge_r1 == 1.0
    assert retrieval.visual_to_audio.ridge_r1 == 1.0
    sync = evaluate_sync(embedder, test, ridge=ridge)
    assert sync.ridge_accuracy is not None
    assert sync.ridge_accuracy > 0.9
    assert sync.ridge_audio_to_visual_accuracy is not None
    assert sync.ridge_audio_to_visual_accuracy > 0.9


def test_shuffled_sounds_teach_nothing() -> None:
    embedder = EmbedderStandIn("random")
    test = make_store(count=20, num_slots=(7, 5), seed=2)
    train = make_store(count=40, seed=1, shuffled=True)
    assert evaluate_retrieval(embedder, test, train_store=train).audio_to_visual.ridge_r1 < 0.25  # type: ignore[operator]
    sync = evaluate_sync(embedder, test, train_store=train)
    assert sync.ridge_accuracy == pytest.approx(sync.chance, abs=0.12)


def test_too_little_to_learn_from_and_wrong_settings() -> None:
    with pytest.raises(StoreError, match="at least 10 clips"):
        fit_ridge(EmbedderStandIn(), make_store(count=9))
    with pytest.raises(ConfigError, match="penalties"):
        RidgeConfig(penalties=())
    with pytest.raises(ConfigError, match="held_out"):
        RidgeConfig(held_out=1.0)


def test_mean_log_mel_tells_sounds_apart_and_not_their_loudness() -> None:
    times = np.arange(16000) / 16000
    low, high = (np.sin(2 * np.pi * hertz * times).astype(np.float32) * 0.3 for hertz in (300, 3000))
    assert mean_log_mel(low) @ mean_log_mel(low * 0.5) > 0.99
    assert mean_log_mel(low) @ mean_log_mel(high) < 0.9
    assert np.linalg.norm(mean_log_mel(high)) == pytest.approx(1.0, abs=1e-5)
    assert not mean_log_mel(np.zeros(100, dtype=np.float32)).any()
    assert np.isfinite(mean_log_mel(np.zeros(16000, dtype=np.float32))).all()
