"""Labelled videos as the features of their moments: what a skimmer learns from and is judged on.

B videos, N moments of the longest, D width of a feature, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lookhear.data.features import Features
from lookhear.data.manifest import FileLabels
from lookhear.data.store import STORE_NAME, Store
from lookhear.data.vectors import read_facts
from lookhear.errors import StoreError
from lookhear.models.skimmer import Moments, SkimmerConfig
from lookhear.models.transformer import Stream
from lookhear.progress import Progress, quiet


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledVideo:
    """The features of one video's moments in order of time, and its labels."""

    path: str
    features: Mapping[Stream, np.ndarray]  # float (N, D) of each modality that is read; NaN where a moment has none
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return max(len(rows) for rows in self.features.values())


@dataclass(frozen=True, kw_only=True)
class LabelledVideos:
    """Videos that can be used, and how many cannot."""

    videos: tuple[LabelledVideo, ...]
    no_label: int  # their labels are not known, or of other classes
    no_feature: int  # labelled, in the split, and without any feature that is read

    @property
    def classes(self) -> tuple[str, ...]:
        """All labels, sorted."""
        return tuple(sorted({label for video in self.videos for label in video.labels}))


def video_labels(path: str | Path | None, features: str | Path) -> dict[str, FileLabels]:
    """Labels and splits of files: of a CSV list with the columns path, label and split, or of a store.

    None: of the store that `features`, a folder of `lookhear embed`, were made from. Raises StoreError where there is
    none.
    """
    from lookhear.data.lists import read_labels

    if path is None:
        facts = read_facts(Path(features))
        if facts is None or not facts.store_digest:
            raise StoreError(f"{features} does not say what its videos show; give a list path,label,split (--labels)")
        path = facts.source
    path = Path(path)
    if (path / STORE_NAME).is_file():
        manifest = Store(path).manifest
        return {row.path: FileLabels(labels=row.labels, split=row.split) for row in manifest}
    return read_labels(path)


def labelled_videos(
    features: Features,
    labels: Mapping[str, FileLabels],
    *,
    streams: Sequence[Stream],
    splits: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    progress: Progress = quiet,
) -> LabelledVideos:
    """The files of `features` that have a label (of `classes`, if given) and belong to one of `splits` (none: to any).

    Raises StoreError where there is none.
    """
    known = None if classes is None else frozenset(classes)
    videos, no_label, no_feature = [], 0, 0
    for done, path in enumerate(features.paths):
        progress(done, len(features.paths), path)
        about = labels.get(path, FileLabels())
        if splits and set(splits).isdisjoint(about.splits):
            continue
        own = tuple(label for label in about.labels if known is None or label in known)
        if not own:
            no_label += 1
            continue
        file = features.file(path)
        rows = {s: file.arrays[s.value] for s in streams if s.value in file.arrays} if file is not None else {}
        if any(np.isfinite(part[:, 0]).any() for part in rows.values()):
            videos.append(LabelledVideo(path=path, features=rows, labels=own))
        else:
            no_feature += 1
    progress(len(features.paths), len(features.paths), "")
    if not videos:
        raise StoreError(
            f"no video can be used: of {len(features.paths)} with features, {no_label} of the chosen split have no "
            f"label and {no_feature} nothing of {' and '.join(streams)}; name other labels, split or features"
        )
    return LabelledVideos(videos=tuple(videos), no_label=no_label, no_feature=no_feature)


def gather_moments(
    videos: Sequence[LabelledVideo], config: SkimmerConfig, *, spans: Sequence[tuple[int, int]] | None = None
) -> Moments:
    """`videos` as a batch, padded to the longest; `spans` are the moments that are taken of each (None: all)."""
    spans = spans or [(0, len(video)) for video in videos]
    longest = max(stop - start for start, stop in spans)
    features = {s: torch.zeros(len(videos), longest, config.width(s)) for s in config.streams}
    has = {s: torch.zeros(len(videos), longest, dtype=torch.bool) for s in config.streams}
    for row, (video, (start, stop)) in enumerate(zip(videos, spans, strict=True)):
        for stream in config.streams:
            if stream not in video.features:
                continue
            rows = torch.from_numpy(np.array(video.features[stream][start:stop], dtype=np.float32))
            if rows.shape[1] != config.width(stream):
                raise StoreError(
                    f"the {stream} features of {video.path} have {rows.shape[1]} numbers and the skimmer reads "
                    f"{config.width(stream)}; make all features with one model"
                )
            there = rows.isfinite().all(dim=1) & rows.any(dim=1)  # all zeros: how published features say nothing
            features[stream][row, : len(rows)] = rows.masked_fill(~there[:, None], 0.0)
            has[stream][row, : len(rows)] = there
    return Moments(features=features, has=has)


def label_targets(videos: Sequence[LabelledVideo], classes: Sequence[str]) -> Tensor:
    """float32 (B, C), multi-hot."""
    return torch.tensor([[float(name in video.labels) for name in classes] for video in videos])
