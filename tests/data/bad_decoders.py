"""What a broken decoder does to the process it runs in, for a file named bad.mp4; other files are staged properly."""

import os
import time

from lookhear.data.staging import StageJob, StageOutcome, stage_file


def hang(job: StageJob) -> StageOutcome:
    if job.name == "bad.mp4":
        time.sleep(60)
    return stage_file(job)


def crash(job: StageJob) -> StageOutcome:
    if job.name == "bad.mp4":
        os.abort()
    return stage_file(job)


def eat_memory(job: StageJob) -> StageOutcome:
    if job.name == "bad.mp4":
        hoard = []
        for _ in range(60):
            hoard.append(b"x" * (32 << 20))
            time.sleep(0.02)
    return stage_file(job)
