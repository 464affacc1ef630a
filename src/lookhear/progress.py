"""How long-running work says how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """Called with how many of `total` items are done (`total` None: not known yet) and a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Says that `done` of `total` items are done."""


def quiet(done: int, total: int | None, note: str = "") -> None:
    """A `Progress` that tells nobody."""
