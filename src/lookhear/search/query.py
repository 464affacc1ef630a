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
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from lookhear.errors import IndexStateError
from lookhear.search.calibration import NEUTRAL_SURPRISE, Calibration, combined_surprise, score_of
from lookhear.search.filters import Where, narrowed
from lookhear.search.labelled import labels_between
from lookhear.search.library import (
    LIKENESS,
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
# The lesser piece of evidence counts as a match of its own from this share of all the evidence on.
BOTH_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A moment of the library that matches the query."""

    path: str
    start_seconds: float  # on the file's clock; of all neighbouring moments that match about as well as the best
    end_seconds: float
    peak_seconds: float  # the centre of the span that matches best
    # -log10 of how often a random pair of the library matches as well: 3 is one in a thousand; beyond 5, which no
    # sample reaches, only which matches better, below 8
    score: float
    # with the query, mean over its windows, in the modality that matched (more): of the model's embeddings and, within
    # one modality, of the plain descriptions, by the shares that `likeness` gives them
    cosine: float
    matched: Literal["sound", "picture", "both"]  # what of the library matched
    status: str  # of the file: ok, sound_only, picture_only or partial
    copies: tuple[str, ...] = ()  # other files of the library with the very same bytes
    labels: tuple[str, ...] = ()  # that a classifier gave to any of its seconds, the most probable first


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequence:
    """One modality of a query: K windows and where they lie in it."""

    vectors: Tensor  # float32 (K, E), as an index stores them (`likeness.py`)
    offset_seconds: np.ndarray  # float64 (K,), ascending, from the start of the phase


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """The windows of a query that begin `start_seconds` after it does, and every hop from there."""

    start_seconds: float
    # All phases of a query have the same modalities, at least one.
    sound: Sequence | None = None
    picture: Sequence | None = None

    def asks(self, searched: Modality) -> tuple[Modality, Sequence]:
        """What a library's modality is compared with: the query's own where it has it, otherwise the other one."""
        here: tuple[Modality, Sequence | None] = ("sound", self.sound)
        there: tuple[Modality, Sequence | None] = ("picture", self.picture)
        for modality, sequence in (here, there) if searched == "sound" else (there, here):
            if sequence is not None:
                return modality, sequence
        raise AssertionError("a phase has a modality")


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

    @property
    def longest_offset_seconds(self) -> float:
        """From the first window of a phase to its last."""
        parts = [part for phase in self.phases for part in (phase.sound, phase.picture) if part is not None]
        return max(float(part.offset_seconds[-1]) for part in parts)


# Gives the calibration of (query modality, library modality, offsets); an index keeps those that it has made.
Calibrate = Callable[[Modality, Modality, np.ndarray], Calibration]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evidence:
    """What one library modality says about every alignment."""

    modality: Modality  # of the library
    cosine: np.ndarray  # float32 (C,), NaN where there is nothing to compare
    surprise: np.ndarray  # float64 (C,), NaN likewise
    nearness: np.ndarray  # float64 (C,), NaN likewise
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Match:
    """What a query, or one phase of it, makes of every alignment."""

    start_seconds: np.ndarray  # float64 (C,): where the query then begins
    score: np.ndarray  # float64 (C,), NaN where there is nothing to compare
    nearness: np.ndarray  # float64 (C,), likewise: by which neighbours are one hit
    cosine: np.ndarray  # float32 (C,): of the modality that says most
    matched: np.ndarray  # int64 (C,): an index into _MATCHED


_MATCHED: tuple[Literal["sound", "picture", "both"], ...] = ("sound", "picture", "both")


@dataclass(frozen=True, kw_only=True, eq=False)
class Terms:
    """What a search asks for; `find_moments` says what each means. Raises IndexStateError where that is impossible."""

    examples: tuple[Query, ...]
    against: tuple[Query, ...] = ()
    within: Within = "both"
    balance: float = 0.5
    likeness: float = LIKENESS
    where: Where | None = None
    top: int = 10
    page: int = 1
    at_least: float | None = None

    def __post_init__(self) -> None:
        if self.within not in ("sound", "picture", "both"):
            raise IndexStateError(f"'{self.within}' cannot be searched; within is sound, picture or both")
        if not 0.0 <= self.balance <= 1.0:
            raise IndexStateError(f"balance is {self.balance}; it must be from 0 (picture only) to 1 (sound only)")
        if not 0.0 <= self.likeness <= 1.0:
            raise IndexStateError(
                f"likeness is {self.likeness}; it must be from 0 (only what a moment means) to 1 (only its looks)"
            )
        check_page(self.top, self.page)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What of the library is compared."""
        return ("sound", "picture") if self.within == "both" else (self.within,)

    @property
    def is_anywhere(self) -> bool:
        """Whether the query may begin between two moments; several examples are laid on each moment instead."""
        return len(self.examples) == 1 and not self.against

    @property
    def reach_seconds(self) -> float:
        """Of the longest query."""
        return max(query.span_seconds for query in (*self.examples, *self.against))

    @property
    def num_spans(self) -> int:
        """How many hits must be known to answer."""
        return self.page * self.top


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asking:
    """What a search compares, and how."""

    library: Library
    calibrate: Calibrate
    terms: Terms


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The best spans of a library, from the first page to the one that is asked for."""

    spans: list[Span]
    files: list[LibraryFile]  # as they are to be named
    match: "_Match"
    # Of the longest query, what lies on either side of a span.
    overhang_seconds: float

    def score(self, span: Span) -> float:
        """Of its peak."""
        return float(self.match.score[span.peak])

    def hits(self, terms: Terms) -> list[Hit]:
        """The page that is asked for."""
        spans = self.spans[(terms.page - 1) * terms.top :]
        hits = [_hit(self.files[span.file_rank], self.match, span) for span in spans]
        return [hit for hit in hits if terms.at_least is None or hit.score >= terms.at_least]


def check_page(top: int, page: int) -> None:
    """Raises IndexStateError for pages that cannot be asked for."""
    if top < 1 or page < 1:
        raise IndexStateError(f"top is {top} and page {page}; ask for at least one hit, and pages from 1 on")


def find_moments(
    library: Library,
    query: Query | Several[Query],
    calibrate: Calibrate,
    *,
    against: Several[Query] = (),
    within: Within = "both",
    balance: float = 0.5,
    likeness: float = LIKENESS,
    where: Where | None = None,
    top: int = 10,
    page: int = 1,
    at_least: float | None = None,
) -> list[Hit]:
    """Page number `page` of `top` hits each, best first; equal ones in the order of path and start.

    `query` is one example or several, `against` are counter-examples; what is more like one of these than like the
    examples is no hit. `within` says what of the library is compared. `balance`, 0 to 1, is the share of the library's
    sound in the score where both are: 1 leaves its pictures out, 0 its sound. `likeness`, 0 to 1, is the share of the
    plain description where sound is compared with sound or picture with picture: 1 finds this very shot, 0 what the
    model takes for the same; across the two it plays no part. `where` says which files are searched. A
    hit has a score of `at_least`; an empty library has none.
    """
    terms = Terms(
        examples=(query,) if isinstance(query, Query) else tuple(query),
        against=tuple(against),
        within=within,
        balance=balance,
        likeness=likeness,
        where=where,
        top=top,
        page=page,
        at_least=at_least,
    )
    return find_spans(library, terms, calibrate).hits(terms) if len(library) else []


def find_spans(library: Library, terms: Terms, calibrate: Calibrate) -> Found:
    """The best `terms.num_spans` spans of a library that is not empty."""
    files, passes = narrowed(library.files, terms.where)
    asking = _Asking(library=library, calibrate=calibrate, terms=terms)
    file_rank, match, span = _anywhere(asking) if terms.is_anywhere else _on_moments(asking)
    hidden = ~passes[file_rank]
    for place in (each.place for each in (*terms.examples, *terms.against) if each.place is not None):
        own = np.array([file.file_id == place.file_id for file in library.files])[file_rank]
        hidden |= own & (match.start_seconds < place.end_seconds) & (match.start_seconds + span > place.start_seconds)
    overhang = 0.5 * (terms.reach_seconds - span)
    hidden |= ~library.holds(file_rank, match.start_seconds - overhang, match.start_seconds + span + overhang)
    if terms.where is not None:
        hidden |= ~terms.where.passes_moments(library.files, file_rank, match.start_seconds, match.start_seconds + span)
    match = replace(match, score=np.where(hidden, np.nan, match.score))
    alignments = Alignments(file_rank=file_rank, start_seconds=match.start_seconds)
    spans = merge_alignments(
        library, alignments, match.score, match.nearness, match.cosine, span_seconds=span, top=terms.num_spans
    )
    return Found(spans=spans, files=files, match=match, overhang_seconds=overhang)


def _anywhere(asking: _Asking) -> "tuple[np.ndarray, _Match, float]":
    """The file of every alignment, what the one query makes of it, and how long it is."""
    (query,) = asking.terms.examples
    alignments = alignments_of(asking.library, query.longest_offset_seconds)
    best: _Match | None = None
    for phase, evidence in zip(query.phases, _evidence(asking, alignments, query.phases), strict=True):
        match = _match(alignments.start_seconds - phase.start_seconds, evidence, asking.terms.balance)
        best = match if best is None else _better(best, match)
    assert best is not None
    return alignments.file_rank, replace(best, score=score_of(best.score)), query.span_seconds


def _on_moments(asking: _Asking) -> "tuple[np.ndarray, _Match, float]":
    """The same for several examples: every alignment is a moment of the library, of which the middle counts."""
    library, examples, against = asking.library, asking.terms.examples, asking.terms.against
    middle = (library.start_seconds + library.end_seconds) / 2
    span = min(query.span_seconds for query in examples)
    found = [_around(asking, query, middle) for query in examples]
    others = [_around(asking, query, middle) for query in against]
    best = np.nan_to_num(np.stack([each.score for each in found]), nan=-1.0).argmax(axis=0)
    columns = np.arange(len(library))
    return (
        library.file_rank,
        _Match(
            start_seconds=middle - span / 2,
            score=_beyond([each.score for each in found], [each.score for each in others]),
            nearness=_beyond([each.nearness for each in found], [each.nearness for each in others]),
            cosine=np.stack([each.cosine for each in found])[best, columns],
            matched=np.stack([each.matched for each in found])[best, columns],
        ),
        span,
    )


def _beyond(examples: list[np.ndarray], against: list[np.ndarray]) -> np.ndarray:
    """What examples say (each (C,)) on average, less what the worst counter-example says; NaN where that says more."""
    told = np.stack(examples)
    nothing = np.isnan(told).all(axis=0)
    mean = np.where(nothing, np.nan, np.where(np.isnan(told), NEUTRAL_SURPRISE, told).mean(axis=0))
    if not against:
        return mean
    less = np.nan_to_num(np.stack(against)).max(axis=0)
    hidden = (less > NEUTRAL_SURPRISE) & (less >= mean)
    return np.where(hidden, np.nan, mean - np.maximum(less - NEUTRAL_SURPRISE, 0))


def _around(asking: _Asking, query: Query, middle: np.ndarray) -> "_Match":
    """What `query` makes of the places around `middle` (M,), of one moment each, in its best phase."""
    start = middle - query.span_seconds / 2
    best: _Match | None = None
    for phase in query.phases:
        alignments = Alignments(file_rank=asking.library.file_rank, start_seconds=start + phase.start_seconds)
        match = _match(start, next(_evidence(asking, alignments, [phase])), asking.terms.balance)
        best = match if best is None else _better(best, match)
    assert best is not None
    return replace(best, score=score_of(best.score))


def _evidence(asking: _Asking, alignments: Alignments, phases: Several[Phase]) -> Iterator[list[_Evidence]]:
    """For each phase what each library modality says."""
    told = []
    for searched in asking.terms.modalities:
        calibrations, sequences = [], []
        for phase in phases:
            asked, sequence = phase.asks(searched)
            calibration = asking.calibrate(asked, searched, sequence.offset_seconds)
            calibrations.append(calibration)
            vectors = asking.library.asked(sequence.vectors, asked, searched, asking.terms.likeness)
            sequences.append((vectors, sequence.offset_seconds, calibration.mean))
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
                    nearness=calibration.nearness(cosine),
                    weight=calibration.weight,
                )
            )
        yield evidence


def _match(start_seconds: np.ndarray, evidence: list[_Evidence], balance: float) -> _Match:
    if len(evidence) == 1:
        only = evidence[0]
        return _Match(
            start_seconds=start_seconds,
            score=only.surprise,
            nearness=only.nearness,
            cosine=only.cosine,
            matched=np.full(len(start_seconds), _MATCHED.index(only.modality)),
        )
    sound, picture = evidence
    weights = weights_of(sound.weight, picture.weight, balance)
    told = [weight * np.nan_to_num(each.nearness) for weight, each in zip(weights, evidence, strict=True)]
    both = np.minimum(*told) >= np.maximum(BOTH_SHARE * (told[0] + told[1]), 1e-9)
    # Where neither says anything, the modality that is there.
    leads = (told[1] > told[0]) | np.isnan(sound.cosine)
    return _Match(
        start_seconds=start_seconds,
        score=combined_surprise(sound.surprise, weights[0], picture.surprise, weights[1]),
        nearness=combined_surprise(sound.nearness, weights[0], picture.nearness, weights[1]),
        cosine=np.where(leads, picture.cosine, sound.cosine),
        matched=np.where(both, 2, np.where(leads, 1, 0)),
    )


def weights_of(sound: float, picture: float, balance: float) -> tuple[float, float]:
    """What the two pieces of evidence count beside each other; not both are 0."""
    weights = (2.0 * balance * sound, 2.0 * (1.0 - balance) * picture)
    # What the balance leaves is not known to be worth anything: it is all there is.
    return weights if max(weights) > 0.0 else (balance, 1.0 - balance)


def _better(one: _Match, other: _Match) -> _Match:
    """The better of two phases at every alignment, the first of equal ones."""
    takes = (other.score > one.score) | ((other.score == one.score) & (other.cosine > one.cosine))
    takes |= np.isnan(one.score) & ~np.isnan(other.score)
    return _Match(
        start_seconds=np.where(takes, other.start_seconds, one.start_seconds),
        score=np.where(takes, other.score, one.score),
        nearness=np.where(takes, other.nearness, one.nearness),
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
        labels=labels_between(file.labels, span.start_seconds, span.end_seconds),
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
