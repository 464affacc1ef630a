"""Our checkpoints: one safetensors file that holds the weights and everything needed to use them.

The file's metadata says which model it is, its sizes, how its input was preprocessed, and its labels. A checkpoint is
written whole or not at all, and read strictly: what does not fit is named on both sides.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lookhear.config import from_dict, nearest, to_dict
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.models.skimmer import Skimmer, SkimmerConfig
from lookhear.models.stream_classifier import StreamClassifier, StreamClassifierConfig
from lookhear.models.tokens import resize_positions

MODELS: dict[str, tuple[type, type[nn.Module]]] = {
    "cavmae": (CAVMAEConfig, CAVMAE),
    "cavmae_sync": (CAVMAESyncConfig, CAVMAESync),
    "cavmae_classifier": (CAVMAEClassifierConfig, CAVMAEClassifier),
    "multi_stream": (MultiStreamConfig, MultiStream),
    "stream_classifier": (StreamClassifierConfig, StreamClassifier),
    "skimmer": (SkimmerConfig, Skimmer),
}

FORMAT = 1  # of the metadata; raise it when an older lookhear could not read what is written
UNUSED_PREFIX = "unused."  # tensors that came with a published file and that no forward reads
AVERAGE_NAME = "average"  # among the checkpoints of a run: the mean over epochs
BEST_NAME = "best.json"  # beside them: which step was best
NAMES_SHOWN = 4  # of each kind, in a message about what does not fit


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedCheckpoint:
    """A model and what it needs to know about its input."""

    name: str  # in MODELS
    model: nn.Module  # in eval mode
    config: Any  # the dataclass of MODELS[name]
    preprocess: dict[str, Any]  # as its owner wrote it
    labels: tuple[str, ...]  # one a class, empty for a model without classes
    extra: dict[str, Any]  # what the writer wished to keep with the weights
    fingerprint: str  # sha256; equal if and only if tensors and preprocessing are equal
    format: int


@dataclass(frozen=True)
class TensorDifference:
    """How the tensors of a file differ from what a model has."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]  # as sentences: "name is 3 x 4, not 3 x 5"

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.wrong_shape))
        return "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds if names)


def save_checkpoint(
    path: Path | str,
    model: nn.Module,
    *,
    preprocess: Mapping[str, Any],
    labels: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes `model` to `path` (.safetensors), atomically: a reader sees the old file or the new one.

    `tensors` stand in for the model's own (an average of weights, or shards gathered from many processes).
    """
    path = Path(path)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    name = model_name(model)
    state = dict(model.state_dict() if tensors is None else tensors)
    state |= {UNUSED_PREFIX + key: tensor for key, tensor in getattr(model, "unused", {}).items()}
    values = {
        "format": FORMAT,
        "model": name,
        "config": to_dict(getattr(model, "config", None)),
        "preprocess": to_dict(dict(preprocess)),
        "labels": list(labels),
        "extra": to_dict(dict(extra or {})),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(
            {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()},
            beside,
            metadata={key: json.dumps(value, sort_keys=True) for key, value in values.items()},
        )
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def load_checkpoint(path: Path | str, *, device: torch.device | str = "cpu") -> LoadedCheckpoint:
    """Reads a checkpoint that `save_checkpoint` wrote, strictly, with the model on `device` and in eval mode.

    Raises CheckpointError, in one sentence, for a file that is missing, cut short, of another kind or of a newer
    format, or whose tensors do not fit its own configuration.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    if "format" not in metadata or "model" not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file without lookhear's metadata, so its model is not known; "
            "give a checkpoint that lookhear saved"
        )
    try:
        values = {key: json.loads(text) for key, text in metadata.items()}
    except ValueError as error:
        raise CheckpointError(f"{path} has damaged metadata ({error}); copy or download it again") from None
    if values["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has checkpoint format {values['format']} and this lookhear reads format {FORMAT}; "
            "use the version of lookhear that wrote it, or a newer one"
        )
    _require_kinds(values, path)
    name = values["model"]
    if name not in MODELS:
        raise CheckpointError(f"{path} holds a model called {name!r}{nearest(name, MODELS)}")
    try:
        config: Any = from_dict(MODELS[name][0], values["config"])
    except (ConfigError, KeyError) as error:
        raise CheckpointError(f"{path} has a configuration that this lookhear cannot read: {error}") from None
    unused = {key.removeprefix(UNUSED_PREFIX): tensors.pop(key) for key in list(tensors) if is_unused(key)}
    model = build(name, config, tensors, unused=unused, where=str(path))
    require_finite(model.state_dict(), path)
    preprocess = values.get("preprocess", {})
    return LoadedCheckpoint(
        name=name,
        model=model.to(device).eval(),
        config=config,
        preprocess=preprocess,
        labels=tuple(values.get("labels", ())),
        extra=values.get("extra", {}),
        fingerprint=fingerprint(model.state_dict(), preprocess, config.unseen_settings()),
        format=values["format"],
    )


def with_audio_frames(loaded: LoadedCheckpoint, audio_frames: int) -> LoadedCheckpoint:
    """The same model on windows of `audio_frames` spectrogram frames (10 ms each).

    The time axis of its audio position tables is cut (as the sine-cosine table of the shorter window is a part of the
    longer one's) or interpolated; config, preprocessing and fingerprint follow. Raises ConfigError for a number that
    is no multiple of the patch.
    """
    config = loaded.config
    resized = replace(getattr(config, "encoder", config), audio_frames=audio_frames)
    new = replace(config, encoder=resized) if hasattr(config, "encoder") else resized
    tensors = dict(loaded.model.state_dict())
    wanted = new.position_tables()
    for key, grid in config.position_tables().items():
        if key in tensors and grid != wanted[key]:
            tensors[key] = resize_positions(tensors[key], grid, wanted[key]).contiguous()
    unused = getattr(loaded.model, "unused", {})
    preprocess = {**loaded.preprocess, "audio_frames": audio_frames}
    return replace(
        loaded,
        model=build(loaded.name, new, tensors, unused=unused).eval(),
        config=new,
        preprocess=preprocess,
        fingerprint=fingerprint(tensors, preprocess, new.unseen_settings()),
    )


def describe(loaded: LoadedCheckpoint, *, tensors: bool = False) -> dict[str, Any]:
    """What a file of weights holds, as JSON values; with `tensors`, also each tensor's shape."""
    state = loaded.model.state_dict()
    record = {
        "model": loaded.name,
        "format": loaded.format,
        "fingerprint": loaded.fingerprint,
        "tensors": len(state),
        "numbers": sum(tensor.numel() for tensor in state.values()),
        "config": to_dict(loaded.config),
        "preprocess": loaded.preprocess,
        "labels": list(loaded.labels),
        "extra": loaded.extra,
    }
    return record | ({"shapes": {name: list(tensor.shape) for name, tensor in state.items()}} if tensors else {})


def find_checkpoint(path: Path) -> Path:
    """The file that holds the weights, for whatever of a run is named. Raises CheckpointError where there is none.

    Of a run folder it is what the run was to give: the average over epochs, if it made one; the best step, if it
    chose one; the newest otherwise.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(
            f"there is no checkpoint at {path}; name a model.safetensors, a checkpoint folder or a run folder"
        )
    if (path / "model.safetensors").is_file():
        return path / "model.safetensors"
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    average = folder / AVERAGE_NAME / "model.safetensors"
    if average.is_file():
        return average
    steps = [
        (int(found.parent.name.removeprefix("step-")), found)
        for found in folder.glob("step-*/model.safetensors")
        if found.parent.name.removeprefix("step-").isdecimal()
    ]
    if not steps:
        raise CheckpointError(f"{path} holds no checkpoint yet; name a run that has saved one, or a model.safetensors")
    best = _best_step(folder.parent / BEST_NAME)
    return dict(steps).get(best, max(steps)[1])


def _best_step(path: Path) -> int:
    """The step that a run's best.json names; -1 where there is none."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        return -1
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); name a checkpoint folder of the run") from None


def build(
    name: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    *,
    unused: Mapping[str, Tensor] | None = None,
    where: str = "the checkpoint",
) -> nn.Module:
    """The model `name` of `config` holding exactly `tensors`; CheckpointError with both differences otherwise.

    Weights in half or double precision become float32: a model computes in one precision, or in autocast from it.
    """
    model = _empty(name, config)
    wanted = model.state_dict()
    difference = compare(_shapes(wanted), _shapes(tensors))
    if difference:
        raise CheckpointError(f"the tensors in {where} do not fit a {name} of its configuration: {difference}")
    other = tuple(key for key in wanted if wanted[key].is_floating_point() != tensors[key].is_floating_point())
    if other:
        raise CheckpointError(
            f"in {where}, {_some(other)} holds {tensors[other[0]].dtype}, not {wanted[other[0]].dtype}"
        )
    converted = {key: tensor.to(wanted[key].dtype) for key, tensor in tensors.items()}
    model.load_state_dict(converted, strict=True, assign=True)
    model.unused = dict(unused or {})  # type: ignore[assignment]
    return model


def expected_shapes(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model has, without making its weights."""
    return _shapes(_empty(name, config).state_dict())


def compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> TensorDifference:
    """What is missing from `found`, what it has too many, and what has another shape."""
    wrong = tuple(
        f"{name} is {_size(found[name])}, not {_size(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    )
    return TensorDifference(
        missing=tuple(name for name in expected if name not in found),
        unexpected=tuple(name for name in found if name not in expected),
        wrong_shape=wrong,
    )


def fingerprint(
    tensors: Mapping[str, Tensor], preprocess: Mapping[str, Any], unseen_settings: Mapping[str, Any]
) -> str:
    """sha256 of the sorted tensors, the preprocessing, and the settings that no tensor shows (attention heads)."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    rest = {"preprocess": to_dict(dict(preprocess)), "settings": dict(unseen_settings)}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def model_name(model: nn.Module) -> str:
    """The name of a model's class in MODELS."""
    for name, (_, kind) in MODELS.items():
        if type(model) is kind:
            return name
    raise CheckpointError(f"{type(model).__name__} is not a model that checkpoints know; known: {', '.join(MODELS)}")


def require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """CheckpointError where a weight is infinite or no number: every answer of such a model would be none."""
    spoiled = [name for name, tensor in tensors.items() if not _is_finite(tensor)]
    if spoiled:
        raise CheckpointError(
            f"{path} has weights that are infinite or no numbers, in {len(spoiled)} of {len(tensors)} tensors "
            f"({_some(tuple(spoiled))}): its training had failed when it was saved; take an earlier checkpoint"
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    # a sum is quick and finite only if all are; one that overflowed says nothing yet
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def is_unused(key: str) -> bool:
    """Whether a tensor of a checkpoint is only kept for export."""
    return key.startswith(UNUSED_PREFIX)


def require_file(path: Path) -> None:
    """CheckpointError unless `path` is a file that can be read, and neither empty nor a web page."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the checkpoint file inside it")
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        with path.open("rb") as opened:
            start = opened.read(256)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes); copy or download it again")
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        raise CheckpointError(
            f"{path} is a web page, not a file of weights: what was downloaded was not the file itself"
        )


def is_pickle(path: Path) -> bool:
    """Whether a file is what torch.save writes (a zip archive or a bare pickle), by its first bytes."""
    with path.open("rb") as opened:
        start = opened.read(9)
    # safetensors: the length of the header in 8 bytes, which may begin as a pickle does, then the header's brace
    safetensors = start[4:] == b"\0\0\0\0{"
    return start.startswith((b"PK\x03\x04", b"\x80")) and not safetensors


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    require_file(path)
    if is_pickle(path):
        raise CheckpointError(
            f"{path} is a PyTorch pickle, not a lookhear checkpoint; published CAV-MAE files are read by "
            "lookhear.models.published.load_published, nothing else is unpickled"
        )
    try:
        with safe_open(path, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is cut short, damaged, or no safetensors file ({error}); copy or download it again"
        ) from None


_KINDS = {"model": str, "config": dict, "preprocess": dict, "labels": list, "extra": dict}  # of the metadata


def _require_kinds(values: Mapping[str, Any], path: Path) -> None:
    for name, kind in _KINDS.items():
        if name in values and type(values[name]) is not kind:
            raise CheckpointError(
                f"{path} has damaged metadata ('{name}' is {json.dumps(values[name])[:40]}); copy or download it again"
            )


def _empty(name: str, config: Any) -> nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return MODELS[name][1](config)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown}, and {len(names) - NAMES_SHOWN} more"


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) if shape else "a single number"
