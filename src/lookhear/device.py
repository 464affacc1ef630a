"""What is computed on, in which precision, and what becomes of freed memory."""

import ctypes
import platform
from typing import Literal

import torch

from lookhear import distributed
from lookhear.errors import ConfigError, UserError

Dtype = Literal["auto", "bfloat16", "float32"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; auto: this process's GPU if there is one, then Apple's, then the CPU.

    Raises UserError for a device that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"no device '{name}'; use auto, cpu, cuda, cuda:1 or mps") from None
    if name == "cuda" and torch.cuda.is_available():
        return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
    missing = (device.type == "cuda" and not torch.cuda.is_available()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise UserError(f"this machine has no '{name}' that torch can use; `lookhear doctor` says what it has")
    return device


def pick_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """The precision of matrix products; auto: bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has AMX tiles or AVX512-BF16; older torch cannot say, and then it has not."""
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


def keep_freed_memory() -> bool:
    """Lets this process keep the memory of freed tensors for the next ones; whether it could.

    glibc gives large blocks back to the system when they are freed, and a block that comes anew costs a page fault for
    every 4 KiB: about a fifth of a training step on a CPU (docs/performance.md). The process holds on to its peak
    from then on. Nothing happens where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    return bool(set_option(_MMAP_MAX, 0)) and bool(set_option(_TRIM_THRESHOLD, 2**31 - 1))
