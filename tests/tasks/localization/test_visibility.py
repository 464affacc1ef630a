"""If these fail, a place is named for a sound that nothing in the picture makes, or a true source is denied."""

import json
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookhear.errors import StoreError, UserError
from lookhear.tasks.localization import evaluation
from lookhear.tasks.localization.evaluation import evaluate_localization
from lookhear.tasks.localization.heat import HeatConfig, PairedWindow, pair_window
from lookhear.tasks.localization.visibility import Visibility, calibrate_visibility, judge_visibility, lowest_share
from lookhear.tasks.windows import read_clip_windows
from planted import PlantedEmbedder, planted_clip
from stand_ins import StoreStandIn, make_store
from tiny_embedder import in_memory_embedder, tune


@dataclass
class Truth:
    """Something in the middle of every frame, at 0.8 s."""

    kind: str = "thing"
    event_seconds: tuple[float, ...] = (0.8,)
    frames_per_second: float = 10.0
    boxes: tuple[tuple[float, ...], ...] = ((0.3, 0.2, 0.7, 0.8),) * 20


def _store(count: int = 24) -> StoreStandIn:
    return make_store(count=count, num_slots=(4,))


def test_at_most_the_stated_share_lies_below() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 7, 20, 39, 40, 41, 1000):
        scores = rng.standard_normal(count).round(1)  # with ties
        for share in (0.05, 0.1, 0.5):
            threshold = lowest_share(scores, share)
            assert np.mean(scores < threshold) <= share
            higher = scores[scores > threshold]  # no higher score would do
            assert not len(higher) or np.mean(scores < higher.min()) > share


def test_calibration_is_of_the_loudest_window_of_each_clip() -> None:
    """Slow form: every start that a sample can have, the first of the loudest."""
    store, embedder = _store(20), in_memory_embedder()
    for sound in store.sounds:  # quiet but for one stretch that fits one window alone
        sound *= 0.001
    rng = np.random.default_rng(1)
    firsts = []
    for sound in store.sounds:
        first = int(rng.integers(0, len(sound) - 7680))
        sound[first : first + 7680] += tune(first, 0.48)
        firsts.append(first)
    found = calibrate_visibility(embedder, store, share=0.1)
    scores = []
    for index in range(20):
        sound = store.sounds[index].astype(np.float64)
        energy = [np.sum(sound[s : s + 7680] ** 2) for s in range(max(firsts[index] - 3, 0), firsts[index] + 4)]
        start = (max(firsts[index] - 3, 0) + int(np.argmax(energy))) / 16000
        scores.append(pair_window(embedder, read_clip_windows(embedder, store, index, [start]), start).score)
    assert found.pairs == 20
    assert found.threshold == pytest.approx(sorted(scores)[2], abs=1e-3)
    assert found.sees(found.threshold)
    assert not found.sees(found.threshold - 0.01)


def test_clips_without_a_picture_are_no_pairs_and_too_few_are_refused() -> None:
    store = _store(21)
    clip = store.clips[0]
    store.clips[0] = replace(clip, frame_seconds=np.zeros(0), picture_span=None)
    assert calibrate_visibility(in_memory_embedder(), store).pairs == 20
    with pytest.raises(StoreError, match="at least 20"):
        calibrate_visibility(in_memory_embedder(), store, indices=range(20))
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="between 0 and 1"):
            calibrate_visibility(in_memory_embedder(), store, share=share)


def _red_windows(embedder: PlantedEmbedder, count: int) -> list[PairedWindow]:
    clip = planted_clip()
    assert clip.frames is not None
    frames = np.zeros_like(clip.frames)
    frames[:, 0] = 200
    return [pair_window(embedder, replace(clip, frames=frames), 0.3)] * count


def test_wrong_answers_are_counted() -> None:
    """A model in which red is loud: silence is never red, and a loud sound from anywhere is."""
    embedder = PlantedEmbedder()
    windows = _red_windows(embedder, 6)
    visibility = Visibility(threshold=0.7, share=0.05, pairs=40, model_fingerprint="planted")
    others = [window.audio_embedding for window in windows[:5]] + [None]
    found = judge_visibility(embedder, windows, others, visibility)
    assert windows[0].score > 0.7
    assert found.missed == 0.0
    assert found.false_positive_silence == 0.0
    assert found.false_positive_noise > 0.9  # as loud as the tone, and this model hears nothing else
    assert 0.0 <= found.false_positive_off_screen <= 1.0
    assert found.false_positive_other_sound == 1.0
    assert found.windows == 6
    strict = judge_visibility(embedder, windows, [None] * 6, replace(visibility, threshold=1.1))
    assert (strict.missed, strict.false_positive_noise, strict.false_positive_other_sound) == (1.0, 0.0, None)


def test_windows_of_a_large_set_are_not_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window is two megabytes: those of VGG-SS would be ten gigabytes."""
    held: list[weakref.ref[PairedWindow]] = []
    most = 0

    def watched(*args: Any, **options: Any) -> PairedWindow:
        nonlocal most
        window = pair_window(*args, **options)
        held.append(weakref.ref(window))
        most = max(most, sum(each() is not None for each in held))
        return window

    store, embedder = _store(20), in_memory_embedder()
    visibility = calibrate_visibility(embedder, store)
    monkeypatch.setattr(evaluation, "pair_window", watched)
    truth = {clip.path: Truth() for clip in store.clips}
    config = HeatConfig(method="cosine")
    result = evaluate_localization(embedder, store, truth, config=config, visibility=visibility, num_examples=3)
    assert len(held) == 3 * 20  # found, mapped, judged
    assert most <= 3
    assert [example.clip_id for example in result.examples] == [store.clips[i].clip_id for i in (0, 9, 19)]
    assert all(example.heat.shape == example.picture.shape[1:] == (32, 32) for example in result.examples)


def test_a_calibration_is_kept_with_its_model(tmp_path: Path) -> None:
    embedder = in_memory_embedder()
    visibility = Visibility(threshold=0.25, share=0.05, pairs=40, model_fingerprint=embedder.fingerprint)
    visibility.save(tmp_path / "visible.json")
    assert Visibility.load(tmp_path / "visible.json", embedder) == visibility
    replace(visibility, model_fingerprint="other").save(tmp_path / "other.json")
    with pytest.raises(UserError, match="another model"):
        Visibility.load(tmp_path / "other.json", embedder)
    (tmp_path / "bad.json").write_text('{"threshold": "high"}')
    for name in ("bad.json", "none.json"):
        with pytest.raises(UserError, match="is no calibration"):
            Visibility.load(tmp_path / name, embedder)
    with pytest.raises(UserError, match="cannot write"):
        visibility.save(tmp_path / "no" / "folder.json")


def test_it_is_part_of_the_result() -> None:
    store, embedder = _store(20), in_memory_embedder()
    truth = {clip.path: Truth() for clip in store.clips}
    visibility = calibrate_visibility(embedder, store)
    config = HeatConfig(method="cosine")
    result = evaluate_localization(embedder, store, truth, config=config, visibility=visibility)
    part = json.loads(json.dumps(result.to_dict()))["visibility"]
    assert part["windows"] == result.frames == 20
    assert part["threshold"] == visibility.threshold
    for name in ("missed", "false_positive_silence", "false_positive_noise", "false_positive_off_screen"):
        assert 0.0 <= part[name] <= 1.0
    assert evaluate_localization(embedder, store, truth, config=config).visibility is None
