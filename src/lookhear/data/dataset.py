"""`WindowDataset`, `make_feed` and `make_batches`: stored clips -> raw batches of windows.

What a batch holds depends on (seed, epoch, step) alone: not on the number of workers or processes, nor on where a
run was taken up again. B clips, N windows a clip, S samples, C picture channels, H rows, W columns.
"""

import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lookhear.data.balance import balance_weights, balanced_order
from lookhear.data.batch import REPEAT_BITS, Batch
from lookhear.data.draws import Draws
from lookhear.data.mixing import draw_pairs, mix
from lookhear.data.preprocess import Preprocess, PreprocessConfig, check_store, cut_padded
from lookhear.data.sampling import (
    HOP_SECONDS,
    PADDED_FRAMES,
    SyncPairs,
    clip_rng,
    disjoint_windows,
    draw_windows,
    epoch_order,
    frame_times,
    nearest_frames,
    num_disjoint,
    published_pairs,
)
from lookhear.data.store import Store, StoredClip
from lookhear.errors import ConfigError, StoreError, UserError

# A clip whose sound and picture have less than this in common shows nothing that belongs together.
MIN_SHARED_SECONDS = 0.2

Modalities = Literal["both", "audio", "visual"]
Sampling = Literal["shuffle", "balanced", "weighted"]
WindowMode = Literal["random", "disjoint", "published"]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How many clips a dataset does not use, and why."""

    no_picture: int = 0
    no_sound: int = 0
    # sound and picture that hardly overlap in time, or too few disjoint windows
    too_short: int = 0
    # none of the labels that are learned
    no_label: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.no_picture + self.no_sound + self.too_short + self.no_label


class WindowDataset:
    """Windows of the clips of a store that have both sound and picture; the others are counted in `left_out`.

    `mode="random"` draws `windows_per_clip` windows that do not overlap (see `sampling.draw_windows`), anew in every
    epoch. `mode="disjoint"` takes always the same: `windows_per_clip` windows spread evenly over the clip, or with
    None all that fit side by side: their number is the most frequent one in the store, and clips with fewer are left
    out. Both lie where the sound and the picture of the clip were decoded. `mode="published"` takes windows around
    `pairs_per_clip` pictures as the published models do (see `sampling.published_pairs`), counted from the clip's
    start: `windows_per_clip` random ones of these pairs in every epoch, or with None all of them. A picture is then
    not the middle of its window, and clips that have too few of the pictures are left out.

    `indices` chooses clips of the store (all by default). `classes` fixes the order of labels; by default it is all
    labels of the chosen clips, sorted.

    `modalities="audio"` or `"visual"` reads that one alone: clips need no other, windows lie anywhere in it, and
    batches lack the other. `labelled` leaves out clips without a label (of `classes`). `sampling="balanced"` draws the
    clips of an epoch with replacement, those with rare labels more often, `"weighted"` by the weights of the clips.
    `mixup` is the share of the clips that another one of the dataset is mixed into (see mixing.py). Without `resize`
    pictures keep the size that they are stored in, for `Preprocess` to resize on a device (mixing needs them sized).

    Raises StoreError if the store's sound was made in another way than `config` says, or if no clip is left.
    """

    def __init__(
        self,
        store: Store,
        config: PreprocessConfig,
        *,
        windows_per_clip: int | None = 1,
        indices: Sequence[int] | np.ndarray | None = None,
        seed: int = 0,
        mode: WindowMode = "random",
        pairs_per_clip: int = 16,
        classes: Sequence[str] | None = None,
        modalities: Modalities = "both",
        labelled: bool = False,
        sampling: Sampling = "shuffle",
        mixup: float = 0.0,
        resize: bool = True,
    ):
        check_store(store, config, picture=modalities != "audio")
        if windows_per_clip is None and mode == "random":
            raise ValueError("the number of random windows of a clip must be given")
        self.store = store
        self.config = config
        self.seed = seed
        self.mode = mode
        self._pairs = _published(config, pairs_per_clip, windows_per_clip) if mode == "published" else None
        self.modalities = modalities
        self.mixup = mixup
        self.resize = resize or mixup > 0
        self._preprocess = Preprocess(config)
        chosen = [store.clips[int(index)] for index in (range(len(store)) if indices is None else indices)]
        known = None if classes is None else frozenset(classes)
        wanted = chosen if not labelled else [clip for clip in chosen if _has_label(clip, known)]
        self.windows_per_clip, self.left_out = self._choose(wanted, windows_per_clip)
        self.left_out = replace(self.left_out, no_label=len(chosen) - len(wanted))
        if not self.clips:
            reasons = self.left_out
            raise StoreError(
                f"no clip of {store.path} can be used: of {len(chosen)}, {reasons.no_picture} have no picture, "
                f"{reasons.no_sound} no sound, {reasons.too_short} are too short{_unlabelled(reasons)}; prepare "
                f"{_NEEDED[modalities]}"
            )
        if self._pairs is not None and modalities != "audio":
            self._require_pictures(pairs_per_clip)
        labels = {label for clip in self.clips for label in clip.labels}
        self.classes = tuple(sorted(labels) if classes is None else classes)
        self._weights = self._draw_weights(sampling)

    def _choose(self, clips: list[StoredClip], windows_per_clip: int | None) -> tuple[int, LeftOut]:
        """Sets `clips` to those that can be used; the number of windows of each, and the count of the others."""
        picture, sound = self.modalities != "audio", self.modalities != "visual"
        no_picture = [clip for clip in clips if picture and not clip.has_picture]
        seen = [clip for clip in clips if clip.has_picture or not picture]
        no_sound = [clip for clip in seen if sound and not clip.has_sound]
        paired = [clip for clip in seen if clip.has_sound or not sound]
        fitting = {clip.index: num_disjoint(*self.span(clip), self.config.window_seconds) for clip in paired}
        if self._pairs is not None:
            fitting = {clip.index: len(self._shown(clip)) for clip in paired}
            windows_per_clip = windows_per_clip or len(self._pairs.frame_seconds)
        if windows_per_clip is None:
            counted = Counter(count for count in fitting.values() if count)
            windows_per_clip = max(counted, key=lambda count: (counted[count], count)) if counted else 1
        strict = self.mode == "published" or (self.mode == "disjoint" and windows_per_clip > 1)
        needed = windows_per_clip if strict else 0
        self.clips: list[StoredClip] = []
        for clip in paired:
            start, end = self.span(clip)
            if end - start >= min(MIN_SHARED_SECONDS, self.config.window_seconds) and fitting[clip.index] >= needed:
                self.clips.append(clip)
        left_out = LeftOut(no_picture=len(no_picture), no_sound=len(no_sound), too_short=len(paired) - len(self.clips))
        return windows_per_clip, left_out

    def _require_pictures(self, pairs_per_clip: int) -> None:
        """Raises StoreError if pictures would be shown twice, with windows of sound that are not theirs."""
        looked_at = self.clips[:: max(1, len(self.clips) // 100)]
        too_few = [clip for clip in looked_at if len(clip.frame_seconds) < len(self._shown(clip))]
        if 2 * len(too_few) > len(looked_at):
            raise StoreError(
                f"the store {self.store.path} keeps fewer pictures than {pairs_per_clip} in "
                f"{PADDED_FRAMES * HOP_SECONDS:g} s, so that some would be shown with the sound of others; prepare it "
                f"again with --set frames_per_second={pairs_per_clip / PADDED_FRAMES / HOP_SECONDS:.2g}"
            )

    def _draw_weights(self, sampling: Sampling) -> np.ndarray | None:
        """float64 (len,): how often each clip is drawn; None where every clip comes once."""
        if sampling == "shuffle":
            return None
        known = frozenset(self.classes)
        weights = (
            np.array([clip.weight for clip in self.clips], dtype=np.float64)
            if sampling == "weighted"
            else balance_weights([[label for label in clip.labels if label in known] for clip in self.clips])
        )
        if not weights.any():
            reason = "have no weight" if sampling == "weighted" else "have no labels to balance"
            raise StoreError(f"the clips of {self.store.path} {reason}; use data.sampling=shuffle")
        return weights

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 for an unlabelled store."""
        return len(self.classes)

    def order(self, epoch: int) -> np.ndarray:
        """int64 (len,): the positions that `epoch` goes through (see `batch` for those beyond the last clip)."""
        if self._weights is None:
            return epoch_order(self.seed, epoch, len(self))
        return balanced_order(self._weights, seed=self.seed, epoch=epoch)

    def span(self, clip: StoredClip) -> tuple[float, float]:
        """The range of a clip in which windows lie; empty (start >= end) if there is none."""
        if self.modalities == "both":
            return paired_span(clip)
        own = clip.sound_span if self.modalities == "audio" else clip.picture_span
        return own or (clip.start_seconds, clip.start_seconds)

    def starts(self, epoch: int, position: int) -> np.ndarray:
        """float64 (N,): starts of the windows of the clip at `position` in `epoch`, ascending, on its file's clock."""
        return self._places(epoch, position)[0]

    def _places(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """float64 (N,) starts of windows, and (N x M,) times of their pictures."""
        repeat, position = divmod(position, len(self))
        clip, seconds, count = self.clips[position], self.config.window_seconds, self.windows_per_clip
        rng = clip_rng(self.seed, epoch, clip.index + (repeat << REPEAT_BITS))
        if self._pairs is not None:
            shown = self._shown(clip)
            if count < len(shown):
                shown = np.sort(rng.choice(shown, size=count, replace=False))
            starts = HOP_SECONDS * self._pairs.start_frames[shown]
            return clip.start_seconds + starts, clip.start_seconds + self._pairs.frame_seconds[shown]
        start, end = self.span(clip)
        if self.mode == "random":
            starts = draw_windows(rng, start, end, seconds, count)
        elif num_disjoint(start, end, seconds) < count:  # one window, longer than the clip
            starts = np.array([start])
        else:
            starts = disjoint_windows(start, end, seconds, count)
        return starts, np.concatenate([frame_times(each, seconds, self.config.frames_per_window) for each in starts])

    def _shown(self, clip: StoredClip) -> np.ndarray:
        """int64: the published pairs whose picture the clip has, at most half a spacing from where it should be."""
        assert self._pairs is not None
        times = clip.start_seconds + self._pairs.frame_seconds
        near = PADDED_FRAMES * HOP_SECONDS / len(times) / 2
        start, end = self.span(clip)
        return np.flatnonzero((times >= start - near) & (times <= end + near))

    def batch(self, epoch: int, positions: Sequence[int] | np.ndarray) -> Batch:
        """The raw batch of the clips at `positions`, 0 to len - 1; those from len on begin again with the first clip,
        as its next repeat in this epoch, with windows and draws of its own.

        Waveform is float32 (B, N, S), frames uint8 (B, N, C, H, W) of the size that the configuration says. Only the
        frames that are used are decoded. Labels are multi-hot (B, num_classes), None without classes. With `mixup`
        frames are float32 and normalised, labels mixtures.
        """
        batch = self._unmixed(epoch, positions)
        if not self.mixup:
            return batch
        draws = Draws(seed=self.seed, epoch=epoch)
        pairs = draw_pairs(draws, batch.draw_key, probability=self.mixup, num_clips=len(self))
        partners = self._unmixed(epoch, pairs.partners.tolist()) if len(pairs.rows) else None
        return mix(batch, partners, pairs, self._preprocess)

    def _unmixed(self, epoch: int, positions: Sequence[int] | np.ndarray) -> Batch:
        clips = [self.clips[int(position) % len(self)] for position in positions]
        places = [self._places(epoch, int(position)) for position in positions]
        starts, times = [place[0] for place in places], [place[1] for place in places]
        frames = (
            None if self.modalities == "audio" else [self._frames(*pair) for pair in zip(clips, times, strict=True)]
        )
        repeat = torch.tensor([int(position) // len(self) for position in positions], dtype=torch.int64)
        return Batch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            index=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
            start_seconds=torch.from_numpy(np.stack(starts)),
            waveform=None
            if self.modalities == "visual"
            else torch.from_numpy(np.stack([self._waveforms(*pair) for pair in zip(clips, starts, strict=True)])),
            frames=None if frames is None else _in_corner(frames),
            frame_sizes=None if frames is None or self.resize else tuple(_size(each) for each in frames),
            labels=self._labels(clips) if self.classes else None,
            repeat=repeat if repeat.any() else None,
        )

    def _waveforms(self, clip: StoredClip, starts: np.ndarray) -> np.ndarray:
        """float32 (N, S)"""
        windows = []
        count = self.config.window_samples
        for start in starts:
            first = self._preprocess.sample_at(float(start) - clip.start_seconds)
            samples = self.store.waveform(clip.index, first, first + count)
            windows.append(cut_padded(samples, min(first, 0), count, missing=self.config.missing_sample))
        return np.stack(windows)

    def _frames(self, clip: StoredClip, times: np.ndarray) -> Tensor:
        """uint8 (N, C, H, W) of the times of N x M pictures"""
        wanted = nearest_frames(clip.frame_seconds, times)
        unique, places = np.unique(wanted, return_inverse=True)
        frames = torch.from_numpy(self.store.frames(clip.index, unique.tolist()))
        sized = self._preprocess.frames_to_size(frames) if self.resize else frames
        shown = sized[torch.from_numpy(places)]  # (N x M, 3, H, W)
        return shown.unflatten(0, (-1, self.config.frames_per_window)).flatten(1, 2)

    def _labels(self, clips: list[StoredClip]) -> Tensor:
        """float32 (B, num_classes)"""
        places = {label: place for place, label in enumerate(self.classes)}
        labels = torch.zeros(len(clips), len(self.classes))
        for row, clip in enumerate(clips):
            for label in clip.labels:
                if label in places:
                    labels[row, places[label]] = 1.0
        return labels


def paired_span(clip: StoredClip) -> tuple[float, float]:
    """The range in which both sound and picture of a clip were decoded; empty (start >= end) if there is none."""
    if clip.picture_span is None or clip.sound_span is None:
        return clip.start_seconds, clip.start_seconds
    return max(clip.picture_span[0], clip.sound_span[0]), min(clip.picture_span[1], clip.sound_span[1])


def _published(config: PreprocessConfig, pairs_per_clip: int, windows_per_clip: int | None) -> SyncPairs:
    """The published pairs of windows of `config`. Raises ConfigError where it has none."""
    problems = []
    if config.frames_per_window != 1:
        problems.append(f"a published pair has one picture, not {config.frames_per_window}")
    if config.audio_frames > PADDED_FRAMES:
        problems.append(f"a published window has at most {PADDED_FRAMES} frames, not {config.audio_frames}")
    if not 1 <= (windows_per_clip or 1) <= pairs_per_clip:
        problems.append(f"there are {pairs_per_clip} pairs in a clip, not {windows_per_clip}")
    if problems:
        raise ConfigError(f"{'; '.join(problems)}; choose windows 'random' or 'disjoint', or other sizes")
    return published_pairs(pairs_per_clip, config.audio_frames)


def _in_corner(frames: Sequence[Tensor]) -> Tensor:
    """uint8 (B, N, C, H, W) that holds pictures (N, C, h, w) of any sizes, in the corner where they are smaller."""
    height, width = (max(sizes) for sizes in zip(*map(_size, frames), strict=True))
    if all(_size(each) == (height, width) for each in frames):
        return torch.stack(list(frames))
    return torch.stack([F.pad(each, (0, width - each.shape[-1], 0, height - each.shape[-2])) for each in frames])


def _size(frames: Tensor) -> tuple[int, int]:
    return frames.shape[-2], frames.shape[-1]


_NEEDED = {"both": "videos with sound", "audio": "files with sound", "visual": "videos"}


def _has_label(clip: StoredClip, known: frozenset[str] | None) -> bool:
    return bool(clip.labels if known is None else known.intersection(clip.labels))


def _unlabelled(left_out: LeftOut) -> str:
    return f", {left_out.no_label} have none of the labels" if left_out.no_label else ""


def num_steps(dataset: WindowDataset, *, batch_size: int, world_size: int = 1, drop_last: bool = True) -> int:
    """Batches of an epoch. Raises StoreError if there is not even one."""
    clips_a_step = batch_size * world_size
    steps = len(dataset) // clips_a_step if drop_last else -(-len(dataset) // clips_a_step)
    if steps == 0:
        raise StoreError(
            f"{len(dataset)} clips do not fill one batch of {clips_a_step}; lower the batch size or prepare more clips"
        )
    return steps


def make_batches(
    dataset: WindowDataset,
    *,
    batch_size: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Iterator[Batch]:
    """Raw batches of one epoch: see `make_feed`, of which it is the steps of `epoch`.

    Without `shuffle` clips come in their order. With `drop_last=False` the last batch may be smaller (and a rank
    without any clip gets none).
    """
    shares = Shares(batch_size=batch_size, rank=rank, world_size=world_size, shuffle=shuffle, drop_last=drop_last)
    steps = num_steps(dataset, batch_size=batch_size, world_size=world_size, drop_last=drop_last)
    left = len(dataset) - (steps - 1) * batch_size * world_size  # clips of the last step
    stop = (epoch + 1) * steps - (rank >= left)
    return _read(_Steps(dataset, shares, epoch * steps, stop), num_workers, pin_memory=False)


def make_feed(
    dataset: WindowDataset,
    *,
    batch_size: int,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """Raw batches of the steps `start` to `stop` of a run, epoch after epoch.

    `batch_size` clips on each of `world_size` processes; together they hold the same clips at every step as one
    process with `batch_size * world_size` would, `rank` taking every `world_size`-th. `num_workers=0` decodes in this
    process; more are processes that decode ahead, started once (a script that calls this needs the usual
    `if __name__ == "__main__":`). `pin_memory` puts batches where a GPU copies from while the CPU goes on.

    Raises StoreError if the dataset does not fill one batch, UserError if a worker ends.
    """
    shares = Shares(batch_size=batch_size, rank=rank, world_size=world_size)
    return _read(_Steps(dataset, shares, start, stop), num_workers, pin_memory=pin_memory)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How the clips of an epoch become batches of one process."""

    batch_size: int  # of a process
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True
    drop_last: bool = True


class _Steps(torch.utils.data.Dataset["Batch | UserError"]):
    """The batches of steps `start` to `stop` of a run, by number, in a form that travels to a worker.

    An error that a user can mend is an item: a worker that raises it would wrap it in its traceback.
    """

    def __init__(self, dataset: WindowDataset, shares: Shares, start: int, stop: int):
        self._dataset, self._shares, self._start, self._stop = dataset, shares, start, stop
        self._steps = num_steps(
            dataset, batch_size=shares.batch_size, world_size=shares.world_size, drop_last=shares.drop_last
        )
        self._ordered: tuple[int, np.ndarray] | None = None  # the epoch at hand, and its order

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, number: int) -> "Batch | UserError":
        epoch, positions = self._positions(self._start + number)
        try:
            return self._dataset.batch(epoch, positions)
        except UserError as error:
            return error

    def _positions(self, step: int) -> tuple[int, np.ndarray]:
        shares = self._shares
        epoch, place = divmod(step, self._steps)
        if self._ordered is None or self._ordered[0] != epoch:
            order = self._dataset.order(epoch) if shares.shuffle else np.arange(len(self._dataset))
            self._ordered = epoch, order
        first = place * shares.batch_size * shares.world_size
        clips = self._ordered[1][first : first + shares.batch_size * shares.world_size]
        return epoch, clips[shares.rank :: shares.world_size]


def _read(steps: _Steps, num_workers: int, *, pin_memory: bool) -> Generator[Batch, None, None]:
    items: Iterator[Batch | UserError]
    if num_workers == 0 or len(steps) == 0:
        found = (steps[number] for number in range(len(steps)))
        items = (batch.pin_memory() if pin_memory and isinstance(batch, Batch) else batch for batch in found)
    else:
        # Spawned, because forking after torch has started its threads can hang; each worker computes with one thread.
        loader = torch.utils.data.DataLoader(
            steps,
            batch_size=None,
            num_workers=min(num_workers, len(steps)),
            prefetch_factor=2,
            pin_memory=pin_memory,
            multiprocessing_context="spawn",
            worker_init_fn=_outlive_sigterm,
        )
        items = _watched(iter(loader))
    for item in items:
        if isinstance(item, UserError):
            raise item
        yield item


def _outlive_sigterm(worker: int) -> None:
    """Schedulers send SIGTERM to every process of a job; workers are needed until the run has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _watched(items: "Iterator[Batch | UserError]") -> "Iterator[Batch | UserError]":
    """`items` of workers; UserError where one of them was ended from outside."""
    try:
        yield from items
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a process that reads the store ended ({str(error).splitlines()[0]}); memory may have run out: lower "
            "data.num_workers or data.batch_size, and run the same command again"
        ) from error
