"""If these fail, moments have other times, labels or scores than the windows that they were merged from."""

from pathlib import Path

import numpy as np
import pytest

import lookhear
from lookhear.config import to_dict
from lookhear.errors import CheckpointError, ConfigError, MediaError
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.classifier import Mode
from lookhear.tasks.labels.logits import probabilities, window_logits
from lookhear.tasks.labels.moments import LabelledMoment, _Merging, classify, window_scores
from tiny_embedder import PREPROCESS, WINDOW_SECONDS, classifier_embedder, in_memory_embedder, make_clip

LABELS = ("dog", "rain", "siren")


def merge(rows: list[list[float]], *, top: int = 1, threshold: float = 0.3) -> list[LabelledMoment]:
    """Windows of 1 s that follow each other by 0.5 s."""
    merging = _Merging(LABELS, top=top, threshold=threshold)
    for number, row in enumerate(rows):
        merging.add(0.5 * number, 0.5 * number + 1.0, np.array(row, np.float32))
    return merging.finish()


def test_neighbours_of_one_label_are_one_moment_and_a_gap_ends_it() -> None:
    found = merge([[0.5, 0.1, 0.1], [0.75, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.1, 0.1], [0.5, 0.0, 0.0]])
    assert found == [
        LabelledMoment(label="dog", start_seconds=0.0, end_seconds=1.5, peak_seconds=1.0, score=0.75),
        LabelledMoment(label="rain", start_seconds=1.0, end_seconds=2.0, peak_seconds=1.5, score=0.5),
        LabelledMoment(label="dog", start_seconds=2.0, end_seconds=3.0, peak_seconds=2.5, score=0.5),
    ]


def test_several_labels_a_window_and_the_threshold() -> None:
    rows = [[0.5, 0.375, 0.0], [0.375, 0.5, 0.0]]
    assert [(m.label, m.start_seconds, m.end_seconds) for m in merge(rows, top=2)] == [
        ("dog", 0.0, 1.5),
        ("rain", 0.0, 1.5),
    ]
    assert [m.label for m in merge(rows, top=2, threshold=0.5)] == ["dog", "rain"]
    assert merge(rows, top=3, threshold=0.6) == []


def test_a_window_that_could_not_be_read_has_no_label() -> None:
    found = merge([[0.5, 0.1, 0.1], [np.nan] * 3, [0.5, 0.1, 0.1]], threshold=0.0)
    assert [(m.label, m.start_seconds) for m in found] == [("dog", 0.0), ("dog", 1.0)]


def test_scores_are_what_the_checkpoint_learned(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 1, seconds=0.6)
    found = {}
    for loss, multi_label in ((None, None), ("ce", None), ("bce", None), ("bce", False)):
        embedder = classifier_embedder(LABELS, extra={"objective": {"loss": loss}})
        [(_, scores)] = window_scores(embedder, path, multi_label=multi_label)
        found[loss, multi_label] = float(scores[0].sum())
    one = pytest.approx(1.0, abs=1e-5)
    assert found[None, None] == found["ce", None] == found["bce", False] == one
    assert found["bce", None] != one


def test_spans_give_the_same_windows_as_the_whole_file_at_once(tmp_path: Path) -> None:
    path, embedder = make_clip(tmp_path / "long.mp4", 1, seconds=4.0), classifier_embedder(LABELS)
    whole = list(window_scores(embedder, path))
    assert len(whole) == 1
    cut = embedder.plan(span_seconds=1.0)
    embedder.plan = lambda **_: cut  # type: ignore[method-assign]
    parts = list(window_scores(embedder, path))
    assert len(parts) > 3
    np.testing.assert_allclose(np.concatenate([scores for _, scores in parts]), whole[0][1], atol=1e-4)


def test_moments_cover_the_file_and_score_its_windows(tmp_path: Path) -> None:
    path, embedder = make_clip(tmp_path / "clip.mp4", 1), classifier_embedder(LABELS)
    found = classify(path, model=embedder, threshold=0.0)
    assert found[0].start_seconds == 0.0
    assert max(moment.end_seconds for moment in found) == pytest.approx(2.0, abs=0.1)
    ((_, scores),) = window_scores(embedder, path)
    assert max(moment.score for moment in found) == pytest.approx(float(scores.max()))
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)
    assert all(m.start_seconds <= m.peak_seconds <= m.end_seconds for m in found)


@pytest.mark.parametrize(
    ("sound", "picture", "used"),
    [(True, True, "both"), (True, False, "audio_of_both"), (False, True, "visual_of_both")],
)
def test_a_file_of_one_modality_is_read_as_the_rest_of_both(
    tmp_path: Path, sound: bool, picture: bool, used: Mode
) -> None:
    path = make_clip(tmp_path / "clip.mp4", 1, seconds=1.0, sound=sound, picture=picture)
    embedder = classifier_embedder(LABELS)
    ((windows, scores),) = window_scores(embedder, path)
    logits = window_logits(embedder, waveform=windows.waveform, frames=windows.frames, mode=used)
    np.testing.assert_allclose(scores, probabilities(logits, multi_label=False), atol=1e-6)
    assert classify(path, model=embedder, threshold=0.0)


def test_a_file_shorter_than_a_window_is_one_window(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "short.wav", 1, seconds=0.2, picture=False)
    (moment,) = classify(path, model=classifier_embedder(LABELS, mode="audio"), threshold=0.0)
    assert (moment.start_seconds, moment.end_seconds) == (0.0, pytest.approx(0.2, abs=0.02))
    assert moment.end_seconds < WINDOW_SECONDS


@pytest.mark.parametrize(("mode", "other"), [("audio", {"picture": False}), ("visual", {"sound": False})])
def test_what_the_mode_does_not_read_changes_nothing(tmp_path: Path, mode: Mode, other: dict[str, bool]) -> None:
    embedder = classifier_embedder(LABELS, mode=mode)
    whole, alone = make_clip(tmp_path / "a.mp4", 1), make_clip(tmp_path / "b.mp4", 1, **other)
    ((_, scores),) = window_scores(embedder, whole)
    ((_, scores_alone),) = window_scores(embedder, alone)
    np.testing.assert_allclose(scores[:7], scores_alone[:7], atol=2e-3)  # the streams end a little apart
    with pytest.raises(ConfigError):
        classify(whole, model=classifier_embedder(LABELS, mode=mode, modalities=mode), mode="both")


def test_what_cannot_be_classified_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path, embedder = make_clip(tmp_path / "mute.mp4", 1, sound=False, seconds=1.0), classifier_embedder(LABELS)
    with pytest.raises(MediaError, match="has nothing that mode 'audio' reads"):
        classify(path, model=embedder, mode="audio")
    with pytest.raises(MediaError, match="has nothing that mode 'both' reads"):
        classify(path, model=embedder, mode="both")
    with pytest.raises(MediaError):
        classify(tmp_path / "nothing.mp4", model=embedder)
    with pytest.raises(ConfigError, match="top is 0"):
        classify(path, model=embedder, top=0)
    with pytest.raises(CheckpointError, match="names no classes"):
        classify(path, model=in_memory_embedder())


def test_from_a_checkpoint_through_the_front_door(tmp_path: Path) -> None:
    embedder = classifier_embedder(LABELS)
    save_checkpoint(tmp_path / "c.safetensors", embedder.model, preprocess=to_dict(PREPROCESS), labels=LABELS)
    path = make_clip(tmp_path / "clip.mp4", 1, seconds=1.0)
    loaded = lookhear.classify(path, model=tmp_path / "c.safetensors", threshold=0.0)
    direct = classify(path, model=embedder, threshold=0.0)
    assert [(m.label, m.start_seconds) for m in loaded] == [(m.label, m.start_seconds) for m in direct]
