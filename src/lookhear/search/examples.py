"""`Request`: what is looked for, made of examples and counter-examples, which are files or moments of the index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookhear.errors import IndexStateError
from lookhear.search.facts import IndexFacts
from lookhear.search.library import Library, Modality
from lookhear.search.query import Hit, Phase, Place, Query, evenly, make_query
from lookhear.search.query import Sequence as Windowed

if TYPE_CHECKING:
    from lookhear.embedder import Embedder

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
    library: Callable[[], Library],
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


def moment_query(library: Library, moment: str | Hit) -> Query:
    """The query by the stored vectors of a moment: `FILE@12.5`, `FILE@12.5-14` (clock times too, `FILE@1:02:30`).

    FILE is a path, a path inside a library, or a file name, of a file that is indexed; it need not exist any more. A
    `Hit` is the moment at its peak. Raises IndexStateError for a file or time that the index does not have.
    """
    if isinstance(moment, Hit):
        name, first, last = moment.path, moment.peak_seconds, moment.peak_seconds
    else:
        name, first, last = _read_moment(moment)
    rank = _rank_of(library, name)
    rows = np.flatnonzero(library.file_rank == rank)
    start, end = library.start_seconds[rows], library.end_seconds[rows]
    if last < float(start[0]) or first >= float(end.max()):
        raise IndexStateError(
            f"the index has {name} from {start[0]:.2f} to {end.max():.2f} s, so there is nothing at {first:g} s"
        )
    nearest = int(np.argmin(np.abs((start + end) / 2 - (first + last) / 2)))
    inside = np.flatnonzero((start >= first - 1e-6) & (end <= last + 1e-6))
    chosen = rows[inside] if len(inside) else rows[[nearest]]
    origin = float(library.start_seconds[chosen[0]])
    finish = float(library.end_seconds[chosen].max())
    phase = Phase(
        start_seconds=0.0,
        sound=_stored(library, "sound", chosen, origin),
        picture=_stored(library, "picture", chosen, origin),
    )
    return Query(
        phases=(phase,),
        span_seconds=max(finish - origin, library.window_seconds),
        place=Place(file_id=library.files[rank].file_id, start_seconds=origin, end_seconds=finish),
    )


def _stored(library: Library, modality: Modality, rows: np.ndarray, origin: float) -> Windowed | None:
    present = evenly(rows[library.has(modality)[rows]])
    if not len(present):
        return None
    return Windowed(
        vectors=library.vectors(modality)[present],
        offset_seconds=np.round(library.start_seconds[present] - origin, 3),
    )


def _read_moment(text: str) -> tuple[str, float, float]:
    name, at, times = text.rpartition("@")
    try:
        if not at or not name:
            raise ValueError
        first, dash, last = times.partition("-")
        start = _clock(first)
        end = _clock(last) if dash else start
        if not 0.0 <= start <= end < math.inf:  # not a number neither
            raise ValueError
    except ValueError:
        raise IndexStateError(
            f"'{text}' names no moment; write FILE@SECONDS or FILE@START-END, as tape.mp4@12.5 or tape.mp4@1:02-1:05"
        ) from None
    return name, start, end


def _clock(text: str) -> float:
    """Seconds of `12.5`, `1:02.5` or `1:00:02.5`. Raises ValueError."""
    seconds = 0.0
    for part in text.split(":"):
        seconds = seconds * 60.0 + float(part)
    return seconds


def _rank_of(library: Library, name: str) -> int:
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
        raise IndexStateError(f"the index has no moments of a file {name}; `lookhear status --files` lists its files")
    shown = ", ".join(str(library.files[rank].path) for rank in sorted(found)[:3])
    raise IndexStateError(f"{len(found)} files of the index are named {name} ({shown}); name more of its path")
