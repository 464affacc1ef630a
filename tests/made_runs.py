"""Run folders as training leaves them, without training: journal, speed, run.json."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fake_store import small_run

NOW = 1_700_000_000.0


def make_run(
    folder: Path,
    *,
    steps: int,
    steps_per_epoch: int = 3,
    evaluate: bool = False,
    journal_every: int = 1,
    seconds: float = 2.0,
    total_steps: int | None = None,
    silent_seconds: float = 1e6,
    **changes: Any,
) -> Path:
    """A run of `small_run` after `steps` steps, last heard of `silent_seconds` before NOW."""
    run = small_run(**changes)
    folder.mkdir(parents=True)
    values = {
        "format": 1,
        "run": run.to_dict(),
        "store": {"digest": "fake", "clips": 13},
        "preprocess": run.to_dict()["preprocess"] | {"audio_mean": -4.5},
    }
    (folder / "run.json").write_text(json.dumps(values), encoding="utf-8")
    records = [_record(step, steps_per_epoch, evaluate) for step in range(1, steps + 1)]
    laps = [
        {"step": step, "seconds": seconds, "samples_per_second": 40.0 + step % 3, "data_wait_share": 0.02}
        | ({} if total_steps is None else {"total_steps": total_steps})
        for step in range(1, steps + 1)
        if step % journal_every == 0 or step == steps
    ]
    write_lines(folder / "journal.jsonl", records)
    write_lines(folder / "speed.jsonl", laps)
    for name in ("journal.jsonl", "speed.jsonl"):
        touch(folder / name, NOW - silent_seconds)
    return folder


def _record(step: int, steps_per_epoch: int, evaluate: bool) -> dict[str, Any]:
    reconstruction, contrastive = 1 + 1 / step, math.exp(-step / 50)
    record: dict[str, Any] = {
        "step": step,
        "epoch": (step - 1) // steps_per_epoch,
        "loss": reconstruction + contrastive,
        "terms": {"reconstruction_audio": reconstruction, "contrastive": contrastive},
        "report": {"contrastive_accuracy": 1 - contrastive},
        "learning_rate": 1e-3 / step,
    }
    if evaluate and step % steps_per_epoch == 0:
        found = {"audio_to_visual_r1": 1 - contrastive, "visual_to_audio_r1": 1 - contrastive, "chance_r1": 0.1}
        record["evaluation"] = {"retrieval": found}
    return record


def write_lines(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def touch(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))
