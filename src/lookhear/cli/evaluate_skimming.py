"""Measuring what few looks at a long video tell."""

from dataclasses import dataclass
from pathlib import Path

from lookhear.cli.results import give_result
from lookhear.console import show_progress


@dataclass(frozen=True, kw_only=True)
class EvaluateSkimming:
    """How well does a skimmer name videos from few moments, beside evenly spaced ones and beside all of them?"""

    skimmer: Path
    """What `lookhear finetune skim_tiny` made: a run folder or its model."""
    store: Path
    """Features of the videos, from the same model as those it learned from."""
    labels: Path | None = None
    """A CSV list path,label,split of the videos, or a store; default: the store that was embedded."""
    split: str | None = None
    """Judge only the videos of this split."""
    skim: int | None = None
    """How often it looks (default: as in training)."""
    against: Path | None = None
    """Another skimmer to compare with, such as one trained with --set model.policy=uniform."""
    json: bool = False
    """Print everything as JSON."""
    out: Path | None = None
    """A file for the whole result."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear.data.features import open_features
        from lookhear.tasks.labels.skimming import evaluate_skimming
        from lookhear.tasks.labels.videos import video_labels

        with show_progress("videos") as progress:
            result = evaluate_skimming(
                self.skimmer,
                open_features(self.store),
                video_labels(self.labels, self.store),
                splits=(self.split,) if self.split else (),
                looks=self.skim,
                against=self.against,
                progress=progress,
            )
        give_result("skimming", result.to_dict(), as_json=self.json, out=self.out)
