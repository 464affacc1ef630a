"""If these fail, a perfect model is not found perfect, a blind one not blind, or the controls control nothing."""

import json

import numpy as np
import pytest

from lookhear.errors import StoreError
from lookhear.tasks.metrics import AGGREGATIONS, hits_at, ranks
from lookhear.tasks.retrieval import evaluate_retrieval, shuffled_recall, within_kind_hits
from lookhear.tasks.windows import embed_windows
from stand_ins import EmbedderStandIn, StoreStandIn, make_store

DIRECTION_KEYS = {
    "r1",
    "r5",
    "r10",
    "median_rank",
    "r1_ci95",
    "shuffled_r1",
    "ridge_r1",
    "within_kind_r1",
    "within_kind_chance",
    "within_kind_r1_ci95",
}


def test_a_perfect_model_finds_everything_and_the_report_has_its_keys() -> None:
    store = make_store(count=24, labels=4)
    result = evaluate_retrieval(EmbedderStandIn(), store)
    record = json.loads(json.dumps(result.to_dict()))
    for direction in ("audio_to_visual", "visual_to_audio"):
        assert set(record[direction]) == DIRECTION_KEYS
        assert record[direction]["r1"] == 1.0
        assert record[direction]["r1_ci95"] == [1.0, 1.0]
        assert record[direction]["median_rank"] == 1.0
        assert record[direction]["within_kind_r1"] == 1.0
        assert record[direction]["within_kind_chance"] == pytest.approx(1 / 6)
        assert record[direction]["ridge_r1"] is None
        assert record[direction]["shuffled_r1"] == pytest.approx(1 / 24, abs=0.02)
    assert record["chance_r1"] == pytest.approx(1 / 24)
    assert record["kind_only_r1"] == pytest.approx(1 / 6)
    assert record["clips"] == 24
    assert record["model_fingerprint"] == "stand-in"
    assert len({clip["sha256"] for clip in record["clip_list"]}) == 24
    assert "similarity" not in record
    assert result.similarity.shape == (24, 24)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_clips_of_different_length(aggregation: str) -> None:
    store = make_store(count=20, num_slots=(7, 3, 5, 6))
    result = evaluate_retrieval(EmbedderStandIn(), store, aggregation=aggregation)  # type: ignore[arg-type]
    assert result.protocol["windows_per_clip"] == [3, 7]
    if aggregation == "diagonal_mean":
        assert result.audio_to_visual.r1 == 1.0


def test_a_random_model_gets_about_chance() -> None:
    store = make_store(count=60, num_slots=(2,), labels=3)
    result = evaluate_retrieval(EmbedderStandIn("random"), store)
    assert result.audio_to_visual.r1 < 0.12
    assert result.visual_to_audio.r10 == pytest.approx(10 / 60, abs=0.13)
    assert result.audio_to_visual.median_rank == pytest.approx(30, abs=8)
    assert result.audio_to_visual.within_kind_r1 == pytest.approx(1 / 20, abs=0.08)


def test_a_collapsed_model_gets_exactly_chance() -> None:
    result = evaluate_retrieval(EmbedderStandIn("collapsed"), make_store(count=10, num_slots=(2,), labels=2))
    assert result.audio_to_visual.r1 == pytest.approx(0.1)
    assert result.audio_to_visual.within_kind_r1 == pytest.approx(0.2)
    assert result.audio_to_visual.shuffled_r1 == pytest.approx(0.1)


def test_one_clip() -> None:
    result = evaluate_retrieval(EmbedderStandIn(), make_store(count=1, num_slots=(1,), labels=1))
    assert result.audio_to_visual.r1 == 1.0 == result.chance_r1
    assert result.audio_to_visual.within_kind_r1 is None  # no other clip of the kind to be confused with


def test_fewer_windows_than_fit_are_spread() -> None:
    windows = embed_windows(EmbedderStandIn(), make_store(count=3, num_slots=(7, 1, 3)), num_windows=2)
    assert windows.counts.tolist() == [2, 1, 2]
    assert windows.start_seconds[0].tolist() == pytest.approx([0.5, 1.9])


def test_a_clip_shorter_than_a_window_is_one_window() -> None:
    store = make_store(count=2, num_slots=(1,))
    store.sounds[0], store.pictures[0] = store.sounds[0][:3200], store.pictures[0][:2]
    store.clips[0] = _replaced(
        store, 0, end_seconds=0.2, picture_span=(0.0, 0.2), sound_span=(0.0, 0.2), num_samples=3200
    )
    store.clips[0] = _replaced(store, 0, frame_seconds=np.array([0.0, 0.1]))
    assert embed_windows(EmbedderStandIn(), store).counts.tolist() == [1, 1]


def test_clips_without_sound_or_picture_are_left_out_with_a_reason() -> None:
    store = make_store(count=4, labels=2)
    store.clips[1] = _replaced(store, 1, num_samples=0, sound_span=None)
    store.clips[2] = _replaced(store, 2, frame_seconds=np.zeros(0), picture_span=None)
    result = evaluate_retrieval(EmbedderStandIn(), store)
    assert result.clips == 2
    assert [clip["clip_id"] for clip in result.left_out] == ["clip-001.mp4@0", "clip-002.mp4@0"]
    assert "sound and picture" in result.left_out[0]["reason"]
    for index in range(4):
        store.clips[index] = _replaced(store, index, num_samples=0, sound_span=None)
    with pytest.raises(StoreError, match="nothing to match"):
        evaluate_retrieval(EmbedderStandIn(), store)


def test_kinds_by_clip_or_by_path_or_none() -> None:
    store = make_store(count=6)
    assert evaluate_retrieval(EmbedderStandIn(), store).kind_only_r1 is None
    by_path = {clip.path: "same" for clip in store.clips}
    assert evaluate_retrieval(EmbedderStandIn(), store, kinds=by_path).kind_only_r1 == pytest.approx(1 / 6)
    by_clip = {clip.clip_id: clip.clip_id for clip in store.clips}
    result = evaluate_retrieval(EmbedderStandIn(), store, kinds=by_clip)
    assert result.kind_only_r1 == 1.0  # whoever knows the kind knows the clip
    assert result.audio_to_visual.within_kind_r1 is None


def test_within_kind_equals_the_loop() -> None:
    rng = np.random.default_rng(0)
    similarity, kind = rng.random((30, 30)).astype(np.float32), rng.integers(0, 4, 30)
    kind[0] = 9
    expected = []
    for row in range(30):
        same = np.flatnonzero(kind == kind[row])
        hit = hits_at(ranks(similarity[row : row + 1, same], np.flatnonzero(same == row)), 1)[0]
        expected.append(hit if len(same) > 1 else np.nan)
    np.testing.assert_array_equal(within_kind_hits(similarity, kind), expected)


def test_shuffled_pairs_are_at_chance_for_any_matrix() -> None:
    for similarity in (np.eye(50), np.random.default_rng(0).random((50, 50)), np.ones((50, 50))):
        assert shuffled_recall(similarity) == pytest.approx(1 / 50, abs=0.006)


def _replaced(store: StoreStandIn, index: int, **values: object):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(store.clips[index], **values)
