"""bench/retrieval.py: the loop that ours is timed beside must give the same answer, or its time means nothing."""

import json

import numpy as np
import pytest

from lookhear import cli
from lookhear.bench import retrieval as bench


def test_the_loop_and_ours_agree_and_the_extrapolation_is_said() -> None:
    found = bench.measure(clips=120, windows=2, width=8, repeats=1)
    assert found.largest_difference < 1e-6
    assert (found.measured_clips, found.clips) == (100, 120)
    assert found.pairwise_seconds == pytest.approx(found.measured_pairwise_seconds * 1.44)
    assert found.ratio == pytest.approx(found.pairwise_seconds / found.fast_seconds)
    assert min(found.three_seconds, found.max_seconds) > 0


def test_fewer_clips_than_the_loop_takes_need_no_extrapolation() -> None:
    found = bench.measure(clips=20, windows=1, width=4, repeats=1)
    assert found.pairwise_seconds == found.measured_pairwise_seconds


def test_the_loop_is_the_published_rule() -> None:
    same = np.ones((4, 2, 3), dtype=np.float32)
    assert bench._figures(bench._loop(same, same)) == [0.25, 1.0, 1.0, 2.5], "every tied place counts"


def test_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "retrieval", "--clips", "12", "--windows", "1", "--width", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {"pairwise_seconds", "fast_seconds", "ratio", "measured_clips"} <= set(record)
