"""Fine-tuning video encoders. If these fail, a model is judged on what it learned from, or a frozen one moves."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fake_store import LabelledStore
from lookhear import embedder
from lookhear.config import override
from lookhear.errors import ConfigError, StoreError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.recipes.actions import actions_tiny, hmdb51, ucf101
from lookhear.recipes.finetune import fit_to_labels, judge_split
from lookhear.tasks.labels.by_protocol import recognise_by_protocol
from lookhear.tasks.labels.recognition import evaluate_recognition
from lookhear.tasks.labels.units import WindowChoice
from lookhear.training.loop import train
from lookhear.training.optim import learning_rate
from lookhear.training.run import DataConfig, Run

SMALL = [
    "model.encoder.visual.width=16",
    "model.encoder.visual.blocks=[1,1]",
    "model.encoder.visual.strides=[1,2]",
    *(f"{room}.picture_{side}=16" for room in ("preprocess", "model.encoder") for side in ("height", "width")),
    "data.batch_size=4",
    "device=cpu",
    "dtype=float32",
]


class SplitStore(LabelledStore):
    """13 clips that are bright or dark, in two splits: what is judged in one is learned from in the other."""

    def _clip(self, index: int) -> Any:
        split = ("train1;test2", "train1;test2", "test1;train2")[index % 3]
        return replace(super()._clip(index), split=split)

    def clips_in_split(self, split: str) -> np.ndarray:
        return np.array([clip.index for clip in self.clips if split in clip.splits])


def small_run(store: SplitStore, *settings: str) -> Run:
    return fit_to_labels(override(actions_tiny(), [*SMALL, *settings]), store)  # type: ignore[arg-type]


def learn(store: SplitStore, folder: Path, *settings: str) -> Path:
    summary = train(small_run(store, *settings), store, folder)  # type: ignore[arg-type]
    assert summary.model is not None
    return summary.model


def test_the_published_recipes() -> None:
    run = ucf101()
    assert (run.preprocess.frames_per_window, run.preprocess.window_seconds) == (8, 0.5)
    assert (run.data.batch_size, run.num_classes, run.model.dropout) == (64, 101, 0.5)
    optim = run.optim
    assert (optim.name, optim.learning_rate, optim.weight_decay) == ("adam", 1e-4, 0.0)
    # 16 epochs of 10 clips a video, three tenths at 6, 10 and 14
    rates = [learning_rate(optim, step=epoch, total_steps=160, steps_per_epoch=1) for epoch in range(run.epochs)]
    assert rates == pytest.approx([1e-4 * 0.3 ** sum(epoch >= cut for cut in (60, 100, 140)) for epoch in range(160)])
    other = hmdb51()
    assert (other.num_classes, other.epochs, other.optim.step_at) == (51, 250, (75, 150, 200))
    wide = ["preprocess.frames_per_window=32", "preprocess.audio_frames=200", "model.encoder.audio_frames=200"]
    override(run, [*wide, "model.encoder.picture_channels=96"]).check()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[SplitStore, Path, Path]:
    """The store, and a model of each split."""
    folder, store = tmp_path_factory.mktemp("actions"), SplitStore()
    settings = ["epochs=2", "data.batch_size=4"]
    first = learn(store, folder / "first", *settings, "data.split=train1")
    return store, first, learn(store, folder / "second", "steps=2", "data.batch_size=2", "data.split=train2")


def test_a_model_of_each_split_is_judged_on_its_own_files(trained: tuple[SplitStore, Path, Path]) -> None:
    store, first, second = trained
    found = evaluate_recognition([first, second], store, splits=["test1", "test2"])  # type: ignore[arg-type]
    assert list(found.splits) == ["test1", "test2"]
    assert [own.clips for own in found.splits.values()] == [4, 9]
    assert found.files == 13
    assert found.accuracy == pytest.approx(np.mean([own.accuracy for own in found.splits.values()]))
    assert found.accuracy_top5 is None, "of two classes the five highest say nothing"
    assert found.protocol["windows_of_a_file"] == 10
    assert found.protocol["averaged"] == "probabilities"
    low, high = found.accuracy_ci95
    assert low <= np.mean(np.concatenate([own.right for own in found.splits.values()])) <= high
    record = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert record["splits"]["test2"]["protocol"] == {"split": "test2"}, "what all share is said once"


def test_video_at_1_is_the_mean_of_the_windows_and_clip_at_1_is_each_window(
    trained: tuple[SplitStore, Path, Path],
) -> None:
    """Against the slow form: a window at a time."""
    store, first, _ = trained
    choice = WindowChoice(unit="file", windows=3)
    model = embedder.load(first, device="cpu", dtype="float32")
    found = evaluate_recognition([model], store, splits=["test1"], choice=choice).splits["test1"]  # type: ignore[arg-type]
    window_right, video_right = [], []
    for row, index in enumerate(store.clips_in_split("test1").tolist()):
        stored, scores = store.clips[index], []
        for start in np.linspace(0.0, 2.0 - 0.8, 3):
            times = start + 0.8 * (np.arange(3) + 0.5) / 3
            numbers = [int(np.abs(stored.frame_seconds - time).argmin()) for time in times]
            pixels = model.preprocess.frames_to_size(torch.from_numpy(store.frames(index, numbers).copy()))
            batch = model.batch(None, pixels.flatten(0, 1)[None])
            with torch.inference_mode():
                scores.append(model.model(frames=batch.frames).logits[0, 0].softmax(0).numpy())
        np.testing.assert_allclose(found.probabilities[row], np.mean(scores, axis=0), atol=1e-5)
        label = model.labels.index(stored.labels[0])
        window_right += [own.argmax() == label for own in scores]
        video_right.append(np.mean(scores, axis=0).argmax() == label)
    assert found.window_accuracy == pytest.approx(np.mean(window_right))
    assert found.accuracy == pytest.approx(np.mean(video_right))


def test_a_model_is_not_judged_on_what_it_learned_from(trained: tuple[SplitStore, Path, Path]) -> None:
    store, first, second = trained
    with pytest.raises(StoreError, match="the model learned from train1, which has 9 of the 9 clips of 'test2'"):
        evaluate_recognition([first], store, splits=["test2"])  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="the model learned from train2"):
        evaluate_recognition([second, first], store, splits=["test1", "test2"])  # type: ignore[arg-type]
    everything = embedder.load(first)
    everything.extra["splits"] = []
    with pytest.raises(StoreError, match="all of the store, which has 4 of the 4 clips"):
        evaluate_recognition([everything], store, splits=["test1"])  # type: ignore[arg-type]
    everything.extra["store"] = "another"
    assert evaluate_recognition([everything], store, splits=["test1"]).files == 4  # type: ignore[arg-type]
    for models, splits in (([first], []), ([first], ["test1", "test2"]), ([first, first], ["test1", "test1"])):
        with pytest.raises(ConfigError, match="do not fit"):
            evaluate_recognition(models, store, splits=splits)  # type: ignore[arg-type]


def test_by_protocol(trained: tuple[SplitStore, Path, Path]) -> None:
    store, first, second = trained
    found = recognise_by_protocol([first, second], store, "ucf101", splits=["test1", "test2"])  # type: ignore[arg-type]
    told = found.protocol["published"]
    assert told["follows"] == "ucf101"
    assert told["differs"][1:] == ["judged on test1, test2, not on test1, test2, test3", "2 classes, not 101"]
    with pytest.raises(ConfigError, match="1 models and the splits test1, test2, test3 do not fit"):
        recognise_by_protocol([first], store, "ucf101")  # type: ignore[arg-type]


def test_a_frozen_encoder_keeps_its_weights_and_its_statistics(tmp_path: Path) -> None:
    """Also after an evaluation in between, which puts the model into training mode again."""
    store = SplitStore()
    learn(store, tmp_path / "run", "data.split=train1", "steps=1")
    first = load_checkpoint(tmp_path / "run" / "checkpoints" / "step-1" / "model.safetensors").model.state_dict()
    settings = ["optim.freeze=encoder", f"initial={tmp_path / 'run'}", "steps=4", "evaluate_every=1"]
    run = small_run(store, "data.split=train1", *settings)
    train(run, store, tmp_path / "probe", evaluators={"again": lambda model, preprocess: {"one": 1.0}})  # type: ignore[arg-type]
    last = load_checkpoint(tmp_path / "probe" / "checkpoints" / "step-4" / "model.safetensors").model.state_dict()
    assert {name for name in first if not torch.equal(first[name], last[name])} == {"head.weight", "head.bias"}
    assert any("running_mean" in name for name in first)


def test_a_split_to_choose_on_shares_nothing_with_what_is_learned_from() -> None:
    store: Any = SplitStore()
    run = small_run(store, "data.split=train1", "data.validation_split=train2")
    judge_split(run, store)
    for clip in store.clips[:2]:
        store.clips[clip.index] = replace(clip, split="train1;train2")
    with pytest.raises(StoreError, match=r"2 clips of .* 'train2' are also in"):
        judge_split(run, store)
    for name in ("test1", "Test", "eval"):
        with pytest.raises(ConfigError, match="chosen on the test set"):
            DataConfig(split="train1", validation_split=name)
