"""device.py: what is computed on, and in which precision."""

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
