"""Filling in what is missing: part of a picture or of a sound from the rest, or one of them from the other.

A model with a decoder (CAV-MAE: Gong et al., ICLR 2023, section 4.4) predicts the patches that a mask removes; what
was visible is pasted in as it was. H, W pixels; T spectrogram frames, F mel bins; S samples; L patches, P values each.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.data.griffin_lim import sound_of_log_mel
from lookhear.data.preprocess import ENERGY_FLOOR, frame_and_hop
from lookhear.data.windows import Windows, cut_windows
from lookhear.errors import CheckpointError, ConfigError, MediaError, UserError
from lookhear.media.clip import Clip
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.tokens import (
    Grid,
    Mask,
    MaskConfig,
    Masks,
    Structure,
    mask_from_removed,
    mask_on_grid,
    noise_size,
    unpatchify,
)
from lookhear.tasks.localization.crop import Box, box_in_crop, model_crop
from lookhear.tasks.localization.drawing import REMOVED_COLOUR, save_picture, spectrogram_picture
from lookhear.tasks.localization.maps import read_around, start_around

if TYPE_CHECKING:
    from lookhear.embedder import Embedder

# Shown on stderr without any setting up, from Python too: what is borrowed must not pass for what was predicted.
_log = logging.getLogger("lookhear")
PUBLISHED_RATIO = 0.75
_SPECTROGRAM_ENLARGED = 3


@dataclass(frozen=True, kw_only=True)
class InpaintConfig:
    """What is removed and filled in."""

    audio: float | None = None
    """share of the spectrogram's patches removed, 1: all of it; null: 0, or .75 (published) if nothing is asked for"""
    visual: float | None = None
    """share of the picture's patches removed, 1: all of it; null: 0, or .75 (published) if nothing is asked for"""
    audio_structure: Structure = "unstructured"
    """unstructured, or whole columns (time), whole rows (frequency), or both"""
    visual_structure: Structure = "unstructured"
    """as audio_structure; time means columns and frequency means rows"""
    picture_box: Box | None = None
    """left, top, right, bottom as fractions of the frame: removes every patch that it touches, instead of a share"""
    sound_box: tuple[float, float, float, float] | None = None
    """from and to in seconds of the file, from and to in Hz: removes every patch that it touches, instead of a share"""
    patch_statistics: Literal["auto", "predicted", "true"] = "auto"
    """where the brightness and contrast of a filled patch come from: the prediction, or what was there ("true": the
    only way for models that learned patches with their own mean and deviation taken out, which predict neither);
    auto: as the model learned"""
    seed: int = 2
    """of the random masks and of the phases of the sound; 2 as published"""

    def __post_init__(self) -> None:
        for name, ratio, box in (("audio", self.audio, self.sound_box), ("visual", self.visual, self.picture_box)):
            if ratio is not None and not 0 <= ratio <= 1:
                raise ConfigError(f"'{name}' is {ratio}; it must be a share from 0 to 1")
            if ratio is not None and box is not None:
                raise ConfigError(f"'{name}' and a box for it are both given; a box says by itself what is removed")
        if self.sound_box is not None:
            start, end, low, high = self.sound_box
            if not (start < end and 0 <= low < high):
                raise ConfigError(f"sound_box is {self.sound_box}; want from and to in seconds, from and to in Hz")
        if self.ratios == {"audio": 1.0, "visual": 1.0}:
            raise ConfigError("all of the sound and all of the picture are removed: nothing is left to fill in from")
        if self.ratios == {"audio": 0.0, "visual": 0.0}:
            raise ConfigError("nothing is removed, so there is nothing to fill in; give a share above 0, or a box")

    @property
    def ratios(self) -> dict[str, float | None]:
        """The share that is removed of each modality; None where a box says it."""
        asked = (self.audio, self.visual, self.picture_box, self.sound_box)
        free = PUBLISHED_RATIO if asked == (None,) * 4 else 0.0
        return {
            "audio": None if self.sound_box is not None else free if self.audio is None else self.audio,
            "visual": None if self.picture_box is not None else free if self.visual is None else self.visual,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Filled:
    """One modality before, under the mask, and after. Arrays are (3, H, W) uint8 pictures or (F, T) log-mel float32."""

    before: np.ndarray | None = field(repr=False)  # None where the file has no such modality
    masked: np.ndarray = field(repr=False)  # removed patches in one colour, or silent
    after: np.ndarray = field(repr=False)
    removed: np.ndarray = field(repr=False)  # bool, per pixel (H, W) or mel bin (F, T)
    removed_share: float
    # mean squared error over the removed patches, in what the model learned (normalised input; with "true" statistics
    # each patch normalised by itself); None where nothing was removed or nothing was there
    loss: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Inpainting:
    """One window filled in."""

    start_seconds: float  # of the window, on the file's clock
    end_seconds: float
    picture: Filled  # the middle picture of the window, as the model sees it
    spectrogram: Filled  # row 0 is the lowest pitch
    waveform: np.ndarray | None = field(repr=False)  # float32 (S,): the sound as recorded
    sample_rate: int

    def sound(self, stage: Literal["before", "masked", "after"], *, seed: int = 0) -> np.ndarray | None:
        """A spectrogram as sound, float32 (S,), by Griffin-Lim; None for the "before" of a soundless file."""
        log_mel = getattr(self.spectrogram, stage)
        return None if log_mel is None else sound_of_log_mel(log_mel.T, sample_rate=self.sample_rate, seed=seed)


def fill_in(
    embedder: "Embedder", media: Clip | str | Path, at_seconds: float, config: InpaintConfig | None = None
) -> Inpainting:
    """Removes what `config` says from the window around `at_seconds` and lets the model fill it in.

    Whatever the file lacks must be removed whole (`audio=1` or `visual=1`): then it is made from the other.
    Where that has no brightness of its own, or no loudness, it is borrowed from what was there, and a warning says so.
    Raises CheckpointError for a model without a decoder, one whose predictions have no brightness while "predicted" is
    asked for, or of which nobody says; MediaError where there is nothing at that time; UserError for a box outside what
    the model sees.
    """
    config = config or InpaintConfig()
    model = embedder.model
    if getattr(model, "decoder", None) is None:
        raise CheckpointError(
            "this model has no decoder, so it cannot fill anything in; take a checkpoint of pre-training with "
            "reconstruction (model.decoder_depth above 0), not a fine-tuned one"
        )
    config = _with_statistics(embedder.extra, config)
    clip = media
    if not isinstance(clip, Clip):
        clip = read_around(embedder.preprocess.config, clip, at_seconds, of_window=True)
    start = start_around(at_seconds, clip.start_seconds, clip.end_seconds, embedder.window_seconds)
    windows = cut_windows(embedder.preprocess.config, clip, np.array([start]))
    _check_present(windows, config, at_seconds)
    frame_size = (1, 1) if clip.frames is None or not len(clip.frames) else clip.frames.shape[-2:]
    masks = _masks(embedder, config, start, frame_size)
    audio = embedder.preprocess.spectrogram(torch.from_numpy(windows.waveform))[:, None].to(embedder.device)
    frames = embedder.preprocess.pixels(torch.from_numpy(windows.frames))[:, None].to(embedder.device)
    with torch.inference_mode():
        found = model(audio=audio, frames=frames, mask=masks).reconstruction
    assert found is not None  # a model with a decoder, masks and both modalities reconstructs
    sides = {
        "audio": _Side(found.audio_patches, found.audio, masks.audio, bool(windows.has_sound[0])),
        "visual": _Side(found.visual_patches, found.visual, masks.visual, bool(windows.has_picture[0])),
    }
    return Inpainting(
        start_seconds=start,
        end_seconds=start + embedder.window_seconds,
        picture=_picture(embedder, sides["visual"], config),
        spectrogram=_spectrogram(embedder, sides["audio"], config, windows.waveform[0]),
        waveform=windows.sound[0] if windows.has_sound[0] else None,
        sample_rate=embedder.preprocess.config.sample_rate,
    )


def inpaint(
    media: str | Path,
    *,
    model: "str | Path | Embedder",
    at_seconds: float,
    out: str | Path,
    config: InpaintConfig | None = None,
) -> Inpainting:
    """Fills in a window of `media` and writes it into the folder `out`, before, masked and after.

    picture_*.png, spectrogram_*.png (low pitches at the bottom) and sound_*.wav. All three sounds are made from their
    spectrogram in the same way, so that what differs is the model's doing; sound_original.wav is the recording.
    Raises what `fill_in` raises, and UserError where `out` cannot be written or is not empty: files of another moment
    would stand beside these.
    """
    from lookhear.embedder import loaded_model
    from lookhear.media.encode import write_sound

    config = config or InpaintConfig()
    folder = Path(out)
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"the folder {folder} is not empty; name a new one with --out, or move it away")
    found = fill_in(loaded_model(model), media, at_seconds, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror or error}; name another") from error
    stages: tuple[Literal["before", "masked", "after"], ...] = ("before", "masked", "after")
    scale = _grey_scale(found.spectrogram)
    for stage in stages:
        picture, log_mel = getattr(found.picture, stage), getattr(found.spectrogram, stage)
        if picture is not None:
            save_picture(folder / f"picture_{stage}.png", picture)
        if log_mel is not None:
            removed = found.spectrogram.removed if stage == "masked" else None
            drawn = spectrogram_picture(log_mel, scale=scale, removed=removed)
            large = drawn.repeat(_SPECTROGRAM_ENLARGED, axis=1).repeat(_SPECTROGRAM_ENLARGED, axis=2)
            save_picture(folder / f"spectrogram_{stage}.png", large)
            sound = found.sound(stage, seed=config.seed)
            assert sound is not None
            write_sound(folder / f"sound_{stage}.wav", sound.clip(-1, 1), found.sample_rate)
    if found.waveform is not None:
        write_sound(folder / "sound_original.wav", found.waveform, found.sample_rate)
    return found


def _grey_scale(spectrogram: Filled) -> tuple[float, float]:
    """One scale for all stages, so that they can be compared."""
    shown = [part for part in (spectrogram.before, spectrogram.after) if part is not None]
    return float(min(map(np.min, shown))), float(max(map(np.max, shown)))


def _sizes(embedder: "Embedder") -> CAVMAEConfig:
    assert isinstance(embedder.model, CAVMAE)  # the only kind that has a decoder
    return embedder.model.config


def _with_statistics(extra: Mapping[str, Any], config: InpaintConfig) -> InpaintConfig:
    """`config` without "auto". Checkpoints of ours and known weights say what their decoder learned; a published file
    itself does not."""
    normalised = extra.get("objective", {}).get("normalise_patches")
    if config.patch_statistics == "true":
        return config
    if normalised is False:
        return replace(config, patch_statistics="predicted")
    if normalised is True and config.patch_statistics == "auto":
        _log.warning(
            "this model predicts no brightness and no loudness (it learned patches with their own mean and deviation "
            "taken out): they are borrowed from what was there, so look at the pattern within each patch only"
        )
        return replace(config, patch_statistics="true")
    if normalised is None:
        raise CheckpointError(
            "nothing says whether this model learned patches with their own mean and deviation taken out, and so "
            "predicts no brightness and no loudness; set patch_statistics=true to borrow them from what was there, "
            "take a run of lookhear or weights known by name (cavmae-base-nonorm predicts them), or, if you know that "
            "they were not taken out, load it with PublishedChoices(normalise_patches=False)"
        )
    raise CheckpointError(
        "this model learned patches with their own mean and deviation taken out, so it predicts no brightness and "
        "no loudness; take one trained with objective.normalise_patches=false, or set patch_statistics=true to "
        "borrow them from what was there"
    )


def _check_present(windows: Windows, config: InpaintConfig, at_seconds: float) -> None:
    sides = (("audio", "sound", windows.has_sound[0]), ("visual", "picture", windows.has_picture[0]))
    for name, word, present in sides:
        if not present and config.patch_statistics == "true":
            raise MediaError(
                f"there is no {word} at {at_seconds:g} s, so nothing to borrow brightness or loudness from; to make it "
                "from the other, take a model that predicts them: one trained with objective.normalise_patches=false"
            )
        if not present and config.ratios[name] != 1.0:
            raise MediaError(
                f"there is no {word} at {at_seconds:g} s; set {name}=1 to have all of it made from the other"
            )


# ---- what is removed


def _masks(embedder: "Embedder", config: InpaintConfig, start: float, frame_size: tuple[int, int]) -> Masks:
    settings, sizes = embedder.preprocess.config, _sizes(embedder)
    ratios = MaskConfig(audio_structure=config.audio_structure, visual_structure=config.visual_structure)
    generator = torch.Generator().manual_seed(config.seed)
    audio_grid, picture_grid = sizes.audio_grid, sizes.picture_grid  # audio is drawn before visual, as published
    audio: Mask | None
    visual: Mask | None
    if config.sound_box is not None:
        from_seconds, to_seconds, low, high = config.sound_box
        edges = settings.mel_edges_hz
        # what lies below the lowest bin or above the highest counts to it
        bins = (np.clip([low, high], edges[0], edges[-1])[:, None] > edges[None, 1:-1]).sum(axis=1)
        rows = (bins[0] / settings.num_mel_bins, (bins[1] + 1) / settings.num_mel_bins)
        columns = [(seconds - start) / embedder.window_seconds for seconds in (from_seconds, to_seconds)]
        if columns[1] <= 0 or columns[0] >= 1:
            end = start + embedder.window_seconds
            raise UserError(
                f"{from_seconds:g} to {to_seconds:g} s lies outside the window that is filled in ({start:g} to {end:g} "
                "s); give times inside it, or another moment"
            )
        audio = _touched((columns[0], rows[0], columns[1], rows[1]), audio_grid)
    else:
        audio = _drawn(config.ratios["audio"], audio_grid, ratios.audio_structure, generator)
    if config.picture_box is not None:
        box = box_in_crop(config.picture_box, model_crop(settings, *frame_size))
        visual = _touched(box, picture_grid)
    else:
        visual = _drawn(config.ratios["visual"], picture_grid, ratios.visual_structure, generator)
    if audio is not None and visual is not None and bool(audio.removed.all()) and bool(visual.removed.all()):
        raise UserError("the boxes cover all of the sound and all of the picture: nothing is left to fill in from")
    return Masks(audio=_on(audio, embedder.device), visual=_on(visual, embedder.device))


def _drawn(ratio: float | None, grid: Grid, structure: Structure, generator: torch.Generator) -> Mask | None:
    """A random mask of one window; None where nothing is removed."""
    assert ratio is not None  # a box was looked at before
    if ratio == 0:
        return None
    if ratio == 1:
        return mask_from_removed(torch.ones(1, grid.num_tokens, dtype=torch.bool))
    return mask_on_grid(torch.rand(1, noise_size(grid, structure), generator=generator), grid, ratio, structure)


def _touched(box: Box, grid: Grid) -> Mask:
    """Removes the patches of which any part lies in `box`, fractions of the grid."""
    left, top, right, bottom = box
    columns, rows = np.arange(grid.columns) / grid.columns, np.arange(grid.rows) / grid.rows
    across = (columns < right) & (columns + 1 / grid.columns > left)
    down = (rows < bottom) & (rows + 1 / grid.rows > top)
    return mask_from_removed(torch.from_numpy((down[:, None] & across[None, :]).reshape(1, -1)))


def _on(mask: Mask | None, device: torch.device) -> Mask | None:
    if mask is None:
        return None
    return Mask(kept=mask.kept.to(device), restore=mask.restore.to(device), removed=mask.removed.to(device))


# ---- what comes out


@dataclass(frozen=True, eq=False)
class _Side:
    true: Tensor  # (1, 1, L, P), normalised as the model sees it
    predicted: Tensor  # (1, 1, L, P)
    mask: Mask | None
    present: bool  # whether the file has this modality at all


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pasted:
    before: np.ndarray  # float32 (C, rows, columns), normalised as the model sees it
    after: np.ndarray
    removed: np.ndarray  # bool (rows, columns)
    loss: float | None


def _paste(side: _Side, grid: Grid, patch: tuple[int, int], config: InpaintConfig) -> _Pasted:
    """The removed patches as predicted, all others as they were."""
    true, predicted = side.true[0].float().cpu(), side.predicted[0].float().cpu()  # (1, L, P)
    removed = torch.zeros(true.shape[:2], dtype=torch.bool) if side.mask is None else side.mask.removed.cpu()
    target = true
    if config.patch_statistics == "true":
        mean, deviation = true.mean(-1, keepdim=True), (true.var(-1, keepdim=True) + 1e-6).sqrt()
        target = (true - mean) / deviation
    loss = None
    if side.present and bool(removed.any()):
        loss = float((predicted - target).square()[removed].mean())
    if config.patch_statistics == "true":
        predicted = predicted * deviation + mean
    pasted = torch.where(removed[..., None], predicted, true)
    taken = removed[..., None].expand(-1, -1, patch[0] * patch[1])
    return _Pasted(
        before=unpatchify(true, grid, patch)[0].numpy(),
        after=unpatchify(pasted, grid, patch)[0].numpy(),
        removed=unpatchify(taken.float(), grid, patch)[0, 0].numpy() > 0,
        loss=loss,
    )


def _picture(embedder: "Embedder", side: _Side, config: InpaintConfig) -> Filled:
    settings, sizes = embedder.preprocess.config, _sizes(embedder)
    pasted = _paste(side, sizes.picture_grid, sizes.picture_patch, config)
    first = settings.frames_per_window // 2 * 3  # of several pictures the middle one
    mean, std = np.array(settings.picture_mean)[:, None, None], np.array(settings.picture_std)[:, None, None]

    def shown(values: np.ndarray) -> np.ndarray:
        pixels: np.ndarray = ((values[first : first + 3] * std + mean).clip(0, 1) * 255).round().astype(np.uint8)
        return pixels

    before = shown(pasted.before)
    return Filled(
        before=before if side.present else None,
        masked=np.where(pasted.removed[None], np.array(REMOVED_COLOUR, np.uint8)[:, None, None], before),
        after=shown(pasted.after),
        removed=pasted.removed,
        removed_share=float(pasted.removed.mean()),
        loss=pasted.loss,
    )


def _spectrogram(embedder: "Embedder", side: _Side, config: InpaintConfig, waveform: np.ndarray) -> Filled:
    settings, sizes = embedder.preprocess.config, _sizes(embedder)
    pasted = _paste(side, sizes.audio_grid, sizes.audio_patch, config)
    before, after = (part[0] * settings.audio_std + settings.audio_mean for part in (pasted.before, pasted.after))
    silence = float(np.log(ENERGY_FLOOR))
    if side.present:
        # published models are given something loud beyond the end of the sound: nobody should hear it
        frame, hop = frame_and_hop(settings.sample_rate)
        beyond = np.isnan(np.lib.stride_tricks.sliding_window_view(waveform, frame)[::hop]).any(axis=1)  # (T,)
        before, after = (np.where(beyond[None] & ~pasted.removed, silence, part) for part in (before, after))
    return Filled(
        before=before.astype(np.float32) if side.present else None,
        masked=np.where(pasted.removed, silence, before).astype(np.float32),
        after=np.maximum(after, silence).astype(np.float32),
        removed=pasted.removed,
        removed_share=float(pasted.removed.mean()),
        loss=pasted.loss,
    )
