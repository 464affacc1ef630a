"""CAV-MAE Sync: a CAV-MAE of short windows with global tokens, registers and optional contrastive heads.

Araujo et al., "CAV-MAE Sync", CVPR 2025. The global token carries the contrastive loss and the patch tokens the
reconstruction; registers give the towers room to compute in and are thrown away.

R rows, K tokens kept by a mask, D width. Where global tokens and registers enter a tower: `towers.Tower`.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.towers import TOWERS, TowerSizes
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
        if self.num_registers and not self.keep_registers:
            self._check_registers_work()

    def _check_registers_work(self) -> None:
        """Registers that are dropped after a tower must have met other tokens in it."""
        towers = {"audio": (self.audio_tower, self.audio_depth), "visual": (self.visual_tower, self.visual_depth)}
        used = towers.values() if self.modalities == "both" else [towers[self.modalities]]
        for kind, depth in used:
            if TOWERS[kind].mixes_tokens and depth:
                continue
            why = f"of kind '{kind}' does not mix tokens" if depth else "of depth 0 has no blocks"
            raise ConfigError(
                f"registers would do nothing: a tower {why} and they are dropped after it; set num_registers to 0, or "
                "keep_registers to true"
            )

    def tower_sizes(self, stream: Stream) -> TowerSizes:
        """As for a CAV-MAE, with the global token and the registers that go through the tower."""
        return replace(
            super().tower_sizes(stream),
            num_global_tokens=self.num_global_tokens,
            num_registers=self.num_registers,
            keep_registers=self.keep_registers,
        )

    def unseen_settings(self) -> dict[str, int | bool]:
        """What changes the embeddings but shows in no tensor: part of a checkpoint's fingerprint."""
        return super().unseen_settings() | {"keep_registers": self.keep_registers}


class CAVMAESync(CAVMAE):
    """CAV-MAE whose embedding is a global token (or, without one, the mean of the patch tokens)."""

    config: CAVMAESyncConfig

    def _make_head(self) -> nn.Sequential:
        config = self.config
        depth = config.contrastive_head_depth
        return nn.Sequential(*(Block(config.width, config.heads, config.mlp_ratio) for _ in range(depth)))

    def _patch_tokens(self, tokens: Tensor) -> Tensor:
        config = self.config
        registers = config.num_registers if config.keep_registers else 0
        return tokens[:, config.num_global_tokens : tokens.shape[1] - registers]

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.config.num_global_tokens:
            return tokens[:, 0]
        return super()._pool(self._patch_tokens(tokens))
