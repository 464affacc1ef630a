"""Training a skimmer on stored features: minutes on a CPU, so it has a small loop of its own, an epoch at a time.

A run folder: run.json (the run, what it learns from), journal.jsonl (a line an epoch), training.pt (everything after
the newest epoch, from which the same call goes on) and, in the end, model.safetensors.

B videos, T looks, C classes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lookhear import distributed
from lookhear.config import difference, to_dict
from lookhear.data.features import Features
from lookhear.data.manifest import FileLabels
from lookhear.data.sampling import epoch_order
from lookhear.device import pick_device
from lookhear.errors import CheckpointError, ConfigError, UserError
from lookhear.models.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from lookhear.models.fusion import Fusion
from lookhear.models.skimmer import Moments, Skimmer, SkimmerConfig
from lookhear.models.transformer import Stream
from lookhear.objectives.skimming import SkimmingConfig, skimming_loss
from lookhear.objectives.step import Step
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.skimming import score_skimmer
from lookhear.tasks.labels.videos import (
    LabelledVideo,
    LabelledVideos,
    gather_moments,
    label_targets,
    labelled_videos,
)
from lookhear.training.journal import JOURNAL, append_records, cut_back
from lookhear.training.optim import OptimConfig, build_optimizer, clip_gradients, learning_rate, set_learning_rate
from lookhear.training.run import is_test_split

MODEL_NAME = "model.safetensors"
_STATE_NAME, _RUN_NAME = "training.pt", "run.json"
# Settings that say where to compute, not what is learned.
_OPERATIONAL = frozenset({"run.device"})


@dataclass(frozen=True, kw_only=True)
class SkimDataConfig:
    """Which videos are learned from, and how much of each at once."""

    batch_size: int = 256
    """videos in a step, over all processes"""
    shortest: int = 200
    """a batch is cut to a length drawn between this many moments ..."""
    longest: int = 500
    """... and this many, each video at a place of its own; shorter videos are padded"""
    split: str | tuple[str, ...] | None = None
    """only videos of this split of the labels, or of these; null: all"""
    validation_split: str | None = None
    """split that is judged after every epoch, for the journal; nothing is chosen by it"""
    classes: tuple[str, ...] = ()
    """labels in the order of the outputs; empty: all of the chosen videos, sorted"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 1 <= self.shortest <= self.longest:
            raise ConfigError("batch_size and shortest must be at least 1, and longest at least shortest")
        if self.validation_split is not None:
            self._check_validation(self.validation_split)

    def _check_validation(self, name: str) -> None:
        if is_test_split(name):
            raise ConfigError(f"data.validation_split is '{name}'; watch a part of the training videos")
        if not self.splits or name in self.splits:
            raise ConfigError(
                f"data.validation_split '{name}' would be learned from as well; name the other splits in data.split"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """The names in `split`."""
        return (self.split,) if isinstance(self.split, str) else self.split or ()


@dataclass(frozen=True, kw_only=True)
class SkimRun:
    """One training of a skimmer. The number of classes, the widths of the features and the loss come from the data."""

    name: str
    """of the recipe"""
    modalities: Literal["both", "audio", "visual"] = "both"
    """which features are read"""
    model: SkimmerConfig = field(default_factory=lambda: SkimmerConfig(num_classes=1))
    """sizes, and how it looks"""
    objective: SkimmingConfig = field(default_factory=SkimmingConfig)
    """what is minimised"""
    data: SkimDataConfig = field(default_factory=SkimDataConfig)
    """what a step is made of"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """optimiser and schedule"""
    initial: str | None = None
    """a classifier or skimmer whose fusing network and head are taken; null: from scratch"""
    freeze_fusion: bool = False
    """whether the fusing network stays as it was taken, as published"""
    epochs: int = 25
    """passes over the videos"""
    seed: int = 0
    """of weights, order and cuts"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs is {self.epochs}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SkimTraining:
    """How a training of a skimmer ended."""

    epochs: int
    model: Path
    """which `lookhear.classify` and `evaluate_skimming` read"""
    last: dict[str, Any] | None
    """the last record of the journal"""
    videos: int
    no_label: int
    no_feature: int
    interrupted: bool = False
    """never: what was stopped goes on at the epoch that it was in"""


def train_skimmer(
    run: SkimRun,
    features: Features,
    labels: Mapping[str, FileLabels],
    folder: Path,
    *,
    progress: Progress = quiet,
) -> SkimTraining:
    """Trains `run` on stored `features` and the `labels` of their files, going on with the newest epoch in `folder`.

    Under `torchrun` every process takes its share of each batch. Raises UserError where the folder belongs to another
    run or other features, or the loss is no longer a number; StoreError where there is nothing to learn.
    """
    streams = [stream for stream in (Stream.VISUAL, Stream.AUDIO) if run.modalities in ("both", stream.value)]
    found = labelled_videos(features, labels, streams=streams, splits=run.data.splits, classes=run.data.classes or None)
    run = fit_to_videos(run, found, streams)
    judged = None
    if run.data.validation_split is not None:
        judged = labelled_videos(
            features, labels, streams=streams, splits=(run.data.validation_split,), classes=run.data.classes
        )
    device = pick_device(run.device)
    with distributed.process_group(device):
        _open_folder(run, features, found, folder)
        state = _State(run, folder, device)
        for epoch in range(state.epoch, run.epochs):
            record = _train_epoch(run, state, found.videos, epoch)
            if judged is not None:
                score = score_skimmer(state.model, judged.videos, run.data.classes, device=device)
                record["validation"] = {"accuracy": score.accuracy, "mean_average_precision": score.mean_precision}
            state.save(folder, record)
            progress(epoch + 1, run.epochs, f"loss {record['loss']:.4f}")
        if distributed.rank() == 0:
            save_checkpoint(
                folder / MODEL_NAME,
                state.model,
                preprocess={},
                labels=run.data.classes,
                extra={
                    "run": run.name,
                    "features": features.identity,
                    "splits": list(run.data.splits),  # of the labels, that it learned from; none: all
                    "objective": to_dict(run.objective),
                },
            )
        distributed.barrier()
    return SkimTraining(
        epochs=run.epochs,
        model=folder / MODEL_NAME,
        last=state.last,
        videos=len(found.videos),
        no_label=found.no_label,
        no_feature=found.no_feature,
    )


def fit_to_videos(run: SkimRun, found: LabelledVideos, streams: list[Stream]) -> SkimRun:
    """`run` with classes, their number, the widths of the features, and a loss instead of auto."""
    classes = run.data.classes or found.classes
    widths = dict.fromkeys(Stream, 0)
    for video in found.videos:
        widths |= {stream: rows.shape[1] for stream, rows in video.features.items()}
    missing = [stream.value for stream in streams if not widths[stream]]
    if missing:
        raise ConfigError(
            f"no video has {missing[0]} features; set modalities to the other one, or embed with a model that has both"
        )
    loss = run.objective.loss
    if loss == "auto":
        loss = "bce" if any(len(video.labels) > 1 for video in found.videos) else "ce"
    return replace(
        run,
        model=replace(
            run.model,
            num_classes=len(classes),
            audio_width=widths[Stream.AUDIO],
            visual_width=widths[Stream.VISUAL],
        ),
        objective=replace(run.objective, loss=loss),
        data=replace(run.data, classes=classes),
    )


# ---- one epoch


class _Trained(nn.Module):
    """Skimmer and loss as one module, so that gradients are averaged over ranks."""

    def __init__(self, model: Skimmer, config: SkimmingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(self, moments: Moments, target: Tensor, noise: Tensor) -> Step:
        return skimming_loss(self.model(moments, noise=noise), target, self.config)


def _train_epoch(run: SkimRun, state: "_State", videos: tuple[LabelledVideo, ...], epoch: int) -> dict[str, Any]:
    """The record of the epoch: means over its steps."""
    model, device = state.model.train(), next(state.model.parameters()).device
    trained = distributed.wrap(_Trained(model, run.objective))
    batches = list(_batches(run, videos, epoch))
    sums: dict[str, float] = {}
    for number, batch in enumerate(batches):
        step = epoch * len(batches) + number
        rate = learning_rate(run.optim, step=step, total_steps=run.epochs * len(batches), steps_per_epoch=len(batches))
        set_learning_rate(state.optimizer, rate)
        chosen = [videos[index] for index in batch.indices]
        moments = gather_moments(chosen, run.model, spans=batch.spans).to(device)
        noise = torch.from_numpy(batch.noise).to(device)
        result = trained(moments, label_targets(chosen, run.data.classes).to(device), noise)
        state.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        if run.optim.clip_norm is not None:
            clip_gradients([model], run.optim.clip_norm)
        state.optimizer.step()
        distributed.share_buffers(model)
        for name, value in {"loss": result.loss, **result.terms, **result.report}.items():
            sums[name] = sums.get(name, 0.0) + float(distributed.average(value.detach()))
    means = {name: total / len(batches) for name, total in sums.items()}
    if not np.isfinite(means["loss"]):
        raise UserError(
            f"the loss of epoch {epoch + 1} is {means['loss']}, so training stopped; try a lower optim.learning_rate "
            "or optim.clip_norm=1, in a new run folder"
        )
    return {"step": epoch + 1, **means, "learning_rate": rate}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    indices: list[int]
    spans: list[tuple[int, int]]
    noise: np.ndarray  # float32 (B, T)


def _batches(run: SkimRun, videos: tuple[LabelledVideo, ...], epoch: int) -> Iterator[_Batch]:
    """This rank's share of each batch; order, cuts and noise depend on the seed and the epoch alone."""
    order = epoch_order(run.seed, epoch, len(videos)).tolist()
    ranks = distributed.world_size()
    if len(order) < ranks:
        raise UserError(f"{ranks} processes cannot share {len(order)} videos; start fewer")
    for number, first in enumerate(range(0, len(order), run.data.batch_size)):
        chosen = order[first : first + run.data.batch_size]
        chosen = chosen[: len(chosen) // ranks * ranks]  # every rank as many; what is left comes in another epoch
        rng = np.random.default_rng([run.seed, epoch, number])
        length = int(rng.integers(run.data.shortest, run.data.longest + 1))
        starts = [int(rng.integers(0, max(0, len(videos[index]) - length) + 1)) for index in chosen]
        noise = rng.random((len(chosen), run.model.looks), dtype=np.float32)
        own = slice(distributed.rank(), None, ranks)
        spans = [(start, min(start + length, len(videos[index]))) for index, start in zip(chosen, starts, strict=True)]
        if chosen:
            yield _Batch(indices=chosen[own], spans=spans[own], noise=noise[own])


# ---- the run folder


class _State:
    """What training changes, as it is after the newest epoch in the folder."""

    def __init__(self, run: SkimRun, folder: Path, device: torch.device) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            self.model = Skimmer(run.model)
        if run.initial is not None:
            _take(self.model, run.initial)
        if run.freeze_fusion:
            if self.model.fusion is None or run.initial is None:
                raise ConfigError(
                    "freeze_fusion keeps a fusing network as it was: name one in initial, or set it to no"
                )
            self.model.fusion.requires_grad_(False)
        self.model.to(device)
        self.optimizer = build_optimizer(run.optim, [self.model])
        self.epoch = 0
        self.last: dict[str, Any] | None = None
        path = folder / _STATE_NAME
        if path.exists():
            try:
                saved = torch.load(path, map_location=device, weights_only=True)
            except Exception as error:  # torch raises a dozen kinds for a damaged file
                raise CheckpointError(f"{path} cannot be read ({error}); remove it to train from the start") from error
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.epoch, self.last = saved["epoch"], saved["last"]
        if distributed.rank() == 0:
            cut_back(folder / JOURNAL, self.epoch)
        distributed.barrier()

    def save(self, folder: Path, record: dict[str, Any]) -> None:
        """The epoch is over: the journal first, so that it never lacks an epoch that is done."""
        self.epoch, self.last = record["step"], record
        if distributed.rank() == 0:
            append_records(folder / JOURNAL, [record])
            beside = folder / f".{_STATE_NAME}.part"
            saved = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
            torch.save(saved | {"epoch": self.epoch, "last": record}, beside)
            beside.replace(folder / _STATE_NAME)
        distributed.barrier()


def _take(model: Skimmer, initial: str) -> None:
    """The fusing network and the head of a checkpoint whose sizes and classes are those of `model`."""
    source = load_checkpoint(find_checkpoint(Path(initial))).model
    taken = []
    for name in ("fusion", "head"):
        own, theirs = getattr(model, name), getattr(source, name, None)
        if not isinstance(own, Fusion | nn.Linear) or not isinstance(theirs, type(own)):
            continue
        if [p.shape for p in own.parameters()] == [p.shape for p in theirs.parameters()]:
            own.load_state_dict(theirs.state_dict())
            taken.append(name)
    if not taken:
        raise CheckpointError(f"{initial} has neither a fusing network nor a head of these sizes; name another initial")


def _open_folder(run: SkimRun, features: Features, found: LabelledVideos, folder: Path) -> None:
    """Writes run.json, or sees that the one there is of the same run."""
    values = {
        "run": to_dict(run),
        "features": features.identity,
        "videos": {"count": len(found.videos), "moments": sum(len(video) for video in found.videos)},
    }
    path = folder / _RUN_NAME
    if distributed.rank() == 0 and not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror or error}") from None
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    distributed.barrier()
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); start a new run in another folder") from None
    lines = [
        line for line in difference(saved, json.loads(json.dumps(values))) if line.partition(":")[0] not in _OPERATIONAL
    ]
    if lines:
        raise UserError(
            f"{folder} belongs to another run ({'; '.join(lines[:4])}); give the settings it was started with to go "
            "on, or another folder for a new run"
        )


# ---- recipes


def skim() -> SkimRun:
    """The skimmer of Listen to Look (Gao et al., CVPR 2020), as the published command trains it.

    Command:  lookhear finetune skim --store FEATURES --labels videos.csv --run FOLDER --set initial=STUDENT
    Data:     features of ActivityNet's training videos, N moments of 512 numbers each, from the fine-tuned student
    Hardware: not published; the features fit into memory
    Promise:  published on ActivityNet's validation videos with other features: mAP 71.67 to 76.61 for more and more
              moments (read off the paper's figure by others). Not measured here

    The fusing network is the student's and frozen, the head starts from the student's and learns ten times slower. The
    published run left the weights of the two attention maps out of the optimiser, which looks like a mistake:
    --set model.learn_modality_attention=false does so too. One modality: --set modalities=visual --set
    model.average_start=false --set freeze_fusion=false.
    """
    return SkimRun(
        name="skim",
        optim=OptimConfig(
            name="sgd",
            learning_rate=0.01,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
            decay_vectors=True,
            schedule="step",
            step_from=15,
            step_every=5,
            step_factor=0.1,
            head_ratio=0.1,
        ),
        freeze_fusion=True,
        epochs=25,
    )


def skim_tiny() -> SkimRun:
    """A small skimmer from scratch, for features of `lookhear embed` and a few hundred videos.

    Command:  lookhear finetune skim_tiny --store FEATURES --labels videos.csv --run FOLDER
    Data:     features of some hundred labelled videos of minutes, from any model
    Hardware: 2 CPU cores; a few minutes
    Promise:  none; it is there to be tried and changed. What it gained here over evenly spaced moments is in
              docs/methods.md

    Evenly spaced moments, to compare with: --set model.policy=uniform. It reads moments as they are and is judged by
    hard selection, so that with --set model.visual_every=4 (and perhaps audio_every) it can skim a file without
    decoding all of it.
    """
    return SkimRun(
        name="skim_tiny",
        model=SkimmerConfig(
            num_classes=1,
            selection="hard",
            read="moments",
            hidden_width=128,
            key_width=64,
            fusion_width=128,
            fused_width=128,
        ),
        data=SkimDataConfig(batch_size=32, shortest=100, longest=200),
        optim=OptimConfig(learning_rate=1e-3, weight_decay=0.01, warmup_share=0.05, clip_norm=1.0),
        epochs=40,
    )


SKIM_RECIPES = {"skim": skim, "skim_tiny": skim_tiny}
