"""Log-mel spectrograms back to sound that one can listen to.

A log-mel spectrogram has lost the fine pitch and the phase. The power of each frequency is estimated from the mel bins
(non-negative, by the multiplicative updates for the Kullback-Leibler divergence: Lee and Seung, NIPS 2000), phases are
found that frames which overlap agree on (Griffin and Lim, 1984), and the pre-emphasis is undone. It sounds hollow, as
all sound made this way does.

T spectrogram frames, F mel bins, K frequencies, S samples.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.preprocess import ENERGY_FLOOR, PREEMPHASIS, fft_size_of, frame_and_hop, mel_filters

_POWER_UPDATES = 60
_PHASE_ITERATIONS = 64


def sound_of_log_mel(log_mel: np.ndarray, *, sample_rate: int = 16000, seed: int = 0) -> np.ndarray:
    """A waveform float32 (S,) whose `log_mel` is near the given one (T, F), not normalised: the rough inverse.

    S = 400 + (T - 1) * 160 at 16 kHz, as much as T frames are made of. Loudness is that of the spectrogram; where
    that is more than full scale, samples lie beyond -1..1. The same seed gives the same phases.
    """
    frame, hop = frame_and_hop(sample_rate)
    filters = torch.from_numpy(mel_filters(sample_rate, log_mel.shape[1], fft_size_of(frame))).float()  # (K, F)
    mel = torch.from_numpy(np.exp(np.asarray(log_mel, dtype=np.float64)) - ENERGY_FLOOR).clamp_min(0).float()
    magnitude = _power_of_mel(mel, filters).sqrt()  # (T, K)
    emphasised = _griffin_lim(magnitude, frame=frame, hop=hop, seed=seed)
    return _undo_emphasis(emphasised.numpy())


def _power_of_mel(mel: Tensor, filters: Tensor) -> Tensor:
    """Non-negative power (T, K) whose mel energies, power @ filters (K, F), are near `mel` (T, F)."""
    tiny = torch.finfo(torch.float32).tiny
    reach = filters.sum(dim=1)  # (K,)
    start = filters / filters.sum(dim=0).clamp_min(tiny) / reach[:, None].clamp_min(tiny)
    power = mel @ start.T  # every bin spread over its frequencies
    for _ in range(_POWER_UPDATES):
        ratio = mel / (power @ filters).clamp_min(tiny)
        power = power * ((ratio @ filters.T) / reach.clamp_min(tiny))
    return power * (reach > 0)  # the highest frequency is in no filter


def _griffin_lim(magnitude: Tensor, *, frame: int, hop: int, seed: int) -> Tensor:
    """The waveform (S,) whose windowed frames have nearly this magnitude (T, K), from random phases."""
    window = torch.hann_window(frame, periodic=False)
    size = fft_size_of(frame)
    angles = torch.rand(magnitude.shape, generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
    spectrum = torch.polar(magnitude, angles)
    overlap = _overlap_add((window**2).expand(len(magnitude), -1), hop).clamp_min(0.1)  # the outermost samples fade
    for iteration in range(_PHASE_ITERATIONS + 1):
        frames = torch.fft.irfft(spectrum, n=size)[:, :frame] * window
        waveform = _overlap_add(frames, hop) / overlap  # least squares over all frames
        if iteration < _PHASE_ITERATIONS:
            found = torch.fft.rfft(waveform.unfold(0, frame, hop) * window, n=size)
            spectrum = torch.polar(magnitude, found.angle())
    return waveform


def _overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Frames (T, n) laid `hop` samples apart and summed: (n + (T - 1) * hop,)."""
    length = frames.shape[1] + (len(frames) - 1) * hop
    laid = F.fold(frames.T[None], (1, length), kernel_size=(1, frames.shape[1]), stride=(1, hop))
    return laid[0, 0, 0]


def _undo_emphasis(waveform: np.ndarray) -> np.ndarray:
    """x[n] = y[n] + 0.97 x[n - 1], as a convolution with the powers of 0.97 until they vanish."""
    reach = int(np.ceil(np.log(1e-6) / np.log(PREEMPHASIS)))
    size = 1 << (len(waveform) + reach - 1).bit_length()
    decay = np.fft.rfft(PREEMPHASIS ** np.arange(reach), n=size)
    whole = np.fft.irfft(np.fft.rfft(waveform.astype(np.float64), n=size) * decay, n=size)
    return whole[: len(waveform)].astype(np.float32)
