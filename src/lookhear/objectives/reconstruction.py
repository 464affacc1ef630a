"""Masked reconstruction: how well patches of P values were predicted (He et al. 2022, as CAV-MAE uses it)."""

import torch
from torch import Tensor


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (..., P) with its own mean and standard deviation taken out.

    (x - mean) / sqrt(variance + 1e-6) with the unbiased variance, as published. A constant patch becomes zeros.
    """
    mean = patches.mean(-1, keepdim=True)
    variance = patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def patch_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over every value of patches (..., P), a scalar; in float32 whatever comes in."""
    # MSE in bf16 would lose the small differences late in training
    with torch.autocast(prediction.device.type, enabled=False):
        return (prediction.float() - target.float()).square().mean()
