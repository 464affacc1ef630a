"""If these fail, a result that took hours to measure is lost, or is not all in its file."""

import json
from pathlib import Path

import numpy as np
import pytest

from lookhear.cli.results import give_result
from lookhear.errors import UserError

RECORD = {"r1": 0.5, "clip_list": [{"clip_id": "a@0"}], "left_out": []}


def test_the_file_has_what_the_lines_only_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    give_result("retrieval", RECORD, as_json=False, out=tmp_path / "below" / "result.json")
    printed = capsys.readouterr().out
    assert "a@0" not in printed
    assert "0.5" in printed
    assert json.loads((tmp_path / "below" / "result.json").read_text()) == {"retrieval": RECORD}


def test_lists_are_counted_however_deep_and_counts_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "splits": {"test1": {"left_out": [{"clip_id": "a@0"}] * 3}},
        "protocol": {"left_out": {"has no sound": 7}},
    }
    give_result("video", record, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "video.splits.test1.left_out\t3",
        "video.protocol.left_out.has no sound\t7",
    ]


def test_what_is_no_number_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no NaN: most readers would refuse the whole file."""
    record = {"median_rank": float("nan"), "interval": (0.0, float("inf")), "below": {"x": np.float64("nan")}}
    give_result("x", record, as_json=True, out=tmp_path / "result.json")
    expected = {"x": {"median_rank": None, "interval": [0.0, None], "below": {"x": None}}}
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "result.json").read_text()) == expected
    with pytest.raises(TypeError):
        give_result("x", {"accuracy": np.float32(0.5)}, as_json=True)


def test_a_file_that_cannot_be_written_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"cannot write .*only printed"):
        give_result("retrieval", RECORD, as_json=True, out=tmp_path)
    assert json.loads(capsys.readouterr().out) == {"retrieval": RECORD}
