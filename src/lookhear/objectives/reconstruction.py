"""Masked reconstruction: how well the removed patches were predicted (He et al. 2022, as CAV-MAE uses it).

B clips, N windows, L patches, P values a patch.
"""

import torch
from torch import Tensor


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (..., L, P) with its own mean and standard deviation taken out.

    (x - mean) / sqrt(variance + 1e-6) with the unbiased variance, as published. A constant patch becomes zeros.
    """
    mean = patches.mean(-1, keepdim=True)
    variance = patches.var(-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def masked_mse(prediction: Tensor, target: Tensor, removed: Tensor) -> Tensor:
    """Mean squared error over the removed patches of the whole batch, a scalar.

    `prediction`, `target` (..., L, P); `removed` (..., L) is 1 where a patch was hidden, 0 where it was seen. The
    slow form: average (p - t)^2 over every value of every removed patch. Computed in float32 whatever comes in.
    """
    # MSE in bf16 would lose the small differences late in training
    with torch.autocast(prediction.device.type, enabled=False):
        error = (prediction.float() - target.float()).square().mean(-1)  # (..., L)
        removed = removed.to(error.dtype)
        return (error * removed).sum() / removed.sum()
