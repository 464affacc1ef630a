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
    unpatchify,
)
from lookhear.models.transformer import Block, Stream, initialise_linear, layer_norm

STEM_GAIN = 3.0  # of the last normalisation of a convolutional stem, at the start
TOKEN_STD = 0.02  # of the normal draw that mask, modality and global tokens start from


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

    def unseen_settings(self) -> dict[str, int | bool]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        return {"heads": self.heads}


class Stem(nn.Module):
    """Convolutions that make one token a patch: they learn from few clips what a linear map learns from millions.

    Early convolutions as in Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021, with each
    channel normalised over the positions of its window (instance normalisation): what is rare in a window, such as a
    small object before a wide background, stands out. The strides multiply to the patch.
    """

    def __init__(self, grid: Grid, patch: tuple[int, int], channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.grid, self.patch = grid, patch
        strides = zip(_strides(patch[0], len(widths)), _strides(patch[1], len(widths)), strict=True)
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            reach = (-(-stride[0] // 2), -(-stride[1] // 2))  # the kernel reaches half a stride beyond its patch
            kernel = (2 * reach[0] + 1, 2 * reach[1] + 1)
            layers += [nn.Conv2d(channels, width, kernel, stride, reach), nn.GroupNorm(width, width), nn.ReLU()]
            channels = width
        self.layers = nn.Sequential(*layers)

    def initialise(self) -> None:
        """Content starts out larger than the position that is added to it: learning sets in twice as early."""
        norm = self.layers[-2]
        assert isinstance(norm, nn.GroupNorm)
        nn.init.constant_(norm.weight, STEM_GAIN)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (R, L, P) to tokens (R, L, D)."""
        # contiguous: group normalisation of a channels-last tensor is several times slower on CPUs
        tokens: Tensor = self.layers(unpatchify(patches, self.grid, self.patch).contiguous())
        return tokens.flatten(2).transpose(1, 2)


def _strides(size: int, count: int) -> list[int]:
    """`count` strides whose product is `size`, the large ones first."""
    strides = [1] * count
    factors = []
    factor = 2
    while size > 1:
        while size % factor == 0:
            factors.append(factor)
            size //= factor
        factor += 1
    for factor in sorted(factors, reverse=True):
        smallest = min(range(count), key=lambda i: (strides[i], i))
        strides[smallest] *= factor
    return sorted(strides, reverse=True)


class Tower(nn.Module):
    """Patches of one modality to tokens: linear embedding, position, modality, blocks.

    Any module with `grid`, and a `forward` from patches (R, L, P) and a mask to tokens (R, K, D), can stand in.
    """

    def __init__(self, config: CAVMAEConfig, grid: Grid, patch: tuple[int, int], channels: int, depth: int) -> None:
        super().__init__()
        self.grid = grid
        self.patch_embedding: nn.Linear | Stem
        if config.stem_channels:
            self.patch_embedding = Stem(grid, patch, channels, (*config.stem_channels, config.width))
        else:
            self.patch_embedding = nn.Linear(patch[0] * patch[1] * channels, config.width)
        positions = sincos_positions(grid, config.width)
        self.positions = nn.Parameter(positions, requires_grad=config.learned_positions)  # (L, D)
        self.modality = nn.Parameter(torch.zeros(config.width))  # (D,)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(depth))

    def initialise(self) -> None:
        """The published start; the embedding's bias is PyTorch's own draw, as for the convolution it stands for."""
        nn.init.normal_(self.modality, std=TOKEN_STD)
        if isinstance(self.patch_embedding, Stem):
            self.patch_embedding.initialise()
        else:
            bound = self.patch_embedding.in_features**-0.5
            nn.init.uniform_(self.patch_embedding.bias, -bound, bound)

    def embed(self, patches: Tensor, mask: Mask | None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D) before the blocks; only what the mask keeps is computed."""
        positions: Tensor = self.positions  # (L, D)
        if mask is not None:
            positions = positions[mask.kept]  # (R, K, D)
        if isinstance(self.patch_embedding, Stem):
            # a convolution sees across patches: what is removed must be gone before it
            seen = patches if mask is None else patches * ~mask.removed[..., None]
            tokens = self.patch_embedding(seen)  # (R, L, D)
            if mask is not None:
                tokens = tokens.gather(1, mask.kept[..., None].expand(-1, -1, tokens.shape[2]))
        else:
            if mask is not None:
                patches = patches.gather(1, mask.kept[..., None].expand(-1, -1, patches.shape[2]))  # (R, K, P)
            tokens = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        return tokens + positions + self.modality

    def forward(self, patches: Tensor, mask: Mask | None = None) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D)."""
        tokens = self.embed(patches, mask)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


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
        kept = num_audio if masks.audio is None else masks.audio.kept.shape[1]
        tokens = self.embedding(joint)  # (R, K, decoder width)
        audio = self._put_back(tokens[:, :kept], masks.audio) + self.audio_positions + self.audio_modality
        visual = self._put_back(tokens[:, kept:], masks.visual) + self.visual_positions + self.visual_modality
        tokens = torch.cat([audio, visual], dim=1)  # (R, L_audio + L_visual, decoder width)
        for block in self.blocks:
            tokens = block(tokens)
        audio, visual = self.norm(tokens).split([num_audio, num_visual], dim=1)
        return self.audio_prediction(audio), self.visual_prediction(visual)

    def _put_back(self, tokens: Tensor, mask: Mask | None) -> Tensor:
        """Kept tokens (R, K, D) to (R, L, D) in their places, the mask token everywhere else."""
        if mask is None:
            return tokens
        rows, kept, width = tokens.shape
        filler = self.mask_token.to(tokens.dtype).expand(rows, 1, width)
        places = mask.restore.clamp(max=kept)  # every removed token reads the one filler
        return torch.cat([tokens, filler], dim=1).gather(1, places[..., None].expand(-1, -1, width))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """One modality on its way through the model."""

    patches: Tensor  # (R, L, P)
    tower: Tensor  # (R, K and what the tower adds, D)
    encoded: Encoded


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
            self.audio_tower = self._make_tower(Stream.AUDIO)
            self.audio_head = self._make_head()
            self.audio_norm = layer_norm(config.width)
        if config.modalities != "audio":
            self.visual_tower = self._make_tower(Stream.VISUAL)
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
        sound = picture = None
        if audio is not None:
            sound = self._encode(Stream.AUDIO, audio.shape[:2], self.audio_patches(audio), masks.audio)
        if frames is not None:
            picture = self._encode(Stream.VISUAL, frames.shape[:2], self.visual_patches(frames), masks.visual)
        encoded = Output(
            audio=None if sound is None else sound.encoded,
            visual=None if picture is None else picture.encoded,
        )
        if sound is None or picture is None or mask is None or not mask.reconstruct or self.decoder is None:
            return encoded
        leading = tuple(sound.encoded.tokens.shape[:2])
        joint = self.joint_tokens(sound.tower, picture.tower)  # (R, K_audio + K_visual, D)
        predictions = self.decoder(joint, masks)
        reconstruction = Reconstruction(
            audio=predictions[0].unflatten(0, leading),
            visual=predictions[1].unflatten(0, leading),
            audio_patches=sound.patches.unflatten(0, leading),
            visual_patches=picture.patches.unflatten(0, leading),
        )
        return Output(
            audio=encoded.audio,
            visual=encoded.visual,
            joint=joint.unflatten(0, leading),
            reconstruction=reconstruction,
        )

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

    def tower(self, stream: Stream) -> nn.Module:
        """The tower of one modality; ConfigError if this model has none."""
        if stream == Stream.AUDIO and self.config.modalities != "visual":
            return self.audio_tower
        if stream == Stream.VISUAL and self.config.modalities != "audio":
            return self.visual_tower
        raise ConfigError(f"this model has no {stream} tower (it was made with modalities={self.config.modalities!r})")

    def single(self, tokens: Tensor, stream: Stream) -> Tensor:
        """One tower's tokens (R, K, D) through the joint blocks with its own norms, its head and its last norm."""
        tokens = self.shared(tokens, stream)
        if stream == Stream.AUDIO:
            return self.audio_norm(self.audio_head(tokens))
        return self.visual_norm(self.visual_head(tokens))

    def _encode(self, stream: Stream, leading: torch.Size, patches: Tensor, mask: Mask | None) -> _Side:
        tower = self.tower(stream)(patches, mask)  # (R, K and what the tower adds, D)
        tokens = self.single(tower, stream)
        pooled = self._pool(tokens)  # (R, D)
        grid = self.config.audio_grid if stream == Stream.AUDIO else self.config.picture_grid
        encoded = Encoded(
            tokens=self._patch_tokens(tokens).unflatten(0, leading),
            grid=grid,
            pooled=pooled.unflatten(0, leading),
            embedding=F.normalize(pooled.float(), dim=-1).unflatten(0, leading),
        )
        return _Side(patches=patches, tower=tower, encoded=encoded)

    def _check(self, name: str, value: Tensor, size: tuple[int, ...], words: str) -> None:
        if value.ndim != 2 + len(size) or tuple(value.shape[2:]) != size:
            wanted = " x ".join(map(str, size))
            raise ConfigError(
                f"{name} of shape {tuple(value.shape)} does not fit this model, which takes clips x windows x {wanted}"
                f" ({words}): prepare it with the preprocessing saved in the model's checkpoint"
            )

    # What CAV-MAE Sync does otherwise:

    def _make_tower(self, stream: Stream) -> nn.Module:
        config = self.config
        if stream == Stream.AUDIO:
            return Tower(config, config.audio_grid, config.audio_patch, 1, config.audio_depth)
        channels = config.picture_channels
        return Tower(config, config.picture_grid, config.picture_patch, channels, config.visual_depth)

    def _make_head(self) -> nn.Module:
        """Blocks of one modality after the joint blocks: none here."""
        return nn.Sequential()

    def _patch_tokens(self, tokens: Tensor) -> Tensor:
        """The tokens (R, K, D) that stand for patches."""
        return tokens

    def _pool(self, tokens: Tensor) -> Tensor:
        """Tokens (R, K, D) to one vector a window (R, D). An empty window (all masked) gives zeros."""
        return tokens.sum(dim=1) / max(tokens.shape[1], 1)
