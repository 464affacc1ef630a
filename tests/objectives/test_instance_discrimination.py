"""The contrast table: every method against its literal form, and what may and may not learn.

If these fail, a method of the survey is not the method that its name says.
"""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fake_store import small_run
from lookhear.config import override
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.models.multi_stream import MultiStream
from lookhear.objectives.agreement import AgreementConfig
from lookhear.objectives.contrast_table import (
    CROSS,
    END_TO_END,
    JOINT,
    WITHIN,
    Contrast,
    agreement_table,
)
from lookhear.objectives.curriculum import JointMode
from lookhear.objectives.instance_discrimination import InstanceDiscrimination, InstanceDiscriminationConfig, Loss
from lookhear.objectives.kernels import binary_nce, info_nce_of, log_mean_exp
from lookhear.objectives.keys import (
    BankKeys,
    BankSource,
    LiveWindows,
    QueueKeys,
    QueueSource,
    StepKeys,
    _BankKeys,
)
from lookhear.objectives.memory_bank import draw_others
from lookhear.training.run import Run
from methods import AGREEING, BANK, METHODS, NUM_CLIPS, make_batch, make_model

TABLE_METHODS = [name for name in METHODS if name != "sscl"]
DRAWS = Draws(seed=3, epoch=1, step=5)


def build(config: Any, model: MultiStream | None = None) -> InstanceDiscrimination:
    torch.manual_seed(1)
    return config.build(model or make_model(), num_instances=NUM_CLIPS, num_classes=0)


def live(model: MultiStream, batch: Batch) -> dict[str, Tensor]:
    output = model(batch.audio, batch.frames)
    assert output.audio is not None
    assert output.visual is not None
    return {"audio": output.audio.embedding.flatten(0, 1), "visual": output.visual.embedding.flatten(0, 1)}


def banks(objective: InstanceDiscrimination) -> BankSource:
    assert isinstance(objective.source, BankSource)
    return objective.source


def drawn(batch: Batch, own: Tensor, excluded: Tensor, count: int, draws: Draws = DRAWS) -> Tensor:
    """The negatives of each window, as draws say."""
    windows = batch.start_seconds.shape[1]
    numbers = draws.integers(batch.draw_key, windows * count, NUM_CLIPS - excluded.shape[1], purpose="negatives")
    return draw_others(numbers.reshape(len(own), count), excluded)


def slow_row(objective: InstanceDiscrimination, positive: list[float], negative: list[float], level: float) -> float:
    """One window: scores (cosine / temperature) of its positives and its negatives."""
    if objective.loss == "infonce":
        others = sum(map(math.exp, negative))
        return sum(-math.log(math.exp(s) / (math.exp(s) + others)) for s in positive) / len(positive)
    noise = len(negative) * level  # K Ebar
    near = sum(-math.log(math.exp(s) / (math.exp(s) + noise)) for s in positive) / len(positive)
    return near + sum(-math.log(noise / (math.exp(s) + noise)) for s in negative)


def slow_loss(
    objective: InstanceDiscrimination, model: MultiStream, batch: Batch, draws: Draws = DRAWS
) -> dict[str, float]:
    """Row by row of the table and window by window, from the equations."""
    embeddings = {side: rows.detach() for side, rows in live(model, batch).items()}
    windows = batch.start_seconds.shape[1]
    own = batch.index.repeat_interleave(windows)
    temperature = objective.temperature
    terms = {}
    for row in objective.phase_of(draws.epoch).table:
        query, scores = embeddings[row.query], []
        for place in range(len(own)):
            if isinstance(objective.source, BankSource):
                source = objective.source
                excluded = own[:, None]
                if source.config.agreement is not None:
                    excluded = torch.cat([excluded, source.agreeing[own].long()], 1).sort(1).values
                rows = drawn(batch, own, excluded, source.config.num_negatives, draws)[place][: row.num_negatives]
                vectors = source.bank(row.keys).vectors
                near = source.agreeing[own[place]].long() if row.positives == "agreeing" else own[place : place + 1]
                positive, negative = vectors[near], vectors[rows]
            elif isinstance(objective.source, QueueSource):
                with torch.no_grad():
                    keys = live(objective.source.copy.model, batch)  # type: ignore[arg-type]
                queue = objective.source.queue(row.keys)
                positive = keys[row.keys][place : place + 1]
                negative = queue.vectors[queue.owners != own[place]]
            else:
                keys = embeddings[row.keys]
                positive, negative = keys[place : place + 1], keys[torch.arange(len(own)) != place]
            scores.append([(part @ query[place] / temperature).tolist() for part in (positive, negative)])
        every = [math.exp(score) for _, negative in scores for score in negative]
        level = sum(every) / len(every)
        total = sum(slow_row(objective, positive, negative, level) for positive, negative in scores)
        terms[row.name] = row.weight * total / len(own)
    return terms


def warm(objective: InstanceDiscrimination, model: MultiStream) -> None:
    """Some steps, so that banks and queues hold something and clips agree."""
    for step in range(3):
        batch = make_batch(tuple(range(step * 4, step * 4 + 4)), seed=step)
        objective(model, batch, Draws(seed=0, epoch=0, step=step))
        objective.after_step(model)
    objective.begin_epoch(1)
    for level in objective.noise.values():
        level.forget()  # type: ignore[operator]


@pytest.mark.parametrize("name", TABLE_METHODS)
@pytest.mark.parametrize("windows", [1, 2])
def test_every_method_is_its_literal_form(name: str, windows: int) -> None:
    model = make_model()
    objective = build(METHODS[name], model)
    warm(objective, model)
    batch = make_batch(windows=windows, seed=9)
    step = objective(model, batch, DRAWS)
    wanted = slow_loss(objective, model, batch)
    assert step.terms.keys() == wanted.keys()
    for term, value in wanted.items():
        assert step.terms[term].item() == pytest.approx(value, rel=1e-5, abs=1e-5), term
    assert step.loss.item() == pytest.approx(sum(wanted.values()), rel=1e-5)
    assert all(0 <= value <= 1 for key, value in step.report.items() if key.endswith("accuracy"))


@pytest.mark.parametrize("mode", ["teacher_self", "literal", "symmetric"])
@pytest.mark.parametrize("loss", ["infonce", "nce"])
@pytest.mark.parametrize("epoch", range(4))
def test_every_phase_of_the_curriculum_is_its_literal_form(epoch: int, loss: Loss, mode: JointMode) -> None:
    """Eq. 4.4 and 5.1 of the report in stage I, 4.5 and 5.2 in stage II: rows of the teacher's bank are the keys."""
    model, draws = make_model(), Draws(seed=3, epoch=epoch, step=5)
    objective = build(replace(METHODS["sscl"], loss=loss, joint_mode=mode), model)
    warm(objective, model)
    batch = make_batch(seed=9)
    step, wanted = objective(model, batch, draws), slow_loss(objective, model, batch, draws)
    alone = ("visual_to_visual", "audio_to_audio")[epoch // 2]
    assert (step.terms.keys() == {alone}) == (epoch in (0, 2))
    assert step.terms.keys() == wanted.keys()
    for term, value in wanted.items():
        assert step.terms[term].item() == pytest.approx(value, rel=1e-5, abs=1e-5), term


def test_a_bank_at_its_start_has_the_published_values() -> None:
    """K = 1024, 128 numbers, temperature .07, from the bank that a run begins with: 1.26, 2.22, and 8.6 and 7.6.

    The last two are of one draw. They follow from the first as 1.0 + 7.73 and 7.73, and vary by .06 for 512 windows.
    """
    torch.manual_seed(0)
    bank = BankKeys().build(make_model(), width=128, sides=("audio", "visual"), num_instances=2048).bank("audio")
    generator = torch.Generator().manual_seed(0)
    query = F.normalize(torch.randn(512, 128, generator=generator), dim=1)
    own, others = torch.arange(512), torch.arange(1024, 2048)
    positive = (query * bank.read(own, query)).sum(1, keepdim=True) / 0.07
    negative = query @ bank.read(others, query).T / 0.07
    level = log_mean_exp(negative)
    assert float(negative.std()) == pytest.approx(1.26, abs=0.02)
    assert float(level.exp()) == pytest.approx(2.22, abs=0.05)
    assert float(binary_nce(positive, negative, log_mean=level)) == pytest.approx(8.73, abs=0.15)
    assert float(info_nce_of(positive, negative)) == pytest.approx(7.73, abs=0.15)


@pytest.mark.parametrize("name", METHODS)
def test_one_clip_one_window(name: str) -> None:
    model = make_model()
    objective = build(METHODS[name], model)
    step = objective(model, make_batch((4,), windows=1), Draws(seed=0, epoch=0))
    step.loss.backward()
    objective.after_step(model)
    assert torch.isfinite(step.loss)


def test_tables_are_what_the_papers_add_up() -> None:
    """Cross and self are means of two directions, joint of all four, CMA of cross and within by their weights."""

    def weights(table: tuple[Contrast, ...]) -> dict[str, float]:
        return {row.name: row.weight for row in table}

    assert weights(CROSS) == {"visual_to_audio": 0.5, "audio_to_visual": 0.5}
    assert weights(WITHIN) == {"visual_to_visual": 0.5, "audio_to_audio": 0.5}
    assert set(weights(JOINT).values()) == {0.25}
    assert weights(END_TO_END) == {"visual_to_audio": 1.0, "audio_to_visual": 1.0}
    agreeing = agreement_table(3.0)
    assert sum(weights(agreeing).values()) == pytest.approx(1)
    assert weights(agreeing)["visual_to_visual_agreeing"] == pytest.approx(3 / 8)
    assert [row.num_negatives for row in agreeing] == [None, None, 64, 64]


def test_the_same_negatives_of_every_bank_and_never_ones_own() -> None:
    model = make_model()
    objective = build(METHODS["cma"], model)
    warm(objective, model)
    batch = make_batch(seed=4)
    keys = objective.source.look_up(LiveWindows(embeddings=live(model, batch), batch=batch), model, DRAWS)
    assert isinstance(keys, _BankKeys)
    source = banks(objective)
    for place, row in enumerate(keys.rows.tolist()):
        agreeing = source.agreeing[row].tolist()
        assert row not in agreeing
        assert not {row, *agreeing} & set(keys.negatives[place].tolist())
    again = objective.source.look_up(LiveWindows(embeddings=live(model, batch), batch=batch), model, DRAWS)
    assert torch.equal(keys.negatives, again.negatives)  # type: ignore[attr-defined]
    other = objective.source.look_up(
        LiveWindows(embeddings=live(model, batch), batch=batch), model, replace(DRAWS, epoch=2)
    )
    assert not torch.equal(keys.negatives, other.negatives)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TABLE_METHODS)
def test_the_loss_changes_nothing_but_after_step_does(name: str) -> None:
    model = make_model().eval()
    objective = build(METHODS[name], model)
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    objective(model, make_batch(), DRAWS if name != "cma" else Draws(seed=0, epoch=0))
    assert all(torch.equal(value, before[key]) for key, value in objective.state_dict().items())
    objective.after_step(model)
    changed = {key for key, value in objective.state_dict().items() if not torch.equal(value, before[key])}
    assert changed or name == "end_to_end"


def gradient_sides(objective: InstanceDiscrimination, model: MultiStream, epoch: int = 1) -> set[str]:
    model.zero_grad(set_to_none=True)
    objective(model, make_batch(seed=2), Draws(seed=0, epoch=epoch)).loss.backward()
    return {
        name.split("_")[0] for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }


def test_who_gets_the_gradient() -> None:
    """Banks never; of a row only the query, unless its positive is live."""
    row = Contrast(query="audio", keys="visual")
    for table, wanted in (
        ((row,), {"audio"}),
        ((replace(row, gradient="both"),), {"audio", "visual"}),
        (CROSS, {"audio", "visual"}),
        ((Contrast(query="visual", keys="visual"),), {"visual"}),
    ):
        model = make_model()
        objective = build(InstanceDiscriminationConfig(table=table, keys=BANK), model)
        assert gradient_sides(objective, model) == wanted
        assert not any(value.requires_grad for value in objective.state_dict().values())
    for keys, learns in ((QueueKeys(length=8), {"audio"}), (StepKeys(), {"audio"})):
        model = make_model()
        objective = build(InstanceDiscriminationConfig(table=(row,), keys=keys, loss="infonce"), model)
        assert gradient_sides(objective, model) == learns
    model = make_model()
    live_step = InstanceDiscriminationConfig(table=(replace(row, gradient="both"),), keys=StepKeys(), loss="infonce")
    assert gradient_sides(build(live_step, model), model) == {"audio", "visual"}


def test_a_bank_follows_what_was_seen() -> None:
    """Both windows of a clip move its row, which ends at unit length; other rows keep their bits."""
    model = make_model()
    objective = build(METHODS["avid_cross"], model)
    source, batch = banks(objective), make_batch((2, 7))
    before = source.bank("audio").vectors.clone()
    objective(model, batch, DRAWS)
    objective.after_step(model)
    after = source.bank("audio").vectors
    mean = live(model, batch)["audio"].detach().unflatten(0, (2, 2)).mean(1)
    torch.testing.assert_close(after[[2, 7]], F.normalize(0.5 * before[[2, 7]] + 0.5 * mean, dim=1))
    others = [row for row in range(NUM_CLIPS) if row not in (2, 7)]
    assert torch.equal(after[others], before[others])


def test_a_queue_masks_what_a_clip_left_in_it() -> None:
    model = make_model()
    objective = build(METHODS["moco"], model)
    batch = make_batch((2, 7))
    objective(model, batch, DRAWS)
    objective.after_step(model)
    assert isinstance(objective.source, QueueSource)
    assert objective.source.queue("audio").owners[:4].tolist() == [2, 2, 7, 7]
    step = objective(model, batch, DRAWS)
    wanted = slow_loss(objective, model, batch)
    assert step.terms["audio_to_visual"].item() == pytest.approx(wanted["audio_to_visual"], rel=1e-5)


def test_the_noise_is_measured_for_so_many_steps_and_then_stays() -> None:
    model = make_model().eval()
    objective = build(METHODS["avid_cross"], model)  # three steps
    level = objective.noise["visual_to_audio"]
    found = []
    for step in range(5):
        objective(model, make_batch(seed=step), Draws(seed=0, epoch=0, step=step))
        objective.after_step(model)
        found.append(float(level.log_mean))
    assert len(set(found[:3])) == 3
    assert found[2] == found[3] == found[4]
    assert float(objective.noise["audio_to_visual"].log_mean) != found[4]  # one for each direction


def test_agreement_waits_for_the_banks() -> None:
    model = make_model()
    objective = build(METHODS["cma"], model)
    step = objective(model, make_batch(), Draws(seed=0, epoch=0))
    assert set(step.terms) == {"visual_to_audio", "audio_to_visual"}
    warm(objective, model)
    assert len(objective(model, make_batch(), DRAWS).terms) == 4
    impatient = replace(AGREEING, agreement=AgreementConfig(count=3))
    eager = build(replace(METHODS["cma"], keys=impatient), model)
    with pytest.raises(ConfigError, match=r"banks hold 0 clips; start from the run folder"):
        eager.begin_epoch(0)


def test_what_an_earlier_run_knew_is_taken_over() -> None:
    """CMA starts from the banks and the noise of AVID."""
    model = make_model()
    earlier = build(METHODS["avid_cross"], model)
    warm(earlier, model)
    earlier(model, make_batch(), DRAWS)
    earlier.after_step(model)
    objective = build(METHODS["cma"], model)
    objective.take_over(earlier.state_dict())
    for side in ("audio", "visual"):
        assert torch.equal(banks(objective).bank(side).vectors, banks(earlier).bank(side).vectors)
    assert float(objective.noise["visual_to_audio"].log_mean) == float(earlier.noise["visual_to_audio"].log_mean)
    assert float(objective.noise["visual_to_visual_agreeing"].count) == 0
    other = build(METHODS["cma"], model)
    other.learns_from(torch.arange(1, NUM_CLIPS + 1))
    with pytest.raises(ConfigError, match="other clips of the store"):
        other.take_over(earlier.state_dict())


def test_only_clips_that_are_learned_from_are_negatives() -> None:
    """Rows are named by rank in the store; clips of another split have none."""
    model = make_model()
    objective = METHODS["avid_cross"].build(model, num_instances=12, num_classes=0)
    objective.learns_from(torch.arange(3, 100, 8)[:12])
    step = objective(model, make_batch((3, 11, 91)), DRAWS)
    objective.after_step(model)
    assert torch.isfinite(step.loss)
    assert banks(objective).bank("audio").written.nonzero().flatten().tolist() == [0, 1, 11]


def test_a_cav_mae_can_be_trained_so_too() -> None:
    """Any model that embeds both in one space."""
    torch.manual_seed(0)
    model = CAVMAESync(small_run().model)
    for name in ("end_to_end", "avid_joint", "moco"):
        objective = METHODS[name].build(model, num_instances=NUM_CLIPS, num_classes=0)
        step = objective(model, make_batch(), DRAWS)
        step.loss.backward()
        objective.after_step(model)
        assert torch.isfinite(step.loss)


def test_a_model_of_one_modality_knows_its_clips_by_itself() -> None:
    model = MultiStream(replace(make_model().config, audio=None))
    config = InstanceDiscriminationConfig(table=(Contrast(query="visual", keys="visual"),), keys=BANK)
    objective = config.build(model, num_instances=NUM_CLIPS, num_classes=0)
    batch = replace(make_batch(), audio=None)
    assert set(objective(model, batch, DRAWS).terms) == {"visual_to_visual"}
    objective.after_step(model)
    with pytest.raises(ConfigError, match="needs sound and the model has no encoder"):
        METHODS["avid_cross"].build(model, num_instances=NUM_CLIPS, num_classes=0)


def test_what_cannot_be_is_said() -> None:
    model = make_model()
    with pytest.raises(ConfigError, match=r"of 13 clips each has 1 that can be no negative; .* at most 12"):
        build(InstanceDiscriminationConfig(), model)
    with pytest.raises(ConfigError, match=r"each has 4 that .*agreement\.count"):
        build(replace(METHODS["cma"], keys=replace(AGREEING, num_negatives=10)), model)
    with pytest.raises(ConfigError, match="a window's own modality is the window itself"):
        InstanceDiscriminationConfig(table=WITHIN, keys=StepKeys())
    with pytest.raises(ConfigError, match="the two are one"):
        InstanceDiscriminationConfig(table=WITHIN, keys=QueueKeys())
    with pytest.raises(ConfigError, match=r"needs objective\.keys\.agreement"):
        InstanceDiscriminationConfig(table=agreement_table(), keys=BANK)
    with pytest.raises(ConfigError, match="audio_to_visual more than once"):
        InstanceDiscriminationConfig(table=(*CROSS, *CROSS))
    with pytest.raises(ConfigError, match="cannot learn: set gradient=query"):
        Contrast(query="audio", keys="audio", positives="agreeing", gradient="both")
    with pytest.raises(ConfigError, match="every step needs a picture"):
        build(METHODS["avid_cross"], model)(model, replace(make_batch(), frames=None), DRAWS)


def test_settings_come_back_from_json_and_change_by_name() -> None:
    for name, objective in METHODS.items():
        run = small_run(name=name, model=make_model().config, objective=objective)
        assert Run.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    run = small_run(model=make_model().config, objective=METHODS["avid_cross"])
    row = '[{"query": "audio", "keys": "visual", "weight": 2.0}]'
    changed = override(run, ["objective.keys.num_negatives=5", f"objective.table={row}", "objective.loss=infonce"])
    assert changed.objective.keys == BankKeys(num_negatives=5)
    assert changed.objective.table == (Contrast(query="audio", keys="visual", weight=2.0),)
