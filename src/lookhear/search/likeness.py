"""What a moment sounds and looks like, beside what it means: the plain half of an index's vectors.

A trained model keeps of a picture what is heard and forgets the rest, and the rest is what tells two films apart. So
the vector that an index holds of a moment and modality is [meaning | likeness]: the model's embedding (E), then a plain
description (`PLAIN_WIDTH` numbers), each of unit length. The stored vector never changes; the query decides what
counts. Within a kind it is [a meaning | b likeness] with a + b = 1, across kinds [meaning | 0], for a sound looks like
nothing. Either way one dot product with the stored vector is the comparison, and lies in -1..1.

Of a sound it is its log-mel spectrum in few bands and few parts of the window, less the mean of each band and its
neighbours: what stands out, whatever the loudness and the slope of a microphone, a loudspeaker or an encoder. What lies
`_DEPTH` below the loudest is as good as silent, so that soft noise changes nothing. Of a picture it is the middle one
of the window, small: a grid of luminance and coarser ones of the two differences of colour, each less its mean. A
constant in the last place makes what has nothing in it, silence or a blank picture, like other such things.

M windows, P pictures a window, H rows, W columns, E the model's width.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.preprocess import ENERGY_FLOOR, log_mel
from lookhear.data.windows import WindowPlan, Windows
from lookhear.embedder import Embedder, Embeddings, join_embeddings
from lookhear.media.decode import read_picture

# Bands and parts of a window, grid of luminance and of each difference of colour: chosen on sounds of ESC-10, GRID and
# made scenes, never on the clips that docs/search.md reports.
_BANDS, _PARTS = 24, 5
_LUMINANCE, _COLOUR = 8, 5
PLAIN_WIDTH = 128
_DEPTH = 8.0  # natural logarithm of energy: 35 dB
# What the constant weighs: as much as these deviations, in logarithms and in levels of 255.
_NO_SOUND, _NO_PICTURE = 1.0, 4.0
_WINDOWS_AT_ONCE = 64


def plain_sounds(waveforms: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 (M, PLAIN_WIDTH), unit length, of waveforms (M, S) in -1..1; a sample that is not there may be NaN."""
    return np.concatenate(
        [np.zeros((0, PLAIN_WIDTH), np.float32)]
        + [
            _plain_sounds(torch.from_numpy(np.nan_to_num(waveforms[first : first + _WINDOWS_AT_ONCE])), sample_rate)
            for first in range(0, len(waveforms), _WINDOWS_AT_ONCE)
        ]
    )


def _plain_sounds(waveforms: Tensor, sample_rate: int) -> np.ndarray:
    mel = log_mel(waveforms, sample_rate=sample_rate, num_mel_bins=_BANDS)  # (M, T, bands)
    # Digital silence, as beyond the end of a file, is no part of the sound.
    heard = (mel > float(np.log(ENERGY_FLOOR)) + 1e-3).any(dim=2, keepdim=True).float()
    if mel.shape[1] == 0:
        mel, heard = mel.new_zeros(len(mel), _PARTS, _BANDS), mel.new_zeros(len(mel), _PARTS, 1)
    mel = torch.maximum(mel, mel.amax(dim=(1, 2), keepdim=True) - _DEPTH)
    edges = np.linspace(0, mel.shape[1], _PARTS + 1).round().astype(int)
    whole = (mel * heard).sum(dim=1) / heard.sum(dim=1).clamp(min=1.0)
    parts = []
    for first, end in itertools.pairwise(edges):
        some = heard[:, first:end].sum(dim=1)
        mean = (mel[:, first:end] * heard[:, first:end]).sum(dim=1) / some.clamp(min=1.0)
        parts.append(torch.where(some > 0, mean, whole))
    spectra = torch.stack(parts, dim=1)  # (M, parts, bands)
    around = F.avg_pool1d(spectra, 3, 1, 1, count_include_pad=False)
    standing_out = (spectra - around).flatten(1)
    return _unit(standing_out - standing_out.mean(dim=1, keepdim=True), _NO_SOUND)


def plain_pictures(frames: np.ndarray) -> np.ndarray:
    """float32 (M, PLAIN_WIDTH), unit length, of uint8 frames (M, 3 x P, H, W)."""
    count = frames.shape[1] // 3
    middle = torch.from_numpy(np.ascontiguousarray(frames[:, 3 * (count // 2) : 3 * (count // 2) + 3])).float()
    red, green, blue = middle.split(1, dim=1)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # Rec. ITU-R BT.601
    parts = []
    for channel, side in (
        (luminance, _LUMINANCE),
        ((blue - luminance) * 0.564, _COLOUR),
        ((red - luminance) * 0.713, _COLOUR),
    ):
        small = F.adaptive_avg_pool2d(channel, (side, side)).flatten(1)
        parts.append(small - small.mean(dim=1, keepdim=True))
    return _unit(torch.cat(parts, dim=1), _NO_PICTURE)


def _unit(values: Tensor, constant: float) -> np.ndarray:
    """(M, D) with the constant, as wide as all descriptions are, of unit length."""
    with_constant = F.pad(F.pad(values, (0, PLAIN_WIDTH - 1 - values.shape[1])), (0, 1), value=constant)
    return F.normalize(with_constant, dim=1).numpy()


# ---- with what the model says


def describe_windows(embedder: Embedder, windows: Windows) -> Embeddings:
    """The windows as an index holds them: rows of [meaning | likeness], (M, E + PLAIN_WIDTH), NaN as in `Embeddings`.

    What the model does not take has no likeness neither.
    """
    embedded, rate = embedder.embed_windows(windows), embedder.preprocess.config.sample_rate
    return replace(
        embedded,
        audio=_beside(embedded.audio, lambda rows: plain_sounds(windows.waveform[rows], rate)),
        visual=_beside(embedded.visual, lambda rows: plain_pictures(windows.frames[rows])),
    )


def _beside(vectors: np.ndarray | None, plain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
    if vectors is None:
        return None
    described = np.full((len(vectors), vectors.shape[1] + PLAIN_WIDTH), np.nan, np.float32)
    present = ~np.isnan(vectors[:, 0])
    described[present] = np.concatenate([vectors[present], plain(present)], axis=1)
    return described


def describe_file(
    embedder: Embedder, path: str | Path, plan: WindowPlan, *, end_seconds: float | None = None
) -> Embeddings:
    """`describe_windows` of a file, up to `end_seconds`. Raises MediaError for a file that cannot be read."""
    windows = embedder.read_windows(path, plan, end_seconds=end_seconds)
    return join_embeddings([describe_windows(embedder, some) for some in windows])


def describe_picture(embedder: Embedder, source: str | Path | np.ndarray) -> np.ndarray:
    """float32 (E + PLAIN_WIDTH,) of a picture file, the first frame of a video, or uint8 (3, h, w) RGB.

    It is compared with the middle picture of a window: that of a window in which nothing moves is the picture itself.
    Raises MediaError for a file that cannot be read.
    """
    picture = source if isinstance(source, np.ndarray) else read_picture(source)
    sized = embedder.preprocess.frames_to_size(torch.from_numpy(np.ascontiguousarray(picture)))
    return np.concatenate([embedder.embed_picture(picture), plain_pictures(sized.numpy()[None])[0]])
