"""The encoders of a `MultiStream` with a head that names classes: of clips, or of image and sound joined.

B clips, N windows, R = B x N rows, D width of an encoder, F width after fusing, K classes.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.errors import ConfigError
from lookhear.models.classifier import Mode, streams_of
from lookhear.models.fusion import Fusion
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.models.tokens import Output
from lookhear.models.transformer import Stream, initialise_linear


@dataclass(frozen=True, kw_only=True)
class StreamClassifierConfig:
    """Sizes of a classifier; the default reads pictures alone."""

    encoder: MultiStreamConfig = field(default_factory=lambda: MultiStreamConfig(audio=None))
    """the model under the head"""
    num_classes: int
    """labels"""
    mode: Literal["both", "audio", "visual"] = "visual"
    """what is read: the vectors of both encoders, or of one"""
    fusion: tuple[int, int] | None = None
    """hidden and output width of the network that joins both vectors (1024 and 512 in Listen to Look); null: none"""
    dropout: float = 0.0
    """share of what the head reads that is left out in training; .5 where AVID fine-tunes on UCF101"""

    def __post_init__(self) -> None:
        problems = []
        if self.encoder.modalities not in ("both", self.mode):
            problems.append(
                f"mode '{self.mode}' needs another encoder than those of encoder ({self.encoder.modalities})"
            )
        if self.num_classes < 1:
            problems.append(f"num_classes is {self.num_classes}; it must be at least 1")
        if self.fusion is not None and self.mode != "both":
            problems.append(f"there is nothing to fuse in mode '{self.mode}'; set fusion to null")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def features_width(self) -> int:
        """F: of what the head reads."""
        if self.fusion is not None:
            return self.fusion[1]
        streams = (self.encoder.visual, self.encoder.audio)
        wanted = {"both": streams, "visual": streams[:1], "audio": streams[1:]}[self.mode]
        return sum(own.width for own in wanted if own is not None)

    def position_tables(self) -> dict[str, Any]:
        """The grid of each table of positions, by the name of its tensor."""
        return {f"encoder.{name}": grid for name, grid in self.encoder.position_tables().items()}

    def unseen_settings(self) -> dict[str, Any]:
        """What changes the outputs but shows in no tensor: part of a checkpoint's fingerprint."""
        return self.encoder.unseen_settings()


class StreamClassifier(nn.Module):
    """Logits from the encoders' vectors, the picture's beside the sound's, through the fusing network if there is one.

    `audio_of_both` and `visual_of_both`: of a model that reads both, where only one is there; the other's vector is
    zeros, as for the silent videos of Listen to Look.
    """

    config: StreamClassifierConfig

    def __init__(self, config: StreamClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.unused: dict[str, Tensor] = {}  # of a published file, for its export; there is none of this model
        self.encoder = MultiStream(config.encoder)
        self.fusion: Fusion | None = None
        if config.fusion is not None:
            widths = {name: self.encoder.encoder_of(name).out_dim for name in ("audio", "visual")}
            self.fusion = Fusion(
                visual_width=widths["visual"],
                audio_width=widths["audio"],
                hidden_width=config.fusion[0],
                width=config.fusion[1],
            )
        self.head = nn.Linear(config.features_width, config.num_classes)
        self.head.apply(initialise_linear)

    def forward(
        self,
        audio: Tensor | None = None,
        frames: Tensor | None = None,
        video: Tensor | None = None,
        *,
        mode: Mode | None = None,
    ) -> Output:
        """Output.logits (B, N, K) of audio (B, N, T, F) and frames (B, N, C, H, W), and Output.joint (B, N, 1, F).

        A modality that the mode does not read may be None. Raises ConfigError for one that is read and missing.
        """
        if video is not None:
            raise ConfigError("a classifier reads windows: give frames (B, N, C, H, W)")
        mode = mode or self.config.mode
        given = {Stream.AUDIO: audio, Stream.VISUAL: frames}
        towers = {stream: self.tower(stream, given[stream], mode) for stream in streams_of(mode)}
        features = self.features(towers.get(Stream.AUDIO), towers.get(Stream.VISUAL), mode=mode)
        leading = audio.shape[:2] if audio is not None else frames.shape[:2] if frames is not None else ()
        return Output(joint=features[:, None].unflatten(0, leading), logits=self.named(features).unflatten(0, leading))

    def tower(self, stream: Stream, given: Tensor | None, mode: Mode) -> Tensor:
        """The vectors (R, D) of one modality (B, N, ...): what `from_towers` joins."""
        self._require(mode)
        if given is None:
            name = "audio" if stream == Stream.AUDIO else "frames"
            raise ConfigError(f"mode {mode!r} reads {name}, which were not given; choose another mode")
        encode = self.encoder.encode_audio if stream == Stream.AUDIO else self.encoder.encode_frames
        return encode(given).pooled

    def from_towers(self, audio: Tensor | None, visual: Tensor | None, *, mode: Mode) -> Tensor:
        """Logits (R, K) of what `tower` gave; with the encoders apart, one sound passes once for many pictures."""
        return self.named(self.features(audio, visual, mode=mode))

    def named(self, features: Tensor) -> Tensor:
        """Logits (R, K) of what the head reads (R, F)."""
        logits: Tensor = self.head(F.dropout(features, self.config.dropout, self.training))
        return logits

    def features(self, audio: Tensor | None, visual: Tensor | None, *, mode: Mode) -> Tensor:
        """What the head reads (R, F), of the vectors (R, D) of each modality that the mode reads."""
        self._require(mode)
        like = audio if audio is not None else visual
        assert like is not None, "one of the two is read in every mode"
        if self.config.mode != "both":
            return like
        if audio is None:
            audio = like.new_zeros(len(like), self.encoder.encoder_of("audio").out_dim)
        if visual is None:
            visual = like.new_zeros(len(like), self.encoder.encoder_of("visual").out_dim)
        if self.fusion is not None:
            return self.fusion(visual, audio)
        return torch.cat([visual, audio], dim=1)

    def _require(self, mode: Mode) -> None:
        own = self.config.mode
        if mode != own and not (own == "both" and mode.endswith("_of_both")):
            raise ConfigError(f"this classifier was made for mode '{own}', not '{mode}'; choose that")

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters that labels add to the encoder: fine-tuning may give them a learning rate of their own."""
        return [*(self.fusion.parameters() if self.fusion is not None else ()), *self.head.parameters()]
