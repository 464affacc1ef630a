"""How well does a classifier name the clips, or the whole files, of a store?

Gong et al., ICLR 2023, whose evaluation this is: probabilities of each of a clip's frames with its sound, averaged. For
whole files it is the video@1 of action recognition (AVID, CCL): probabilities of windows of a file, averaged.
n clips (or files), K classes. Shares are fractions 0..1.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from lookhear.config import finite
from lookhear.data.preprocess import check_store
from lookhear.data.sampling import frame_times, nearest_frames
from lookhear.data.windows import cut_windows
from lookhear.errors import StoreError
from lookhear.models.classifier import Mode, streams_of
from lookhear.models.transformer import Stream
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.logits import (
    classes_of,
    classifier_of,
    learned_multi_label,
    probabilities,
    window_logits,
)
from lookhear.tasks.labels.metrics import bootstrap_class_means, d_prime
from lookhear.tasks.labels.units import (
    LACKS,
    ChosenWindows,
    Modality,
    WindowChoice,
    choose_windows,
    modality_span,
)
from lookhear.tasks.learned import seen_in_training
from lookhear.tasks.metrics import area_under_roc, average_precision, bootstrap_interval
from lookhear.tasks.windows import LeftOut, read_clip_windows

if TYPE_CHECKING:
    from lookhear.data.store import Store, StoredClip
    from lookhear.embedder import Embedder

Frames = Literal["ten", "one"]
NUM_FRAMES: dict[Frames, int] = {"ten": 10, "one": 1}
NUM_RESAMPLES = 200
TOP = 5
_EVERY_CLIP = WindowChoice()


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class. A figure that it has not is None: it has no clip, or nothing was named so."""

    label: str
    clips: int  # that have it
    named: int  # clips of which it is the highest
    average_precision: float | None
    area_under_roc: float | None
    precision: float | None  # of the clips named so, the share that have it
    recall: float | None  # of the clips that have it, the share named so


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassificationResult:
    """The figures, what they are to be compared with, and what exactly was judged.

    Means over classes leave out classes without a clip (`classes_without_clips`); the published code counts the ROC
    area of such a class as -1. Intervals are 95 % bootstrap intervals over clips.
    """

    mean_average_precision: float
    mean_average_precision_ci95: tuple[float, float]
    mean_average_precision_chance: float  # the mean share of clips that have a class: what random scores come to
    mean_area_under_roc: float  # chance is 0.5; NaN where every clip has every class that is there
    mean_area_under_roc_ci95: tuple[float, float]
    d_prime: float  # of the mean ROC area; chance is 0
    d_prime_ci95: tuple[float, float]
    accuracy: float  # the highest class is one of the clip's labels
    accuracy_ci95: tuple[float, float]
    accuracy_chance: float  # a class drawn at random
    accuracy_majority: float  # always naming the class that most of these clips have: the best constant answer
    accuracy_top5: float | None  # one of the five highest classes is a label; None where there are no more than five
    window_accuracy: float | None  # the highest class of a window is a label of its clip ("clip@1"); None: not told
    clips: int
    classes_without_clips: tuple[str, ...]
    per_class: tuple[ClassResult, ...]
    protocol: dict[str, Any]
    left_out: tuple[LeftOut, ...]
    model_fingerprint: str
    clip_ids: tuple[str, ...]
    probabilities: np.ndarray  # float32 (n, K), in the order of clip_ids and per_class; not part of to_dict
    right: np.ndarray  # bool (n,), whether the highest class is one of the clip's labels; not part of to_dict

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single clips, ready for JSON; classes by label, and None where a figure is not finite."""
        record = {name: value for name, value in vars(self).items() if name not in ("probabilities", "right")}
        record["per_class"] = {row.label: asdict(row) for row in self.per_class}
        record["clip_list"] = record.pop("clip_ids")
        record["left_out"] = [asdict(clip) for clip in self.left_out]
        values: dict[str, Any] = finite(record)
        return values


def evaluate_classification(
    embedder: "Embedder",
    store: "Store",
    *,
    split: str | None = None,
    indices: Iterable[int] | None = None,
    mode: Mode | None = None,
    frames: Frames = "ten",
    multi_label: bool | None = None,
    classes: Sequence[str] | None = None,
    choice: WindowChoice = _EVERY_CLIP,
    progress: Progress = quiet,
) -> ClassificationResult:
    """Judges a fine-tuned checkpoint on the labelled clips of `split` (None: all), or on the clips `indices`.

    `mode` None is the checkpoint's own. A clip is its disjoint windows, or those that `choice` says, by which all clips
    of a file may also be judged as one; of each window `frames` are shown to the model
    one after the other with the window's sound (ten: evenly spread, as many different ones as are stored; one: the
    middle), and the probabilities of all of them are averaged. The sound's tower runs once a window. `multi_label`
    None: what the checkpoint learned (sigmoid or softmax); where it does not say, sigmoid if any clip of the whole
    store has several labels. `classes` names the classes of a checkpoint that
    does not, in its order. Clips without label or without what the mode reads are left out, with a reason.

    Raises CheckpointError for a model without classes and StoreError where nothing can be judged.
    """
    model = classifier_of(embedder)
    names = classes_of(embedder, classes)
    mode = mode or model.config.mode
    check_store(store, embedder.preprocess.config, picture=Stream.VISUAL in streams_of(mode))
    if indices is None:
        indices = range(len(store)) if split is None else store.clips_in_split(split)
    chosen = [store.clips[int(index)] for index in indices]
    scores_of = "as asked"
    if multi_label is None:
        multi_label, scores_of = learned_multi_label(embedder), "as the checkpoint learned"
    if multi_label is None:
        multi_label, scores_of = any(len(clip.labels) > 1 for clip in store.clips), "by the labels of the store"
    kept, left_out = _choose(chosen, names, mode)
    windows, lacking = choose_windows(kept, choice, modality=modality_of(mode), window_seconds=embedder.window_seconds)
    assert not lacking, "clips without what the mode reads are left out before"
    found = _window_probabilities(embedder, store, windows, mode, frames, multi_label=multi_label, progress=progress)
    left_out += found.left_out
    if not found.clips:
        reasons = "; ".join(f"{count} {reason}" for reason, count in Counter(c.reason for c in left_out).items())
        raise StoreError(f"no clip of {store.path} can be judged ({reasons or 'none was chosen'}); choose other clips")
    units = _join_units(found, choice)
    target = np.array([[name in labels for name in names] for labels in units.labels])
    best = [own.argmax(axis=1) for own in units.windows]
    window_right = np.concatenate([row[columns] for row, columns in zip(target, best, strict=True)])
    protocol = {
        "seen_in_training": seen_in_training(embedder, store, [clip.index for clip in found.clips]),
        "mode": mode,
        "split": split,
        "frames": frames,
        "frames_of_a_window": found.num_pictures / found.num_windows,
        "unit": choice.unit,
        "windows_asked": choice.windows or "all that fit",
        f"windows_of_a_{choice.unit}": found.num_windows / len(units.names),
        "window_seconds": embedder.window_seconds,
        "averaged": "probabilities",
        "scores": "sigmoid" if multi_label else "softmax",
        "scores_chosen": scores_of,
        "unknown_labels": sorted({label for clip in chosen for label in clip.labels} - set(names)),
        "resamples": NUM_RESAMPLES,
    }
    return score_classes(
        target,
        np.stack([own.mean(axis=0) for own in units.windows]),
        names,
        clip_ids=units.names,
        window_accuracy=float(window_right.mean()),
        left_out=left_out,
        protocol=protocol,
        model_fingerprint=embedder.fingerprint,
    )


def score_classes(
    target: np.ndarray,
    score: np.ndarray,
    names: Sequence[str],
    *,
    clip_ids: tuple[str, ...],
    window_accuracy: float | None = None,
    left_out: Sequence[LeftOut] = (),
    protocol: dict[str, Any] | None = None,
    model_fingerprint: str = "",
) -> ClassificationResult:
    """The figures of `score` float (n, K) against `target` bool (n, K), each clip with at least one class."""
    precision, area = average_precision(target, score), area_under_roc(target, score)
    present = np.asarray(target.any(axis=0))
    best = score.argmax(axis=1)
    right = target[np.arange(len(target)), best]
    highest = np.argsort(-score, axis=1, kind="stable")[:, :TOP]
    intervals = bootstrap_class_means(target, score, repeats=NUM_RESAMPLES)
    mean_area = _mean(area)
    return ClassificationResult(
        mean_average_precision=_mean(precision),
        mean_average_precision_ci95=intervals.mean_average_precision,
        mean_average_precision_chance=float(target.mean(axis=0)[present].mean()),
        mean_area_under_roc=mean_area,
        mean_area_under_roc_ci95=intervals.mean_area_under_roc,
        d_prime=d_prime(mean_area),
        d_prime_ci95=(d_prime(intervals.mean_area_under_roc[0]), d_prime(intervals.mean_area_under_roc[1])),
        accuracy=float(right.mean()),
        accuracy_ci95=bootstrap_interval(right),
        accuracy_chance=float(target.sum(axis=1).mean() / target.shape[1]),
        accuracy_majority=float(target.mean(axis=0).max()),
        accuracy_top5=float(np.take_along_axis(target, highest, axis=1).any(axis=1).mean())
        if len(names) > TOP
        else None,
        window_accuracy=window_accuracy,
        clips=len(target),
        classes_without_clips=tuple(name for name, has in zip(names, present, strict=True) if not has),
        per_class=tuple(
            ClassResult(
                label=name,
                clips=int(target[:, column].sum()),
                named=int((best == column).sum()),
                average_precision=_or_none(precision[column]),
                area_under_roc=_or_none(area[column]),
                precision=_share(right & (best == column), best == column),
                recall=_share(right & (best == column), target[:, column]),
            )
            for column, name in enumerate(names)
        ),
        protocol=protocol or {},
        left_out=tuple(left_out),
        model_fingerprint=model_fingerprint,
        clip_ids=clip_ids,
        probabilities=score,
        right=right,
    )


def _choose(
    chosen: "Sequence[StoredClip]", names: Sequence[str], mode: Mode
) -> "tuple[list[StoredClip], list[LeftOut]]":
    """The clips that can be judged in `mode`, and the others with reasons."""
    modality = modality_of(mode)
    kept, left_out = [], []
    for clip in chosen:
        reason = ""
        if not clip.labels:
            reason = "has no label"
        elif not set(clip.labels) & set(names):
            reason = "has only labels that the model does not know"
        elif modality_span(clip, modality) is None:
            reason = LACKS[modality]
        if reason:
            left_out.append(LeftOut(clip_id=clip.clip_id, reason=reason))
        else:
            kept.append(clip)
    return kept, left_out


def modality_of(mode: Mode) -> Modality:
    """What of a clip a mode reads."""
    streams = streams_of(mode)
    return "both" if len(streams) == 2 else "audio" if streams == (Stream.AUDIO,) else "visual"


# --- the ensemble over frames ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inputs:
    """What the model is shown of one clip."""

    waveform: np.ndarray | None  # float32 (M, S)
    frames: np.ndarray | None  # uint8 (P, C, H, W)
    owner: np.ndarray  # int64 (P,), the window of each row of logits; arange(M) without pictures


@dataclass(kw_only=True, eq=False)
class _Found:
    clips: "list[StoredClip]" = field(default_factory=list)
    windows: list[np.ndarray] = field(default_factory=list)  # float32 (M, K) of each of them
    num_windows: int = 0
    num_pictures: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Units:
    """What is judged as one: clips or files."""

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    windows: tuple[np.ndarray, ...]  # float32 (M, K) of each


def _join_units(found: _Found, choice: WindowChoice) -> _Units:
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(found.clips):
        rows.setdefault(choice.key(clip), []).append(row)
    return _Units(
        names=tuple(rows),
        labels=tuple(found.clips[own[0]].labels for own in rows.values()),
        windows=tuple(np.concatenate([found.windows[row] for row in own]) for own in rows.values()),
    )


def _window_probabilities(
    embedder: "Embedder",
    store: "Store",
    chosen: Sequence[ChosenWindows],
    mode: Mode,
    frames: Frames,
    *,
    multi_label: bool,
    progress: Progress,
) -> _Found:
    found = _Found()
    waiting: list[_Inputs] = []

    def flush() -> None:
        if not waiting:
            return
        logits = window_logits(embedder, **_join(waiting), mode=mode)
        stop = 0
        for part in waiting:
            start, stop = stop, stop + len(part.owner)
            found.windows.append(_average(probabilities(logits[start:stop], multi_label=multi_label), part.owner))
            found.num_windows += int(part.owner[-1]) + 1
            found.num_pictures += 0 if part.frames is None else len(part.owner)
        waiting.clear()

    for done, own in enumerate(chosen):
        progress(done, len(chosen), "classifying clips")
        if not len(own.start_seconds):
            continue
        inputs = _inputs(embedder, store, own, mode, NUM_FRAMES[frames])
        if inputs is None:
            reason = "a window of it " + LACKS[modality_of(mode)]
            found.left_out.append(LeftOut(clip_id=own.clip.clip_id, reason=reason))
            continue
        found.clips.append(own.clip)
        waiting.append(inputs)
        if sum(len(part.owner) for part in waiting) >= embedder.batch_size:
            flush()
    flush()
    progress(len(chosen), len(chosen), "classifying clips")
    return found


def _average(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """float32 (M, K): the mean over each window's frames, (P, K)."""
    return np.stack([values[owner == window].mean(axis=0) for window in range(owner[-1] + 1)])


def _inputs(embedder: "Embedder", store: "Store", own: ChosenWindows, mode: Mode, num_frames: int) -> _Inputs | None:
    """The windows of a clip with up to `num_frames` different frames each; None where one lacks what the mode reads."""
    modality, stored, starts = modality_of(mode), own.clip, own.start_seconds
    span = modality_span(stored, modality)
    assert span is not None, "clips without what the mode reads are left out before"
    seconds, config = embedder.window_seconds, embedder.preprocess.config
    stacked = modality != "audio" and config.frames_per_window > 1
    clip = read_clip_windows(embedder, store, stored.index, starts, picture=stacked)
    windows = cut_windows(config, clip, starts)
    complete = (windows.has_sound | (modality == "visual")) & (windows.has_picture | (not stacked))
    if not complete.all():
        return None
    waveform = windows.waveform if modality != "visual" else None
    if modality == "audio":
        return _Inputs(waveform=waveform, frames=None, owner=np.arange(len(starts)))
    if stacked:  # a model of several pictures a window sees them all at once: there is nothing to average
        return _Inputs(waveform=waveform, frames=windows.frames, owner=np.arange(len(starts)))
    shown = [
        np.unique(nearest_frames(stored.frame_seconds, frame_times(start, min(seconds, span[1] - start), num_frames)))
        for start in starts.tolist()
    ]
    pixels = torch.from_numpy(np.ascontiguousarray(store.frames(stored.index, np.concatenate(shown).tolist())))
    return _Inputs(
        waveform=waveform,
        frames=embedder.preprocess.frames_to_size(pixels).numpy(),
        owner=np.repeat(np.arange(len(starts)), [len(numbers) for numbers in shown]),
    )


def _join(parts: Sequence[_Inputs]) -> dict[str, Any]:
    """The windows of several clips as one input of `window_logits`."""
    windows = [int(part.owner[-1]) + 1 for part in parts]
    offsets = np.cumsum([0, *windows[:-1]])
    return {
        "waveform": None if parts[0].waveform is None else np.concatenate([part.waveform for part in parts]),
        "frames": None if parts[0].frames is None else np.concatenate([part.frames for part in parts]),
        "owner": np.concatenate([part.owner + offset for part, offset in zip(parts, offsets, strict=True)]),
    }


def _mean(values: np.ndarray) -> float:
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.any() else None
