"""Writing beside training. If these fail, two checkpoints are written at once, or one is lost without a word."""

import threading

import pytest

from lookhear.errors import UserError
from lookhear.training.writer import CheckpointWriter


def fail() -> None:
    raise UserError("the disk is full")


def test_it_does_not_wait_and_never_writes_two_at_once() -> None:
    going, done = threading.Event(), []

    def slow() -> None:
        going.wait(60)
        done.append("slow")

    with CheckpointWriter() as writer:
        writer.start(slow)
        assert done == []
        threading.Timer(0.05, going.set).start()
        writer.start(lambda: done.append("next"))
        assert done[0] == "slow", "the second begins when the first has ended"
        writer.check()
    assert done == ["slow", "next"]


def test_leaving_waits() -> None:
    done = []
    going = threading.Event()
    with CheckpointWriter() as writer:
        writer.start(lambda: (going.wait(60), done.append("all")))
        threading.Timer(0.05, going.set).start()
    assert done == ["all"]


def test_what_went_wrong_is_raised_once_in_the_loop() -> None:
    with CheckpointWriter() as writer:
        writer.start(fail)
        with pytest.raises(UserError, match="disk is full"):
            writer.start(lambda: None)
        writer.check()
    with pytest.raises(UserError, match="disk is full"), CheckpointWriter() as writer:
        writer.start(fail)


def test_an_error_of_the_loop_is_not_replaced() -> None:
    def train() -> None:
        with CheckpointWriter() as writer:
            writer.start(fail)
            raise KeyError

    with pytest.raises(KeyError):
        train()
