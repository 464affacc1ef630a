"""report/runs.py: run folders of any age and state. If these fail, a page shows what no run said."""

from pathlib import Path

import numpy as np
import pytest

from lookhear.errors import UserError
from lookhear.report.runs import curves_of, read_runs
from made_runs import NOW, make_run, touch


def test_curves_are_the_numbers_of_the_records() -> None:
    records = [
        {"step": 1, "epoch": 0, "loss": 3, "terms": {"a": 1.0, "b": float("nan")}, "note": "x", "flag": True},
        {"step": 2, "epoch": 0, "loss": 2.5, "terms": {"a": None}, "evaluation": {"retrieval": {"r1": 0.25}}},
        {"step": 2, "epoch": 0, "loss": 2.0},
    ]
    found = curves_of(records, 4)
    assert {name: (list(curve.x), list(curve.y)) for name, curve in found.items()} == {
        "loss": ([1, 2], [3, 2.0]),  # of a step done again, the later record
        "terms.a": ([1], [1.0]),
        "evaluation.retrieval.r1": ([2], [0.25]),
    }
    assert {curve.series for curve in found.values()} == {4}
    assert curves_of([]) == {}


@pytest.mark.parametrize(
    ("changes", "state", "total"),
    [
        ({"steps": 12, "epochs": 4}, "finished", 12),  # 3 steps an epoch, seen in the journal
        ({"steps": 7, "epochs": 4}, "stopped", 12),
        ({"steps": 2, "epochs": 4}, "stopped", None),  # within the first epoch nothing tells
        ({"steps": 2, "epochs": 4, "total_steps": 12}, "stopped", 12),
        ({"steps": 1, "epochs": 1, "total_steps": 1}, "finished", 1),
        ({"steps": 7, "epochs": 4, "silent_seconds": 3.0}, "going", 12),
        ({"steps": 7, "epochs": 4, "silent_seconds": 900.0, "seconds": 300.0}, "going", 12),  # its usual pauses
        ({"steps": 7, "epochs": 4, "silent_seconds": 900.0}, "stopped", 12),
        ({"steps": 0, "epochs": 4}, "not begun", None),
    ],
)
def test_status(tmp_path: Path, changes: dict[str, float], state: str, total: int | None) -> None:
    (log,) = read_runs([make_run(tmp_path / "run", **changes)], now=NOW)
    assert (log.status.state, log.status.total_steps, log.status.step) == (state, total, changes["steps"])
    assert log.status.silent_seconds == pytest.approx(changes.get("silent_seconds", 1e6))
    left = (12 - 7) * changes.get("seconds", 2.0) if state == "going" else None
    assert log.status.left_seconds == left


def test_a_run_whose_steps_are_counted(tmp_path: Path) -> None:
    """`steps` of the run itself; in `make_run` the name means how many are done."""
    folder = make_run(tmp_path / "run", steps=4)
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text.replace('"steps": null', '"steps": 9'))
    assert read_runs([folder])[0].status.total_steps == 9


def test_damaged_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=6)
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\n"
    lines[3] = b"\xff\xfe\x00\n"
    path.write_bytes(b"".join([*lines, b'[1, 2]\n{"loss": 1}\n{"step": "7"}\n\n{"step": 7, "lo']))
    (log,) = read_runs([folder])
    assert list(log.journal["loss"].x) == [1, 3, 5, 6]
    assert log.problems == (f"{path}: lines 2, 4, 7, 8, 9, 10 are damaged and left out",)
    path.write_bytes(b"".join([lines[0], b"{}\n"]))
    assert read_runs([folder])[0].problems == (f"{path}: line 2 is damaged and left out",)


def test_an_epoch_whose_last_line_is_damaged_does_not_shorten_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=9, epochs=4)
    path = folder / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "torn\n", *lines[3:]]))
    assert read_runs([folder])[0].status.total_steps == 12


def test_time_is_summed_up(tmp_path: Path) -> None:
    (log,) = read_runs([make_run(tmp_path / "run", steps=5, journal_every=2, seconds=3.0)])
    assert list(log.step_seconds.x) == [2, 4, 5]
    assert list(log.step_seconds.y) == [3.0, 6.0, 9.0]
    assert set(log.speed) == {"samples_per_second", "data_wait_share"}
    assert log.checkpoint_step is None


def test_the_mean_of_the_end(tmp_path: Path) -> None:
    (log,) = read_runs([make_run(tmp_path / "run", steps=100)])
    assert log.mean_of_last("loss") == pytest.approx(np.mean(log.journal["loss"].y[-5:]))
    assert log.mean_of_last("none") is None
    (short,) = read_runs([make_run(tmp_path / "short", steps=1)])
    assert short.mean_of_last("loss") == short.journal["loss"].y[0]


def test_names_are_as_long_as_it_takes(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, steps=1) for name in ("a/x/run", "b/x/run", "b/y/run")]
    assert [log.name for log in read_runs(folders)] == ["a/x/run", "b/x/run", "b/y/run"]
    assert [log.name for log in read_runs(folders[:1])] == ["run"]
    assert [log.name for log in read_runs([folders[0], folders[0] / ".", folders[2]])] == ["x/run", "y/run"]


def test_a_run_that_was_killed_before_its_first_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=0)
    for name in ("journal.jsonl", "speed.jsonl"):
        (folder / name).unlink()
    (log,) = read_runs([folder])
    assert log.journal == {}
    assert (log.status.state, log.status.silent_seconds) == ("not begun", None)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        read_runs([tmp_path])


def test_a_clock_that_runs_behind(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=7, epochs=4)
    touch(folder / "speed.jsonl", NOW + 50)
    assert read_runs([folder], now=NOW)[0].status.silent_seconds == 0.0
