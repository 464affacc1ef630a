"""How much each patch has to do with what the other modality shows: four ways to ask a model, one grid of answers.

Both directions: the patches of a picture are asked about a sound, the patches of a spectrogram about a region of the
picture. A model whose embedding is the mean of its patch tokens can be asked directly (`cosine`). One with a global
token has never been told to align its patches; there the score of the pair is followed back to the patches
(`gradient`), or the patches are hidden (`occlusion`) or shown alone (`region`) and the change of the score is read.

L patches on a grid of rows x columns, D width of tokens, E width of embeddings, M pictures a window.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.batch import Batch, windows_as_clips
from lookhear.data.windows import cut_windows
from lookhear.errors import ConfigError, MediaError
from lookhear.media.clip import Clip
from lookhear.models.tokens import Encoded, Grid, Mask, Masks, mask_from_removed
from lookhear.tasks.localization.metrics import box_mask

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.tasks.localization.crop import Box

Method = Literal["cosine", "gradient", "occlusion", "region"]
Modality = Literal["audio", "visual"]


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
    waveform: np.ndarray = field(repr=False)  # float32 (S,)
    pixels: Tensor = field(repr=False)  # float32 (1, 1, C, H, W), normalised
    spectrogram: Tensor = field(repr=False)  # float32 (1, 1, T, F), normalised
    audio_embedding: Tensor = field(repr=False)  # float32 (E,), unit length
    visual_embedding: Tensor = field(repr=False)  # float32 (E,), unit length

    @property
    def score(self) -> float:
        """The cosine of sound and picture."""
        return float(self.audio_embedding @ self.visual_embedding)


def pair_window(
    embedder: "Embedder", clip: Clip, start_seconds: float, *, shown: np.ndarray | None = None
) -> PairedWindow:
    """Cuts and prepares the window of `clip` at `start_seconds`. Raises MediaError without a frame or sound there.

    `shown` (M,) says which of the clip's frames the model is to look at; None: those of the window.
    """
    frames_of = None if shown is None else [shown]
    cut = cut_windows(embedder.preprocess.config, clip, np.array([start_seconds]), frames=frames_of)
    if not (cut.has_sound[0] and cut.has_picture[0]):
        missing = "picture" if cut.has_sound[0] else "sound"
        raise MediaError(f"there is no {missing} at {start_seconds:.2f} s, so nothing can be located; try another time")
    frames = torch.from_numpy(cut.frames)  # uint8 (1, C, H, W), already of the model's size
    batch = _batch(embedder, torch.from_numpy(cut.waveform), frames)
    assert batch.frames is not None
    assert batch.audio is not None
    with torch.no_grad():
        output = embedder.encoder(audio=batch.audio, frames=batch.frames)
    each = frames[0].unflatten(0, (-1, 3))  # (M, 3, H, W)
    return PairedWindow(
        picture=each[len(each) // 2].numpy(),
        waveform=cut.sound[0],
        pixels=batch.frames,
        spectrogram=batch.audio,
        audio_embedding=output.audio.embedding[0, 0].float(),
        visual_embedding=output.visual.embedding[0, 0].float(),
    )


@torch.no_grad()
def sound_embeddings(embedder: "Embedder", waveforms: np.ndarray) -> Tensor:
    """float32 (n, E), unit length, of window waveforms (n, S)."""
    batch = _batch(embedder, torch.from_numpy(waveforms), None)
    embedding: Tensor = embedder.encoder(audio=batch.audio).audio.embedding
    return embedding[:, 0].float()


def _batch(embedder: "Embedder", waveforms: Tensor, frames: Tensor | None) -> Batch:
    """Waveforms (n, S) and frames uint8 (n, C, H, W), preprocessed on the model's device as n clips of one window."""
    device = next(embedder.model.parameters()).device
    return embedder.preprocess(windows_as_clips(waveforms, frames).to(device))


def heat_grid(
    embedder: "Embedder",
    window: PairedWindow,
    *,
    config: HeatConfig | None = None,
    background: Tensor | None = None,
    sound: Tensor | None = None,
) -> np.ndarray:
    """How much each patch of the picture belongs to the sound: float32 (rows, columns), higher is more.

    `sound` (E,) asks about another sound than the window's own; `background` (E,) is the mean sound that
    `subtract_background` takes away. Raises ConfigError where the method does not fit the model.
    """
    config = config or HeatConfig()
    asked = window.audio_embedding if sound is None else sound
    if config.subtract_background and background is not None:
        asked = F.normalize(asked - background, dim=0)
    return _grid(embedder.encoder, "visual", window.pixels, asked, config)


def sound_grid(
    embedder: "Embedder", window: PairedWindow, *, box: "Box | None" = None, config: HeatConfig | None = None
) -> np.ndarray:
    """The reverse: how much each patch of the spectrogram belongs to a region of the picture, float32 (mel, time).

    `box` is in fractions of the crop that the model sees; None asks about the whole picture. A region is what the
    model makes of the patches whose centre lies in it when it is shown nothing else. Row 0 is the lowest pitch.
    """
    asked = window.visual_embedding
    if box is not None:
        asked = _region_embedding(embedder.encoder, window.pixels, box)
    return _grid(embedder.encoder, "audio", window.spectrogram, asked, config or HeatConfig())


@torch.no_grad()
def _region_embedding(model: nn.Module, pixels: Tensor, box: "Box") -> Tensor:
    grid = model(frames=pixels).visual.grid
    shown = torch.from_numpy(box_mask(box, grid.rows, grid.columns).ravel()).to(pixels.device)
    return _encode(model, "visual", pixels, mask_from_removed(~shown[None])).embedding[0, 0].float()


def _grid(model: nn.Module, modality: Modality, values: Tensor, asked: Tensor, config: HeatConfig) -> np.ndarray:
    """How much each patch of `values` (1, 1, ...), of one modality, belongs to the vector `asked` (E,)."""
    if config.method == "cosine":
        return _cosine(model, modality, values, asked)
    if config.method == "gradient":
        return _gradient(model, modality, values, asked)
    return _by_regions(model, modality, values, asked, config)


def _encode(model: nn.Module, modality: Modality, values: Tensor, mask: Mask | None = None) -> Encoded:
    if modality == "audio":
        output = model(audio=values, mask=None if mask is None else Masks(audio=mask, reconstruct=False)).audio
    else:
        output = model(frames=values, mask=None if mask is None else Masks(visual=mask, reconstruct=False)).visual
    assert isinstance(output, Encoded)
    return output


@torch.no_grad()
def _cosine(model: nn.Module, modality: Modality, values: Tensor, asked: Tensor) -> np.ndarray:
    encoded = _encode(model, modality, values)
    tokens = F.normalize(encoded.tokens[0, 0].float(), dim=1)  # (L, D)
    if tokens.shape[1] != len(asked):
        raise ConfigError(
            f"tokens of width {tokens.shape[1]} have no cosine with a vector of width {len(asked)}; use method gradient"
        )
    return _laid(tokens @ asked, encoded.grid)


def _gradient(model: nn.Module, modality: Modality, values: Tensor, asked: Tensor) -> np.ndarray:
    """Grad-CAM on the tokens that leave the tower: what each would add to the score, where it adds."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    tower = getattr(model, f"{modality}_tower", None)
    if not isinstance(tower, nn.Module):
        raise ConfigError(f"this model has no {modality} tower to follow gradients to; use method cosine")
    hook = tower.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            encoded = _encode(model, modality, values)
            score = encoded.embedding[0, 0].float() @ asked
            (gradient,) = torch.autograd.grad(score, kept[0])
    finally:
        hook.remove()
    first = int(getattr(model.config, "num_global_tokens", 0))
    part = slice(first, first + encoded.grid.num_tokens)  # registers, where they are kept, come after the patches
    return _laid((kept[0][0, part] * gradient[0, part]).sum(dim=1).relu().detach(), encoded.grid)


@torch.no_grad()
def _by_regions(model: nn.Module, modality: Modality, values: Tensor, asked: Tensor, config: HeatConfig) -> np.ndarray:
    """Scores with a square of patches around each patch hidden (the drop counts) or shown alone (the score counts).

    The model drops patches as it does in training, so nothing has to be painted over. Each patch is credited with the
    mean over the squares that it is part of.
    """
    encoded = _encode(model, modality, values)
    grid, whole = encoded.grid, float(encoded.embedding[0, 0].float() @ asked)
    squares = _squares(grid, config.region_patches).to(values.device)  # bool (R, L)
    removed = squares if config.method == "occlusion" else ~squares
    scores = []
    for some in removed.split(128):
        rows = values.expand(1, len(some), *values.shape[2:])
        output = _encode(model, modality, rows, mask_from_removed(some))
        scores.append(output.embedding[0].float() @ asked)
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
