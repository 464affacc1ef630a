"""Compositional contrastive learning against its sums, and the paths that its gradients take.

If these fail, a gain over learning from labels alone is not the method's.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifier, StreamClassifierConfig
from lookhear.objectives.compositional import Compositional, CompositionalConfig
from lookhear.objectives.step import Step
from taught import CLASSES, CLIP_STUDENT, ENCODER, SIZES, make_classifier, save_teacher, taught_batch

DRAWS = Draws(seed=3, epoch=1, step=5)
LABELS = (0, 1, 2, 0)
STUDENT_WIDTH = CLIP_STUDENT.features_width


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A picture network that reads single pictures, of another width than the student, and vectors of sound."""
    folder = tmp_path_factory.mktemp("teachers")
    one_picture = MultiStreamConfig(
        audio=None, visual=dataclasses.replace(ENCODER, width=STUDENT_WIDTH + 4), **SIZES | {"picture_channels": 3}
    )
    image = StreamClassifierConfig(encoder=one_picture, num_classes=5)
    save_teacher(folder / "image.safetensors", image)
    (folder / "audio").mkdir()
    rng = np.random.default_rng(0)
    for clip in (0, 1, 3):  # of clip 2 there are zeros, as in the published bundle
        np.save(folder / "audio" / f"clip{clip}.npy", rng.normal(size=STUDENT_WIDTH).astype(np.float32))
    np.save(folder / "audio" / "clip2.npy", np.zeros(STUDENT_WIDTH, np.float32))
    return {"audio_teacher": str(folder / "audio"), "image_teacher": str(folder / "image.safetensors")}


def learn(
    places: dict[str, str], batch: Batch | None = None, **settings: Any
) -> tuple[Compositional, StreamClassifier, Step]:
    student = make_classifier(CLIP_STUDENT)
    torch.manual_seed(1)
    objective = CompositionalConfig(**places | settings).build(student, num_classes=len(CLASSES))
    for parameter in objective.parameters():
        nn.init.normal_(parameter, std=0.4)
    return objective, student, objective(student, batch or taught_batch(LABELS), DRAWS)


# ---- the sums


def unit(row: Tensor) -> Tensor:
    return row / math.sqrt(sum(value**2 for value in row.tolist()))


def literal_contrast(one: Tensor, other: Tensor, labels: list[int], temperature: float) -> float:
    """Both directions of eq. 6.2-6.3."""

    def direction(rows: Tensor, columns: Tensor) -> float:
        total = 0.0
        for i in range(len(rows)):
            weights = [math.exp(float(unit(rows[i]) @ unit(columns[j])) / temperature) for j in range(len(columns))]
            shares = [weight / sum(weights) for weight in weights]
            near = [math.log(shares[j]) for j in range(len(columns)) if labels[j] == labels[i]]
            far = [math.log(1 - shares[j] + 1e-10) for j in range(len(columns)) if labels[j] != labels[i]]
            total -= sum(near) / len(near) + (sum(far) / len(far) if far else 0.0)
        return total / len(rows)

    return direction(one, other) + direction(other, one)


def literal_divergence(first: Tensor, second: Tensor) -> float:
    total = 0.0
    for left, right in zip(first.softmax(1).tolist(), second.softmax(1).tolist(), strict=True):
        total += 0.5 * sum(p * math.log(p / q) + q * math.log(q / p) for p, q in zip(left, right, strict=True))
    return total / len(first)


def literal_classification(logits: Tensor, labels: list[int]) -> float:
    return -sum(math.log(float(row.softmax(0)[label])) for row, label in zip(logits, labels, strict=True)) / len(labels)


def literal_terms(objective: Compositional, student: StreamClassifier, batch: Batch, weight: float) -> dict[str, float]:
    """Every term, with the composition as it is printed."""
    labels = [LABELS[row // 2] for row in range(8)]
    with torch.no_grad():
        output = student(frames=batch.frames)
        assert output.joint is not None
        assert output.logits is not None
        features, logits = output.joint.flatten(0, 2), output.logits.flatten(0, 1)
        terms = {"classification": literal_classification(logits, labels)}
        for stream, name, temperature in (("audio", "audio", 0.5), ("visual", "image", 0.1)):
            view = objective._teachers[stream].view(batch, DRAWS)  # type: ignore[index]
            assert view.features is not None
            known = [row for row in range(8) if bool(view.present[row])]
            assert known == ([0, 1, 2, 3, 6, 7] if stream == "audio" else list(range(8)))
            composer: Any = objective.composers[stream]
            taught = view.features[known]
            if not isinstance(composer.adapt, nn.Identity):
                taught = taught @ composer.adapt.weight.T + composer.adapt.bias
            own, said = features[known], logits[known]
            both = torch.stack([torch.cat([unit(x), unit(v)]) for x, v in zip(taught, own, strict=True)])
            composed = taught + both @ composer.residual.weight.T + composer.residual.bias
            named = composed @ composer.head.weight.T + composer.head.bias
            of = [labels[row] for row in known]
            with_composed = literal_contrast(own, composed, of, temperature)
            divergence = literal_divergence(said, named)
            terms[f"{name}_contrast"] = weight * (with_composed + literal_contrast(own, taught, of, temperature))
            terms[f"{name}_divergence"] = weight * divergence
            terms[f"{name}_composer"] = (
                literal_classification(named, of)
                + with_composed
                + literal_contrast(composed, taught, of, temperature)
                + divergence
            )
    return terms


def test_every_term(teachers: dict[str, str]) -> None:
    objective, student, step = learn(teachers)
    expected = literal_terms(objective, student, taught_batch(LABELS), weight=0.5)
    assert list(step.terms) == list(expected)
    for name, value in expected.items():
        assert float(step.terms[name].detach()) == pytest.approx(value, rel=1e-5, abs=1e-5), name
    assert float(step.loss.detach()) == pytest.approx(sum(expected.values()), rel=1e-5)


def test_one_teacher_weighs_as_much_as_two(teachers: dict[str, str]) -> None:
    both, alone = learn(teachers)[2], learn(teachers, teachers="image")[2]
    assert list(alone.terms) == ["classification", "image_contrast", "image_divergence", "image_composer"]
    assert learn(teachers)[0].weight == 0.5
    assert learn(teachers, teachers="audio")[0].weight == 1.0
    assert learn(teachers, teachers="audio", weight=0.3)[0].weight == 0.3
    assert set(both.terms) > set(alone.terms)


def test_without_teachers_only_labels_are_learned(teachers: dict[str, str]) -> None:
    objective, student, step = learn({}, teachers="none")
    assert list(step.terms) == ["classification"]
    assert not list(objective.parameters())
    logits = student(frames=taught_batch(LABELS).frames).logits
    labels = torch.tensor(LABELS).repeat_interleave(2)
    torch.testing.assert_close(step.loss, F.cross_entropy(logits.flatten(0, 1), labels))


def test_plain_distillation_composes_nothing(teachers: dict[str, str]) -> None:
    objective, student, step = learn(teachers, teachers="audio", composed=False)
    batch, labels = taught_batch(LABELS), [LABELS[row // 2] for row in range(8)]
    known = [0, 1, 2, 3, 6, 7]
    with torch.no_grad():
        features = student(frames=batch.frames).joint.flatten(0, 2)[known]
        taught = objective._teachers["audio"].view(batch, DRAWS).features[known]  # type: ignore[index]
    expected = literal_contrast(features, taught, [labels[row] for row in known], 0.5)
    assert float(step.terms["audio_contrast"].detach()) == pytest.approx(expected, rel=1e-5)
    step.loss.backward()
    assert objective.composers["audio"].residual.weight.grad is None  # type: ignore[union-attr]


# ---- edges


def test_a_batch_of_one_class_and_of_one_clip(teachers: dict[str, str]) -> None:
    for labels in ((1, 1, 1, 1), (2,)):
        objective, student, step = learn(teachers, taught_batch(labels))
        step.loss.backward()
        assert step.loss.isfinite()
        trained = [*student.parameters(), *objective.parameters()]
        assert all(p.grad is None or p.grad.isfinite().all() for p in trained)


def test_a_batch_without_sound(teachers: dict[str, str], tmp_path: Path) -> None:
    """None of its clips has features of sound: the other terms are as they were."""
    np.save(tmp_path / "clip99.npy", np.ones(STUDENT_WIDTH, np.float32))
    silent = learn(teachers | {"audio_teacher": str(tmp_path)})[2]
    silent.loss.backward()
    for name, value in learn(teachers)[2].terms.items():
        if name.startswith("audio"):
            assert float(silent.terms[name].detach()) == 0
        else:
            torch.testing.assert_close(silent.terms[name], value)


def test_several_labels(teachers: dict[str, str]) -> None:
    """Clips that share a label are positives; a label counts half where there are two."""
    batch = taught_batch(LABELS)
    assert batch.labels is not None
    labels = batch.labels.clone()
    labels[0] = torch.tensor([1.0, 1.0, 0.0])
    _, student, step = learn(teachers, dataclasses.replace(batch, labels=labels))
    logits = student(frames=batch.frames).logits.flatten(0, 1).log_softmax(1)
    rows = [-(logits[n, 0] + logits[n, 1]) / 2 if n < 2 else -logits[n, LABELS[n // 2]] for n in range(8)]
    torch.testing.assert_close(step.terms["classification"], torch.stack(rows).mean())


def test_the_picture_changes_from_step_to_step(teachers: dict[str, str]) -> None:
    objective, _, _ = learn(teachers, teachers="image")
    batch, teacher = taught_batch(LABELS), objective._teachers["visual"]
    views = [teacher.view(batch, Draws(seed=0, epoch=0, step=step)).features for step in range(8)]
    different = {float(view.sum()) for view in views if view is not None}
    assert len(different) == 2, "a window has two pictures"


# ---- gradients


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def test_the_composers_loss_teaches_the_composer_alone(teachers: dict[str, str]) -> None:
    objective, student, step = learn(teachers)
    (step.terms["audio_composer"] + step.terms["image_composer"]).backward()
    assert not gradients(student)
    assert set(gradients(objective.composers)) == {name for name, _ in objective.composers.named_parameters()}


def test_the_students_loss_teaches_both(teachers: dict[str, str]) -> None:
    objective, student, step = learn(teachers, divergence_weight=0.0)
    step.terms["audio_contrast"].backward()
    assert any(bool(value.any()) for value in gradients(student.encoder).values())
    assert bool(objective.composers["audio"].residual.weight.grad.any())  # type: ignore[union-attr,operator]


def test_the_composers_classification_reaches_the_student_only_if_shared(teachers: dict[str, str]) -> None:
    """Scaled by 1 or by 9, it leaves the student's gradient as it is; as the report reads eq. 6.1, it does not."""
    for share in (False, True):
        found = []
        for factor in (1.0, 9.0):
            _, student, step = learn(teachers, share_ce_with_student=share)
            own = step.loss + (factor - 1) * (step.terms["audio_composer"] + step.terms["image_composer"])
            own.backward()
            found.append(gradients(student.encoder))
        same = all(torch.allclose(value, found[1][name]) for name, value in found[0].items())
        assert same != share


def test_gradients_are_those_of_the_published_procedure(teachers: dict[str, str]) -> None:
    """The composer's loss goes back first, through everything; the student's gradient is cleared; its own loss follows.

    The composers keep the gradient of both.
    """
    objective, student, step = learn(teachers, teachers="audio")
    step.loss.backward()
    ours, composers = gradients(student), gradients(objective.composers)
    objective.zero_grad()
    student.zero_grad()

    batch, labels = taught_batch(LABELS), torch.tensor([LABELS[row // 2] for row in range(8)])
    view = objective._teachers["audio"].view(batch, DRAWS)
    assert view.features is not None
    known, composer = view.present, objective.composers["audio"]
    one_hot = F.one_hot(labels[known], len(CLASSES)).float()

    def losses() -> tuple[Tensor, Tensor]:
        from lookhear.objectives.kernels import multi_positive_nce, same_label, symmetric_kl

        output = student(frames=batch.frames)
        features, logits = output.joint.flatten(0, 2), output.logits.flatten(0, 1)
        own, said, taught = features[known], logits[known], view.features[known]  # type: ignore[index]
        composed = composer(taught, own)
        named = composer.head(composed)  # type: ignore[operator,union-attr]

        def contrast(left: Tensor, right: Tensor) -> Tensor:
            scores = F.normalize(left, dim=1) @ F.normalize(right, dim=1).T / 0.5
            both = (scores, scores.T)
            return sum(multi_positive_nce(each, same_label(one_hot)) for each in both)  # type: ignore[return-value]

        divergence = symmetric_kl(said, named)
        of_composer = (
            F.cross_entropy(named, labels[known]) + contrast(own, composed) + contrast(composed, taught) + divergence
        )
        of_student = F.cross_entropy(logits, labels) + contrast(own, composed) + contrast(own, taught) + divergence
        return of_composer, of_student

    losses()[0].backward()
    student.zero_grad()
    losses()[1].backward()
    for name, value in gradients(student).items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-4)
    for name, value in gradients(objective.composers).items():
        # the composer's loss sends the composer the same gradient whether the student is followed or not
        torch.testing.assert_close(composers[name], value, atol=1e-5, rtol=1e-4)


# ---- what cannot be


def test_what_is_refused(teachers: dict[str, str], tmp_path: Path) -> None:
    student = make_classifier(CLIP_STUDENT)
    with pytest.raises(ConfigError, match="audio_teacher names no teacher"):
        CompositionalConfig(teachers="audio").build(student)
    with pytest.raises(ConfigError, match="image_teacher names no teacher"):
        CompositionalConfig(teachers="image", audio_teacher=teachers["audio_teacher"]).build(student)
    with pytest.raises(ConfigError, match="stream_classifier"):
        CompositionalConfig(teachers="none").build(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="there are 5 labels"):
        CompositionalConfig(teachers="none").build(student, num_classes=5)
    with pytest.raises(ConfigError, match="above 0"):
        CompositionalConfig(audio_temperature=0.0)
    with pytest.raises(ConfigError, match="no labels to learn"):
        learn(teachers, dataclasses.replace(taught_batch(LABELS), labels=None))
