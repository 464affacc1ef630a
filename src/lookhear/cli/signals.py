"""Ctrl-C and SIGTERM as a request to end, for verbs that go on until they are told to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType


@dataclass
class Stop:
    """Set by a signal."""

    event: threading.Event = field(default_factory=threading.Event)
    exit_code: int = 0  # 130 after Ctrl-C, 143 after SIGTERM


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Inside, the first signal sets `Stop.event`; a second Ctrl-C interrupts as ever."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.exit_code = 128 + number
        stop.event.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
