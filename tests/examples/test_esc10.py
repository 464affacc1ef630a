"""If these fail, the folds of ESC-10 leak into each other, or a run that was stopped does not go on."""

import argparse
import csv
import importlib.util
import json
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lookhear.config import to_dict
from lookhear.data.store import Store
from lookhear.errors import UserError
from lookhear.media.encode import write_sound
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.checkpoint import save_checkpoint
from lookhear.tasks.labels.probes import LinearProbeConfig
from tiny_embedder import PREPROCESS, save_tiny

SCRIPT = Path(__file__).parents[2] / "examples" / "esc10.py"


@pytest.fixture(scope="module")
def esc10() -> ModuleType:
    found = importlib.util.spec_from_file_location("esc10", SCRIPT)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two strengths of regularisation instead of all."""
    few = partial(LinearProbeConfig, strengths=(0.1, 1.0))
    monkeypatch.setattr("lookhear.tasks.labels.probes.LinearProbeConfig", few)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 short sounds: tones and noise, four of each fold."""
    folder = tmp_path_factory.mktemp("sounds")
    rows, clock = [], np.arange(int(16000 * 1.1)) / 16000
    for number in range(20):
        rng, kind = np.random.default_rng(number), number % 2
        tone = 0.3 * np.sin(2 * np.pi * rng.uniform(400, 900) * clock)
        wave = tone if kind else 0.2 * rng.standard_normal(len(clock))
        path = f"sounds/{number:02d}.wav"
        (folder / "sounds").mkdir(exist_ok=True)
        write_sound(folder / path, wave.astype(np.float32), 16000)
        rows.append({"path": path, "label": kind, "name": ("noise", "tone")[kind], "fold": number // 2 % 5 + 1})
    with (folder / "esc10_manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "label", "name", "fold"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def options(folder: Path, out: Path, **changes: object) -> argparse.Namespace:
    values = {"model": None, "finetune": False, "recipe": "esc10", "set": [], "seed": 0, "workers": 0}
    return argparse.Namespace(folder=folder, out=out, **(values | changes))


def test_baseline_and_frozen_tower_on_every_fold(esc10: ModuleType, folder: Path, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "tiny.safetensors")
    report = esc10.run(options(folder, tmp_path / "out", model=model))
    assert set(report["accuracy"]) == {"mel_statistics", "frozen_untrained", "frozen"}
    assert report["accuracy"]["mel_statistics"]["mean"] == 1.0
    assert list(report["accuracy"]["frozen"]["folds"]) == [f"fold{number}" for number in range(1, 6)]
    assert sum(fold["clips"] for fold in report["folds"]["frozen"].values()) == 20


def test_it_goes_on_where_it_stopped_and_refuses_another_question(
    esc10: ModuleType, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    whole = esc10.probe_fold

    def stops(store: Store, features: np.ndarray, fold: str, seed: int) -> dict[str, object]:
        if len(judged) == 2:
            raise KeyboardInterrupt
        judged.append(fold)
        return whole(store, features, fold, seed)

    monkeypatch.setattr(esc10, "probe_fold", stops)
    with pytest.raises(KeyboardInterrupt):
        esc10.run(options(folder, tmp_path / "out"))
    monkeypatch.setattr(esc10, "probe_fold", whole)
    report = esc10.run(options(folder, tmp_path / "out"))
    straight = esc10.run(options(folder, tmp_path / "straight"))
    assert judged == ["fold1", "fold2"]
    assert report == straight
    with pytest.raises(UserError, match="name another --out"):
        esc10.run(options(folder, tmp_path / "out", seed=1))


def test_finetuning_learns_from_the_other_folds_alone(esc10: ModuleType, folder: Path, tmp_path: Path) -> None:
    settings = ["steps=2", "data.batch_size=4", "preprocess.audio_frames=32", "model.encoder.audio_frames=32"]
    settings += ["model.encoder.stem_channels=[8]", "model.encoder.width=16", "device=cpu"]
    both = CAVMAEConfig(
        audio_frames=48,  # longer than what is fine-tuned: the positions are cut
        picture_height=32,
        picture_width=32,
        audio_patch=(16, 8),
        stem_channels=(8,),
        width=16,
        heads=2,
        audio_depth=0,
        visual_depth=0,
        decoder_depth=0,
    )
    model = tmp_path / "both.safetensors"
    save_checkpoint(model, CAVMAE(both), preprocess=to_dict(PREPROCESS))
    report = esc10.run(options(folder, tmp_path / "out", finetune=True, model=model, set=settings))
    assert {"finetuned_scratch", "finetuned"} < set(report["accuracy"])
    runs = tmp_path / "out" / "runs"
    assert json.loads((runs / "pretrained-fold1" / "run.json").read_text()) != json.loads(
        (runs / "scratch-fold1" / "run.json").read_text()
    )
    for fold, found in report["folds"]["finetuned_scratch"].items():
        assert found["clips"] == 4
        assert found["protocol"]["split"] == fold
        described = json.loads((tmp_path / "out" / "runs" / f"scratch-{fold}" / "run.json").read_text())
        text = json.dumps(described)
        assert f'"{fold}"' not in text
        assert text.count('"fold') >= 4


def test_what_is_missing_is_said(esc10: ModuleType, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="columns path, name and fold"):
        esc10.read_manifest(tmp_path)
    (tmp_path / "esc10_manifest.csv").write_bytes((folder / "esc10_manifest.csv").read_bytes())
    with pytest.raises(UserError, match="20 of 20 sounds"):
        esc10.read_manifest(tmp_path)


def test_what_the_user_can_mend_is_one_line(esc10: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["esc10.py", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^esc10: .*columns path, name and fold") as stopped:
        esc10.main()
    assert "\n" not in str(stopped.value)
