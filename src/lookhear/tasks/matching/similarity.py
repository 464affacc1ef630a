"""Similarities of clips that have several windows, and ranks straight from them, for as many clips as there are.

A sounds, V pictures (clips of each), C clips of both, F windows a clip, E width of an embedding. Embeddings are unit
length unless said otherwise. Everything is numpy outside, torch inside where it multiplies.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lookhear.tasks.metrics import TIE_TOLERANCE, Ranks, close_ranks, count_ranks

Aggregation = Literal["diagonal_mean", "diagonal_max", "mean", "max"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)

BLOCK_BYTES = 256 << 20  # of similarities that are held at a time
_PARTNERS_AT_A_TIME = 512  # clips whose own similarity is computed together


def pair_similarity(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregation: Aggregation = "diagonal_mean",
    audio_counts: np.ndarray | None = None,
    visual_counts: np.ndarray | None = None,
) -> np.ndarray:
    """Similarity float32 (A, V) of every sound clip `audio` (A, F, E) with every picture clip `visual` (V, F, E).

    From the cosines s_kl of window k of one with window l of the other: `diagonal_mean` = mean over k of s_kk,
    `diagonal_max` = max over k of s_kk, `mean` and `max` over all k and l. The other direction is the transpose.

    Clips of different length: `audio_counts` (A,) and `visual_counts` (V,) say how many of the F windows are real
    (the first ones). A diagonal then runs over the windows that both clips have; `mean` and `max` over all real ones.

    The slow form: `[[np.mean([a[k] @ v[k] for k in range(min(len(a), len(v)))]) for v in visual] for a in audio]`.
    """
    sizes = (len(audio), len(visual))
    similarity = np.empty(sizes, dtype=np.float32)
    blocks = similarity_blocks(
        audio, visual, aggregations=(aggregation,), audio_counts=audio_counts, visual_counts=visual_counts
    )
    for block in blocks:
        similarity[block.start : block.stop] = block.similarity[aggregation]
    return similarity


@dataclass(frozen=True, kw_only=True, eq=False)
class SimilarityBlock:
    """Rows [start, stop) of the similarity matrices."""

    start: int
    stop: int
    similarity: dict[Aggregation, np.ndarray]  # float32 (stop - start, V) each


def similarity_blocks(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregations: Sequence[Aggregation] = ("diagonal_mean",),
    audio_counts: np.ndarray | None = None,
    visual_counts: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[SimilarityBlock]:
    """The rows of `pair_similarity` in all `aggregations`, some at a time: about `block_bytes` are held.

    Both diagonal ones come from the same products.
    """
    for aggregation in aggregations:
        if aggregation not in AGGREGATIONS:
            raise ValueError(f"no aggregation '{aggregation}'; known: {', '.join(AGGREGATIONS)}")
    sounds = _padded(audio, audio_counts)
    pictures = _padded(visual, visual_counts)
    if sounds.windows.shape[1:] != pictures.windows.shape[1:]:
        raise ValueError(f"sounds {audio.shape} and pictures {visual.shape} differ in windows or in width")
    # of each pair: its float32 answers, a product in flight, and the masks of whoever ranks them
    rows = max(1, block_bytes // ((4 * len(aggregations) + 16) * max(1, len(pictures))))
    means = (sounds.averaged(), pictures.averaged()) if "mean" in aggregations else None
    for start in range(0, len(sounds), rows):
        stop = min(start + rows, len(sounds))
        some = sounds.rows(start, stop)
        found: dict[Aggregation, Tensor] = {}
        if "diagonal_max" in aggregations:
            found["diagonal_mean"], found["diagonal_max"] = _over_diagonal(some, pictures)
        elif "diagonal_mean" in aggregations:
            found["diagonal_mean"] = _mean_over_diagonal(some, pictures)
        if means is not None:
            found["mean"] = means[0].windows[start:stop, 0] @ means[1].windows[:, 0].T
        if "max" in aggregations:
            found["max"] = _max_over_all(some, pictures)
        yield SimilarityBlock(
            start=start, stop=stop, similarity={name: found[name].numpy() for name in dict.fromkeys(aggregations)}
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class PairRanks:
    """Ranks of each clip's own partner, both ways."""

    audio_to_visual: Ranks
    visual_to_audio: Ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class PairQuestion:
    """Which pictures are the right answers of each sound, and the reverse. By default row i belongs to row i."""

    partners: np.ndarray | None = None  # int64 (C,), a permutation: the picture that belongs to each sound
    clip: np.ndarray | None = None  # int64 (C,), instead: all rows with the same number are right; one window a row
    kind: np.ndarray | None = None  # int64 (C,): only candidates of the query's own kind are compared


def pair_ranks(
    audio: np.ndarray,
    visual: np.ndarray,
    *,
    aggregations: Sequence[Aggregation] = ("diagonal_mean",),
    counts: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    tie_tolerance: float = TIE_TOLERANCE,
) -> dict[Aggregation, PairRanks]:
    """Ranks of clip i's picture among all pictures and of its sound among all sounds, in one pass of blocks.

    `audio`, `visual` (C, F, E), row i of both from one clip. Never holds the (C, C) matrix: for 100,000 clips that
    would be 40 GB. Equal to `ranks` of `pair_similarity` and of its transpose.
    """
    answers = answer_pairs(
        audio,
        visual,
        (PairQuestion(),),
        aggregations=aggregations,
        counts=counts,
        block_bytes=block_bytes,
        tie_tolerance=tie_tolerance,
    )
    return {name: found[0] for name, found in answers.items()}


def answer_pairs(
    audio: np.ndarray,
    visual: np.ndarray,
    questions: Sequence[PairQuestion],
    *,
    aggregations: Sequence[Aggregation] = ("diagonal_mean",),
    counts: np.ndarray | None = None,
    block_bytes: int = BLOCK_BYTES,
    tie_tolerance: float = TIE_TOLERANCE,
) -> dict[Aggregation, list[PairRanks]]:
    """`pair_ranks` for several questions about the same similarities, each of which is computed once.

    With a `tie_tolerance` of 0, twice: the scores of right answers are then the very numbers of the same product.
    """
    num = len(audio)

    def blocks() -> Iterator[SimilarityBlock]:
        return similarity_blocks(
            audio, visual, aggregations=aggregations, audio_counts=counts, visual_counts=counts, block_bytes=block_bytes
        )

    if tie_tolerance > 0:
        best = [_right_scores(audio, visual, question, aggregations, counts) for question in questions]
    else:
        best = _exact_scores(blocks(), questions, aggregations, num)
    tallies = [{name: (_Tally(num), _Tally(num)) for name in aggregations} for _ in questions]
    for block in blocks():
        here = slice(block.start, block.stop)
        for question, scores, tally in zip(questions, best, tallies, strict=True):
            right, wrong = _masks(question, block.start, block.stop, num)
            for name, matrix in block.similarity.items():
                (forward, backward), (rows, columns) = scores[name], tally[name]
                rows.add(
                    count_ranks(matrix, forward[here, None], right, wrong, axis=1, tie_tolerance=tie_tolerance), here
                )
                columns.add(count_ranks(matrix, backward[None], right, wrong, axis=0, tie_tolerance=tie_tolerance))
    return {
        name: [
            PairRanks(
                audio_to_visual=close_ranks(tally[name][0].ranks(), scores[name][0], num_candidates=num),
                visual_to_audio=close_ranks(tally[name][1].ranks(), scores[name][1], num_candidates=num),
            )
            for scores, tally in zip(best, tallies, strict=True)
        ]
        for name in aggregations
    }


class _Tally:
    """Counts of one direction that grow block by block."""

    def __init__(self, num: int) -> None:
        self.counts = np.zeros((3, num), dtype=np.int64)

    def add(self, counted: Ranks, where: slice = slice(None)) -> None:
        self.counts[:, where] += [counted.num_ahead, counted.num_tied, counted.num_right]

    def ranks(self) -> Ranks:
        ahead, tied, right = self.counts
        return Ranks(num_ahead=ahead, num_tied=tied, num_right=right)


def _masks(question: PairQuestion, start: int, stop: int, num: int) -> tuple[np.ndarray, np.ndarray]:
    """bool (stop - start, C) each: which pairs of the block are right, and which are wrong answers."""
    if question.clip is not None:
        right = question.clip[start:stop, None] == question.clip[None, :]
    else:
        right = np.zeros((stop - start, num), dtype=bool)
        own = np.arange(start, stop) if question.partners is None else question.partners[start:stop]
        right[np.arange(stop - start), own] = True
    wrong = ~right
    if question.kind is not None:
        wrong &= question.kind[start:stop, None] == question.kind[None, :]
    return right, wrong


def _exact_scores(
    blocks: Iterator[SimilarityBlock], questions: Sequence[PairQuestion], aggregations: Sequence[Aggregation], num: int
) -> list[dict[Aggregation, tuple[np.ndarray, np.ndarray]]]:
    """As `_right_scores` for each question, to the bit as the blocks have them; -inf where there is no score."""
    best = [
        {name: (np.full(num, -np.inf, np.float32), np.full(num, -np.inf, np.float32)) for name in aggregations}
        for _ in questions
    ]
    for block in blocks:
        for question, scores in zip(questions, best, strict=True):
            right, _ = _masks(question, block.start, block.stop, num)
            for name, matrix in block.similarity.items():
                forward, backward = scores[name]
                known = np.where(right & np.isfinite(matrix), matrix, -np.inf)
                forward[block.start : block.stop] = known.max(axis=1)
                np.maximum(backward, known.max(axis=0), out=backward)
    return best


def _right_scores(
    audio: np.ndarray,
    visual: np.ndarray,
    question: PairQuestion,
    aggregations: Sequence[Aggregation],
    counts: np.ndarray | None,
) -> dict[Aggregation, tuple[np.ndarray, np.ndarray]]:
    """float32 (C,) each: the score of the best right answer of every sound, and of every picture."""
    if question.clip is not None:
        if audio.shape[1] != 1:
            raise ValueError("a clip as the answer needs one window a row, with which all aggregations are the same")
        scores = np.full((2, len(audio)), np.nan, dtype=np.float32)
        order = np.argsort(question.clip, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(question.clip[order])) + 1):
            cosines = np.asarray(audio[rows, 0], dtype=np.float32) @ np.asarray(visual[rows, 0], dtype=np.float32).T
            # a window that failed does not take the others of its clip with it
            cosines = np.where(np.isfinite(cosines), cosines, -np.inf)
            scores[0, rows], scores[1, rows] = cosines.max(axis=1), cosines.max(axis=0)
        return dict.fromkeys(aggregations, (scores[0], scores[1]))
    partners = np.arange(len(audio)) if question.partners is None else question.partners
    found = {}
    for name in aggregations:
        forward = _partner_similarity(audio, visual, partners, aggregation=name, counts=counts)
        backward = np.empty_like(forward)
        backward[partners] = forward
        found[name] = (forward, backward)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Windows:
    windows: Tensor  # float32 (C, F, E), zeros beyond each clip's own windows
    counts: Tensor  # int64 (C,)

    def __len__(self) -> int:
        return len(self.windows)

    def rows(self, start: int, stop: int) -> "_Windows":
        return _Windows(windows=self.windows[start:stop], counts=self.counts[start:stop])

    def averaged(self) -> "_Windows":
        """One window a clip: the mean of its unit vectors, whose dot products are the means of all cosines."""
        mean = self.windows.sum(dim=1, keepdim=True) / self.counts[:, None, None]
        return _Windows(windows=mean, counts=torch.ones_like(self.counts))

    @property
    def missing(self) -> Tensor:
        """bool (C, F): the windows that are only padding."""
        return torch.arange(self.windows.shape[1])[None, :] >= self.counts[:, None]


def _padded(windows: np.ndarray, counts: np.ndarray | None) -> _Windows:
    tensor = torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32))
    if counts is None:
        return _Windows(windows=tensor, counts=torch.full((len(tensor),), tensor.shape[1], dtype=torch.int64))
    if len(counts) != len(windows) or np.min(counts, initial=1) < 1 or np.max(counts, initial=0) > tensor.shape[1]:
        raise ValueError("window counts must be one a clip, at least 1 and at most the number of windows given")
    padded = _Windows(windows=tensor, counts=torch.as_tensor(np.asarray(counts), dtype=torch.int64))
    missing = padded.missing
    # zero already? then no copy, which would double the memory of a large library; asked a window at a time likewise
    if not any(tensor[missing[:, k], k].any() for k in range(tensor.shape[1])):
        return padded
    return _Windows(windows=tensor.masked_fill(missing[..., None], 0.0), counts=padded.counts)


def _mean_over_diagonal(sounds: _Windows, pictures: _Windows) -> Tensor:
    # padding is zero, so one GEMM sums over the windows that both clips have
    total = sounds.windows.flatten(1) @ pictures.windows.flatten(1).T
    return total.div_(torch.minimum(sounds.counts[:, None], pictures.counts[None, :]))


def _over_diagonal(sounds: _Windows, pictures: _Windows) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the diagonal, from the same products."""
    total, best = torch.zeros(2, len(sounds), len(pictures)), None
    product = torch.empty(len(sounds), len(pictures))
    for k in range(sounds.windows.shape[1]):
        torch.mm(sounds.windows[:, k], pictures.windows[:, k].T, out=product)
        total[0] += product
        _forbid(product, rows=sounds.missing[:, k], columns=pictures.missing[:, k])
        best = total[1].copy_(product) if best is None else torch.maximum(best, product, out=best)
    assert best is not None
    return total[0].div_(torch.minimum(sounds.counts[:, None], pictures.counts[None, :])), best


def _max_over_all(sounds: _Windows, pictures: _Windows) -> Tensor:
    best = torch.empty(len(sounds), len(pictures))
    num_windows = sounds.windows.shape[1]
    # tiles that stay in the cache while they are reduced: 512 x 512 cosines are a megabyte
    tile = max(1, 512 // num_windows)
    columns = [range(start, min(start + tile, len(pictures))) for start in range(0, len(pictures), tile)]
    for start in range(0, len(sounds), tile):
        some = sounds.rows(start, start + tile)
        for part in columns:
            other = pictures.rows(part.start, part.stop)
            cosines = some.windows.flatten(0, 1) @ other.windows.flatten(0, 1).T
            _forbid(cosines, rows=some.missing.flatten(), columns=other.missing.flatten())
            # first over whole rows, which goes by vector instructions; over both at once it is ten times slower
            over_sounds = cosines.view(len(some), num_windows, len(other) * num_windows).amax(dim=1)
            shaped = over_sounds.view(len(some), len(other), num_windows)
            best[start : start + tile, part.start : part.stop] = shaped.amax(dim=2)
    return best


def _forbid(cosines: Tensor, *, rows: Tensor, columns: Tensor) -> None:
    """Takes padding out of a maximum."""
    if rows.any():
        cosines[rows] = -torch.inf
    if columns.any():
        cosines[:, columns] = -torch.inf


def _partner_similarity(
    audio: np.ndarray,
    visual: np.ndarray,
    partners: np.ndarray,
    *,
    aggregation: Aggregation,
    counts: np.ndarray | None,
) -> np.ndarray:
    """float32 (C,): the similarity of each sound clip with its partner, without the rest of `pair_similarity`."""
    found = np.empty(len(audio), dtype=np.float32)
    for start in range(0, len(audio), _PARTNERS_AT_A_TIME):
        rows = slice(start, start + _PARTNERS_AT_A_TIME)
        sounds = _padded(audio[rows], None if counts is None else counts[rows])
        pictures = _padded(visual[partners[rows]], None if counts is None else counts[partners[rows]])
        missing = sounds.missing | pictures.missing
        if aggregation == "mean":
            values = (sounds.averaged().windows * pictures.averaged().windows).sum(dim=(1, 2))
        elif aggregation == "max":
            cosines = sounds.windows @ pictures.windows.transpose(1, 2)  # (c, F, F)
            gone = sounds.missing[:, :, None] | pictures.missing[:, None, :]
            values = cosines.masked_fill(gone, -torch.inf).amax(dim=(1, 2))
        else:
            cosines = (sounds.windows * pictures.windows).sum(dim=2)  # (c, F)
            if aggregation == "diagonal_max":
                values = cosines.masked_fill(missing, -torch.inf).amax(dim=1)
            else:
                values = cosines.sum(dim=1) / (~missing).sum(dim=1)
        found[rows] = values.numpy()
    return found
