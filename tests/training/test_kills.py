"""Processes that are killed, stopped, or fail. If these fail, a run loses its work, or hangs where one process is gone.

Marked `ci`: every test starts processes, which takes seconds each.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from lookhear.models.checkpoint import load_checkpoint
from lookhear.training.journal import read_records
from lookhear.training.resume import newest_checkpoint

SCRIPT = Path(__file__).parent.parent / "one_process.py"
PATIENCE_SECONDS = 240  # of a test for processes that share two busy cores
# journal_every=1 (of the small run): the test sees each step as it is done
LONG = ["steps=40", "checkpoint_every=3"]

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


@contextlib.contextmanager
def started(folder: Path, *words: str, processes: int = 1) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of one run; none is left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = []
    for rank in range(processes):
        own = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        running.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), *words],
                env=os.environ | own | {"OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def steps_done(folder: Path) -> int:
    records = read_records(folder / "journal.jsonl")
    return int(records[-1]["step"]) if records else 0


def wait_for_step(folder: Path, step: int, running: Sequence[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while steps_done(folder) < step:
        assert time.monotonic() < until, "the run does not get on"
        codes = [process.poll() for process in running]
        assert set(codes) == {None}, [process.communicate()[1] for process in running if process.returncode]
        time.sleep(0.01)


def ended(running: Sequence[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes and what was said, of processes that are about to end."""
    said = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in running]
    return [process.returncode for process in running], said


def assert_same_run(found: Path, wanted: Path) -> None:
    assert (found / "journal.jsonl").read_bytes() == (wanted / "journal.jsonl").read_bytes()
    ours, theirs = (load_checkpoint(_newest(folder)).model.state_dict() for folder in (found, wanted))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _newest(folder: Path) -> Path:
    newest = newest_checkpoint(folder)
    assert newest is not None
    return newest / "model.safetensors"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_leave_the_journal_of_an_undisturbed_run(tmp_path: Path) -> None:
    words = ["steps=150", "checkpoint_every=3"]
    with started(tmp_path / "whole", *words) as running:
        assert ended(running)[0] == [0]
    drawn = random.Random(0)
    for _ in range(20):
        before = steps_done(tmp_path / "killed")
        with started(tmp_path / "killed", *words) as running:
            # steps after the newest checkpoint are done again, and some more, so that the run gets on
            wait_for_step(tmp_path / "killed", before + drawn.randint(1, 6), running)
            time.sleep(drawn.random() * 0.05)
            running[0].send_signal(signal.SIGKILL)
            running[0].wait()
    with started(tmp_path / "killed", *words) as running:
        assert ended(running)[0] == [0]
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.ci
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_killed_three_times(tmp_path: Path, parallel: str) -> None:
    """One of the two is killed; the other ends by itself, in seconds, and says which one is gone."""
    words = [*LONG, f"parallel={parallel}"]
    with started(tmp_path / "whole", *words, processes=2) as running:
        assert ended(running)[0] == [0, 0]
    drawn = random.Random(parallel)
    for victim in (0, 1, 1):
        with started(tmp_path / "killed", *words, processes=2) as running:
            before = steps_done(tmp_path / "killed")
            wait_for_step(tmp_path / "killed", before + drawn.randint(2, 6), running)
            running[victim].send_signal(signal.SIGKILL)
            codes, said = ended([running[1 - victim]])
        assert codes == [1]
        assert "Traceback" not in said[0]
        assert "it ended without a word; it was killed" in said[0]
    with started(tmp_path / "killed", *words, processes=2) as running:
        assert ended(running)[0] == [0, 0]
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.ci
@pytest.mark.parametrize(("processes", "num_workers"), [(1, 1), (2, 0)])
def test_sigterm_saves_and_says_so(tmp_path: Path, processes: int, num_workers: int) -> None:
    """Sent to every process, those that read the store too, as schedulers do."""
    words = ["steps=100000", "checkpoint_every=100000", f"data.num_workers={num_workers}"]
    with started(tmp_path / "run", *words, processes=processes) as running:
        wait_for_step(tmp_path / "run", 2, running)
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        assert ended(running)[0] == [143] * processes
    newest = newest_checkpoint(tmp_path / "run")
    assert newest is not None
    assert newest.name == f"step-{steps_done(tmp_path / 'run')}"


@pytest.mark.ci
def test_the_reason_of_one_is_said_by_all(tmp_path: Path) -> None:
    with started(tmp_path / "run", "--broken-clip", "5", processes=2) as running:
        codes, said = ended(running)
    assert codes == [1, 1]
    assert all("clip 5 is damaged; prepare the store again" in text for text in said)
    assert sum("failed, and so process" in text for text in said) == 1


@pytest.mark.ci
def test_torchrun_starts_them_and_ends_them(tmp_path: Path) -> None:
    """The launcher keeps the store that reasons are written into, and stops whoever is left."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    runs = [
        subprocess.run(
            [*words, str(tmp_path / name), "steps=3", *more],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        for name, more in (("whole", ["parallel=fsdp"]), ("broken", ["--broken-clip", "5"]))
    ]
    assert [run.returncode for run in runs] == [0, 1], runs
    assert steps_done(tmp_path / "whole") == 3
    assert _newest(tmp_path / "whole").is_file()
    assert "clip 5 is damaged; prepare the store again" in runs[1].stderr


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux tells when another process has ended")
def test_one_that_waits_for_ever_is_brought_down(tmp_path: Path) -> None:
    """As a process does whose GPU waits for another: it cannot hear that it is alone."""
    with started(tmp_path / "run", *LONG, "--stuck-at", "4", processes=2) as running:
        wait_for_step(tmp_path / "run", 4, running)
        running[1].send_signal(signal.SIGKILL)
        begun = time.monotonic()
        codes, said = ended(running[:1])
    assert codes == [1]
    assert "process 1 of 2 failed, and so process 0 stopped: it ended without a word" in said[0]
    assert time.monotonic() - begun < 60
