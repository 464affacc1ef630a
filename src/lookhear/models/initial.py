"""Starts a model from weights that were trained before, and says what became of every part.

A part (the decoder, the registers, one tower) is either taken whole, or new, or left out; a part that fits only in
places is refused. Sources: checkpoints of ours, published files, and the ImageNet MAE (vision_mae.py).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookhear.errors import CheckpointError
from lookhear.models.checkpoint import compare, is_pickle, model_name
from lookhear.models.classifier import CAVMAEClassifier
from lookhear.models.published import PUBLISHED_FORMAT, PublishedChoices, read_model, unpickle
from lookhear.models.tokens import Grid, resize_positions
from lookhear.models.vision_mae import is_vision_mae, vision_mae_tensors
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
    (r"head(_norm)?\..*", "classification head"),
    (r"decoder\.(audio|visual)_modality", r"\1 modality token of the decoder"),
    (r"decoder\.(audio|visual)_positions", r"\1 positions of the decoder"),
    (r"decoder\..*", "decoder"),
    (r"class token", "class token"),
)
_SIZED_FREELY = ("registers", "classification head")  # of another size, they start anew rather than being refused


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
    """parts of the file that the model has no place for, and their tensors"""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Tensors by our names (without `encoder.`), and what they cannot show."""

    kind: str
    tensors: Mapping[str, Tensor]
    fingerprint: str | None
    grids: Mapping[str, Grid]  # of the position tables
    config: Any  # of the encoder; None for a vision MAE


@torch.no_grad()
def initialise_from(
    model: nn.Module, name_or_path: str | Path, *, choices: PublishedChoices | None = None
) -> InitialReport:
    """Fills `model` in place from a checkpoint, a run folder, a published file, a name in WEIGHTS, or a vision MAE.

    A classifier and a pre-training model may start from each other. Position tables follow the model's window and
    picture size. Raises CheckpointError with what is missing and what has another shape where a part fits only in
    places (other depths, widths, patches), or where attention heads differ, which no shape would show.
    """
    located = locate(name_or_path)
    source = _read(located.path, model, choices or located.choices)
    config, prefix = _encoder_of(model)
    _require_equal_heads(source, config, str(name_or_path))
    own = {key.removeprefix(prefix): (key, tensor) for key, tensor in model.state_dict().items()}
    found = dict(source.tensors)
    resized = _resize(found, own, source.grids, _grids(config))
    ours, theirs = _by_part(own), _by_part(found)
    new = {part: len(names) for part, names in ours.items() if part and part not in theirs}
    left_out = {part: len(names) for part, names in theirs.items() if part and part not in ours}
    for part in [part for part in ours if part in theirs]:
        wanted = {name: tuple(own[name][1].shape) for name in ours[part]}
        difference = compare(wanted, {name: tuple(found[name].shape) for name in theirs[part]})
        if not difference:
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
    )


def _read(path: Path, model: nn.Module, choices: PublishedChoices | None) -> _Source:
    if path.is_file() and is_pickle(path) and is_vision_mae(raw := unpickle(path)):
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
        grids=_grids(config),
        config=config,
    )


def _encoder_of(model: nn.Module) -> tuple[Any, str]:
    """The configuration of a model's encoder, and what the names of its tensors begin with."""
    model_name(model)  # refuses what no checkpoint can hold
    config: Any = model.config
    return (config.encoder, _ENCODER) if isinstance(model, CAVMAEClassifier) else (config, "")


def _require_equal_heads(source: _Source, config: Any, where: str) -> None:
    if source.config is None:
        return
    names = ["heads"] + ["decoder_heads"] * bool(source.config.decoder_depth and config.decoder_depth)
    for name in names:
        theirs, ours = getattr(source.config, name), getattr(config, name)
        if theirs != ours:
            raise CheckpointError(
                f"{where} has {theirs} {name} and this model {ours}: the same tensors would mean something else; set "
                f"model.{name}={theirs}"
            )


def _grids(config: Any) -> dict[str, Grid]:
    """The grid of each position table of a model."""
    grids = {"audio": config.audio_grid, "visual": config.picture_grid}
    tables = {f"{side}_tower.positions": grid for side, grid in grids.items()}
    return tables | {f"decoder.{side}_positions": grid for side, grid in grids.items()}


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
