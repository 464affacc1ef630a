"""A library of random vectors in memory, and searches in it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from lookhear.search.calibration import calibrate
from lookhear.search.library import LIKENESS, Library, LibraryFile
from lookhear.search.query import Hit, Phase, Query, Sequence, find_moments
from lookhear.search.tables import MomentRows

WINDOW, HOP, WIDTH = 1.0, 0.5, 16


def make_library(seconds: list[float], *, seed: int = 0, sound: bool = True, picture: bool = True) -> Library:
    """Random unit vectors for files of these lengths; pictures are noisy copies of their sound."""
    rng = np.random.default_rng(seed)
    ranks, starts, ends = [], [], []
    for rank, length in enumerate(seconds):
        grid = np.arange(0, max(length - WINDOW, 0) + 1e-9, HOP)
        if length > WINDOW and length - WINDOW - grid[-1] > 1e-6:
            grid = np.append(grid, length - WINDOW)
        starts += grid.tolist()
        ends += np.minimum(grid + WINDOW, length).tolist()
        ranks += [rank] * len(grid)
    audio = rng.normal(size=(len(ranks), WIDTH))
    visual = audio + rng.normal(size=audio.shape)
    has_audio = np.full(len(ranks), sound)
    has_visual = np.full(len(ranks), picture)
    return Library(
        files=tuple(LibraryFile(file_id=f"{n:032x}", path=Path(f"{n}.mp4")) for n in range(len(seconds))),
        file_rank=np.array(ranks, np.int64),
        start_seconds=np.array(starts),
        end_seconds=np.array(ends),
        audio=unit(audio) * sound,
        visual=unit(visual) * picture,
        has_audio=has_audio,
        has_visual=has_visual,
        window_seconds=WINDOW,
        hop_seconds=HOP,
    )


def unit(values: np.ndarray) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(values.astype(np.float32)), dim=-1)


def query_of(vectors: torch.Tensor, *, offset: float = 0.0, picture: bool = False) -> Query:
    sequence = Sequence(vectors=vectors, offset_seconds=HOP * np.arange(len(vectors)))
    phase = Phase(start_seconds=offset, **{"picture" if picture else "sound": sequence})
    return Query(phases=(phase,), span_seconds=offset + (len(vectors) - 1) * HOP + WINDOW)


def search(library: Library, query: Query, **options: object) -> list[Hit]:
    weight = {"likeness": options.get("likeness", LIKENESS)}
    return find_moments(library, query, lambda *asked: calibrate(library, *asked, **weight), **options)  # type: ignore[arg-type]


def parts_of(library: Library, ranks: Iterable[int]) -> list[MomentRows]:
    """The moments of some files, as a crawl writes them."""
    parts = []
    for rank in ranks:
        rows = np.flatnonzero(library.file_rank == rank)
        vectors = {}
        for name, has in (("audio", library.has_audio), ("visual", library.has_visual)):
            vectors[name] = getattr(library, name)[rows].numpy().copy()
            vectors[name][~has[rows]] = np.nan
        times = {"start_seconds": library.start_seconds[rows], "end_seconds": library.end_seconds[rows]}
        parts.append(MomentRows(file_id=library.files[rank].file_id, **times, **vectors))
    return parts
