"""The losses that all contrastive and distilling methods are made of, on scores and logits alone.

Everything is computed in float32 whatever comes in. R rows, P positives of a row, K negatives, C classes. Scores are
cosines divided by the temperature.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NO_KEY = -1e9  # score of a key that is no negative of a row: its weight is 0, and its gradient too
# under the logarithm of what is left beside a probability, as published with CCL
_LEFT_OVER = 1e-10


def info_nce_of(positive: Tensor, negative: Tensor) -> Tensor:
    """InfoNCE, a scalar: `-log( exp(s+) / (exp(s+) + sum_k exp(s-_k)) )`, averaged over positives and rows.

    `positive` (R, P), each against all of `negative` (R, K), of which those at NO_KEY do not count. Computed as
    softplus(logsumexp(s-) - s+), which does not overflow. Without negatives it is 0.
    """
    with _in_float32(positive):
        others = torch.logsumexp(negative.float(), dim=1, keepdim=True)  # (R, 1)
        return F.softplus(others - positive.float()).mean()


def binary_nce(positive: Tensor, negative: Tensor, *, log_mean: Tensor | float) -> Tensor:
    """Noise-contrastive estimation (Gutmann and Hyvarinen 2010) with uniform noise, a scalar: what AVID minimises.

    The slow form, with p_m = exp(s) / Z, p_n = 1 / N and Z = N x exp(log_mean):

        -log( p_m(+) / (p_m(+) + K p_n) ) - sum_k log( K p_n / (p_m(-_k) + K p_n) )

    where N cancels: softplus(c - s+) + sum_k softplus(s-_k - c) with c = log K + `log_mean`, the logarithm of the
    mean of exp(s-). exp(1 / .07) is beyond float16; this form overflows nowhere. Averaged over positives (R, P) and
    rows, summed over negatives (R, K), of which those at NO_KEY do not count.
    """
    with _in_float32(positive):
        positive, negative = positive.float(), negative.float()
        counted = (negative > NO_KEY / 2).sum(1, keepdim=True).clamp_min(1)  # (R, 1)
        level = counted.float().log() + log_mean
        return F.softplus(level - positive).mean() + F.softplus(negative - level).sum(1).mean()


def log_mean_exp(scores: Tensor) -> Tensor:
    """Logarithm of the mean of exp over those of `scores` that are not NO_KEY, a scalar."""
    with _in_float32(scores):
        counted = (scores > NO_KEY / 2).sum().clamp_min(1)
        return torch.logsumexp(scores.float().flatten(), dim=0) - counted.float().log()


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """`- sum_c target_c log softmax(logits)_c`, averaged over rows, a scalar; `target` (..., C) are probabilities.

    It is the Kullback-Leibler divergence from the target plus the target's entropy, a constant: gradients are equal.
    """
    with _in_float32(logits):
        return -(target.float() * logits.float().log_softmax(-1)).sum(-1).mean()


def entropy(probabilities: Tensor) -> Tensor:
    """`- sum_c p_c log p_c` of `probabilities` (..., C), averaged over rows, a scalar: the least soft cross-entropy."""
    with _in_float32(probabilities):
        return torch.special.entr(probabilities.float()).sum(-1).mean()


def symmetric_kl(first: Tensor, second: Tensor) -> Tensor:
    """`(KL(p || q) + KL(q || p)) / 2` of the softmax of two logits (..., C), averaged over rows, a scalar.

    Half the Jeffreys divergence, which CCL's code calls Jensen-Shannon's: it has no mixture and no bound.
    """
    return symmetric_kl_of_rows(first, second).mean()


def symmetric_kl_of_rows(first: Tensor, second: Tensor) -> Tensor:
    """`symmetric_kl` of each row, (...)."""
    with _in_float32(first):
        left, right = first.float().log_softmax(-1), second.float().log_softmax(-1)
        return ((left.exp() - right.exp()) * (left - right)).sum(-1) / 2


def same_label(labels: Tensor, others: Tensor | None = None) -> Tensor:
    """bool (R, S): which rows have a class in common, of multi-hot labels (R, C) and (S, C); of one set with itself.

    Every row of one set is its own positive, whether it has a label or not.
    """
    shared = labels @ (labels if others is None else others).T > 0
    if others is None:
        shared = shared | torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return shared


def multi_positive_nce(scores: Tensor, positive: Tensor) -> Tensor:
    """The class-aware loss of CCL (Chen et al., CVPR 2021, eq. 6.2-6.3), a scalar. `positive` bool, `scores` (R, S).

    With p_ij the softmax of row i over j, the mean over i of

        - mean over positives j of log p_ij  -  mean over the others j of log(1 - p_ij)

    A row without others (a batch of one class) has no second part. With b positives the least is log b, not 0.
    """
    with _in_float32(scores):
        log_share = scores.float().log_softmax(1)
        log_rest = (1 - log_share.exp() + _LEFT_OVER).log()
        near = (log_share * positive).sum(1) / positive.sum(1).clamp_min(1)
        far = (log_rest * ~positive).sum(1) / (~positive).sum(1).clamp_min(1)
        return -(near + far).mean()


def _in_float32(like: Tensor) -> torch.autocast:
    return torch.autocast(like.device.type, enabled=False)
