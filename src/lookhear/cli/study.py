"""Comparisons of methods on small data."""

from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import out, print_record, show_progress


@dataclass(frozen=True, kw_only=True)
class Study:
    """Test the published claims about CAV-MAE and CAV-MAE Sync on small runs. Goes on where it was stopped."""

    out: Path = Path("study")
    """Where data, runs and results go."""
    grid: Path | None = None
    """A folder with clips of one GRID speaker and a list with the columns path and split (train, val)."""
    page: Path | None = None
    """A Markdown page whose tables, between <!-- study:begin --> and <!-- study:end -->, are replaced."""
    workers: int = 2
    """How many runs at a time; they share the cores."""
    settings: Set = ()
    """Change a setting of the study, such as seeds=1."""
    json: bool = False
    """Print the outcome of every run as JSON."""

    def run(self) -> None:
        """Runs what is still to be run and prints the tables."""
        from lookhear.study.cavmae import StudySettings, study
        from lookhear.study.page import fill_page, tables

        settings = override(StudySettings(), self.settings)
        with show_progress("done") as progress:
            outcomes = study(self.out, grid=self.grid, settings=settings, workers=self.workers, progress=progress)
        if self.page is not None:
            fill_page(self.page, outcomes)
        if self.json:
            print_record([to_dict(outcome) for outcome in outcomes], as_json=True)
        else:
            out(tables(outcomes))
