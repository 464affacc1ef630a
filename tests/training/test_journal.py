"""The journal. If these fail, a resumed run's journal differs from an undisturbed one's."""

from pathlib import Path

import pytest
import torch

from lookhear.errors import UserError
from lookhear.training.journal import Journal, Records, append_records, cut_back, read_records, scan_records


def record(step: int, loss: float) -> dict[str, object]:
    return {"step": step, "loss": torch.tensor(loss), "terms": {"a": torch.tensor(loss)}}


def test_records_come_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.flush() is None
    journal.add(record(1, 0.5))
    journal.add(record(2, 0.25))
    assert read_records(tmp_path / "journal.jsonl") == []
    assert journal.flush() == {"step": 2, "loss": 0.25, "terms": {"a": 0.25}}
    assert [found["loss"] for found in read_records(tmp_path / "journal.jsonl")] == [0.5, 0.25]


def test_a_line_cut_short_by_a_kill_is_left_out_and_cut_back(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    append_records(path, [{"step": 1}, {"step": 2}, {"step": 3}])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    assert [found["step"] for found in read_records(path)] == [1, 2, 3]
    cut_back(path, 2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n{"step": 2}\n'
    cut_back(tmp_path / "none.jsonl", 0)
    assert (tmp_path / "none.jsonl").read_text(encoding="utf-8") == ""


def test_a_damaged_line_is_counted_and_stops_a_run_that_would_go_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\n\xff\n{"step": true}\n[]\n{"step": 3}\n{"step"')
    assert scan_records(path) == Records(found=[{"step": 1}, {"step": 3}], damaged=(2, 3, 4, 5))
    assert scan_records(tmp_path / "none.jsonl") == Records(found=[])
    with pytest.raises(UserError, match=r"line 2 of .*journal\.jsonl is damaged"):
        cut_back(path, 1)
    with pytest.raises(UserError, match="cannot read"):
        scan_records(tmp_path)


def test_a_loss_that_is_no_number_stops_after_what_was_good(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step, loss in enumerate([1.0, float("nan"), 1.0], start=1):
        journal.add(record(step, loss))
    with pytest.raises(UserError, match=r"loss of step 2 is nan \(in a\)"):
        journal.flush()
    assert [found["step"] for found in read_records(tmp_path / "journal.jsonl")] == [1]


def test_a_disk_without_room_is_a_sentence(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone")
    journal.add(record(1, 1.0))
    with pytest.raises(UserError, match=r"journal\.jsonl could not be written \(No such file .*run the same command"):
        journal.flush()


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, writes=False)
    journal.add(record(1, 1.0))
    journal.add_speed({"step": 1})
    assert journal.flush() is not None
    assert list(tmp_path.iterdir()) == []
