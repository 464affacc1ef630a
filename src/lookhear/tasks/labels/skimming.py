"""How well a skimmer names videos from few of their moments, beside evenly spaced ones and beside all of them.

B videos, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookhear.data.features import Features
from lookhear.data.manifest import FileLabels
from lookhear.errors import CheckpointError, ConfigError, StoreError
from lookhear.models.checkpoint import LoadedCheckpoint, find_checkpoint, load_checkpoint
from lookhear.models.skimmer import Policy, Selection, Skim, Skimmer
from lookhear.models.transformer import Stream
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.videos import (
    LabelledVideo,
    LabelledVideos,
    gather_moments,
    label_targets,
    labelled_videos,
)
from lookhear.tasks.metrics import average_precision, bootstrap_interval

BATCH_SIZE = 64
AGAINST = "against"


@dataclass(frozen=True, kw_only=True)
class SkimScore:
    """What was scored in one way of looking."""

    how: str  # skimmed, evenly spaced, all moments, against (the second skimmer, in its own way)
    policy: Policy
    selection: Selection | None  # None where nothing is selected
    looks: int | None  # None: all moments
    accuracy: float
    accuracy_ci95: tuple[float, float]
    mean_precision: float  # average precision of the softmax scores, averaged over the classes that occur
    # moments whose sound was heard and picture seen, a mean over videos: before choosing and because they were chosen
    heard: float
    seen: float
    right: tuple[bool, ...]  # of each video


@dataclass(frozen=True, kw_only=True)
class SkimmingResult:
    """Every way of looking, on the same videos."""

    scores: tuple[SkimScore, ...]
    # skimmed less evenly spaced, accuracy, with a 95 % bootstrap interval over videos
    gain: float | None
    gain_ci95: tuple[float, float] | None
    videos: int
    moments: float  # of a video, a mean
    classes: tuple[str, ...]
    majority: float  # always naming the most frequent label
    no_label: int
    no_feature: int
    protocol: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything but what is said of each video, ready for JSON."""
        values = asdict(self)
        rows = {
            "_".join([*score.how.split(), score.selection or ""]).rstrip("_"): asdict(score) for score in self.scores
        }
        values["scores"] = {
            way: {name: value for name, value in row.items() if name not in ("how", "right")}
            for way, row in rows.items()
        }
        return values


def load_skimmer(path: str | Path) -> LoadedCheckpoint:
    """The checkpoint of a skimmer: a file, or the run folder. Raises CheckpointError where it is none."""
    path = Path(path)
    run_file = path / "model.safetensors"
    loaded = load_checkpoint(run_file if run_file.is_file() else find_checkpoint(path))
    if not isinstance(loaded.model, Skimmer):
        raise CheckpointError(f"{path} holds a {loaded.name}, not a skimmer; train one: lookhear finetune skim_tiny")
    return loaded


def evaluate_skimming(
    skimmer: str | Path,
    features: Features,
    labels: Mapping[str, FileLabels],
    *,
    splits: Sequence[str] = (),
    looks: int | None = None,
    against: str | Path | None = None,
    progress: Progress = quiet,
) -> SkimmingResult:
    """Names the labelled videos of `splits` (none: all) by the skimmer's looks (`looks` None: as trained).

    Rows: the skimmer's own policy, in soft and in hard selection; as many evenly spaced moments, and all moments, with
    the same heads; and, with `against`, a second skimmer on the same videos: one trained for evenly spaced moments is
    the fair comparison, since its heads have seen what they are judged on. `gain` is the skimmer in its own selection
    less `against`, or less the evenly spaced moments.

    Raises CheckpointError for features that another model made, and StoreError where the skimmer, or `against`, learned
    from videos of the same store that it is judged on.
    """
    loaded = _fitting(skimmer, features)
    model = loaded.model
    assert isinstance(model, Skimmer)
    found = labelled_videos(
        features, labels, streams=model.config.streams, splits=splits, classes=loaded.labels, progress=progress
    )
    _check_not_learned(loaded, features, labels, found)
    count = looks or model.config.looks
    own = model.config.selection
    scores = []
    if model.config.policy != "uniform":
        for selection in (own, "hard" if own == "soft" else "soft"):
            scores.append(
                score_skimmer(model, found.videos, loaded.labels, how="skimmed", looks=looks, selection=selection)
            )
    for how, every in (("evenly spaced", False), ("all moments", True)):
        scores.append(
            score_skimmer(model, found.videos, loaded.labels, how=how, looks=looks, every=every, policy="uniform")
        )
    if against is not None:
        other = _fitting(against, features)
        if other.labels != loaded.labels:
            raise ConfigError("the two skimmers name other classes; train both on the same labels")
        assert isinstance(other.model, Skimmer)
        _check_not_learned(other, features, labels, found)
        scores.append(score_skimmer(other.model, found.videos, loaded.labels, how=AGAINST, looks=count))
    gain, interval = _gain(scores, model)
    target = label_targets(found.videos, loaded.labels).numpy()
    return SkimmingResult(
        scores=tuple(scores),
        gain=gain,
        gain_ci95=interval,
        videos=len(found.videos),
        moments=float(np.mean([len(video) for video in found.videos])),
        classes=loaded.labels,
        majority=float(target.mean(axis=0).max()),
        no_label=found.no_label,
        no_feature=found.no_feature,
        protocol={
            "looks": count,
            "start_counts": model.config.average_start,
            "audio_every": model.config.audio_every,
            "visual_every": model.config.visual_every,
            "fingerprint": loaded.fingerprint,
            "features": features.identity,
        },
    )


def score_skimmer(
    model: Skimmer,
    videos: Sequence[LabelledVideo],
    classes: Sequence[str],
    *,
    looks: int | None = None,
    every: bool = False,
    policy: Policy | None = None,
    selection: Selection | None = None,
    how: str = "",
    device: torch.device | None = None,
    seed: int = 0,
) -> SkimScore:
    """What `model` scores on `videos`, in the given way (None: as configured); `every`: at all moments."""
    device = device or torch.device("cpu")
    policy, selection = policy or model.config.policy, selection or model.config.selection
    longest = max(len(video) for video in videos)
    number = longest if every else looks or model.config.looks
    training = model.training
    model.to(device).eval()
    rng = np.random.default_rng(seed)
    logits, heard, seen = [], [], []
    with torch.inference_mode():
        for first in range(0, len(videos), BATCH_SIZE):
            some = videos[first : first + BATCH_SIZE]
            noise = None
            if model.config.start == "random" and policy != "uniform":
                noise = torch.from_numpy(rng.random((len(some), 1), dtype=np.float32)).to(device)
            skim = model(
                gather_moments(some, model.config).to(device),
                looks=number,
                policy=policy,
                selection=selection,
                noise=noise,
            )
            logits.append(skim.logits.float().cpu())
            for row, video in enumerate(some):
                used = moments_used(model, skim, row, len(video), policy=policy, selection=selection)
                heard.append(len(used.heard))
                seen.append(len(used.seen))
    model.train(training)
    target = label_targets(videos, classes).numpy() > 0
    scores = torch.cat(logits).softmax(dim=1).numpy()
    right = np.take_along_axis(target, scores.argmax(axis=1)[:, None], axis=1)[:, 0]
    return SkimScore(
        how=how,
        policy=policy,
        selection=None if policy == "uniform" else selection,
        looks=None if every else number,
        accuracy=float(right.mean()),
        accuracy_ci95=bootstrap_interval(right),
        mean_precision=float(np.nanmean(average_precision(target, scores))),
        heard=float(np.mean(heard)),
        seen=float(np.mean(seen)),
        right=tuple(right.tolist()),
    )


@dataclass(frozen=True, kw_only=True)
class MomentsUsed:
    """Numbers of the moments of one video whose sound and picture were needed."""

    heard: frozenset[int]
    seen: frozenset[int]
    chosen: frozenset[int]  # of these, those that were chosen


def moments_used(
    model: Skimmer, skim: Skim, row: int, num_moments: int, *, policy: Policy, selection: Selection
) -> MomentsUsed:
    """What looking at the video `row` of `skim` needed: what was there before choosing, and what was chosen."""
    chosen = frozenset(place for place in skim.chosen[row].tolist() if place >= 0)
    config = model.config
    needed: dict[Stream, frozenset[int]] = {stream: frozenset() for stream in Stream}
    for stream in config.streams:
        before: frozenset[int] = frozenset()
        if policy != "uniform":
            reads_all = selection == "soft" and config.read == "moments"
            before = frozenset(range(0, num_moments, 1 if reads_all else config.every(stream)))
        needed[stream] = before | chosen
    return MomentsUsed(heard=needed[Stream.AUDIO], seen=needed[Stream.VISUAL], chosen=chosen)


def _check_not_learned(
    loaded: LoadedCheckpoint, features: Features, labels: Mapping[str, FileLabels], judged: LabelledVideos
) -> None:
    """Raises StoreError where the skimmer says that it learned from videos of this very store that are judged.

    Features of media files do not say which files these were, so nothing can be said of them.
    """
    digest = features.identity.get("store_digest")
    if not digest or loaded.extra.get("features", {}).get("store_digest") != digest or "splits" not in loaded.extra:
        return
    learned = frozenset(loaded.extra["splits"])
    shared = [v.path for v in judged.videos if not learned or not learned.isdisjoint(labels[v.path].splits)]
    if shared:
        raise StoreError(
            f"the skimmer learned from {', '.join(sorted(learned)) or 'all of the store'}, which has {len(shared)} of "
            f"the {len(judged.videos)} videos to be judged, such as {shared[0]}; judge it on another split"
        )


def _fitting(skimmer: str | Path, features: Features) -> LoadedCheckpoint:
    loaded = load_skimmer(skimmer)
    theirs, ours = (facts.get("fingerprint") for facts in (loaded.extra.get("features", {}), features.identity))
    if theirs != ours:
        raise CheckpointError(
            f"{skimmer} was trained on features of another model than these; embed the videos with that model"
        )
    return loaded


def _gain(scores: Sequence[SkimScore], model: Skimmer) -> tuple[float | None, tuple[float, float] | None]:
    if model.config.policy == "uniform":
        return None, None
    ours = np.array(scores[0].right, dtype=np.float64)
    fair = next((score for score in scores if score.how == AGAINST), None)
    theirs = fair or next(score for score in scores if score.how == "evenly spaced")
    differences = ours - np.array(theirs.right, dtype=np.float64)
    return float(differences.mean()), bootstrap_interval(differences)
