"""The values that flow through a model: grids, masks, tokens, embeddings; and pictures cut into patches.

B clips, N windows a clip, R = B x N rows, L tokens of a whole window, K tokens kept by a mask, D width, E embedding
width, C channels, H rows and W columns of pixels, P values in a patch.

A spectrogram is a picture of one channel whose rows are mel bins (low first) and whose columns are time, so an audio
token's index is `row * columns + column`: frequency-major, as in the published models.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.errors import ConfigError

Structure = Literal["unstructured", "time", "frequency", "both"]
LINE_SHARE = 0.7  # of the ratio, for each of rows and columns when a "both" mask removes whole lines of both


@dataclass(frozen=True)
class Grid:
    """How the tokens of one window lie: `rows` x `columns`, row-major (mel x time, or height x width)."""

    rows: int
    columns: int

    @property
    def num_tokens(self) -> int:
        """Tokens in one window, L."""
        return self.rows * self.columns


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """Which tokens of each row a model sees. Every row keeps the same number, K."""

    kept: Tensor  # int64 (R, K): indices of the tokens that are seen, in the order in which they are fed
    restore: Tensor  # int64 (R, L): where each token lies in [kept, removed]; >= K for a removed one
    removed: Tensor  # bool (R, L): what reconstruction is scored on
    decoded: Tensor | None = (
        None  # int64 (R, n): the removed tokens that are predicted; None: every token is, as published
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Masks:
    """One forward pass under masks. None leaves a modality whole."""

    audio: Mask | None = None
    visual: Mask | None = None
    reconstruct: bool = True  # run the joint stream and the decoder; False: embeddings of the masked input only


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How much of each modality a mask removes, and in what pattern."""

    audio: float = 0.75
    """share of the spectrogram's tokens that is removed"""
    visual: float = 0.75
    """share of the picture's tokens that is removed"""
    audio_structure: Structure = "unstructured"
    """unstructured, or whole columns (time), whole rows (frequency), or both"""
    visual_structure: Structure = "unstructured"
    """as audio_structure; time means columns and frequency means rows"""

    def __post_init__(self) -> None:
        for name, ratio in (("audio", self.audio), ("visual", self.visual)):
            if not 0.0 <= ratio < 1.0:
                raise ConfigError(f"mask ratio '{name}' is {ratio}; it must be at least 0 and below 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One modality after the encoder."""

    tokens: Tensor  # (B, N, L, D) after the modality's last norm; under a mask (B, N, K, D) in the mask's order
    grid: Grid  # of the whole window, also under a mask
    pooled: Tensor  # (B, N, D) the global token if the model has one, otherwise the mean of `tokens`
    embedding: Tensor  # float32 (B, N, E) in the shared space, unit length
    # (B, N, C, h, w) of every stage of an encoder that has stages, or (B, N, C, t, h, w) of a clip's; where asked for
    stages: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """Predicted patches, for every token whether it was seen or not, beside the patches of the input.

    Under masks with `decoded`, for the n tokens alone that it names, in its order.
    """

    audio: Tensor  # (B, N, L or n, P) predicted; values in the order of `patchify`
    visual: Tensor  # (B, N, L or n, P) predicted
    audio_patches: Tensor  # (B, N, L or n, P) of the spectrogram that was given
    visual_patches: Tensor  # (B, N, L or n, P) of the picture that was given


@dataclass(frozen=True, kw_only=True, eq=False)
class Output:
    """What every model returns. A modality that was not given is None."""

    audio: Encoded | None = None
    visual: Encoded | None = None
    joint: Tensor | None = None  # (B, N, K_audio + K_visual, D): both modalities through the joint stream
    reconstruction: Reconstruction | None = None
    logits: Tensor | None = None  # (B, N, num_classes), from classifiers


def patchify(pictures: Tensor, patch: tuple[int, int]) -> Tensor:
    """(R, C, H, W) -> (R, L, P): patches row-major, and in a patch (row, column, channel), channel fastest."""
    rows, columns = pictures.shape[2] // patch[0], pictures.shape[3] // patch[1]
    cut = pictures.unflatten(3, (columns, patch[1])).unflatten(2, (rows, patch[0]))  # (R, C, rows, p, columns, q)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(len(pictures), rows * columns, -1)


def unpatchify(patches: Tensor, grid: Grid, patch: tuple[int, int]) -> Tensor:
    """(R, L, P) -> (R, C, H, W): the inverse of `patchify`."""
    laid = patches.unflatten(2, (*patch, -1)).unflatten(1, (grid.rows, grid.columns))  # (R, rows, columns, p, q, C)
    return laid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos_positions(grid: Grid, width: int) -> Tensor:
    """The fixed table (L, D), float32: the first half of a vector encodes the column, the second the row.

    Each half is [sin(p w_k), cos(p w_k)] with w_k = 10000^(-k / (width / 4)), k = 0 .. width / 4 - 1.
    """
    omega = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))
    rows, columns = np.divmod(np.arange(grid.num_tokens, dtype=np.float64), grid.columns)
    halves = [np.outer(places, omega) for places in (columns, rows)]
    table = np.concatenate([wave(half) for half in halves for wave in (np.sin, np.cos)], axis=1)
    return torch.from_numpy(table.astype(np.float32))


def resize_positions(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """A position table (L, D) of `old` for the grid `new`.

    Fewer rows or columns are cut off at the end, which for sin-cos tables is exactly the smaller table; more are
    interpolated linearly, which changes what every position means: continue training after that.
    """
    laid = table.unflatten(0, (old.rows, old.columns))[: new.rows, : new.columns]
    if laid.shape[:2] != (new.rows, new.columns):
        channels_first = laid.permute(2, 0, 1)[None]
        size = (new.rows, new.columns)
        laid = F.interpolate(channels_first, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
    return laid.flatten(0, 1)


def num_kept(num_tokens: int, ratio: float) -> int:
    """How many of `num_tokens` a mask of `ratio` keeps (rounded down, in Python's floats as published)."""
    kept = int(num_tokens * (1 - ratio))
    if kept < 1:
        raise ConfigError(f"a mask of {ratio} keeps none of {num_tokens} tokens; use a smaller mask ratio")
    return kept


def mask_from_noise(noise: Tensor, ratio: float) -> Mask:
    """Keeps the tokens with the smallest `noise` (R, L), fed in the order of the noise, as published."""
    kept = num_kept(noise.shape[1], ratio)
    return _mask(noise.argsort(dim=1, stable=True), kept)


def mask_from_removed(removed: Tensor) -> Mask:
    """A chosen mask: `removed` bool (R, L), the same number of True in every row. Reads the count from the device."""
    counts = removed.sum(dim=1)
    if int(counts.min()) != int(counts.max()):
        raise ConfigError("every row of a mask must remove the same number of tokens")
    return _mask(removed.to(torch.uint8).argsort(dim=1, stable=True), removed.shape[1] - int(counts[0]))


def _mask(order: Tensor, kept: int) -> Mask:
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    restore = torch.empty_like(order).scatter_(1, order, places)
    return Mask(kept=order[:, :kept].contiguous(), restore=restore, removed=restore >= kept)


def num_decoded(num_removed: int, share: float) -> int:
    """How many of `num_removed` tokens are predicted where `share` of them are: at least one, if there is one."""
    return min(num_removed, max(1, round(num_removed * share)))


def removed_places(mask: Mask) -> Tensor:
    """int64 (R, L - K): the tokens that `mask` removed, in the order of its noise."""
    return mask.restore.argsort(dim=1)[:, mask.kept.shape[1] :]  # `restore` is the inverse of [kept, removed]


def decode_some(mask: Mask, share: float) -> Mask:
    """`mask` of which `share` of the removed tokens are predicted, the first in the order of its noise."""
    removed = removed_places(mask)
    return replace(mask, decoded=removed[:, : num_decoded(removed.shape[1], share)])


def take_tokens(values: Tensor, places: Tensor) -> Tensor:
    """(R, L, X) at `places` int64 (R, K) -> (R, K, X). Whole rows are copied, not single numbers."""
    first = values.shape[1] * torch.arange(len(values), device=values.device)  # of the places of each row
    flat = (places + first[:, None]).flatten()
    return values.flatten(0, 1).index_select(0, flat).unflatten(0, (len(values), -1))


def noise_size(grid: Grid, structure: Structure = "unstructured") -> int:
    """How many uniform numbers a row's mask takes: one a token, and one a line of the grid if it is structured."""
    return grid.num_tokens + (0 if structure == "unstructured" else grid.rows + grid.columns)


def mask_on_grid(noise: Tensor, grid: Grid, ratio: float, structure: Structure = "unstructured") -> Mask:
    """A mask from uniform numbers in [0, 1), `noise` (R, noise_size(grid, structure)).

    "time" removes int(columns x ratio) whole columns and "frequency" int(rows x ratio) whole rows; "both" takes 0.7
    of the ratio of each. Where these lines hold more or fewer tokens than the ratio asks for, the tokens' own noise
    decides about the rest, so that every mask of a ratio keeps the same number.
    """
    assert noise.shape[1] == noise_size(grid, structure), "noise_size says how many numbers a mask takes"
    if structure == "unstructured":
        return mask_from_noise(noise, ratio)
    share = ratio * LINE_SHARE if structure == "both" else ratio
    tokens, columns, rows = noise.split([grid.num_tokens, grid.columns, grid.rows], dim=1)
    wanted = torch.zeros(len(noise), grid.rows, grid.columns, dtype=torch.bool, device=noise.device)
    if structure in ("time", "both"):
        wanted = wanted | _smallest(columns, int(grid.columns * share))[:, None, :]
    if structure in ("frequency", "both"):
        wanted = wanted | _smallest(rows, int(grid.rows * share))[:, :, None]
    return mask_from_noise(tokens + wanted.flatten(1), ratio)


def _smallest(noise: Tensor, count: int) -> Tensor:
    """Bool, the shape of `noise` (R, n): True at the `count` smallest of each row."""
    order = noise.argsort(dim=1, stable=True)
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, order[:, :count], True)


def similarity_map(embedding: Tensor, encoded: Encoded) -> Tensor:
    """Where in `encoded` something is: cosine of `embedding` (B, N, E) with every token -> (B, N, rows, columns).

    An audio embedding over visual tokens shows where in the picture the sound comes from; a visual one over audio
    tokens, when and at which pitch it is heard. `encoded` must be whole (no mask).
    """
    assert encoded.tokens.shape[2] == encoded.grid.num_tokens, "a map needs every token: encode without a mask"
    tokens = F.normalize(encoded.tokens.float(), dim=-1)
    scores = torch.einsum("bnd,bnld->bnl", F.normalize(embedding.float(), dim=-1), tokens)
    return scores.unflatten(2, (encoded.grid.rows, encoded.grid.columns))
