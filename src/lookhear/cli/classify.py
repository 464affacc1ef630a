"""Naming what happens in files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import tyro

from lookhear.cli.arguments import several_labels
from lookhear.console import print_record, print_rows, say, show_progress
from lookhear.errors import MediaError


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Name what happens when in media files of any length, with a fine-tuned checkpoint."""

    media: tyro.conf.Positional[tuple[Path, ...]]
    """Video or sound files."""
    model: str
    """A fine-tuned checkpoint or a run folder."""
    top: int = 1
    """How many labels a window may have."""
    threshold: float = 0.25
    """Probability that a label must reach."""
    mode: Literal["both", "audio", "visual", "audio_of_both", "visual_of_both"] | None = None
    """What is read of a file; default: what the checkpoint reads, or that of it which a file has."""
    multi_label: bool = False
    """Judge every label by itself (sigmoid). Default: what the checkpoint learned, or else --single-label."""
    single_label: bool = False
    """Labels share one probability (softmax)."""
    classes: Path | None = None
    """A label CSV as published (index,mid,display_name), for checkpoints that do not name their classes."""
    json: bool = False
    """Print JSON instead of tab-separated lines."""

    def run(self) -> int:
        """Prints file, start, end, peak (seconds), score and label of every moment; 1 if a file could not be read."""
        from lookhear import embedder
        from lookhear.data.lists import read_classes
        from lookhear.tasks.labels.moments import classify

        loaded = embedder.load(self.model)
        classes = read_classes(self.classes).names if self.classes else None
        multi_label = several_labels(self.multi_label, self.single_label)
        records, failed = [], 0
        for path in self.media:
            try:
                with show_progress("spans") as progress:
                    moments = classify(
                        path,
                        model=loaded,
                        top=self.top,
                        threshold=self.threshold,
                        mode=self.mode,
                        multi_label=multi_label,
                        classes=classes,
                        progress=progress,
                    )
            except MediaError as error:
                say(f"lookhear: {error}")
                failed = 1
                continue
            records += [{"path": str(path)} | asdict(moment) for moment in moments]
            if not self.json:
                print_rows(
                    (
                        path,
                        *(f"{value:.3f}" for value in (m.start_seconds, m.end_seconds, m.peak_seconds, m.score)),
                        m.label,
                    )
                    for m in moments
                )
        if self.json:
            print_record(records, as_json=True)
        return failed
