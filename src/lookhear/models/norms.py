"""Normalisation over the rows of a batch.

R rows, D width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class RowNorm(nn.BatchNorm1d):
    """Batch norm that has no variance of a single row to divide by: it then uses the running statistics."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name of torch
        """(R, D) -> (R, D)."""
        if self.training and len(input) < 2:
            assert self.running_mean is not None
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
