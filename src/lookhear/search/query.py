"""A query, and the moments of a library that match it.

A sound of any length becomes a sequence of windows, a picture one vector, a clip both. Each library modality that is
searched gives one piece of evidence: its cosine with the query's own modality where the query has it, otherwise with
the other one. Cosines become surprise (`calibration.py`), the pieces are combined, neighbours merge into hits.

The moments of the library lie on a grid of one hop, and a query may begin anywhere between two of them. So its windows
are cut in several phases, fractions of a hop apart, and the phase that fits best counts: it compares windows that lie
almost at the same place, and its peak is as exact. A short query has the most phases, for it needs them most.

Of several examples every one says how well each moment matches, when the middle of the example is laid on the middle of
the moment, and their scores are averaged: by p1, ..., pn of n examples, however they depend on each other, a random
pair is as surprising at most e times as often as the mean says (Vovk and Wang 2020, geometric mean), and an example
that is given twice changes nothing. A counter-example takes away what it matches better than a median pair does.
"""

import dataclasses
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.embedder import Embedder, Embeddings
from lookhear.errors import IndexStateError, MediaError
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe
from lookhear.search.calibration import NEUTRAL_SURPRISE, Calibration, combined_surprise
from lookhear.search.filters import Where, narrowed
from lookhear.search.library import (
    Alignments,
    Library,
    LibraryFile,
    Modality,
    Span,
    alignments_of,
    merge_alignments,
    sequence_similarities,
)

if TYPE_CHECKING:
    import pandas

Within = Literal["sound", "picture", "both"]
# Of a longer file only the beginning is a query.
MAX_QUERY_SECONDS = 120.0
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


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in the library a query comes from."""

    file_id: str
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One example of what is looked for."""

    phases: tuple[Phase, ...]
    span_seconds: float  # what the query covers of a file, at least one window
    note: str = ""  # what of the file was left out
    place: Place | None = None  # of an example that is a moment of the library, which is no answer to itself


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
    asked of it. A clip that has only sound or only picture is a query by that one. Of a file longer than
    `MAX_QUERY_SECONDS` the beginning is the query, and its note says so.
    """
    given = [name for name, value in (("sound", sound), ("picture", picture), ("clip", clip)) if value is not None]
    if len(given) != 1:
        raise IndexStateError(
            f"search by one of sound, picture and clip, not by {' and '.join(given) or 'nothing'}; "
            "a clip is searched by its sound and its picture together"
        )
    if picture is not None:
        return picture_query(embedder.embed_picture(picture), window_seconds=embedder.window_seconds)
    path = sound if sound is not None else clip
    assert path is not None
    plan = plan_query(probe(path), window_seconds=embedder.window_seconds, hop_seconds=hop_seconds, name=str(path))
    embed = embedder.embed_sound if sound is not None else embedder.embed
    embeddings = embed(path, hop_seconds=plan.step_seconds, end_seconds=plan.end_seconds)
    query = query_of(embeddings, plan, window_seconds=embedder.window_seconds)
    if query is None:
        what = "sound" if sound is not None else "sound and no picture"
        raise MediaError(f"'{path}' has no {what} to search by; give another file")
    return query


@dataclass(frozen=True, kw_only=True)
class QueryPlan:
    """Which windows of a file are a query."""

    num_phases: int
    step_seconds: float  # from one window to the next
    end_seconds: float | None  # where the query ends, on the file's clock; None: with the file
    note: str  # what of the file is left out, if anything


def plan_query(info: MediaInfo, *, window_seconds: float, hop_seconds: float, name: str) -> QueryPlan:
    """How a file is cut to be a query of an index with this hop; `name` is what the note calls it."""
    seconds, end, note = info.end_seconds - info.start_seconds, None, ""
    if seconds > MAX_QUERY_SECONDS:
        end = info.start_seconds + MAX_QUERY_SECONDS
        note = (
            f"'{name}' lasts {seconds:.0f} s, which is more than a query of {MAX_QUERY_SECONDS:.0f} s: "
            "only its beginning is searched for; cut out the part that matters"
        )
    num_phases = _num_phases(min(seconds, MAX_QUERY_SECONDS), window_seconds, hop_seconds)
    return QueryPlan(num_phases=num_phases, step_seconds=hop_seconds / num_phases, end_seconds=end, note=note)


def query_of(embeddings: Embeddings, plan: QueryPlan, *, window_seconds: float) -> Query | None:
    """The query of a file's windows, `plan.step_seconds` apart; None where none has sound or picture."""
    phases = _phases(embeddings, plan.num_phases, plan.step_seconds)
    if not phases:
        return None
    length = float(embeddings.end_seconds[-1] - embeddings.start_seconds[0])
    return Query(phases=phases, span_seconds=max(length, window_seconds), note=plan.note)


def picture_query(vector: np.ndarray, *, window_seconds: float) -> Query:
    """The query of one picture, of its vector (E,) of unit length."""
    sequence = Sequence(vectors=torch.from_numpy(np.ascontiguousarray(vector[None])), offset_seconds=np.zeros(1))
    return Query(phases=(Phase(start_seconds=0.0, picture=sequence),), span_seconds=window_seconds)


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


def evenly(rows: np.ndarray) -> np.ndarray:
    """At most `MAX_QUERY_WINDOWS` of `rows`, evenly spread."""
    if len(rows) <= MAX_QUERY_WINDOWS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, MAX_QUERY_WINDOWS).round().astype(np.int64)]


def _sequence(
    vectors: np.ndarray | None, start_seconds: np.ndarray, chosen: np.ndarray, origin: float
) -> Sequence | None:
    if vectors is None:
        return None
    present = evenly(chosen[~np.isnan(vectors[chosen, 0])])
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asking:
    """What a search compares, and how."""

    library: Library
    calibrate: Calibrate
    modalities: tuple[Modality, ...]  # of the library
    balance: float


def find_moments(
    library: Library,
    query: Query | Several[Query],
    calibrate: Calibrate,
    *,
    against: Several[Query] = (),
    within: Within = "both",
    balance: float = 0.5,
    where: Where | None = None,
    top: int = 10,
    page: int = 1,
    at_least: float | None = None,
) -> list[Hit]:
    """Page number `page` of `top` hits each, best first; equal ones in the order of path and start.

    `query` is one example or several, `against` are counter-examples; what is more like one of these than like the
    examples is no hit. `within` says what of the library is compared. `balance`, 0 to 1, is the share of the library's
    sound in the score where both are: 1 leaves its pictures out, 0 its sound. `where` says which files are searched. A
    hit has a score of `at_least`; an empty library has none.
    """
    if within not in ("sound", "picture", "both"):
        raise IndexStateError(f"'{within}' cannot be searched; within is sound, picture or both")
    if not 0.0 <= balance <= 1.0:
        raise IndexStateError(f"balance is {balance}; it must be from 0 (picture only) to 1 (sound only)")
    if top < 1 or page < 1:
        raise IndexStateError(f"top is {top} and page {page}; ask for at least one hit, and pages from 1 on")
    if not len(library):
        return []
    examples = [query] if isinstance(query, Query) else list(query)
    files, passes = narrowed(library.files, where)
    modalities: tuple[Modality, ...] = ("sound", "picture") if within == "both" else (within,)
    asking = _Asking(library=library, calibrate=calibrate, modalities=modalities, balance=balance)
    if len(examples) == 1 and not against:
        file_rank, match, span = _anywhere(asking, examples[0])
    else:
        file_rank, match, span = _on_moments(asking, examples, against)
    hidden = ~passes[file_rank]
    for place in (each.place for each in (*examples, *against) if each.place is not None):
        own = np.array([file.file_id == place.file_id for file in library.files])[file_rank]
        hidden |= own & (match.start_seconds < place.end_seconds) & (match.start_seconds + span > place.start_seconds)
    match = replace(match, score=np.where(hidden, np.nan, match.score))
    alignments = Alignments(file_rank=file_rank, start_seconds=match.start_seconds)
    spans = merge_alignments(library, alignments, match.score, match.cosine, span_seconds=span, top=page * top)
    hits = [_hit(files[each.file_rank], match, each) for each in spans[(page - 1) * top :]]
    return [hit for hit in hits if at_least is None or hit.score >= at_least]


def _anywhere(asking: _Asking, query: Query) -> "tuple[np.ndarray, _Match, float]":
    """The file of every alignment, what the query makes of it, and how long it is."""
    parts = [part for phase in query.phases for part in (phase.sound, phase.picture) if part is not None]
    alignments = alignments_of(asking.library, max(float(part.offset_seconds[-1]) for part in parts))
    best: _Match | None = None
    for phase, evidence in zip(query.phases, _evidence(asking, alignments, query.phases), strict=True):
        match = _match(alignments.start_seconds - phase.start_seconds, evidence, asking.balance)
        best = match if best is None else _better(best, match)
    assert best is not None
    return alignments.file_rank, best, query.span_seconds


def _on_moments(
    asking: _Asking, examples: Several[Query], against: Several[Query]
) -> "tuple[np.ndarray, _Match, float]":
    """The same for several examples: every alignment is a moment of the library, of which the middle counts."""
    library = asking.library
    middle = (library.start_seconds + library.end_seconds) / 2
    span = min(query.span_seconds for query in examples)
    found = [_around(asking, query, middle) for query in examples]
    score = np.stack([each.score for each in found])
    nothing = np.isnan(score).all(axis=0)
    told = np.where(np.isnan(score), NEUTRAL_SURPRISE, score)
    mean = np.where(nothing, np.nan, told.mean(axis=0))
    best = np.nan_to_num(score, nan=-1.0).argmax(axis=0)
    columns = np.arange(len(library))
    if against:
        less = np.max([np.nan_to_num(_around(asking, query, middle).score) for query in against], axis=0)
        mean = np.where(
            (less > NEUTRAL_SURPRISE) & (less >= mean), np.nan, mean - np.maximum(less - NEUTRAL_SURPRISE, 0)
        )
    return (
        library.file_rank,
        _Match(
            start_seconds=middle - span / 2,
            score=mean,
            cosine=np.stack([each.cosine for each in found])[best, columns],
            matched=np.stack([each.matched for each in found])[best, columns],
        ),
        span,
    )


def _around(asking: _Asking, query: Query, middle: np.ndarray) -> "_Match":
    """What `query` makes of the places around `middle` (M,), of one moment each, in its best phase."""
    start = middle - query.span_seconds / 2
    best: _Match | None = None
    for phase in query.phases:
        alignments = Alignments(file_rank=asking.library.file_rank, start_seconds=start + phase.start_seconds)
        match = _match(start, next(_evidence(asking, alignments, [phase])), asking.balance)
        best = match if best is None else _better(best, match)
    assert best is not None
    return best


def _evidence(asking: _Asking, alignments: Alignments, phases: Several[Phase]) -> Iterator[list[_Evidence]]:
    """For each phase what each library modality says."""
    told = []
    for searched in asking.modalities:
        calibrations, sequences = [], []
        for phase in phases:
            asked, sequence = searched, phase.sequence(searched)
            if sequence is None:
                asked = "picture" if searched == "sound" else "sound"
                sequence = phase.sequence(asked)
            assert sequence is not None
            calibration = asking.calibrate(asked, searched, sequence.offset_seconds)
            calibrations.append(calibration)
            sequences.append((sequence.vectors, sequence.offset_seconds, calibration.mean))
        cosines = sequence_similarities(asking.library, alignments, searched, sequences)
        told.append((searched, calibrations, cosines))
    for number in range(len(phases)):
        evidence = []
        for searched, calibrations, cosines in told:
            cosine, calibration = next(cosines), calibrations[number]
            evidence.append(
                _Evidence(
                    modality=searched,
                    cosine=cosine,
                    surprise=calibration.surprise(cosine),
                    weight=calibration.weight,
                )
            )
        yield evidence


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


def _hit(file: LibraryFile, match: _Match, span: Span) -> Hit:
    return Hit(
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


def hits_frame(hits: Several[Hit]) -> "pandas.DataFrame":
    """The hits as a pandas frame, a row each in their order, a column for every field of `Hit`.

    Raises IndexStateError where pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise IndexStateError(
            "a frame needs pandas, which is not installed; run `python -m pip install 'lookhear[frames]'`"
        ) from None
    columns = [field.name for field in dataclasses.fields(Hit)]
    rows: list[list[Any]] = [[getattr(hit, name) for name in columns] for hit in hits]
    return pandas.DataFrame(rows, columns=columns)
