"""If these fail, a result that took hours to measure is lost, or is not all in its file."""

import json
from pathlib import Path

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


def test_a_file_that_cannot_be_written_costs_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"cannot write .*only printed"):
        give_result("retrieval", RECORD, as_json=True, out=tmp_path)
    assert json.loads(capsys.readouterr().out) == {"retrieval": RECORD}
