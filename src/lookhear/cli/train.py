"""Learning, and what a person sees of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lookhear.cli.arguments import Set
from lookhear.config import to_dict
from lookhear.console import print_record, say, show_progress


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Learn from a store, without labels. On a run folder that exists, go on where it stopped. Several devices share
    each batch under torchrun (torchrun --nproc-per-node 4 -m lookhear pretrain ...)."""

    recipe: tyro.conf.Positional[str]
    """The name of a recipe: tiny, grid, ...; or one of your own, FILE.py:FUNCTION."""
    store: Path = Path("store")
    """What `lookhear prepare` made."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Where journal and checkpoints go (default: runs/RECIPE, or runs/FUNCTION)."""
    settings: Set = ()
    """Change a setting of the run, such as optim.learning_rate=1e-3, parallel=fsdp, optim.accumulate=4."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Trains and prints where the checkpoint lies."""
        from lookhear.recipes import pretrain

        folder = self.run_folder or Path("runs") / self.recipe.rpartition(":")[2]
        with show_progress("steps") as progress:
            summary = pretrain(self.recipe, store=self.store, folder=folder, settings=self.settings, progress=progress)
        print_record(to_dict(summary), as_json=self.json)
        return 143 if summary.interrupted else 0


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Learn the labels of a store, from a pre-trained model or from scratch; go on where a run folder stopped."""

    recipe: tyro.conf.Positional[str]
    """The name of a recipe: as20k, as2m, vggsound, finetune_tiny, esc10; for skimming: skim, skim_tiny."""
    store: Path = Path("store")
    """What `lookhear prepare --labels` made; for skimming, the features that `lookhear embed` made."""
    initial: str | None = None
    """Checkpoint, run folder, or name of weights to start from."""
    labels: Path | None = None
    """Label CSV (index, mid, display_name) that puts the classes in order; default: the store's labels, sorted. For
    skimming: a CSV list path,label,split of the videos, or a store; default: the store that was embedded."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Where journal and checkpoints go (default: runs/RECIPE)."""
    settings: Set = ()
    """Change a setting of the run, such as model.mode=audio or data.validation_split=val."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Trains and prints where the checkpoint lies."""
        from lookhear.recipes.finetune import finetune

        folder = self.run_folder or Path("runs") / self.recipe
        with show_progress("steps") as progress:
            summary = finetune(
                self.recipe,
                store=self.store,
                folder=folder,
                initial=self.initial,
                labels=self.labels,
                settings=self.settings,
                progress=progress,
            )
        print_record(to_dict(summary), as_json=self.json)
        return 143 if summary.interrupted else 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one HTML page about one or several runs: curves, speed, evaluations, samples, and how they differ."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Run folders, also of runs that are going on; several are drawn on the same axes."""
    out: Path = Path("report.html")
    """The page; it needs nothing else and opens without a network."""
    store: Path | None = None
    """A store of which a few clips are shown as the models fill them in."""
    clips: int = 4
    """How many clips."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Writes the page and prints where it lies and how far each run is."""
        from lookhear.report.run_page import report_runs

        with show_progress("runs") as progress:
            summary = report_runs(self.runs, out=self.out, store=self.store, clips=self.clips, progress=progress)
        for problem in summary.problems:
            say(f"lookhear: {problem}")
        print_record(to_dict(summary), as_json=self.json)
