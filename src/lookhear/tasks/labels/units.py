"""What is judged as one thing, a stored clip or a whole file, and at which windows of it a model looks.

The literature says "clips per video" where this says windows of a file. K windows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lookhear.data.sampling import disjoint_windows, num_disjoint
from lookhear.errors import ConfigError
from lookhear.tasks.windows import LeftOut, shared_span

if TYPE_CHECKING:
    from lookhear.data.store import StoredClip

Modality = Literal["audio", "visual", "both"]
Unit = Literal["clip", "file"]

LACKS: dict[Modality, str] = {
    "audio": "has no sound",
    "visual": "has no picture",
    "both": "has no sound and picture at the same time",
}


@dataclass(frozen=True, kw_only=True)
class WindowChoice:
    """Which windows a clip or a file is judged by."""

    unit: Unit = "clip"
    """clip: each stored clip by itself; file: all clips of a file are one video, of which the windows are averaged"""
    windows: int | None = None
    """so many of each, evenly from its beginning to its end, overlapping where it is short; null: all that fit
    without overlap"""

    def __post_init__(self) -> None:
        if self.windows is not None and self.windows < 1:
            raise ConfigError(f"windows is {self.windows}; it must be at least 1, or null for all that fit")

    def key(self, clip: "StoredClip") -> str:
        """What the unit that `clip` belongs to is called."""
        return clip.clip_id if self.unit == "clip" else clip.path


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenWindows:
    """The windows of one stored clip."""

    clip: "StoredClip"
    start_seconds: np.ndarray  # float64 (K,), ascending; K is 0 where the file is judged by windows of its other clips


def choose_windows(
    clips: "Sequence[StoredClip]", choice: WindowChoice, *, modality: Modality, window_seconds: float
) -> tuple[list[ChosenWindows], list[LeftOut]]:
    """The windows of `clips` that have the modality, and the clips that have not. Order is kept.

    A clip shorter than a window has one, which reaches beyond it.
    """
    left_out = [
        LeftOut(clip_id=clip.clip_id, reason=LACKS[modality]) for clip in clips if modality_span(clip, modality) is None
    ]
    usable = [(clip, span) for clip in clips if (span := modality_span(clip, modality)) is not None]
    if choice.windows is None:
        starts = [_all_that_fit(span, window_seconds) for _, span in usable]
    else:
        starts = [np.zeros(0)] * len(usable)
        for rows in _rows_by_key(choice.key(clip) for clip, _ in usable):
            spread = spread_windows([usable[row][1] for row in rows], window_seconds, choice.windows)
            for row, own in zip(rows, spread, strict=True):
                starts[row] = own
    found = [ChosenWindows(clip=clip, start_seconds=own) for (clip, _), own in zip(usable, starts, strict=True)]
    return found, left_out


def _all_that_fit(span: tuple[float, float], window_seconds: float) -> np.ndarray:
    return disjoint_windows(*span, window_seconds) if num_disjoint(*span, window_seconds) else np.array([span[0]])


def _rows_by_key(keys: Iterable[str]) -> list[list[int]]:
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return list(rows.values())


def spread_windows(spans: Sequence[tuple[float, float]], window_seconds: float, count: int) -> list[np.ndarray]:
    """float64 (K,) for each span of one file: the starts of `count` windows, evenly from its first to its last moment.

    One window lies in the middle. A window that would lie across two spans is moved into the nearer one; those that
    come to lie on one another, as in a file shorter than a window, are one.
    """
    lowest = np.array([start for start, _ in spans])
    highest = np.array([max(start, end - window_seconds) for start, end in spans])
    first, last = lowest.min(), highest.max()
    wanted = np.linspace(first, last, count) if count > 1 else np.array([(first + last) / 2])
    placed = np.clip(wanted[:, None], lowest, highest)  # (count, spans)
    nearest = np.abs(placed - wanted[:, None]).argmin(axis=1)
    return [np.unique(placed[nearest == number, number]) for number in range(len(spans))]


def modality_span(stored: "StoredClip", modality: Modality) -> tuple[float, float] | None:
    """The range in which `stored` has the modality, None where it has not."""
    if modality == "both":
        return shared_span(stored)
    if modality == "audio":
        return stored.sound_span if stored.has_sound else None
    return stored.picture_span if stored.has_picture else None
