"""A CAV-MAE encoder with a classification head, in the five published modes.

B clips, N windows, R = B x N rows, K tokens, D width.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.tokens import Grid, Output
from lookhear.models.transformer import Stream, initialise_linear, layer_norm

Mode = Literal["both", "audio", "visual", "audio_of_both", "visual_of_both"]


def streams_of(mode: Mode) -> tuple[Stream, ...]:
    """The modalities that a mode reads."""
    if mode == "both":
        return Stream.AUDIO, Stream.VISUAL
    return (Stream.AUDIO if mode.startswith("audio") else Stream.VISUAL,)


@dataclass(frozen=True, kw_only=True)
class CAVMAEClassifierConfig:
    """Sizes of a classifier; the default encoder is the published one, whose position tables are trained."""

    encoder: CAVMAEConfig = field(default_factory=lambda: CAVMAEConfig(decoder_depth=0, learned_positions=True))
    """the model under the head; it has no decoder"""
    num_classes: int
    """labels"""
    mode: Mode = "both"
    """the mode that is used when a call names none"""

    def __post_init__(self) -> None:
        if self.encoder.decoder_depth:
            raise ConfigError("a classifier's encoder has no decoder: set encoder.decoder_depth to 0")
        if self.encoder.modalities not in ("both", self.mode.removesuffix("_of_both")):
            raise ConfigError(
                f"mode '{self.mode}' needs another tower than encoder.modalities={self.encoder.modalities}"
            )
        if self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}; it must be at least 1")

    def position_tables(self) -> dict[str, Grid]:
        """The grid of each table of positions, by the name of its tensor."""
        return {f"encoder.{name}": grid for name, grid in self.encoder.position_tables().items()}

    def unseen_settings(self) -> dict[str, int | bool]:
        """What changes the outputs but shows in no tensor: part of a checkpoint's fingerprint."""
        return self.encoder.unseen_settings()


class CAVMAEClassifier(nn.Module):
    """Logits from the mean of the encoder's tokens.

    Modes: `both` pools the joint stream of both modalities. `audio` and `visual` pool one modality's own stream.
    `audio_of_both` and `visual_of_both` are for a model trained with both of which only one is there at test time:
    they average that modality's tokens seen through the joint stream and through its own.
    """

    config: CAVMAEClassifierConfig

    def __init__(self, config: CAVMAEClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.unused: dict[str, Tensor] = {}  # tensors of a published file that no forward reads, for its export
        self.encoder = CAVMAE(config.encoder)
        self.head_norm = layer_norm(config.encoder.width)
        self.head = nn.Linear(config.encoder.width, config.num_classes)
        self.head.apply(initialise_linear)

    def forward(
        self,
        audio: Tensor | None = None,
        frames: Tensor | None = None,
        video: Tensor | None = None,
        *,
        mode: Mode | None = None,
    ) -> Output:
        """Output.logits (B, N, num_classes) of audio (B, N, T, F) and frames (B, N, C, H, W).

        A modality that the mode does not read may be None. Raises ConfigError for one that is read and missing.
        """
        if video is not None:
            raise ConfigError("this model reads single frames, not video: give frames (B, N, C, H, W)")
        mode = mode or self.config.mode
        given = {Stream.AUDIO: audio, Stream.VISUAL: frames}
        towers = {stream: self.tower(stream, given[stream], mode) for stream in streams_of(mode)}
        logits = self.from_towers(towers.get(Stream.AUDIO), towers.get(Stream.VISUAL), mode=mode)
        leading = audio.shape[:2] if audio is not None else frames.shape[:2] if frames is not None else ()
        return Output(logits=logits.unflatten(0, leading))

    def from_towers(self, audio: Tensor | None, visual: Tensor | None, *, mode: Mode) -> Tensor:
        """Logits (R, num_classes) of what `tower` gave, (R, K, D) of each modality that the mode reads.

        With the towers apart, one sound can be joined with many pictures and pass its tower once.
        """
        if mode == "both":
            assert audio is not None
            assert visual is not None
            pooled = self.encoder.joint_tokens(audio, visual).mean(dim=1)  # (R, D)
        else:
            (stream,) = streams_of(mode)
            tokens = audio if stream == Stream.AUDIO else visual
            assert tokens is not None
            pooled = self.encoder.single(tokens, stream).mean(dim=1)
            if mode.endswith("_of_both"):
                joint = self.encoder.joint_norm(self.encoder.shared(tokens, Stream.JOINT))
                pooled = (pooled + joint.mean(dim=1)) / 2
        return self.head(self.head_norm(pooled))

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters that labels add to the encoder: fine-tuning may give them a learning rate of their own."""
        return [*self.head_norm.parameters(), *self.head.parameters()]

    def tower(self, stream: Stream, given: Tensor | None, mode: Mode) -> Tensor:
        """Tokens (R, K, D) of one modality (B, N, ...), before what the modalities share."""
        if given is None:
            name = "audio" if stream == Stream.AUDIO else "frames"
            raise ConfigError(f"mode {mode!r} reads {name}, which were not given; choose another mode")
        encoder = self.encoder
        patches = (encoder.audio_patches if stream == Stream.AUDIO else encoder.visual_patches)(given)
        return encoder.tower(stream)(patches)
