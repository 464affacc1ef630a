"""Training a skimmer: it learns where to look, goes on to the bit, and is the same on two processes."""

import dataclasses
import os
import socket
from pathlib import Path

import pytest
import torch

from lookhear import distributed
from lookhear.config import override
from lookhear.data.features import Features
from lookhear.data.manifest import FileLabels
from lookhear.errors import CheckpointError, ConfigError, StoreError, UserError
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifier, StreamClassifierConfig
from lookhear.recipes.skimming import SKIM_RECIPES, SkimRun, SkimTraining, skim, skim_tiny, train_skimmer
from lookhear.tasks.labels.skimming import evaluate_skimming
from lookhear.training.journal import read_records
from planted_videos import WIDTH, plant_videos

SMALL = (
    "data.split=train",
    "data.shortest=15",
    "data.longest=40",
    "data.batch_size=20",
    "model.looks=3",
    "model.hidden_width=32",
    "model.key_width=16",
    "model.fusion_width=32",
    "model.fused_width=16",
    "optim.learning_rate=1e-2",
    "device=cpu",
)
Planted = tuple[Features, dict[str, FileLabels]]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return plant_videos(tmp_path_factory.mktemp("features"), 120)


def small(*settings: str) -> SkimRun:
    return override(skim_tiny(), [*SMALL, *settings])


def learn(run: SkimRun, planted: Planted, folder: Path, **options: object) -> SkimTraining:
    return train_skimmer(run, *planted, folder, **options)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(folder / "model.safetensors").model.state_dict()


def test_it_learns_where_to_look(planted: Planted, tmp_path: Path) -> None:
    """And beats as many evenly spaced moments, also where these were trained for."""
    summary = learn(small("epochs=12"), planted, tmp_path / "skim")
    learn(small("epochs=12", "model.policy=uniform"), planted, tmp_path / "evenly")
    result = evaluate_skimming(tmp_path / "skim", *planted, splits=("test",), against=tmp_path / "evenly")
    by_way = {(score.how, score.selection): score for score in result.scores}
    assert by_way["skimmed", "hard"].accuracy > 0.8
    assert by_way["against", None].accuracy < 0.7
    assert result.gain is not None
    assert result.gain_ci95 is not None
    assert result.gain_ci95[0] > 0
    assert (summary.videos, result.videos) == (80, 40)
    records = read_records(tmp_path / "skim" / "journal.jsonl")
    assert [record["step"] for record in records] == list(range(1, 13))
    assert records[-1]["loss"] < records[0]["loss"]
    assert summary.last == records[-1]
    assert load_checkpoint(summary.model).extra["splits"] == ["train"]


def test_what_was_stopped_goes_on_to_the_bit(planted: Planted, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def progress(done: int, total: int | None, note: str = "") -> None:
        if done == 2:
            raise Killed

    run = small("epochs=4", "model.start=random", "data.validation_split=test-like")
    labels = {name: dataclasses.replace(about) for name, about in planted[1].items()}
    for name in list(labels)[:9]:
        labels[name] = dataclasses.replace(labels[name], split="test-like")
    data = (planted[0], labels)
    learn(run, data, tmp_path / "whole")
    with pytest.raises(Killed):
        learn(run, data, tmp_path / "killed", progress=progress)
    learn(run, data, tmp_path / "killed")
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (whole / "journal.jsonl").read_bytes() == (killed / "journal.jsonl").read_bytes()
    assert set(read_records(whole / "journal.jsonl")[0]["validation"]) == {"accuracy", "mean_average_precision"}
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())
    with pytest.raises(UserError, match=r"another run \(run.epochs: saved 4, asked 5"):
        learn(small("epochs=5", "model.start=random", "data.validation_split=test-like"), data, whole)


def test_batches_of_one_and_one_modality(planted: Planted, tmp_path: Path) -> None:
    for name in ("audio", "visual"):
        run = small("epochs=1", "data.batch_size=1", f"modalities={name}", "model.average_start=false")
        summary = learn(run, planted, tmp_path / name)
        assert summary.last is not None
        model = load_checkpoint(summary.model).model
        assert [stream.value for stream in model.config.streams] == [name]  # type: ignore[union-attr]


def test_published_recipe_takes_a_student(planted: Planted, tmp_path: Path) -> None:
    """Its fusing network and head; the one is frozen and the other learns slowly."""
    tower = EncoderConfig(width=WIDTH, blocks=(1, 1, 1, 1))
    sizes = MultiStreamConfig(
        audio=tower, visual=tower, audio_frames=32, num_mel_bins=32, picture_height=32, picture_width=32
    )
    torch.manual_seed(1)
    student = StreamClassifier(StreamClassifierConfig(encoder=sizes, num_classes=3, mode="both", fusion=(32, 16)))
    save_checkpoint(tmp_path / "student.safetensors", student, preprocess={})
    published = [each for each in SMALL if not each.startswith("optim")]
    run = override(skim(), [*published, "epochs=2", f"initial={tmp_path / 'student.safetensors'}"])
    learn(run, planted, tmp_path / "run")
    found = weights(tmp_path / "run")
    for name, value in student.state_dict().items():
        if name.startswith("fusion."):
            assert torch.equal(found[name], value)
    assert not torch.equal(found["head.weight"], student.head.weight)
    assert run.optim.head_ratio == 0.1
    with pytest.raises(ConfigError, match="freeze_fusion"):
        learn(override(skim(), [*published]), planted, tmp_path / "none")
    wide = override(run, ["model.fused_width=8", "model.fusion_width=8"])
    with pytest.raises(CheckpointError, match="neither a fusing network nor a head"):
        learn(wide, planted, tmp_path / "wide")


def test_published_values() -> None:
    run = SKIM_RECIPES["skim"]()
    assert (run.data.batch_size, run.epochs, run.data.shortest, run.data.longest) == (256, 25, 200, 500)
    assert (run.model.looks, run.model.hidden_width, run.model.key_width) == (10, 1024, 512)
    optim = run.optim
    assert (optim.name, optim.learning_rate, optim.momentum, optim.nesterov) == ("sgd", 0.01, 0.9, True)
    assert (optim.weight_decay, optim.step_from, optim.step_every, optim.step_factor) == (1e-4, 15, 5, 0.1)


def test_what_cannot_be_learned(planted: Planted, tmp_path: Path) -> None:
    features, _ = planted
    with pytest.raises(StoreError, match="no video can be used: of 120 with features, 0 of the chosen split"):
        learn(small("data.split=nowhere"), planted, tmp_path / "a")
    with pytest.raises(StoreError, match="120 of the chosen split have no label"):
        train_skimmer(small("data.split=null"), features, {}, tmp_path / "b")
    for name in ("test", "Test2", "eval"):
        with pytest.raises(ConfigError, match="watch a part"):
            small(f"data.validation_split={name}")
    with pytest.raises(ConfigError, match="'train' would be learned from as well"):
        small("data.validation_split=train")
    with pytest.raises(ConfigError, match="'val' would be learned from as well"):
        small("data.split=null", "data.validation_split=val")
    with pytest.raises(ConfigError, match="no memory to learn from"):
        learn(small("model.policy=uniform", "objective.memory_weight=1"), planted, tmp_path / "c")


def worker(rank: int, world: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    planted = plant_videos(folder / f"features-{rank}", 24)
    # one group for both: a second one at the same address may meet the first one's store, and wait for ever
    with distributed.process_group(torch.device("cpu")):
        for policy in ("recurrent", "uniform"):
            run = small("epochs=2", "data.batch_size=8", f"model.policy={policy}")
            learn(run, planted, folder / f"{policy}-of-{world}")


@pytest.mark.ci
def test_two_processes(tmp_path: Path) -> None:
    """Where nothing depends on the composition of a process's batch, they learn what one process learns."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    worker(0, 1, port, tmp_path)
    torch.multiprocessing.spawn(worker, (2, port, tmp_path), nprocs=2)
    evenly, alone = (weights(tmp_path / f"uniform-of-{world}") for world in (2, 1))
    for name, value in alone.items():
        torch.testing.assert_close(evenly[name], value, atol=1e-5, rtol=1e-4)
    assert all(value.isfinite().all() for value in weights(tmp_path / "recurrent-of-2").values())
    one, two = (read_records(tmp_path / f"uniform-of-{world}" / "journal.jsonl") for world in (1, 2))
    assert [record["loss"] for record in two] == pytest.approx([record["loss"] for record in one], rel=1e-5)
