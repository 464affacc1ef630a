"""`Request`: what is looked for, made of examples and counter-examples, which are files or moments of the index."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from lookhear.errors import IndexStateError, MediaError
from lookhear.media.clock import read_clock
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe
from lookhear.search.facts import IndexFacts
from lookhear.search.large import AnyLibrary
from lookhear.search.library import Library, Modality, Moments, Stretches
from lookhear.search.likeness import describe_file, describe_picture
from lookhear.search.query import Hit, Phase, Place, Query
from lookhear.search.query import Sequence as Windowed

if TYPE_CHECKING:
    from lookhear.embedder import Embedder, Embeddings

# Of a longer file, or stretch of an indexed file, only the beginning is a query.
MAX_QUERY_SECONDS = 120.0
# A longer query is compared by this many of its windows (in each phase), evenly spread.
MAX_QUERY_WINDOWS = 32
# Phases are as many as this number of windows of the query allows, and not nearer than a spectrogram frame.
MAX_QUERY_EMBEDDINGS = 128
_PHASE_CHOICES = (32, 16, 8, 4, 2, 1)
_LEAST_STEP_SECONDS = 0.01

Media = str | Path | Sequence[str | Path] | None
Moment = str | Hit | Sequence[str | Hit] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What is looked for, ready to be found in one page after another."""

    examples: tuple[Query, ...]  # at least one
    counter_examples: tuple[Query, ...] = ()
    fingerprint: str  # of the model that made their vectors

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be left out of an example, a sentence each."""
        return tuple(query.note for query in (*self.examples, *self.counter_examples) if query.note)


def make_request(
    embedder: "Callable[[], Embedder]",
    library: Callable[[], AnyLibrary],
    facts: IndexFacts,
    wanted: Mapping[str, "Media | Moment"],
    unwanted: Mapping[str, "Media | Moment"],
) -> Request:
    """The request of `sound`, `picture`, `clip` and `like` in both mappings; the model is asked for only if needed.

    Raises IndexStateError without any example, MediaError for a file that cannot be read.
    """

    def queries(given: Mapping[str, "Media | Moment"]) -> tuple[Query, ...]:
        found = []
        for kind, values in given.items():
            for value in _several(values):
                if kind == "like":
                    found.append(moment_query(library(), value if isinstance(value, Hit) else str(value)))
                else:
                    assert not isinstance(value, Hit)
                    found.append(
                        make_query(
                            embedder(),
                            sound=value if kind == "sound" else None,
                            picture=value if kind == "picture" else None,
                            clip=value if kind == "clip" else None,
                            hop_seconds=facts.hop_seconds,
                        )
                    )
        return tuple(found)

    if not any(_several(values) for values in wanted.values()):
        raise IndexStateError(
            "there is nothing to search by; give a sound, a picture, a clip or a moment of an indexed file (like)"
        )
    return Request(examples=queries(wanted), counter_examples=queries(unwanted), fingerprint=facts.fingerprint)


def _several(values: "Media | Moment") -> list[str | Path | Hit]:
    if values is None:
        return []
    return [values] if isinstance(values, (str, Path, Hit)) else list(values)


def make_query(
    embedder: "Embedder",
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
        return picture_query(describe_picture(embedder, picture), window_seconds=embedder.window_seconds)
    path = sound if sound is not None else clip
    assert path is not None
    plan = plan_query(probe(path), window_seconds=embedder.window_seconds, hop_seconds=hop_seconds, name=str(path))
    windows = embedder.plan(hop_seconds=plan.step_seconds, picture=sound is None)
    embeddings = describe_file(embedder, path, windows, end_seconds=plan.end_seconds)
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
    note: str  # what of the file is left out or damaged, if anything


def plan_query(info: MediaInfo, *, window_seconds: float, hop_seconds: float, name: str) -> QueryPlan:
    """How a file is cut to be a query of an index with this hop; `name` is what the note calls it."""
    seconds, end, notes = info.end_seconds - info.start_seconds, None, []
    if info.problems:
        notes.append(f"'{name}' is searched for as far as it can be read: {'; '.join(info.problems)}")
    if seconds > MAX_QUERY_SECONDS:
        end = info.start_seconds + MAX_QUERY_SECONDS
        notes.append(
            f"'{name}' lasts {seconds:.0f} s, which is more than a query of {MAX_QUERY_SECONDS:.0f} s: "
            "only its beginning is searched for; cut out the part that matters"
        )
    num_phases = _num_phases(min(seconds, MAX_QUERY_SECONDS), window_seconds, hop_seconds)
    return QueryPlan(
        num_phases=num_phases, step_seconds=hop_seconds / num_phases, end_seconds=end, note="; ".join(notes)
    )


def query_of(embeddings: "Embeddings", plan: QueryPlan, *, window_seconds: float) -> Query | None:
    """The query of a file's windows, `plan.step_seconds` apart; None where none has sound or picture."""
    phases = _phases(embeddings, plan.num_phases, plan.step_seconds)
    if not phases:
        return None
    length = float(embeddings.end_seconds[-1] - embeddings.start_seconds[0])
    return Query(phases=phases, span_seconds=max(length, window_seconds), note=plan.note)


def picture_query(vector: np.ndarray, *, window_seconds: float) -> Query:
    """The query of one picture, of its vector (E,) as an index stores it."""
    sequence = Windowed(vectors=torch.from_numpy(np.ascontiguousarray(vector[None])), offset_seconds=np.zeros(1))
    return Query(phases=(Phase(start_seconds=0.0, picture=sequence),), span_seconds=window_seconds)


def _num_phases(seconds: float, window_seconds: float, hop_seconds: float) -> int:
    hops = max(0.0, seconds - window_seconds) / hop_seconds
    for count in _PHASE_CHOICES:
        if hops * count + 1 <= MAX_QUERY_EMBEDDINGS and hop_seconds / count >= _LEAST_STEP_SECONDS:
            return count
    return 1


def _phases(embeddings: "Embeddings", num_phases: int, step: float) -> tuple[Phase, ...]:
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
) -> Windowed | None:
    if vectors is None:
        return None
    present = evenly(chosen[~np.isnan(vectors[chosen, 0])])
    if not len(present):
        return None
    # Whole milliseconds, so that phases of the same shape share a calibration.
    return Windowed(
        vectors=torch.from_numpy(vectors[present]), offset_seconds=np.round(start_seconds[present] - origin, 3)
    )


def moment_query(library: AnyLibrary, moment: str | Hit) -> Query:
    """The query by the stored vectors of a moment: `FILE@12.5`, `FILE@12.5-14` (clock times too, `FILE@1:02:30`).

    FILE is a path, a path inside a library, or a file name, of a file that is indexed; it need not exist any more. A
    `Hit` is the moment at its peak. Of a stretch longer than `MAX_QUERY_SECONDS` the beginning is the query, and its
    note says so. Raises IndexStateError for a file or time that the index does not have.
    """
    if isinstance(moment, Hit):
        name, first, last = moment.path, moment.peak_seconds, moment.peak_seconds
    else:
        named = read_moment(moment)
        name, first, last = named.file, named.start_seconds, named.end_seconds
    rank = _rank_of(library, name)
    rows = np.flatnonzero(library.file_rank == rank)
    start, end = library.start_seconds[rows], library.end_seconds[rows]
    if last < float(start[0]) or first >= float(end.max()):
        raise IndexStateError(
            f"the index has {name} from {start[0]:.2f} to {end.max():.2f} s, so there is nothing at {first:g} s"
        )
    # in whole milliseconds, so that a time between two moments means the same one however it was rounded
    nearest = int(np.argmin(np.round(np.abs((start + end) / 2 - (first + last) / 2), 3)))
    inside = np.flatnonzero((start >= first - 1e-6) & (end <= last + 1e-6))
    chosen = rows[inside] if len(inside) else rows[[nearest]]
    origin, finish = float(library.start_seconds[chosen[0]]), float(library.end_seconds[chosen].max())
    note = ""
    if finish - origin > MAX_QUERY_SECONDS:
        note = (
            f"the stretch of {name} lasts {finish - origin:.0f} s, which is more than a query of "
            f"{MAX_QUERY_SECONDS:.0f} s: only its beginning is searched for; name the part that matters"
        )
        chosen = chosen[: max(1, int((library.end_seconds[chosen] <= origin + MAX_QUERY_SECONDS).sum()))]
    stored = library.part(Stretches(first=chosen[:1], end=chosen[-1:] + 1))
    return Query(
        phases=(Phase(start_seconds=0.0, sound=_stored(stored, "sound"), picture=_stored(stored, "picture")),),
        span_seconds=max(float(stored.end_seconds.max()) - origin, library.window_seconds),
        note=note,
        place=Place(file_id=library.files[rank].file_id, start_seconds=origin, end_seconds=finish),
    )


def _stored(moments: Library, modality: Modality) -> Windowed | None:
    present = evenly(np.flatnonzero(moments.has(modality)))
    if not len(present):
        return None
    return Windowed(
        vectors=moments.vectors(modality)[present],
        offset_seconds=np.round(moments.start_seconds[present] - moments.start_seconds[0], 3),
    )


@dataclass(frozen=True, kw_only=True)
class NamedMoment:
    """What `FILE@12.5` or `FILE@12.5-14` says."""

    file: str
    start_seconds: float
    end_seconds: float  # the start, where only that was given


def read_moment(text: str) -> NamedMoment:
    """A moment by its name (`moment_query`). Raises IndexStateError for what names none."""
    name, at, times = text.rpartition("@")
    try:
        if not at or not name:
            raise ValueError
        first, dash, last = times.partition("-")
        start = read_clock(first)
        end = read_clock(last) if dash else start
        if not 0.0 <= start <= end:
            raise ValueError
    except ValueError:
        raise IndexStateError(
            f"'{text}' names no moment; write FILE@SECONDS or FILE@START-END, as tape.mp4@12.5 or tape.mp4@1:02-1:05"
        ) from None
    return NamedMoment(file=name, start_seconds=start, end_seconds=end)


def _rank_of(library: Moments, name: str) -> int:
    wanted = Path(name)
    exact = {wanted, wanted.resolve()}
    places = [(rank, place) for rank, file in enumerate(library.files) for place in file.places]
    found = {rank for rank, place in places if place in exact}
    if not found and not wanted.is_absolute():
        ending = wanted.parts
        found = {rank for rank, place in places if place.parts[-len(ending) :] == ending}
    if len(found) == 1:
        return found.pop()
    if not found:
        raise IndexStateError(
            f"the index has no moments of a file {name}; `lookhear status --files --index INDEX` lists its files, and "
            "why one has none"
        )
    shown = ", ".join(str(library.files[rank].path) for rank in sorted(found)[:3])
    raise IndexStateError(f"{len(found)} files of the index are named {name} ({shown}); name more of its path")
