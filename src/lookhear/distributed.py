"""Several processes on one training run: the only file that knows torch.distributed.

Everything here also works in a lone process, where it does nothing: rank 0 of 1, gathering and averaging give back
what they were given. Processes are started by `torchrun` (or anything that sets its variables).
"""

import json
import os
import select
import socket
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lookhear.errors import UserError

Parallel = Literal["ddp", "fsdp"]

# How long a process waits for another before it gives up. Rank 0 evaluates, measures statistics and writes checkpoints
# alone, which may take hours, and the 10 minutes that NCCL waits by default would end the run. Nothing hangs so long
# where a process dies: the launcher then ends the others.
PATIENCE = timedelta(days=1)
# How often a process looks whether another has failed, how long one that has lost another waits to hear why, and how
# long one that knows of a failure has to leave by itself before it is ended (it may wait for a device for ever).
_LOOK_SECONDS, _HEAR_SECONDS, _LEAVE_SECONDS = 1.0, 5.0, 10.0
_FAILED = "failed"  # the key of the reason
_KILLED = (
    "it ended without a word; it was killed, memory ran out, or its machine is gone. The same command goes on from the "
    "newest checkpoint"
)


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

    A process that fails inside brings the others down within seconds, and they say why it failed. Raises UserError
    when the launcher's variables are there but the group does not come together, and where another process failed.
    """
    if not was_launched() or not dist.is_available() or dist.is_initialized():
        yield
        return
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, number, count = next(rendezvous("env://", timeout=PATIENCE))
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run did not find each other ({error}); RANK and WORLD_SIZE are set: "
            "start through torchrun, or unset them to train in one process"
        ) from error
    try:
        with _Watch(PrefixStore("lookhear", store), number, count):
            yield
            barrier()  # whoever leaves early may take the store along that the others still look into
    finally:
        dist.destroy_process_group()


class _Watch(threading.Thread):
    """Around the body: says why this process failed, hears why another did, and ends this one if it cannot leave.

    A process that fails writes its reason into the store that the group met in. One that is killed writes nothing:
    those on its machine see it end, where the system lets them (Linux), and write for it. Elsewhere the connections
    that break, or the launcher, bring the others down.
    """

    def __init__(self, store: Any, number: int, count: int) -> None:
        super().__init__(name="watch", daemon=True)
        self.store, self.number, self.count = store, number, count
        self._left = threading.Event()
        self._heard: dict[str, Any] | None = None
        store.set(f"process {number}", json.dumps({"machine": _machine(), "pid": os.getpid()}))
        self._neighbours = self._find_neighbours()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and _is_lost_connection(error):
                raise self._why_lost() from error
            if error is not None:
                self._tell(self.number, str(error) if isinstance(error, UserError) else repr(error))
                if self.number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
                    time.sleep(2 * _LOOK_SECONDS)  # the store goes with this process: let the others read it
        finally:
            self._left.set()
            self.join(_LOOK_SECONDS)
            for descriptor in self._neighbours:
                os.close(descriptor)

    def run(self) -> None:
        """Looks until the group is left."""
        while self._heard is None and not self._left.wait(_LOOK_SECONDS):
            ended = self._ended_neighbour()
            # one that left in order ends too, a moment before this one does
            if ended is not None and not self._left.wait(_LOOK_SECONDS):
                self._tell(ended, _KILLED)
            self._heard = self._reason()
        if not self._left.wait(_LEAVE_SECONDS) and self._heard is not None:
            os.write(2, f"lookhear: {self._blame(self._heard)}\n".encode())
            os._exit(1)

    def _why_lost(self) -> UserError:
        """The reason of the process that is gone, as soon as it is known."""
        until = time.monotonic() + _HEAR_SECONDS
        while self._heard is None and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS / 10)
        return UserError(self._blame(self._heard or {"process": None, "text": _KILLED}))

    def _blame(self, reason: dict[str, Any]) -> str:
        who = "another process" if reason["process"] is None else f"process {reason['process']}"
        return f"{who} of {self.count} failed, and so process {self.number} stopped: {reason['text']}"

    def _tell(self, number: int, text: str) -> None:
        """Writes why process `number` failed; the first reason stays."""
        with suppress(RuntimeError):
            self.store.compare_set(_FAILED, "", json.dumps({"process": number, "text": text}))

    def _reason(self) -> dict[str, Any] | None:
        """Which process failed first, and of what; None where none did."""
        try:
            found: dict[str, Any] | None = json.loads(self.store.get(_FAILED)) if self.store.check([_FAILED]) else None
        except RuntimeError:  # whoever keeps the store is gone: process 0, or the launcher
            return {"process": None, "text": _KILLED}
        return found

    def _ended_neighbour(self) -> int | None:
        """The number of a process on this machine that is no more."""
        if not self._neighbours:
            return None
        look = select.poll()
        for descriptor in self._neighbours:
            look.register(descriptor, select.POLLIN)
        return next((self._neighbours[descriptor] for descriptor, _ in look.poll(0)), None)

    def _find_neighbours(self) -> dict[int, int]:
        """A descriptor that can be read once a process has ended -> its number, of the others on this machine."""
        found: dict[int, int] = {}
        if not hasattr(os, "pidfd_open"):
            return found
        for number in range(self.count):
            place = json.loads(self.store.get(f"process {number}"))
            if number != self.number and place["machine"] == _machine():
                with suppress(OSError):
                    found[os.pidfd_open(place["pid"])] = number
        return found


def _machine() -> str:
    """Where process numbers mean the same: the machine, and in it the container."""
    try:
        return f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # not known, so nobody's neighbour


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone (gloo raises plain RuntimeErrors)."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


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


def agree(value: int, device: torch.device) -> bool:
    """Whether `value` is the same on every rank."""
    return len(set(all_gather(torch.tensor([value], device=device)).tolist())) == 1


def barrier() -> None:
    """Waits until every rank has come here."""
    if is_grouped():
        dist.barrier()


def wrap(module: nn.Module, *, parallel: Parallel = "ddp", units: Iterable[nn.Module] = ()) -> nn.Module:
    """`module` whose gradients are averaged over ranks in the backward pass; `module` itself when alone.

    ddp: every rank has all parameters. fsdp (FSDP2): every rank keeps its part of them, of their gradients and so of
    the optimiser's state, in place; each of `units` (blocks of the module) is whole only while it is computed, what is
    in none of them from a forward pass to its backward. The optimiser is made after this. Ranks must hold the same
    values.

    Parameters of a published layout that no pass uses keep no gradient, hence DDP's search for unused ones.
    """
    if not is_grouped():
        return module
    if parallel == "ddp":
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its new name is not in torch 2.9
            return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    # a single number cannot be shared out; each rank keeps it, and its gradient is averaged as it comes
    scalars = {p for p in module.parameters() if p.ndim == 0}
    for scalar in scalars:
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_average_gradient)
    for unit in units:
        fully_shard(unit, mesh=mesh, ignored_params=scalars)
    fully_shard(module, mesh=mesh, ignored_params=scalars, reshard_after_forward=False)
    return module


def _average_gradient(parameter: Tensor) -> None:
    # after further pieces of a batch this is the mean of (mean so far + own piece), which is the mean of all
    assert parameter.grad is not None
    parameter.grad = average(parameter.grad)


def unwrapped(module: nn.Module) -> nn.Module:
    """What `wrap` was given."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def accumulating(module: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """Around a forward and backward pass of a piece of a batch: DDP averages over ranks after the `last` piece only.

    FSDP averages after every piece, so that no rank keeps whole gradients.
    """
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


def is_shared_out(tensor: Tensor) -> bool:
    """Whether this rank has but its part of `tensor`."""
    if not is_grouped():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a `tensor` that may be shared out; every rank must ask for it."""
    return tensor.full_tensor() if is_shared_out(tensor) else tensor  # type: ignore[attr-defined]


def shared_out_as(tensor: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a whole `tensor`, on the device of `like`, if that is shared out; else `tensor` itself."""
    if not is_shared_out(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(like.device), mesh, placements, src_data_rank=None)
