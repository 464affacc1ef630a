"""A model small enough for tests, always with the same random weights, and short media files to go with it."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lookhear.config import to_dict
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.embedder import Embedder, load
from lookhear.media.encode import write_video
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig, Mode

INPUT = {"audio_frames": 48, "picture_height": 32, "picture_width": 32}
SIZES: dict[str, Any] = INPUT | {"width": 32, "heads": 2, "audio_depth": 1, "visual_depth": 1, "decoder_depth": 0}
PREPROCESS = PreprocessConfig(**INPUT)
WINDOW_SECONDS = 0.48
RATE = 16000


def tiny_model(seed: int = 0, *, width: int = SIZES["width"]) -> CAVMAESync:
    torch.manual_seed(seed)
    return CAVMAESync(CAVMAESyncConfig(**SIZES | {"width": width}, decoder_width=16, decoder_heads=2)).eval()


def save_tiny(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, tiny_model(seed), preprocess=to_dict(PREPROCESS))
    return path


def tiny_embedder(folder: Path, seed: int = 0) -> Embedder:
    return load(save_tiny(folder / f"tiny-{seed}.safetensors", seed), device="cpu", dtype="float32")


def in_memory_embedder(*, width: int = SIZES["width"], **options: object) -> Embedder:
    model = tiny_model(width=width)
    settings = {"device": "cpu", "dtype": "float32"} | options
    return Embedder(model, Preprocess(PREPROCESS), config=model.config, fingerprint="0" * 64, **settings)  # type: ignore[arg-type]


def classifier_embedder(
    labels: tuple[str, ...],
    *,
    mode: Mode = "both",
    modalities: Literal["both", "audio", "visual"] = "both",
    **options: Any,
) -> Embedder:
    """A classifier with random weights of `labels`, in memory."""
    torch.manual_seed(3)
    sizes = CAVMAEConfig(**SIZES, modalities=modalities)
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=sizes, num_classes=len(labels), mode=mode)).eval()
    settings = {"device": "cpu", "dtype": "float32"} | options
    return Embedder(model, Preprocess(PREPROCESS), config=model.config, fingerprint="1" * 64, labels=labels, **settings)


def tune(seed: int, seconds: float) -> np.ndarray:
    """float32 (S,): a new random chord every 0.2 s, so that no two moments sound alike."""
    rng = np.random.default_rng(seed)
    clock = np.arange(round(seconds * RATE)) / RATE
    waveform = np.zeros_like(clock)
    for start in np.arange(0.0, seconds, 0.2):
        on = (clock >= start) & (clock < start + 0.2)
        for pitch in rng.uniform(200.0, 6000.0, 4):
            waveform[on] += 0.15 * rng.uniform(0.2, 1.0) * np.sin(2 * np.pi * pitch * clock[on])
    return waveform.astype(np.float32)


def slides(seed: int, seconds: float, *, height: int = 48, width: int = 64, rate: float = 10.0) -> np.ndarray:
    """uint8 (T, H, W, 3): a new pattern of blocks every 0.4 s."""
    rng = np.random.default_rng(seed + 1000)
    blocks = rng.integers(0, 256, (int(seconds / 0.4) + 1, height // 16, width // 16, 3), dtype=np.uint8)
    frames = [blocks[int(number / rate / 0.4)] for number in range(round(seconds * rate))]
    return np.repeat(np.repeat(np.stack(frames), 16, axis=1), 16, axis=2)


def make_clips(folder: Path, count: int, *, seconds: float = 1.5, longer: float = 0.0) -> Path:
    """`count` clips in two folders, each `longer` than the one before."""
    for number in range(count):
        make_clip(folder / f"sub{number % 2}" / f"clip{number}.mp4", number, seconds=seconds + longer * number)
    return folder


def make_clip(path: Path, seed: int, *, seconds: float = 2.0, picture: bool = True, sound: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(
        path,
        frames=slides(seed, seconds) if picture else None,
        frames_per_second=10.0,
        waveform=tune(seed, seconds) if sound else None,
        preset="ultrafast",
    )
    return path
