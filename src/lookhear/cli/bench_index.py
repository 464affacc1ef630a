"""Measuring how fast a library is indexed."""

from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import print_record, show_progress


@dataclass(frozen=True, kw_only=True)
class BenchIndex:
    """How much faster than real time media is indexed by a ViT-S, link by link."""

    media: Path | None = None
    """A folder of media (default: made files of 360p at 30 frames a second)."""
    hop: float = 1.0
    """Seconds from one moment to the next."""
    workers: int = 2
    """Processes that decode."""
    count: int = 4
    """How many files of a minute to make."""
    settings: Set = ()
    """Change a size of the model, such as width=64."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.indexing import MODEL, measure

        with show_progress("steps") as progress:
            figures = measure(
                self.media,
                config=override(MODEL, self.settings),
                hop_seconds=self.hop,
                workers=self.workers,
                count=self.count,
                progress=progress,
            )
        print_record(to_dict(figures), as_json=self.json)
