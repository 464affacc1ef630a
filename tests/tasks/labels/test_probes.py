"""If these fail, a probe looks at its test clips while it learns, or measures something else than the features."""

from dataclasses import replace

import numpy as np
import pytest

from lookhear.errors import StoreError
from lookhear.tasks.labels.features import clip_features, pooled_features
from lookhear.tasks.labels.probes import LinearProbeConfig, evaluate_probe, linear_probe
from stand_ins import StoreStandIn, make_store
from tiny_embedder import WINDOW_SECONDS, in_memory_embedder


def blobs(count: int, seed: int, *, classes: int = 3, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(count) % classes
    centres = np.random.default_rng(99).standard_normal((classes, 8))
    features = centres[truth] + spread * rng.standard_normal((count, 8))
    return features.astype(np.float32), np.array([f"class {number}" for number in truth])


def without(store: StoreStandIn, index: int, *, sound: bool = False, picture: bool = False) -> StoreStandIn:
    """The store with the sound or the picture of one clip taken away."""

    changes: dict[str, object] = {}
    if sound:
        changes |= {"num_samples": 0, "sound_span": None}
    if picture:
        changes |= {"frame_seconds": np.zeros(0), "picture_span": None}
    store.clips[index] = replace(store.clips[index], **changes)  # type: ignore[arg-type]
    return store


def test_linear_probe_reads_separable_classes_and_states_its_baselines() -> None:
    found = linear_probe(*blobs(60, 0), *blobs(30, 1))
    assert found.accuracy == 1.0
    assert found.accuracy_ci95 == (1.0, 1.0)
    assert found.chance == pytest.approx(1 / 3)
    assert found.majority == pytest.approx(1 / 3)
    assert (found.train_clips, found.test_clips) == (60, 30)
    assert found.classes == ("class 0", "class 1", "class 2")


def test_shuffled_labels_are_not_learned() -> None:
    features, labels = blobs(90, 0)
    shuffled = np.random.default_rng(5).permutation(labels)
    found = linear_probe(features, shuffled, *blobs(90, 1))
    assert found.accuracy < 0.7
    assert found.accuracy_ci95[0] < found.accuracy < found.accuracy_ci95[1]


def test_the_test_side_changes_nothing_that_was_learned() -> None:
    """Statistics, strength and weights are of the training side: a test clip gets the same answer in any company."""
    few = LinearProbeConfig(strengths=(0.01, 1.0))
    train = blobs(30, 0, spread=1.5)
    features, labels = blobs(20, 1, spread=1.5)
    alone = [linear_probe(*train, features[row : row + 1], labels[row : row + 1], config=few) for row in range(6)]
    together = linear_probe(*train, features[:6], labels[:6], config=few)
    assert np.mean([result.accuracy for result in alone]) == pytest.approx(together.accuracy)
    wild = linear_probe(*train, np.concatenate([features, 1e4 + features]), np.concatenate([labels] * 2), config=few)
    assert (
        wild.protocol["regularisation_c"]
        == together.protocol["regularisation_c"]
        == alone[0].protocol["regularisation_c"]
    )


def test_same_seed_same_result_and_scale_of_a_feature_does_not_matter() -> None:
    train, test = blobs(45, 0, spread=1.5), blobs(30, 1, spread=1.5)
    scale = 10.0 ** np.arange(-4, 4)
    scaled = linear_probe(train[0] * scale, train[1], test[0] * scale, test[1])
    assert linear_probe(*train, *test) == linear_probe(*train, *test)
    assert scaled.accuracy == pytest.approx(linear_probe(*train, *test).accuracy, abs=0.04)


def test_labels_that_training_never_showed_count_as_missed() -> None:
    features, labels = blobs(30, 1)
    labels = np.array(["something new", *labels[1:]])
    found = linear_probe(*blobs(60, 0), features, labels)
    assert found.accuracy == pytest.approx(29 / 30)
    assert found.protocol["test_labels_unseen_in_training"] == ["something new"]


def test_a_class_of_one_clip_still_works() -> None:
    features, labels = blobs(31, 0)
    labels[30] = "rare"
    assert "default" in linear_probe(features, labels, *blobs(9, 1)).protocol["chosen_by"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, y: (f, np.full_like(y, "one")), "at least two classes"),
        (lambda f, y: (f, np.where(np.arange(len(y)) == 3, "", y)), "1 of 30 clips of the training side have no label"),
        (lambda f, y: (f * np.nan, y), "not finite"),
        (lambda f, y: (f[:, :3], y), "the sides have features"),
        (lambda f, y: (f[:5], y), "5 features and 30 labels"),
        (lambda f, y: (f[:0], y[:0]), "no clips"),
    ],
)
def test_bad_sides_are_refused_in_a_sentence(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(StoreError, match=message):
        linear_probe(*change(*blobs(30, 0)), *blobs(9, 1))


def test_pooled_features_are_the_mean_over_windows_of_what_the_model_pools() -> None:
    store, embedder = make_store(count=3, num_slots=(7, 1), labels=2), in_memory_embedder(batch_size=4)
    features, labels, clip_ids = pooled_features(embedder, store, modality="both")
    assert features.shape == (3, 64)
    assert features.dtype == np.float32
    assert labels.tolist() == ["kind 0", "kind 1", "kind 0"]
    assert clip_ids[1] == "clip-001.mp4@0"
    visual, _, _ = pooled_features(embedder, store, modality="visual")
    audio, _, _ = pooled_features(embedder, store, modality="audio")
    np.testing.assert_allclose(features, np.concatenate([visual, audio], axis=1), atol=1e-5)
    # the slow form: a window at a time, through the whole model
    from lookhear.data.sampling import disjoint_windows
    from lookhear.tasks.windows import read_clip_windows

    starts = disjoint_windows(0.0, 2.8, WINDOW_SECONDS)
    clip = read_clip_windows(embedder, store, 0, starts)
    outputs = [embedder.tokens(clip, start) for start in starts]
    np.testing.assert_allclose(np.mean([o.audio.pooled[0, 0].numpy() for o in outputs], axis=0), audio[0], atol=1e-5)
    np.testing.assert_allclose(np.mean([o.visual.pooled[0, 0].numpy() for o in outputs], axis=0), visual[0], atol=1e-5)


def test_a_missing_modality_leaves_out_the_clip_only_where_it_is_needed() -> None:
    store, embedder = make_store(count=3, labels=2), in_memory_embedder()
    without(store, 0, picture=True)
    without(store, 1, sound=True)
    assert [clip.index for clip in clip_features(embedder, store, modality="audio").clips] == [0, 2]
    assert [clip.index for clip in clip_features(embedder, store, modality="visual").clips] == [1, 2]
    both = clip_features(embedder, store, modality="both")
    assert [clip.index for clip in both.clips] == [2]
    assert len(both.left_out) == 2
    assert clip_features(embedder, store, modality="audio").left_out[0].reason == "has no sound"
    with pytest.raises(StoreError, match="has no picture"):
        pooled_features(embedder, store, modality="visual", indices=[0])


class SplitStore:
    """A store in memory whose clips are in splits, by turns."""

    def __init__(self, store: StoreStandIn, splits: tuple[str, ...]) -> None:
        self.store = store
        self.splits = splits

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def __len__(self) -> int:
        return len(self.store)

    def clips_in_split(self, split: str) -> np.ndarray:
        return np.array([n for n in range(len(self.store)) if self.splits[n % len(self.splits)] == split])


@pytest.mark.parametrize("probe", ["linear", "attention"])
def test_evaluate_probe_learns_on_one_split_and_is_judged_on_another(probe: str) -> None:
    store = SplitStore(make_store(count=16, labels=2), ("train", "train", "train", "test"))
    found = evaluate_probe(in_memory_embedder(), store, probe=probe, modality="audio")
    assert found.test_clips == 4
    assert found.protocol["splits"] == ["train", "test"]
    kinds = {clip.path: f"other {clip.index // 2 % 2}" for clip in store.store.clips[:-1]}
    renamed = evaluate_probe(in_memory_embedder(), store, probe=probe, modality="audio", kinds=kinds)
    assert renamed.classes == ("other 0", "other 1")
    assert renamed.protocol["left_out"] == {"has no label": 1}


def test_evaluate_probe_refuses_what_cannot_be_judged() -> None:
    store, embedder = SplitStore(make_store(count=4), ("train", "test")), in_memory_embedder()
    with pytest.raises(StoreError, match="different splits"):
        evaluate_probe(embedder, store, train_split="test")
    with pytest.raises(StoreError, match="the split 'train' has no labelled clip"):
        evaluate_probe(embedder, store)
    labelled = make_store(count=8, labels=2)
    labelled.clips[0] = replace(labelled.clips[0], labels=("kind 0", "kind 1"))
    with pytest.raises(StoreError, match="1 clips have several labels"):
        evaluate_probe(embedder, SplitStore(labelled, ("train", "train", "test", "test")))
