"""`Run` to JSON and back. If these fail, a run folder cannot be resumed, or is resumed as something else."""

import json

import pytest

from fake_store import small_run
from lookhear.config import difference, override
from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.training.run import Run


def test_there_and_back_through_json() -> None:
    run = small_run()
    values = json.loads(json.dumps(run.to_dict()))
    assert values["model"]["kind"] == "cavmae_sync"
    assert Run.from_dict(values) == run
    assert difference(values, run.to_dict()) == []


def test_the_kind_of_model_comes_back() -> None:
    """CAV-MAE's settings are a part of CAV-MAE Sync's: nothing but the kind tells them apart."""
    run = small_run(model=CAVMAEConfig(width=32, heads=2))
    assert type(Run.from_dict(run.to_dict()).model) is CAVMAEConfig


def test_settings_are_changed_by_name() -> None:
    run = override(small_run(), ["objective.mask.audio=0.6", "model.width=32", "optim.clip_norm=null", "steps=3"])
    assert (run.objective.mask.audio, run.model.width, run.optim.clip_norm, run.steps) == (0.6, 32, None, 3)
    with pytest.raises(ConfigError, match=r"no setting 'optim\.lr'"):
        override(small_run(), ["optim.lr=1"])
    with pytest.raises(ConfigError, match="'model' cannot be 'big'; set its parts"):
        override(small_run(), ["model=big"])


def test_wrong_values_are_refused() -> None:
    values = small_run().to_dict()
    with pytest.raises(ConfigError, match="no model of kind 'cavmae_sink'; did you mean 'cavmae_sync'"):
        Run.from_dict(values | {"model": {"kind": "cavmae_sink"}})
    with pytest.raises(ConfigError, match="no setting 'epoch'; did you mean 'epochs'"):
        Run.from_dict(values | {"epoch": 3})
    with pytest.raises(ConfigError, match="epochs is 0"):
        small_run(epochs=0)
    with pytest.raises(ConfigError, match="nothing to learn"):
        override(small_run(), ["objective.contrastive_weight=0", "objective.reconstruction_weight=0"])
