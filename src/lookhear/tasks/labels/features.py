"""What a frozen model says of every clip of a store: the features that probes learn from.

n clips, K windows of a clip, D width of a feature.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lookhear.data.preprocess import check_store
from lookhear.data.sampling import disjoint_windows, num_disjoint
from lookhear.data.windows import Windows, cut_windows, join_windows
from lookhear.errors import StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.windows import LeftOut, read_clip_windows, shared_span

if TYPE_CHECKING:
    from lookhear.data.store import Store, StoredClip
    from lookhear.embedder import Embedder

Modality = Literal["audio", "visual", "both"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFeatures:
    """The disjoint windows of one clip as the frozen model sees them, in order of time."""

    clip_id: str
    index: int  # in the store
    labels: tuple[str, ...]
    # float32 (K, D), None where it was not asked for
    audio: np.ndarray | None
    visual: np.ndarray | None

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
    progress: Progress = quiet,
) -> Features:
    """`Encoded.pooled` of the disjoint windows of the clips `indices` (None: all), unmasked, nothing trained.

    A clip has as many windows as fit side by side where it has the modality, or one that reaches beyond it. Clips
    without the modality are left out with a reason. `kinds` gives each file (by relative path) a label in the place
    of the store's. Windows of several clips go through the model together.
    Raises StoreError if the store was made otherwise than the model needs, or if no clip is left.
    """
    config = embedder.preprocess.config
    check_store(store, config, picture=modality != "audio")
    chosen = [int(index) for index in (range(len(store)) if indices is None else indices)]
    left_out: list[LeftOut] = []
    found: list[ClipFeatures] = []
    waiting: list[tuple[StoredClip, Windows]] = []

    def flush() -> None:
        found.extend(_embed(embedder, waiting, modality, kinds))
        waiting.clear()

    for done, index in enumerate(chosen):
        progress(done, len(chosen), "embedding clips")
        stored = store.clips[index]
        span = modality_span(stored, modality)
        if span is None:
            left_out.append(LeftOut(clip_id=stored.clip_id, reason=LACKS[modality]))
            continue
        starts = np.array([span[0]])
        if num_disjoint(*span, embedder.window_seconds):
            starts = disjoint_windows(*span, embedder.window_seconds)
        clip = read_clip_windows(embedder, store, index, starts, picture=modality != "audio")
        windows = cut_windows(config, clip, starts)
        complete = (windows.has_sound | (modality == "visual")) & (windows.has_picture | (modality == "audio"))
        if not complete.all():
            left_out.append(LeftOut(clip_id=stored.clip_id, reason="a window of it " + LACKS[modality]))
            continue
        waiting.append((stored, windows))
        if sum(len(part) for _, part in waiting) >= embedder.batch_size:
            flush()
    flush()
    progress(len(chosen), len(chosen), "embedding clips")
    if not found:
        reasons = "; ".join(sorted({clip.reason for clip in left_out})) or "no clips were chosen"
        raise StoreError(f"no clip of {store.path} can be embedded ({reasons}); choose another modality or other clips")
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


LACKS: dict[Modality, str] = {
    "audio": "has no sound",
    "visual": "has no picture",
    "both": "has no sound and picture at the same time",
}


def modality_span(stored: "StoredClip", modality: Modality) -> tuple[float, float] | None:
    """The range in which `stored` has the modality, None where it has not."""
    if modality == "both":
        return shared_span(stored)
    if modality == "audio":
        return stored.sound_span if stored.has_sound else None
    return stored.picture_span if stored.has_picture else None


def _embed(
    embedder: "Embedder",
    waiting: "list[tuple[StoredClip, Windows]]",
    modality: Modality,
    kinds: Mapping[str, str] | None,
) -> Iterator[ClipFeatures]:
    if not waiting:
        return
    joined = join_windows([part for _, part in waiting])
    audio = embedder.window_rows(joined, "audio", "pooled") if modality != "visual" else None
    visual = embedder.window_rows(joined, "visual", "pooled") if modality != "audio" else None
    if (audio is None and modality != "visual") or (visual is None and modality != "audio"):
        raise StoreError(f"the model does not embed {modality}; choose the modality that it takes")
    stop = 0
    for stored, part in waiting:
        start, stop = stop, stop + len(part)
        yield ClipFeatures(
            clip_id=stored.clip_id,
            index=stored.index,
            labels=stored.labels if kinds is None else (kinds[stored.path],) if stored.path in kinds else (),
            audio=None if audio is None else audio[start:stop],
            visual=None if visual is None else visual[start:stop],
        )
