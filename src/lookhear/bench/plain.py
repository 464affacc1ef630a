"""The training step of CAV-MAE as one writes it first: what `lookhear bench step` is timed beside.

Each stream passes the shared block on its own, attention is two products and a softmax, tokens are chosen and put back
by gathers over repeated indices, and the optimiser is torch.optim.Adam as it comes. It shares no code with
`lookhear.models`, and the weights are copied, so that equal losses say that both do the same work.

R rows (clips of one window), L tokens, D width, P values in a patch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.models.cavmae import CAVMAE, CAVMAEConfig

TEMPERATURE = 0.05
CONTRASTIVE_WEIGHT = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainMasks:
    """int64: `audio_kept` and `visual_kept` (R, K), `audio_restore` and `visual_restore` (R, L)."""

    audio_kept: Tensor
    audio_restore: Tensor
    visual_kept: Tensor
    visual_restore: Tensor


class PlainAttention(nn.Module):
    """Softmax of query times key, times value."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        rows, length, width = x.shape
        qkv = self.qkv(x).reshape(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = (query @ key.transpose(-2, -1)) * self.scale
        weights = weights.softmax(dim=-1)
        x = (weights @ value).transpose(1, 2).reshape(rows, length, width)
        return self.out(x)


class PlainBlock(nn.Module):
    """Attention and MLP, with a pair of norms for each of `streams`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, streams: tuple[str, ...] = ("joint",)):
        super().__init__()
        self.attention_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in streams})
        self.attention = PlainAttention(width, heads)
        self.mlp_norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in streams})
        hidden = int(width * mlp_ratio)
        self.mlp = nn.ModuleDict({"expand": nn.Linear(width, hidden), "shrink": nn.Linear(hidden, width)})

    def forward(self, x: Tensor, stream: str = "joint") -> Tensor:
        """(R, L, D) -> (R, L, D)."""
        x = x + self.attention(self.attention_norms[stream](x))
        hidden = F.gelu(self.mlp["expand"](self.mlp_norms[stream](x)))
        return x + self.mlp["shrink"](hidden)


class PlainTower(nn.Module):
    """A linear patch embedding and blocks."""

    def __init__(self, config: CAVMAEConfig, num_tokens: int, patch_values: int, depth: int):
        super().__init__()
        self.patch_embedding = nn.Linear(patch_values, config.width)
        self.positions = nn.Parameter(torch.zeros(num_tokens, config.width), requires_grad=False)
        self.modality = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(PlainBlock(config.width, config.heads, config.mlp_ratio) for _ in range(depth))

    def forward(self, patches: Tensor, kept: Tensor) -> Tensor:
        """Patches (R, L, P) to tokens (R, K, D): all are embedded, then the kept ones chosen, as published."""
        x = self.patch_embedding(patches) + self.positions + self.modality
        x = x.gather(1, kept.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        for block in self.blocks:
            x = block(x)
        return x


class PlainDecoder(nn.Module):
    """Joint tokens and mask tokens to predictions of every patch."""

    def __init__(self, config: CAVMAEConfig):
        super().__init__()
        width = config.decoder_width
        audio, visual = config.audio_grid.num_tokens, config.picture_grid.num_tokens
        self.embedding = nn.Linear(config.width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.audio_positions = nn.Parameter(torch.zeros(audio, width), requires_grad=False)
        self.visual_positions = nn.Parameter(torch.zeros(visual, width), requires_grad=False)
        self.audio_modality = nn.Parameter(torch.zeros(width))
        self.visual_modality = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(
            PlainBlock(width, config.decoder_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.audio_prediction = nn.Linear(width, config.audio_patch_values)
        self.visual_prediction = nn.Linear(width, config.picture_patch_values)

    def forward(self, joint: Tensor, masks: PlainMasks) -> tuple[Tensor, Tensor]:
        """(R, K_audio + K_visual, D) to audio (R, L, P) and visual (R, L, P)."""
        x = self.embedding(joint)
        kept = masks.audio_kept.shape[1]
        audio = self._fill(x[:, :kept], masks.audio_restore) + self.audio_positions + self.audio_modality
        visual = self._fill(x[:, kept:], masks.visual_restore) + self.visual_positions + self.visual_modality
        x = torch.cat([audio, visual], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        num_audio = audio.shape[1]
        return self.audio_prediction(x[:, :num_audio]), self.visual_prediction(x[:, num_audio:])

    def _fill(self, x: Tensor, restore: Tensor) -> Tensor:
        rows, kept, width = x.shape
        filler = self.mask_token.to(x.dtype).repeat(rows, restore.shape[1] - kept, 1)
        x = torch.cat([x, filler], dim=1)
        return x.gather(1, restore.unsqueeze(-1).repeat(1, 1, width))


class PlainCAVMAE(nn.Module):
    """The whole model, with the parameter names of `CAVMAE`; sizes of the published kind only (linear patches)."""

    def __init__(self, config: CAVMAEConfig):
        super().__init__()
        self.patches = (config.audio_patch, config.picture_patch)
        audio, visual = config.audio_grid.num_tokens, config.picture_grid.num_tokens
        self.audio_tower = PlainTower(config, audio, config.audio_patch_values, config.audio_depth)
        self.audio_norm = nn.LayerNorm(config.width)
        self.visual_tower = PlainTower(config, visual, config.picture_patch_values, config.visual_depth)
        self.visual_norm = nn.LayerNorm(config.width)
        streams = ("joint", "audio", "visual")
        self.joint_blocks = nn.ModuleList(
            PlainBlock(config.width, config.heads, config.mlp_ratio, streams) for _ in range(config.joint_depth)
        )
        self.joint_norm = nn.LayerNorm(config.width)
        self.decoder = PlainDecoder(config)

    @classmethod
    def copy_of(cls, model: CAVMAE) -> "PlainCAVMAE":
        """The plain form of `model` with a copy of its weights, on its device."""
        plain = cls(model.config).to(model.joint_norm.weight.device)
        plain.load_state_dict(model.state_dict())
        return plain

    def loss(self, audio: Tensor, pictures: Tensor, masks: PlainMasks) -> Tensor:
        """The published objective: reconstruction of removed patches, and contrast of each picture with all sounds.

        `audio` (R, T, F), `pictures` (R, 3, H, W).
        """
        audio_patches = _patchify(audio.transpose(1, 2).unsqueeze(1), *self.patches[0])
        visual_patches = _patchify(pictures, *self.patches[1])
        audio_tokens = self.audio_tower(audio_patches, masks.audio_kept)
        visual_tokens = self.visual_tower(visual_patches, masks.visual_kept)
        audio_pooled = self.audio_norm(self._shared(audio_tokens, "audio")).mean(dim=1)
        visual_pooled = self.visual_norm(self._shared(visual_tokens, "visual")).mean(dim=1)
        joint = self.joint_norm(self._shared(torch.cat([audio_tokens, visual_tokens], dim=1), "joint"))
        audio_found, visual_found = self.decoder(joint, masks)
        return (
            _reconstruction(audio_found, audio_patches, masks.audio_restore >= masks.audio_kept.shape[1])
            + _reconstruction(visual_found, visual_patches, masks.visual_restore >= masks.visual_kept.shape[1])
            + CONTRASTIVE_WEIGHT * _contrastive(audio_pooled, visual_pooled)
        )

    def _shared(self, x: Tensor, stream: str) -> Tensor:
        for block in self.joint_blocks:
            x = block(x, stream)
        return x


def _patchify(pictures: Tensor, rows: int, columns: int) -> Tensor:
    """(R, C, H, W) -> (R, L, P), channel fastest in a patch."""
    count, channels, height, width = pictures.shape
    x = pictures.reshape(count, channels, height // rows, rows, width // columns, columns)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, rows * columns * channels)


def _reconstruction(found: Tensor, wanted: Tensor, removed: Tensor) -> Tensor:
    mean = wanted.mean(dim=-1, keepdim=True)
    variance = wanted.var(dim=-1, keepdim=True)
    wanted = (wanted - mean) / (variance + 1e-6) ** 0.5
    error = ((found.float() - wanted) ** 2).mean(dim=-1)
    return (error * removed).sum() / removed.sum()


def _contrastive(audio: Tensor, visual: Tensor) -> Tensor:
    audio, visual = F.normalize(audio.float(), dim=-1), F.normalize(visual.float(), dim=-1)
    with torch.autocast(audio.device.type, enabled=False):
        total = visual @ audio.T / TEMPERATURE
    return F.cross_entropy(total, torch.arange(len(total), device=total.device))
