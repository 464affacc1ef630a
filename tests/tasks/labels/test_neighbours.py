"""If these fail, a clip is named by others than its neighbours, or by itself."""

from dataclasses import replace

import numpy as np
import pytest

from labelled_features import blob_clips
from lookhear.errors import ConfigError, StoreError
from lookhear.tasks.labels.neighbours import NeighbourConfig, direction, neighbour_probe, neighbour_votes


def slow_votes(
    train: np.ndarray, member: np.ndarray, judged: np.ndarray, config: NeighbourConfig, barred: np.ndarray | None
) -> np.ndarray:
    """One query, one neighbour at a time."""
    votes = np.zeros((len(judged), member.shape[1]))
    for row, query in enumerate(judged.astype(float)):
        near = []
        for other, features in enumerate(train.astype(float)):
            if barred is None or barred[other] != barred[row]:
                cosine = query @ features / (np.linalg.norm(query) * np.linalg.norm(features))
                near.append((-cosine, other))
        for negative, other in sorted(near)[: config.k]:
            weight = 1.0 if config.temperature is None else np.exp(-negative / config.temperature)
            votes[row] += weight * member[other]
    return votes


@pytest.mark.parametrize("temperature", [None, 0.07, 1.0])
@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("alone", [False, True])
def test_the_fast_votes_are_the_slow_ones(
    temperature: float | None, k: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookhear.tasks.labels.neighbours._BLOCK_VALUES", 90)  # 3 queries a block
    rng = np.random.default_rng(0)
    train, judged = rng.standard_normal((30, 6)).astype(np.float32), rng.standard_normal((11, 6)).astype(np.float32)
    member = rng.integers(0, 2, (30, 4)).astype(float)
    config = NeighbourConfig(k=k, temperature=temperature)
    barred = np.arange(30) // 3 if alone else None
    judged = train if alone else judged
    fast = neighbour_votes(train, member, judged, config=config, barred=barred)
    slow = slow_votes(train, member, judged, config, barred)
    scale = 1.0 if temperature is None else slow.max(axis=1, keepdims=True) / fast.max(axis=1, keepdims=True)
    np.testing.assert_allclose(fast * scale, slow, rtol=1e-5, atol=1e-9)


def test_a_tiny_temperature_overflows_nothing_and_asks_the_nearest_alone() -> None:
    train, test = blob_clips(30, 0), blob_clips(12, 1)
    sharp = neighbour_probe(train, test, config=NeighbourConfig(temperature=1e-6))
    assert sharp.accuracy == neighbour_probe(train, test, config=NeighbourConfig(k=1)).accuracy == 1.0


def test_kinds_are_told_apart_and_the_result_says_how() -> None:
    found = neighbour_probe(blob_clips(30, 0), blob_clips(12, 1))
    assert (found.accuracy, found.mean_average_precision) == (1.0, 1.0)
    assert (found.chance, found.train_clips, found.test_clips) == (pytest.approx(1 / 3), 30, 12)
    assert found.protocol["settings"] == {"k": 20, "temperature": 0.07}
    assert found.protocol["neighbours"] == "the training clips"


def test_leaving_one_out_leaves_out_its_file() -> None:
    """Two clips of a file look alike: without that, noise would be told from noise."""
    clips = blob_clips(40, 0, spread=0.01, clips_of_a_file=2)
    rng = np.random.default_rng(3)
    noise = np.repeat(rng.standard_normal((20, 1, 8)), 2, axis=0).astype(np.float32)
    labels = np.repeat(rng.permutation(np.arange(20) % 2), 2)
    noisy = [
        replace(clip, visual=own, labels=(f"kind {label}",))
        for clip, own, label in zip(clips, noise, labels, strict=True)
    ]
    one = NeighbourConfig(k=1)
    found = neighbour_probe(noisy, config=one)
    assert found.accuracy < 0.8
    alone = [replace(clip, path=clip.clip_id) for clip in noisy]
    assert neighbour_probe(alone, config=one).accuracy == 1.0
    assert neighbour_probe(clips).accuracy == 1.0
    assert found.protocol["neighbours"] == "all other clips but those of the same file"
    assert found.train_clips == found.test_clips == 40


def test_a_clip_of_several_labels_votes_for_each_and_is_right_with_any() -> None:
    train = [replace(clip, labels=(*clip.labels, "all")) for clip in blob_clips(30, 0)]
    test = [replace(clip, labels=("all", "other")) for clip in blob_clips(6, 1)]
    found = neighbour_probe(train, test)
    assert found.classes == ("all", "kind 0", "kind 1", "kind 2")
    assert found.accuracy == 1.0
    assert found.protocol["test_labels_unseen_in_training"] == ["other"]


def test_both_modalities_count_however_long_their_vectors_are() -> None:
    clip = replace(blob_clips(1, 0)[0], audio=np.full((2, 3), 1e-3, np.float32))
    np.testing.assert_allclose(np.linalg.norm(direction(clip)[:8]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(direction(clip)[8:]), 1.0, rtol=1e-6)
    silent = replace(clip, audio=np.zeros((2, 3), np.float32))
    assert np.isfinite(direction(silent)).all()


def test_what_cannot_be_judged() -> None:
    clips = blob_clips(6, 0)
    with pytest.raises(ConfigError, match="k is 0"):
        NeighbourConfig(k=0)
    with pytest.raises(ConfigError, match="temperature is 0"):
        NeighbourConfig(temperature=0.0)
    with pytest.raises(StoreError, match=r"all clips are of one\.mp4"):
        neighbour_probe([replace(clip, path="one.mp4") for clip in clips])
    with pytest.raises(StoreError, match="the test side has no clips"):
        neighbour_probe(clips, [])
    with pytest.raises(StoreError, match="the training side has no clips"):
        neighbour_probe([], clips)
    with pytest.raises(StoreError, match="1 of 6 clips of the training side have no label"):
        neighbour_probe([replace(clips[0], labels=()), *clips[1:]])
    with pytest.raises(StoreError, match="at least two classes"):
        neighbour_probe([replace(clip, labels=("one",)) for clip in clips])
