"""If these fail, a classifier is judged on other clips, frames or scores than the result says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lookhear.data.sampling import disjoint_windows
from lookhear.data.windows import cut_windows
from lookhear.errors import CheckpointError, StoreError
from lookhear.models.classifier import Mode
from lookhear.tasks.labels import classification
from lookhear.tasks.labels.classification import evaluate_classification, score_classes
from lookhear.tasks.labels.logits import probabilities, window_logits
from lookhear.tasks.labels.units import WindowChoice
from lookhear.tasks.windows import read_clip_windows
from stand_ins import StoreStandIn, in_files, make_store
from tiny_embedder import WINDOW_SECONDS, classifier_embedder, in_memory_embedder

LABELS = ("kind 0", "kind 1", "kind 2", "kind 9")


def relabel(store: StoreStandIn, index: int, *labels: str) -> None:
    store.clips[index] = replace(store.clips[index], labels=labels)


def test_scores_are_the_mean_over_windows_of_the_mean_over_frames() -> None:
    """Against the slow form: one forward for every frame of every window of every clip."""
    store, embedder = make_store(count=4, num_slots=(4, 1), labels=3), classifier_embedder(LABELS, batch_size=5)
    result = evaluate_classification(embedder, store)
    for row, stored in enumerate(store.clips):
        end = stored.end_seconds
        starts = disjoint_windows(0.0, end, WINDOW_SECONDS) if end > WINDOW_SECONDS else np.array([0.0])
        means = []
        for start in starts:
            sound = read_clip_windows(embedder, store, row, [start], picture=False)
            waveform = cut_windows(embedder.preprocess.config, sound, np.array([start])).waveform
            length = min(WINDOW_SECONDS, end - start)
            times = start + length * (np.arange(10) + 0.5) / 10
            numbers = sorted({int(np.abs(stored.frame_seconds - time).argmin()) for time in times})
            scores = []
            for number in numbers:
                pixels = embedder.preprocess.frames_to_size(torch.from_numpy(store.frames(row, [number]).copy()))
                logits = window_logits(embedder, waveform=waveform, frames=pixels.numpy(), mode="both")
                scores.append(probabilities(logits, multi_label=False)[0])
            means.append(np.mean(scores, axis=0))
        np.testing.assert_allclose(result.probabilities[row], np.mean(means, axis=0), atol=1e-5)
    assert result.protocol["frames_of_a_window"] > 3
    assert result.protocol["scores"] == "softmax"
    assert result.classes_without_clips == ("kind 9",)
    assert evaluate_classification(embedder, store, frames="one").protocol["frames_of_a_window"] == 1.0


@pytest.mark.parametrize("missing", ["has_sound", "has_picture"])
def test_a_clip_with_a_hole_is_left_out_of_what_reads_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the window lacks is filled with zeros or not a number, which a model answers all the same."""

    def holed(config, clip, starts):  # type: ignore[no-untyped-def]
        windows = cut_windows(config, clip, starts)
        if len(starts) == 1:
            getattr(windows, missing)[0] = False
        return windows

    monkeypatch.setattr(classification, "cut_windows", holed)
    store, embedder = make_store(count=4, num_slots=(4, 1), labels=3), classifier_embedder(LABELS)
    result = evaluate_classification(embedder, store, mode="audio")
    assert result.clips == len(result.probabilities) == (2 if missing == "has_sound" else 4)
    stacked = replace(embedder.preprocess.config, frames_per_window=2)
    monkeypatch.setattr(embedder.preprocess, "config", stacked)
    shown = lambda embedder, waveform, frames, owner, mode: np.zeros((len(owner), 4), np.float32)  # noqa: E731
    monkeypatch.setattr(classification, "window_logits", shown)
    result = evaluate_classification(embedder, store)
    assert result.clip_ids == ("clip-000.mp4@0", "clip-002.mp4@0")
    assert {clip.reason for clip in result.left_out} == {"a window of it has no sound and picture at the same time"}
    with pytest.raises(StoreError, match="1 a window of it has no sound and picture"):
        evaluate_classification(embedder, store, indices=[1])


def test_sigmoid_or_softmax_is_what_the_checkpoint_learned() -> None:
    """Not what the clips that happen to be chosen look like."""
    store = make_store(count=4, labels=3)
    relabel(store, 3, *LABELS[:2])

    def scores(loss: str | None, **options: object) -> tuple[str, str]:
        extra = {} if loss is None else {"objective": {"loss": loss}}
        embedder = classifier_embedder(LABELS, extra=extra)
        found = evaluate_classification(embedder, store, indices=[0, 1], **options).protocol  # type: ignore[arg-type]
        return found["scores"], found["scores_chosen"]

    assert scores("bce") == ("sigmoid", "as the checkpoint learned")
    assert scores("ce") == ("softmax", "as the checkpoint learned")
    assert scores("ce", multi_label=True) == ("sigmoid", "as asked")
    assert scores(None) == ("sigmoid", "by the labels of the store")


def test_perfect_and_constant_scores_have_their_figures() -> None:
    target = np.eye(4, dtype=bool)[[0, 0, 1, 2, 0, 1]]
    ids = tuple("abcdef")
    right = score_classes(target, target.astype(np.float32), LABELS, clip_ids=ids)
    assert (right.mean_average_precision, right.mean_area_under_roc, right.accuracy) == (1.0, 1.0, 1.0)
    assert json.loads(json.dumps(right.to_dict(), allow_nan=False))["d_prime"] is None  # infinite
    same = score_classes(target, np.full((6, 4), 0.25, np.float32), LABELS, clip_ids=ids)
    assert same.mean_area_under_roc == 0.5
    assert same.d_prime == pytest.approx(0.0)
    assert same.mean_average_precision == pytest.approx(same.mean_average_precision_chance)
    assert same.accuracy_majority == same.accuracy == 0.5
    assert same.accuracy_chance == 0.25
    rows = {row.label: row for row in same.per_class}
    assert (rows["kind 0"].clips, rows["kind 0"].named) == (3, 6)
    assert (rows["kind 0"].precision, rows["kind 0"].recall) == (0.5, 1.0)
    assert (rows["kind 1"].precision, rows["kind 1"].recall) == (None, 0.0)
    assert (rows["kind 9"].average_precision, rows["kind 9"].recall) == (None, None)


def test_several_labels_are_sigmoids_and_any_of_them_is_right() -> None:
    store, embedder = make_store(count=3, labels=3), classifier_embedder(LABELS)
    relabel(store, 0, *LABELS)
    result = evaluate_classification(embedder, store)
    assert result.protocol["scores"] == "sigmoid"
    assert sum(row.clips for row in result.per_class) == 6
    relabel(store, 1, *LABELS)
    relabel(store, 2, *LABELS)
    assert evaluate_classification(embedder, store).accuracy == 1.0


@pytest.mark.parametrize(
    ("mode", "judged"),
    [("both", 2), ("audio", 3), ("audio_of_both", 3), ("visual", 3), ("visual_of_both", 3)],
)
def test_a_clip_that_lacks_what_the_mode_reads_is_left_out_with_a_reason(mode: Mode, judged: int) -> None:
    store = make_store(count=4, labels=3)
    store.clips[0] = replace(store.clips[0], num_samples=0, sound_span=None)
    store.clips[1] = replace(store.clips[1], frame_seconds=np.zeros(0), picture_span=None)
    embedder = classifier_embedder(LABELS)
    result = evaluate_classification(embedder, store, mode=mode)
    assert result.clips == judged == len(result.clip_ids)
    assert len(result.left_out) == 4 - judged
    assert result.left_out[0].reason.startswith("has no")


def test_one_clip_is_judged_and_figures_that_it_cannot_have_are_none() -> None:
    result = evaluate_classification(classifier_embedder(LABELS), make_store(count=4, labels=3), indices=[2])
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["clips"] == 1
    assert record["mean_average_precision"] == 1.0
    assert record["mean_area_under_roc"] is None


def test_unlabelled_and_unknown_labels() -> None:
    store, embedder = make_store(count=4, labels=3), classifier_embedder(LABELS)
    relabel(store, 0)
    relabel(store, 1, "martian")
    result = evaluate_classification(embedder, store)
    assert [clip.reason for clip in result.left_out] == ["has no label", "has only labels that the model does not know"]
    assert result.protocol["unknown_labels"] == ["martian"]
    with pytest.raises(StoreError, match="4 has no label"):
        evaluate_classification(embedder, make_store(count=4))
    with pytest.raises(CheckpointError, match="names no classes"):
        evaluate_classification(in_memory_embedder(), store)


def test_a_whole_file_is_the_mean_of_the_windows_of_its_clips() -> None:
    """Against the probabilities of each clip by itself."""
    store, embedder = in_files(make_store(count=5, num_slots=(7, 5), labels=1), 2), classifier_embedder(LABELS)
    alone = evaluate_classification(embedder, store, mode="audio")
    whole = evaluate_classification(embedder, store, mode="audio", choice=WindowChoice(unit="file"))
    assert whole.clip_ids == ("file-0.mp4", "file-1.mp4", "file-2.mp4")
    counts = [5, 4, 5, 4, 5]
    for row, members in enumerate(([0, 1], [2, 3], [4])):
        weights = [counts[index] for index in members]
        expected = np.average(alone.probabilities[members], axis=0, weights=weights)
        np.testing.assert_allclose(whole.probabilities[row], expected, atol=1e-6)
    assert whole.protocol["windows_of_a_file"] == pytest.approx(23 / 3)
    assert whole.window_accuracy == pytest.approx(alone.window_accuracy)
    few = evaluate_classification(embedder, store, mode="audio", choice=WindowChoice(unit="file", windows=2))
    assert few.protocol["windows_of_a_file"] == 2


def test_five_highest_of_six() -> None:
    names = tuple("abcdef")
    score = np.array([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]], dtype=np.float32)
    target = np.eye(6, dtype=bool)[[4, 5]]
    assert score_classes(target, score, names, clip_ids=("x", "y")).accuracy_top5 == 0.5
    assert score_classes(target[:, 1:], score[:, 1:], names[1:], clip_ids=("x", "y")).accuracy_top5 is None
