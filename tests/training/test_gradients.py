"""A batch in pieces against the whole batch. If these fail, memory is saved by learning something else."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from fake_store import SIZES, made_batch, small_classifier_run, small_run
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.cavmae_sync import CAVMAESync
from lookhear.models.classifier import CAVMAEClassifier
from lookhear.objectives import CAVMAEObjectiveConfig, SupervisedConfig
from lookhear.objectives.step import Objective, Step
from lookhear.training.gradients import Pair, check_pieces, compute_gradients

CAVMAE = CAVMAEObjectiveConfig(contrastive_weight=1.0, direction="both", learn_temperature=True)
OBJECTIVES: dict[str, Any] = {
    "reconstruction and contrast": CAVMAE,
    "local negatives, one direction": dataclasses.replace(CAVMAE, negatives="local", direction="image_to_audio"),
    "a pass for contrast, drawn ratios, local loss": dataclasses.replace(
        CAVMAE, mask_ratio_range=(0.3, 0.8), contrastive_mask_ratio=0.25, local_share=0.5
    ),
    "local loss alone": dataclasses.replace(CAVMAE, local_share=1.0),
    "contrast alone": dataclasses.replace(CAVMAE, reconstruction_weight=0.0),
    "reconstruction alone": CAVMAEObjectiveConfig(contrastive_weight=0.0),
    "labels, bce": SupervisedConfig(loss="bce"),
    "labels, ce": SupervisedConfig(loss="ce"),
}


def make_pair(config: Any) -> Pair:
    torch.manual_seed(0)
    model: nn.Module
    if isinstance(config, SupervisedConfig):
        model = CAVMAEClassifier(small_classifier_run().model)
    else:
        model = CAVMAESync(small_run().model)
    return Pair(model, config.build(model), torch.float32)


def learn(config: Any, batch: Batch, pieces: int) -> tuple[Step, dict[str, torch.Tensor]]:
    pair = make_pair(config)
    step = compute_gradients(pair, batch, Draws(seed=3, epoch=1, step=5), pieces=pieces)
    return step, {name: p.grad for name, p in pair.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("pieces", [2, 5])
def test_pieces_give_the_gradient_of_the_whole(name: str, pieces: int) -> None:
    """Five clips, so that two pieces are of two and of three."""
    wanted, whole = learn(OBJECTIVES[name], made_batch(), 1)
    found, parts = learn(OBJECTIVES[name], made_batch(), pieces)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-5, atol=1e-5)
    assert list(found.terms) == list(wanted.terms)
    assert list(found.report) == list(wanted.report)
    for kind in ("terms", "report"):
        for key, value in getattr(wanted, kind).items():
            torch.testing.assert_close(getattr(found, kind)[key], value, rtol=1e-5, atol=1e-5)
    assert parts.keys() == whole.keys()
    for key, gradient in whole.items():
        torch.testing.assert_close(parts[key], gradient, rtol=1e-5, atol=1e-5)
    assert any(gradient.abs().max() > 1e-3 for gradient in whole.values())


def test_taking_pieces_for_batches_would_be_another_loss() -> None:
    """What the tests above would not tell apart if contrast were within a piece."""
    whole = learn(CAVMAE, made_batch(), 1)[0].loss.detach()
    halves = [learn(CAVMAE, made_batch().rows(rows), 1)[0].loss.detach() for rows in (slice(0, 2), slice(2, 5))]
    assert abs(float(whole - (2 * halves[0] + 3 * halves[1]) / 5)) > 0.01


def test_one_clip_one_window() -> None:
    step, gradients = learn(CAVMAE, made_batch(1, 1), 1)
    assert torch.isfinite(step.loss)
    assert gradients


def test_bfloat16_weights_kept_from_a_pass_without_gradient_have_one() -> None:
    """Autocast keeps its copies of weights; those of the first pass of GradCache must not serve the second."""
    pair = make_pair(CAVMAE)
    pair.dtype = torch.bfloat16
    compute_gradients(pair, made_batch(), Draws(seed=3, epoch=1, step=5), pieces=2)
    _, whole = learn(CAVMAE, made_batch(), 1)
    found = {name for name, p in pair.named_parameters() if p.grad is not None}
    assert found == set(whole)


class Coupled(Objective):
    """One that says nothing about pieces."""


def test_what_cannot_be_taken_in_pieces_is_said() -> None:
    pair = make_pair(CAVMAE)
    check_pieces(pair, 4, num_clips=4)
    with pytest.raises(ConfigError, match=r"optim\.accumulate is 5, but a process has 4 clips"):
        check_pieces(pair, 5, num_clips=4)
    with pytest.raises(ConfigError, match="Coupled learns from a batch as a whole only"):
        check_pieces(Pair(pair.model, Coupled(), torch.float32), 2, num_clips=4)
    check_pieces(Pair(pair.model, Coupled(), torch.float32), 1, num_clips=4)
    normed = nn.Sequential(pair.model, nn.BatchNorm1d(SIZES["width"]))
    with pytest.raises(ConfigError, match="normalises over a batch"):
        check_pieces(Pair(normed, pair.objective, torch.float32), 2, num_clips=4)
