"""If these fail, the 1-of-K figure is not what it says: wrong window, wrong chance, or a control that leaks."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from lookhear.errors import StoreError
from lookhear.tasks.matching.sync import evaluate_sync, match_windows, shuffled_accuracy
from stand_ins import EmbedderStandIn, make_store


@dataclass
class TruthStandIn:
    event_seconds: tuple[float, ...]
    kind: str = "bars"
    frames_per_second: float = 10.0
    boxes: tuple = ()


def test_a_perfect_model_finds_every_window() -> None:
    store = make_store(count=12, num_slots=(7, 4))
    truth = {clip.path: TruthStandIn((0.5, 0.6, 1.3)) for clip in store.clips}  # windows 1 and 3
    result = evaluate_sync(EmbedderStandIn(), store, truth=truth)
    json.dumps(result.to_dict())
    assert result.accuracy == result.audio_to_visual_accuracy == 1.0
    assert result.frames == 6 * 11
    assert result.chance == pytest.approx((6 * 7 / 7 + 6 * 4 / 4) / 66)
    assert result.with_event is not None
    assert result.without_event is not None
    assert (result.with_event.frames, result.without_event.frames) == (24, 42)
    assert result.with_event.accuracy == 1.0
    # whoever knows only which windows hold an event: one of 2, one of 5 or one of 2
    assert result.event_only_accuracy == pytest.approx(12 * 2 / 66)


def test_a_random_model_gets_chance_and_a_collapsed_one_exactly_that() -> None:
    store = make_store(count=60, num_slots=(7,))
    random = evaluate_sync(EmbedderStandIn("random"), store)
    assert random.accuracy == pytest.approx(1 / 7, abs=0.06)
    assert random.accuracy_ci95[0] < 1 / 7 < random.accuracy_ci95[1]
    collapsed = evaluate_sync(EmbedderStandIn("collapsed"), store)
    assert collapsed.accuracy == pytest.approx(1 / 7)
    assert collapsed.with_event is None
    assert collapsed.ridge_accuracy is None


def test_sound_of_another_clip_is_at_chance() -> None:
    result = evaluate_sync(EmbedderStandIn(), make_store(count=30, num_slots=(7, 5)))
    assert result.shuffled_accuracy == pytest.approx(result.chance, abs=0.04)


def test_a_model_that_only_knows_the_position_is_found_out() -> None:
    """Every clip the same: the swapped sound scores as high as its own, and so the control says."""
    same = np.tile(np.eye(5, dtype=np.float32), (8, 1, 1))
    assert shuffled_accuracy(same, same, np.ones((8, 5), dtype=bool)) == 1.0


def test_matches_equal_the_loop() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([5, 2, 1, 4])
    queries, candidates = rng.standard_normal((2, 4, 5, 3))
    real = np.arange(5)[None, :] < counts[:, None]
    found = match_windows(queries, candidates, real)
    for clip, count in enumerate(counts):
        for k in range(count):
            best = np.argmax(candidates[clip, :count] @ queries[clip, k])
            assert found.hits[clip, k] == (best == k)


def test_clips_of_one_window_cannot_be_judged() -> None:
    mixed = evaluate_sync(EmbedderStandIn(), make_store(count=4, num_slots=(1, 3)))
    assert (mixed.clips, mixed.frames) == (2, 6)
    with pytest.raises(StoreError, match="two windows"):
        evaluate_sync(EmbedderStandIn(), make_store(count=3, num_slots=(1,)))


def test_one_clip_has_no_other_to_swap_with() -> None:
    result = evaluate_sync(EmbedderStandIn(), make_store(count=1, num_slots=(4,)))
    assert result.accuracy == 1.0
    assert result.shuffled_accuracy is None


def test_a_file_without_truth_is_named() -> None:
    with pytest.raises(StoreError, match=r"clip-000\.mp4"):
        evaluate_sync(EmbedderStandIn(), make_store(count=2), truth={})


def test_no_event_anywhere_gives_no_figure_instead_of_a_wrong_one() -> None:
    store = make_store(count=2)
    result = evaluate_sync(EmbedderStandIn(), store, truth={clip.path: TruthStandIn(()) for clip in store.clips})
    assert result.with_event is not None
    assert (result.with_event.frames, result.with_event.accuracy) == (0, None)
