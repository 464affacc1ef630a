"""The numbers of a journal to TensorBoard or Weights & Biases as well, for a run that asks for it.

Neither is needed for anything else: the journal has every number. A logger that is not installed, or fails, is named
once on stderr and left out from then on; the run goes on.
"""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

LoggerName = Literal["tensorboard", "wandb"]
_WANDB_PROJECT = "lookhear"  # unless WANDB_PROJECT names another
_log = logging.getLogger("lookhear")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers by name (`terms/contrastive`) after a step."""

    step: int
    values: Mapping[str, float]


class Logger(Protocol):
    """Whatever takes numbers. Steps ascend; a step may come twice, with other names."""

    def write(self, numbers: Sequence[Numbers]) -> None:
        """Takes them, so that they outlive a kill from here on."""

    def close(self) -> None:
        """After the last ones."""


class Loggers:
    """All loggers of a run, none of which can stop it."""

    def __init__(self, names: Sequence[LoggerName], folder: Path, *, config: Mapping[str, Any], step: int) -> None:
        """`step` is how many steps are done: a run that is resumed does the ones after it again."""
        self._open: dict[LoggerName, Logger] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = _OPENERS[name](folder, config, step)
            except Exception as error:  # whatever a library, its server or its disk may do
                self._leave_out(name, error)

    def write(self, numbers: Sequence[Numbers]) -> None:
        """Hands `numbers` to every logger that still works."""
        for name, logger in list(self._open.items()):
            try:
                logger.write(numbers)
            except Exception as error:
                self._leave_out(name, error)

    def close(self) -> None:
        """Closes them all."""
        for name, logger in list(self._open.items()):
            try:
                logger.close()
            except Exception as error:
                self._leave_out(name, error)
        self._open = {}

    def _leave_out(self, name: LoggerName, error: Exception) -> None:
        if logger := self._open.pop(name, None):
            with suppress(Exception):
                logger.close()
        advice = f"; python -m pip install '.[{name}]' installs it" if isinstance(error, ModuleNotFoundError) else ""
        _log.warning("%s gets no numbers of this run (%s)%s; the journal has them", name, error, advice)


class _TensorBoard:
    """Events in RUN/tensorboard, which `tensorboard --logdir RUN` shows."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what was written of steps that are done again is not shown
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, numbers: Sequence[Numbers]) -> None:
        for one in numbers:
            for name, value in one.values.items():
                self._writer.add_scalar(name, value, one.step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """A W&B run, which a resumed run goes on with; WANDB_MODE=offline keeps it on this machine."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        import wandb

        known = folder / "wandb_id.txt"
        if not known.exists():
            known.write_text(secrets.token_hex(8), encoding="utf-8")
        self._run = wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else _WANDB_PROJECT,
            name=folder.resolve().name,
            id=known.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
            settings=wandb.Settings(console="off"),  # stdout is ours
        )

    def write(self, numbers: Sequence[Numbers]) -> None:
        for one in numbers:
            if one.step >= self._run.step:  # it refuses steps that it has; they are the same
                self._run.log(dict(one.values), step=one.step)

    def close(self) -> None:
        self._run.finish()


_OPENERS: dict[LoggerName, Callable[[Path, Mapping[str, Any], int], Logger]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
}
