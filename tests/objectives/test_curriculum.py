"""The phases of SSCL. If these fail, the side that should stand still learns, or a stage asks the wrong teacher."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fake_store import small_run
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.objectives.agreement import AgreementConfig
from lookhear.objectives.curriculum import CurriculumConfig, JointMode
from lookhear.objectives.instance_discrimination import InstanceDiscrimination
from lookhear.objectives.keys import BankSource
from methods import BANK, ENCODER, MODEL, NUM_CLIPS, make_batch, make_model

CONFIG = CurriculumConfig(phase_epochs=(2, 3, 2, 3), keys=BANK)


def build(config: CurriculumConfig = CONFIG, model: Any = None) -> InstanceDiscrimination:
    return config.build(model or make_model(), num_instances=NUM_CLIPS)


def rows(config: CurriculumConfig) -> list[list[str]]:
    return [[row.name for row in phase.table] for phase in config.phases]


def test_two_stages_of_two_phases() -> None:
    assert rows(CONFIG) == [
        ["visual_to_visual"],
        ["visual_to_visual", "audio_to_visual"],
        ["audio_to_audio"],
        ["audio_to_audio", "visual_to_audio"],
    ]
    objective = build()
    order = [objective.phases.index(objective.phase_of(epoch)) for epoch in range(12)]
    assert order == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3]
    assert [epoch for epoch in range(12) if objective.restarts_optimizer(epoch)] == [2, 5, 7]
    assert [phase.learning for phase in objective.phases] == [
        {"visual"},
        {"visual", "audio"},
        {"audio"},
        {"visual", "audio"},
    ]


@pytest.mark.parametrize(
    ("mode", "stage_one", "learning"),
    [
        ("literal", {"audio_to_visual": 1.0}, {"audio"}),
        ("teacher_self", {"visual_to_visual": 1.0, "audio_to_visual": 1.0}, {"audio", "visual"}),
        ("live_positive", {"audio_to_visual": 1.0}, {"audio", "visual"}),
        ("symmetric", {"audio_to_visual": 0.5, "visual_to_audio": 0.5}, {"audio", "visual"}),
    ],
)
def test_readings_of_jointly(mode: JointMode, stage_one: dict[str, float], learning: set[str]) -> None:
    phase = replace(CONFIG, joint_mode=mode).phases[1]
    assert {row.name: row.weight for row in phase.table} == stage_one
    assert phase.learning == learning


def test_a_stage_alone() -> None:
    assert rows(replace(CONFIG, phase_epochs=(1, 1, 0, 0))) == rows(CONFIG)[:2]
    assert rows(replace(CONFIG, phase_epochs=(0, 0, 4, 1))) == rows(CONFIG)[2:]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_other_side_stands_still_and_its_bank_fills(norm: str) -> None:
    """No gradient, no change of running statistics; what it says is still written down."""
    encoder = replace(ENCODER, norm=norm)
    model = make_model(replace(MODEL, audio=encoder, visual=encoder)).train()
    objective = build(model=model)
    still = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("audio_")}
    step = objective(model, make_batch(), Draws(seed=0, epoch=0))
    step.loss.backward()
    objective.after_step(model)
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert not (moved and name.startswith("audio_")), name
    assert any(parameter.grad is not None for parameter in model.visual_encoder.parameters())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in still.items())
    assert model.training
    assert isinstance(objective.source, BankSource)
    assert objective.source.bank("audio").written.sum() == 4


def test_the_noise_is_measured_anew_in_each_phase() -> None:
    objective = build(replace(CONFIG, loss="nce"))
    model = make_model()
    objective(model, make_batch(), Draws(seed=0, epoch=0))
    objective.after_step(model)
    level = objective.noise["visual_to_visual"]
    objective.begin_epoch(1)
    assert float(level.count) == 1
    objective.begin_epoch(2)
    assert float(level.count) == 0


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigError, match="one must be above 0"):
        CurriculumConfig(phase_epochs=(0, 0, 0, 0))
    with pytest.raises(ConfigError, match=r"keys\.agreement to null"):
        CurriculumConfig(keys=replace(BANK, agreement=AgreementConfig()))
    with pytest.raises(ConfigError, match=r"both share joint_blocks.*take a multi_stream model"):
        build(model=CAVMAESync(small_run().model))
