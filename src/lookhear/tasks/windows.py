"""The windows that are judged: K windows of each clip of a store, cut once, embedded once, used by all tasks.

C clips, F windows a clip (the most that any has), E width of an embedding.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from lookhear.data.dataset import paired_span
from lookhear.data.preprocess import check_store
from lookhear.data.sampling import (
    HOP_SECONDS,
    PADDED_FRAMES,
    disjoint_windows,
    frame_times,
    nearest_frames,
    num_disjoint,
    published_pairs,
)
from lookhear.data.windows import cut_windows
from lookhear.errors import StoreError, UserError
from lookhear.media.clip import Clip
from lookhear.progress import Progress, quiet

if TYPE_CHECKING:
    from lookhear.data.store import Store, StoredClip
    from lookhear.embedder import Embedder

# timestamps: disjoint windows, each with the pictures inside it; published: CAV-MAE Sync's; clip: CAV-MAE's
Pairs = Literal["timestamps", "published", "clip"]
NUM_PAIRS = 16  # of a clip, as published


class Truth(Protocol):
    """What a truth record says about one file (`media.scenes.SceneTruth` is one)."""

    @property
    def kind(self) -> str:
        """What sounds."""

    @property
    def event_seconds(self) -> Sequence[float]:
        """When it sounds, on the clock of the file."""

    @property
    def frames_per_second(self) -> float:
        """Rate of `boxes`."""

    @property
    def boxes(self) -> Sequence[Sequence[float]]:
        """Where the sounding object is in each frame: x0, y0, x1, y1 as fractions of the picture."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A clip that could not be judged, and why."""

    clip_id: str
    reason: str


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowCut:
    """Where to cut one clip, and what was cut: enough of the clip to give every window its frames and its sound."""

    index: int  # in the store
    clip_id: str
    start_seconds: np.ndarray  # float64 (K,)
    clip: Clip


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowEmbeddings:
    """The windows of every clip that has both sound and picture, embedded."""

    clip_ids: tuple[str, ...]
    paths: tuple[str, ...]  # of the files that the clips were cut from
    index: np.ndarray  # int64 (C,): rank of each clip in the store
    counts: np.ndarray  # int64 (C,): how many of the F windows are real
    start_seconds: np.ndarray  # float64 (C, F), NaN beyond a clip's own windows
    audio: np.ndarray  # float32 (C, F, E), unit length, zero beyond a clip's own windows
    visual: np.ndarray  # float32 (C, F, E), likewise
    hashes: tuple[str, ...]  # sha256 of what was judged of each clip: its sound, and the frames that were looked at
    window_seconds: float
    left_out: tuple[LeftOut, ...]
    pairs: Pairs = "timestamps"

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def real(self) -> np.ndarray:
        """bool (C, F): which windows are a clip's own and not padding."""
        return np.arange(self.start_seconds.shape[1])[None, :] < self.counts[:, None]

    def clip_list(self) -> list[dict[str, Any]]:
        """What was judged, for a result file: id, file and hash of each clip."""
        listed = zip(self.clip_ids, self.paths, self.hashes, strict=True)
        return [{"clip_id": name, "path": path, "sha256": digest} for name, path, digest in listed]


def embed_windows(
    embedder: "Embedder",
    store: "Store",
    *,
    num_windows: int | None = None,
    indices: Iterable[int] | None = None,
    pairs: Pairs = "timestamps",
    progress: Progress = quiet,
) -> WindowEmbeddings:
    """Embeds the disjoint windows of the clips `indices` of `store` (None: all), at most `num_windows` of each.

    None takes as many as fit without overlap (one for a clip shorter than a window). Clips that lack sound or
    picture, be it in one window only, are left out with a reason. Raises StoreError when nothing is left.

    `pairs="published"`: instead the windows and pictures of CAV-MAE Sync (`sampling.published_pairs`), `num_windows`
    (None: 16) of each clip; windows that several pictures share are embedded once. `pairs="clip"`: the one of CAV-MAE,
    a window that begins with the clip and the picture at its middle. Clips that keep no picture near the wanted times
    are left out. Both are of models with one picture a window; StoreError for others. UserError for no window.
    """
    if num_windows is not None and num_windows < 1:
        raise UserError(f"{num_windows} windows of a clip cannot be judged; ask for at least 1")
    if num_windows is not None and pairs == "clip":
        raise UserError("pairs 'clip' are one window a clip, so no number of windows can be asked for; leave it out")
    check_store(store, embedder.preprocess.config)
    if pairs != "timestamps" and embedder.preprocess.config.frames_per_window != 1:
        raise StoreError(
            f"published pairs have one picture and this model looks at {embedder.preprocess.config.frames_per_window}; "
            "judge it with pairs 'timestamps'"
        )
    chosen = list(range(len(store)) if indices is None else indices)
    left_out: list[LeftOut] = []
    kept: list[_Embedded] = []
    for done, index in enumerate(chosen):
        progress(done, len(chosen), "embedding windows")
        if pairs == "timestamps":
            found = _embed_clip(embedder, store, index, num_windows)
        else:
            found = _embed_pairs(embedder, store, index, 1 if pairs == "clip" else num_windows or NUM_PAIRS, pairs)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            kept.append(found)
    progress(len(chosen), len(chosen), "embedding windows")
    if not kept:
        reasons = "; ".join(sorted({clip.reason for clip in left_out})) or "the store is empty"
        raise StoreError(f"no clip can be judged, so there is nothing to match ({reasons}); prepare other media")
    return WindowEmbeddings(
        clip_ids=tuple(clip.clip_id for clip in kept),
        paths=tuple(store.clips[clip.index].path for clip in kept),
        index=np.array([clip.index for clip in kept]),
        counts=np.array([len(clip.start_seconds) for clip in kept]),
        start_seconds=stack_windows([clip.start_seconds for clip in kept], fill=np.nan),
        audio=stack_windows([clip.audio for clip in kept]),
        visual=stack_windows([clip.visual for clip in kept]),
        hashes=tuple(clip.digest for clip in kept),
        window_seconds=embedder.window_seconds,
        left_out=tuple(left_out),
        pairs=pairs,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Embedded:
    clip_id: str
    index: int
    start_seconds: np.ndarray  # float64 (K,)
    audio: np.ndarray  # float32 (K, E)
    visual: np.ndarray
    digest: str


def _embed_clip(embedder: "Embedder", store: "Store", index: int, num_windows: int | None) -> "_Embedded | LeftOut":
    cut = cut_clip(embedder, store, index, num_windows=num_windows)
    if isinstance(cut, LeftOut):
        return cut
    found = embedder.embed_clip(cut.clip, cut.start_seconds)
    return _embedded(cut, found.audio, found.visual)


def _embed_pairs(
    embedder: "Embedder", store: "Store", index: int, num_pairs: int, pairs: Pairs
) -> "_Embedded | LeftOut":
    """Sound windows and pictures of their own times: each distinct window once, then one for each picture."""
    stored, config = store.clips[index], embedder.preprocess.config
    if shared_span(stored) is None:
        return LeftOut(clip_id=stored.clip_id, reason=_NOT_TOGETHER)
    if pairs == "clip":
        inverse, starts = np.zeros(1, dtype=np.int64), np.zeros(1)
        seen_seconds = np.array([min(stored.end_seconds - stored.start_seconds, embedder.window_seconds) / 2])
        near = embedder.window_seconds / 4
    else:
        published = published_pairs(num_pairs, config.audio_frames)
        inverse, starts = published.inverse, published.unique_starts * HOP_SECONDS
        seen_seconds, near = published.frame_seconds, PADDED_FRAMES * HOP_SECONDS / num_pairs / 2
    times = stored.start_seconds + seen_seconds
    which = nearest_frames(stored.frame_seconds, times)
    if np.abs(stored.frame_seconds[which] - times).max() > near + 1e-6:
        reason = f"keeps no picture within {near:.2f} s of one that is wanted; a store of more pictures a second may"
        return LeftOut(clip_id=stored.clip_id, reason=reason)
    clip = _read_frames(store, index, which)
    heard = cut_windows(config, replace(clip, frames=None, frame_seconds=np.zeros(0)), clip.start_seconds + starts)
    places = np.searchsorted(clip.frame_seconds, stored.frame_seconds[which])
    shown = cut_windows(
        config, replace(clip, waveform=None), times, frames=[places[i : i + 1] for i in range(len(times))]
    )
    audio, visual = embedder.embed_windows(heard).audio, embedder.embed_windows(shown).visual
    cut = WindowCut(
        index=index, clip_id=stored.clip_id, start_seconds=(clip.start_seconds + starts)[inverse], clip=clip
    )
    return _embedded(cut, None if audio is None else audio[inverse], visual)


def _embedded(cut: WindowCut, audio: np.ndarray | None, visual: np.ndarray | None) -> "_Embedded | LeftOut":
    if audio is None or visual is None:
        return LeftOut(clip_id=cut.clip_id, reason="the model embeds only one of sound and picture")
    if not (np.isfinite(audio).all() and np.isfinite(visual).all()):
        return LeftOut(clip_id=cut.clip_id, reason="a window of it has no sound or no picture")
    return _Embedded(
        clip_id=cut.clip_id,
        index=cut.index,
        start_seconds=cut.start_seconds,
        audio=audio,
        visual=visual,
        digest=_digest(cut.clip),
    )


_NOT_TOGETHER = "has no sound and picture at the same time"


def cut_clip(
    embedder: "Embedder", store: "Store", index: int, *, num_windows: int | None = None
) -> WindowCut | LeftOut:
    """The disjoint windows of clip `index`, with only the frames of it read that the windows show.

    They lie where both sound and picture were decoded. Fewer than `num_windows` where no more fit; one, reaching into
    silence, where the clip is shorter than a window.
    """
    stored = store.clips[index]
    span = shared_span(stored)
    if span is None:
        return LeftOut(clip_id=stored.clip_id, reason=_NOT_TOGETHER)
    fitting = num_disjoint(*span, embedder.window_seconds)
    starts = np.array([span[0]])
    if fitting:
        count = None if num_windows is None else min(num_windows, fitting)
        starts = disjoint_windows(*span, embedder.window_seconds, count)
    clip = read_clip_windows(embedder, store, index, starts)
    return WindowCut(index=index, clip_id=stored.clip_id, start_seconds=starts, clip=clip)


def shared_span(stored: "StoredClip") -> tuple[float, float] | None:
    """The range in which `stored` has both sound and picture, None where it has not."""
    start, end = paired_span(stored)
    return (start, end) if end > start and stored.has_picture and stored.has_sound else None


def read_clip_windows(
    embedder: "Embedder", store: "Store", index: int, starts: Iterable[float], *, picture: bool = True
) -> Clip:
    """A stored clip as a `Clip` that holds its sound and those frames that the windows at `starts` (seconds) show.

    Without `picture`, no frames.
    """
    stored = store.clips[index]
    if not (picture and stored.has_picture):
        return _read_frames(store, index, None)
    per_window = embedder.preprocess.config.frames_per_window
    wanted = np.concatenate([frame_times(start, embedder.window_seconds, per_window) for start in starts])
    return _read_frames(store, index, nearest_frames(stored.frame_seconds, wanted))


def _read_frames(store: "Store", index: int, which: np.ndarray | None) -> Clip:
    """The sound of a stored clip, and its frames `which` (in order, each once); None: no frames."""
    stored = store.clips[index]
    frames, frame_seconds = None, np.zeros(0)
    if which is not None:
        which = np.unique(which)
        frames, frame_seconds = store.frames(index, which.tolist()), stored.frame_seconds[which]
    return Clip(
        start_seconds=stored.start_seconds,
        end_seconds=stored.end_seconds,
        frames=frames,
        frame_seconds=frame_seconds,
        waveform=store.waveform(index) if stored.has_sound else None,
        sample_rate=store.config.sample_rate,
    )


def stack_windows(parts: Sequence[np.ndarray], *, fill: float = 0.0) -> np.ndarray:
    """Arrays (K, ...) of different K as one (C, F, ...), `fill` beyond each one's own."""
    stacked = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), fill, dtype=parts[0].dtype)
    for row, part in zip(stacked, parts, strict=True):
        row[: len(part)] = part
    return stacked


def events_in_windows(windows: WindowEmbeddings, store: "Store", truth: Mapping[str, Truth]) -> np.ndarray:
    """bool (C, F): the windows in which something happens, by the truth records of the files (by relative path).

    Raises StoreError for a clip whose file has no record.
    """
    held = np.zeros(windows.start_seconds.shape, dtype=bool)
    for row, index in enumerate(windows.index):
        events = np.asarray(truth_of(store, int(index), truth).event_seconds, dtype=np.float64)
        starts = windows.start_seconds[row, :, None]
        held[row] = ((events >= starts) & (events < starts + windows.window_seconds)).any(axis=1)
    return held


def truth_of(store: "Store", index: int, truth: Mapping[str, Truth]) -> Truth:
    """The truth record of the file that clip `index` was cut from."""
    path = store.clips[index].path
    if path not in truth:
        raise StoreError(f"'{path}' has no truth record; judge without truth, or give the truth of this folder")
    return truth[path]


def kinds_of(store: "Store", indices: Iterable[int]) -> dict[str, str] | None:
    """Kind of each clip by its labels (all of them together), None unless every clip has one."""
    clips = [store.clips[int(index)] for index in indices]
    if not all(clip.labels for clip in clips):
        return None
    return {clip.clip_id: "; ".join(clip.labels) for clip in clips}


def _digest(clip: Clip) -> str:
    digest = hashlib.sha256()
    for part in (clip.waveform, clip.frames):
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
