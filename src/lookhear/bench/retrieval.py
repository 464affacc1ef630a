"""How fast clips are compared, beside the loop that published code has: `lookhear bench retrieval`.

The loop takes one numpy cosine a pair of frames, for every pair of clips and once more for the other direction. It is
measured on some of the clips and extrapolated: its work is exactly proportional to the square of their number.
"""

import time
from dataclasses import dataclass

import numpy as np

from lookhear.progress import Progress, quiet
from lookhear.tasks.matching.similarity import Aggregation, pair_ranks, pair_similarity

LOOP_CLIPS = 100  # of which the loop is measured
_FAST: tuple[Aggregation, ...] = ("diagonal_mean", "diagonal_max", "mean")


@dataclass(frozen=True, kw_only=True)
class RetrievalBench:
    """Seconds for clips of random unit vectors, both directions with ranks."""

    clips: int
    windows: int
    width: int
    threads: int
    # the published loop for `diagonal_mean`: measured on `measured_clips`, times (clips / measured_clips) squared
    pairwise_seconds: float
    measured_clips: int
    measured_pairwise_seconds: float
    fast_seconds: float  # the same answer of ours: `diagonal_mean`, both directions, ranks
    ratio: float  # pairwise_seconds / fast_seconds
    # one pass for diagonal_mean, diagonal_max and mean together; and `max`, which has as many times more products as
    # there are windows
    three_seconds: float
    max_seconds: float
    largest_difference: float  # between the similarities of the loop and ours, on the measured clips


def measure(
    *, clips: int = 1545, windows: int = 16, width: int = 768, repeats: int = 3, progress: Progress = quiet
) -> RetrievalBench:
    """Times the loop once and ours `repeats` times (the median counts), with as many threads as torch has.

    The default sizes are those of the published VGGSound list with CAV-MAE Sync.
    """
    import torch

    rng = np.random.default_rng(0)
    audio, visual = _vectors(rng, clips, windows, width), _vectors(rng, clips, windows, width)
    measured = min(clips, LOOP_CLIPS)
    progress(0, 4, f"the loop over {measured} clips")
    started = time.perf_counter()
    some = (audio[:measured], visual[:measured])
    slow = _loop(*some)
    _figures(slow)
    _figures(_loop(*reversed(some)))  # the published code goes through all pairs again for the other direction
    loop_seconds = time.perf_counter() - started
    progress(1, 4, "diagonal_mean")
    fast = _median_seconds(audio, visual, ("diagonal_mean",), repeats)
    progress(2, 4, "three aggregations")
    three = _median_seconds(audio, visual, _FAST, repeats)
    progress(3, 4, "max")
    largest = _median_seconds(audio, visual, ("max",), 1)
    progress(4, 4)
    pairwise = loop_seconds * (clips / measured) ** 2
    return RetrievalBench(
        clips=clips,
        windows=windows,
        width=width,
        threads=torch.get_num_threads(),
        pairwise_seconds=pairwise,
        measured_clips=measured,
        measured_pairwise_seconds=loop_seconds,
        fast_seconds=fast,
        ratio=pairwise / fast,
        three_seconds=three,
        max_seconds=largest,
        largest_difference=float(np.abs(slow - pair_similarity(*some)).max()),
    )


def _vectors(rng: np.random.Generator, clips: int, windows: int, width: int) -> np.ndarray:
    """float32 (C, F, E) of unit length."""
    vectors = rng.standard_normal((clips, windows, width), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=2, keepdims=True)


def _median_seconds(
    audio: np.ndarray, visual: np.ndarray, aggregations: tuple[Aggregation, ...], repeats: int
) -> float:
    pair_ranks(audio[:32], visual[:32], aggregations=aggregations)  # the first call pays for threads and imports
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        pair_ranks(audio, visual, aggregations=aggregations)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _loop(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """float64 (C, C) by `diagonal_mean`, as published code gets it: one cosine at a time."""
    similarity = np.zeros((len(queries), len(candidates)))
    for i, query in enumerate(queries):
        for j, candidate in enumerate(candidates):
            cosines = [
                np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other))
                for one, other in zip(query, candidate, strict=True)
            ]
            similarity[i, j] = np.mean(cosines)
    return similarity


def _figures(similarity: np.ndarray) -> list[float]:
    """R@1, R@5, R@10 and median rank by the published rule, in which every tied place counts."""
    places = np.concatenate([np.flatnonzero(np.sort(row)[::-1] == row[own]) for own, row in enumerate(similarity)])
    return [*((places < k).mean() for k in (1, 5, 10)), np.median(places) + 1]
