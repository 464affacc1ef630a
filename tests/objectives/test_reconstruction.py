"""Patch targets and the masked error, against loops. If these fail, the decoder learns the wrong thing."""

import statistics

import pytest
import torch

from lookhear.objectives.reconstruction import normalise_patches, patch_mse


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


def test_bfloat16_predictions_are_scored_in_float32() -> None:
    prediction = torch.full((1, 2, 3), 0.3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = patch_mse(prediction, torch.zeros(1, 2, 3))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(prediction[0, 0, 0]) ** 2)
