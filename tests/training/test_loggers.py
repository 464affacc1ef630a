"""training/loggers.py: if these fail, a logger can stop a run, or shows other numbers than the journal."""

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from fake_store import FakeStore, small_run
from lookhear.config import override
from lookhear.errors import ConfigError
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.run import OPERATIONAL, Run


class Board:
    """Stands for torch's SummaryWriter."""

    def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
        self.log_dir, self.purge_step = log_dir, purge_step
        self.scalars: list[tuple[str, float, int]] = []
        self.flushed, self.closed = 0, False
        Board.made.append(self)

    made: ClassVar[list["Board"]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        self.flushed = len(self.scalars)

    def close(self) -> None:
        self.closed = True


class Online:
    """Stands for a W&B run: it keeps its step over a resumption, and refuses a lower one."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.asked, self.step, self.logged, self.finished = asked, 0, [], False

    def log(self, values: dict[str, float], step: int) -> None:
        assert step >= self.step
        self.step = step
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> type[Board]:
    Board.made = []
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Board  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    return Board


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> list[Online]:
    made: list[Online] = []

    def init(**asked: Any) -> Online:
        known = [run for run in made if run.asked["id"] == asked["id"]]
        made.append(Online(asked))
        made[-1].step = known[-1].step + 1 if known else 0
        return made[-1]

    fake = ModuleType("wandb")
    fake.init, fake.Settings = init, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return made


def run_of(*names: Any, **changes: Any) -> Run:
    return small_run(steps=4, checkpoint_every=2, journal_every=2, loggers=names, **changes)


def learn(run: Run, folder: Path, **options: Any) -> list[dict[str, Any]]:
    store: Any = FakeStore()
    train(run, store, folder, **options)
    return read_records(folder / "journal.jsonl")


def test_every_number_of_the_journal_and_of_speed(board: type[Board], online: list[Online], tmp_path: Path) -> None:
    judge = {"retrieval": lambda model, preprocess: {"r1": 0.5}}
    journal = learn(run_of("tensorboard", "wandb"), tmp_path / "run", evaluators=judge)
    (shown,), (sent,) = board.made, online
    assert (shown.log_dir, shown.purge_step) == (str(tmp_path / "run" / "tensorboard"), None)
    by_name = {(name, step): value for name, value, step in shown.scalars}
    for record in journal:
        assert by_name["loss", record["step"]] == record["loss"]
        assert by_name["terms/contrastive", record["step"]] == record["terms"]["contrastive"]
    assert by_name["evaluation/retrieval/r1", 4] == 0.5
    assert {step for name, step in by_name if name == "speed/samples_per_second"} == {2, 4}
    assert shown.flushed == len(shown.scalars)
    assert shown.closed
    assert not [name for name, _ in by_name if name.endswith("step")]
    merged = {(name, step): value for step, values in sent.logged for name, value in values.items()}
    assert merged == by_name
    assert sent.finished
    assert sent.asked["config"]["name"] == "small"
    assert sent.asked["name"] == "run"


def test_a_resumed_run_goes_on_where_its_checkpoint_is(
    board: type[Board], online: list[Online], tmp_path: Path
) -> None:
    learn(run_of(), tmp_path / "run", stop_after=2)
    learn(run_of("tensorboard", "wandb"), tmp_path / "run", stop_after=1)
    learn(run_of("tensorboard", "wandb"), tmp_path / "run")
    assert [one.purge_step for one in board.made] == [3, 4]
    assert [{step for _, _, step in one.scalars} for one in board.made] == [{3}, {4}]
    assert len({one.asked["id"] for one in online}) == 1
    online[-1].step = 99  # ahead, as after a kill: what it has is not sent again
    learn(run_of("wandb", epochs=4), tmp_path / "run")
    assert [step for step, _ in online[1].logged] == [4, 4]


@pytest.mark.parametrize("moment", ["open", "write", "close"])
def test_a_logger_that_fails_is_named_once_and_the_run_goes_on(
    board: type[Board], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Board, {"open": "__init__", "write": "add_scalar", "close": "close"}[moment], fail)
    plain = learn(run_of(), tmp_path / "plain")
    assert learn(run_of("tensorboard"), tmp_path / "run") == plain
    assert [record.getMessage() for record in caplog.records] == [
        "tensorboard gets no numbers of this run (no room); the journal has them"
    ]


def test_what_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert len(learn(run_of("wandb"), tmp_path / "run")) == 4
    assert "python -m pip install '.[wandb]'" in caplog.text


def test_it_is_a_setting_that_may_change(tmp_path: Path) -> None:
    assert "loggers" in OPERATIONAL
    assert override(small_run(), ['loggers=["wandb","tensorboard"]']).loggers == ("wandb", "tensorboard")
    with pytest.raises(ConfigError, match="loggers"):
        override(small_run(), ['loggers=["tensorbord"]'])
    assert Run.from_dict(run_of("wandb").to_dict()) == run_of("wandb")
    learn(run_of("tensorboard"), tmp_path / "run", stop_after=1)
    assert len(learn(replace(run_of(), loggers=()), tmp_path / "run")) == 4


def test_tensorboard_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    learn(run_of("tensorboard"), tmp_path / "run", stop_after=3)
    journal = learn(run_of("tensorboard"), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("loss")}
    assert found == pytest.approx({record["step"]: record["loss"] for record in journal})


def test_wandb_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    learn(run_of("wandb"), tmp_path / "run")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
