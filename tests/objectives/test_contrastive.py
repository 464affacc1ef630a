"""The contrastive loss against its slow, obvious form. If these fail, the wrong windows are pulled together."""

import math

import pytest
import torch
import torch.nn.functional as F

from lookhear.objectives.contrastive import excluded_pairs, info_nce


def unit(*shape: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def slow_info_nce(query: torch.Tensor, key: torch.Tensor, temperature: float, excluded: torch.Tensor) -> float:
    """-log of the positive's share, one query and one key at a time."""
    losses = []
    for i in range(len(query)):
        scores = {j: math.exp(float(query[i] @ key[j]) / temperature) for j in range(len(key)) if not excluded[i, j]}
        losses.append(-math.log(scores[i] / sum(scores.values())))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("num_rows", [1, 2, 7])
def test_equals_the_slow_form(num_rows: int) -> None:
    audio, visual = unit(num_rows, 8, seed=1), unit(num_rows, 8, seed=2)
    excluded = torch.zeros(num_rows, num_rows, dtype=torch.bool)
    if num_rows > 2:
        excluded[0, 2] = excluded[2, 0] = True
    to_audio = slow_info_nce(visual, audio, 0.05, excluded)
    to_image = slow_info_nce(audio, visual, 0.05, excluded)
    wanted = {"image_to_audio": to_audio, "audio_to_image": to_image, "both": (to_audio + to_image) / 2}
    for direction, loss in wanted.items():
        found = info_nce(audio, visual, temperature=0.05, direction=direction, excluded=excluded)  # type: ignore[arg-type]
        assert float(found.loss) == pytest.approx(loss, rel=1e-5, abs=1e-6)


def test_one_window_has_nothing_to_confuse() -> None:
    found = info_nce(unit(1, 4, seed=1), unit(1, 4, seed=2))
    assert float(found.loss) == 0
    assert float(found.accuracy) == 1


def test_accuracy_counts_first_places() -> None:
    rows = torch.eye(4)
    assert float(info_nce(rows, rows).accuracy) == 1
    assert float(info_nce(rows, rows.roll(1, 0)).accuracy) == 0
    assert float(info_nce(rows, rows[[0, 1, 3, 2]], direction="both").accuracy) == 0.5


def test_rows_of_one_rank_average_to_the_whole() -> None:
    """With gathered embeddings, the mean over ranks of each rank's loss is the loss of one big batch."""
    audio, visual = unit(6, 8, seed=3), unit(6, 8, seed=4)
    whole = info_nce(audio, visual, direction="both").loss
    halves = [info_nce(audio, visual, direction="both", own=own).loss for own in (slice(0, 3), slice(3, 6))]
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_what_is_excluded() -> None:
    """Clips 7 and 8; windows of 1 s. Overlap excludes, touching does not, another clip never, the positive never."""
    index = torch.tensor([7, 7, 7, 8])
    start = torch.tensor([0.0, 0.5, 1.0, 0.5], dtype=torch.float64)
    found = excluded_pairs(index, start, window_seconds=1.0)
    wanted = torch.zeros(4, 4, dtype=torch.bool)
    wanted[0, 1] = wanted[1, 0] = wanted[1, 2] = wanted[2, 1] = True
    assert torch.equal(found, wanted)
    none_of_the_clip = excluded_pairs(index, start, window_seconds=1.0, same_clip_negatives=False)
    wanted[0, 2] = wanted[2, 0] = True
    assert torch.equal(none_of_the_clip, wanted)
    assert torch.equal(excluded_pairs(index, start, window_seconds=1.0, own=slice(1, 3)), found[1:3])


def test_the_same_clip_drawn_twice_is_no_negative_of_itself() -> None:
    found = excluded_pairs(torch.tensor([3, 3]), torch.zeros(2), window_seconds=1.0)
    assert torch.equal(found, ~torch.eye(2, dtype=torch.bool))
    loss = info_nce(unit(2, 4, seed=1), unit(2, 4, seed=2), excluded=found).loss
    assert float(loss) == 0


def test_an_excluded_pair_has_no_gradient() -> None:
    audio, visual = unit(3, 4, seed=1).requires_grad_(), unit(3, 4, seed=2)
    excluded = torch.zeros(3, 3, dtype=torch.bool)
    excluded[1, 0] = excluded[2, 0] = True
    info_nce(audio, visual, excluded=excluded).loss.backward()
    alone = audio.detach().clone().requires_grad_()
    F.cross_entropy(visual[:1] @ alone.T / 0.05, torch.tensor([0])).backward()
    assert audio.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(audio.grad[0], alone.grad[0] / 3)


def test_bfloat16_embeddings_are_compared_in_float32() -> None:
    audio, visual = unit(16, 64, seed=1), unit(16, 64, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        found = info_nce(audio, visual).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, info_nce(audio, visual).loss)
