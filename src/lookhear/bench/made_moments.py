"""The library that searches are measured on, and what is asked of it.

There are N moments in files of 100, with sound vectors of E numbers that are

    unit(P (centre + style + noise) + 0.5 u)

where P leads from 64 dimensions into E, `centre` is one of N / 200 (a file has three and stays with one for five
moments), `style` is the file's own and half as long, `noise` the moment's own and half as long, and u is a random
direction of all E dimensions. So moments have true neighbours, most of them spread over many files, as rare as in a
library where things recur, and partitions of an index cut through them; the figures say how near they are. (In noise
alone all moments are equally far, and no index could say anything.) A query is a moment with as much noise again.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lookhear.progress import Progress
from lookhear.search.facts import FORMAT, IndexFacts, make_place, write_facts
from lookhear.search.index import Index
from lookhear.search.query import Phase, Query, Sequence
from lookhear.search.tables import FileRow, MomentRows

FILE_MOMENTS, _LATENT, _CENTRE_MOMENTS, _CENTRES_A_FILE, _STAY = 100, 64, 200, 3, 5
_STYLE, _NOISE, _OUTSIDE = 0.5, 0.5, 0.5
_QUERY_NOISE, _QUERY_OUTSIDE = 0.5, 0.3
WINDOW, HOP = 1.0, 0.5
_FILES_A_WRITE = 200
# Windows of a sound of two seconds, and its phases.
SEQUENCE, PHASES = 3, 8
_SEQUENCES = 12


def make_index(place: Path, vectors: int, width: int, *, fingerprint: str, progress: Progress) -> None:
    """An index of the made library. Raises IndexStateError where something lies at `place` already."""
    make_place(place)
    facts = IndexFacts(
        format=FORMAT,
        model="",
        fingerprint=fingerprint,
        preprocess={},
        window_seconds=WINDOW,
        hop_seconds=HOP,
        embedding_width=width,
        plain_width=0,
    )
    write_facts(place, facts)
    index = Index(place)
    made = _Made(vectors, width)
    num_files = vectors // FILE_MOMENTS
    with index.writing():
        for first in range(0, num_files, _FILES_A_WRITE):
            progress(first, num_files, "making moments")
            numbers = range(first, min(first + _FILES_A_WRITE, num_files))
            index.write(
                [_row(place / "media", number) for number in numbers], [_moments(made, number) for number in numbers]
            )
        index.compact()


def name_of(number: int) -> str:
    """The name of a file."""
    return f"{number:08d}.wav"


def _row(folder: Path, number: int) -> FileRow:
    return FileRow(
        library=str(folder),
        path=name_of(number),
        file_id=f"{number:064x}",
        size_bytes=0,
        mtime_ns=0,
        status="sound_only",
        reason="",
        seconds=HOP * (FILE_MOMENTS - 1) + WINDOW,
        num_moments=FILE_MOMENTS,
    )


def _moments(made: "_Made", number: int) -> MomentRows:
    start = HOP * np.arange(FILE_MOMENTS)
    return MomentRows(
        file_id=f"{number:064x}",
        start_seconds=start,
        end_seconds=start + WINDOW,
        audio=made.file(number),
        visual=np.full((FILE_MOMENTS, made.width), np.nan, np.float32),
    )


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


class _Made:
    """The vectors of the made library, file by file, always the same."""

    def __init__(self, vectors: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self.width = width
        self.lead = _unit(rng.standard_normal((_LATENT, width), dtype=np.float32))
        self.centres = _latent(rng, max(1, vectors // _CENTRE_MOMENTS), 1.0)

    def file(self, number: int) -> np.ndarray:
        """float32 (100, E), unit length."""
        rng = np.random.default_rng((1, number))
        own = rng.integers(0, len(self.centres), _CENTRES_A_FILE)
        centre = self.centres[np.repeat(rng.choice(own, FILE_MOMENTS // _STAY), _STAY)]
        latent = centre + _latent(rng, 1, _STYLE) + _latent(rng, FILE_MOMENTS, _NOISE)
        outside = _unit(rng.standard_normal((FILE_MOMENTS, self.width), dtype=np.float32))
        return _unit(_unit(latent @ self.lead) + _OUTSIDE * outside).astype(np.float32)

    def near(self, vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32, as `vectors`: the same with noise."""
        inside = _unit(_latent(rng, len(vectors), 1.0) @ self.lead)
        outside = _unit(rng.standard_normal(vectors.shape, dtype=np.float32))
        return _unit(vectors + _QUERY_NOISE * inside + _QUERY_OUTSIDE * outside).astype(np.float32)


def _latent(rng: np.random.Generator, count: int, length: float) -> np.ndarray:
    return rng.standard_normal((count, _LATENT), dtype=np.float32) * np.float32(length / math.sqrt(_LATENT))


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """What is asked of the library."""

    single: list[Query]  # of one window
    sequences: list[Query]  # of three windows in eight phases


def questions(vectors: int, width: int, count: int) -> Questions:
    """Always the same `count` of one window, and some of several."""
    made, rng = _Made(vectors, width), np.random.default_rng(2)

    def query(phases: int, windows: int) -> Query:
        file, row = int(rng.integers(vectors // FILE_MOMENTS)), int(rng.integers(FILE_MOMENTS - windows))
        around = made.file(file)[row : row + windows]
        return Query(
            phases=tuple(
                Phase(
                    start_seconds=HOP * number / phases,
                    sound=Sequence(
                        vectors=torch.from_numpy(made.near(around, rng)), offset_seconds=HOP * np.arange(windows)
                    ),
                )
                for number in range(phases)
            ),
            span_seconds=WINDOW + HOP * (windows - 1 + (phases - 1) / phases),
        )

    return Questions(
        single=[query(1, 1) for _ in range(count)], sequences=[query(PHASES, SEQUENCE) for _ in range(_SEQUENCES)]
    )
