"""device.py: what is computed on, in which precision, and what becomes of freed memory."""

import platform
import subprocess
import sys

import pytest
import torch

from lookhear.device import pick_device, pick_dtype
from lookhear.errors import UserError


def test_float32_is_the_precision_of_what_has_no_other() -> None:
    assert pick_dtype("auto", torch.device("mps")) == torch.float32
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UserError, match="no device 'gpu'; use auto, cpu, cuda"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="this machine has no 'cuda:1'"):
            pick_device("cuda:1")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_freed_memory_is_kept() -> None:
    """In a process of its own, as it cannot be undone: a block that comes again costs no page faults."""
    program = """
import resource, torch
from lookhear.device import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
print(keep_freed_memory(), without, faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    kept, without, with_it = done.stdout.split()
    assert kept == "True"
    assert int(with_it) < int(without) / 4
