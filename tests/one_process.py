"""Trains a small run, alone or as one of several processes: what tests start, kill, and start again.

    python one_process.py FOLDER [SETTING=VALUE ...] [--broken-clip N] [--stuck-at STEP]

Exit codes and the line on stderr are those of the command line. Clip N of --broken-clip cannot be read; process 0
does nothing any more after STEP of --stuck-at.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fake_store import FakeStore, small_run
from lookhear import distributed
from lookhear.config import override
from lookhear.errors import StoreError, UserError
from lookhear.training.loop import train


class BrokenStore(FakeStore):
    """A store of which one clip is damaged."""

    def __init__(self, broken: int | None) -> None:
        super().__init__()
        self.broken = broken

    def frames(self, index: int, which: Any) -> np.ndarray:
        if index == self.broken:
            raise StoreError(f"clip {index} is damaged; prepare the store again")
        return super().frames(index, which)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--broken-clip", type=int)
    parser.add_argument("--stuck-at", type=int)
    asked = parser.parse_intermixed_args()

    def progress(done: int, total: int | None, note: str = "") -> None:
        if done == asked.stuck_at and distributed.rank() == 0:
            time.sleep(3600)

    run = override(small_run(), asked.settings)
    try:
        summary = train(run, BrokenStore(asked.broken_clip), asked.folder, progress=progress)  # type: ignore[arg-type]
    except UserError as error:
        print(f"lookhear: {error}", file=sys.stderr)
        return 1
    return 143 if summary.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
