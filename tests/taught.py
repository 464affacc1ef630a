"""Small students and teachers, for tests of distillation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fake_store import INPUT
from lookhear.data.batch import Batch
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifier, StreamClassifierConfig

CLASSES = ("high", "low", "middle")
WIDTH = 12  # of a student's features
# Normalised so that a window does not depend on the others of its batch.
ENCODER = EncoderConfig(width=16, blocks=(1, 1), strides=(1, 2), norm="group")
PICTURES = 2
SIZES: dict[str, Any] = INPUT | {"picture_channels": 3 * PICTURES, "projection": (), "embedding_width": 8}
CLIPS = replace(ENCODER, kind="r2plus1d")
STUDENT = StreamClassifierConfig(
    encoder=MultiStreamConfig(audio=ENCODER, visual=replace(ENCODER, pictures="first"), **SIZES),
    num_classes=len(CLASSES),
    mode="both",
    fusion=(20, WIDTH),
)
CLIP_TEACHER = StreamClassifierConfig(
    encoder=MultiStreamConfig(audio=None, visual=replace(CLIPS, width=WIDTH), **SIZES), num_classes=len(CLASSES)
)
CLIP_STUDENT = StreamClassifierConfig(
    encoder=MultiStreamConfig(audio=None, visual=CLIPS, **SIZES), num_classes=len(CLASSES)
)


def make_classifier(config: StreamClassifierConfig = STUDENT, *, seed: int = 0) -> StreamClassifier:
    """Heads of random weights, so that predictions differ."""
    torch.manual_seed(seed)
    model = StreamClassifier(config)
    torch.nn.init.normal_(model.head.weight, std=0.5)
    return model


def save_teacher(path: Path, config: StreamClassifierConfig = CLIP_TEACHER, *, seed: int = 7) -> Path:
    save_checkpoint(path, make_classifier(config, seed=seed), preprocess={}, labels=CLASSES)
    return path


def taught_batch(labels: tuple[int, ...] = (0, 1, 2, 0), *, windows: int = 2, seed: int = 0) -> Batch:
    """Clips `clip0.mp4`, ... with one label each, and windows at 0, 1, ... seconds."""
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    sizes = (INPUT["picture_height"], INPUT["picture_width"])
    return Batch(
        clip_ids=tuple(f"clip{number}.mp4@0" for number in range(count)),
        index=torch.arange(count),
        start_seconds=torch.arange(windows, dtype=torch.float64).expand(count, windows),
        audio=torch.randn(count, windows, INPUT["audio_frames"], INPUT["num_mel_bins"], generator=generator),
        frames=torch.randn(count, windows, 3 * PICTURES, *sizes, generator=generator),
        labels=torch.nn.functional.one_hot(torch.tensor(labels), len(CLASSES)).float(),
    )


def rows_of(batch: Batch, rows: slice) -> Batch:
    names = ("index", "start_seconds", "audio", "frames", "labels")
    tensors = {name: value[rows] for name in names if (value := getattr(batch, name)) is not None}
    return replace(batch, clip_ids=batch.clip_ids[rows], **tensors)
