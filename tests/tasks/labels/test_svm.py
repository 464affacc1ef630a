"""If these fail, machines see the clips that they are judged on, or their windows are not averaged."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from labelled_features import blob_clips
from lookhear.errors import ConfigError, StoreError
from lookhear.tasks.labels.folds import training_folds
from lookhear.tasks.labels.svm import SVMConfig, svm_probe

ONE = SVMConfig(strengths=(1.0,))


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
@pytest.mark.parametrize("kinds", [2, 4])
def test_against_the_slow_form(kinds: int) -> None:
    """A machine for each class by hand, decision values window by window."""
    train = blob_clips(40, 0, kinds=kinds, spread=2.0, windows=3)
    test = [
        replace(clip, visual=clip.visual[: 1 + number % 3])  # type: ignore[index]
        for number, clip in enumerate(blob_clips(60, 1, kinds=kinds, spread=2.0, windows=3))
    ]
    found = svm_probe(train, test, config=ONE)
    rows = np.concatenate([clip.steps for clip in train]).astype(float)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0) + 0.01
    truth = np.repeat([clip.labels[0] for clip in train], 3)
    decisions = np.zeros((len(test), kinds))
    for kind in range(kinds):
        machine = LinearSVC(loss="hinge", dual=True, C=1.0, max_iter=200, random_state=0)
        machine.fit((rows - mean) / deviation, truth == f"kind {kind}")
        for row, clip in enumerate(test):
            values = [machine.decision_function((step[None] - mean) / deviation)[0] for step in clip.steps]
            decisions[row, kind] = sum(values) / len(values)
    right = [f"kind {best}" == clip.labels[0] for best, clip in zip(decisions.argmax(axis=1), test, strict=True)]
    assert found.right == tuple(right)
    assert 1 / kinds < found.accuracy < 1.0
    assert found.protocol["training_windows"] == 120


def test_c_is_chosen_on_the_training_side_alone() -> None:
    train, test = blob_clips(36, 0, spread=1.5), blob_clips(20, 1, spread=1.5)
    config = SVMConfig(strengths=(10.0, 1e-3, 0.1))
    found = svm_probe(train, test, config=config)
    wild = [replace(clip, visual=1e4 * clip.steps) for clip in test]
    other = svm_probe(train, [*test, *wild], config=config)
    assert found.protocol["regularisation_c"] == other.protocol["regularisation_c"]
    assert found.right == other.right[: len(test)]
    assert found.protocol["chosen_by"] == "5-fold cross-validation"
    assert svm_probe(train, test, config=config) == found
    given = svm_probe(train, test, config=ONE)
    assert (given.protocol["chosen_by"], given.protocol["regularisation_c"]) == ("given", 1.0)


def test_official_folds_are_the_folds_of_cross_validation() -> None:
    train = blob_clips(30, 0)
    parts = [f"fold{number % 3}" for number in range(30)]
    # in these folds a whole class is held out: there is nothing to choose by, and every C scores 0
    held = svm_probe(train, blob_clips(6, 1), parts=parts, config=SVMConfig(strengths=(0.1, 1.0)))
    assert held.protocol["cross_validation_accuracy"] == 0.0
    assert held.protocol["chosen_by"] == "cross-validation over fold0, fold1, fold2"
    mixed = [f"fold{number // 3 % 2}" for number in range(30)]
    found = svm_probe(train, blob_clips(6, 1), parts=mixed, config=SVMConfig(strengths=(0.1, 1.0)))
    assert found.protocol["cross_validation_accuracy"] == 1.0
    assert found.protocol["chosen_by"] == "cross-validation over fold0, fold1"


def test_few_iterations_are_confessed() -> None:
    hard = SVMConfig(strengths=(100.0,), iterations=1)
    assert not svm_probe(blob_clips(40, 0, spread=3.0), blob_clips(6, 1), config=hard).protocol["converged"]
    assert svm_probe(blob_clips(40, 0), blob_clips(6, 1), config=ONE).protocol["converged"]


def test_a_feature_that_never_moves_breaks_nothing() -> None:
    def still(seed: int) -> list:  # type: ignore[type-arg]
        clips = blob_clips(12, seed)
        return [replace(clip, visual=np.concatenate([clip.steps, 0 * clip.steps], axis=1)) for clip in clips]

    assert svm_probe(still(0), still(1), config=ONE).accuracy == 1.0


def test_what_cannot_be_judged() -> None:
    clips = blob_clips(12, 0)
    for settings in ({"strengths": ()}, {"strengths": (0.0,)}, {"iterations": 0}, {"deviation_floor": 0.0}):
        with pytest.raises(ConfigError):
            SVMConfig(**settings)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="1 clips have several labels and an SVM tells one"):
        svm_probe(clips, [replace(clips[0], labels=("kind 0", "kind 1"))])
    with pytest.raises(StoreError, match="has no windows"):
        svm_probe([replace(clips[0], visual=np.zeros((0, 8), np.float32)), *clips[1:]], clips)
    with pytest.raises(StoreError, match="at least two classes"):
        svm_probe([replace(clip, labels=("one",)) for clip in clips], clips)


# ---- folds


def test_clips_of_a_file_are_never_on_both_sides() -> None:
    labels = np.array([f"kind {number // 2 % 2}" for number in range(40)])
    groups = np.array([number // 2 for number in range(40)])
    folds = training_folds(labels, groups)
    assert len(folds) == 5
    for learned, held in folds.pairs:
        assert not set(groups[learned]) & set(groups[held])
        assert len(learned) + len(held) == 40
    assert folds.description == "5-fold cross-validation, clips of a file together"


def test_a_class_that_is_in_one_file_cannot_be_held_out() -> None:
    labels, groups = np.array(["a"] * 4 + ["b"] * 4), np.array([0, 1, 2, 3, 4, 4, 4, 4])
    assert len(training_folds(labels, groups)) == 0
    assert len(training_folds(labels)) == 4
    assert len(training_folds(labels, parts=np.array(["x"] * 8))) == 4, "one part is none"
    separate = training_folds(labels, parts=np.array(["x"] * 4 + ["y"] * 4))
    assert separate.description == "4-fold cross-validation", "a fold without a second class teaches nothing"
