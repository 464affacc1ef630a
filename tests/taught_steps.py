"""A step of distillation and of CCL, on any share of a batch, for tests that compare processes."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.models.stream_classifier import StreamClassifierConfig
from lookhear.objectives.compositional import CompositionalConfig
from lookhear.objectives.distillation import DistillationConfig, StageMatch
from lookhear.objectives.step import ObjectiveConfig, Step
from taught import CLASSES, CLIP_STUDENT, STUDENT, WIDTH, make_classifier, rows_of, save_teacher, taught_batch

CASES = ("models", "files", "composed", "plain")


def objective_of(case: str, folder: Path) -> tuple[ObjectiveConfig, StreamClassifierConfig]:
    model, files = str(folder / "teacher.safetensors"), str(folder / "features")
    if case == "models":
        stages = (StageMatch(how="attention"), StageMatch(how="l2", student="audio"))
        return DistillationConfig(teacher=model, labels_weight=0.5, stages=stages), STUDENT
    if case == "files":
        return DistillationConfig(teacher=files, logits_weight=0.0), STUDENT
    teachers = {"audio_teacher": files, "image_teacher": model}
    return CompositionalConfig(**teachers, composed=case == "composed"), CLIP_STUDENT


class Pair(nn.Module):
    """Model and objective as the loop wraps them."""

    def __init__(self, case: str, folder: Path) -> None:
        super().__init__()
        config, student = objective_of(case, folder)
        self.model = make_classifier(student)
        torch.manual_seed(1)
        self.objective = config.build(self.model, num_instances=6, num_classes=len(CLASSES))

    def forward(self, batch: Batch) -> Step:
        step: Step = self.objective(self.model, batch, Draws(seed=3, epoch=1, step=5))
        return step


def loss_and_gradients(case: str, folder: Path, batch: Batch) -> dict[str, Tensor]:
    pair = Pair(case, folder)
    wrapped = distributed.wrap(pair)  # it must live until the backward pass, whose hooks are its own
    step = wrapped(batch)
    step.loss.backward()
    found = {name: p.grad for name, p in pair.named_parameters() if p.grad is not None}
    return found | {f"term {name}": distributed.average(value) for name, value in step.terms.items()}


def whole_batch() -> Batch:
    return taught_batch((0, 1, 2, 0, 1, 1))


def half_batch(rank: int) -> Batch:
    return rows_of(whole_batch(), slice(rank, None, 2))


def save_teachers(folder: Path) -> None:
    """A model and files. The clips 1, 3 and 5 of the one process and clip 2 of the other have no features."""
    (folder / "features").mkdir(parents=True)
    save_teacher(folder / "teacher.safetensors")
    rng = np.random.default_rng(0)
    for clip in (0, 4):
        np.save(folder / "features" / f"clip{clip}.npy", rng.normal(size=WIDTH).astype(np.float32))
