"""`Batch`: what the data room hands to a model.

B clips, N windows a clip, S samples a window, T spectrogram frames, F mel bins, C picture channels (3 x the picture
frames of a window), H rows, W columns.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

REPEAT_BITS = 40  # of a draw key, below which is the clip and above which is its repeat


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
    labels: Tensor | None = None  # float32 (B, num_classes), multi-hot; a mixture where clips were mixed
    mixed: Tensor | None = None  # bool (B,): which clips another was mixed into; None: none
    repeat: Tensor | None = None  # int64 (B,): how often each clip came before in this epoch; None: never
    # rows and columns of each clip's pictures, which stand in the corner of `frames`; None: they fill them
    frame_sizes: tuple[tuple[int, int], ...] | None = None

    @property
    def draw_key(self) -> Tensor:
        """int64 (B,): what the random draws of each clip follow, so that a clip that comes twice is changed twice."""
        return self.index if self.repeat is None else self.index + (self.repeat << REPEAT_BITS)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`. Times become float32 on Apple's GPUs, which have no float64."""
        moved: dict[str, Any] = {}
        for name, value in self.tensors().items():
            if value.dtype == torch.float64 and torch.device(device).type == "mps":
                value = value.float()
            moved[name] = value.to(device, non_blocking=True)
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in memory from which a GPU copies while the CPU goes on; torch's loaders ask for it."""
        pinned: dict[str, Any] = {name: value.pin_memory() for name, value in self.tensors().items()}
        return replace(self, **pinned)

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def rows(self, rows: slice) -> "Batch":
        """The clips of `rows`, in a batch of their own."""
        own: dict[str, Any] = {name: value[rows] for name, value in self.tensors().items()}
        sizes = None if self.frame_sizes is None else self.frame_sizes[rows]
        return replace(self, clip_ids=self.clip_ids[rows], frame_sizes=sizes, **own)

    def __len__(self) -> int:
        return len(self.clip_ids)


def windows_as_clips(waveform: Tensor | None, frames: Tensor | None) -> Batch:
    """Raw (M, S) and uint8 (M, C, H, W), either of which may be None, as M clips of one window."""
    given = waveform if waveform is not None else frames
    count = 0 if given is None else len(given)
    return Batch(
        clip_ids=("",) * count,
        index=torch.zeros(count, dtype=torch.int64),
        start_seconds=torch.zeros(count, 1, dtype=torch.float64),
        waveform=None if waveform is None else waveform[:, None],
        frames=None if frames is None else frames[:, None],
    )
