"""A query, and the moments of a library that match it.

A sound of any length becomes a sequence of windows, a picture one vector, a clip both. Each library modality that is
searched gives one piece of evidence: its cosine with the query's own modality where the query has it, otherwise with
the other one. Cosines become surprise (`calibration.py`), the pieces are combined, neighbours merge into hits.

The moments of the library lie on a grid of one hop, and a query may begin anywhere between two of them. So its windows
are cut in several phases, fractions of a hop apart, and the phase that fits best counts: it compares windows that lie
almost at the same place, and its peak is as exact. A short query has the most phases, for it needs them most.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.embedder import Embedder, Embeddings
from lookhear.errors import IndexStateError, MediaError
from lookhear.media.probe import probe
from lookhear.search.calibration import Calibration, combined_surprise
from lookhear.search.library import (
    Alignments,
    Library,
    Modality,
    alignments_of,
    merge_alignments,
    sequence_similarity,
)

Within = Literal["sound", "picture", "both"]
# A longer query is compared by this many of its windows (in each phase), evenly spread.
MAX_QUERY_WINDOWS = 32
# Phases are as many as this number of windows of the query allows, and not nearer than a spectrogram frame.
MAX_QUERY_EMBEDDINGS = 128
_PHASE_CHOICES = (32, 16, 8, 4, 2, 1)
_LEAST_STEP_SECONDS = 0.01
# The lesser piece of evidence counts as a match of its own from this share of all the evidence on.
BOTH_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A moment of the library that matches the query."""

    path: str
    start_seconds: float  # on the file's clock; of all neighbouring moments that match about as well as the best
    end_seconds: float
    peak_seconds: float  # the centre of the span that matches best
    # -log10 of how often a random pair of the library matches as well: 3 is one in a thousand
    score: float
    cosine: float  # with the query, mean over its windows, in the modality that matched (more)
    matched: Literal["sound", "picture", "both"]  # what of the library matched
    status: str  # of the file: ok, sound_only, picture_only or partial
    copies: tuple[str, ...] = ()  # other files of the library with the very same bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """One modality of a query: K windows and where they lie in it."""

    vectors: Tensor  # float32 (K, E), unit length
    offset_seconds: np.ndarray  # float64 (K,), ascending, from the start of the phase


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """The windows of a query that begin `start_seconds` after it does, and every hop from there."""

    start_seconds: float
    # All phases of a query have the same modalities, at least one.
    sound: Sequence | None = None
    picture: Sequence | None = None

    def sequence(self, modality: Modality) -> Sequence | None:
        """The windows of one modality."""
        return self.sound if modality == "sound" else self.picture


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """What is looked for."""

    phases: tuple[Phase, ...]
    span_seconds: float  # what the query covers of a file, at least one window


# Gives the calibration of (query modality, library modality, offsets); an index keeps those that it has made.
Calibrate = Callable[[Modality, Modality, np.ndarray], Calibration]


def make_query(
    embedder: Embedder,
    *,
    sound: str | Path | None = None,
    picture: str | Path | None = None,
    clip: str | Path | None = None,
    hop_seconds: float,
) -> Query:
    """The query of one media file.

    Raises IndexStateError unless exactly one is given, MediaError for a file that cannot be read or lacks what is
    asked of it. A clip that has only sound or only picture is a query by that one.
    """
    given = [name for name, value in (("sound", sound), ("picture", picture), ("clip", clip)) if value is not None]
    if len(given) != 1:
        raise IndexStateError(
            f"search by one of sound, picture and clip, not by {' and '.join(given) or 'nothing'}; "
            "a clip is searched by its sound and its picture together"
        )
    if picture is not None:
        vector = torch.from_numpy(np.ascontiguousarray(embedder.embed_picture(picture)[None]))
        sequence = Sequence(vectors=vector, offset_seconds=np.zeros(1))
        return Query(phases=(Phase(start_seconds=0.0, picture=sequence),), span_seconds=embedder.window_seconds)
    path = sound if sound is not None else clip
    assert path is not None
    info = probe(path)
    num_phases = _num_phases(info.end_seconds - info.start_seconds, embedder.window_seconds, hop_seconds)
    embed = embedder.embed_sound if sound is not None else embedder.embed
    embeddings = embed(path, hop_seconds=hop_seconds / num_phases)
    phases = _phases(embeddings, num_phases, hop_seconds / num_phases)
    if not phases:
        what = "sound" if sound is not None else "sound and no picture"
        raise MediaError(f"'{path}' has no {what} to search by; give another file")
    length = float(embeddings.end_seconds[-1] - embeddings.start_seconds[0])
    return Query(phases=phases, span_seconds=max(length, embedder.window_seconds))


def _num_phases(seconds: float, window_seconds: float, hop_seconds: float) -> int:
    hops = max(0.0, seconds - window_seconds) / hop_seconds
    for count in _PHASE_CHOICES:
        if hops * count + 1 <= MAX_QUERY_EMBEDDINGS and hop_seconds / count >= _LEAST_STEP_SECONDS:
            return count
    return 1


def _phases(embeddings: Embeddings, num_phases: int, step: float) -> tuple[Phase, ...]:
    """The phases that have every modality that any of them has."""
    start = embeddings.start_seconds - embeddings.start_seconds[0]
    place = np.round(start / step).astype(np.int64)
    on_grid = np.abs(start - place * step) < 1e-3  # the last window may be elsewhere, flush with the end
    phases = []
    for number in range(num_phases):
        chosen = np.flatnonzero(on_grid & (place % num_phases == number))
        phases.append(
            Phase(
                start_seconds=number * step,
                sound=_sequence(embeddings.audio, start, chosen, number * step),
                picture=_sequence(embeddings.visual, start, chosen, number * step),
            )
        )
    with_sound = any(phase.sound for phase in phases)
    with_picture = any(phase.picture for phase in phases)
    return tuple(
        phase
        for phase in phases
        if (phase.sound or phase.picture)
        and (phase.sound is not None) == with_sound
        and (phase.picture is not None) == with_picture
    )


def _sequence(
    vectors: np.ndarray | None, start_seconds: np.ndarray, chosen: np.ndarray, origin: float
) -> Sequence | None:
    if vectors is None:
        return None
    present = chosen[~np.isnan(vectors[chosen, 0])]
    if len(present) > MAX_QUERY_WINDOWS:
        present = present[np.linspace(0, len(present) - 1, MAX_QUERY_WINDOWS).round().astype(np.int64)]
    if not len(present):
        return None
    # Whole milliseconds, so that phases of the same shape share a calibration.
    return Sequence(
        vectors=torch.from_numpy(vectors[present]), offset_seconds=np.round(start_seconds[present] - origin, 3)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evidence:
    """What one library modality says about every alignment."""

    modality: Modality  # of the library
    cosine: np.ndarray  # float32 (C,), NaN where there is nothing to compare
    surprise: np.ndarray  # float64 (C,), NaN likewise
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Match:
    """What a query, or one phase of it, makes of every alignment."""

    start_seconds: np.ndarray  # float64 (C,): where the query then begins
    score: np.ndarray  # float64 (C,), NaN where there is nothing to compare
    cosine: np.ndarray  # float32 (C,): of the modality that says most
    matched: np.ndarray  # int64 (C,): an index into _MATCHED


_MATCHED: tuple[Literal["sound", "picture", "both"], ...] = ("sound", "picture", "both")


def find_moments(
    library: Library,
    query: Query,
    calibrate: Calibrate,
    *,
    within: Within = "both",
    balance: float = 0.5,
    top: int = 10,
) -> list[Hit]:
    """The best `top` hits, best first; equal ones in the order of path and start. An empty library has none.

    `within` says what of the library is compared. `balance`, 0 to 1, is the share of the library's sound in the score
    where both are: 1 leaves its pictures out, 0 its sound.
    """
    if within not in ("sound", "picture", "both"):
        raise IndexStateError(f"'{within}' cannot be searched; within is sound, picture or both")
    if not 0.0 <= balance <= 1.0:
        raise IndexStateError(f"balance is {balance}; it must be from 0 (picture only) to 1 (sound only)")
    if top < 1:
        raise IndexStateError(f"top is {top}; ask for at least one hit")
    if not len(library):
        return []
    parts = [part for phase in query.phases for part in (phase.sound, phase.picture) if part is not None]
    alignments = alignments_of(library, max(float(part.offset_seconds[-1]) for part in parts))
    modalities: tuple[Modality, ...] = ("sound", "picture") if within == "both" else (within,)
    best: _Match | None = None
    for phase in query.phases:
        evidence = [_evidence(library, alignments, phase, modality, calibrate) for modality in modalities]
        match = _match(alignments.start_seconds - phase.start_seconds, evidence, balance)
        best = match if best is None else _better(best, match)
    assert best is not None
    placed = Alignments(file_rank=alignments.file_rank, start_seconds=best.start_seconds)
    return _hits(library, placed, best, query.span_seconds, top)


def _evidence(
    library: Library, alignments: Alignments, phase: Phase, searched: Modality, calibrate: Calibrate
) -> _Evidence:
    asked = searched
    sequence = phase.sequence(searched)
    if sequence is None:
        asked = "picture" if searched == "sound" else "sound"
        sequence = phase.sequence(asked)
    assert sequence is not None
    calibration = calibrate(asked, searched, sequence.offset_seconds)
    cosine = sequence_similarity(
        library, alignments, searched, sequence.vectors, sequence.offset_seconds, neutral=calibration.mean
    )
    return _Evidence(modality=searched, cosine=cosine, surprise=calibration.surprise(cosine), weight=calibration.weight)


def _match(start_seconds: np.ndarray, evidence: list[_Evidence], balance: float) -> _Match:
    if len(evidence) == 1:
        only = evidence[0]
        matched = np.full(len(start_seconds), _MATCHED.index(only.modality))
        return _Match(start_seconds=start_seconds, score=only.surprise, cosine=only.cosine, matched=matched)
    sound, picture = evidence
    weights = [2.0 * balance * sound.weight, 2.0 * (1.0 - balance) * picture.weight]
    if max(weights) == 0.0:  # what the balance leaves is not known to be worth anything; it is all there is
        weights = [balance, 1.0 - balance]
    told = [weight * np.nan_to_num(each.surprise) for weight, each in zip(weights, evidence, strict=True)]
    both = np.minimum(*told) >= np.maximum(BOTH_SHARE * (told[0] + told[1]), 1e-9)
    # Where neither says anything, the modality that is there.
    leads = (told[1] > told[0]) | np.isnan(sound.cosine)
    return _Match(
        start_seconds=start_seconds,
        score=combined_surprise(sound.surprise, weights[0], picture.surprise, weights[1]),
        cosine=np.where(leads, picture.cosine, sound.cosine),
        matched=np.where(both, 2, np.where(leads, 1, 0)),
    )


def _better(one: _Match, other: _Match) -> _Match:
    """The better of two phases at every alignment, the first of equal ones."""
    takes = (other.score > one.score) | ((other.score == one.score) & (other.cosine > one.cosine))
    takes |= np.isnan(one.score) & ~np.isnan(other.score)
    return _Match(
        start_seconds=np.where(takes, other.start_seconds, one.start_seconds),
        score=np.where(takes, other.score, one.score),
        cosine=np.where(takes, other.cosine, one.cosine),
        matched=np.where(takes, other.matched, one.matched),
    )


def _hits(library: Library, alignments: Alignments, match: _Match, span_seconds: float, top: int) -> list[Hit]:
    spans = merge_alignments(library, alignments, match.score, match.cosine, span_seconds=span_seconds, top=top)
    hits = []
    for span in spans:
        file = library.files[span.file_rank]
        hits.append(
            Hit(
                path=str(file.path),
                start_seconds=span.start_seconds,
                end_seconds=span.end_seconds,
                peak_seconds=span.peak_seconds,
                score=float(match.score[span.peak]),
                cosine=float(match.cosine[span.peak]),
                matched=_MATCHED[int(match.matched[span.peak])],
                status=file.status,
                copies=tuple(map(str, file.copies)),
            )
        )
    return hits
