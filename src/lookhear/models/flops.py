"""Floating-point operations of a CAV-MAE by formula, in Python's numbers alone: no tensor is made.

An operation is a multiplication or an addition in a matrix product or a convolution; what is done value by value
(norms, softmax, GELU, the optimiser) is not counted, as torch.utils.flop_counter does not. R rows, L tokens, D width.
"""

from dataclasses import dataclass

from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.tokens import num_kept
from lookhear.models.towers import CONV_KERNEL, TowerSizes, strides
from lookhear.models.transformer import Stream


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Of one pass over one window of sound with its picture, by part. A product of (m, k) and (k, n) has 2 m k n."""

    towers: int
    shared: int  # the joint blocks, every stream that goes through them, and contrastive heads
    decoder: int  # with the map to its width and the predictions; 0 where nothing is reconstructed
    patches: int  # the first layer of both towers, which learns from its input and sends no gradient further back

    @property
    def forward(self) -> int:
        """Of the pass without gradient."""
        return self.towers + self.shared + self.decoder

    @property
    def training(self) -> int:
        """Of the pass and its gradients: a product has two, for weights and input, but the first layer's only one."""
        return 3 * self.forward - self.patches


def pass_flops(
    config: CAVMAEConfig, *, audio_ratio: float = 0.0, visual_ratio: float = 0.0, reconstruct: bool = False
) -> Flops:
    """A pass of a model of both modalities under masks of these ratios; the decoder runs where `reconstruct`.

    Raises ConfigError for a ratio that keeps no token.
    """
    kept = {
        Stream.AUDIO: num_kept(config.audio_grid.num_tokens, audio_ratio),
        Stream.VISUAL: num_kept(config.picture_grid.num_tokens, visual_ratio),
    }
    towers = patches = shared = 0
    for stream, count in kept.items():
        sizes = config.tower_sizes(stream)
        kind = config.audio_tower if stream == Stream.AUDIO else config.visual_tower
        first, rest = _conv_tower(sizes) if kind == "conv" else _transformer_tower(sizes, count)
        patches += first
        towers += first + rest
        own = count + sizes.num_global_tokens + (sizes.num_registers if sizes.keep_registers else 0)
        depth = config.joint_depth + (config.contrastive_head_depth if isinstance(config, CAVMAESyncConfig) else 0)
        shared += depth * _block(own, config.width, config.mlp_ratio)
    decoder = 0
    if reconstruct and config.decoder_depth:
        joint = sum(kept.values())
        shared += config.joint_depth * _block(joint, config.width, config.mlp_ratio)
        decoder = _decoder(config, joint)
    return Flops(towers=towers, shared=shared, decoder=decoder, patches=patches)


def contrastive_flops(num_windows: int, width: int, *, directions: int = 1) -> int:
    """Forward of all cosines between `num_windows` sounds and as many pictures; with gradients three times that."""
    return directions * 2 * num_windows * num_windows * width


def _block(tokens: int, width: int, mlp_ratio: float) -> int:
    """Query, key, value and output; two products with each other token; two layers of the MLP."""
    return 8 * tokens * width**2 + 4 * tokens**2 * width + _mlp(tokens, width, mlp_ratio)


def _mlp(tokens: int, width: int, mlp_ratio: float) -> int:
    return 4 * tokens * width * int(width * mlp_ratio)


def _transformer_tower(sizes: TowerSizes, kept: int) -> tuple[int, int]:
    """The first layer, and the rest. A linear map computes only what a mask keeps, a stem the whole grid."""
    if sizes.stem_channels:
        first, rest = _stem(sizes)
    else:
        first, rest = 2 * kept * sizes.patch[0] * sizes.patch[1] * sizes.channels * sizes.width, 0
    tokens = kept + sizes.num_global_tokens + sizes.num_registers
    return first, rest + sizes.depth * _block(tokens, sizes.width, sizes.mlp_ratio)


def _conv_tower(sizes: TowerSizes) -> tuple[int, int]:
    """The first layer, and the rest, over the whole grid whatever a mask keeps."""
    first, rest = _stem(sizes)
    tokens = sizes.grid.num_tokens
    block = 2 * tokens * sizes.width * CONV_KERNEL**2 + _mlp(tokens, sizes.width, sizes.mlp_ratio)
    return first, rest + sizes.depth * block


def _stem(sizes: TowerSizes) -> tuple[int, int]:
    """The first convolution, and the others: each output cell has a product of kernel x input channels."""
    widths = (*sizes.stem_channels, sizes.width)
    rows, columns = sizes.grid.rows * sizes.patch[0], sizes.grid.columns * sizes.patch[1]
    channels, layers = sizes.channels, []
    steps = zip(strides(sizes.patch[0], len(widths)), strides(sizes.patch[1], len(widths)), strict=True)
    for width, (down, across) in zip(widths, steps, strict=True):
        rows, columns = rows // down, columns // across
        kernel = (2 * -(-down // 2) + 1) * (2 * -(-across // 2) + 1)
        layers.append(2 * rows * columns * width * kernel * channels)
        channels = width
    return layers[0], sum(layers[1:])


def _decoder(config: CAVMAEConfig, joint: int) -> int:
    """Joint tokens to its width, blocks over the tokens of both whole grids, and a prediction for each of them."""
    audio, visual, width = config.audio_grid.num_tokens, config.picture_grid.num_tokens, config.decoder_width
    predictions = 2 * width * (audio * config.audio_patch_values + visual * config.picture_patch_values)
    blocks = config.decoder_depth * _block(audio + visual, width, config.mlp_ratio)
    return 2 * joint * config.width * width + blocks + predictions
