"""Naming a long file from a few of its moments: only these are decoded and pass the model.

N moments of the file, m that are read at once, D width of a feature.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.data.vectors import Part
from lookhear.data.windows import Span, WindowPlan, Windows
from lookhear.errors import CheckpointError, MediaError
from lookhear.media.decode import MediaFile, open_media
from lookhear.models.checkpoint import LoadedCheckpoint
from lookhear.models.skimmer import STREAMS, Moments, Selection, Skim, Skimmer
from lookhear.models.transformer import Stream
from lookhear.tasks.labels.moments import DEFAULT_THRESHOLD, LabelledMoment, check_choice
from lookhear.tasks.labels.skimming import load_skimmer, moments_used

if TYPE_CHECKING:
    from lookhear.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class SkimmedFile:
    """What a file was named, and what that took."""

    # of the whole file, the likeliest first; their peak is the middle of the moment that was looked at most
    labels: tuple[LabelledMoment, ...]
    moments: int  # windows that classification of all of it would decode
    heard: int  # of these, how many were listened to
    seen: int  # of how many the picture was decoded
    chosen_seconds: tuple[float, ...]  # the starts of those that were chosen, in the order of the file
    seconds: float  # of wall time, for decoding and models; loading is not in it
    dense_seconds: float  # the same for all moments
    dense_is_measured: bool  # or estimated from one stretch in the middle of the file
    dense_labels: tuple[LabelledMoment, ...] | None  # by all moments, where they were looked at

    @property
    def saved_share(self) -> float:
        """Of the time that all moments take; negative where skimming took longer."""
        return 1.0 - self.seconds / self.dense_seconds


def skim(
    path: str | Path,
    *,
    model: "str | Path | Embedder",
    skimmer: str | Path | LoadedCheckpoint,
    looks: int | None = None,
    top: int = 1,
    threshold: float = DEFAULT_THRESHOLD,
    selection: Selection | None = None,
    measure_dense: bool = False,
) -> SkimmedFile:
    """The `top` labels of a media file that reach `threshold`, from `looks` looks at it (None: as trained).

    `model` is the one whose features the skimmer learned from. Before anything is chosen, the sound of every
    `audio_every`-th moment and the picture of every `visual_every`-th are decoded and embedded (what they are is the
    skimmer's); then those moments that it chooses, one after another. `selection` None: the skimmer's own, but hard
    where its own would need every moment. What all moments would take is timed on one stretch of half a minute, or
    with `measure_dense` on all of the file, whose labels then come with it.

    Raises MediaError for a file that cannot be read or has nothing that the skimmer reads, CheckpointError for a
    model whose features it did not learn from, ConfigError for a `top` or `threshold` that makes no sense.
    """
    check_choice(top, threshold)
    from lookhear.embedder import loaded_model

    embedder = loaded_model(model)
    loaded = skimmer if isinstance(skimmer, LoadedCheckpoint) else load_skimmer(skimmer)
    network = loaded.model
    assert isinstance(network, Skimmer)
    own = network.config.selection
    if selection is None:
        selection = "hard" if own == "soft" and network.config.read == "moments" else own
    with open_media(path) as media:
        file = _File(media, embedder, loaded)
        begun = time.perf_counter()
        with torch.inference_mode():
            found = network(
                file.before_choosing(), looks=looks, selection=selection, noise=torch.full((1, 1), 0.5), read=file.read
            )
        seconds = time.perf_counter() - begun
        used = moments_used(network, found, 0, len(file.starts), policy=network.config.policy, selection=selection)
        dense = file.measure_all() if measure_dense else None
        dense_seconds = file.estimate_all() if dense is None else dense.seconds
    return SkimmedFile(
        labels=_labels(file, found, top, threshold),
        moments=len(file.starts),
        heard=len(used.heard & file.can_have(Stream.AUDIO)),
        seen=len(used.seen & file.can_have(Stream.VISUAL)),
        chosen_seconds=tuple(float(file.starts[place]) for place in sorted(used.chosen)),
        seconds=seconds,
        dense_seconds=dense_seconds,
        dense_is_measured=dense is not None,
        dense_labels=None if dense is None else _labels(file, dense.skim, top, threshold),
    )


@dataclass(frozen=True, kw_only=True)
class _Dense:
    skim: Skim
    seconds: float


class _File:
    """The moments of one open file, decoded and embedded as they are asked for, each once."""

    def __init__(self, media: MediaFile, embedder: "Embedder", loaded: LoadedCheckpoint) -> None:
        facts = loaded.extra.get("features", {})
        if facts.get("fingerprint") != embedder.fingerprint:
            raise CheckpointError(
                "the skimmer learned from features of another model; name the one that embedded its videos (--model)"
            )
        assert isinstance(loaded.model, Skimmer)
        self._media, self._info, self._embedder = media, media.info, embedder
        self.network, self.loaded = loaded.model, loaded
        self._what: Part = facts["what"]
        self._plan: WindowPlan = embedder.plan(hop_seconds=facts["hop_seconds"])
        self.starts = self._plan.starts(self._info)
        self._can = {stream: self._covered(stream) for stream in STREAMS}
        self._known: dict[Stream, dict[int, np.ndarray | None]] = {stream: {} for stream in STREAMS}
        if not any(self._can[stream].any() for stream in self._streams):
            raise MediaError(
                f"'{media.path}' has none of what this skimmer reads ({', '.join(self._streams)}); choose another file"
            )

    @property
    def _streams(self) -> tuple[Stream, ...]:
        return self.network.config.streams

    def can_have(self, stream: Stream) -> frozenset[int]:
        """The moments during which the file has that track."""
        return frozenset(np.flatnonzero(self._can[stream]).tolist())

    def before_choosing(self) -> Moments:
        """What the skimmer sees and hears first; zeros between that."""
        if self.network.config.policy != "uniform":
            for stream in self._streams:
                places = np.arange(0, len(self.starts), self.network.config.every(stream))
                self._look(stream, places[self._can[stream][places]])
        return self._moments()

    def read(self, places: Tensor) -> dict[Stream, Tensor]:
        """The features (1, m, D) of moments (1, m); zeros where one has none."""
        wanted = places[0].tolist()
        for stream in self._streams:
            new = sorted(place for place in set(wanted) if place not in self._known[stream])
            self._look(stream, np.array([place for place in new if self._can[stream][place]], dtype=np.int64))
        return {
            stream: torch.from_numpy(np.stack([self._row(stream, place) for place in wanted]))[None]
            for stream in self._streams
        }

    def measure_all(self) -> _Dense:
        """All moments decoded again, and what they say."""
        self._known = {stream: {} for stream in STREAMS}
        begun = time.perf_counter()
        self._decode(self._plan_of_all(), self._plan_of_all().spans(self._info), range(len(self.starts)))
        with torch.inference_mode():
            skim = self.network(self._moments(), looks=len(self.starts), policy="uniform")
        return _Dense(skim=skim, seconds=time.perf_counter() - begun)

    def estimate_all(self) -> float:
        """Seconds that `measure_all` would take, from the stretch in the middle."""
        plan = self._plan_of_all()
        spans = plan.spans(self._info)
        middle = spans[len(spans) // 2]
        begun = time.perf_counter()
        for _, windows in plan.read(self._media, [middle]):
            for stream in self._streams:
                self._embedder.window_rows(windows, _modality(stream), self._what)
        return (time.perf_counter() - begun) * len(self.starts) / len(middle.start_seconds)

    def _plan_of_all(self) -> WindowPlan:
        return replace(self._plan, sound=Stream.AUDIO in self._streams, picture=Stream.VISUAL in self._streams)

    def _look(self, stream: Stream, places: np.ndarray) -> None:
        """Decodes and embeds one modality of the moments `places` (ascending)."""
        plan = replace(self._plan, sound=stream == Stream.AUDIO, picture=stream == Stream.VISUAL)
        self._decode(plan, plan.spans_at(self._info, self.starts[places]), places.tolist())

    def _decode(self, plan: WindowPlan, spans: Sequence[Span], places: Sequence[int]) -> None:
        waiting = iter(places)
        for _, windows in plan.read(self._media, spans):
            own = [next(waiting) for _ in range(len(windows))]
            for stream in self._streams:
                if (plan.sound if stream == Stream.AUDIO else plan.picture) and len(windows):
                    self._keep(stream, own, windows)

    def _keep(self, stream: Stream, places: Sequence[int], windows: Windows) -> None:
        rows = self._embedder.window_rows(windows, _modality(stream), self._what)
        for number, place in enumerate(places):
            row = None if rows is None else rows[number]
            self._known[stream][place] = None if row is None or not np.isfinite(row).all() else row

    def _moments(self) -> Moments:
        """Everything that is known; a moment that was not looked at is taken to have what its tracks cover."""
        features, has = {}, {}
        for stream in self._streams:
            features[stream] = torch.from_numpy(np.stack([self._row(stream, n) for n in range(len(self.starts))]))[None]
            there = self._can[stream].copy()
            for place, row in self._known[stream].items():
                there[place] = row is not None
            has[stream] = torch.from_numpy(there)[None]
        return Moments(features=features, has=has)

    def _row(self, stream: Stream, place: int) -> np.ndarray:
        row = self._known[stream].get(place)
        return np.zeros(self.network.config.width(stream), np.float32) if row is None else row

    def _covered(self, stream: Stream) -> np.ndarray:
        """bool (N,): the moments that a track reaches into."""
        track: Any = self._info.audio if stream == Stream.AUDIO else self._info.video
        if track is None:
            return np.zeros(len(self.starts), bool)
        ends = self.starts + self._embedder.window_seconds
        return (self.starts < track.end_seconds) & (ends > track.start_seconds)

    def labelled(self, label: str, score: float, peak: int) -> LabelledMoment:
        """A label of the whole file."""
        middle = min(float(self.starts[peak]) + self._embedder.window_seconds / 2, self._info.end_seconds)
        return LabelledMoment(
            label=label,
            start_seconds=self._info.start_seconds,
            end_seconds=self._info.end_seconds,
            peak_seconds=middle,
            score=score,
        )


def _modality(stream: Stream) -> Literal["audio", "visual"]:
    return "audio" if stream == Stream.AUDIO else "visual"


def _labels(file: _File, skim: Skim, top: int, threshold: float) -> tuple[LabelledMoment, ...]:
    names, logits = file.loaded.labels, skim.logits[0]
    if len(names) != len(logits):
        raise CheckpointError(f"the skimmer has {len(logits)} classes and names {len(names)} of them; train it anew")
    several = file.loaded.extra.get("objective", {}).get("loss") == "bce"
    scores = (logits.sigmoid() if several else logits.softmax(dim=0)).tolist()
    ranked = sorted(range(len(names)), key=lambda number: (-scores[number], names[number]))
    return tuple(
        file.labelled(names[number], scores[number], _peak(file, skim, number))
        for number in ranked[:top]
        if scores[number] >= threshold
    )


@torch.inference_mode()
def _peak(file: _File, skim: Skim, label: int) -> int:
    """The moment with the most attention; where there is none, the one that speaks most for the label."""
    if skim.glances:
        return int(torch.stack([glance.mixed[0] for glance in skim.glances]).sum(dim=0).argmax())
    if not skim.chosen.shape[1]:  # one look, which was the overview
        return len(file.starts) // 2
    scores = file.network.head(skim.fused[0])[:, label].masked_fill(~skim.counted[0], -torch.inf)
    return int(skim.chosen[0, int(scores.argmax())])
