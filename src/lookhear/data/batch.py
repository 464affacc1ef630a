"""`Batch`: what the data room hands to a model.

B clips, N windows a clip, S samples a window, T spectrogram frames, F mel bins, C picture channels (3 x the picture
frames of a window), H rows, W columns.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """N windows of each of B clips: raw (from the dataset) or preprocessed (from `Preprocess`)."""

    clip_ids: tuple[str, ...]
    index: Tensor  # int64 (B,): rank of each clip in its store
    start_seconds: Tensor  # float64 (B, N): start of each window on its file's clock
    waveform: Tensor | None = None  # float32 (B, N, S)
    audio: Tensor | None = None  # float32 (B, N, T, F), normalised log-mel
    frames: Tensor | None = None  # uint8 raw, float32 preprocessed (B, N, C, H, W)
    video: Tensor | None = None  # (B, 3, T, H, W), for encoders of moving pictures
    labels: Tensor | None = None  # float32 (B, num_classes), multi-hot

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`. Times become float32 on Apple's GPUs, which have no float64."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                if value.dtype == torch.float64 and torch.device(device).type == "mps":
                    value = value.float()
                moved[field.name] = value.to(device, non_blocking=True)
        return replace(self, **moved)

    def __len__(self) -> int:
        return len(self.clip_ids)
