"""Measuring how well an archive finds its own moments."""

from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.results import give_result
from lookhear.config import to_dict
from lookhear.console import show_progress


@dataclass(frozen=True, kw_only=True)
class EvaluateSearch:
    """Does a piece of a file, cut out and encoded again, find its place? By its sound, a frame, and across."""

    model: str
    """A checkpoint or a run folder."""
    library: Path
    """A folder of media to search in; needs no labels."""
    truth: Path | None = None
    """A folder with truth.jsonl, when the files are made scenes: pieces then lie around events."""
    pieces: int = 10
    """Pieces of two seconds from each file."""
    hop: float | None = None
    """Seconds from one moment to the next (default: half a window)."""
    seed: int = 0
    """Another seed draws other pieces."""
    baselines: bool = True
    """Measure the untrained model, plain features and single frames as well."""
    json: bool = False
    """Print everything as JSON."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, what was left out."""

    def run(self) -> None:
        """Prints the figures."""
        import tempfile

        from lookhear import embedder
        from lookhear.media.scenes import load_truth
        from lookhear.search.evaluation import evaluate_search

        truth = None if self.truth is None else load_truth(self.truth)
        with tempfile.TemporaryDirectory(prefix="lookhear-") as scratch, show_progress("files") as progress:
            result = evaluate_search(
                embedder.load(self.model),
                self.library,
                scratch=Path(scratch),
                per_file=self.pieces,
                hop_seconds=self.hop,
                seed=self.seed,
                events=None if truth is None else {path: scene.event_seconds for path, scene in truth.items()},
                baselines=self.baselines,
                progress=progress,
            )
        give_result("search", to_dict(result), as_json=self.json, out=self.out)
