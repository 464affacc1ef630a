"""Distillation against its sums over windows, numbers, classes and places.

If these fail, a student learns something else than its teacher says, or the teacher itself changes.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.stream_classifier import StreamClassifier
from lookhear.objectives.distillation import Distillation, DistillationConfig, StageMatch
from lookhear.objectives.step import Step
from taught import CLASSES, CLIP_TEACHER, STUDENT, WIDTH, make_classifier, save_teacher, taught_batch

DRAWS = Draws(seed=3, epoch=1, step=5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


def learn(config: DistillationConfig, student: StreamClassifier, batch: Batch) -> tuple[Distillation, Step]:
    torch.manual_seed(1)
    objective = config.build(student, num_classes=len(CLASSES))
    return objective, objective(student, batch, DRAWS)


def said_by(model: StreamClassifier, batch: Batch) -> tuple[Tensor, Tensor]:
    """Features (R, F) and logits (R, C)."""
    model.eval()
    with torch.no_grad():
        output = model(batch.audio, batch.frames)
    assert output.joint is not None
    assert output.logits is not None
    return output.joint.flatten(0, 2), output.logits.flatten(0, 1)


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


def literal_distance(own: Tensor, theirs: Tensor, *, loss: str = "l1", reduction: str = "mean") -> float:
    total = 0.0
    for mine, other in zip(own.tolist(), theirs.tolist(), strict=True):
        each = [abs(a - b) if loss == "l1" else (a - b) ** 2 for a, b in zip(mine, other, strict=True)]
        total += sum(each) / (len(each) if reduction == "mean" else 1)
    return total / len(own)


def literal_soft(own: Tensor, theirs: Tensor, *, heat: float = 1.0) -> float:
    total = 0.0
    for mine, other in zip((own / heat).tolist(), (theirs / heat).tolist(), strict=True):
        total -= sum(q * math.log(p) for q, p in zip(softmax(other), softmax(mine), strict=True))
    return total / len(own) * heat**2


@pytest.mark.parametrize("loss", ["l1", "l2"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("labels", [(0, 1, 2, 0), (1,)])
def test_equations(teacher: Path, loss: str, reduction: str, labels: tuple[int, ...]) -> None:
    config = DistillationConfig(
        teacher=str(teacher),
        features_loss=loss,  # type: ignore[arg-type]
        features_reduction=reduction,  # type: ignore[arg-type]
        features_weight=0.5,
        logits_weight=3.0,
        labels_weight=2.0,
        temperature=2.0,
    )
    student, batch = make_classifier(), taught_batch(labels)
    _, step = learn(config, student, batch)
    own, logits = said_by(student, batch)
    theirs, soft = said_by(make_classifier(CLIP_TEACHER, seed=7), batch)
    assert float(step.terms["features"]) == pytest.approx(
        0.5 * literal_distance(own, theirs, loss=loss, reduction=reduction), abs=1e-5
    )
    assert float(step.terms["logits"]) == pytest.approx(3.0 * literal_soft(logits, soft, heat=2.0), abs=1e-5)
    named = [softmax(row)[labels[number // 2]] for number, row in enumerate(logits.tolist())]
    assert float(step.terms["labels"]) == pytest.approx(-2.0 * sum(map(math.log, named)) / len(named), abs=1e-5)
    assert float(step.loss) == pytest.approx(float(sum(step.terms.values())), rel=1e-6)
    entropy = literal_soft(soft, soft, heat=2.0)
    assert float(step.report["divergence"]) == pytest.approx(
        literal_soft(logits, soft, heat=2.0) - entropy, abs=1e-5
    ), "the true Kullback-Leibler divergence is reported beside the loss"
    assert float(step.report["agreement"]) == pytest.approx(float((logits.argmax(1) == soft.argmax(1)).float().mean()))


def test_a_student_that_is_its_teacher(tmp_path: Path) -> None:
    """The distance is 0 and the cross-entropy the teacher's entropy."""
    path = save_teacher(tmp_path / "t.safetensors", STUDENT, seed=0)
    _, step = learn(DistillationConfig(teacher=str(path), logits_weight=1.0), make_classifier(seed=0), taught_batch())
    _, soft = said_by(make_classifier(seed=0), taught_batch())
    assert float(step.terms["features"]) == 0
    assert float(step.terms["logits"]) == pytest.approx(literal_soft(soft, soft), abs=1e-5)
    assert float(step.report["divergence"]) == pytest.approx(0, abs=1e-5)
    assert float(step.report["agreement"]) == 1


def test_the_teacher_stays_as_it_is_and_is_not_saved(tmp_path: Path) -> None:
    batch_norm = dataclasses.replace(CLIP_TEACHER.encoder.visual, norm="batch")  # type: ignore[type-var]
    config = dataclasses.replace(CLIP_TEACHER, encoder=dataclasses.replace(CLIP_TEACHER.encoder, visual=batch_norm))
    path = save_teacher(tmp_path / "t.safetensors", config)
    student = make_classifier()
    objective, step = learn(DistillationConfig(teacher=str(path)), student, taught_batch())
    model = objective._teacher[0]._model  # type: ignore[attr-defined]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective.train()
    objective(student, taught_batch(), DRAWS)
    step.loss.backward()
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not list(objective.parameters())
    assert list(objective.state_dict()) == ["teacher_state._extra_state"]
    assert all(parameter.grad is not None for parameter in student.fusion.parameters())  # type: ignore[union-attr]


def test_features_of_another_width_are_fitted(tmp_path: Path) -> None:
    wide = dataclasses.replace(CLIP_TEACHER.encoder.visual, width=WIDTH + 8)  # type: ignore[type-var]
    config = dataclasses.replace(CLIP_TEACHER, encoder=dataclasses.replace(CLIP_TEACHER.encoder, visual=wide))
    path = save_teacher(tmp_path / "t.safetensors", config)
    student = make_classifier()
    objective, step = learn(DistillationConfig(teacher=str(path), logits_weight=0.0), student, taught_batch())
    own, _ = said_by(student, taught_batch())
    theirs, _ = said_by(make_classifier(config, seed=7), taught_batch())
    fitted = own @ objective.fit.weight.T + objective.fit.bias
    assert float(step.loss) == pytest.approx(literal_distance(fitted, theirs), abs=1e-5)


# ---- stages


def maps_of(model: StreamClassifier, batch: Batch, stream: str, stage: int) -> Tensor:
    """(R, C, h, w), the mean over time."""
    with torch.no_grad():
        encode = model.encoder.encode_audio if stream == "audio" else model.encoder.encode_frames
        values = batch.audio if stream == "audio" else batch.frames
        found = encode(values).stages[stage]  # type: ignore[arg-type]
    return found.mean(2) if found.ndim == 5 else found


def literal_pool(maps: Tensor, height: int, width: int) -> Tensor:
    """Averages over the cells that fall into each cell of the coarser grid."""
    out = torch.zeros(*maps.shape[:2], height, width)
    for row in range(height):
        for column in range(width):
            top, bottom = row * maps.shape[2] // height, -(-(row + 1) * maps.shape[2] // height)
            left, right = column * maps.shape[3] // width, -(-(column + 1) * maps.shape[3] // width)
            out[:, :, row, column] = maps[:, :, top:bottom, left:right].mean(dim=(2, 3))
    return out


def literal_attention(own: Tensor, theirs: Tensor) -> float:
    height, width = min(own.shape[2], theirs.shape[2]), min(own.shape[3], theirs.shape[3])
    total = 0.0
    for mine, other in zip(own, theirs, strict=True):
        lists = []
        for part in (mine, other):
            energy = torch.stack([channel**2 for channel in part]).mean(0)
            cells = literal_pool(energy[None, None], height, width).flatten().tolist()
            length = math.sqrt(sum(cell**2 for cell in cells))
            lists.append([cell / length for cell in cells])
        total += sum((a - b) ** 2 for a, b in zip(*lists, strict=True))
    return total / len(own)


@pytest.mark.parametrize(
    "match",
    [
        StageMatch(how="l2", student_stage=0, teacher_stage=1, weight=0.5),
        StageMatch(how="l2", student="audio", teacher="visual"),
        StageMatch(how="attention", student_stage=0, teacher_stage=0, weight=2.0),
        StageMatch(how="attention"),
        StageMatch(how="soft_labels", student="audio", student_stage=0),
    ],
    ids=lambda match: match.name,
)
def test_stages(teacher: Path, match: StageMatch) -> None:
    config = DistillationConfig(teacher=str(teacher), features_weight=0.0, logits_weight=0.0, stages=(match,))
    student, master, batch = make_classifier(), make_classifier(CLIP_TEACHER, seed=7).eval(), taught_batch()
    objective, step = learn(config, student, batch)
    own = maps_of(student.eval(), batch, match.student, match.student_stage)
    theirs = maps_of(master, batch, match.teacher, match.teacher_stage)
    fit = objective.stages[match.name]
    if match.how == "attention":
        expected = literal_attention(own, theirs)
    elif match.how == "soft_labels":
        expected = literal_soft(own.mean(dim=(2, 3)) @ fit.weight.T + fit.bias, said_by(master, batch)[1])
    else:
        if match.student != match.teacher:
            own, theirs = own.mean(dim=(2, 3), keepdim=True), theirs.mean(dim=(2, 3), keepdim=True)
        if not isinstance(fit, torch.nn.Identity):
            own = torch.einsum("rchw,dc->rdhw", own, fit.weight[:, :, 0, 0]) + fit.bias[None, :, None, None]
        height, width = min(own.shape[2], theirs.shape[2]), min(own.shape[3], theirs.shape[3])
        difference = literal_pool(own, height, width) - literal_pool(theirs, height, width)
        expected = float((difference**2).mean())
    assert list(step.terms) == [match.name]
    assert float(step.loss) == pytest.approx(match.weight * expected, abs=1e-5)
    step.loss.backward()
    encoder = student.encoder.encoder_of(match.student)
    assert any(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())


def test_which_stages_there_are(teacher: Path) -> None:
    for match in (StageMatch(student_stage=2), StageMatch(teacher_stage=-3), StageMatch(teacher="audio")):
        with pytest.raises(ConfigError, match="stages"):
            DistillationConfig(teacher=str(teacher), stages=(match,)).build(make_classifier())
    with pytest.raises(ConfigError, match="not the same"):
        StageMatch(student="audio", how="attention")
    with pytest.raises(ConfigError, match="same stage in the same way"):
        DistillationConfig(stages=(StageMatch(), StageMatch(weight=2.0)))


# ---- teachers in files


def save_features(folder: Path, *, times: bool, files: tuple[int, ...] = (0, 2, 3), name: str = "visual") -> None:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for clip in files:
        np.save(folder / f"clip{clip}.mp4.{name}.npy", rng.normal(size=(3, WIDTH)).astype(np.float32))
        if times:
            np.save(folder / f"clip{clip}.mp4.times.npy", np.array([0.0, 0.9, 5.0]))


def test_features_of_the_nearest_moment(tmp_path: Path) -> None:
    """Windows of .32 s at 0 and 1 s: their middles are nearest to the first and the second moment."""
    save_features(tmp_path / "f", times=True)
    config = DistillationConfig(teacher=str(tmp_path / "f"), logits_weight=0.0)
    student, batch = make_classifier(), taught_batch()
    _, step = learn(config, student, batch)
    own, _ = said_by(student, batch)
    rows = [(clip, window) for clip in (0, 2, 3) for window in (0, 1)]
    theirs = torch.stack([torch.from_numpy(np.load(tmp_path / "f" / f"clip{c}.mp4.visual.npy"))[w] for c, w in rows])
    chosen = own[[2 * clip + window for clip, window in rows]]
    assert float(step.loss) == pytest.approx(literal_distance(chosen, theirs), abs=1e-5), "clip 1 has no features"


def test_arrays_without_times_are_drawn_from(tmp_path: Path) -> None:
    save_features(tmp_path / "f", times=False, files=(0, 1, 2, 3))
    objective = DistillationConfig(teacher=str(tmp_path / "f"), logits_weight=0.0).build(make_classifier())
    views = [
        objective._teacher[0].view(taught_batch(), Draws(seed=0, epoch=epoch)).features for epoch in (0, 0, 1, 2, 3)
    ]
    assert torch.equal(views[0], views[1])  # type: ignore[arg-type]
    assert not all(torch.equal(views[0], view) for view in views[2:])  # type: ignore[arg-type]
    known = {tuple(row) for clip in range(4) for row in np.load(tmp_path / "f" / f"clip{clip}.mp4.visual.npy").tolist()}
    assert all(tuple(row) in known for view in views for row in view.tolist())  # type: ignore[union-attr]


def test_logits_in_files(tmp_path: Path) -> None:
    save_features(tmp_path / "f", times=True, files=(0, 1, 2, 3))
    (tmp_path / "l").mkdir()
    soft = np.random.default_rng(1).normal(size=(4, len(CLASSES))).astype(np.float32)
    for clip in range(3):  # those of clip 3 are missing
        np.save(tmp_path / "l" / f"clip{clip}.npy", soft[clip])
    config = DistillationConfig(teacher=str(tmp_path / "f"), teacher_logits=str(tmp_path / "l"), features_weight=0.0)
    student, batch = make_classifier(), taught_batch()
    _, step = learn(dataclasses.replace(config, logits_weight=1.0), student, batch)
    _, logits = said_by(student, batch)
    expected = literal_soft(logits[:6], torch.from_numpy(soft[:3]).repeat_interleave(2, dim=0))
    assert float(step.loss) == pytest.approx(expected, abs=1e-5)


def test_a_batch_that_the_teacher_does_not_know(tmp_path: Path) -> None:
    save_features(tmp_path / "f", times=True, files=(9,))
    student = make_classifier()
    _, step = learn(DistillationConfig(teacher=str(tmp_path / "f"), logits_weight=0.0), student, taught_batch())
    step.loss.backward()
    assert float(step.loss) == 0
    assert all(p.grad is None or not p.grad.any() for p in student.parameters())


# ---- what cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": ""}, "there is no teacher"),
        ({"stages": (StageMatch(how="soft_labels"),), "logits_weight": 0.0, "teacher": "FEATURES"}, "no logits"),
        ({"teacher": "FEATURES"}, "no logits"),
        ({"teacher": "FEATURES", "teacher_stream": "audio", "logits_weight": 0.0}, "no audio features"),
        ({"teacher_logits": "FEATURES"}, "has logits of its own"),
    ],
)
def test_what_a_teacher_must_have(settings: dict[str, Any], message: str, teacher: Path, tmp_path: Path) -> None:
    save_features(tmp_path / "f", times=True)
    places = {"FEATURES": str(tmp_path / "f")}
    values = {"teacher": str(teacher)} | {
        name: places.get(v, v) if isinstance(v, str) else v for name, v in settings.items()
    }
    with pytest.raises(Exception, match=message) as raised:
        DistillationConfig(**values).build(make_classifier())  # type: ignore[arg-type]
    assert isinstance(raised.value, ConfigError | CheckpointError) or "StoreError" in type(raised.value).__name__


def test_other_refusals(teacher: Path) -> None:
    other = dataclasses.replace(STUDENT, num_classes=4)
    with pytest.raises(ConfigError, match=r"set model\.num_classes to 3"):
        DistillationConfig(teacher=str(teacher)).build(make_classifier(other))
    with pytest.raises(ConfigError, match="stream_classifier"):
        DistillationConfig(teacher=str(teacher)).build(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="something learned"):
        DistillationConfig(features_weight=0.0, logits_weight=0.0)
    objective = DistillationConfig(teacher=str(teacher), labels_weight=1.0).build(make_classifier())
    batch = taught_batch()
    with pytest.raises(ConfigError, match="no labels to learn"):
        objective(make_classifier(), dataclasses.replace(batch, labels=None), DRAWS)
    for missing in ("audio", "frames"):
        with pytest.raises(ConfigError, match="which this run does not read"):
            objective(make_classifier(), dataclasses.replace(batch, **{missing: None}), DRAWS)


def test_a_run_does_not_go_on_with_another_teacher(teacher: Path, tmp_path: Path) -> None:
    config = DistillationConfig(teacher=str(teacher))
    state = config.build(make_classifier()).state_dict()
    config.build(make_classifier()).load_state_dict(state)
    other = save_teacher(tmp_path / "other.safetensors", seed=8)
    with pytest.raises(CheckpointError, match="not the one that this run began with"):
        DistillationConfig(teacher=str(other)).build(make_classifier()).load_state_dict(state)
