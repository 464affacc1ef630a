"""Who teaches: a frozen model, or features that one left in files.

R = B x N rows (windows), F width of a feature, C classes.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.features import PLAIN, Features, holds_features, open_features
from lookhear.data.store import file_of_clip
from lookhear.errors import CheckpointError, ConfigError, StoreError
from lookhear.models.checkpoint import load_checkpoint
from lookhear.models.classifier import CAVMAEClassifier
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.models.resnet import stage_widths
from lookhear.models.stream_classifier import StreamClassifier
from lookhear.models.tokens import Output
from lookhear.models.weights import locate

StreamName = Literal["audio", "visual"]
RGB = 3
_ALMOST_NONE = 1e-6  # far below one window of one of many processes


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a model says of R windows. A part that it does not have is None."""

    features: Tensor | None = None  # (R, F): what its head reads, or its pooled vector
    logits: Tensor | None = None  # (R, C)
    # (R, C, h, w) or (R, C, t, h, w) of each stage of an encoder, by modality
    stages: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    present: Tensor  # bool (R,): which windows it says anything of


class Teacher(Protocol):
    """Says things of windows, without gradient, and never changes."""

    @property
    def features_width(self) -> int:
        """F; 0 where it gives no features."""

    @property
    def num_classes(self) -> int:
        """C; 0 where it gives no logits."""

    @property
    def stage_channels(self) -> Mapping[str, tuple[int, ...]]:
        """Channels of each stage of each of its encoders; nothing where it shows no stages."""

    @property
    def identity(self) -> str:
        """Of its weights or files: another teacher has another one."""

    def view(self, batch: Batch, draws: Draws, *, stages: bool = False) -> View:
        """What it says of a preprocessed batch, on the device of that."""


def open_teacher(
    source: str,
    *,
    window_seconds: float,
    stream: StreamName,
    logits: str | None = None,
    picture: Literal["random", "middle"] = "middle",
) -> Teacher:
    """The teacher at `source`: a checkpoint, a run folder, fetched weights, or a folder of features (`open_features`).

    `stream` is the modality whose features are taken where there are two, `logits` a folder of .npy logits beside a
    folder of features. A model that reads one picture is shown the middle one of a window of several, or one that is
    drawn anew in every step. `window_seconds` is the length of the student's windows: features are those of the moment
    nearest to the middle of a window. Raises ConfigError for no source.
    """
    if not source:
        raise ConfigError("there is no teacher: name a checkpoint, a run folder or a folder of features")
    if holds_features(source):
        return _FileTeacher(source, logits, stream=stream, window_seconds=window_seconds)
    if logits is not None:
        raise ConfigError("the teacher is a model, which has logits of its own; leave the files of logits out")
    return _ModelTeacher(source, stream=stream, picture=picture)


def modalities_read(source: str, stream: StreamName) -> frozenset[StreamName]:
    """What a teacher reads of a batch: its input, if it is a model; nothing of features in files, or of no teacher."""
    if not source or holds_features(source):
        return frozenset()
    config = load_checkpoint(locate(source).path).config
    mode = str(getattr(config, "mode", stream)).removesuffix("_of_both")
    return frozenset({"audio", "visual"} if mode == "both" else {mode})  # type: ignore[arg-type]


def stage_channels(config: MultiStreamConfig) -> dict[str, tuple[int, ...]]:
    """Channels of each stage of each encoder."""
    streams = {"audio": config.audio, "visual": config.visual}
    return {
        name: (own.width,) * len(own.blocks) if own.kind == "vit" else tuple(stage_widths(own.width, len(own.blocks)))
        for name, own in streams.items()
        if own is not None
    }


def student_view(model: StreamClassifier, batch: Batch, *, stages: bool = False) -> View:
    """What a student says of a batch, with gradient."""
    return _classifier_view(model, batch.audio, batch.frames, stages=stages)


def _classifier_view(model: StreamClassifier, audio: Tensor | None, frames: Tensor | None, *, stages: bool) -> View:
    encodings = {}
    if model.config.mode != "visual":
        encodings["audio"] = model.encoder.encode_audio(_given(audio, "sound"))
    if model.config.mode != "audio":
        encodings["visual"] = model.encoder.encode_frames(_given(frames, "pictures"))
    pooled = {name: found.pooled for name, found in encodings.items()}
    features = model.features(pooled.get("audio"), pooled.get("visual"), mode=model.config.mode)
    return View(
        features=features,
        logits=model.named(features),
        stages={name: found.stages for name, found in encodings.items()} if stages else {},
        present=torch.ones(len(features), dtype=torch.bool, device=features.device),
    )


def _given(values: Tensor | None, what: str) -> Tensor:
    if values is None:
        raise ConfigError(f"the teacher or the student needs {what}, which this run does not read; choose another mode")
    return values


class _ModelTeacher:
    """A frozen model in eval mode.

    It is no submodule of an objective: it is neither trained, nor saved with the run, nor sent to other processes.
    """

    def __init__(self, source: str, *, stream: StreamName, picture: Literal["random", "middle"]) -> None:
        loaded = load_checkpoint(locate(source).path)
        self._model, self._stream, self._picture = loaded.model.requires_grad_(False), stream, picture
        self._identity = loaded.fingerprint
        self._sizes: Any = getattr(loaded.config, "encoder", loaded.config)
        self.labels = loaded.labels
        self._model.eval()

    @property
    def features_width(self) -> int:
        model: Any = self._model
        if isinstance(model, StreamClassifier):
            return model.config.features_width
        if isinstance(model, CAVMAEClassifier):
            return 0
        own = getattr(model.config, self._stream, None)
        return int(own.width if own is not None else model.config.width)

    @property
    def num_classes(self) -> int:
        return int(getattr(self._model.config, "num_classes", 0))

    @property
    def stage_channels(self) -> Mapping[str, tuple[int, ...]]:
        return stage_channels(self._sizes) if isinstance(self._sizes, MultiStreamConfig) else {}

    @property
    def identity(self) -> str:
        return self._identity

    @torch.no_grad()
    def view(self, batch: Batch, draws: Draws, *, stages: bool = False) -> View:
        self._model.to(batch.index.device)
        self._model.eval()
        frames = self._frames(batch.frames, draws)
        if isinstance(self._model, StreamClassifier):
            return _classifier_view(self._model, batch.audio, frames, stages=stages)
        both = isinstance(self._model, CAVMAEClassifier)
        heard = batch.audio if both or self._stream == "audio" else None
        seen = frames if both or self._stream == "visual" else None
        deep = {"stages": True} if stages and isinstance(self._model, MultiStream) else {}
        output: Output = self._model(audio=heard, frames=seen, **deep)
        if output.logits is not None:
            logits = output.logits.flatten(0, 1)
            return View(logits=logits, present=_all(logits))
        encoded = output.audio if self._stream == "audio" else output.visual
        assert encoded is not None
        features = encoded.pooled.flatten(0, 1)
        maps = tuple(stage.flatten(0, 1) for stage in encoded.stages)
        return View(features=features, stages={str(self._stream): maps} if maps else {}, present=_all(features))

    def _frames(self, frames: Tensor | None, draws: Draws) -> Tensor | None:
        """As many pictures as the teacher reads: all of a window, or one."""
        wanted = int(getattr(self._sizes, "picture_channels", RGB))
        if frames is None or frames.shape[2] == wanted or wanted != RGB:
            return frames
        count = frames.shape[2] // RGB
        chosen = (
            int(draws.of_step(1, purpose="teacher's picture")[0] * count) if self._picture == "random" else count // 2
        )
        return frames[:, :, chosen * RGB : (chosen + 1) * RGB]


def _all(rows: Tensor) -> Tensor:
    return torch.ones(len(rows), dtype=torch.bool, device=rows.device)


class _FileTeacher:
    """Features, and perhaps logits, by file and time; of an array without times a row is drawn in every epoch."""

    def __init__(self, source: str, logits: str | None, *, stream: StreamName, window_seconds: float) -> None:
        self._stream, self._half = stream, window_seconds / 2
        self._features, self._logits = open_features(source), None if logits is None else open_features(logits)
        self._widths = [self._width(source, self._features)]
        self._widths.append(0 if logits is None or self._logits is None else self._width(logits, self._logits))

    @property
    def features_width(self) -> int:
        return self._widths[0]

    @property
    def num_classes(self) -> int:
        return self._widths[1]

    @property
    def stage_channels(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    @property
    def identity(self) -> str:
        both = [self._features, *([] if self._logits is None else [self._logits])]
        return "; ".join(str(features.identity) for features in both)

    def view(self, batch: Batch, draws: Draws, *, stages: bool = False) -> View:
        features, there = self._rows(self._features, self._widths[0], batch, draws)
        logits = None
        if self._logits is not None:
            logits, known = self._rows(self._logits, self._widths[1], batch, draws)
            there = there & known
        return View(features=features, logits=logits, present=there)

    def _rows(self, source: Features, width: int, batch: Batch, draws: Draws) -> tuple[Tensor, Tensor]:
        """float32 (R, width) and bool (R,): what there is of each window, zeros where there is nothing."""
        device, num = batch.index.device, batch.start_seconds.shape[1]
        found = np.zeros((len(batch), num, width), np.float32)
        middles = batch.start_seconds.double().cpu().numpy() + self._half
        drawn = draws.uniform(batch.draw_key.cpu(), num, purpose="row of a teacher's array").numpy()
        for clip, name in enumerate(batch.clip_ids):
            file = source.file(file_of_clip(name)[0])
            rows = None if file is None else file.arrays.get(self._stream, file.arrays.get(PLAIN))
            if file is None or rows is None:
                continue
            places = file.nearest(middles[clip]) if file.seconds is not None else (drawn[clip] * len(rows)).astype(int)
            found[clip] = rows[places]
        values = torch.from_numpy(found).flatten(0, 1)
        there = values.isfinite().all(dim=1) & values.any(dim=1)  # all zeros: how published features say nothing
        return values.masked_fill(~there[:, None], 0.0).to(device), there.to(device)

    def _width(self, source: str, features: Features) -> int:
        for path in features.paths:
            file = features.file(path)
            rows = None if file is None else file.arrays.get(self._stream, file.arrays.get(PLAIN))
            if rows is not None:
                return int(rows.shape[1])
        raise StoreError(f"there are no {self._stream} features in {source}; name files of that modality")


def mean_over(values: Tensor, present: Tensor) -> Tensor:
    """The mean of (R,) over the windows that are `present`, bool (R,), of all processes together; 0 where none is."""
    count = distributed.average(present.float().sum())  # of a process, so that the mean over processes is exact
    return torch.where(present, values, torch.zeros_like(values)).sum() / count.clamp_min(_ALMOST_NONE)


class Remembered(nn.Module):
    """Which teachers a run began with, saved with its state: it does not go on with others."""

    def __init__(self, teachers: Mapping[str, Teacher]) -> None:
        super().__init__()
        told = "\n".join(f"{name}: {teachers[name].identity}" for name in sorted(teachers))
        self._digest = torch.tensor(list(hashlib.sha256(told.encode()).digest()), dtype=torch.uint8)

    def get_extra_state(self) -> Tensor:
        """What is saved."""
        return self._digest

    def set_extra_state(self, state: Tensor) -> None:
        """Raises CheckpointError where a teacher is not the one that the run began with."""
        if not torch.equal(self._digest, state.cpu()):
            raise CheckpointError(
                "a teacher is not the one that this run began with; name that one again, or start a new run"
            )
