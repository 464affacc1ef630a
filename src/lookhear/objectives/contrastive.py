"""Contrastive learning between sound and picture: a window of sound should be nearest to its own picture.

M windows (of all clips, and of all ranks where they are gathered), E embedding width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["image_to_audio", "audio_to_image", "both"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NCE:
    """A contrastive loss and how often the right partner came first (fractions), both scalars."""

    loss: Tensor
    accuracy: Tensor


def info_nce(
    audio: Tensor,
    visual: Tensor,
    *,
    temperature: float | Tensor = 0.05,
    direction: Direction = "image_to_audio",
    excluded: Tensor | None = None,
    own: slice = slice(None),
) -> NCE:
    """InfoNCE between `audio` (M, E) and `visual` (M, E), unit length; row i of one belongs to row i of the other.

    image_to_audio is the published direction: for each picture, a softmax over all sounds. The slow form:

        for i in own: loss_i = -log( exp(a_i.v_i / t) / sum over j not excluded[i, j] of exp(a_j.v_i / t) )

    averaged over i; audio_to_image swaps the two, both is the mean of the two directions. `own` are the rows asked
    about (those of this rank, where M counts all ranks), m of them; `excluded` bool (m, M) marks what is neither the
    positive nor a negative (see `excluded_pairs`).
    """
    with torch.autocast(audio.device.type, enabled=False):
        audio, visual = audio.float(), visual.float()
        results = []
        if direction in ("image_to_audio", "both"):
            results.append(_one_direction(visual[own], audio, temperature, excluded, own))
        if direction in ("audio_to_image", "both"):
            results.append(_one_direction(audio[own], visual, temperature, excluded, own))
    return NCE(
        loss=torch.stack([result.loss for result in results]).mean(),
        accuracy=torch.stack([result.accuracy for result in results]).mean(),
    )


def _one_direction(query: Tensor, key: Tensor, temperature: float | Tensor, excluded: Tensor | None, own: slice) -> NCE:
    logits = query @ key.T / temperature  # (m, M)
    if excluded is not None:
        logits = logits.masked_fill(excluded, float("-inf"))
    positive = torch.arange(len(key), device=key.device)[own]
    accuracy = (logits.detach().argmax(1) == positive).float().mean()
    return NCE(loss=F.cross_entropy(logits, positive), accuracy=accuracy)


def excluded_pairs(
    index: Tensor,
    start_seconds: Tensor,
    *,
    window_seconds: float,
    same_clip_negatives: bool = True,
    own: slice = slice(None),
) -> Tensor:
    """Which pairs of windows are no negatives: bool (m, M) for the m windows `own` against all M.

    `index` (M,) is the clip of each window, `start_seconds` (M,) its start. Windows of one clip that overlap in time
    hold partly the same moment and are excluded; the others are the hardest and most useful negatives, unless
    `same_clip_negatives` is False. The positive, a window with itself, is never excluded.
    """
    excluded = index[own, None] == index[None, :]
    if same_clip_negatives:
        # Starts are rounded to samples: windows laid end to end must not count as overlapping.
        apart = (start_seconds[own, None] - start_seconds[None, :]).abs() >= window_seconds - 1e-3
        excluded = excluded & ~apart
    rows = torch.arange(len(index), device=index.device)
    return excluded & (rows[own, None] != rows[None, :])
