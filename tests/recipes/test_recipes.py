"""Every recipe: complete, without contradictions, and able to take a step."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fake_store import FakeStore
from lookhear.config import override
from lookhear.errors import ConfigError
from lookhear.models.checkpoint import MODELS
from lookhear.recipes import RECIPES, recipe
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.optim import learning_rate
from lookhear.training.run import Run, model_kind

# those that two CPU cores can train
TAUGHT = ("listen_to_look", "distil_stages", "listen_to_look_small", "distil_stages_small")  # see test_distilled.py
ALONE = sorted(RECIPES.keys() - set(TAUGHT))
HERE = ("tiny", "grid", "small", "conv_towers", *(name for name in ALONE if name.endswith("_small")))
METHODS = ("end_to_end", "memory_bank", "avid_self", "avid_cross", "avid_joint", "cma", "moco", "sscl")
PUBLISHED = sorted(set(ALONE) - {*HERE, *METHODS})
# Encoders, banks and queues that take a step in no time.
SHRUNK_STREAMS = [
    "model.audio.width=16",
    "model.visual.width=16",
    "preprocess.audio_frames=40",
    "model.audio_frames=40",
]
SHRUNK_PICTURES = [f"{part}.picture_{side}=32" for part in ("model", "preprocess") for side in ("height", "width")]
SHRUNK_KEYS = {
    "BankKeys": ["objective.keys.num_negatives=1"],
    "QueueKeys": ["objective.keys.length=6"],
    "StepKeys": [],
}
# An encoder that takes a step in no time, on the fake store, which mixes its channels.
SHRUNK = [
    *("model.width=24", "model.heads=2", "model.audio_depth=1", "model.visual_depth=1"),
    *("model.decoder_width=16", "model.decoder_heads=2", "preprocess.channel=mix", "initial=null"),
    *("device=cpu", "data.num_workers=0", "data.batch_size=2", "steps=2", "journal_every=1"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete(name: str) -> None:
    run = recipe(name)
    run.check()
    assert run.name == name
    assert Run.from_dict(run.to_dict()) == run
    with torch.device("meta"):
        model = MODELS[model_kind(run.model)][1](run.model)
        if name in ALONE:
            run.objective.build(model, num_instances=100_000)
    assert all(word in (RECIPES[name].__doc__ or "") for word in ("Command:", "Data:", "Hardware:", "Promise:"))


@pytest.mark.parametrize("name", HERE)
def test_a_recipe_takes_steps(name: str, tmp_path: Path) -> None:
    settings = ["data.batch_size=2", "data.windows_per_clip=2", "steps=2", "device=cpu"]
    run = override(recipe(name), [*settings, *_few_keys(recipe(name))])
    summary = train(dataclasses.replace(run), FakeStore(4), tmp_path / "run")  # type: ignore[arg-type]
    assert summary.finished


@pytest.mark.parametrize("name", METHODS)
def test_a_published_method_takes_steps_when_it_is_small(name: str, tmp_path: Path) -> None:
    """From the first epoch of each phase on, as there is a step an epoch."""
    run = recipe(name)
    phases = {
        "cma": ["objective.keys.agreement.warmup_epochs=1", "objective.keys.agreement.refresh_every=1"],
        "sscl": ["objective.phase_epochs=[1,1,1,1]"],
    }
    settings = [*SHRUNK_STREAMS, *SHRUNK_PICTURES, *_few_keys(run), *phases.get(name, [])]
    settings += ["device=cpu", "data.num_workers=0", "data.batch_size=4", "steps=4", "journal_every=1"]
    train(override(run, settings), FakeStore(4), tmp_path / "run")  # type: ignore[arg-type]
    losses = [record["loss"] for record in read_records(tmp_path / "run" / "journal.jsonl") if "loss" in record]
    assert len(losses) == 4
    assert all(math.isfinite(loss) for loss in losses)


def _few_keys(run: Run) -> list[str]:
    """Settings with which a bank or a queue fits four clips."""
    keys = getattr(run.objective, "keys", None)
    few = SHRUNK_KEYS.get(type(keys).__name__, [])
    agreement = getattr(keys, "agreement", None)
    return few if agreement is None else [*few, "objective.keys.agreement.count=1"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_takes_steps_when_it_is_small(name: str, tmp_path: Path) -> None:
    """Published windows, padding, noise and roll, on clips far shorter than the window: the loss stays a number."""
    train(override(recipe(name), SHRUNK), FakeStore(4), tmp_path / "run")  # type: ignore[arg-type]
    losses = [record["loss"] for record in read_records(tmp_path / "run" / "journal.jsonl") if "loss" in record]
    assert len(losses) == 2
    assert all(math.isfinite(loss) for loss in losses)


def test_published_settings() -> None:
    """What the authors' scripts say, of each run."""
    for name, batch_size, peak, epochs in (
        ("cavmae_base", 48, 5e-5, 25),
        ("cavmae_scale_plus", 108, 1e-4, 25),
        ("cavmae_scale_plus_plus", 256, 2e-4, 25),
        ("cavmae_nonorm", 48, 5e-5, 25),
        ("cavmae_vggsound", 120, 1e-4, 25),
        ("cavmae_vggsound_continued", 120, 5e-5, 10),
        ("cavmae_bidirectional", 120, 1e-4, 25),
        ("cavmae_sync", 512, 2e-4, 25),
    ):
        run = recipe(name)
        assert (run.data.batch_size, run.optim.learning_rate, run.epochs) == (batch_size, peak, epochs)
        optim = run.optim
        assert (optim.name, optim.betas, optim.weight_decay) == ("adam", (0.95, 0.999), 5e-7)
        assert optim.decay_vectors
        assert run.objective.negatives == "local"
        assert (run.objective.mask.audio, run.objective.mask.visual, run.objective.temperature) == (0.75, 0.75, 0.05)
        assert run.initial is not None
    assert recipe("cavmae_sync").objective.contrastive_weight == 0.1
    assert recipe("cavmae_base").objective.contrastive_weight == 0.01
    assert not recipe("cavmae_nonorm").objective.normalise_patches
    assert recipe("cavmae_bidirectional").objective.direction == "both"


def test_published_methods() -> None:
    """What repositories say of AVID, CMA and MoCo; of SSCL only clips were published."""
    cross = recipe("avid_cross")
    assert (cross.optim.name, cross.optim.learning_rate, cross.optim.weight_decay) == ("adam", 2e-4, 1e-5)
    assert (cross.data.batch_size, cross.epochs, cross.objective.loss) == (256, 300, "nce")
    keys = cross.objective.keys
    assert (keys.num_negatives, keys.audio_momentum, keys.visual_momentum) == (1024, 0.5, 0.5)
    assert (cross.objective.temperature, cross.model.embedding_width, cross.model.projection) == (0.07, 128, (512, 512))
    cma = recipe("cma")
    agreement = cma.objective.keys.agreement
    assert (agreement.count, agreement.rule, agreement.refresh_every, agreement.warmup_epochs) == (32, "both", 50, 300)
    assert cma.epochs == 500
    assert [row.num_negatives for row in cma.objective.table] == [None, None, 64, 64]
    moco = recipe("moco")
    assert (moco.objective.keys.length, moco.objective.keys.key_momentum, moco.objective.temperature) == (
        65536,
        0.999,
        0.07,
    )
    optim = moco.optim
    assert (optim.name, optim.learning_rate, optim.momentum, optim.weight_decay) == ("sgd", 0.03, 0.9, 1e-4)
    rates = [learning_rate(optim, step=epoch, total_steps=200, steps_per_epoch=1) for epoch in (119, 120, 159, 160)]
    assert rates == pytest.approx([0.03, 0.003, 0.003, 0.0003])
    sscl = recipe("sscl")
    assert (sscl.preprocess.frames_per_window, sscl.preprocess.picture_height) == (16, 112)
    with torch.device("meta"):
        model = MODELS[model_kind(cross.model)][1](cross.model)
    sizes = {
        part: round(sum(value.numel() for name, value in model.named_parameters() if name.startswith(part)) / 1e6, 2)
        for part in ("visual_encoder", "audio_encoder", "visual_projection", "audio_projection")
    }
    assert sizes == {
        "visual_encoder": 15.38,
        "audio_encoder": 4.73,
        "visual_projection": 0.59,
        "audio_projection": 0.59,
    }


def test_published_schedules() -> None:
    """Halved after epoch 10, 15 and 20; ten epochs of VGGSound stay at the peak; Sync warms up and ends at a tenth."""

    def rates(name: str, epochs: int) -> list[float]:
        optim = recipe(name).optim
        return [
            learning_rate(optim, step=100 * epoch, total_steps=100 * epochs, steps_per_epoch=100) / optim.learning_rate
            for epoch in range(epochs)
        ]

    assert rates("cavmae_base", 25) == [1.0] * 10 + [0.5] * 5 + [0.25] * 5 + [0.125] * 5
    assert rates("cavmae_vggsound_continued", 10) == [1.0] * 10
    sync = recipe("cavmae_sync").optim
    every = [learning_rate(sync, step=step, total_steps=1000, steps_per_epoch=40) / 2e-4 for step in range(1000)]
    assert every[:100] == pytest.approx([(step + 1) / 100 for step in range(100)])
    assert every[-1] == pytest.approx(0.1, abs=1e-3)


def test_an_unknown_name_names_the_nearest() -> None:
    for typo in ("tinny", "tyni"):
        with pytest.raises(ConfigError, match=f"no recipe '{typo}'; did you mean 'tiny'"):
            recipe(typo)
    for other in ("finetune_tiny", "skim_tiny"):
        with pytest.raises(ConfigError, match=f"learns labels: `lookhear finetune {other}`"):
            recipe(other)
