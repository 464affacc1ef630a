"""Measuring a checkpoint, beside chance and baselines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lookhear.console import print_record


@dataclass(frozen=True, kw_only=True)
class EvaluateRetrieval:
    """Does a sound find the picture it was recorded with, among all clips, and the reverse?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on; they must not be those it learned from."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells the kinds, for the figures within a kind."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.retrieval import evaluate_retrieval

        result = evaluate_retrieval(
            embedder.load(self.model),
            Store(self.store),
            kinds=_kinds(self.truth),
            train_store=Store(self.learned_from) if self.learned_from else None,
        )
        print_record({"retrieval": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateSync:
    """Does a frame find its own window of sound among the windows of its own clip?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells when events are, to count windows without one apart."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.sync import evaluate_sync

        result = evaluate_sync(
            embedder.load(self.model),
            Store(self.store),
            truth=_truth(self.truth),
            train_store=Store(self.learned_from) if self.learned_from else None,
        )
        print_record({"sync": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateLocalization:
    """Do heat maps lie on the object that sounds?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    truth: Path
    """A folder with truth.jsonl: the true boxes and event times."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.localization import evaluate_localization

        result = evaluate_localization(embedder.load(self.model), Store(self.store), _truth(self.truth) or {})
        print_record({"localization": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a checkpoint: retrieval, sync or localization, each beside chance and a baseline."""

    task: tyro.conf.OmitSubcommandPrefixes[
        Annotated[EvaluateRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[EvaluateSync, tyro.conf.subcommand("sync")]
        | Annotated[EvaluateLocalization, tyro.conf.subcommand("localization")]
    ]

    def run(self) -> None:
        """Runs the chosen task."""
        self.task.run()


def _truth(folder: Path | None) -> Any:
    from lookhear.media.scenes import load_truth

    return load_truth(folder) if folder else None


def _kinds(folder: Path | None) -> dict[str, str] | None:
    truth = _truth(folder)
    return {path: scene.kind for path, scene in truth.items()} if truth else None
