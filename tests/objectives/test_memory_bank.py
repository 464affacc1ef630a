"""Banks and queues. If these fail, negatives hold the positive, rows drift in length, or processes drift apart."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.errors import ConfigError
from lookhear.objectives.memory_bank import FifoQueue, MemoryBank, draw_others


def make(num_rows: int = 10, width: int = 8, **options: object) -> MemoryBank:
    torch.manual_seed(0)
    return MemoryBank(num_rows, width, **({"momentum": 0.5} | options))  # type: ignore[arg-type]


def embeddings(count: int, width: int = 8, seed: int = 1) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_update(bank: MemoryBank, rows: Tensor, new: Tensor) -> Tensor:
    """Row by row, duplicates averaged first."""
    vectors = bank.vectors.clone()
    for row in sorted(set(rows.tolist()) - {-1}):
        own = torch.stack([new[place] for place in range(len(rows)) if int(rows[place]) == row]).mean(0)
        mixed = bank.momentum * vectors[row] + (1 - bank.momentum) * own
        vectors[row] = mixed / mixed.norm()
    return vectors


@pytest.mark.parametrize("rows", [[3], [3, 7, 0], [3, 7, 3, 3], [-1, 2, -1], [5, 5]])
def test_an_update_is_its_literal_form(rows: list[int]) -> None:
    bank, new = make(), embeddings(len(rows))
    before, named = bank.vectors.clone(), torch.tensor(rows)
    wanted = slow_update(bank, named, new)
    bank.update(named, new)
    torch.testing.assert_close(bank.vectors, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(bank.vectors.norm(dim=1), torch.ones(10), atol=1e-5, rtol=0)
    untouched = [row for row in range(10) if row not in rows]
    assert torch.equal(bank.vectors[untouched], before[untouched])
    assert bank.written.tolist() == [row in rows for row in range(10)]


def test_duplicates_do_not_depend_on_their_order() -> None:
    rows, new = torch.tensor([4, 1, 4, 2, 4]), embeddings(5)
    one, other = make(), make()
    one.update(rows, new)
    order = torch.tensor([4, 2, 0, 3, 1])
    other.update(rows[order], new[order])
    torch.testing.assert_close(one.vectors, other.vectors, atol=1e-6, rtol=0)


def test_the_ends_of_momentum_are_exact() -> None:
    rows, new = torch.tensor([2, 9, 4]), embeddings(3)
    still = make(momentum=1.0)
    before = still.vectors.clone()
    still.update(rows, new)
    assert torch.equal(still.vectors, before)
    newest = make(momentum=0.0)
    newest.update(rows, new)
    assert torch.equal(newest.vectors[rows], new)


def test_no_gradient_goes_in_or_out() -> None:
    bank = make()
    new = embeddings(2).requires_grad_()
    bank.update(torch.tensor([0, 1]), new)
    assert not bank.vectors.requires_grad
    read = bank.read(torch.tensor([[0, 1]]), new)
    assert read.shape == (1, 2, 8)
    assert not read.requires_grad
    assert not list(bank.parameters())
    bank.update(torch.tensor([0]), embeddings(1, seed=5))
    assert not torch.equal(read[0, 0], bank.vectors[0])  # what was read before stays as it was


def test_rows_are_named_by_clips() -> None:
    bank = make(4)
    bank.learns_from(torch.tensor([2, 5, 11, 30]))
    assert bank.rows_of(torch.tensor([[11, 2], [30, 5]])).tolist() == [[2, 0], [3, 1]]


@pytest.mark.parametrize("seed", range(3))
def test_others_are_all_others_and_each_as_often(seed: int) -> None:
    """Over every number that can be drawn, each row that is not excluded comes exactly once."""
    generator = torch.Generator().manual_seed(seed)
    num_rows = 40
    excluded = torch.stack([torch.randperm(num_rows, generator=generator)[:7].sort().values for _ in range(5)])
    drawn = torch.arange(num_rows - 7).expand(5, -1)
    found = draw_others(drawn, excluded)
    for row in range(5):
        assert sorted(found[row].tolist()) == sorted(set(range(num_rows)) - set(excluded[row].tolist()))
    own = torch.tensor([[0], [39], [17]])
    assert not (draw_others(torch.arange(39).expand(3, -1), own) == own).any()


def test_a_bank_may_stay_on_the_cpu_and_be_halved() -> None:
    bank = make(place="cpu", precision="float16")
    assert bank.vectors.dtype == torch.float16
    assert bank.to("meta").vectors.device.type == "cpu"
    assert make().to("meta").vectors.device.type == "meta"
    bank.update(torch.tensor([1]), embeddings(1))
    assert bank.read(torch.tensor([1]), torch.zeros(1)).dtype == torch.float32
    torch.testing.assert_close(bank.vectors.float().norm(dim=1), torch.ones(10), atol=2e-3, rtol=0)


def test_a_bank_comes_back() -> None:
    bank = make()
    bank.update(torch.tensor([1, 5]), embeddings(2))
    again = MemoryBank(10, 8, momentum=0.5)
    again.load_state_dict(bank.state_dict())
    assert all(torch.equal(own, theirs) for own, theirs in zip(again.buffers(), bank.buffers(), strict=True))


def slow_queue(length: int, pushes: list[int]) -> list[int]:
    """A list of clips as long as the queue, written one by one."""
    owners, place, clip = [-1] * length, 0, 0
    for count in pushes:
        for _ in range(count):
            owners[place] = clip
            place, clip = (place + 1) % length, clip + 1
    return owners


@pytest.mark.parametrize("pushes", [[3], [4, 4], [4, 4, 4], [10], [7, 1, 25, 2], [23]])
def test_a_queue_is_first_in_first_out_and_wraps(pushes: list[int]) -> None:
    queue = FifoQueue(10, 8)
    keys, clip = embeddings(sum(pushes)), 0
    torch.testing.assert_close(queue.vectors.norm(dim=1), torch.ones(10))
    for count in pushes:
        queue.push(keys[clip : clip + count].requires_grad_(), torch.arange(clip, clip + count))
        clip += count
    assert queue.owners.tolist() == slow_queue(10, pushes)
    for place, owner in enumerate(queue.owners.tolist()):
        assert owner == -1 or torch.equal(queue.vectors[place], keys[owner])
    assert not queue.vectors.requires_grad
    assert set(queue.state_dict()) == {"vectors", "owners", "place"}


def test_an_empty_queue_is_refused() -> None:
    with pytest.raises(ConfigError, match="length of at least 1"):
        FifoQueue(0, 8)
