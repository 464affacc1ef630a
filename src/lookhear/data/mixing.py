"""Mixup: another clip mixed into a clip, its sound, its picture and its labels (Zhang et al., ICLR 2018).

As the published audio-visual fine-tuning does it: the share is near a half, and sounds are added before they become a
spectrogram. What is mixed with what follows from (seed, epoch, clip) alone. B clips, K of them mixed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.preprocess import Preprocess

# The middle one of 19 uniform numbers is drawn from Beta(10, 10), the published distribution of the share.
_UNIFORMS = 19


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Which clips of a batch are mixed, with what, and how much of their own they keep."""

    rows: Tensor  # int64 (K,): which clips of the batch
    partners: Tensor  # int64 (K,): positions in the dataset
    shares: Tensor  # float32 (K,): of the clip itself; the partner has the rest


def draw_pairs(draws: Draws, key: Tensor, *, probability: float, num_clips: int) -> Pairs:
    """Pairs for the clips with draw keys `key` (B,): each is mixed with `probability`, with any of `num_clips`.

    The slow form: rng.random() < probability, rng.integers(num_clips), rng.beta(10, 10).
    """
    drawn = draws.uniform(key, 3 + _UNIFORMS, purpose="mixup").double()  # (B, 22)
    rows = (drawn[:, 0] < probability).nonzero()[:, 0]
    fine = drawn[rows, 1] + drawn[rows, 2] / 2**24  # one number has 24 bits, too few for millions of clips
    shares = drawn[rows, 3:].sort(dim=1).values[:, _UNIFORMS // 2]
    return Pairs(
        rows=rows,
        partners=(fine * num_clips).long().clamp(max=num_clips - 1),
        shares=shares.float(),
    )


def mix(batch: Batch, partners: Batch | None, pairs: Pairs, preprocess: Preprocess) -> Batch:
    """The raw `batch` with `partners` (K clips, None for K = 0) mixed into its clips `pairs.rows`.

    Each sound is taken without its mean, share x own + (1 - share) x other, and again without its mean; pictures are
    mixed after normalisation, so that the frames of the whole batch become float32; labels are mixed alike.
    """
    mixed = torch.zeros(len(batch), dtype=torch.bool)
    mixed[pairs.rows] = True
    frames = None if batch.frames is None else preprocess.pixels(batch.frames)
    if partners is None:
        return replace(batch, frames=frames, mixed=mixed)
    waveform, labels = batch.waveform, batch.labels
    if waveform is not None and partners.waveform is not None:
        # samples that a partner lacks are silence; those that a clip lacks stay missing
        own, other = _centred(waveform[pairs.rows]), _centred(partners.waveform).nan_to_num()
        waveform = waveform.index_copy(0, pairs.rows, _centred(_blend(own, other, pairs.shares)))
    if frames is not None and partners.frames is not None:
        other = preprocess.pixels(partners.frames)
        frames = frames.index_copy(0, pairs.rows, _blend(frames[pairs.rows], other, pairs.shares))
    if labels is not None and partners.labels is not None:
        labels = labels.index_copy(0, pairs.rows, _blend(labels[pairs.rows], partners.labels, pairs.shares))
    return replace(batch, waveform=waveform, frames=frames, labels=labels, mixed=mixed)


def _blend(own: Tensor, other: Tensor, shares: Tensor) -> Tensor:
    """(K, ...) of two (K, ...)"""
    share = shares.reshape(-1, *[1] * (own.dim() - 1))
    return share * own + (1 - share) * other


def _centred(waveform: Tensor) -> Tensor:
    """(K, N, S) less the mean of each window"""
    return waveform - waveform.nanmean(dim=-1, keepdim=True)
