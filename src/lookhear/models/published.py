"""The weight files that the authors of CAV-MAE and CAV-MAE Sync published, read and written.

Their names for tensors appear in this file only. What the tensors show is inferred (sizes, depths, registers, global
tokens, contrastive heads, number of classes); what they do not takes the published value unless it is passed.
Tensors that no forward reads (norms of streams that a block never serves) are kept beside the model, so that export
gives back what was imported.
"""

import contextlib
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookhear.config import to_dict
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.checkpoint import (
    LoadedCheckpoint,
    build,
    compare,
    expected_shapes,
    fingerprint,
    is_pickle,
    load_checkpoint,
    model_name,
    require_file,
    require_finite,
)
from lookhear.models.classifier import CAVMAEClassifierConfig, Mode
from lookhear.models.published_notes import PublishedChoices as PublishedChoices
from lookhear.models.published_notes import PublishedNotes, notes_path, read_notes
from lookhear.models.unpickle import unpickle

PREFIX = "module."  # every published file was saved from a DataParallel model
HEAD_WIDTH, DECODER_HEAD_WIDTH = 64, 32  # of the published models; no tensor shows them
PUBLISHED_WIDTH = 768  # of all of them
# Shown on stderr without any setting up, from Python too: another model than was meant must not load in silence.
_log = logging.getLogger("lookhear")
PUBLISHED_FORMAT = 0  # LoadedCheckpoint.format of a file that is not ours


class Form(Enum):
    """How a published tensor differs from ours."""

    SAME = "same"
    TOKEN = "token"  # (1, 1, D) of (D,)
    TABLE = "table"  # (1, L, D) of (L, D)
    PATCH = "patch"  # convolution (D, C, p, q) of linear (D, p x q x C)
    PAIR = "pair"  # (2 n, D) of audio (n, D) and visual (n, D)
    UNUSED = "unused"  # (D,), read by no forward


@dataclass(frozen=True)
class Entry:
    """One tensor of a published file and the tensors of ours that it holds."""

    published: str
    ours: tuple[str, ...]
    form: Form = Form.SAME
    shape: tuple[int, ...] = ()  # of the published tensor, where ours does not tell (PATCH, UNUSED)


def is_published(path: Path | str) -> bool:
    """Whether a file is to be read by `load_published` rather than `load_checkpoint` (it is a PyTorch pickle)."""
    require_file(Path(path))
    return is_pickle(Path(path))


def load_published(
    path: Path | str, *, choices: PublishedChoices | None = None, device: torch.device | str = "cpu"
) -> LoadedCheckpoint:
    """Reads a published .pth file strictly: CAV-MAE, fine-tuned CAV-MAE, audio-only, or CAV-MAE Sync.

    Only tensors are unpickled (`weights_only=True`). Raises CheckpointError, in one sentence, for a file that is
    missing, damaged, holds anything but tensors, or does not fit, with what is missing and what is too many.

    What the file does not show is as `choices` say, or else the notes beside it (`published_notes`), or as published;
    the preprocessing and the labels are those of the notes.
    """
    path = Path(path)
    tensors, notes = _read(path), read_notes(path)
    chosen = choices or (PublishedChoices() if notes is None else notes.choices)
    name, model = from_published(tensors, choices=chosen, where=str(path))
    require_finite(model.state_dict(), path)
    config: Any = model.config
    preprocess = published_preprocess(config) | ({} if notes is None else notes.preprocess)
    _say_what_was_taken(path, config, chosen, notes)
    return LoadedCheckpoint(
        name=name,
        model=model.to(device).eval(),
        config=config,
        preprocess=preprocess,
        labels=() if notes is None else notes.labels,
        extra=_extra(path, chosen, notes),
        fingerprint=fingerprint(model.state_dict(), preprocess, config.unseen_settings()),
        format=PUBLISHED_FORMAT,
    )


def _say_what_was_taken(path: Path, config: Any, choices: PublishedChoices, notes: PublishedNotes | None) -> None:
    """Of a model that is no published one in size, what was only supposed of it would otherwise go unseen."""
    sizes = config.encoder if isinstance(config, CAVMAEClassifierConfig) else config
    if notes is not None:
        _log.warning("%s: what the file does not show is as %s says", path, notes_path(path).name)
    if choices.heads is None and sizes.width != PUBLISHED_WIDTH:
        _log.warning(
            "attention heads are not in the file %s; taken as %d (width %d / %d); heads=NUMBER says otherwise, or %s",
            path,
            sizes.heads,
            sizes.width,
            HEAD_WIDTH,
            notes_path(path).name,
        )


def _extra(path: Path, choices: PublishedChoices, notes: PublishedNotes | None) -> dict[str, Any]:
    known = {} if notes is None else dict(notes.extra)
    if choices.objective:
        known["objective"] = known.get("objective", {}) | choices.objective
    return known | {"published_file": path.name}


def read_model(
    path: Path | str, *, choices: PublishedChoices | None = None, device: torch.device | str = "cpu"
) -> LoadedCheckpoint:
    """Reads a checkpoint of ours or a published file, whichever `path` is. `choices` are for the latter only."""
    if is_published(path):
        return load_published(path, choices=choices, device=device)
    if choices is not None:
        raise CheckpointError(
            f"{path} is no published .pth file: what it holds says its own sizes, so leave out the choices "
            "(attention heads and the like)"
        )
    return load_checkpoint(path, device=device)


def from_published(
    published: Mapping[str, Tensor], *, choices: PublishedChoices | None = None, where: str = "the file"
) -> tuple[str, nn.Module]:
    """The name in MODELS and the model of published tensors (named without `module.`), on any device, strictly.

    Raises CheckpointError, with what is missing and what is too many, for tensors that do not fit.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    name, config = infer(shapes, choices=choices, where=where)
    entries = layout(name, config)
    difference = compare(published_shapes(name, config), shapes)
    if difference:
        raise CheckpointError(f"the tensors in {where} do not fit a {name} of the sizes they show: {difference}")
    tensors = {key: value for entry in entries for key, value in _import(entry, published[entry.published])}
    unused = {entry.published: published[entry.published] for entry in entries if entry.form is Form.UNUSED}
    return name, build(name, config, tensors, unused=unused, where=where)


def export_published(model: nn.Module, path: Path | str) -> None:
    """Writes `model` as the published code would have saved it; equal to the import if that is where it came from.

    The norms that no forward reads, which a model made here does not have, are written at their start (1 and 0).
    Raises CheckpointError for a model that the layout has no place for, and where the file cannot be written.
    """
    tensors = to_published(model)
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the file to write, such as {path / 'model.pth'}")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({PREFIX + name: tensor for name, tensor in tensors.items()}, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:  # the latter of torch, such as for a full disk
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"cannot write {path} ({reason}); name another place, or make room") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def to_published(model: nn.Module, tensors: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The tensors of `model` under their published names (without `module.`), in the published order.

    `tensors`, named as in the model, stand in for its own (gradients, say); what they lack is left out.
    """
    name = model_name(model)
    config: Any = model.config
    encoder = config.encoder if isinstance(config, CAVMAEClassifierConfig) else config
    _check_has_layout(name, encoder)
    state = dict(model.state_dict()) if tensors is None else dict(tensors)
    unused: Any = model.unused if tensors is None else {}
    exported = {}
    for entry in layout(name, config):
        if entry.form is Form.UNUSED and tensors is None:
            fresh = torch.ones(entry.shape) if entry.published.endswith("weight") else torch.zeros(entry.shape)
            exported[entry.published] = unused.get(entry.published, fresh)
        elif entry.ours and all(key in state for key in entry.ours):
            exported[entry.published] = _export(entry, [state[key].detach().cpu() for key in entry.ours])
    return exported


def _check_has_layout(name: str, encoder: Any) -> None:
    """Raises CheckpointError, with the reason, where the published layout has no place for a model."""
    if name not in ("cavmae", "cavmae_sync", "cavmae_classifier"):
        raise CheckpointError(
            f"this is a {name}: the published layout is of CAV-MAE, CAV-MAE Sync and their classifiers"
        )
    size = f"{encoder.picture_height} x {encoder.picture_width}"
    reasons = {
        "is of pictures alone": encoder.modalities == "visual",
        f"sees pictures of {size}, which are not square": encoder.picture_height != encoder.picture_width,
        f"has a convolutional stem (model.stem_channels {list(encoder.stem_channels)})": bool(encoder.stem_channels),
        f"has towers of the kinds {encoder.audio_tower} and {encoder.visual_tower}, not vit": (
            {encoder.audio_tower, encoder.visual_tower} != {"vit"}
        ),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    if found:
        raise CheckpointError(
            f"the published layout has no place for this model, which {' and '.join(found)}; keep it as a lookhear "
            "checkpoint, or train one of the published shape, such as the recipe small"
        )


def published_shapes(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Published name (without `module.`) and shape of every tensor, without making weights."""
    ours = expected_shapes(name, config)
    shapes = {}
    for entry in layout(name, config):
        if entry.ours:
            tensors = [torch.empty(ours[key], device="meta") for key in entry.ours]
            shapes[entry.published] = tuple(_export(entry, tensors).shape)
        else:
            shapes[entry.published] = entry.shape
    return shapes


def published_preprocess(config: Any) -> dict[str, Any]:
    """The preprocessing that all published weights were trained with, as data.preprocess writes it."""
    sizes = config.encoder if isinstance(config, CAVMAEClassifierConfig) else config
    values = {
        "sample_rate": 16000,
        "channel": "first",
        "framing": "published",
        "audio_frames": sizes.audio_frames,
        "num_mel_bins": sizes.num_mel_bins,
        "audio_mean": -5.081,
        "audio_std": 4.4849,
        "picture_height": sizes.picture_height,
        "picture_width": sizes.picture_width,
        "picture_mean": (0.485, 0.456, 0.406),
        "picture_std": (0.229, 0.224, 0.225),
        "frames_per_window": sizes.picture_channels // 3,
    }
    return to_dict(values)


def strip_prefix(names: Iterable[str]) -> dict[str, str]:
    """Names without `module.`, if all of them have it -> the names as they are in the file."""
    names = list(names)
    prefix = PREFIX if names and all(name.startswith(PREFIX) for name in names) else ""
    return {name.removeprefix(prefix): name for name in names}


def infer(
    shapes: Mapping[str, tuple[int, ...]], *, choices: PublishedChoices | None = None, where: str = "the file"
) -> tuple[str, Any]:
    """The name in MODELS and the configuration that a published file's shapes (without `module.`) show."""
    choices = choices or PublishedChoices()
    needed: tuple[str, ...] = ("patch_embed_a.proj.weight", "pos_embed_a", "blocks_a.0.mlp.fc1.weight")
    both = "patch_embed_v.proj.weight" in shapes
    needed += ("pos_embed_v",) if both else ()
    if any(name.startswith("classifier_layers.") for name in shapes):
        raise CheckpointError(
            f"{where} is a CAV-MAE Sync file with an attention probe (classifier_layers), which is not read here; load "
            "the file that it was trained from, and train a probe on that"
        )
    lacking = [name for name in needed if name not in shapes]
    if lacking:
        some = ", ".join(list(shapes)[:3])
        raise CheckpointError(
            f"{where} is no published CAV-MAE file: it has no {', '.join(lacking)} among its {len(shapes)} tensors "
            f"({some}, ...)"
        )
    try:
        sizes = _sizes(shapes, choices, both)
        sync = any(name.startswith(("register_tokens", "cls_token_", "constrative_head_")) for name in shapes)
        if sync:
            return "cavmae_sync", CAVMAESyncConfig(**sizes, **_sync_sizes(shapes, choices))
        if "mlp_head.1.weight" in shapes:
            encoder = CAVMAEConfig(**sizes, learned_positions=True)
            mode: Mode = choices.mode or ("both" if both else "audio")
            num_classes = shapes["mlp_head.1.weight"][0]
            return "cavmae_classifier", CAVMAEClassifierConfig(encoder=encoder, num_classes=num_classes, mode=mode)
        return "cavmae", CAVMAEConfig(**sizes)
    except (ConfigError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(f"the tensors in {where} show sizes that no model has: {error}") from None


def _sizes(shapes: Mapping[str, tuple[int, ...]], choices: PublishedChoices, both: bool) -> dict[str, Any]:
    width, _, *audio_patch = shapes["patch_embed_a.proj.weight"]
    rows = choices.num_mel_bins // audio_patch[0]
    table = shapes["pos_embed_a"]
    columns = _whole(table[1] / rows, f"pos_embed_a is {_size(table)}, which does not fill {rows} rows of mel patches")
    sizes: dict[str, Any] = {
        "modalities": "both" if both else "audio",
        "audio_frames": columns * audio_patch[1],
        "num_mel_bins": choices.num_mel_bins,
        "audio_patch": tuple(audio_patch),
        "width": width,
        "heads": choices.heads or max(width // HEAD_WIDTH, 1),
        "mlp_ratio": shapes["blocks_a.0.mlp.fc1.weight"][0] / width,
        "audio_depth": _depth(shapes, "blocks_a"),
        "joint_depth": _depth(shapes, "blocks_u"),
        "decoder_depth": _depth(shapes, "decoder_blocks"),
    }
    if both:
        _, channels, *patch = shapes["patch_embed_v.proj.weight"]
        if choices.picture_size is None:
            table = shapes["pos_embed_v"]
            problem = f"pos_embed_v is {_size(table)}, and {table[1]} patches are no square: pass picture_size"
            side = _whole(math.sqrt(table[1]), problem)
            size = (side * patch[0], side * patch[1])
        else:
            size = choices.picture_size
        sizes |= {"picture_height": size[0], "picture_width": size[1], "picture_channels": channels}
        sizes |= {"picture_patch": tuple(patch), "visual_depth": _depth(shapes, "blocks_v")}
    if sizes["decoder_depth"] and "decoder_embed.weight" in shapes:
        decoder_width = shapes["decoder_embed.weight"][0]
        sizes["decoder_width"] = decoder_width
        sizes["decoder_heads"] = choices.decoder_heads or max(decoder_width // DECODER_HEAD_WIDTH, 1)
    return sizes


def _sync_sizes(shapes: Mapping[str, tuple[int, ...]], choices: PublishedChoices) -> dict[str, Any]:
    return {
        "num_global_tokens": int("cls_token_a" in shapes),
        "num_registers": shapes.get("register_tokens", (0,))[0] // 2,
        "keep_registers": choices.keep_registers,
        "contrastive_head_depth": _depth(shapes, "constrative_head_audio"),
    }


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _whole(value: float, problem: str) -> int:
    if value != int(value):
        raise ValueError(problem)
    return int(value)


def _depth(shapes: Mapping[str, Any], family: str) -> int:
    numbers = [int(found[1]) for name in shapes if (found := re.match(rf"{family}\.(\d+)\.", name))]
    return max(numbers, default=-1) + 1


def layout(name: str, config: Any) -> list[Entry]:
    """Every tensor of the published file of a model, in the order of the file."""
    if name == "cavmae_classifier":
        entries = [
            Entry(entry.published, tuple(f"encoder.{key}" for key in entry.ours), entry.form, entry.shape)
            for entry in layout("cavmae", config.encoder)
        ]
        for part, ours in (("0", "head_norm"), ("1", "head")):
            entries += [Entry(f"mlp_head.{part}.{end}", (f"{ours}.{end}",)) for end in ("weight", "bias")]
        return entries
    return [*_loose(config), *_encoder(config), *_decoder(config)]


def _loose(config: CAVMAEConfig) -> Iterator[Entry]:
    sides = _sides(config)
    for letter, side in sides:
        yield Entry(f"modality_{letter}", (f"{side}_tower.modality",), Form.TOKEN)
    for letter, side in sides:
        yield Entry(f"pos_embed_{letter}", (f"{side}_tower.positions",), Form.TABLE)
    sync = config if isinstance(config, CAVMAESyncConfig) else None
    if sync and sync.num_registers:
        yield Entry("register_tokens", tuple(f"{side}_tower.registers" for _, side in sides), Form.PAIR)
    if config.decoder_depth:
        yield Entry("mask_token", ("decoder.mask_token",), Form.TOKEN)
        for letter, side in sides:
            yield Entry(f"decoder_modality_{letter}", (f"decoder.{side}_modality",), Form.TOKEN)
        for letter, side in sides:
            yield Entry(f"decoder_pos_embed_{letter}", (f"decoder.{side}_positions",), Form.TABLE)
    if sync and sync.num_global_tokens:
        for letter, side in sides:
            yield Entry(f"cls_token_{letter}", (f"{side}_tower.global_tokens",), Form.TABLE)


def _encoder(config: CAVMAEConfig) -> Iterator[Entry]:
    sides, width = _sides(config), config.width
    shapes = {"a": (width, 1, *config.audio_patch), "v": (width, config.picture_channels, *config.picture_patch)}
    for letter, side in sides:
        ours = f"{side}_tower.patch_embedding"
        yield Entry(f"patch_embed_{letter}.proj.weight", (f"{ours}.weight",), Form.PATCH, shapes[letter])
        yield Entry(f"patch_embed_{letter}.proj.bias", (f"{ours}.bias",))
    depths = {"a": config.audio_depth, "v": config.visual_depth}
    for letter, side in sides:
        for number in range(depths[letter]):
            yield from _block(f"blocks_{letter}.{number}", f"{side}_tower.blocks.{number}", width)
    for number in range(config.joint_depth):
        yield from _block(f"blocks_u.{number}", f"joint_blocks.{number}", width, every_stream=True)
    if isinstance(config, CAVMAESyncConfig):
        for _, side in sides:
            for number in range(config.contrastive_head_depth):
                theirs = f"constrative_head_{side}.{number}"  # spelled as published
                yield from _block(theirs, f"{side}_head.{number}", width)
    for letter, side in sides:
        yield from _pair(f"norm_{letter}", f"{side}_norm")
    yield from _pair("norm", "joint_norm")


def _decoder(config: CAVMAEConfig) -> Iterator[Entry]:
    if not config.decoder_depth:
        return
    yield from _pair("decoder_embed", "decoder.embedding")
    for number in range(config.decoder_depth):
        yield from _block(f"decoder_blocks.{number}", f"decoder.blocks.{number}", config.decoder_width)
    yield from _pair("decoder_norm", "decoder.norm")
    yield from _pair("decoder_pred_a", "decoder.audio_prediction")
    yield from _pair("decoder_pred_v", "decoder.visual_prediction")


def _block(theirs: str, ours: str, width: int, *, every_stream: bool = False) -> Iterator[Entry]:
    parts = {
        1: (("attn.qkv", "attention.qkv"), ("attn.proj", "attention.out")),
        2: (("mlp.fc1", "mlp.expand"), ("mlp.fc2", "mlp.shrink")),
    }
    norms = {1: "attention_norms", 2: "mlp_norms"}
    for number, linears in parts.items():
        for letter, stream in (("", "joint"), ("_a", "audio"), ("_v", "visual")):
            name = f"{theirs}.norm{number}{letter}"
            if every_stream or stream == "joint":
                yield from _pair(name, f"{ours}.{norms[number]}.{stream}")
            else:
                yield from (Entry(f"{name}.{end}", (), Form.UNUSED, (width,)) for end in ("weight", "bias"))
        for their_part, our_part in linears:
            yield from _pair(f"{theirs}.{their_part}", f"{ours}.{our_part}")


def _pair(theirs: str, ours: str) -> Iterator[Entry]:
    for end in ("weight", "bias"):
        yield Entry(f"{theirs}.{end}", (f"{ours}.{end}",))


def _sides(config: CAVMAEConfig) -> list[tuple[str, str]]:
    sides = {"a": "audio", "v": "visual"}
    return [(letter, side) for letter, side in sides.items() if config.modalities in ("both", side)]


def _import(entry: Entry, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Our tensors out of one published tensor."""
    match entry.form:
        case Form.UNUSED:
            return
        case Form.PAIR:
            yield from zip(entry.ours, (half.clone() for half in tensor.chunk(2)), strict=True)
        case Form.TOKEN:
            yield entry.ours[0], tensor[0, 0].clone()
        case Form.TABLE:
            yield entry.ours[0], tensor[0].clone()
        case Form.PATCH:
            yield entry.ours[0], tensor.permute(0, 2, 3, 1).flatten(1).contiguous()
        case Form.SAME:
            yield entry.ours[0], tensor


def _export(entry: Entry, tensors: list[Tensor]) -> Tensor:
    """One published tensor out of ours: the inverse of `_import`."""
    tensor = tensors[0]
    match entry.form:
        case Form.PAIR:
            return torch.cat(tensors)
        case Form.TOKEN:
            return tensor[None, None]
        case Form.TABLE:
            return tensor[None]
        case Form.PATCH:
            width, channels, rows, columns = entry.shape
            return tensor.reshape(width, rows, columns, channels).permute(0, 3, 1, 2).contiguous()
        case _:
            return tensor


def _read(path: Path) -> dict[str, Tensor]:
    loaded = unpickle(path)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        held = (
            f"a dict of {', '.join(map(str, list(loaded)[:4]))}" if isinstance(loaded, dict) else type(loaded).__name__
        )
        raise CheckpointError(f"{path} is no published CAV-MAE file: it holds {held}, not a dict of tensors")
    if not loaded:
        raise CheckpointError(f"{path} is no published CAV-MAE file: it holds a dict of nothing")
    return {ours: loaded[theirs] for ours, theirs in strip_prefix(loaded).items()}
