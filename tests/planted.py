"""A model that knows two things: red is seen where the planted tone is heard; blue sounds like nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.media.clip import Clip
from lookhear.media.encode import write_sound
from lookhear.models.tokens import Encoded, Grid, Mask, Masks, Output, patchify

ROWS, COLUMNS, PATCH = 24, 40, 8
MEL, FRAMES = 32, 48
TONE_HZ, TONE_SECONDS = 2000.0, (0.55, 0.63)
RED, BLUE = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


class PlantedTower(nn.Module):
    """Tokens (a, b, 1): `a` is what the left of the picture and the planted tone have, `b` what the right has."""

    def __init__(self, modality: str) -> None:
        super().__init__()
        self.modality = modality

    def forward(self, patches: Tensor, mask: Mask | None = None) -> Tensor:
        if self.modality == "audio":
            planted = (patches.amax(dim=2) - 1.0).relu()  # loud somewhere
            first, second = planted, torch.zeros_like(planted)
        else:
            colours = patches.unflatten(2, (-1, 3)).mean(dim=2)  # channel fastest
            first, second = colours[..., 0], colours[..., 2]
        tokens = torch.stack([first, second, torch.full_like(first, 0.1)], dim=2)
        if mask is not None:
            tokens = tokens.gather(1, mask.kept[..., None].expand(-1, -1, 3))
        return tokens


class PlantedModel(nn.Module):
    """Red sounds like loudness does; blue sounds like nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.audio_tower, self.visual_tower = PlantedTower("audio"), PlantedTower("visual")
        self.scale = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace()

    def forward(
        self, audio: Tensor | None = None, frames: Tensor | None = None, *, mask: Masks | None = None
    ) -> Output:
        sound = picture = None
        if audio is not None:
            patches = patchify(audio.flatten(0, 1).transpose(1, 2)[:, None], (PATCH, PATCH))
            grid = Grid(MEL // PATCH, FRAMES // PATCH)
            sound = self._encode(self.audio_tower(patches, mask.audio if mask else None), audio.shape[:2], grid)
        if frames is not None:
            patches = patchify(frames.flatten(0, 1), (PATCH, PATCH))
            grid = Grid(ROWS // PATCH, COLUMNS // PATCH)
            picture = self._encode(self.visual_tower(patches, mask.visual if mask else None), frames.shape[:2], grid)
        return Output(audio=sound, visual=picture)

    def _encode(self, tokens: Tensor, leading: torch.Size, grid: Grid) -> Encoded:
        tokens = tokens.unflatten(0, leading)
        pooled = tokens.mean(dim=2)
        return Encoded(tokens=tokens, grid=grid, pooled=pooled, embedding=F.normalize(pooled, dim=-1))


class StandInEmbedder:
    """What tasks read of an `Embedder`, around any model; pictures come to it as 0 to 1."""

    extra: ClassVar[dict[str, object]] = {}

    fingerprint = "stand-in"

    def __init__(self, model: nn.Module, *, audio_frames: int, num_mel_bins: int, rows: int, columns: int) -> None:
        self.model = self.encoder = model
        self.preprocess = Preprocess(
            PreprocessConfig(
                audio_frames=audio_frames,
                num_mel_bins=num_mel_bins,
                picture_height=rows,
                picture_width=columns,
                picture_mean=(0, 0, 0),
                picture_std=(1, 1, 1),
            )
        )

    @property
    def window_seconds(self) -> float:
        return self.preprocess.config.window_seconds


class PlantedEmbedder(StandInEmbedder):
    fingerprint = "planted"

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__(model or PlantedModel(), audio_frames=FRAMES, num_mel_bins=MEL, rows=ROWS, columns=COLUMNS)


def planted_clip() -> Clip:
    """A red left and a blue right, and one short tone in a faint hiss."""
    frames = np.zeros((10, 3, ROWS * 2, COLUMNS * 2), np.uint8)
    frames[:, 0, :, : COLUMNS * 2 // 5 * 2] = 200
    frames[:, 2, :, COLUMNS * 2 // 5 * 3 :] = 200
    clock = np.arange(16000) / 16000
    first, last = TONE_SECONDS
    on = np.sin(np.pi * ((clock - first) / (last - first)).clip(0, 1)) ** 2  # no click, which has every pitch
    hiss = np.random.default_rng(0).standard_normal(16000) * 1e-4
    waveform = (np.sin(2 * np.pi * TONE_HZ * clock) * on * 0.5 + hiss).astype(np.float32)
    return Clip(start_seconds=0, end_seconds=1, frames=frames, frame_seconds=np.arange(10) / 10, waveform=waveform)


def prompted_folder(folder: Path, places: list[tuple[slice, slice]]) -> Path:
    """Pictures 48 x 120 whose thing is red, of which the middle 48 x 80 is seen; and a tone of 1.1 s for each."""
    rows = ["image_location,vggsound_file,ade_class_id"]
    clock = np.arange(int(1.1 * 16000)) / 16000
    for name in ("frames", "annotations", "audio"):
        (folder / name).mkdir(parents=True)
    for number, (down, across) in enumerate(places):
        picture, mask = np.zeros((48, 120, 3), np.uint8), np.zeros((48, 120, 3), np.uint8)
        picture[down, across, 0] = 220
        mask[down, across] = (10, 5, 0)  # 256 + 5
        Image.fromarray(picture).save(folder / "frames" / f"{number}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "annotations" / f"{number}_seg.png")
        write_sound(folder / "audio" / f"{number}.wav", 0.5 * np.sin(2 * np.pi * 1000 * clock), 16000)
        rows.append(f"{number}.jpg,x/{number}.wav,261")
    (folder / "prompted_segmentation.csv").write_text("\n".join(rows) + "\n")
    return folder
