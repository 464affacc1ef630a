"""Several processes on one training run: the only file that knows torch.distributed.

Everything here also works in a lone process, where it does nothing: rank 0 of 1, gathering and averaging give back
what they were given. Processes are started by `torchrun` (or anything that sets its variables).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lookhear.errors import UserError

# How long a process waits for another before it gives up. Rank 0 evaluates, measures statistics and writes checkpoints
# alone, which may take hours, and the 10 minutes that NCCL waits by default would end the run. Nothing hangs so long
# where a process dies: the launcher then ends the others.
PATIENCE = timedelta(days=1)


def was_launched() -> bool:
    """Whether this process was started by `torchrun` as one of a group."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def is_grouped() -> bool:
    """Whether this process belongs to a running group of two or more."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process in its group, 0 when alone."""
    return dist.get_rank() if is_grouped() else 0


def world_size() -> int:
    """The number of processes in the group, 1 when alone."""
    return dist.get_world_size() if is_grouped() else 1


def local_rank() -> int:
    """The number of this process on its own machine, which is the number of the GPU it should use."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the group that the launcher describes, and leaves it at the end. Alone, or already in a group: nothing.

    Raises UserError when the launcher's variables are there but the group does not come together.
    """
    if not was_launched() or not dist.is_available() or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({error}); RANK and WORLD_SIZE are set: "
            "start through torchrun, or unset them to train in one process"
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


class _AllGather(torch.autograd.Function):
    """Concatenation over ranks along the first dimension; its gradient is summed over ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.num_rows = len(tensor)
        return _gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[dist.get_rank() * ctx.num_rows :][: ctx.num_rows]


def _gather(tensor: Tensor) -> Tensor:
    pieces = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(pieces, tensor.contiguous())
    return torch.cat(pieces)


def all_gather(tensor: Tensor) -> Tensor:
    """`tensor` (M, ...) of every rank, in rank order: (world size x M, ...). M must be the same on every rank.

    The gradient flows back to the rank that each row came from, summed over all ranks, so that averaging parameter
    gradients over ranks gives the gradient of the mean of their losses.
    """
    if not is_grouped():
        return tensor
    return _AllGather.apply(tensor) if tensor.requires_grad else _gather(tensor)


def own_rows(num_rows: int) -> slice:
    """Where the `num_rows` rows of this rank stand in what `all_gather` returns."""
    return slice(rank() * num_rows, (rank() + 1) * num_rows)


def average(tensor: Tensor) -> Tensor:
    """The mean of `tensor` over ranks, without gradient."""
    if not is_grouped():
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def share_buffers(module: nn.Module) -> None:
    """Gives every rank the floating-point buffers of rank 0: running statistics, which each had of its own batches.

    Ranks then stay alike, and alike to what a checkpoint, written by rank 0, gives back.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if not is_grouped() or not buffers:
        return
    joined = torch.cat([buffer.detach().flatten().float() for buffer in buffers])
    dist.broadcast(joined, src=0)
    for buffer, part in zip(buffers, joined.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any rank; the answer is the same on all of them."""
    if not is_grouped():
        return flag
    answer = torch.tensor(int(flag), device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return bool(answer.item())


def barrier() -> None:
    """Waits until every rank has come here."""
    if is_grouped():
        dist.barrier()


def wrap(module: nn.Module) -> nn.Module:
    """`module` whose gradients are averaged over ranks in the backward pass; `module` itself when alone.

    Parameters of a published layout that no pass uses keep no gradient, hence the search for unused ones.
    """
    if not is_grouped():
        return module
    return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)
