"""A store in memory that was never prepared, and runs small enough to train in a second.

Sound and picture of a clip follow from its number: a tone whose pitch, and a grey whose level, go with it.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lookhear.data.augment import AugmentConfig
from lookhear.data.batch import Batch
from lookhear.data.manifest import ManifestRow
from lookhear.data.preprocess import PreprocessConfig
from lookhear.data.store import PrepareConfig, StoredClip
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.classifier import CAVMAEClassifierConfig
from lookhear.models.tokens import MaskConfig
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.objectives.supervised import SupervisedConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run

SECONDS = 2.0
INPUT: dict[str, Any] = {"audio_frames": 32, "num_mel_bins": 32, "picture_height": 16, "picture_width": 24}
SIZES: dict[str, Any] = INPUT | {
    "audio_patch": (16, 8),
    "picture_patch": (8, 8),
    "width": 16,
    "heads": 2,
    "audio_depth": 1,
    "visual_depth": 1,
}


class FakeStore:
    """What a dataset asks of a `Store`; picklable."""

    def __init__(self, num_clips: int = 13, *, silent: tuple[int, ...] = (), nan_clip: int | None = None) -> None:
        self.num_clips = num_clips
        self.silent = silent
        self.nan_clip = nan_clip
        self.config = PrepareConfig(clip_seconds=SECONDS, frames_per_second=25.0)
        self.path = "memory"
        self.digest = f"fake-{num_clips}-{silent}"
        self.clips = [self._clip(index) for index in range(num_clips)]

    def __len__(self) -> int:
        return self.num_clips

    def _clip(self, index: int) -> StoredClip:
        sound = index not in self.silent
        return StoredClip(
            clip_id=f"clip{index}@0",
            index=index,
            path=f"clip{index}.mp4",
            start_seconds=0.0,
            end_seconds=SECONDS,
            frame_seconds=np.arange(0.0, SECONDS, 0.25),
            num_samples=int(16000 * SECONDS) if sound else 0,
            picture_span=(0.0, SECONDS),
            sound_span=(0.0, SECONDS) if sound else None,
            labels=(),
            split="train" if index % 4 else "val",
        )

    def clips_in_split(self, split: str) -> np.ndarray:
        return np.array([clip.index for clip in self.clips if clip.split == split])

    def frames(self, index: int, which: Any) -> np.ndarray:
        noise = np.random.default_rng(index).integers(0, 40, (len(self.clips[index].frame_seconds), 3, 18, 24))
        return (noise + 200 * index / self.num_clips).astype(np.uint8)[list(which)]

    def waveform(self, index: int, start_sample: int = 0, stop_sample: int | None = None) -> np.ndarray:
        stop_sample = self.clips[index].num_samples if stop_sample is None else stop_sample
        time = np.arange(max(start_sample, 0), min(stop_sample, self.clips[index].num_samples)) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (200 + 300 * index) * time) + 0.1 * np.sin(time * 12.0)
        if index == self.nan_clip:
            wave = wave * np.nan
        return wave.astype(np.float32)


def small_run(**changes: Any) -> Run:
    """A run of 12 steps that takes about a second; `changes` replace fields of it."""
    values: dict[str, Any] = {
        "name": "small",
        "model": CAVMAESyncConfig(
            **SIZES, joint_depth=2, decoder_depth=1, decoder_width=16, decoder_heads=2, num_registers=1
        ),
        "preprocess": PreprocessConfig(**INPUT),
        "objective": CAVMAEObjectiveConfig(
            mask=MaskConfig(audio=0.5, visual=0.5), contrastive_weight=0.5, direction="both", learn_temperature=True
        ),
        "data": DataConfig(batch_size=4, windows_per_clip=2, num_workers=0),
        "optim": OptimConfig(learning_rate=3e-3, warmup_share=0.2, clip_norm=1.0),
        "epochs": 4,
        "seed": 5,
        "dtype": "float32",
        "device": "cpu",
        "checkpoint_every": 5,
        "journal_every": 1,
    }
    return Run(**(values | changes))


def made_batch(clips: int = 5, windows: int = 2) -> Batch:
    """Clips of windows that overlap in every other clip."""
    generator = torch.Generator().manual_seed(1)
    start = torch.zeros(clips, windows, dtype=torch.float64)
    start[::2] = torch.arange(windows, dtype=torch.float64)
    start[1::2] = 0.1 * torch.arange(windows, dtype=torch.float64)
    size = (3, INPUT["picture_height"], INPUT["picture_width"])
    return Batch(
        clip_ids=tuple(map(str, range(clips))),
        index=torch.arange(clips),
        start_seconds=start,
        audio=torch.randn(clips, windows, INPUT["audio_frames"], INPUT["num_mel_bins"], generator=generator),
        frames=torch.randn(clips, windows, *size, generator=generator),
        labels=torch.eye(2)[torch.arange(clips) % 2],
    )


class LabelledStore(FakeStore):
    """The same with labels: every clip is low or high, as its pitch says. Clips of `mute_pictures` have no picture."""

    def __init__(self, num_clips: int = 13, *, mute_pictures: bool = False) -> None:
        super().__init__(num_clips)
        self.mute_pictures = mute_pictures
        self.digest += f"-labelled-{mute_pictures}"
        self.clips = [self._labelled(clip) for clip in self.clips]

    def _labelled(self, clip: StoredClip) -> StoredClip:
        changes: dict[str, Any] = {"labels": ("low" if clip.index < self.num_clips // 2 else "high",)}
        if self.mute_pictures:
            changes |= {"frame_seconds": np.zeros(0), "picture_span": None}
        return replace(clip, **changes)

    @property
    def manifest(self) -> list[ManifestRow]:
        """A row a clip: each is a file of its own."""
        return [ManifestRow(path=clip.path, status="ok", labels=clip.labels, split=clip.split) for clip in self.clips]


def small_classifier_run(**changes: Any) -> Run:
    """A run of 12 steps of 3 an epoch that learns the labels of a `LabelledStore` of 13 clips."""
    encoder = CAVMAEConfig(**SIZES, joint_depth=1, decoder_depth=0)
    values: dict[str, Any] = {
        "name": "small_classifier",
        "model": CAVMAEClassifierConfig(encoder=encoder, num_classes=2),
        "objective": SupervisedConfig(loss="ce"),
        "data": DataConfig(batch_size=4, num_workers=0, classes=("high", "low")),
        "augment": AugmentConfig(mask_mel_bins=4, mask_frames=4, published_noise=True, roll=True, mixup=0.5),
        "optim": OptimConfig(learning_rate=3e-3, head_ratio=3.0),
    }
    return small_run(**(values | changes))
