"""How much each patch of a picture has to do with a sound: four ways to ask a model, one grid of answers.

A model whose embedding is the mean of its patch tokens can be asked directly (`cosine`). One with a global token has
never been told to align its patches with sounds; there the score of the pair is followed back to the patches
(`gradient`), or the patches are hidden (`occlusion`) or shown alone (`region`) and the change of the score is read.

L patches on a grid of rows x columns, D width of tokens, E width of embeddings, M pictures a window.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.windows import cut_windows
from lookhear.errors import ConfigError, MediaError
from lookhear.media.clip import Clip
from lookhear.models.tokens import Grid, Mask, Masks, mask_from_removed

if TYPE_CHECKING:
    from lookhear.embedder import Embedder

Method = Literal["cosine", "gradient", "occlusion", "region"]


@dataclass(frozen=True, kw_only=True)
class HeatConfig:
    """How a map is made."""

    method: Method = "occlusion"
    """cosine of sound and patch; or gradient, occlusion or region: what the patches do to the score of the pair"""
    subtract_background: bool = False
    """ask what sets this sound apart from the mean sound of the set, where there is a set"""
    region_patches: int = 3
    """occlusion and region: patches along the side of the square that is hidden or shown"""

    def __post_init__(self) -> None:
        if self.region_patches < 1:
            raise ConfigError(f"region_patches is {self.region_patches}; it must be at least 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedWindow:
    """One window ready to be asked about, on the embedder's device."""

    picture: np.ndarray = field(repr=False)  # uint8 (3, H, W): the middle frame as the model sees it
    pixels: Tensor = field(repr=False)  # float32 (1, 1, C, H, W), normalised
    audio_embedding: Tensor = field(repr=False)  # float32 (E,), unit length


def pair_window(embedder: "Embedder", clip: Clip, start_seconds: float) -> PairedWindow:
    """Cuts and prepares the window of `clip` at `start_seconds`. Raises MediaError without a frame or sound there."""

    cut = cut_windows(embedder.preprocess.config, clip, np.array([start_seconds]))
    if not (cut.has_sound[0] and cut.has_picture[0]):
        missing = "picture" if cut.has_sound[0] else "sound"
        raise MediaError(f"there is no {missing} at {start_seconds:.2f} s, so nothing can be located; try another time")
    device = next(embedder.model.parameters()).device
    frames = torch.from_numpy(cut.frames)  # uint8 (1, C, H, W), already of the model's size
    batch = embedder.preprocess(
        Batch(
            clip_ids=("",),
            index=torch.zeros(1, dtype=torch.int64),
            start_seconds=torch.full((1, 1), start_seconds, dtype=torch.float64),
            waveform=torch.from_numpy(cut.waveform)[None],
            frames=frames[None],
        ).to(device)
    )
    assert batch.frames is not None
    with torch.no_grad():
        output = embedder.model(audio=batch.audio)
    each = frames[0].unflatten(0, (-1, 3))  # (M, 3, H, W)
    return PairedWindow(
        picture=each[len(each) // 2].numpy(),
        pixels=batch.frames,
        audio_embedding=output.audio.embedding[0, 0].float(),
    )


def heat_grid(
    embedder: "Embedder",
    window: PairedWindow,
    *,
    config: HeatConfig | None = None,
    background: Tensor | None = None,
    sound: Tensor | None = None,
) -> np.ndarray:
    """How much each patch belongs to the sound: float32 (rows, columns), higher is more.

    `sound` (E,) asks about another sound than the window's own; `background` (E,) is the mean sound that
    `subtract_background` takes away. Raises ConfigError where the method does not fit the model.
    """
    config = config or HeatConfig()
    asked = window.audio_embedding if sound is None else sound
    if config.subtract_background and background is not None:
        asked = F.normalize(asked - background, dim=0)
    if config.method == "cosine":
        return _cosine(embedder.model, window.pixels, asked)
    if config.method == "gradient":
        return _gradient(embedder.model, window.pixels, asked)
    return _by_regions(embedder.model, window.pixels, asked, config)


@torch.no_grad()
def _cosine(model: nn.Module, pixels: Tensor, sound: Tensor) -> np.ndarray:
    encoded = model(frames=pixels).visual
    tokens = F.normalize(encoded.tokens[0, 0].float(), dim=1)  # (L, D)
    if tokens.shape[1] != len(sound):
        raise ConfigError(
            f"tokens of width {tokens.shape[1]} have no cosine with a sound of width {len(sound)}; use method gradient"
        )
    return _laid(tokens @ sound, encoded.grid)


def _gradient(model: nn.Module, pixels: Tensor, sound: Tensor) -> np.ndarray:
    """Grad-CAM on the tokens that leave the visual tower: what each would add to the score, where it adds."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    tower = getattr(model, "visual_tower", None)
    if not isinstance(tower, nn.Module):
        raise ConfigError("this model has no visual tower to follow gradients to; use method cosine")
    hook = tower.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            encoded = model(frames=pixels).visual
            score = encoded.embedding[0, 0].float() @ sound
            (gradient,) = torch.autograd.grad(score, kept[0])
    finally:
        hook.remove()
    first = int(getattr(model.config, "num_global_tokens", 0))
    part = slice(first, first + encoded.grid.num_tokens)  # registers, where they are kept, come after the patches
    return _laid((kept[0][0, part] * gradient[0, part]).sum(dim=1).relu().detach(), encoded.grid)


@torch.no_grad()
def _by_regions(model: nn.Module, pixels: Tensor, sound: Tensor, config: HeatConfig) -> np.ndarray:
    """Scores with a square of patches around each patch hidden (the drop counts) or shown alone (the score counts).

    The model drops patches as it does in training, so nothing has to be painted over. Each patch is credited with the
    mean over the squares that it is part of.
    """
    encoded = model(frames=pixels).visual
    grid, whole = encoded.grid, float(encoded.embedding[0, 0].float() @ sound)
    squares = _squares(grid, config.region_patches).to(pixels.device)  # bool (R, L)
    removed = squares if config.method == "occlusion" else ~squares
    scores = []
    for some in removed.split(128):
        mask: Mask = mask_from_removed(some)
        rows = pixels.expand(1, len(some), *pixels.shape[2:])
        output = model(frames=rows, mask=Masks(visual=mask, reconstruct=False)).visual
        scores.append(output.embedding[0].float() @ sound)
    value = torch.cat(scores)
    value = whole - value if config.method == "occlusion" else value
    credit = (squares.float() * value[:, None]).sum(dim=0) / squares.sum(dim=0)
    return _laid(credit, grid)


def _squares(grid: Grid, side: int) -> Tensor:
    """bool (R, L): every square of `side` x `side` patches that lies inside the grid (smaller on a smaller grid)."""
    rows, columns = min(side, grid.rows), min(side, grid.columns)
    if rows * columns == grid.num_tokens:
        raise ConfigError(f"a square of {side} patches covers the whole grid; use a smaller region_patches")
    places = []
    for top in range(grid.rows - rows + 1):
        for left in range(grid.columns - columns + 1):
            square = torch.zeros(grid.rows, grid.columns, dtype=torch.bool)
            square[top : top + rows, left : left + columns] = True
            places.append(square.flatten())
    return torch.stack(places)


def _laid(values: Tensor, grid: Grid) -> np.ndarray:
    return values.float().view(grid.rows, grid.columns).cpu().numpy()
