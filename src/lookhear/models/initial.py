"""Starts a model from weights that were trained before, and says what became of every part.

A part (the decoder, the registers, one tower) is either taken whole, or new, or left out; a part that fits only in
places is refused. Sources: checkpoints of ours, published files, and the ImageNet MAE (vision_mae.py).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.checkpoint import compare, is_pickle, model_name
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.published import PUBLISHED_FORMAT, PublishedChoices, read_model
from lookhear.models.tokens import Grid, resize_positions
from lookhear.models.unpickle import unpickle
from lookhear.models.vision_mae import MAE_DECODER_HEADS, MAE_HEADS, is_vision_mae, vision_mae_tensors
from lookhear.models.weights import locate

_ENCODER = "encoder."  # before the names of a classifier's encoder
# Which part a tensor belongs to; the first that fits. Each of these may be new or left out; what is in none may not.
_PARTS = (
    (r"(audio|visual)_tower\.registers", r"\1 registers"),
    (r"(audio|visual)_tower\.global_tokens", r"\1 global token"),
    (r"(audio|visual)_tower\.modality", r"\1 modality token"),
    (r"(audio|visual)_tower\.positions", r"\1 positions"),
    (r"(audio|visual)_head\..*", r"\1 contrastive head"),
    (r"(audio|visual)_(tower|norm)\..*", r"\1 tower"),
    (r"(audio|visual)_encoder\.trunk\.tower\.positions", r"\1 positions"),
    (r"(audio|visual)_encoder\..*", r"\1 encoder"),
    (r"(audio|visual)_projection\..*", r"\1 projection"),
    (r"fusion\..*", "fusion"),
    (r"head(_norm)?\..*", "classification head"),
    (r"decoder\.(audio|visual)_modality", r"\1 modality token of the decoder"),
    (r"decoder\.(audio|visual)_positions", r"\1 positions of the decoder"),
    (r"decoder\..*", "decoder"),
    (r"class token", "class token"),
)
_HEAD = "classification head"
# Of an encoder; what no tensor shows. How its map becomes a vector may change.
_STREAM_SETTINGS = ("kind", "strides", "stem_stride", "stem_pool", "heads")
_SIZED_FREELY = ("registers", "projection", _HEAD)  # of another size, they start anew rather than being refused


@dataclass(frozen=True, kw_only=True)
class InitialReport:
    """What a model took from a file. Every tensor of both is counted in one of these."""

    source: str
    """the file, or the name that was given"""
    kind: str
    """who wrote it and the model: lookhear cavmae_sync, published cavmae, vision MAE"""
    fingerprint: str | None
    """of the source model, which tells whether it was the same file; None for a vision MAE"""
    taken: int
    """tensors of the model that the file filled"""
    resized: tuple[str, ...]
    """position tables that were cut or interpolated on the way"""
    new: dict[str, int]
    """parts that stay at their random (or sine-cosine) start, and their tensors: the file has none that fit"""
    left_out: dict[str, int]
    """parts of the file that the model has no place for, or another meaning (a head of other labels)"""
    assumed: dict[str, int]
    """attention heads that neither the file nor a published size shows: those of the model were taken for its own"""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Tensors by our names (without `encoder.`), and what they cannot show."""

    kind: str
    tensors: Mapping[str, Tensor]
    fingerprint: str | None
    grids: Mapping[str, Grid]  # of the position tables
    config: Any  # of the encoder; None for a vision MAE
    labels: tuple[str, ...] = ()


@torch.no_grad()
def initialise_from(
    model: nn.Module,
    name_or_path: str | Path,
    *,
    choices: PublishedChoices | None = None,
    labels: Sequence[str] = (),
) -> InitialReport:
    """Fills `model` in place from a checkpoint, a run folder, a published file, a name in WEIGHTS, or a vision MAE.

    A classifier and a pre-training model may start from each other. Position tables follow the model's window and
    picture size. `labels` are those of the model's classification head: the head of a file that was made for others,
    or for the same in another order, is left out. Raises CheckpointError with what is missing and what has another
    shape where a part fits only in places (other depths, widths, patches), or where attention heads differ, which no
    shape would show. A vision MAE does not say how many it has: those of the published widths are known, others are
    taken to be the model's, and the report says so.
    """
    located = locate(name_or_path)
    source = _read(located.path, model, choices or located.choices)
    config, prefix = _encoder_of(model)
    assumed = _require_equal_settings(source, config, str(name_or_path))
    own = {key.removeprefix(prefix): (key, tensor) for key, tensor in model.state_dict().items()}
    found = dict(source.tensors)
    resized = _resize(found, own, source.grids, config.position_tables())
    ours, theirs = _by_part(own), _by_part(found)
    new = {part: len(names) for part, names in ours.items() if part and part not in theirs}
    left_out = {part: len(names) for part, names in theirs.items() if part and part not in ours}
    for part in [part for part in ours if part in theirs]:
        wanted = {name: tuple(own[name][1].shape) for name in ours[part]}
        difference = compare(wanted, {name: tuple(found[name].shape) for name in theirs[part]})
        if not difference and not (part == _HEAD and _are_others(source.labels, labels)):
            continue
        if not part.endswith(_SIZED_FREELY):
            raise CheckpointError(
                f"{name_or_path} ({source.kind}) does not fit the {part or 'joint blocks'} of this model: "
                f"{difference}; give the model the sizes of the file, or start it from another"
            )
        new[part], left_out[part] = len(ours[part]), len(theirs[part])
    taken = [name for part, names in ours.items() if part not in new for name in names]
    for name in taken:
        own[name][1].copy_(found[name])
    return InitialReport(
        source=str(name_or_path),
        kind=source.kind,
        fingerprint=source.fingerprint,
        taken=len(taken),
        resized=tuple(resized),
        new=dict(sorted(new.items())),
        left_out=dict(sorted(left_out.items())),
        assumed=assumed,
    )


def _read(path: Path, model: nn.Module, choices: PublishedChoices | None) -> _Source:
    if path.is_file() and is_pickle(path) and is_vision_mae(raw := unpickle(path)):
        if not isinstance(_encoder_of(model)[0], CAVMAEConfig):
            raise CheckpointError(f"{path} (vision MAE) can only start a CAV-MAE, not a {type(model).__name__}")
        tensors = vision_mae_tensors(raw, _encoder_of(model)[0], path)
        grids = {}
        for name in ("visual_tower.positions", "decoder.visual_positions"):
            side = math.isqrt(len(tensors.get(name, ())))
            grids[name] = Grid(side, side)
        return _Source(kind="vision MAE", tensors=tensors, fingerprint=None, grids=grids, config=None)
    loaded = read_model(path, choices=choices)
    config, prefix = _encoder_of(loaded.model)
    return _Source(
        kind=f"{'published' if loaded.format == PUBLISHED_FORMAT else 'lookhear'} {loaded.name}",
        tensors={key.removeprefix(prefix): tensor for key, tensor in loaded.model.state_dict().items()},
        fingerprint=loaded.fingerprint,
        grids=config.position_tables(),
        config=config,
        labels=loaded.labels,
    )


def _encoder_of(model: nn.Module) -> tuple[Any, str]:
    """The configuration of a model's encoder, and what the names of its tensors begin with."""
    model_name(model)  # refuses what no checkpoint can hold
    config: Any = model.config
    return (config.encoder, _ENCODER) if hasattr(config, "encoder") else (config, "")


def _are_others(given: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether two heads, both with known labels, tell other things apart."""
    return bool(given and wanted) and tuple(given) != tuple(wanted)


def _require_equal_settings(source: _Source, config: Any, where: str) -> dict[str, int]:
    """Raises CheckpointError where settings that no tensor shows differ; returns those that were assumed equal."""
    streams = isinstance(config, MultiStreamConfig)
    if streams != isinstance(source.config, MultiStreamConfig):
        raise CheckpointError(
            f"{where} ({source.kind}) shares no part with this model ({type(config).__name__}); start it from a model "
            "of its own kind"
        )
    if streams:
        _require_equal_streams(source.config, config, where)
        return {}
    return _require_equal_heads(source, config, where)


def _require_equal_streams(source: MultiStreamConfig, config: MultiStreamConfig, where: str) -> None:
    for name in ("audio", "visual"):
        ours, theirs = getattr(config, name), getattr(source, name)
        if ours is None or theirs is None:
            continue
        for setting in _STREAM_SETTINGS:
            if getattr(ours, setting) != getattr(theirs, setting):
                raise CheckpointError(
                    f"{where} has {name}.{setting}={getattr(theirs, setting)} and this model "
                    f"{getattr(ours, setting)}: the same tensors would mean something else; set them alike"
                )


def _require_equal_heads(source: _Source, config: Any, where: str) -> dict[str, int]:
    """Raises CheckpointError where attention heads differ; returns those that had to be assumed equal."""
    assumed = {}
    names = ["heads"]
    if config.decoder_depth and any(name.startswith("decoder.") for name in source.tensors):
        names.append("decoder_heads")
    for name in names:
        ours = getattr(config, name)
        theirs = _published_heads(source, name) if source.config is None else getattr(source.config, name)
        if theirs is None:
            assumed[name] = ours
        elif theirs != ours:
            raise CheckpointError(
                f"{where} has {theirs} {name} and this model {ours}: the same tensors would mean something else; set "
                f"model.{name}={theirs}"
            )
    return assumed


def _published_heads(mae: _Source, name: str) -> int | None:
    """Heads of a vision MAE of a published width; None for another width, which shows nothing."""
    table, sizes = ("joint_norm.weight", MAE_HEADS) if name == "heads" else ("decoder.norm.weight", MAE_DECODER_HEADS)
    return sizes.get(len(mae.tensors[table]))


def _resize(
    found: dict[str, Tensor], own: Mapping[str, Any], old: Mapping[str, Grid], new: Mapping[str, Grid]
) -> list[str]:
    """Position tables in `found` on the grids of the model; returns the names of those that changed."""
    changed = [name for name in old if name in found and name in own and old[name] != new[name]]
    for name in changed:
        found[name] = resize_positions(found[name], old[name], new[name])
    return changed


def _by_part(names: Mapping[str, Any]) -> dict[str, list[str]]:
    """Part -> names of its tensors; "" for those that every model must share."""
    parts: dict[str, list[str]] = {}
    for name in names:
        matches = ((re.fullmatch(pattern, name), part) for pattern, part in _PARTS)
        part = next((match.expand(part) for match, part in matches if match), "")
        parts.setdefault(part, []).append(name)
    return parts
