"""Changes to training windows that a pair survives: what stays the same in all of them is what must be learned.

A small store is otherwise learned by heart: colours and background noise are enough to know every clip of it. Sound and
picture are changed independently of one another, and every draw comes from (seed, epoch, clip). B clips, N windows,
C picture channels (3 a frame), T spectrogram frames, F mel bins, R = B x N rows.
"""

import dataclasses
import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError

_PICTURE_DRAWS = 8
_EQUALISER_WAVES = 4


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly windows are changed; the defaults change nothing, as in the published pre-training of Sync."""

    flip: float = 0.0
    """share of the windows whose picture is mirrored, left and right"""
    zoom: float = 1.0
    """smallest share of the picture's side that a random cut keeps; 1: all of it"""
    color: float = 0.0
    """0 to 1: how far hue turns, and saturation, contrast and brightness go up or down"""
    still: float = 0.0
    """share of the windows whose pictures are all replaced by the middle one, so that a still can be searched with"""
    gain: float = 0.0
    """largest change of loudness, in deviations of the log-mel"""
    equaliser: float = 0.0
    """largest change of a mel band, smooth over the bands, in deviations of the log-mel"""
    noise: float = 0.0
    """deviation of noise added to the log-mel, in deviations of the log-mel"""
    mask_mel_bins: int = 0
    """SpecAugment: widest band of mel bins that one mask of a window removes; 48 in the published fine-tuning"""
    mask_frames: int = 0
    """SpecAugment: longest stretch of spectrogram frames that one mask of a window removes; 192 in the published one"""
    published_noise: bool = False
    """add noise to the normalised log-mel as published: uniform from 0 to a tenth, times one draw a window"""
    roll: bool = False
    """turn the spectrogram round in time by a random number of frames, as published"""
    mixup: float = 0.0
    """share of the clips that another one is mixed into, sound, picture and labels; 0.5 in the published fine-tuning"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}; it must be from 0 to 1"
            for name, value in vars(self).items()
            if name in ("flip", "color", "still", "mixup") and not 0 <= value <= 1
        ]
        if not 0 < self.zoom <= 1:
            problems.append(f"zoom is {self.zoom}; it must be above 0 and at most 1")
        if min(self.gain, self.equaliser, self.noise, self.mask_mel_bins, self.mask_frames) < 0:
            problems.append("gain, equaliser, noise, mask_mel_bins and mask_frames cannot be negative")
        if problems:
            raise ConfigError("; ".join(problems))


def augment(batch: Batch, config: AugmentConfig, draws: Draws, *, masked_value: float = 0.0) -> Batch:
    """A preprocessed batch, changed. Frames of one window are changed alike. A missing modality stays missing.

    `masked_value` is what SpecAugment leaves in the normalised log-mel: as published a log-mel of 0 (see
    `PreprocessConfig.normalised_zero`). Mixing clips (`mixup`) needs the partner and is done by the dataset.
    """
    frames, audio, key = batch.frames, batch.audio, batch.draw_key
    if frames is not None and config.still:
        frames = _hold_still(frames, key, config.still, draws)
    if frames is not None and (config.flip or config.zoom < 1 or config.color):
        frames = _change_pictures(frames, key, config, draws)
    if audio is not None and (config.mask_mel_bins or config.mask_frames):
        audio = _mask_spectrogram(audio, key, config, draws, masked_value)
    if audio is not None and (config.gain or config.equaliser or config.noise):
        audio = _change_sound(audio, key, config, draws)
    if audio is not None and config.published_noise:
        audio = _add_published_noise(audio, key, draws)
    if audio is not None and config.roll:
        audio = _roll(audio, key, draws)
    return dataclasses.replace(batch, frames=frames, audio=audio)


def _hold_still(frames: Tensor, index: Tensor, share: float, draws: Draws) -> Tensor:
    each = frames.unflatten(2, (-1, 3))  # (B, N, pictures, 3, H, W)
    middle = each[:, :, each.shape[2] // 2, None]
    chosen = draws.uniform(index, frames.shape[1], purpose="augment still") < share  # (B, N)
    return torch.where(chosen[:, :, None, None, None, None], middle, each).flatten(2, 3)


def _change_pictures(frames: Tensor, index: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    num_windows = frames.shape[1]
    drawn = draws.uniform(index, num_windows * _PICTURE_DRAWS, purpose="augment picture").reshape(-1, _PICTURE_DRAWS)
    pictures = frames.flatten(0, 1)  # (R, C, H, W)
    if config.flip or config.zoom < 1:
        pictures = _cut(pictures, drawn[:, :4], config)
    if config.color:
        pictures = _recolor(pictures, drawn[:, 4:], config.color)
    return pictures.unflatten(0, frames.shape[:2])


def _cut(pictures: Tensor, drawn: Tensor, config: AugmentConfig) -> Tensor:
    """Mirrored, and cut to a random part of at least `zoom` of each side, brought back to size."""
    mirrored = 1.0 - 2.0 * (drawn[:, 0] < config.flip).to(pictures.dtype)  # (R,)
    side = config.zoom + (1 - config.zoom) * drawn[:, 1]
    shift = (1 - side)[:, None] * (2 * drawn[:, 2:4] - 1)  # (R, 2)
    zero = torch.zeros_like(side)
    places = torch.stack(
        [torch.stack([side * mirrored, zero, shift[:, 0]], 1), torch.stack([zero, side, shift[:, 1]], 1)], 1
    )  # (R, 2, 3)
    grid = F.affine_grid(places, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _recolor(pictures: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Hue turned about the grey axis, then saturation, contrast and brightness changed.

    Normalised pixels are taken as they are: channels differ little in deviation, and the turn need not be exact.
    """
    angle = math.pi * strength * (2 * drawn[:, 0] - 1)  # (R,)
    saturation = 1 + strength * (2 * drawn[:, 1] - 1)
    contrast = 1 + 0.5 * strength * (2 * drawn[:, 2] - 1)
    brightness = strength * (2 * drawn[:, 3] - 1)
    grey = torch.full((3, 3), 1 / 3, dtype=pictures.dtype, device=pictures.device)
    turn = _grey_turn(pictures.device).to(pictures.dtype)
    chroma = torch.eye(3, dtype=pictures.dtype, device=pictures.device) - grey
    sine, cosine = angle.sin()[:, None, None], angle.cos()[:, None, None]
    mixing = grey + saturation[:, None, None] * (cosine * chroma + sine * turn)  # (R, 3, 3)
    mixing = contrast[:, None, None] * mixing
    frames = pictures.unflatten(1, (-1, 3))  # (R, frames, 3, H, W)
    mixed = torch.einsum("rdc,rfchw->rfdhw", mixing, frames) + brightness[:, None, None, None, None]
    return mixed.flatten(1, 2)


@functools.lru_cache(maxsize=8)
def _grey_turn(device: torch.device) -> Tensor:
    """(3, 3): the cross product with the grey axis; kept, as a copy in every batch would make the CPU wait."""
    axis = 3**-0.5
    return torch.tensor([[0.0, -axis, axis], [axis, 0.0, -axis], [-axis, axis, 0.0]], device=device)


def _change_sound(audio: Tensor, index: Tensor, config: AugmentConfig, draws: Draws) -> Tensor:
    num_windows, num_mel_bins = audio.shape[1], audio.shape[3]
    count = 1 + 2 * _EQUALISER_WAVES
    drawn = draws.uniform(index, num_windows * count, purpose="augment sound").reshape(*audio.shape[:2], count)
    change = config.gain * (2 * drawn[..., :1] - 1)  # (B, N, 1)
    if config.equaliser:
        place = torch.linspace(0, 1, num_mel_bins, device=audio.device)
        number = torch.arange(1, _EQUALISER_WAVES + 1, device=audio.device)
        weights, phases = (2 * drawn[..., 1:] - 1).split(_EQUALISER_WAVES, dim=-1)  # (B, N, waves) each
        waves = torch.sin(math.pi * (number * place[:, None] + phases[..., None, :]))  # (B, N, F, waves)
        change = change + config.equaliser * (waves * weights[..., None, :]).mean(-1)
    audio = audio + change[:, :, None, :]
    if config.noise:
        grains = draws.uniform(index, audio[0].numel(), purpose="augment noise").reshape(audio.shape)
        audio = audio + config.noise * math.sqrt(12) * (grains - 0.5)  # uniform, of deviation `noise`
    return audio


def _mask_spectrogram(audio: Tensor, key: Tensor, config: AugmentConfig, draws: Draws, value: float) -> Tensor:
    """SpecAugment (Park et al. 2019) as torchaudio draws it: one band of mel bins and one stretch of time a window."""
    num_windows, num_frames, num_mel_bins = audio.shape[1:]
    drawn = draws.uniform(key, num_windows * 4, purpose="augment masks").reshape(*audio.shape[:2], 4)
    bins = _span(drawn[..., :2], config.mask_mel_bins, num_mel_bins)  # (B, N, F)
    times = _span(drawn[..., 2:], config.mask_frames, num_frames)  # (B, N, T)
    return audio.masked_fill(bins[:, :, None, :] | times[:, :, :, None], value)


def _span(drawn: Tensor, longest: int, size: int) -> Tensor:
    """bool (B, N, size) of two draws (B, N, 2): floor(v) places from floor(u x (size - v)) on, with v up to longest."""
    length = drawn[..., :1] * min(longest, size)  # (B, N, 1), not yet a whole number
    first = (drawn[..., 1:] * (size - length)).floor()
    place = torch.arange(size, device=drawn.device)
    return (place >= first) & (place < first + length.floor())


def _add_published_noise(audio: Tensor, key: Tensor, draws: Draws) -> Tensor:
    """x + U x u / 10: U uniform for every value, u uniform for every window."""
    num_windows = audio.shape[1]
    grains = draws.uniform(key, audio[0].numel(), purpose="augment published noise").reshape(audio.shape)
    strength = draws.uniform(key, num_windows, purpose="augment published strength")  # (B, N)
    return audio + grains * strength[:, :, None, None] / 10


def _roll(audio: Tensor, key: Tensor, draws: Draws) -> Tensor:
    """Each window turned round in time by a whole number of frames, uniform in [-T, T)."""
    num_windows, num_frames = audio.shape[1:3]
    drawn = draws.uniform(key, num_windows, purpose="augment roll")  # (B, N)
    shift = (drawn * 2 * num_frames).floor().long() - num_frames
    place = torch.arange(num_frames, device=audio.device)
    source = (place - shift[..., None]).remainder(num_frames)  # (B, N, T)
    return audio.gather(2, source[..., None].expand_as(audio))
