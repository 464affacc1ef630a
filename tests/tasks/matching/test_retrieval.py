"""If these fail, a perfect model is not found perfect, a blind one not blind, or the controls control nothing."""

import json

import numpy as np
import pytest

from lookhear.errors import StoreError, UserError
from lookhear.tasks.matching.retrieval import evaluate_retrieval
from lookhear.tasks.matching.similarity import AGGREGATIONS, pair_similarity
from lookhear.tasks.metrics import ranks, recall_at
from lookhear.tasks.windows import WindowEmbeddings, embed_windows
from stand_ins import EmbedderStandIn, StoreStandIn, make_store
from tiny_embedder import in_memory_embedder

DIRECTION_KEYS = {
    "r1",
    "r5",
    "r10",
    "median_rank",
    "r1_ci95",
    "failed",
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
    assert record["windows"] == 24 * 7


def test_clips_of_different_length_in_all_aggregations_at_once() -> None:
    store = make_store(count=20, num_slots=(7, 3, 5, 6))
    result = evaluate_retrieval(EmbedderStandIn(), store, aggregations=AGGREGATIONS)
    assert result.protocol["windows_per_clip"] == [3, 7]
    assert result.protocol["aggregation"] == "diagonal_mean"
    assert result.audio_to_visual.r1 == 1.0
    assert list(result.further) == list(AGGREGATIONS[1:])
    windows = embed_windows(EmbedderStandIn(), store)
    for name, both in result.further.items():
        matrix = pair_similarity(
            windows.audio,
            windows.visual,
            aggregation=name,  # type: ignore[arg-type]
            audio_counts=windows.counts,
            visual_counts=windows.counts,
        )
        expected = ranks(matrix.T, np.arange(20), tie_tolerance=1e-6)
        assert both.visual_to_audio.r5 == recall_at(expected, 5)
        alone = evaluate_retrieval(EmbedderStandIn(), store, aggregations=[name])  # type: ignore[list-item]
        assert alone.audio_to_visual == both.audio_to_visual
    with pytest.raises(ValueError, match="some of"):
        evaluate_retrieval(EmbedderStandIn(), store, aggregations=[])


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


def test_one_clip_of_each_kind() -> None:
    result = evaluate_retrieval(EmbedderStandIn(), make_store(count=2, num_slots=(1,), labels=2))
    assert result.chance_r1 == 0.5
    assert result.audio_to_visual.within_kind_r1 is None  # no other clip of the kind to be confused with


def test_one_clip_is_no_choice_but_its_windows_are() -> None:
    store = make_store(count=1)
    with pytest.raises(StoreError, match="retrieval is a choice among clips"):
        evaluate_retrieval(EmbedderStandIn(), store)
    assert evaluate_retrieval(EmbedderStandIn(), store, level="window").windows > 1


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


def test_windows_find_their_own_window_and_their_own_clip() -> None:
    store = make_store(count=12, num_slots=(7, 1, 5))
    perfect = evaluate_retrieval(EmbedderStandIn(), store, level="window")
    assert perfect.windows == 4 * 13
    assert perfect.chance_r1 == pytest.approx(1 / 52)
    assert perfect.audio_to_visual.r1 > 0.95, "codes of 12 bits: two of 52 windows may have the same"
    own_clip = perfect.further["own_clip"]
    assert own_clip.audio_to_visual.r1 >= perfect.audio_to_visual.r1
    assert own_clip.chance_r1 == pytest.approx(4 * (49 + 1 + 25) / 52**2)
    assert perfect.audio_to_visual.shuffled_r1 == pytest.approx(1 / 52, abs=0.01)
    collapsed = evaluate_retrieval(EmbedderStandIn("collapsed"), store, level="window")
    assert collapsed.visual_to_audio.r1 == pytest.approx(1 / 52)
    assert collapsed.further["own_clip"].visual_to_audio.r1 == pytest.approx(4 * (49 + 1 + 25) / 52**2)
    assert json.dumps(collapsed.to_dict())


def test_the_published_rule_inflates_what_is_tied() -> None:
    result = evaluate_retrieval(EmbedderStandIn("collapsed"), make_store(count=10, num_slots=(2,)), ties="published")
    assert result.audio_to_visual.r1 == pytest.approx(0.1), "100 tied places, 10 of them first"
    assert result.audio_to_visual.r5 == pytest.approx(0.5)
    assert "published" in result.protocol["ties"]
    perfect = make_store(count=6)
    fair, published = (evaluate_retrieval(EmbedderStandIn(), perfect, ties=rule) for rule in ("fair", "published"))  # type: ignore[arg-type]
    for name in ("r1", "r5", "median_rank", "r1_ci95"):
        expected = getattr(fair.audio_to_visual, name)
        assert getattr(published.audio_to_visual, name) == expected, "without ties they are the same"


def test_published_ties_are_exactly_equal_scores() -> None:
    """Nearer than float32 can tell counts as a tie in the fair rule; the public code compares with ==."""
    store = make_store(count=6, num_slots=(1,))
    windows = embed_windows(EmbedderStandIn("random"), store)
    windows.visual[:] = windows.audio
    turned = windows.audio[1].copy()
    turned[0, 0] += 3e-7
    windows.audio[0] = windows.visual[0] = turned  # nearly the second clip
    windows.audio[4], windows.visual[4] = windows.audio[3], windows.visual[3]  # exactly the fourth
    fair = evaluate_retrieval(EmbedderStandIn(), store, windows=windows)
    assert fair.audio_to_visual.r1 == pytest.approx(4 / 6)
    for level in ("clip", "window"):
        published = evaluate_retrieval(EmbedderStandIn(), store, windows=windows, ties="published", level=level)  # type: ignore[arg-type]
        matrix = windows.audio[:, 0] @ windows.visual[:, 0].T
        own = matrix.diagonal()
        first = [(int((row > value).sum()), int((row == value).sum())) for row, value in zip(matrix, own, strict=True)]
        expected = sum(ahead == 0 for ahead, _ in first) / sum(level for _, level in first)
        assert published.audio_to_visual.r1 == pytest.approx(expected)
        assert "exactly equal" in published.protocol["ties"]


def test_what_does_not_go_together_is_refused() -> None:
    store = make_store(count=12, num_slots=(26,))
    for pairs in ("published", "clip"):
        with pytest.raises(UserError, match="linear baseline sees windows"):
            evaluate_retrieval(in_memory_embedder(), store, pairs=pairs, train_store=store)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="one window a clip"):
        embed_windows(in_memory_embedder(), store, pairs="clip", num_windows=3)


def test_a_model_that_gives_no_number_is_counted_as_failed() -> None:
    store = make_store(count=8, num_slots=(2,))
    windows = embed_windows(EmbedderStandIn(), store)
    windows.visual[2] = np.nan
    result = evaluate_retrieval(EmbedderStandIn(), store, windows=windows)
    assert result.audio_to_visual.failed == 1
    assert result.audio_to_visual.r1 == pytest.approx(7 / 8)
    lost = evaluate_retrieval(EmbedderStandIn(), store, windows=windows, ties="published")
    assert lost.audio_to_visual.r1 == 1.0
    assert lost.audio_to_visual.r1_ci95 == (1.0, 1.0)


def _pairs(store: StoreStandIn, **options: object) -> tuple[WindowEmbeddings, list[int]]:
    """The embeddings, and how many windows of sound and of picture the model was given for each clip."""
    embedder = in_memory_embedder()
    given: list[int] = []
    embed = embedder.embed_windows

    def counting(windows):  # type: ignore[no-untyped-def]
        given.append(len(windows))
        return embed(windows)

    embedder.embed_windows = counting  # type: ignore[method-assign]
    return embed_windows(embedder, store, **options), given  # type: ignore[arg-type]


def test_published_pairs_embed_each_distinct_window_once() -> None:
    store = make_store(count=2, num_slots=(26,))  # 10.4 s
    windows, given = _pairs(store, pairs="published", num_windows=80)
    starts = windows.start_seconds[0]
    assert windows.counts.tolist() == [80, 80]
    assert given == [len(np.unique(starts)), 80] * 2
    assert len(np.unique(starts)) < 80
    assert starts[0] == starts[1] == 0.0, "the first picture's window is moved into the clip"
    for shared in np.unique(starts):
        rows = windows.audio[0][starts == shared]
        np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    embedder = in_memory_embedder()
    clip = store_clip(store, 0)
    for pair in (0, 7, 79):  # the slow form: the pair alone
        seen = int(np.abs(store.clips[0].frame_seconds - pair * 10.24 / 80).argmin())
        alone = embedder.embed_clip(clip, [starts[pair]])
        np.testing.assert_allclose(windows.audio[0, pair], alone.audio[0], atol=1e-5)
        picture = embedder.embed_picture(store.pictures[0][seen])
        np.testing.assert_allclose(windows.visual[0, pair], picture, atol=1e-5)


def test_no_window_is_no_question() -> None:
    for count in (0, -1):
        for pairs in ("timestamps", "published"):
            with pytest.raises(UserError, match="at least 1"):
                embed_windows(EmbedderStandIn(), make_store(count=2), num_windows=count, pairs=pairs)  # type: ignore[arg-type]


def test_the_pair_of_a_clip_is_its_first_window_and_its_middle_picture() -> None:
    store = make_store(count=2, num_slots=(1,))  # 0.4 s, shorter than the window
    windows, given = _pairs(store, pairs="clip")
    assert given == [1, 1, 1, 1]
    picture = in_memory_embedder().embed_picture(store.pictures[0][2])
    np.testing.assert_allclose(windows.visual[0, 0], picture, atol=1e-5)
    result = evaluate_retrieval(in_memory_embedder(), store, pairs="clip")
    assert result.protocol["pairs"] == "clip"
    assert result.protocol["windows_per_clip"] == [1, 1]


def test_clips_without_the_published_pictures_are_left_out() -> None:
    store = make_store(count=3, num_slots=(26, 26, 5))
    store.clips[1] = _replaced(store, 1, num_samples=0, sound_span=None)
    windows, _ = _pairs(store, pairs="published")
    assert len(windows) == 1
    assert [clip.clip_id for clip in windows.left_out] == ["clip-001.mp4@0", "clip-002.mp4@0"]
    assert "no picture within 0.32 s" in windows.left_out[1].reason
    embedder = EmbedderStandIn()
    embedder.preprocess.config = _with_two_pictures(embedder.preprocess.config)
    with pytest.raises(StoreError, match="one picture"):
        embed_windows(embedder, make_store(count=1), pairs="published")


def store_clip(store: StoreStandIn, index: int):  # type: ignore[no-untyped-def]
    from lookhear.media.clip import Clip

    stored = store.clips[index]
    return Clip(
        start_seconds=0.0,
        end_seconds=stored.end_seconds,
        frames=store.pictures[index],
        frame_seconds=stored.frame_seconds,
        waveform=store.sounds[index],
        sample_rate=16000,
    )


def _with_two_pictures(config):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(config, frames_per_window=2)


def _replaced(store: StoreStandIn, index: int, **values: object):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(store.clips[index], **values)
