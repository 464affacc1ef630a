"""CAV-MAE Sync: a CAV-MAE of short windows with global tokens, registers and optional contrastive heads.

Araujo et al., "CAV-MAE Sync", CVPR 2025. The global token carries the contrastive loss and the patch tokens the
reconstruction; registers give the towers room to compute in and are thrown away.

R rows, L tokens of a window, K of them kept by a mask, D width, P values in a patch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE, TOKEN_STD, CAVMAEConfig, Tower
from lookhear.models.tokens import Grid, Mask
from lookhear.models.transformer import Block, Stream


@dataclass(frozen=True, kw_only=True)
class CAVMAESyncConfig(CAVMAEConfig):
    """Sizes of a CAV-MAE Sync; the defaults are the released model."""

    audio_frames: int = 416
    """spectrogram frames in a window, 10 ms each"""
    num_global_tokens: int = 1
    """0 or 1 a modality; with 0 the embedding is the mean of the patch tokens"""
    num_registers: int = 8
    """register tokens a modality"""
    keep_registers: bool = False
    """carry the registers through the joint blocks of their own modality (never into the joint stream)"""
    contrastive_head_depth: int = 0
    """blocks of their own for each modality after the joint blocks; the published variant has 2"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_global_tokens not in (0, 1):
            raise ConfigError(f"num_global_tokens is {self.num_global_tokens}; it must be 0 or 1")
        if self.num_registers < 0 or self.contrastive_head_depth < 0:
            raise ConfigError("num_registers and contrastive_head_depth cannot be negative")

    def unseen_settings(self) -> dict[str, int | bool]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        return super().unseen_settings() | {"keep_registers": self.keep_registers}


class SyncTower(Tower):
    """A tower that puts a global token before the patches and registers after them; neither is ever masked."""

    def __init__(self, config: CAVMAESyncConfig, grid: Grid, patch: tuple[int, int], channels: int, depth: int) -> None:
        super().__init__(config, grid, patch, channels, depth)
        self.keep_registers = config.keep_registers
        self.global_tokens = _tokens(config.num_global_tokens, config.width)
        self.registers = _tokens(config.num_registers, config.width)

    def initialise(self) -> None:
        """The published start: registers are drawn fifty times larger than global tokens."""
        super().initialise()
        if self.global_tokens is not None:
            nn.init.normal_(self.global_tokens, std=TOKEN_STD)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=1.0)

    def forward(self, patches: Tensor, mask: Mask | None = None) -> Tensor:
        """Patches (R, L, P) to [global, K patch tokens, registers if they are kept] (R, ..., D)."""
        tokens = self.embed(patches, mask)
        parts = [self.global_tokens, tokens, self.registers]
        tokens = torch.cat([_rows(part, tokens) for part in parts if part is not None], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        if self.registers is None or self.keep_registers:
            return tokens
        return tokens[:, : tokens.shape[1] - len(self.registers)]


def _tokens(count: int, width: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(count, width)) if count else None


def _rows(part: Tensor, like: Tensor) -> Tensor:
    """Tokens (n, D), the same for every window, as (R, n, D)."""
    return part if part.ndim == 3 else part.to(like.dtype).expand(len(like), *part.shape)


class CAVMAESync(CAVMAE):
    """CAV-MAE whose embedding is a global token (or, without one, the mean of the patch tokens)."""

    config: CAVMAESyncConfig

    def _make_head(self) -> nn.Sequential:
        config = self.config
        depth = config.contrastive_head_depth
        return nn.Sequential(*(Block(config.width, config.heads, config.mlp_ratio) for _ in range(depth)))

    def _make_tower(self, stream: Stream) -> nn.Module:
        config = self.config
        if stream == Stream.AUDIO:
            return SyncTower(config, config.audio_grid, config.audio_patch, 1, config.audio_depth)
        channels = config.picture_channels
        return SyncTower(config, config.picture_grid, config.picture_patch, channels, config.visual_depth)

    def _patch_tokens(self, tokens: Tensor) -> Tensor:
        config = self.config
        registers = config.num_registers if config.keep_registers else 0
        return tokens[:, config.num_global_tokens : tokens.shape[1] - registers]

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.config.num_global_tokens:
            return tokens[:, 0]
        return super()._pool(self._patch_tokens(tokens))
