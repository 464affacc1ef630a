"""`WindowDataset` and `make_batches`: stored clips -> raw batches of windows.

What a batch holds depends on (seed, epoch, step) alone: not on the number of workers or processes, nor on where a
run was taken up again. B clips, N windows a clip, S samples, C picture channels, H rows, W columns.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.preprocess import Preprocess, PreprocessConfig, check_store, cut_padded
from lookhear.data.sampling import (
    clip_rng,
    disjoint_windows,
    draw_windows,
    epoch_order,
    frame_times,
    nearest_frames,
    num_disjoint,
)
from lookhear.data.store import Store, StoredClip
from lookhear.errors import StoreError

# A clip whose sound and picture have less than this in common shows nothing that belongs together.
MIN_SHARED_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How many clips a dataset does not use, and why."""

    no_picture: int = 0
    no_sound: int = 0
    # sound and picture that hardly overlap in time, or too few disjoint windows
    too_short: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.no_picture + self.no_sound + self.too_short


class WindowDataset:
    """Windows of the clips of a store that have both sound and picture; the others are counted in `left_out`.

    `mode="random"` draws `windows_per_clip` windows that do not overlap (see `sampling.draw_windows`), anew in every
    epoch. `mode="disjoint"` takes always the same: `windows_per_clip` windows spread evenly over the clip, or with
    None all that fit side by side: their number is the most frequent one in the store, and clips with fewer are left
    out. Windows lie where both the sound and the picture of the clip were decoded. `indices` chooses clips of the
    store (all by default). `classes` fixes the order of labels; by default it is all labels of the chosen clips,
    sorted.

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
        mode: Literal["random", "disjoint"] = "random",
        classes: Sequence[str] | None = None,
    ):
        check_store(store, config)
        if windows_per_clip is None and mode == "random":
            raise ValueError("the number of random windows of a clip must be given")
        self.store = store
        self.config = config
        self.seed = seed
        self.mode = mode
        self._preprocess = Preprocess(config)
        chosen = [store.clips[int(index)] for index in (range(len(store)) if indices is None else indices)]
        self.windows_per_clip, self.left_out = self._choose(chosen, windows_per_clip)
        if not self.clips:
            reasons = self.left_out
            raise StoreError(
                f"no clip of {store.path} can be used: of {len(chosen)}, {reasons.no_picture} have no picture, "
                f"{reasons.no_sound} no sound, {reasons.too_short} are too short; prepare videos with sound"
            )
        labels = {label for clip in self.clips for label in clip.labels}
        self.classes = tuple(sorted(labels) if classes is None else classes)

    def _choose(self, clips: list[StoredClip], windows_per_clip: int | None) -> tuple[int, LeftOut]:
        """Sets `clips` to those that can be used; the number of windows of each, and the count of the others."""
        no_picture = [clip for clip in clips if not clip.has_picture]
        no_sound = [clip for clip in clips if clip.has_picture and not clip.has_sound]
        paired = [clip for clip in clips if clip.has_picture and clip.has_sound]
        fitting = {clip.index: num_disjoint(*paired_span(clip), self.config.window_seconds) for clip in paired}
        if windows_per_clip is None:
            counted = Counter(count for count in fitting.values() if count)
            windows_per_clip = max(counted, key=lambda count: (counted[count], count)) if counted else 1
        needed = windows_per_clip if self.mode == "disjoint" and windows_per_clip > 1 else 0
        self.clips: list[StoredClip] = []
        for clip in paired:
            start, end = paired_span(clip)
            if end - start >= min(MIN_SHARED_SECONDS, self.config.window_seconds) and fitting[clip.index] >= needed:
                self.clips.append(clip)
        left_out = LeftOut(no_picture=len(no_picture), no_sound=len(no_sound), too_short=len(paired) - len(self.clips))
        return windows_per_clip, left_out

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 for an unlabelled store."""
        return len(self.classes)

    def starts(self, epoch: int, position: int) -> np.ndarray:
        """float64 (N,): starts of the windows of the clip at `position` in `epoch`, ascending, on its file's clock."""
        clip, seconds = self.clips[position], self.config.window_seconds
        start, end = paired_span(clip)
        if self.mode == "random":
            return draw_windows(clip_rng(self.seed, epoch, clip.index), start, end, seconds, self.windows_per_clip)
        if num_disjoint(start, end, seconds) < self.windows_per_clip:  # one window, longer than the clip
            return np.array([start])
        return disjoint_windows(start, end, seconds, self.windows_per_clip)

    def batch(self, epoch: int, positions: Sequence[int] | np.ndarray) -> Batch:
        """The raw batch of the clips at `positions` (0 to len - 1).

        Waveform is float32 (B, N, S), frames uint8 (B, N, C, H, W) of the size that the configuration says. Only the
        frames that are used are decoded. Labels are multi-hot (B, num_classes), None without classes.
        """
        clips = [self.clips[int(position)] for position in positions]
        starts = [self.starts(epoch, int(position)) for position in positions]
        return Batch(
            clip_ids=tuple(clip.clip_id for clip in clips),
            index=torch.tensor([clip.index for clip in clips], dtype=torch.int64),
            start_seconds=torch.from_numpy(np.stack(starts)),
            waveform=torch.from_numpy(np.stack([self._waveforms(*pair) for pair in zip(clips, starts, strict=True)])),
            frames=torch.stack([self._frames(*pair) for pair in zip(clips, starts, strict=True)]),
            labels=self._labels(clips) if self.classes else None,
        )

    def _waveforms(self, clip: StoredClip, starts: np.ndarray) -> np.ndarray:
        """float32 (N, S)"""
        windows = []
        count = self.config.window_samples
        for start in starts:
            first = self._preprocess.sample_at(float(start) - clip.start_seconds)
            samples = self.store.waveform(clip.index, first, first + count)
            windows.append(cut_padded(samples, min(first, 0), count))
        return np.stack(windows)

    def _frames(self, clip: StoredClip, starts: np.ndarray) -> Tensor:
        """uint8 (N, C, H, W)"""
        config = self.config
        times = [frame_times(float(start), config.window_seconds, config.frames_per_window) for start in starts]
        wanted = nearest_frames(clip.frame_seconds, np.concatenate(times))
        unique, places = np.unique(wanted, return_inverse=True)
        frames = torch.from_numpy(self.store.frames(clip.index, unique.tolist()))
        sized = self._preprocess.frames_to_size(frames)[torch.from_numpy(places)]  # (N x M, 3, H, W)
        return sized.reshape(len(starts), -1, config.picture_height, config.picture_width)

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
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Iterator[Batch]:
    """Raw batches of one epoch, from step `start_step` on.

    `batch_size` clips on each of `world_size` processes; together they hold the same clips at every step as one
    process with `batch_size * world_size` would, `rank` taking every `world_size`-th. With `drop_last=False` the last
    batch may be smaller (and a rank without any clip gets none). `num_workers=0` decodes in this process; more are
    processes that decode ahead (a script that calls this needs the usual `if __name__ == "__main__":`).

    Raises StoreError if the dataset does not fill one batch.
    """
    steps = num_steps(dataset, batch_size=batch_size, world_size=world_size, drop_last=drop_last)
    order = epoch_order(dataset.seed, epoch, len(dataset)) if shuffle else np.arange(len(dataset))
    clips_a_step = batch_size * world_size
    slices = [
        order[step * clips_a_step : (step + 1) * clips_a_step][rank::world_size] for step in range(start_step, steps)
    ]
    slices = [positions for positions in slices if len(positions)]
    batches = _Batches(dataset, epoch, slices)
    if num_workers == 0 or not slices:
        return (batches[step] for step in range(len(batches)))
    # Spawned, because forking after torch has started its threads can hang; each worker computes with one thread.
    return iter(
        torch.utils.data.DataLoader(
            batches,
            batch_size=None,
            num_workers=min(num_workers, len(slices)),
            prefetch_factor=2,
            multiprocessing_context="spawn",
        )
    )


class _Batches(torch.utils.data.Dataset[Batch]):
    """The batches of an epoch by number, in a form that travels to a worker."""

    def __init__(self, dataset: WindowDataset, epoch: int, slices: list[np.ndarray]):
        self._dataset, self._epoch, self._slices = dataset, epoch, slices

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, step: int) -> Batch:
        return self._dataset.batch(self._epoch, self._slices[step])
