"""A store and an embedder in memory, for tests of what is built on them.

Every 0.4 s of a made clip has a random code of 12 bits: bars in its picture, and tones in its sound. Whoever reads
both knows which belong together; nobody else does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import PrepareConfig, StoredClip
from lookhear.data.windows import cut_windows
from lookhear.media.clip import Clip

NUM_BITS = 12
SLOT_SECONDS = 0.4
FRAMES_PER_SECOND = 10
HEIGHT, WIDTH = 24, 48
TONES_HZ = 300.0 * 1.25 ** np.arange(NUM_BITS)


@dataclass
class StoreStandIn:
    """What tasks read of a `data.store.Store`."""

    clips: list[StoredClip]
    pictures: list[np.ndarray]
    sounds: list[np.ndarray]
    config: PrepareConfig = field(default_factory=lambda: PrepareConfig(frames_per_second=25.0))
    path: str = "stand-in"
    digest: str = "stand-in"

    def __len__(self) -> int:
        return len(self.clips)

    def frames(self, index: int, which: Sequence[int]) -> np.ndarray:
        return self.pictures[index][list(which)]

    def waveform(self, index: int, start_sample: int = 0, stop_sample: int | None = None) -> np.ndarray:
        return self.sounds[index][start_sample:stop_sample]


def stored_clip(
    index: int, seconds: float, frame_seconds: np.ndarray, *, num_samples: int, labels: tuple[str, ...] = ()
) -> StoredClip:
    path = f"clip-{index:03d}.mp4"
    return StoredClip(
        clip_id=f"{path}@0",
        index=index,
        path=path,
        start_seconds=0.0,
        end_seconds=seconds,
        frame_seconds=frame_seconds,
        num_samples=num_samples,
        picture_span=(0.0, seconds) if len(frame_seconds) else None,
        sound_span=(0.0, seconds) if num_samples else None,
        labels=labels,
        split="",
    )


def picture_of(code: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.repeat(code * 200 + 20, WIDTH // NUM_BITS).astype(np.uint8), (3, HEIGHT, WIDTH))


def sound_of(code: np.ndarray, times: np.ndarray) -> np.ndarray:
    return (code[:, None] * np.sin(2 * np.pi * TONES_HZ[:, None] * times)).sum(axis=0) * 0.05


def make_store(
    *, count: int, num_slots: Sequence[int] = (7,), seed: int = 0, shuffled: bool = False, labels: int = 0
) -> StoreStandIn:
    """Clips of `num_slots` (in turn) slots of 0.4 s. Shuffled: sounds have codes of their own."""
    rng = np.random.default_rng(seed)
    store = StoreStandIn([], [], [], digest=f"stand-in {count} {num_slots} {seed} {shuffled} {labels}")
    for index in range(count):
        slots = num_slots[index % len(num_slots)]
        seconds = slots * SLOT_SECONDS
        codes = rng.integers(0, 2, (slots, NUM_BITS))
        heard = rng.integers(0, 2, (slots, NUM_BITS)) if shuffled else codes
        frame_seconds = np.arange(round(seconds * FRAMES_PER_SECOND)) / FRAMES_PER_SECOND
        times = np.arange(round(seconds * 16000)) / 16000
        place = np.minimum((times / SLOT_SECONDS).astype(int), slots - 1)
        sound = np.concatenate([sound_of(heard[slot], times[place == slot]) for slot in range(slots)])
        noise = rng.standard_normal(len(times)) * 0.001
        # a frame belongs to the slot that holds the middle of the time in which it is shown
        shown = [codes[min(int((t + 0.05) / SLOT_SECONDS), slots - 1)] for t in frame_seconds]
        store.pictures.append(np.stack([picture_of(code) for code in shown]))
        store.sounds.append((sound + noise).astype(np.float32))
        names = (f"kind {index % labels}",) if labels else ()
        store.clips.append(stored_clip(index, seconds, frame_seconds, num_samples=len(times), labels=names))
    return store


def in_files(store: StoreStandIn, clips_of_a_file: int) -> StoreStandIn:
    """The same clips, each several one after another in a file: file-0.mp4, ..."""
    end = 0.0
    for index, clip in enumerate(store.clips):
        start = 0.0 if index % clips_of_a_file == 0 else end
        end = start + clip.end_seconds
        path = f"file-{index // clips_of_a_file}.mp4"
        store.clips[index] = replace(
            clip,
            clip_id=f"{path}@{round(start * 1000)}",
            path=path,
            start_seconds=start,
            end_seconds=end,
            frame_seconds=clip.frame_seconds + start,
            picture_span=None if clip.picture_span is None else (start, end),
            sound_span=None if clip.sound_span is None else (start, end),
        )
    return store


@dataclass
class Embedded:
    start_seconds: np.ndarray
    audio: np.ndarray | None
    visual: np.ndarray | None


class EmbedderStandIn:
    """Reads the codes ("perfect"), draws vectors ("random"), or says the same of everything ("collapsed")."""

    fingerprint = "stand-in"
    extra: ClassVar[dict[str, object]] = {}

    def __init__(self, kind: str = "perfect") -> None:
        self.kind = kind
        self.preprocess = Preprocess(
            PreprocessConfig(audio_frames=40, num_mel_bins=64, picture_height=HEIGHT, picture_width=WIDTH)
        )
        self.window_seconds = self.preprocess.config.window_seconds
        self.rng = np.random.default_rng(0)

    def embed_clip(self, clip: Clip, window_starts: Sequence[float]) -> Embedded:
        audio, visual = [], []
        cut = cut_windows(self.preprocess.config, clip, np.asarray(window_starts))
        for row in range(len(window_starts)):
            waveform, frames = cut.waveform[row], cut.frames[row]
            if self.kind == "perfect":
                audio.append(self._read_sound(waveform))
                visual.append(self._read_picture(frames))
            elif self.kind == "random":
                audio.append(self.rng.standard_normal(16))
                visual.append(self.rng.standard_normal(16))
            else:
                audio.append(np.ones(16))
                visual.append(np.ones(16))
        return Embedded(np.asarray(window_starts), _unit(np.stack(audio)), _unit(np.stack(visual)))

    def _read_sound(self, waveform: np.ndarray) -> np.ndarray:
        middle = waveform[800:-800]
        phases = 2j * np.pi * TONES_HZ[:, None] * np.arange(len(middle)) / 16000
        strength = np.abs((np.exp(phases) * middle).mean(axis=1))
        return np.where(strength > 0.0125, 1.0, -1.0)

    def _read_picture(self, frames: np.ndarray) -> np.ndarray:
        bars = frames.mean(axis=(0, 1)).reshape(NUM_BITS, -1).mean(axis=1)
        return np.where(bars > 120, 1.0, -1.0)


def _unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
