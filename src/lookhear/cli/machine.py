"""This machine: what it has, and the whole path on it."""

from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import print_record, print_rows, say, show_progress


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine has, and what is wrong with it."""

    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        """Prints one line a finding; exit code 1 if there is a problem."""
        from lookhear.doctor import examine

        findings = examine()
        if self.json:
            print_record([to_dict(finding) for finding in findings], as_json=True)
        else:
            print_rows([(f.verdict, f.name, f.value, f.advice) for f in findings])
        return 1 if any(finding.verdict == "problem" for finding in findings) else 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the main job end to end: make or take videos, learn, evaluate, search, localize, report."""

    out: Path = Path("demo")
    """Where everything is written; report.html and report.json are the result."""
    media: Path | None = None
    """A folder of your own videos, instead of made scenes."""
    workers: int = 2
    """How many decoding processes."""
    settings: Set = ()
    """Change a setting, such as held_out=48 or recipe=tiny."""
    json: bool = False
    """Print the whole report as JSON."""

    def run(self) -> int:
        """Runs all steps and prints the main figures."""
        from lookhear.demo import DemoSettings, StoppedError, demo
        from lookhear.demo_page import HEAD, cells, rows

        settings = override(DemoSettings(), self.settings)
        try:
            report = demo(
                self.out,
                media=self.media,
                workers=self.workers,
                settings=settings,
                say=say,
                show_progress=show_progress,
            )
        except StoppedError as stopped:
            say(f"lookhear: {stopped}")
            return 143
        if self.json:
            print_record(report, as_json=True)
        else:
            print_rows([HEAD, *(cells(row) for row in rows(report))])
        return 0
