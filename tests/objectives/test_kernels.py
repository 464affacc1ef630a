"""Losses against their slow, literal forms. If these fail, a method minimises something other than its equation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.objectives.kernels import (
    NO_KEY,
    binary_nce,
    entropy,
    info_nce_of,
    log_mean_exp,
    multi_positive_nce,
    same_label,
    soft_cross_entropy,
    symmetric_kl,
)

TEMPERATURE = 0.07


def random_scores(
    rows: int, positives: int, negatives: int, *, width: int = 128, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Scores of random unit vectors: what a loss sees before anything was learned."""
    generator = torch.Generator().manual_seed(seed)
    query = F.normalize(torch.randn(rows, width, generator=generator), dim=1)
    keys = F.normalize(torch.randn(positives + negatives, width, generator=generator), dim=1)
    scores = query @ keys.T / TEMPERATURE
    return scores[:, :positives], scores[:, positives:]


def slow_info_nce(positive: Tensor, negative: Tensor) -> float:
    losses = []
    for row in range(len(positive)):
        others = sum(math.exp(score) for score in negative[row].tolist() if score > NO_KEY / 2)
        for score in positive[row].tolist():
            losses.append(-math.log(math.exp(score) / (math.exp(score) + others)))
    return sum(losses) / len(losses)


def slow_nce(positive: Tensor, negative: Tensor, mean: float, num_instances: int) -> float:
    """With Z and N, as it is printed."""
    total, noise = 0.0, 1 / num_instances
    for row in range(len(positive)):
        drawn = [score for score in negative[row].tolist() if score > NO_KEY / 2]
        level = len(drawn) * noise

        def model(score: float) -> float:
            return math.exp(score) / (num_instances * mean)

        own = positive[row].tolist()
        total -= sum(math.log(model(score) / (model(score) + level)) for score in own) / len(own)
        total -= sum(math.log(level / (model(score) + level)) for score in drawn)
    return total / len(positive)


@pytest.mark.parametrize(("rows", "positives", "negatives"), [(5, 1, 40), (3, 4, 20), (1, 1, 1)])
def test_info_nce_is_its_literal_form(rows: int, positives: int, negatives: int) -> None:
    positive, negative = random_scores(rows, positives, negatives)
    negative[0, 0] = NO_KEY if negatives > 1 else negative[0, 0]
    assert float(info_nce_of(positive, negative)) == pytest.approx(slow_info_nce(positive, negative), abs=1e-5)
    if positives == 1:
        whole = F.cross_entropy(torch.cat([positive, negative], 1), torch.zeros(rows, dtype=torch.int64))
        assert float(info_nce_of(positive, negative)) == pytest.approx(float(whole), abs=1e-5)


@pytest.mark.parametrize(("rows", "positives", "negatives"), [(5, 1, 40), (3, 4, 20), (1, 1, 1)])
@pytest.mark.parametrize("num_instances", [100, 232_067])
def test_nce_is_its_literal_form_whatever_n(rows: int, positives: int, negatives: int, num_instances: int) -> None:
    positive, negative = random_scores(rows, positives, negatives)
    negative[0, 0] = NO_KEY if negatives > 1 else negative[0, 0]
    mean = 2.2
    found = binary_nce(positive, negative, log_mean=math.log(mean))
    assert float(found) == pytest.approx(slow_nce(positive, negative, mean, num_instances), rel=1e-5)


def test_values_at_a_random_start() -> None:
    """Measured by others on one draw (K = 1024, 128 numbers, temperature .07): 8.6, 7.6 and 4.9 + 1.0, within .1.

    They follow from the deviation of the scores, 1 / (.07 sqrt(128)) = 1.26: log K + 1.26^2 / 2 = 7.73 for a positive,
    which from draw to draw varies by .06, and 1.0 for all negatives together.
    """
    positive, negative = random_scores(512, 1, 1024)
    assert float(negative.std()) == pytest.approx(1.26, abs=0.02)
    level = log_mean_exp(negative)
    assert float(level.exp()) == pytest.approx(2.22, abs=0.05)
    assert float(binary_nce(positive, negative, log_mean=level)) == pytest.approx(8.6, abs=0.16)
    assert float(info_nce_of(positive, negative)) == pytest.approx(7.6, abs=0.16)
    within = binary_nce(positive, negative[:, :64], log_mean=level)
    assert float(within) == pytest.approx(4.9 + 1.0, abs=0.1)
    aligned = torch.full_like(positive, 1 / TEMPERATURE)
    assert float(F.softplus(level + math.log(1024) - aligned).mean()) == pytest.approx(0.0014, abs=2e-4)


def test_nothing_overflows_in_half_precision() -> None:
    """exp(1 / .07) is beyond float16, and the literal form would be infinite there."""
    positive, negative = torch.full((2, 1), 1 / TEMPERATURE), torch.full((2, 8), -1 / TEMPERATURE)
    assert math.isinf(float(positive.half().exp()[0]))
    for loss in (
        binary_nce(positive.half(), negative.half(), log_mean=0.0),
        info_nce_of(positive.half(), negative.half()),
    ):
        assert loss.dtype == torch.float32
        assert math.isfinite(float(loss))
    assert math.isfinite(float(log_mean_exp(torch.full((3, 3), 500.0))))


@pytest.mark.parametrize("masked", [torch.full((2, 3), NO_KEY), torch.zeros(2, 0)])
def test_without_a_negative_nothing_is_learned_and_nothing_breaks(masked: Tensor) -> None:
    positive = torch.ones(2, 1, requires_grad=True)
    loss = info_nce_of(positive, masked)
    loss.backward()
    assert float(loss.detach()) == 0
    assert positive.grad is not None
    assert torch.equal(positive.grad, torch.zeros(2, 1))
    assert torch.isfinite(binary_nce(positive, masked, log_mean=0.0))


def test_scores_that_do_not_count_get_no_gradient() -> None:
    positive, negative = random_scores(3, 1, 5)
    masked = negative.clone().requires_grad_()
    info_nce_of(positive, masked.masked_fill(torch.arange(5) == 2, NO_KEY)).backward()
    assert torch.equal(masked.grad[:, 2], torch.zeros(3))
    assert (masked.grad[:, 1] > 0).all()


def test_soft_cross_entropy() -> None:
    """Its least is the entropy of the target, and what is above that is the Kullback-Leibler divergence."""
    logits, other = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0)).unbind()
    target = other.softmax(-1)
    slow = -sum(
        float(target[row, c]) * math.log(float(logits.softmax(-1)[row, c])) for row in range(3) for c in range(7)
    )
    assert float(soft_cross_entropy(logits, target)) == pytest.approx(slow / 3, abs=1e-5)
    assert float(soft_cross_entropy(other, target)) == pytest.approx(float(entropy(target)), abs=1e-6)
    divergence = F.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
    assert float(soft_cross_entropy(logits, target) - entropy(target)) == pytest.approx(float(divergence), abs=1e-5)
    one_hot = F.one_hot(torch.tensor([0, 3, 6]), 7).float()
    assert float(soft_cross_entropy(logits, one_hot)) == pytest.approx(
        float(F.cross_entropy(logits, torch.tensor([0, 3, 6]))), abs=1e-5
    )
    assert float(entropy(one_hot)) == 0


def test_symmetric_kl() -> None:
    left, right = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).unbind()

    def kl(p: Tensor, q: Tensor) -> float:
        return sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p.flatten(), q.flatten(), strict=True)) / 4

    p, q = left.softmax(-1), right.softmax(-1)
    assert float(symmetric_kl(left, right)) == pytest.approx((kl(p, q) + kl(q, p)) / 2, abs=1e-5)
    assert float(symmetric_kl(left, left)) == 0
    assert float(symmetric_kl(left, right)) == pytest.approx(float(symmetric_kl(right, left)), abs=1e-6)


def slow_multi_positive(scores: Tensor, positive: Tensor) -> float:
    total = 0.0
    for row in range(len(scores)):
        shares = scores[row].softmax(0).tolist()
        near = [share for share, same in zip(shares, positive[row].tolist(), strict=True) if same]
        far = [share for share, same in zip(shares, positive[row].tolist(), strict=True) if not same]
        total -= sum(math.log(share) for share in near) / len(near)
        total -= sum(math.log(1 - share + 1e-10) for share in far) / len(far) if far else 0.0
    return total / len(scores)


def test_class_aware_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = F.one_hot(torch.randint(0, 5, (16,), generator=generator), 5).float()
    vectors = F.normalize(torch.randn(16, 32, generator=generator), dim=1)
    positive = same_label(labels)
    for temperature in (0.1, 1.0):
        scores = vectors @ vectors.flip(1).T / temperature
        found = float(multi_positive_nce(scores, positive))
        assert found == pytest.approx(slow_multi_positive(scores, positive), abs=1e-5)
    everything = torch.ones(16, 16, dtype=torch.bool)
    assert math.isfinite(float(multi_positive_nce(scores, everything)))


@pytest.mark.parametrize(("temperature", "start", "best"), [(1.0, 2.85, 1.93), (0.5, 2.86, 1.16), (0.1, 3.03, 0.0008)])
def test_class_aware_values(temperature: float, start: float, best: float) -> None:
    """Measured by others: one draw of 16 x 512 and 51 classes, and a perfect one with 16 different classes.

    At temperature .1 draws vary by .10, at the others by .02.
    """
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(20):
        labels = F.one_hot(torch.randint(0, 51, (16,), generator=generator), 51).float()
        first, second = F.normalize(torch.randn(2, 16, 512, generator=generator), dim=2).unbind()
        found.append(float(multi_positive_nce(first @ second.T / temperature, same_label(labels))))
    assert sum(found) / 20 == pytest.approx(start, abs=0.12 if temperature < 0.5 else 0.03)
    perfect = torch.eye(16) / temperature
    assert float(multi_positive_nce(perfect, torch.eye(16, dtype=torch.bool))) == pytest.approx(best, abs=6e-3)


def test_who_shares_a_label() -> None:
    labels = torch.tensor([[1.0, 0], [1, 1], [0, 0]])
    assert same_label(labels).tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert same_label(labels, labels[2:]).tolist() == [[False], [False], [False]]
