"""Judging skimmers: what counts as looked at, and on which videos. If these fail, a comparison is not a fair one."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookhear.data.features import Features, open_features
from lookhear.data.manifest import FileLabels
from lookhear.errors import CheckpointError, ConfigError, StoreError
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.skimmer import Skimmer, SkimmerConfig
from lookhear.models.transformer import Stream
from lookhear.tasks.labels.skimming import evaluate_skimming, load_skimmer, score_skimmer
from lookhear.tasks.labels.videos import gather_moments, label_targets, labelled_videos, video_labels
from planted_videos import WIDTH, plant_videos

CLASSES = ("class 0", "class 1", "class 2")
SMALL = SkimmerConfig(
    num_classes=3,
    audio_width=WIDTH,
    visual_width=WIDTH,
    looks=4,
    hidden_width=16,
    key_width=8,
    fusion_width=16,
    fused_width=8,
)


def save(path: Path, folder: Path, labels: tuple[str, ...] = CLASSES, **settings: Any) -> Path:
    torch.manual_seed(0)
    facts = {"features": open_features(folder).identity, "objective": {"loss": "ce"}}
    save_checkpoint(path, Skimmer(dataclasses.replace(SMALL, **settings)), preprocess={}, labels=labels, extra=facts)
    return path


def test_every_way_of_looking_is_counted(tmp_path: Path) -> None:
    features, labels = plant_videos(tmp_path / "f", 12, moments=(20, 21))
    path = save(tmp_path / "a.safetensors", tmp_path / "f", visual_every=5, selection="hard", read="moments")
    other = save(tmp_path / "b.safetensors", tmp_path / "f", policy="uniform")
    result = evaluate_skimming(path, features, labels, splits=("test",), against=other)
    rows = result.to_dict()["scores"]
    assert list(rows) == ["skimmed_hard", "skimmed_soft", "evenly_spaced", "all_moments", "against"]
    assert rows["skimmed_hard"]["heard"] == 20
    assert 4 <= rows["skimmed_hard"]["seen"] <= 7  # 0, 5, 10, 15 and three chosen ones
    assert rows["skimmed_soft"]["seen"] == 20, "soft selection sums all moments that it reads"
    assert (rows["evenly_spaced"]["heard"], rows["evenly_spaced"]["seen"]) == (4, 4)
    assert (rows["all_moments"]["seen"], rows["against"]["seen"]) == (20, 4)
    assert (result.videos, result.moments, result.majority) == (4, 20, 0.5)
    assert result.gain == pytest.approx(rows["skimmed_hard"]["accuracy"] - rows["against"]["accuracy"])
    fewer = evaluate_skimming(path, features, labels, looks=2).to_dict()["scores"]
    assert fewer["evenly_spaced"]["seen"] == 2
    alone = evaluate_skimming(other, features, labels)
    assert alone.gain is None
    assert [score.how for score in alone.scores] == ["evenly spaced", "all moments"]


class OfAStore:
    """Features that say which store they were made from."""

    def __init__(self, features: Features) -> None:
        self.paths, self.file = features.paths, features.file
        self.identity = {"store_digest": "abc", "fingerprint": "f"}


def test_videos_that_were_learned_from_are_not_judged(tmp_path: Path) -> None:
    planted, labels = plant_videos(tmp_path / "f", 9)
    labels["video-000"] = dataclasses.replace(labels["video-000"], split="train1;test2")
    features: Any = OfAStore(planted)
    torch.manual_seed(0)
    facts = {"features": features.identity, "objective": {"loss": "ce"}}
    for name, splits in (("first", ["train1"]), ("rest", ["train"]), ("all", [])):
        extra = facts | {"splits": splits}
        save_checkpoint(tmp_path / f"{name}.safetensors", Skimmer(SMALL), preprocess={}, labels=CLASSES, extra=extra)
    first, rest, everything = (tmp_path / f"{name}.safetensors" for name in ("first", "rest", "all"))
    assert evaluate_skimming(first, features, labels, splits=("test",)).videos == 3
    with pytest.raises(StoreError, match=r"learned from train1, which has 1 of the 1 videos .*such as video-000"):
        evaluate_skimming(first, features, labels, splits=("test2",))
    with pytest.raises(StoreError, match=r"learned from all of the store, which has 3 of the 3"):
        evaluate_skimming(everything, features, labels, splits=("test",))
    elsewhere = {name: dataclasses.replace(about, split=about.split.split(";")[-1]) for name, about in labels.items()}
    with pytest.raises(StoreError, match=r"learned from train, which has 5 of the 9"):
        evaluate_skimming(first, features, elsewhere, against=rest)
    features.identity = {"store_digest": "another", "fingerprint": "f"}
    assert evaluate_skimming(everything, features, labels).videos == 9


def test_scores_do_not_depend_on_who_is_judged_beside(tmp_path: Path) -> None:
    features, labels = plant_videos(tmp_path / "f", 9)
    model = load_skimmer(save(tmp_path / "a.safetensors", tmp_path / "f")).model
    assert isinstance(model, Skimmer)
    videos = labelled_videos(features, labels, streams=SMALL.streams).videos
    together = score_skimmer(model, videos, CLASSES)
    alone = [score_skimmer(model, [video], CLASSES).right[0] for video in videos]
    assert list(together.right) == alone


def test_which_videos_can_be_used(tmp_path: Path) -> None:
    features, labels = plant_videos(tmp_path, 4)
    labels["video-000"] = FileLabels(split="train")
    labels["video-001"] = FileLabels(labels=("another",), split="train;test")
    np.save(tmp_path / "video-002.audio.npy", np.full((3, WIDTH), np.nan))
    np.save(tmp_path / "video-002.visual.npy", np.full((3, WIDTH), np.nan))
    np.save(tmp_path / "video-002.times.npy", np.arange(3.0))
    found = labelled_videos(features, labels, streams=SMALL.streams)
    assert ([video.path for video in found.videos], found.no_label, found.no_feature) == (
        ["video-001", "video-003"],
        1,
        1,
    )
    assert found.classes == ("another", "class 0")
    known = labelled_videos(features, labels, streams=SMALL.streams, classes=CLASSES)
    assert ([video.path for video in known.videos], known.no_label) == (["video-003"], 2)
    assert [
        video.path for video in labelled_videos(features, labels, streams=SMALL.streams, splits=["test"]).videos
    ] == [
        "video-001",
        "video-003",
    ]
    assert label_targets(found.videos, found.classes).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(StoreError, match=r"path,label,split"):
        video_labels(None, tmp_path)


def test_moments_with_nothing_to_say(tmp_path: Path) -> None:
    """NaN is what `embed` writes for a missing modality, zeros what published features have in its place."""
    features, labels = plant_videos(tmp_path, 3, moments=(6, 7))
    rows = np.ones((6, WIDTH), np.float32)
    rows[1], rows[4] = np.nan, 0.0
    np.save(tmp_path / "video-000.audio.npy", rows)
    moments = gather_moments(labelled_videos(features, labels, streams=SMALL.streams).videos, SMALL)
    assert moments.has[Stream.AUDIO][0].tolist() == [True, False, True, True, False, True]
    assert moments.features[Stream.AUDIO].isfinite().all()
    wide = dataclasses.replace(SMALL, audio_width=WIDTH + 1)
    with pytest.raises(StoreError, match="have 16 numbers and the skimmer reads 17"):
        gather_moments(labelled_videos(features, labels, streams=SMALL.streams).videos, wide)


def test_features_and_classes_must_fit(tmp_path: Path) -> None:
    features, labels = plant_videos(tmp_path / "f", 6)
    path = save(tmp_path / "a.safetensors", tmp_path / "f")
    other = save(tmp_path / "b.safetensors", tmp_path / "f", labels=("class 0", "class 1", "else"))
    with pytest.raises(ConfigError, match="other classes"):
        evaluate_skimming(path, features, labels, against=other)
    torch.manual_seed(0)
    facts = {"features": {"fingerprint": "of another model"}}
    save_checkpoint(tmp_path / "c.safetensors", Skimmer(SMALL), preprocess={}, labels=CLASSES, extra=facts)
    with pytest.raises(CheckpointError, match="features of another model"):
        evaluate_skimming(tmp_path / "c.safetensors", features, labels)
