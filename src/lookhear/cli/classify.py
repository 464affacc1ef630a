"""Naming what happens in files."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from lookhear.cli.arguments import several_labels
from lookhear.console import print_record, print_rows, say, show_progress
from lookhear.errors import MediaError, UsageError, UserError

if TYPE_CHECKING:
    from lookhear.tasks.labels.moments import LabelledMoment


@dataclass(frozen=True, kw_only=True)
class Classify:
    """Name what happens when in media files of any length, with a fine-tuned checkpoint."""

    media: tyro.conf.Positional[tuple[Path, ...]]
    """Video or sound files, or folders: all media files in them."""
    model: str
    """A fine-tuned checkpoint or a run folder; with --skimmer, the model whose features that learned from."""
    skimmer: Path | None = None
    """Name each file as a whole, from the few moments that this skimmer looks at (`lookhear finetune skim_tiny`)."""
    skim: int | None = None
    """How often it looks (default: as in training)."""
    measure_dense: bool = False
    """Decode all moments as well, to measure what skimming saves; otherwise it is estimated."""
    top: int = 1
    """How many labels a window may have."""
    threshold: float = 0.25
    """Probability that a label must reach."""
    mode: Literal["both", "audio", "visual", "audio_of_both", "visual_of_both"] | None = None
    """both: sound and picture together; audio, visual: one of them, in a model that learned it by itself;
    audio_of_both, visual_of_both: one of them, in a model that learned both. Default: what the checkpoint reads, or
    that of it which a file has."""
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

        paths = self._paths()
        if self.skimmer is not None:
            return self._skim(self.skimmer, paths)
        if self.skim is not None or self.measure_dense:
            raise UserError("--skim and --measure-dense are about a skimmer; name one with --skimmer")
        loaded = embedder.load(self.model)
        classes = read_classes(self.classes).names if self.classes else None
        multi_label = several_labels(self.multi_label, self.single_label)
        records, failed = [], 0
        for path in paths:
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
            self._say_if_nothing(path, moments)
            records += [{"path": str(path)} | asdict(moment) for moment in moments]
            if not self.json:
                print_rows(_row(path, moment) for moment in moments)
        if self.json:
            print_record(records, as_json=True)
        return failed

    def _say_if_nothing(self, path: Path, labels: Sequence["LabelledMoment"]) -> None:
        if not labels:
            say(f"{path}: no label reaches {self.threshold:g}; a smaller --threshold shows more")

    def _paths(self) -> list[Path]:
        """The files that are named, and those in the folders that are."""
        from lookhear.media.probe import find_media

        if not self.media:
            raise UsageError("name the video or sound files to classify, or a folder of them")
        paths: list[Path] = []
        for path in self.media:
            found = [file.path for file in find_media(path) if not file.problem] if path.is_dir() else [path]
            if not found:
                raise UserError(f"there are no media files in {path}; name another folder, or the files themselves")
            paths += found
        return paths

    def _skim(self, skimmer: Path, paths: list[Path]) -> int:
        """The same of whole files, and what that took, on stderr or in the JSON."""
        from lookhear import embedder
        from lookhear.tasks.labels.skim_file import skim
        from lookhear.tasks.labels.skimming import load_skimmer

        if self.mode is not None or self.multi_label or self.single_label or self.classes is not None:
            raise UserError("a skimmer says itself what it reads and which classes it names; leave these options out")
        model, network = embedder.load(self.model), load_skimmer(skimmer)
        records, failed = [], 0
        for path in paths:
            try:
                found = skim(
                    path,
                    model=model,
                    skimmer=network,
                    looks=self.skim,
                    top=self.top,
                    threshold=self.threshold,
                    measure_dense=self.measure_dense,
                )
            except MediaError as error:
                say(f"lookhear: {error}")
                failed = 1
                continue
            records.append({"path": str(path)} | asdict(found) | {"saved_share": found.saved_share})
            share = found.saved_share
            about = "measured" if found.dense_is_measured else "estimated from half a minute of it"
            say(
                f"{path}: {len(found.chosen_seconds)} of {found.moments} moments chosen, {found.heard} heard, "
                f"{found.seen} seen, in {found.seconds:.2f} s; all of them: {found.dense_seconds:.2f} s ({about}), "
                + (f"{share:.0%} saved" if share >= 0 else f"skimming took {-share:.0%} longer")
            )
            self._say_if_nothing(path, found.labels)
            if not self.json:
                print_rows(_row(path, moment) for moment in found.labels)
        if self.json:
            print_record(records, as_json=True)
        return failed


def _row(path: Path, moment: "LabelledMoment") -> tuple[object, ...]:
    times = (moment.start_seconds, moment.end_seconds, moment.peak_seconds, moment.score)
    return path, *(f"{value:.3f}" for value in times), moment.label
