"""What a frozen model says of every clip of a store: the features that probes learn from.

n clips, K windows of a clip, M windows that go through the model together, D width of a feature.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.preprocess import check_store
from lookhear.data.windows import Windows, cut_windows, join_windows
from lookhear.errors import ConfigError, StoreError
from lookhear.models.multi_stream import MultiStream
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.units import LACKS, ChosenWindows, Modality, WindowChoice, choose_windows
from lookhear.tasks.windows import LeftOut, read_clip_windows

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

_EVERY_CLIP = WindowChoice()
_POOLED = "pooled"
_STREAMS: dict[Modality, tuple[Literal["audio", "visual"], ...]] = {
    "audio": ("audio",),
    "visual": ("visual",),
    "both": ("visual", "audio"),
}


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """How the maps of an encoder's stages become vectors; the cells are those of AVID's probes, about 9,000 values a
    stage of its encoders."""

    cells: tuple[int, ...] = (12, 8, 6, 4)
    """rows and columns that the maps of the last stages are pooled to, at most those that they have; time to one"""
    pooling: Literal["mean", "max"] = "mean"
    """mean: as AVID's probes of sound; max: as its probes of video"""

    def __post_init__(self) -> None:
        if not self.cells or min(self.cells) < 1:
            raise ConfigError(f"cells are {self.cells}; name at least one stage, with at least one row and column")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFeatures:
    """The windows of one clip, or of all clips of a file, as the frozen model sees them, in order of time."""

    clip_id: str  # of a file: its path
    index: int  # in the store; of a file: of its first clip
    path: str
    labels: tuple[str, ...]
    # float32 (K, D), None where it was not asked for
    audio: np.ndarray | None
    visual: np.ndarray | None
    # float32 (K, D) of each stage that was asked for, by names such as "visual 3", counted from the input
    stages: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """All labels as one, with "; " between; "" without."""
        return "; ".join(self.labels)

    @property
    def steps(self) -> np.ndarray:
        """float32 (K, D), or (K, 2 D) of both: the picture's features, then the sound's, as published."""
        return np.concatenate([part for part in (self.visual, self.audio) if part is not None], axis=1)


@dataclass(frozen=True, kw_only=True)
class Features:
    """The clips that could be embedded, and those that could not."""

    clips: tuple[ClipFeatures, ...]
    left_out: tuple[LeftOut, ...]


def clip_features(
    embedder: "Embedder",
    store: "Store",
    *,
    modality: Modality,
    indices: Iterable[int] | None = None,
    kinds: Mapping[str, str] | None = None,
    choice: WindowChoice = _EVERY_CLIP,
    stages: StageConfig | None = None,
    progress: Progress = quiet,
) -> Features:
    """`Encoded.pooled` of windows of the clips `indices` (None: all), unmasked, nothing trained.

    `choice` says which windows, and whether the clips of a file are one; by default a clip's own that fit side by side
    where it has the modality, or one that reaches beyond it. `stages` asks for the maps of the encoder's stages too.
    Clips without the modality are left out with a reason. `kinds` gives each file (by relative path) a label in the
    place of the store's. Windows of several clips go through the model together.
    Raises StoreError if the store was made otherwise than the model needs, if no clip is left, or for a model without
    stages where they are asked for.
    """
    config = embedder.preprocess.config
    check_store(store, config, picture=modality != "audio")
    clips = [store.clips[int(index)] for index in (range(len(store)) if indices is None else indices)]
    chosen, left_out = choose_windows(clips, choice, modality=modality, window_seconds=embedder.window_seconds)
    found: list[ClipFeatures] = []
    waiting: list[tuple[ChosenWindows, Windows]] = []

    def flush() -> None:
        found.extend(_embed(embedder, waiting, modality, kinds, stages))
        waiting.clear()

    for done, own in enumerate(chosen):
        progress(done, len(chosen), "embedding clips")
        if not len(own.start_seconds):
            continue
        clip = read_clip_windows(embedder, store, own.clip.index, own.start_seconds, picture=modality != "audio")
        windows = cut_windows(config, clip, own.start_seconds)
        complete = (windows.has_sound | (modality == "visual")) & (windows.has_picture | (modality == "audio"))
        if not complete.all():
            left_out.append(LeftOut(clip_id=own.clip.clip_id, reason="a window of it " + LACKS[modality]))
            continue
        waiting.append((own, windows))
        if sum(len(part) for _, part in waiting) >= embedder.batch_size:
            flush()
    flush()
    progress(len(chosen), len(chosen), "embedding clips")
    if not found:
        reasons = "; ".join(sorted({clip.reason for clip in left_out})) or "no clips were chosen"
        raise StoreError(f"no clip of {store.path} can be embedded ({reasons}); choose another modality or other clips")
    if choice.unit == "file":
        found = _join_files(found)
    return Features(clips=tuple(found), left_out=tuple(left_out))


def pooled_features(
    embedder: "Embedder",
    store: "Store",
    *,
    modality: Modality,
    indices: Iterable[int] | None = None,
    kinds: Mapping[str, str] | None = None,
    progress: Progress = quiet,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 (n, D), labels str (n,) and clip ids str (n,): the mean over each clip's windows.

    Both: picture and sound side by side, (n, 2 D). Clips without the modality are not in it; see `clip_features`,
    which also says which they are and what is raised.
    """
    clips = clip_features(embedder, store, modality=modality, indices=indices, kinds=kinds, progress=progress).clips
    return (
        np.stack([clip.steps.mean(axis=0) for clip in clips]),
        np.array([clip.label for clip in clips]),
        np.array([clip.clip_id for clip in clips]),
    )


def _embed(
    embedder: "Embedder",
    waiting: list[tuple[ChosenWindows, Windows]],
    modality: Modality,
    kinds: Mapping[str, str] | None,
    stages: StageConfig | None,
) -> Iterator[ClipFeatures]:
    if not waiting:
        return
    joined = join_windows([part for _, part in waiting])
    pooled: dict[str, np.ndarray | None] = {}
    maps: dict[str, np.ndarray] = {}
    for name in _STREAMS[modality]:
        if stages is None:
            pooled[name] = embedder.window_rows(joined, name, "pooled")
        else:
            rows = stage_rows(embedder, joined, name, stages)
            pooled[name] = rows.pop(_POOLED)
            maps |= rows
        if pooled[name] is None:
            raise StoreError(f"the model does not embed {modality}; choose the modality that it takes")
    audio, visual = pooled.get("audio"), pooled.get("visual")
    stop = 0
    for own, part in waiting:
        start, stop = stop, stop + len(part)
        stored = own.clip
        yield ClipFeatures(
            clip_id=stored.clip_id,
            index=stored.index,
            path=stored.path,
            labels=stored.labels if kinds is None else (kinds[stored.path],) if stored.path in kinds else (),
            audio=None if audio is None else audio[start:stop],
            visual=None if visual is None else visual[start:stop],
            stages={name: rows[start:stop] for name, rows in maps.items()},
        )


def _join_files(clips: Sequence[ClipFeatures]) -> list[ClipFeatures]:
    """The clips of each file as one."""
    by_path: dict[str, list[ClipFeatures]] = {}
    for clip in clips:
        by_path.setdefault(clip.path, []).append(clip)
    return [
        ClipFeatures(
            clip_id=path,
            index=own[0].index,
            path=path,
            labels=own[0].labels,
            audio=_joined([clip.audio for clip in own]),
            visual=_joined([clip.visual for clip in own]),
            stages={name: np.concatenate([clip.stages[name] for clip in own]) for name in own[0].stages},
        )
        for path, own in by_path.items()
    ]


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if there else None


def of_stages(clip: ClipFeatures, stages: Sequence[str]) -> ClipFeatures:
    """The clip with these stages, side by side, in the place of its pooled features."""
    rows = np.concatenate([clip.stages[name] for name in stages], axis=1)
    return replace(clip, visual=rows, audio=None, stages={})


@torch.inference_mode()
def stage_rows(
    embedder: "Embedder", windows: Windows, stream: Literal["audio", "visual"], config: StageConfig
) -> dict[str, np.ndarray]:
    """float32 (M, C x cells x cells) of each of the last stages of one modality's encoder by name, and (M, D) "pooled".

    Raises StoreError for a model whose encoder has no stages, or fewer than there are cells.
    """
    if not isinstance(embedder.encoder, MultiStream):
        raise StoreError(
            f"a {type(embedder.encoder).__name__} has tokens and no stages; probe its pooled features, without stages"
        )
    found: dict[str, list[Tensor]] = {}
    raw = torch.from_numpy(windows.waveform if stream == "audio" else windows.frames)
    for some in raw.split(embedder.batch_size):
        batch = embedder.batch(some, None) if stream == "audio" else embedder.batch(None, some)
        with embedder.autocast():
            output = embedder.encoder(audio=batch.audio, frames=batch.frames, stages=True)
        encoded = output.audio if stream == "audio" else output.visual
        assert encoded is not None
        first = len(encoded.stages) - len(config.cells)
        if first < 0:
            raise StoreError(
                f"this model's encoder of {stream} has {len(encoded.stages)} stages to look at and "
                f"{len(config.cells)} are asked for; probe its pooled features, or fewer stages"
            )
        for number, cells in enumerate(config.cells, start=first):
            rows = _pool(encoded.stages[number][:, 0].float(), cells, config.pooling)
            found.setdefault(f"{stream} {number + 1}", []).append(rows.cpu())
        found.setdefault(_POOLED, []).append(encoded.pooled[:, 0].float().cpu())
    return {name: torch.cat(rows).numpy() for name, rows in found.items()}


def _pool(maps: Tensor, cells: int, pooling: str) -> Tensor:
    """(m, C x r x c) of (m, C, h, w) or (m, C, t, h, w)."""
    if maps.ndim == 5:
        maps = maps.mean(dim=2) if pooling == "mean" else maps.amax(dim=2)
    pool = F.adaptive_avg_pool2d if pooling == "mean" else F.adaptive_max_pool2d
    size = (min(cells, maps.shape[2]), min(cells, maps.shape[3]))
    found: Tensor = pool(maps, size)
    return found.flatten(1)
