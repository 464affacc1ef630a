"""What happens when: a classifier slid over a file of any length, its answers merged into moments.

M windows, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookhear.data.windows import Windows
from lookhear.errors import ConfigError, MediaError
from lookhear.media.decode import open_media
from lookhear.models.classifier import Mode, streams_of
from lookhear.models.transformer import Stream
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.logits import (
    Classifier,
    classes_of,
    classifier_of,
    learned_multi_label,
    probabilities,
    window_logits,
)

if TYPE_CHECKING:
    from lookhear.embedder import Embedder

DEFAULT_THRESHOLD = 0.25


@dataclass(frozen=True, kw_only=True)
class LabelledMoment:
    """A stretch of a file of which every window was given the same label. Times are on the file's clock."""

    label: str
    start_seconds: float
    end_seconds: float
    peak_seconds: float  # the middle of the window with the highest score
    score: float  # of that window: a probability


def classify(
    path: str | Path,
    *,
    model: "str | Path | Embedder",
    top: int = 1,
    threshold: float = DEFAULT_THRESHOLD,
    mode: Mode | None = None,
    multi_label: bool | None = None,
    classes: Sequence[str] | None = None,
    hop_seconds: float | None = None,
    progress: Progress = quiet,
) -> list[LabelledMoment]:
    """The labelled moments of a media file of any length, by start; `model` is a fine-tuned checkpoint.

    Windows follow each other by `hop_seconds` (half a window); a file shorter than a window is one. A window is given
    its `top` highest classes, of those that reach `threshold` (a probability); neighbouring windows with the same
    class are one moment. `mode` None: the checkpoint's own; where that reads both and a window has only sound or only
    a picture, `audio_of_both` or `visual_of_both`. Probabilities are a sigmoid of each class with `multi_label`, a
    softmax without; None: as the checkpoint learned, and a softmax where it does not say. `classes` names the classes
    of a checkpoint that does not. Only a span of the file is held at a time.

    Raises MediaError for a file that cannot be read or has nothing that the mode reads, CheckpointError for a model
    without classes, ConfigError for a `top` or `threshold` that makes no sense.
    """
    check_choice(top, threshold)
    from lookhear.embedder import loaded_model

    embedder = loaded_model(model)
    names = classes_of(embedder, classes)
    merging = _Merging(names, top=top, threshold=threshold)
    num_read = 0
    for windows, scores in window_scores(
        embedder, Path(path), mode=mode, multi_label=multi_label, hop_seconds=hop_seconds, progress=progress
    ):
        num_read += int(np.isfinite(scores[:, 0]).sum())
        for row in range(len(windows)):
            merging.add(float(windows.start_seconds[row]), float(windows.end_seconds[row]), scores[row])
    if not num_read:
        wanted = mode or classifier_of(embedder).config.mode
        raise MediaError(f"'{path}' has nothing that mode '{wanted}' reads; choose another mode or another file")
    return merging.finish()


def check_choice(top: int, threshold: float) -> None:
    """Raises ConfigError for a `top` or `threshold` that makes no sense."""
    if top < 1 or not 0 <= threshold <= 1:
        raise ConfigError(f"top is {top} and threshold {threshold}; they must be at least 1, and from 0 to 1")


def window_scores(
    embedder: "Embedder",
    path: Path,
    *,
    mode: Mode | None = None,
    multi_label: bool | None = None,
    hop_seconds: float | None = None,
    progress: Progress = quiet,
) -> Iterator[tuple[Windows, np.ndarray]]:
    """The windows of a file, a span at a time, and their probabilities float32 (M, K).

    A row is NaN where the window has nothing that the mode reads. `mode` and `multi_label` None as in `classify`.
    """
    model = classifier_of(embedder)
    if multi_label is None:
        multi_label = learned_multi_label(embedder) or False
    streams = streams_of(mode or model.config.mode)
    plan = replace(
        embedder.plan(hop_seconds=hop_seconds, picture=Stream.VISUAL in streams), sound=Stream.AUDIO in streams
    )
    with open_media(path) as media:
        spans = plan.spans(media.info)
        for done, (_, windows) in enumerate(plan.read(media, spans)):
            progress(done, len(spans), "classifying")
            scores = np.full((len(windows), model.config.num_classes), np.nan, np.float32)
            for chosen, rows in _modes(windows, model, mode):
                logits = window_logits(
                    embedder, waveform=windows.waveform[rows], frames=windows.frames[rows], mode=chosen
                )
                scores[rows] = probabilities(logits, multi_label=multi_label)
            yield windows, scores
        progress(len(spans), len(spans), "classifying")


def _modes(windows: Windows, model: Classifier, mode: Mode | None) -> Iterator[tuple[Mode, np.ndarray]]:
    """Which windows (their numbers) are read in which mode."""
    wanted = mode or model.config.mode
    has = {Stream.AUDIO: windows.has_sound, Stream.VISUAL: windows.has_picture}
    whole = np.all([has[stream] for stream in streams_of(wanted)], axis=0)
    groups: list[tuple[Mode, np.ndarray]] = [(wanted, whole)]
    if mode is None and wanted == "both":
        groups += [("audio_of_both", windows.has_sound & ~whole), ("visual_of_both", windows.has_picture & ~whole)]
    for chosen, rows in groups:
        if rows.any():
            yield chosen, np.flatnonzero(rows)


class _Merging:
    """Windows in order of time become moments; only those that are still going on are kept apart."""

    def __init__(self, names: Sequence[str], *, top: int, threshold: float) -> None:
        self.names = names
        self.top = top
        self.threshold = threshold
        self.open: dict[str, LabelledMoment] = {}
        self.closed: list[LabelledMoment] = []

    def add(self, start_seconds: float, end_seconds: float, scores: np.ndarray) -> None:
        """The next window and its probabilities (K,), NaN where it could not be read."""
        highest = np.argsort(-scores, kind="stable")[: self.top]  # NaN sorts last and reaches no threshold
        going_on: dict[str, LabelledMoment] = {}
        for column in highest[scores[highest] >= self.threshold].tolist():
            label, score = self.names[column], float(scores[column])
            before = self.open.pop(label, None)
            higher = before is None or score > before.score
            going_on[label] = LabelledMoment(
                label=label,
                start_seconds=start_seconds if before is None else before.start_seconds,
                end_seconds=end_seconds,
                peak_seconds=(start_seconds + end_seconds) / 2 if before is None or higher else before.peak_seconds,
                score=score if before is None or higher else before.score,
            )
        self.closed.extend(self.open.values())
        self.open = going_on

    def finish(self) -> list[LabelledMoment]:
        """All moments, by start, the likelier of two with the same start first."""
        self.closed.extend(self.open.values())
        self.open = {}
        return sorted(self.closed, key=lambda moment: (moment.start_seconds, -moment.score, moment.label))
