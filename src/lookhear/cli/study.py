"""Comparisons of methods on small data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import out, print_record, show_progress
from lookhear.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Study:
    """Test published claims on small runs, all on the same data for the same steps. Goes on where it was stopped."""

    which: tyro.conf.Positional[Literal["cavmae", "methods"]] = "cavmae"
    """cavmae: CAV-MAE and CAV-MAE Sync, and what they are made of; methods: all surveyed methods in one table."""
    out: Path | None = None
    """Where data, runs and results go (default: study, of methods study/methods)."""
    grid: Path | None = None
    """Of cavmae: a folder with clips of one GRID speaker and a list with the columns path and split (train, val)."""
    page: Path | None = None
    """A Markdown page whose tables, between <!-- study:begin --> and <!-- study:end -->, are replaced."""
    workers: int = 2
    """How many runs at a time; they share the cores."""
    settings: Set = ()
    """Change a setting of the study, such as seeds=1 of cavmae, or claim_seeds=1 of methods."""
    json: bool = False
    """Print the outcome of every run as JSON."""

    def run(self) -> None:
        """Runs what is still to be run and prints the tables."""
        from lookhear.study import cavmae, methods
        from lookhear.study.page import fill_page, tables

        claims = {"cavmae": cavmae.CLAIMS, "methods": methods.CLAIMS}[self.which]
        with show_progress("done") as progress:
            if self.which == "cavmae":
                settings = override(cavmae.StudySettings(), self.settings)
                folder = self.out or Path("study")
                outcomes = cavmae.study(
                    folder, grid=self.grid, settings=settings, workers=self.workers, progress=progress
                )
            else:
                if self.grid is not None:
                    raise UserError("the study of methods is on made scenes alone; leave --grid out")
                chosen = override(methods.MethodsSettings(), self.settings)
                folder = self.out or Path("study/methods")
                outcomes = methods.study(folder, settings=chosen, workers=self.workers, progress=progress)
        if self.page is not None:
            fill_page(self.page, outcomes, claims)
        if self.json:
            print_record([to_dict(outcome) for outcome in outcomes], as_json=True)
        else:
            out(tables(outcomes, claims))
