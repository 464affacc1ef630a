"""Patch targets and the masked error, against loops. If these fail, the decoder learns the wrong thing."""

import statistics

import pytest
import torch

from lookhear.objectives.reconstruction import masked_mse, normalise_patches


def test_normalised_patches_equal_the_slow_form() -> None:
    patches = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    found = normalise_patches(patches)
    for row in range(2):
        for patch in range(3):
            values = patches[row, patch].tolist()
            mean, variance = statistics.mean(values), statistics.variance(values)  # unbiased
            wanted = [(value - mean) / (variance + 1e-6) ** 0.5 for value in values]
            assert found[row, patch].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_a_constant_patch_becomes_zeros() -> None:
    assert torch.equal(normalise_patches(torch.full((1, 1, 8), 0.25)), torch.zeros(1, 1, 8))


def test_error_of_removed_patches_only() -> None:
    prediction = torch.tensor([[[1.0, 1.0], [5.0, 5.0]], [[0.0, 2.0], [9.0, 9.0]]])
    target = torch.zeros(2, 2, 2)
    removed = torch.tensor([[True, False], [True, False]])
    assert float(masked_mse(prediction, target, removed)) == pytest.approx((1 + 1 + 0 + 4) / 4)


def test_gradient_reaches_removed_patches_only() -> None:
    prediction = torch.ones(1, 3, 2, requires_grad=True)
    masked_mse(prediction, torch.zeros(1, 3, 2), torch.tensor([[True, False, True]])).backward()
    assert prediction.grad is not None
    assert prediction.grad[0, 1].abs().sum() == 0
    assert (prediction.grad[0, [0, 2]] != 0).all()


def test_bfloat16_predictions_are_scored_in_float32() -> None:
    prediction = torch.full((1, 2, 3), 0.3, dtype=torch.bfloat16)
    loss = masked_mse(prediction, torch.zeros(1, 2, 3), torch.tensor([[1, 1]]))
    assert loss.dtype == torch.float32
