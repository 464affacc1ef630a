"""The blocks of a model: what several processes share out, or torch compiles or computes twice, one at a time."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lookhear.errors import UserError
from lookhear.models.towers import ConvBlock
from lookhear.models.transformer import Block

_VARIANTS = 64  # of a compiled block, for its sizes, norms and passes with and without gradient


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Every block of `model`, in the order of its parts. What lies outside of them is small."""
    return [part for part in model.modules() if isinstance(part, Block | ConvBlock)]


def prepare_blocks(model: nn.Module, *, compiled: bool = False, checkpointed: bool = False) -> None:
    """Lets every block of `model` be compiled, or keep its input alone for the backward pass, or both.

    Numbers stay the same up to rounding, names of parameters as they are. Raises UserError where torch cannot compile.
    """
    blocks = blocks_of(model)
    if compiled and blocks:
        _require_compiler(next(model.parameters()).device)
        # all blocks are one function to torch: each tower, stream and mask has a variant of its own
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for block in blocks:
        # `forward` alone: what surrounds it in a call (the hooks of FSDP) is neither compiled nor done twice
        if compiled:
            block.forward = torch.compile(block.forward)
        if checkpointed:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _require_compiler(device: torch.device) -> None:
    """Compiles a line, which fails at once where the model would fail after it was built and data were read."""
    try:
        torch.compile(_double)(torch.ones(8, device=device))
    except Exception as error:  # of torch, of the system, of the compiler
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"compile is true, but torch cannot compile for {device.type} here ({type(error).__name__}: {reason}); "
            "install a C++ compiler such as g++ or clang++, or set compile=false"
        ) from error


def _double(values: Tensor) -> Tensor:
    return values + values
