"""How each kind of scene event sounds: struck, plucked, blown and broken things, by simple synthesis.

A sound is a function of (rng, pitch_hz, t): t is (S,) seconds from the event, ascending from 0; it returns (S,) floats
of any scale. Every sound begins at t = 0 with an attack of a few milliseconds at most and has died away at the end.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

Sound = Callable[[np.random.Generator, float, np.ndarray], np.ndarray]

SOUND_SECONDS = 1.2  # the longest any of them is heard


def sound_of(kind: str, rng: np.random.Generator, pitch_hz: float, sample_rate: int) -> np.ndarray:
    """One event of `kind`, float32 (S,), peak 1, S samples = SOUND_SECONDS."""
    t = np.arange(round(SOUND_SECONDS * sample_rate)) / sample_rate
    wave = SOUNDS[kind](rng, pitch_hz, t)
    # the last 60 ms fade, so that nothing ends in a click
    wave = wave * np.clip((SOUND_SECONDS - t) / 0.06, 0.0, 1.0)
    return (wave / np.abs(wave).max()).astype(np.float32)


def _decay(t: np.ndarray, tau: float) -> np.ndarray:
    return np.exp(-t / tau)


def _hold(t: np.ndarray, hold: float, tau: float, attack: float = 0.004) -> np.ndarray:
    """Rises within `attack`, stays for `hold` seconds, then decays."""
    return np.minimum(t / attack, 1.0) * np.exp(-np.maximum(t - hold, 0.0) / tau)


def _glide(t: np.ndarray, frequency: np.ndarray | float) -> np.ndarray:
    """The phase in radians of a tone whose frequency changes with time."""
    step = t[1] - t[0]
    return 2 * np.pi * np.cumsum(np.broadcast_to(frequency, t.shape)) * step


def _partials(
    t: np.ndarray, pitch_hz: float, ratios: tuple[float, ...], levels: tuple[float, ...], taus: tuple[float, ...]
) -> np.ndarray:
    wave = np.zeros_like(t)
    for ratio, level, tau in zip(ratios, levels, taus, strict=True):
        wave += level * np.sin(2 * np.pi * pitch_hz * ratio * t) * _decay(t, tau)
    return wave


def _harmonics(t: np.ndarray, phase: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Sum of levels[k - 1] sin(k phase), by the recurrence sin((k+1)x) = 2 cos(x) sin(kx) - sin((k-1)x)."""
    twice_cosine = 2 * np.cos(phase)
    before, now = np.zeros_like(t), np.sin(phase)
    wave = levels[0] * now
    for level in levels[1:]:
        before, now = now, twice_cosine * now - before
        wave += level * now
    return wave


def _noise(rng: np.random.Generator, t: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise between two frequencies (with soft shoulders), standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal(t.size))
    frequencies = np.fft.rfftfreq(t.size, t[1] - t[0])
    shape = 1 / (1 + (low_hz / np.maximum(frequencies, 1.0)) ** 6) / (1 + (frequencies / high_hz) ** 6)
    wave = np.fft.irfft(spectrum * shape, t.size)
    return wave / wave.std()


def _bell(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    ring = _partials(
        t, pitch_hz, (1.0, 1.19, 2.0, 2.74, 4.07), (1.0, 0.35, 0.6, 0.45, 0.3), (0.4, 0.35, 0.25, 0.18, 0.1)
    )
    return ring + 0.5 * _noise(rng, t, 2000, 6000) * _decay(t, 0.006)


def _ball(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    phase = _glide(t, pitch_hz * (1 + 1.2 * _decay(t, 0.018)))
    return (np.sin(phase) + 0.4 * np.sin(2 * phase)) * _decay(t, 0.11) + 0.35 * _noise(rng, t, 60, 900) * _decay(
        t, 0.015
    )


def _drum(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    skin = _partials(t, pitch_hz, (1.0, 1.59, 2.14, 2.65), (1.0, 0.6, 0.4, 0.3), (0.18, 0.1, 0.08, 0.06))
    snare = _noise(rng, t, 1500, 7000) * _decay(t, 0.13)
    return skin + 0.35 * snare


def _string(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    wave = np.zeros_like(t)
    place = rng.uniform(0.15, 0.3)  # where along the string it is plucked decides which harmonics sound
    for k in range(1, min(12, int(7500 / pitch_hz)) + 1):
        wave += np.sin(np.pi * k * place) / k * np.sin(2 * np.pi * k * pitch_hz * t) * _decay(t, 0.5 / k**0.6)
    return wave


def _drop(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    rise = pitch_hz * (0.75 + 0.85 * (1 - _decay(t, 0.09)))
    return np.sin(_glide(t, rise)) * _hold(t, 0.02, 0.075) + 0.06 * _noise(rng, t, 2500, 6000) * _decay(t, 0.05)


def _lamp(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    two_tone = np.where((t * 7.0) % 1.0 < 0.5, 1.0, 1.335)
    phase = _glide(t, pitch_hz * two_tone)
    return _harmonics(t, phase, np.array([1.0, 0.0, 0.33, 0.0, 0.2, 0.0, 0.14])) * _hold(t, 0.4, 0.1)


def _clap(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    envelope = sum(np.where(t >= at, np.exp(-(t - at) / 0.008), 0.0) for at in (0.0, 0.011, 0.021))
    return _noise(rng, t, 0.7 * pitch_hz, 1.4 * pitch_hz) * (envelope + 0.5 * _decay(t, 0.07))


def _firework(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    boom = _noise(rng, t, 0.5 * pitch_hz, 1.5 * pitch_hz) * _decay(t, 0.16)
    crackles = np.zeros_like(t)
    starts = rng.integers(int(0.06 * t.size), int(0.62 * t.size), 40)
    crackles[starts] = rng.uniform(0.3, 1.0, 40) * _decay(t[starts], 0.35)
    ping = _noise(rng, t[:400], 2500, 7500) * _decay(t[:400], 0.004)
    return boom + 1.6 * np.fft.irfft(np.fft.rfft(crackles, 2 * t.size) * np.fft.rfft(ping, 2 * t.size))[: t.size]


def _metronome(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    block = _partials(t, pitch_hz, (1.0, 2.57), (1.0, 0.5), (0.05, 0.02))
    return block + 0.3 * _noise(rng, t, 1000, 7000) * _decay(t, 0.003)


def _rattle(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    cog = np.floor(32 * t - 12 * t**2)  # the number of cogs that have passed: 32 a second, slowing down
    clicks = np.diff(cog, prepend=-1.0) > 0
    starts = np.flatnonzero(clicks & (t < 0.6))
    tick = np.sin(2 * np.pi * pitch_hz * t[:800]) * _decay(t[:800], 0.009)
    tick += 0.5 * _noise(rng, t[:800], 1500, 6000) * _decay(t[:800], 0.005)
    wave = np.zeros(t.size + 800)
    for number, start in enumerate(starts):
        wave[start : start + 800] += tick * (rng.uniform(0.5, 0.8) if number else 1.0)
    return wave[: t.size] * _hold(t, 0.25, 0.2, attack=0.001)


def _jaw(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    phase = _glide(t, pitch_hz * (1.0 + 0.12 * np.sin(np.pi * np.minimum(t / 0.45, 1.0))))
    scale = (pitch_hz / 170.0) ** 0.3  # a small head has higher formants, but not in step with the voice
    numbers = np.arange(1, int(3800 / pitch_hz) + 1)
    levels = 0.02 / numbers
    for centre, width, level in ((750, 130, 1.0), (1200, 150, 0.6), (2600, 220, 0.25)):
        levels = levels + level * np.exp(-0.5 * ((numbers * pitch_hz - centre * scale) / width) ** 2) / numbers**0.3
    levels[0] += 0.3
    return _harmonics(t, phase, levels) * _hold(t, 0.24, 0.09, attack=0.012)


def _glass(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    wave = 1.2 * _noise(rng, t, pitch_hz, 7500) * _decay(t, 0.03)
    for _ in range(16):
        start = int(min(rng.exponential(0.07), 0.4) / (t[1] - t[0]))
        rest = t[: t.size - start]
        frequency = min(pitch_hz * rng.uniform(1.0, 2.6), 7400.0)
        wave[start:] += (
            rng.uniform(0.3, 1.0) * np.sin(2 * np.pi * frequency * rest) * _decay(rest, rng.uniform(0.04, 0.16))
        )
    return wave


def _bird(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    syllable = (t % 0.14) / 0.14
    frequency = pitch_hz * (1.25 - 0.5 * syllable)
    voiced = np.clip(np.minimum(syllable / 0.04, (0.75 - syllable) / 0.1), 0.0, 1.0)
    return np.sin(_glide(t, frequency)) * voiced * np.where(t < 0.42, 1.0 - t, 0.0)


def _engine(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    numbers = np.arange(1, int(1500 / pitch_hz) + 1)
    phase = _glide(t, pitch_hz * (1.0 - 0.25 * np.minimum(t, 0.6)))
    buzz = _harmonics(t, phase, numbers**-0.6 * np.exp(-numbers * pitch_hz / 700))
    return (buzz / np.abs(buzz).max() + 0.12 * _noise(rng, t, 80, 600)) * _hold(t, 0.15, 0.16)


def _kettle(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    phase = _glide(t, pitch_hz * (1 + 0.02 * np.sin(2 * np.pi * 11 * t)) * (1 - 0.1 * _decay(t, 0.05)))
    whistle = np.sin(phase) + 0.25 * np.sin(2 * phase)
    return (whistle + 0.5 * _noise(rng, t, 1500, 7500)) * _hold(t, 0.3, 0.12, attack=0.006)


def _spring(rng: np.random.Generator, pitch_hz: float, t: np.ndarray) -> np.ndarray:
    wobble = 1 + 0.35 * np.cos(2 * np.pi * 9 * t) * _decay(t, 0.35)
    return _harmonics(t, _glide(t, pitch_hz * wobble), np.array([1.0, 0.6, 0.5, 0.3, 0.2])) * _decay(t, 0.3)


# Kind of event -> its sound.
SOUNDS: Mapping[str, Sound] = MappingProxyType(
    {
        "ball": _ball,
        "bell": _bell,
        "bird": _bird,
        "clap": _clap,
        "drop": _drop,
        "drum": _drum,
        "engine": _engine,
        "firework": _firework,
        "glass": _glass,
        "jaw": _jaw,
        "kettle": _kettle,
        "lamp": _lamp,
        "metronome": _metronome,
        "rattle": _rattle,
        "spring": _spring,
        "string": _string,
    }
)

# Pitch in Hz of the middle size; the smallest sounds an octave higher, the largest an octave lower.
MIDDLE_PITCH_HZ: Mapping[str, float] = MappingProxyType(
    {
        "ball": 150.0,
        "bell": 900.0,
        "bird": 2800.0,
        "clap": 1400.0,
        "drop": 900.0,
        "drum": 200.0,
        "engine": 75.0,
        "firework": 260.0,
        "glass": 2200.0,
        "jaw": 170.0,
        "kettle": 1500.0,
        "lamp": 600.0,
        "metronome": 1700.0,
        "rattle": 1100.0,
        "spring": 300.0,
        "string": 260.0,
    }
)


def off_screen_sound(rng: np.random.Generator, num_samples: int, sample_rate: int) -> np.ndarray:
    """Something soft outside the picture, float32 (S,), peak 1: a gust, a hum or a far chord, once or twice."""
    t = np.arange(num_samples) / sample_rate
    choice = rng.integers(3)
    if choice == 0:
        low = rng.uniform(150, 1500)
        tone = _noise(rng, t, low, 1.6 * low)
    elif choice == 1:
        tone = _harmonics(t, _glide(t, rng.uniform(90, 220)), np.array([1.0, 0.5, 0.3]))
    else:
        tone = np.sin(2 * np.pi * rng.uniform(250, 1200, (3, 1)) * t).sum(axis=0)
    envelope = np.zeros_like(t)
    for _ in range(rng.integers(1, 3)):
        centre, width = rng.uniform(0, t[-1]), rng.uniform(0.25, 0.6)
        envelope += np.exp(-0.5 * ((t - centre) / width) ** 2)  # swells and fades: no onset that one could look for
    wave = tone * envelope
    return (wave / np.abs(wave).max()).astype(np.float32)
