"""One encoder a modality, each with a projection into the shared space: the model of the surveyed methods.

Instance discrimination, memory banks, momentum contrast and curricula train the two streams apart or against one
another; nothing in here is shared between them, so one may stand still while the other learns.

B clips, N windows a clip, R = B x N rows, T spectrogram frames, F mel bins, C picture channels (3 a picture), H x W
pixels, D width of an encoder, E width of the embedding, L tokens of a window, K of them kept by a mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.errors import ConfigError
from lookhear.models.encoders import POSITIONS, Encoder, EncoderConfig, Encoding, InputSize, grid_of
from lookhear.models.norms import RowNorm
from lookhear.models.tokens import Encoded, Grid, Mask, Masks, Output

RGB = 3


@dataclass(frozen=True, kw_only=True)
class MultiStreamConfig:
    """An encoder for sound, one for pictures, or both; the default is ResNet-18 for each."""

    audio: EncoderConfig | None = field(default_factory=EncoderConfig)
    """of spectrograms (mel x time); null: the model does not hear"""
    visual: EncoderConfig | None = field(default_factory=EncoderConfig)
    """of pictures or clips; null: the model does not see"""
    projection: tuple[int, ...] = (512, 512)
    """hidden widths between an encoder and the embedding, with ReLU between; empty: one linear map"""
    projection_norm: Literal["none", "batch"] = "none"
    """of the embedding, before it is brought to unit length: batch: every number is centred and scaled over the windows
    of a step, so that embeddings cannot all begin alike"""
    embedding_width: int = 128
    """E"""
    audio_frames: int = 200
    """spectrogram frames in a window, 10 ms each"""
    num_mel_bins: int = 128
    """mel bins of the spectrogram"""
    picture_height: int = 224
    """pixels"""
    picture_width: int = 224
    """pixels"""
    picture_channels: int = 3
    """3 for each picture of a window, stacked"""

    def __post_init__(self) -> None:
        problems = []
        if self.audio is None and self.visual is None:
            problems.append("a model needs an encoder: audio and visual are both null")
        if self.audio is not None and self.audio.pictures != "stack":
            problems.append("audio.pictures does nothing: a window has one spectrogram")
        if min((self.embedding_width, *self.projection)) < 1:
            problems.append("embedding_width and the widths of the projection must be at least 1")
        if self.picture_channels < RGB or self.picture_channels % RGB:
            problems.append(f"picture_channels is {self.picture_channels}; it must be 3 for each picture of a window")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def modalities(self) -> Literal["both", "audio", "visual"]:
        """Which encoders there are."""
        if self.audio is None:
            return "visual"
        return "both" if self.visual is not None else "audio"

    @property
    def audio_size(self) -> InputSize:
        """A spectrogram is a picture of one channel: mel bins by time."""
        return InputSize(channels=1, rows=self.num_mel_bins, columns=self.audio_frames)

    @property
    def picture_size(self) -> InputSize:
        """The pictures of a window."""
        pictures = self.picture_channels // RGB
        return InputSize(channels=RGB, rows=self.picture_height, columns=self.picture_width, pictures=pictures)

    def position_tables(self) -> dict[str, Grid]:
        """The grid of each table of positions, by the name of its tensor."""
        streams = {"audio": (self.audio, self.audio_size), "visual": (self.visual, self.picture_size)}
        return {
            f"{name}_encoder.{POSITIONS}": grid_of(own, size)
            for name, (own, size) in streams.items()
            if own is not None and own.kind == "vit"
        }

    def unseen_settings(self) -> dict[str, Any]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        streams = {"audio": self.audio, "visual": self.visual}
        return {name: own.unseen_settings() for name, own in streams.items() if own is not None}


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps from each of `widths` to the next with ReLU between; none after the last."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class MultiStream(nn.Module):
    """`model(audio, frames)` returns an `Output`; either may be missing.

    `Encoded.tokens` and `pooled` are the encoder's own (width D), `embedding` is its vector through the projection, at
    unit length. `stages=True` gives the maps of every stage too.
    """

    config: MultiStreamConfig

    def __init__(self, config: MultiStreamConfig) -> None:
        super().__init__()
        self.config = config
        self.unused: dict[str, Tensor] = {}  # of a published file, for its export; there is none of this model
        if config.audio is not None:
            self.audio_encoder = Encoder(config.audio, config.audio_size)
            self.audio_projection = self._make_projection(self.audio_encoder)
        if config.visual is not None:
            self.visual_encoder = Encoder(config.visual, config.picture_size)
            self.visual_projection = self._make_projection(self.visual_encoder)

    def _make_projection(self, encoder: Encoder) -> nn.Sequential:
        width = self.config.embedding_width
        layers = mlp((encoder.out_dim, *self.config.projection, width))
        if self.config.projection_norm == "batch":
            layers.append(RowNorm(width, affine=False))
        return layers

    def forward(
        self,
        audio: Tensor | None = None,
        frames: Tensor | None = None,
        video: Tensor | None = None,
        *,
        mask: Masks | None = None,
        stages: bool = False,
    ) -> Output:
        """Encodes what is given.

        audio: (B, N, T, F) normalised log-mel. frames: (B, N, C, H, W) normalised pixels, the pictures of a window
        stacked as channels. video: (B, 3, M, H, W), the same of one window a clip. `mask` removes cells of the grids;
        this model reconstructs nothing. Raises ConfigError for a stream that it has not and for other sizes.
        """
        masks = mask if mask is not None else Masks()
        if video is not None:
            if frames is not None:
                raise ConfigError("frames and video are two forms of the same pictures: give one of them")
            frames = video.transpose(1, 2).flatten(1, 2)[:, None]
        sound = picture = None
        if audio is not None:
            sound = self._encoded("audio", audio.shape[:2], self.encode_audio(audio, masks.audio), stages)
        if frames is not None:
            picture = self._encoded("visual", frames.shape[:2], self.encode_frames(frames, masks.visual), stages)
        return Output(audio=sound, visual=picture)

    def encode_audio(self, audio: Tensor, mask: Mask | None = None) -> Encoding:
        """(B, N, T, F) through the audio encoder alone, as R rows."""
        encoder = self.encoder_of("audio")
        size = (self.config.audio_frames, self.config.num_mel_bins)
        self._check("audio", audio, size, "frames x mel bins")
        return encoder(audio.flatten(0, 1).transpose(1, 2)[:, None], mask)

    def encode_frames(self, frames: Tensor, mask: Mask | None = None) -> Encoding:
        """(B, N, C, H, W) through the visual encoder alone, as R rows."""
        encoder, config = self.encoder_of("visual"), self.config
        size = (config.picture_channels, config.picture_height, config.picture_width)
        self._check("frames", frames, size, "channels x height x width")
        return encoder(frames.flatten(0, 1), mask)

    def encoder_of(self, stream: Literal["audio", "visual"]) -> Encoder:
        """The encoder of a modality. Raises ConfigError where there is none."""
        encoder = getattr(self, f"{stream}_encoder", None)
        if not isinstance(encoder, Encoder):
            raise ConfigError(f"this model has no {stream} encoder (it was made with model.{stream}=null)")
        return encoder

    def _encoded(
        self, stream: Literal["audio", "visual"], leading: torch.Size, found: Encoding, stages: bool
    ) -> Encoded:
        project = self.audio_projection if stream == "audio" else self.visual_projection
        embedding = F.normalize(project(found.pooled).float(), dim=-1)  # (R, E)
        return Encoded(
            tokens=found.tokens.unflatten(0, leading),
            grid=found.grid,
            pooled=found.pooled.unflatten(0, leading),
            embedding=embedding.unflatten(0, leading),
            stages=tuple(maps.unflatten(0, leading) for maps in found.stages) if stages else (),
        )

    def _check(self, name: str, value: Tensor, size: tuple[int, ...], words: str) -> None:
        if value.ndim != 2 + len(size) or tuple(value.shape[2:]) != size:
            wanted = " x ".join(map(str, size))
            raise ConfigError(
                f"{name} of shape {tuple(value.shape)} does not fit this model, which takes clips x windows x {wanted}"
                f" ({words}): prepare it with the preprocessing saved in the model's checkpoint"
            )
