"""The ImageNet MAE as the start of a CAV-MAE.

He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. The full ViT-B/16 checkpoint, with its
decoder, is what the published models started from. Its first blocks become both towers and its last the joint blocks;
kernels of the picture, summed over colours, become those of the spectrogram. Those weights are under CC-BY-NC 4.0, and
so is what descends from them.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.checkpoint import compare

# Attention heads by width, which no tensor shows: of ViT-B, ViT-L and ViT-H, and of the decoder of all three.
MAE_HEADS = {768: 12, 1024: 16, 1280: 16}
MAE_DECODER_HEADS = {512: 16}
_LINEARS = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.expand",
    "mlp.fc2": "mlp.shrink",
}
_NORMS = {"norm1": "attention_norms", "norm2": "mlp_norms"}
_ENDS = ("weight", "bias")


def is_vision_mae(loaded: Any) -> bool:
    """Whether what was unpickled is a vision MAE checkpoint: a dict with the tensors under `model`."""
    model = loaded.get("model") if isinstance(loaded, dict) else None
    return isinstance(model, dict) and "cls_token" in model and "patch_embed.proj.weight" in model


def vision_mae_tensors(loaded: Mapping[str, Any], config: CAVMAEConfig, path: Path) -> dict[str, Tensor]:
    """The tensors of a CAV-MAE of the depths of `config`, by our names, that a vision MAE gives.

    Its position tables are those of its own square pictures. It gives no modality tokens and no audio positions. Of
    its prediction of 256 x 3 values, the first 256 rows become the prediction of a spectrogram patch, as published.
    What only a vision transformer has (its class token) is named `class token`, and no model takes it. Raises
    CheckpointError for tensors that are no MAE of these depths.
    """
    tensors: dict[str, Tensor] = {key: value for key, value in loaded["model"].items() if isinstance(value, Tensor)}
    _require_whole(tensors, config, path)
    kernels = tensors["patch_embed.proj.weight"]  # (D, 3, p, q)
    found = {"class token": tensors["cls_token"]}
    for side, weight in (("audio", kernels.sum(dim=1, keepdim=True)), ("visual", kernels)):
        found[f"{side}_tower.patch_embedding.weight"] = weight.permute(0, 2, 3, 1).flatten(1)
        found[f"{side}_tower.patch_embedding.bias"] = tensors["patch_embed.proj.bias"]
        for number in range(config.audio_depth):
            found |= _block(tensors, f"blocks.{number}", f"{side}_tower.blocks.{number}", ("joint",))
    for number in range(config.joint_depth):
        theirs = f"blocks.{config.audio_depth + number}"
        found |= _block(tensors, theirs, f"joint_blocks.{number}", ("joint", "audio", "visual"))
    for end in _ENDS:
        found |= {f"{stream}_norm.{end}": tensors[f"norm.{end}"] for stream in ("joint", "audio", "visual")}
    found["visual_tower.positions"] = tensors["pos_embed"][0, 1:]  # without the place of the class token
    if "decoder_embed.weight" in tensors:
        found |= _decoder(tensors, config)
    return found


def _decoder(tensors: Mapping[str, Tensor], config: CAVMAEConfig) -> dict[str, Tensor]:
    found = {
        "decoder.mask_token": tensors["mask_token"][0, 0],
        "decoder.visual_positions": tensors["decoder_pos_embed"][0, 1:],
    }
    for end in _ENDS:
        found[f"decoder.embedding.{end}"] = tensors[f"decoder_embed.{end}"]
        found[f"decoder.norm.{end}"] = tensors[f"decoder_norm.{end}"]
        found[f"decoder.visual_prediction.{end}"] = tensors[f"decoder_pred.{end}"]
        found[f"decoder.audio_prediction.{end}"] = tensors[f"decoder_pred.{end}"][: config.audio_patch_values]
    for number in range(_depth(tensors, "decoder_blocks")):
        found |= _block(tensors, f"decoder_blocks.{number}", f"decoder.blocks.{number}", ("joint",))
    return found


def _block(tensors: Mapping[str, Tensor], theirs: str, ours: str, streams: tuple[str, ...]) -> dict[str, Tensor]:
    found = {}
    for end in _ENDS:
        for their_part, our_part in _LINEARS.items():
            found[f"{ours}.{our_part}.{end}"] = tensors[f"{theirs}.{their_part}.{end}"]
        for their_part, our_part in _NORMS.items():
            for stream in streams:
                found[f"{ours}.{our_part}.{stream}.{end}"] = tensors[f"{theirs}.{their_part}.{end}"]
    return found


def _require_whole(tensors: Mapping[str, Tensor], config: CAVMAEConfig, path: Path) -> None:
    """Strict on the file itself: every tensor of a vision MAE of its depth, and nothing else."""
    depth = _depth(tensors, "blocks")
    if config.audio_depth != config.visual_depth or config.audio_depth + config.joint_depth != depth:
        raise CheckpointError(
            f"{path} is a vision MAE of {depth} blocks: it can start a model with audio_depth = visual_depth = {depth} "
            f"- joint_depth, not one of {config.audio_depth}, {config.visual_depth} and {config.joint_depth}"
        )
    names = ["cls_token", "pos_embed", *_pairs("patch_embed.proj", "norm")]
    names += [
        name for number in range(depth) for name in _pairs(*(f"blocks.{number}.{part}" for part in _block_parts()))
    ]
    decoder_depth = _depth(tensors, "decoder_blocks")
    if decoder_depth:
        names += ["mask_token", "decoder_pos_embed", *_pairs("decoder_embed", "decoder_norm", "decoder_pred")]
        for number in range(decoder_depth):
            names += _pairs(*(f"decoder_blocks.{number}.{part}" for part in _block_parts()))
    difference = compare(dict.fromkeys(names, ()), dict.fromkeys(tensors, ()))
    if difference:
        raise CheckpointError(f"{path} looks like a vision MAE, but {difference}")
    if math.isqrt(tensors["pos_embed"].shape[1] - 1) ** 2 != tensors["pos_embed"].shape[1] - 1:
        raise CheckpointError(f"{path} looks like a vision MAE, but its pos_embed is of no square picture")


def _block_parts() -> list[str]:
    return [*_LINEARS, *_NORMS]


def _pairs(*parts: str) -> list[str]:
    return [f"{part}.{end}" for part in parts for end in _ENDS]


def _depth(tensors: Mapping[str, Any], family: str) -> int:
    numbers = [int(found[1]) for name in tensors if (found := re.match(rf"{family}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1
