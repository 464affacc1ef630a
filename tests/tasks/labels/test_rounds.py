"""Probes of stages, of neighbours, in rounds and by protocol. If these fail, clips are learned from and judged."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.windows import cut_windows, join_windows
from lookhear.embedder import Embedder
from lookhear.errors import ConfigError, StoreError
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.tasks.labels.by_protocol import probe_by_protocol
from lookhear.tasks.labels.features import StageConfig, clip_features, of_stages, stage_rows
from lookhear.tasks.labels.probes import (
    AttentionProbeConfig,
    LinearProbeConfig,
    NeighbourConfig,
    SVMConfig,
    evaluate_probe,
    evaluate_rounds,
)
from lookhear.tasks.labels.protocols import FINE_TUNED, PROTOCOLS, Done, Round, find_protocol, folds, frozen
from lookhear.tasks.labels.units import WindowChoice
from lookhear.tasks.windows import read_clip_windows
from stand_ins import StoreStandIn, in_files, make_store
from tiny_embedder import in_memory_embedder

FEW = LinearProbeConfig(strengths=(0.1, 1.0))
SIZES: dict[str, Any] = {"audio_frames": 48, "picture_height": 32, "picture_width": 32}


def conv_embedder(pictures: int = 1) -> Embedder:
    """Small convolutional encoders with batch norm, of sound and of clips."""
    torch.manual_seed(0)
    sound = EncoderConfig(width=16, blocks=(1, 1), strides=(1, 2), stem_pool=False)
    encoders = {"audio": sound, "visual": replace(sound, kind="r2plus1d"), "picture_channels": 3 * pictures}
    model = MultiStream(MultiStreamConfig(**(SIZES | encoders)))
    preprocess = Preprocess(PreprocessConfig(**SIZES, frames_per_window=pictures))
    return Embedder(model, preprocess, config=model.config, fingerprint="2" * 64, device="cpu", dtype="float32")


class SplitStore:
    """A store in memory whose clips (in turn) belong to splits, each to several."""

    def __init__(self, store: StoreStandIn, splits: Sequence[str]) -> None:
        self.store = store
        for index, clip in enumerate(store.clips):
            store.clips[index] = replace(clip, split=splits[index % len(splits)])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def __len__(self) -> int:
        return len(self.store)

    def clips_in_split(self, split: str) -> np.ndarray:
        found = [index for index, clip in enumerate(self.store.clips) if split in clip.splits]
        if not found:
            raise StoreError(f"no split '{split}'")
        return np.array(found)


def split_store(count: int, *splits: str, labels: int = 2, **options: Any) -> Any:
    return SplitStore(make_store(count=count, labels=labels, **options), splits)


# ---- stages


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_stages_are_the_pooled_maps_of_the_encoder(pooling: Any) -> None:
    """Against the slow form: a window and a cell at a time."""
    embedder, store = conv_embedder(pictures=2), make_store(count=2)
    found = clip_features(embedder, store, modality="both", stages=StageConfig(cells=(3, 2), pooling=pooling))
    clip = found.clips[1]
    assert list(clip.stages) == ["visual 1", "visual 2", "audio 1", "audio 2"]
    starts = [0.2, 0.68]
    own = read_clip_windows(embedder, store, 1, starts)
    config = embedder.preprocess.config
    windows = join_windows([cut_windows(config, own, np.array([start])) for start in starts])
    stages = StageConfig(cells=(3, 2), pooling=pooling)
    rows = stage_rows(embedder, windows, "visual", stages) | stage_rows(embedder, windows, "audio", stages)
    for number, start in enumerate(starts):
        one = cut_windows(config, own, np.array([start]))
        batch = embedder.batch(torch.from_numpy(one.waveform), torch.from_numpy(one.frames))
        with torch.inference_mode():
            output = embedder.model(batch.audio, batch.frames, stages=True)
        for name, maps in (("visual", output.visual.stages), ("audio", output.audio.stages)):
            for stage, cells in enumerate((3, 2)):
                values = maps[stage][0, 0]  # (C, [t,] h, w)
                values = values.flatten(1, -3).unflatten(1, (-1, 1))[:, :, 0] if values.ndim == 4 else values[:, None]
                cut = []
                for channel in values:
                    for row in range(cells):
                        for column in range(cells):
                            height, width = channel.shape[-2:]
                            part = channel[
                                :,
                                row * height // cells : -(-(row + 1) * height // cells),
                                column * width // cells : -(-(column + 1) * width // cells),
                            ]
                            cut.append(float(part.mean() if pooling == "mean" else part.max()))
                np.testing.assert_allclose(rows[f"{name} {stage + 1}"][number], cut, rtol=1e-4, atol=1e-5)
    assert clip.stages["audio 2"].shape == (5, 16 * 4)
    plain = clip_features(embedder, store, modality="both").clips[1]
    np.testing.assert_allclose(clip.steps, plain.steps, atol=1e-5)


def test_a_map_smaller_than_the_cells_is_taken_as_it_is_and_only_the_last_stages_are() -> None:
    embedder, store = conv_embedder(), make_store(count=2)
    wide = clip_features(embedder, store, modality="visual", stages=StageConfig(cells=(99,))).clips[0]
    assert list(wide.stages) == ["visual 2"]
    assert wide.stages["visual 2"].shape[1] % 16 == 0
    joined = of_stages(wide, ["visual 2"])
    assert joined.steps.shape == wide.stages["visual 2"].shape
    assert not joined.stages
    with pytest.raises(StoreError, match="has 2 stages to look at and 4 are asked for"):
        clip_features(embedder, store, modality="visual", stages=StageConfig())
    with pytest.raises(StoreError, match="a CAVMAESync has tokens and no stages"):
        clip_features(in_memory_embedder(), store, modality="visual", stages=StageConfig())
    with pytest.raises(ConfigError, match="at least one stage"):
        StageConfig(cells=())


@pytest.mark.parametrize("probe", ["linear", "knn", "svm", "attention"])
def test_every_probe_takes_stages_and_leaves_the_statistics_alone(probe: Any) -> None:
    embedder, store = conv_embedder(), split_store(12, "train", "train", "test", "train", num_slots=(3,))
    before = {name: value.clone() for name, value in embedder.model.state_dict().items()}
    settings: dict[str, Any] = {"linear": LinearProbeConfig(strengths=(1.0,)), "svm": SVMConfig(strengths=(1.0,))}
    settings["attention"] = AttentionProbeConfig(depth=1, epochs=1)
    found = evaluate_probe(
        embedder, store, probe=probe, modality="audio", stages=StageConfig(cells=(2, 2)), config=settings.get(probe)
    )
    assert list(found.per_stage) == ["audio 1", "audio 2"]
    assert found.protocol["feature_width"] == 8 * 4 + 16 * 4
    assert found.protocol["features"] == {"stages": {"cells": (2, 2), "pooling": "mean"}}
    after = embedder.model.state_dict()
    assert any("running" in name for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    json.dumps(found.to_dict())


# ---- units


def test_the_clips_of_a_file_are_one() -> None:
    store = in_files(make_store(count=6, labels=1), 2)
    found = clip_features(
        in_memory_embedder(), store, modality="both", choice=WindowChoice(unit="file", windows=4)
    ).clips
    assert [clip.clip_id for clip in found] == ["file-0.mp4", "file-1.mp4", "file-2.mp4"]
    assert [clip.index for clip in found] == [0, 2, 4]
    assert all(clip.steps.shape == (4, 64) for clip in found)
    every = clip_features(in_memory_embedder(), store, modality="both").clips
    whole = clip_features(in_memory_embedder(), store, modality="both", choice=WindowChoice(unit="file")).clips
    np.testing.assert_allclose(whole[0].steps, np.concatenate([every[0].steps, every[1].steps]), atol=1e-6)


# ---- one round


def test_neighbours_leave_one_out_where_there_are_no_splits() -> None:
    embedder = in_memory_embedder()
    bare = evaluate_probe(embedder, split_store(8, ""), probe="knn", modality="audio")
    assert (bare.train_clips, bare.test_clips) == (8, 8)
    assert bare.protocol["splits"] == ["all clips, one left out"]
    store = split_store(8, "train", "train", "train", "test")
    alone = evaluate_probe(embedder, store, probe="knn", modality="audio", train_split="train")
    assert (alone.test_clips, alone.protocol["splits"]) == (6, ["train"])
    with pytest.raises(StoreError, match="at least two classes"):  # one left out of a split called test
        evaluate_probe(embedder, split_store(8, "train", "test"), probe="knn", modality="audio", train_split="test")
    judged = evaluate_probe(embedder, store, probe="knn", modality="audio", config=NeighbourConfig(k=3))
    assert (judged.test_clips, judged.protocol["splits"]) == (2, ["train", "test"])
    assert judged.protocol["settings"]["k"] == 3
    with pytest.raises(StoreError, match="no split 'train'"):
        evaluate_probe(embedder, split_store(8, ""), modality="audio")


def test_what_would_be_learned_from_and_judged_is_refused() -> None:
    embedder = in_memory_embedder()
    store = split_store(8, "train1;test2", "train2;test1", labels=3)
    assert evaluate_probe(embedder, store, probe="knn", train_split="train1", test_split="test1").test_clips == 4
    with pytest.raises(StoreError, match="4 clips of stand-in are in 'train1' and in 'test2'"):
        evaluate_probe(embedder, store, probe="knn", train_split="train1", test_split="test2")
    with pytest.raises(StoreError, match="a knn probe needs no validation split"):
        evaluate_probe(embedder, store, probe="knn", validation_split="val")
    with pytest.raises(ConfigError, match="settings of a svm probe are a SVMConfig"):
        evaluate_probe(embedder, store, probe="svm", train_split="train1", test_split="test1", config=FEW)


# ---- several rounds


def test_each_fold_is_judged_once_by_what_the_others_taught() -> None:
    embedder, store = in_memory_embedder(), split_store(18, "fold1", "fold2", "fold3")
    found = evaluate_rounds(embedder, store, folds(["fold1", "fold2", "fold3"]), modality="audio", config=FEW)
    assert list(found.rounds) == ["fold1", "fold2", "fold3"]
    assert {(own.train_clips, own.test_clips) for own in found.rounds.values()} == {(12, 6)}
    assert found.accuracy == pytest.approx(np.mean([own.accuracy for own in found.rounds.values()]))
    assert found.test_clips == 18
    assert {own.protocol["chosen_by"] for own in found.rounds.values()} == {
        f"cross-validation over {pair}" for pair in ("fold2, fold3", "fold1, fold3", "fold1, fold2")
    }
    one = evaluate_probe(
        embedder,
        split_store(18, "test", "train", "train"),
        modality="audio",
        config=LinearProbeConfig(strengths=(0.1,)),
    )
    same = evaluate_rounds(
        embedder,
        store,
        folds(["fold1", "fold2", "fold3"]),
        modality="audio",
        config=LinearProbeConfig(strengths=(0.1,)),
    )
    assert one.right == same.rounds["fold1"].right
    record = json.loads(json.dumps(found.to_dict()))
    assert record["rounds"]["fold2"]["test_clips"] == 6
    assert "right" not in record["rounds"]["fold2"]


def test_rounds_embed_every_clip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    embedder, store = in_memory_embedder(), split_store(8, "train1;test2", "test1;train2", labels=3)
    seen: list[int] = []
    rows = embedder.window_rows

    def counting(windows: Any, *rest: Any) -> Any:
        seen.append(len(windows))
        return rows(windows, *rest)

    monkeypatch.setattr(embedder, "window_rows", counting)
    rounds = [Round(train=(f"train{number}",), test=(f"test{number}",)) for number in (1, 2)]
    found = evaluate_rounds(embedder, store, rounds, probe="knn", modality="audio")
    assert sum(seen) == 8 * 5
    assert found.test_clips == 8
    low, high = found.accuracy_ci95
    assert low <= found.accuracy <= high


def test_rounds_that_contradict_themselves() -> None:
    with pytest.raises(ConfigError, match="different splits to learn from"):
        Round(train=("a", "b"), test=("b",))
    with pytest.raises(ConfigError, match="at least two different splits"):
        folds(["fold1"])
    with pytest.raises(ConfigError, match="at least two different splits"):
        folds(["fold1", "fold1"])
    twice = [Round(train=(name,), test=("c",)) for name in ("a", "b")]
    for rounds in ([], twice):
        with pytest.raises(ConfigError, match="rounds are at least one"):
            evaluate_rounds(in_memory_embedder(), split_store(6, "a", "b", "c"), rounds)
    with pytest.raises(StoreError, match="in 'train1' and in 'test2'"):
        evaluate_rounds(
            in_memory_embedder(), split_store(8, "train1;test2", "test1"), [Round(train=("train1",), test=("test2",))]
        )


# ---- protocols


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_that_is_followed_differs_only_in_what_it_says(name: str) -> None:
    protocol = PROTOCOLS[name]
    done = Done(
        splits=protocol.splits,
        choice=protocol.choice,
        window_seconds=protocol.window_seconds or 1.0,
        num_classes=protocol.num_classes or 400,
        classifier=protocol.classifier,
        strength=protocol.strength,
    )
    assert protocol.differences(done) == list(protocol.not_followed)
    told = protocol.to_dict(name, done)
    assert told["follows"] == name
    json.dumps(told)
    changes: dict[str, Any] = {"splits": ("x",), "choice": WindowChoice(windows=3), "classifier": "a guess"}
    if protocol.window_seconds:
        changes["window_seconds"] = 0.5
    if protocol.num_classes:
        changes["num_classes"] = 3
    for part, value in changes.items():
        told = protocol.differences(replace(done, **{part: value}))
        assert len(told) == len(protocol.not_followed) + 1, part
    if protocol.strength:
        assert "C chosen by cross-validation" in protocol.differences(replace(done, strength=None))[-1]


def test_the_published_protocols() -> None:
    """The numbers of the publishers: splits, windows, classes, C."""
    assert PROTOCOLS["ucf101"].splits == PROTOCOLS["hmdb51"].splits == ("test1", "test2", "test3")
    assert PROTOCOLS["esc50"].splits == ("fold1", "fold2", "fold3", "fold4", "fold5")
    assert PROTOCOLS["esc50"].rounds[1].train == ("fold1", "fold3", "fold4", "fold5")
    assert {name: own.choice.windows for name, own in PROTOCOLS.items()} == {
        "ucf101": 10,
        "ucf51": None,
        "hmdb51": 10,
        "kinetics": 10,
        "activitynet": None,
        "esc50": 10,
        "esc10": 10,
        "dcase": 60,
    }
    assert [PROTOCOLS[name].num_classes for name in ("ucf101", "ucf51", "hmdb51", "activitynet", "esc50")] == [
        101,
        51,
        51,
        200,
        50,
    ]
    assert (PROTOCOLS["esc50"].strength, PROTOCOLS["dcase"].strength) == (10.0, 1.0)
    assert PROTOCOLS["ucf101"].classifier == FINE_TUNED
    assert PROTOCOLS["dcase"].classifier == frozen("svm", stages=True)
    with pytest.raises(ConfigError, match="no protocol 'ucf-101'; did you mean 'ucf101'"):
        find_protocol("ucf-101")


def test_a_probe_by_protocol_takes_its_rounds_windows_and_c() -> None:
    store = split_store(10, *(f"fold{number}" for number in range(1, 6)), num_slots=(3,))
    found = probe_by_protocol(conv_embedder(), store, "esc10", modality="audio", stages=StageConfig(cells=(2, 2)))
    assert list(found.rounds) == [f"fold{number}" for number in range(1, 6)]
    assert {own.protocol["regularisation_c"] for own in found.rounds.values()} == {10.0}
    assert found.protocol["windows_of_a_file"] == 10
    told = found.protocol["published"]
    assert told["source"].startswith("as ESC-50")
    assert told["differs"] == [
        *PROTOCOLS["esc10"].not_followed,
        "windows of 0.48 s, not 2 s",
        "2 classes, not 10",
    ]
    other = probe_by_protocol(
        conv_embedder(),
        store,
        "esc10",
        probe="knn",
        modality="audio",
        rounds=folds(["fold1", "fold2"]),
        choice=WindowChoice(windows=2),
    )
    assert len(other.rounds) == 2
    said = "; ".join(other.protocol["published"]["differs"])
    assert "judged on fold1, fold2, not on fold1, fold2, fold3" in said
    assert "2 windows of each clip, not 10 windows of each file" in said
    assert "knn on pooled features of a frozen model, not svm on the stages of a frozen model" in said
