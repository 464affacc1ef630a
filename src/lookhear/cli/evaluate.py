"""Measuring a checkpoint, beside chance and baselines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lookhear.cli.arguments import kinds_of
from lookhear.cli.evaluate_labels import EvaluateClassification, EvaluateProbe
from lookhear.cli.evaluate_places import EvaluateLocalization, EvaluateSegmentation
from lookhear.cli.evaluate_search import EvaluateSearch
from lookhear.cli.results import give_result
from lookhear.console import show_progress


@dataclass(frozen=True, kw_only=True)
class EvaluateRetrieval:
    """Does a sound find the picture it was recorded with, among all clips, and the reverse?"""

    model: str
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on; they must not be those it learned from."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells the kinds, for the figures within a kind."""
    aggregation: tuple[Literal["diagonal_mean", "diagonal_max", "mean", "max"], ...] = ("diagonal_mean",)
    """How the windows of two clips become one similarity; several are judged in one pass."""
    level: Literal["clip", "window"] = "clip"
    """clip: clips are asked for and found. window: windows are, by their own window and by their own clip."""
    pairs: Literal["timestamps", "published", "clip"] = "timestamps"
    """timestamps: disjoint windows. published: the 16 of CAV-MAE Sync. clip: the one of CAV-MAE."""
    windows: int | None = None
    """At most so many windows of each clip (default: all that fit; 16 published ones)."""
    ties: Literal["fair", "published"] = "fair"
    """fair: a tie is a draw by lot. published: every tied place counts, which inflates; only to compare."""
    json: bool = False
    """Print everything as JSON, the list of clips too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, clips with their hashes, clips left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.matching.retrieval import evaluate_retrieval

        with show_progress("clips") as progress:
            result = evaluate_retrieval(
                embedder.load(self.model),
                Store(self.store),
                kinds=kinds_of(self.truth),
                train_store=Store(self.learned_from) if self.learned_from else None,
                num_windows=self.windows,
                aggregations=tuple(dict.fromkeys(self.aggregation)),
                level=self.level,
                pairs=self.pairs,
                ties=self.ties,
                progress=progress,
            )
        give_result("retrieval", result.to_dict(), as_json=self.json, out=self.out)


@dataclass(frozen=True, kw_only=True)
class EvaluateSync:
    """Does a frame find its own window of sound among the windows of its own clip?"""

    model: str
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells when events are, to count windows without one apart."""
    json: bool = False
    """Print everything as JSON, the list of clips too."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, clips with their hashes, clips left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.media.scenes import load_truth
        from lookhear.tasks.matching.sync import evaluate_sync

        with show_progress("clips") as progress:
            result = evaluate_sync(
                embedder.load(self.model),
                Store(self.store),
                truth=load_truth(self.truth) if self.truth else None,
                train_store=Store(self.learned_from) if self.learned_from else None,
                progress=progress,
            )
        give_result("sync", result.to_dict(), as_json=self.json, out=self.out)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a checkpoint: retrieval, sync, localization, classification, probe, each beside chance and a baseline."""

    task: tyro.conf.OmitSubcommandPrefixes[
        Annotated[EvaluateRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[EvaluateSync, tyro.conf.subcommand("sync")]
        | Annotated[EvaluateLocalization, tyro.conf.subcommand("localization")]
        | Annotated[EvaluateSegmentation, tyro.conf.subcommand("segmentation")]
        | Annotated[EvaluateSearch, tyro.conf.subcommand("search")]
        | Annotated[EvaluateClassification, tyro.conf.subcommand("classification")]
        | Annotated[EvaluateProbe, tyro.conf.subcommand("probe")]
    ]

    def run(self) -> None:
        """Runs the chosen task."""
        self.task.run()
