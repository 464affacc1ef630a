"""Batches on their way to the device, and how long training waits for them."""

import os
import time
from collections.abc import Iterator
from typing import Any

import torch

from lookhear.data.batch import Batch

# From this share of the time on, waiting for data is worth a word.
SLOW_SHARE = 0.2


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """`batches` on `device`; to a GPU each is copied while it still computes the step before."""
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    aside = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(aside):
            moved = batch.to(device)
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(aside)
        for tensor in moved.tensors().values():
            tensor.record_stream(computing)  # its memory is not given away before the step is done with it
        yield moved


class Clock:
    """How fast steps go, and how much of the time the device waits for data."""

    def __init__(self, device: torch.device, *, samples_per_step: int, num_workers: int) -> None:
        self.device = device
        self.samples_per_step = samples_per_step
        self.num_workers = num_workers
        self._waited = 0.0
        self._steps = 0
        self._since = time.monotonic()
        self._laps = 0
        self._told = False

    def waits(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """`batches`, with the time until each comes counted as waiting, unless the device is busy all the while."""
        ended = None
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            if ended is None or ended.query():
                self._waited += time.monotonic() - begun
            if batch is None:
                return
            self._steps += 1
            yield batch
            if self.device.type == "cuda":
                ended = torch.cuda.Event()
                ended.record(torch.cuda.current_stream(self.device))

    def lap(self, step: int) -> dict[str, Any]:
        """The record of the time since the last lap; samples are windows, of all ranks."""
        seconds = time.monotonic() - self._since
        record = {
            "step": step,
            "seconds": round(seconds, 4),
            "samples_per_second": round(self._steps * self.samples_per_step / max(seconds, 1e-9), 3),
            "data_wait_share": round(self._waited / max(seconds, 1e-9), 4),
        }
        self._waited, self._steps, self._since = 0.0, 0, time.monotonic()
        self._laps += 1
        return record

    def advice(self, record: dict[str, Any]) -> str:
        """What to do where the loader does not keep up; said once, and not of the first lap, in which it starts."""
        if self._told or self._laps < 2 or record["data_wait_share"] < SLOW_SHARE:
            return ""
        self._told = True
        return (
            f"the loader does not keep up: try more data.num_workers (now {self.num_workers}; this machine has "
            f"{os.cpu_count()} cores), fewer data.windows_per_clip, or a store of smaller pictures (short_side)"
        )
