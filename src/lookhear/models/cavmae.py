"""CAV-MAE: one transformer tower a modality, a joint block that serves three streams, and a masked decoder.

Gong et al., "Contrastive Audio-Visual Masked Autoencoder", ICLR 2023.

B clips, N windows a clip, R = B x N rows, T spectrogram frames, F mel bins, C picture channels, H x W pixels,
L tokens of a window, K of them kept by a mask, D width, P values in a patch.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.config import nearest
from lookhear.errors import ConfigError
from lookhear.models.tokens import (
    Encoded,
    Grid,
    Mask,
    MaskConfig,
    Masks,
    Output,
    Reconstruction,
    Structure,
    mask_on_grid,
    noise_size,
    patchify,
    sincos_positions,
)
from lookhear.models.towers import TOKEN_STD, TOWERS, Tower, TowerSizes
from lookhear.models.transformer import Block, Stream, initialise_linear, layer_norm


@dataclass(frozen=True, kw_only=True)
class CAVMAEConfig:
    """Sizes of a CAV-MAE; the defaults are the published base model."""

    modalities: Literal["both", "audio", "visual"] = "both"
    """which towers exist"""
    audio_frames: int = 1024
    """spectrogram frames in a window, 10 ms each"""
    num_mel_bins: int = 128
    """mel bins of the spectrogram"""
    picture_height: int = 224
    """pixels"""
    picture_width: int = 224
    """pixels"""
    picture_channels: int = 3
    """3 for each picture frame of a window, stacked"""
    audio_patch: tuple[int, int] = (16, 16)
    """mel bins and spectrogram frames in a patch"""
    picture_patch: tuple[int, int] = (16, 16)
    """rows and columns of pixels in a patch"""
    width: int = 768
    """of tokens and embeddings"""
    heads: int = 12
    """attention heads of the encoder"""
    mlp_ratio: float = 4.0
    """hidden width of each MLP, in widths"""
    audio_depth: int = 11
    """blocks of the audio tower"""
    visual_depth: int = 11
    """blocks of the visual tower"""
    joint_depth: int = 1
    """blocks shared by the audio, visual and joint streams"""
    decoder_depth: int = 8
    """blocks of the decoder; 0 for a model that only embeds"""
    decoder_width: int = 512
    """of the decoder's tokens"""
    decoder_heads: int = 16
    """attention heads of the decoder"""
    learned_positions: bool = False
    """train the position tables instead of keeping them at sine and cosine"""
    stem_channels: tuple[int, ...] = ()
    """channels of convolutions that make the tokens, before the last one; empty: one linear map, as published"""
    audio_tower: str = "vit"
    """kind of the audio tower, a name in models.towers.TOWERS; vit: transformer blocks, as published"""
    visual_tower: str = "vit"
    """kind of the visual tower"""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {size}, which is not a multiple of its patch ({patch})"
            for name, size, patch in (
                ("num_mel_bins", self.num_mel_bins, self.audio_patch[0]),
                ("audio_frames", self.audio_frames, self.audio_patch[1]),
                ("picture_height", self.picture_height, self.picture_patch[0]),
                ("picture_width", self.picture_width, self.picture_patch[1]),
            )
            if patch < 1 or size < patch or size % patch
        ]
        widths = [("width", self.width, "heads", self.heads)]
        if self.decoder_depth:
            widths.append(("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads))
        for width_name, width, heads_name, heads in widths:
            if heads < 1 or width < 1 or width % heads:
                problems.append(f"{width_name} is {width}, which is not a multiple of {heads_name} ({heads})")
            if width % 4:
                problems.append(f"{width_name} is {width}, which is not a multiple of 4 (sine-cosine positions)")
        for name in ("audio_depth", "visual_depth", "joint_depth", "decoder_depth"):
            if getattr(self, name) < 0:
                problems.append(f"{name} is {getattr(self, name)}; it cannot be negative")
        problems += [
            f"no tower '{kind}' for {name}{nearest(kind, TOWERS)}"
            for name, kind in (("audio_tower", self.audio_tower), ("visual_tower", self.visual_tower))
            if kind not in TOWERS
        ]
        if self.decoder_depth and self.modalities != "both":
            problems.append("a model of one modality has no decoder: set decoder_depth to 0")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def audio_grid(self) -> Grid:
        """Tokens of a spectrogram: mel x time."""
        return Grid(self.num_mel_bins // self.audio_patch[0], self.audio_frames // self.audio_patch[1])

    @property
    def picture_grid(self) -> Grid:
        """Tokens of a picture: height x width."""
        rows, columns = self.picture_patch
        return Grid(self.picture_height // rows, self.picture_width // columns)

    @property
    def audio_patch_values(self) -> int:
        """P of a spectrogram patch."""
        return self.audio_patch[0] * self.audio_patch[1]

    @property
    def picture_patch_values(self) -> int:
        """P of a picture patch."""
        return self.picture_patch[0] * self.picture_patch[1] * self.picture_channels

    def tower_sizes(self, stream: Stream) -> TowerSizes:
        """What the tower of one modality must be."""
        audio = stream == Stream.AUDIO
        return TowerSizes(
            grid=self.audio_grid if audio else self.picture_grid,
            patch=self.audio_patch if audio else self.picture_patch,
            channels=1 if audio else self.picture_channels,
            depth=self.audio_depth if audio else self.visual_depth,
            width=self.width,
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            stem_channels=self.stem_channels,
            learned_positions=self.learned_positions,
        )

    def unseen_settings(self) -> dict[str, int | bool]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        return {"heads": self.heads}


class Decoder(nn.Module):
    """Tokens of both modalities that were seen, to predictions of every patch."""

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        width, learned = config.decoder_width, config.learned_positions
        self.embedding = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.audio_positions = nn.Parameter(sincos_positions(config.audio_grid, width), requires_grad=learned)
        self.visual_positions = nn.Parameter(sincos_positions(config.picture_grid, width), requires_grad=learned)
        self.audio_modality = nn.Parameter(torch.zeros(width))
        self.visual_modality = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.norm = layer_norm(width)
        self.audio_prediction = nn.Linear(width, config.audio_patch_values)
        self.visual_prediction = nn.Linear(width, config.picture_patch_values)

    def initialise(self) -> None:
        """The published start of the loose tokens."""
        for token in (self.mask_token, self.audio_modality, self.visual_modality):
            nn.init.normal_(token, std=TOKEN_STD)

    def forward(self, joint: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        """Joint tokens (R, K_audio + K_visual, D) to audio (R, L, P) and visual (R, L, P) predictions."""
        num_audio, num_visual = len(self.audio_positions), len(self.visual_positions)
        tokens = self._put_back(self.embedding(joint), masks)  # (R, L_audio + L_visual, decoder width)
        for block in self.blocks:
            tokens = block(tokens)
        audio, visual = self.norm(tokens).split([num_audio, num_visual], dim=1)
        return self.audio_prediction(audio), self.visual_prediction(visual)

    def _put_back(self, tokens: Tensor, masks: Masks) -> Tensor:
        """Kept tokens (R, K, D) to (R, L, D) in their places, the mask token elsewhere; with place and modality.

        What stands in an empty place is the same in every row: it is written once and copied, and whole rows of
        numbers are put over it. A gather of single numbers, and its backward, take many times longer.
        """
        rows, _, width = tokens.shape
        num_audio, num_visual = len(self.audio_positions), len(self.visual_positions)
        modality = (self.audio_positions + self.audio_modality, self.visual_positions + self.visual_modality)
        table = torch.cat(modality)  # (L, D): what is added in each place
        kept = torch.cat(
            [
                _all_of(num_audio, rows, tokens.device) if masks.audio is None else masks.audio.kept,
                num_audio + (_all_of(num_visual, rows, tokens.device) if masks.visual is None else masks.visual.kept),
            ],
            dim=1,
        )  # (R, K)
        seen = tokens + table[kept]  # (R, K, D)
        empty = (table + self.mask_token).expand(rows, -1, -1).reshape(-1, width)  # (R x L, D)
        first = len(table) * torch.arange(rows, device=tokens.device)  # of the places of each row
        places = (kept + first[:, None]).flatten()
        return empty.index_copy(0, places, seen.flatten(0, 1).to(empty.dtype)).unflatten(0, (rows, -1))


def _all_of(count: int, rows: int, device: torch.device) -> Tensor:
    return torch.arange(count, device=device).expand(rows, -1)


class CAVMAE(nn.Module):
    """Contrastive and masked learning of sound and picture, in one encoder.

    `model(audio, frames, mask=masks)` returns an `Output`; either modality may be missing. The embedding is the mean
    of the modality's tokens after the joint blocks and its own norm, at unit length. Under masks with
    `reconstruct=True`, with both modalities given and a decoder, the joint stream and the predictions come too.
    """

    config: CAVMAEConfig

    def __init__(self, config: CAVMAEConfig) -> None:
        super().__init__()
        self.config = config
        self.unused: dict[str, Tensor] = {}  # tensors of a published file that no forward reads, for its export
        every_stream = (Stream.JOINT, Stream.AUDIO, Stream.VISUAL)
        if config.modalities != "visual":
            self.audio_tower = TOWERS[config.audio_tower](config.tower_sizes(Stream.AUDIO))
            self.audio_head = self._make_head()
            self.audio_norm = layer_norm(config.width)
        if config.modalities != "audio":
            self.visual_tower = TOWERS[config.visual_tower](config.tower_sizes(Stream.VISUAL))
            self.visual_head = self._make_head()
            self.visual_norm = layer_norm(config.width)
        self.joint_blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, streams=every_stream) for _ in range(config.joint_depth)
        )
        self.joint_norm = layer_norm(config.width)
        self.decoder = Decoder(config) if config.decoder_depth else None
        self.initialise()

    def initialise(self) -> None:
        """Draws every weight anew, as published (from torch's global generator)."""
        self.apply(initialise_linear)
        for part in self.modules():
            if isinstance(part, (Tower, Decoder)):
                part.initialise()

    def forward(
        self,
        audio: Tensor | None = None,
        frames: Tensor | None = None,
        video: Tensor | None = None,
        *,
        mask: Masks | None = None,
    ) -> Output:
        """Encodes what is given.

        audio: (B, N, T, F) normalised log-mel. frames: (B, N, C, H, W) normalised pixels. video: not used by this
        model. Raises ConfigError for sizes other than the configured ones.
        """
        if video is not None:
            raise ConfigError("this model reads single frames, not video: give frames (B, N, C, H, W)")
        masks = mask if mask is not None else Masks()
        if audio is None or frames is None or audio.shape[:2] != frames.shape[:2]:
            return self._apart(audio, frames, masks)
        leading = audio.shape[:2]
        reconstruct = mask is not None and mask.reconstruct and self.decoder is not None
        audio_patches, visual_patches = self.audio_patches(audio), self.visual_patches(frames)
        sound = self.tower(Stream.AUDIO)(audio_patches, masks.audio)  # (R, K and what the tower adds, D)
        picture = self.tower(Stream.VISUAL)(visual_patches, masks.visual)
        streams = {Stream.AUDIO: sound, Stream.VISUAL: picture}
        if reconstruct:
            streams[Stream.JOINT] = torch.cat([self._patch_tokens(sound), self._patch_tokens(picture)], dim=1)
        after = self._together(streams)
        heard = self._encoded(self._finished(after[Stream.AUDIO], Stream.AUDIO), Stream.AUDIO, leading)
        seen = self._encoded(self._finished(after[Stream.VISUAL], Stream.VISUAL), Stream.VISUAL, leading)
        if not reconstruct:
            return Output(audio=heard, visual=seen)
        assert self.decoder is not None
        joint = self.joint_norm(after[Stream.JOINT])  # (R, K_audio + K_visual, D)
        predictions = self.decoder(joint, masks)
        reconstruction = Reconstruction(
            audio=predictions[0].unflatten(0, leading),
            visual=predictions[1].unflatten(0, leading),
            audio_patches=audio_patches.unflatten(0, leading),
            visual_patches=visual_patches.unflatten(0, leading),
        )
        return Output(audio=heard, visual=seen, joint=joint.unflatten(0, leading), reconstruction=reconstruction)

    def _apart(self, audio: Tensor | None, frames: Tensor | None, masks: Masks) -> Output:
        """The output where a modality is missing, or each has windows of its own: embeddings only."""
        heard = seen = None
        if audio is not None:
            tokens = self.tower(Stream.AUDIO)(self.audio_patches(audio), masks.audio)
            heard = self._encoded(self.single(tokens, Stream.AUDIO), Stream.AUDIO, audio.shape[:2])
        if frames is not None:
            tokens = self.tower(Stream.VISUAL)(self.visual_patches(frames), masks.visual)
            seen = self._encoded(self.single(tokens, Stream.VISUAL), Stream.VISUAL, frames.shape[:2])
        return Output(audio=heard, visual=seen)

    def audio_patches(self, audio: Tensor) -> Tensor:
        """(B, N, T, F) -> (R, L, P): what the audio tower reads and the decoder predicts."""
        config = self.config
        self._check("audio", audio, (config.audio_frames, config.num_mel_bins), "frames x mel bins")
        return patchify(audio.flatten(0, 1).transpose(1, 2)[:, None], config.audio_patch)

    def visual_patches(self, frames: Tensor) -> Tensor:
        """(B, N, C, H, W) -> (R, L, P): what the visual tower reads and the decoder predicts."""
        config = self.config
        size = (config.picture_channels, config.picture_height, config.picture_width)
        self._check("frames", frames, size, "channels x height x width")
        return patchify(frames.flatten(0, 1), config.picture_patch)

    def draw_masks(
        self,
        num_rows: int,
        config: MaskConfig | None = None,
        *,
        generator: torch.Generator | None = None,
        audio_noise: Tensor | None = None,
        visual_noise: Tensor | None = None,
        reconstruct: bool = True,
    ) -> Masks:
        """Masks for `num_rows` = B x N windows, on the model's device; audio is drawn before visual.

        Noise that is not given is drawn on the generator's device (the CPU without one), so that a CPU generator
        gives every device the same masks. Given noise is uniform in [0, 1), (num_rows, noise_size(grid, structure)).
        """
        config, own = config or MaskConfig(), self.config
        device = self.joint_norm.weight.device

        def draw(grid: Grid, ratio: float, structure: Structure, noise: Tensor | None) -> Mask:
            if noise is None:
                source = generator.device if generator is not None else None
                size = (num_rows, noise_size(grid, structure))
                noise = torch.rand(size, generator=generator, device=source)
            return mask_on_grid(noise.to(device, non_blocking=True), grid, ratio, structure)

        audio = visual = None
        if own.modalities != "visual":
            audio = draw(own.audio_grid, config.audio, config.audio_structure, audio_noise)
        if own.modalities != "audio":
            visual = draw(own.picture_grid, config.visual, config.visual_structure, visual_noise)
        return Masks(audio=audio, visual=visual, reconstruct=reconstruct)

    def joint_tokens(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The joint stream: both towers' tokens (R, K, D), audio first, through the joint blocks and norm."""
        tokens = torch.cat([self._patch_tokens(audio), self._patch_tokens(visual)], dim=1)
        return self.joint_norm(self.shared(tokens, Stream.JOINT))

    def shared(self, tokens: Tensor, stream: Stream) -> Tensor:
        """Tokens (R, K, D) through the joint blocks with the norms of `stream`."""
        for block in self.joint_blocks:
            tokens = block(tokens, stream)
        return tokens

    def _together(self, streams: dict[Stream, Tensor]) -> dict[Stream, Tensor]:
        """Tokens (R, K, D) of each stream through the joint blocks, side by side: one product a layer for all."""
        lengths = {stream: tokens.shape[1] for stream, tokens in streams.items()}
        tokens = torch.cat(list(streams.values()), dim=1)
        for block in self.joint_blocks:
            tokens = block(tokens, lengths)
        return dict(zip(lengths, tokens.split(list(lengths.values()), dim=1), strict=True))

    def tower(self, stream: Stream) -> Tower:
        """The tower of one modality; ConfigError if this model has none."""
        if stream == Stream.AUDIO and self.config.modalities != "visual":
            return self.audio_tower
        if stream == Stream.VISUAL and self.config.modalities != "audio":
            return self.visual_tower
        raise ConfigError(f"this model has no {stream} tower (it was made with modalities={self.config.modalities!r})")

    def single(self, tokens: Tensor, stream: Stream) -> Tensor:
        """One tower's tokens (R, K, D) through the joint blocks with its own norms, its head and its last norm."""
        return self._finished(self.shared(tokens, stream), stream)

    def _finished(self, tokens: Tensor, stream: Stream) -> Tensor:
        """Tokens (R, K, D) that left the joint blocks, through the modality's head and its last norm."""
        if stream == Stream.AUDIO:
            return self.audio_norm(self.audio_head(tokens))
        return self.visual_norm(self.visual_head(tokens))

    def _encoded(self, tokens: Tensor, stream: Stream, leading: torch.Size) -> Encoded:
        """The modality's value from its finished tokens (R, K and what the tower adds, D)."""
        pooled = self._pool(tokens)  # (R, D)
        return Encoded(
            tokens=self._patch_tokens(tokens).unflatten(0, leading),
            grid=self.config.audio_grid if stream == Stream.AUDIO else self.config.picture_grid,
            pooled=pooled.unflatten(0, leading),
            embedding=F.normalize(pooled.float(), dim=-1).unflatten(0, leading),
        )

    def _check(self, name: str, value: Tensor, size: tuple[int, ...], words: str) -> None:
        if value.ndim != 2 + len(size) or tuple(value.shape[2:]) != size:
            wanted = " x ".join(map(str, size))
            raise ConfigError(
                f"{name} of shape {tuple(value.shape)} does not fit this model, which takes clips x windows x {wanted}"
                f" ({words}): prepare it with the preprocessing saved in the model's checkpoint"
            )

    # What CAV-MAE Sync does otherwise:

    def _make_head(self) -> nn.Module:
        """Blocks of one modality after the joint blocks: none here."""
        return nn.Sequential()

    def _patch_tokens(self, tokens: Tensor) -> Tensor:
        """The tokens (R, K, D) that stand for patches."""
        return tokens

    def _pool(self, tokens: Tensor) -> Tensor:
        """Tokens (R, K, D) to one vector a window (R, D). An empty window (all masked) gives zeros."""
        return tokens.sum(dim=1) / max(tokens.shape[1], 1)
