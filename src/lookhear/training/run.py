"""`Run`: everything that decides what a training run learns, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lookhear.config import from_dict, nearest, to_dict
from lookhear.data.augment import AugmentConfig
from lookhear.data.dataset import Modalities, Sampling, WindowMode
from lookhear.data.preprocess import PreprocessConfig
from lookhear.data.store import Store
from lookhear.device import Dtype
from lookhear.distributed import Parallel
from lookhear.errors import ConfigError, StoreError
from lookhear.models.checkpoint import MODELS
from lookhear.objectives import OBJECTIVES
from lookhear.training.loggers import LoggerName
from lookhear.training.optim import OptimConfig

MODEL_CONFIGS = {name: config for name, (config, _) in MODELS.items()}
# Splits on which no checkpoint may be chosen, in lower case and without a number.
TEST_SPLITS = frozenset({"test", "eval", "evaluation"})
# Settings that change where and how a run computes, not what it learns: they may differ when it is resumed.
OPERATIONAL = frozenset(
    {
        "device",
        "parallel",
        "compile",
        "activation_checkpointing",
        "optim.accumulate",
        "data.num_workers",
        "checkpoint_every",
        "keep_checkpoints",
        "journal_every",
        "loggers",
    }
)


def is_test_split(name: str) -> bool:
    """Whether a split is there to be judged on, by its name: test1 is the test set of split 1."""
    return name.lower().rstrip("0123456789") in TEST_SPLITS


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a step is made of."""

    batch_size: int = 32
    """clips in a step, over all processes"""
    windows_per_clip: int = 1
    """windows of each clip in a step"""
    windows: WindowMode = "random"
    """where they lie: anywhere; not overlapping one another; published: around pictures at fixed places of the clip"""
    pairs_per_clip: int = 16
    """pictures of a clip, with their windows, that windows=published chooses from; 10 in CAV-MAE, 16 in Sync"""
    split: str | tuple[str, ...] | None = None
    """only clips of this split of the store, or of these; null: all"""
    validation_split: str | None = None
    """split of the store that a run is judged on as it goes, by labels or by retrieval; never the test set"""
    classes: tuple[str, ...] = ()
    """labels in the order of a classifier's outputs; empty: all of the chosen clips, sorted"""
    sampling: Sampling = "shuffle"
    """shuffle: every clip once an epoch; balanced: drawn with replacement, those with rare labels more often;
    weighted: the same by the weights that the list of clips came with"""
    measure_statistics: bool = False
    """measure mean and deviation of the log-mel on the store, instead of preprocess.audio_mean and audio_std"""
    num_workers: int = 2
    """processes that read the store, started once a run; 0: this one reads, best for a store of minutes"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.windows_per_clip < 1 or self.num_workers < 0:
            raise ConfigError("batch_size and windows_per_clip must be at least 1, num_workers at least 0")
        if self.validation_split is not None:
            self._check_validation(self.validation_split)

    def _check_validation(self, name: str) -> None:
        if is_test_split(name):
            raise ConfigError(
                f"data.validation_split is '{name}': a checkpoint chosen on the test set makes its score too good; "
                "choose on a part of the training clips"
            )
        if name in self.splits:
            raise ConfigError(
                f"data.validation_split '{name}' would be learned from as well; name the other splits in data.split"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        """The names in `split`."""
        return (self.split,) if isinstance(self.split, str) else self.split or ()

    def clips_of(self, store: Store) -> np.ndarray | None:
        """int64: the clips of `store` that are learned from, ascending; None for all of them."""
        if self.split is None:
            return None
        return np.sort(np.concatenate([store.clips_in_split(name) for name in self.splits]))

    def check_splits(self, store: Store) -> None:
        """Raises StoreError for a validation split that `store` has not, or of which clips are learned from."""
        name = self.validation_split
        if name is None:
            return
        held, learned = store.clips_in_split(name), self.clips_of(store)
        if learned is None:
            raise StoreError(
                f"data.validation_split '{name}' would be learned from as well, as all of the store is; name the "
                "splits to learn from in data.split, such as data.split=train"
            )
        shared = len(np.intersect1d(held, learned))
        if shared:  # files may belong to several splits
            raise StoreError(
                f"{shared} clips of data.validation_split '{name}' are also in data.split; choose a validation split "
                "that shares none with it"
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. A recipe is a function that returns one; `--set a.b=value` replaces settings in it."""

    name: str
    """of the recipe"""
    model: Any
    """sizes of the model: the configuration of one of MODELS"""
    preprocess: PreprocessConfig
    """from files to the model's input; saved in every checkpoint"""
    objective: Any
    """what is minimised: the configuration of one of OBJECTIVES"""
    initial: str | None = None
    """weights to start from: a checkpoint, run folder, published or vision MAE file, or fetched weights' name"""
    data: DataConfig = field(default_factory=DataConfig)
    """what a step is made of"""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """how windows are changed before they are learned from"""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """optimiser and schedule"""
    epochs: int = 1
    """passes over the clips"""
    steps: int | None = None
    """steps of the optimiser instead of epochs"""
    seed: int = 0
    """of weights, order, windows and masks"""
    dtype: Dtype = "auto"
    """of matrix products; auto: bfloat16 where the hardware multiplies it"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    parallel: Parallel = "ddp"
    """of several processes, what each keeps: ddp: everything; fsdp: its part of weights, gradients and optimiser"""
    compile: bool = False
    """let torch compile the blocks of the model; on a CPU that takes a C++ compiler"""
    activation_checkpointing: bool = False
    """keep only what enters each block, and compute the block again in the backward pass: less memory, more time"""
    checkpoint_every: int = 500
    """steps between checkpoints; there is always one at the end"""
    keep_checkpoints: int = 2
    """the newest that are kept; 0: all"""
    evaluate_every: int | Literal["epoch"] | None = None
    """steps between evaluations, or at the end of every epoch; null: at the end only"""
    select: str | None = None
    """number by which the best checkpoint is chosen and kept, such as validation.accuracy; null: none is"""
    average_epochs: tuple[int, int] | None = None
    """first and last epoch, from 1, whose weights are averaged into checkpoints/average; null: none"""
    journal_every: int = 10
    """steps between writes of the journal, and looks at whether the loss is still a number"""
    loggers: tuple[LoggerName, ...] = ()
    """what gets the journal's numbers as well: tensorboard, wandb; one that is missing or fails stops nothing"""

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "checkpoint_every": self.checkpoint_every, "journal_every": self.journal_every}
        every = self.evaluate_every if isinstance(self.evaluate_every, int) else 1
        counts |= {"steps": self.steps or 1, "evaluate_every": every}
        problems = [f"{name} is {value}; it must be at least 1" for name, value in counts.items() if value < 1]
        for part, value, kinds in (("model", self.model, MODEL_CONFIGS), ("objective", self.objective, OBJECTIVES)):
            if type(value) not in kinds.values():
                problems.append(f"'{part}' cannot be {value!r}; set its parts, such as {part}.NAME=VALUE")
        if self.keep_checkpoints < 0:
            problems.append("keep_checkpoints cannot be negative")
        if problems:
            raise ConfigError("; ".join(problems))

    def check(self) -> None:
        """Raises ConfigError where the parts contradict each other (apart, so that `--set` may change them in turn)."""
        sizes = getattr(self.model, "encoder", self.model)  # a classifier's are those of its encoder
        wanted = {
            "audio_frames": self.preprocess.audio_frames,
            "num_mel_bins": self.preprocess.num_mel_bins,
            "picture_height": self.preprocess.picture_height,
            "picture_width": self.preprocess.picture_width,
            "picture_channels": 3 * self.preprocess.frames_per_window,
        }
        problems = [
            f"{'model' if sizes is self.model else 'model.encoder'}.{name} is {getattr(sizes, name)} but the "
            f"preprocessing gives {value}"
            for name, value in wanted.items()
            if getattr(sizes, name) != value
        ]
        if self.data.classes and self.num_classes not in (0, len(self.data.classes)):
            problems.append(f"model.num_classes is {self.num_classes} but data.classes has {len(self.data.classes)}")
        if self.average_epochs is not None:
            first, last = self.average_epochs
            if self.steps is not None:
                problems.append("average_epochs counts epochs and the run is counted in steps: set one of them to null")
            elif not 1 <= first <= last <= self.epochs:
                problems.append(f"average_epochs is {first} to {last}; the run has epochs 1 to {self.epochs}")
        if problems:
            raise ConfigError("; ".join(problems))

    @property
    def num_classes(self) -> int:
        """Labels that the model tells apart; 0 where it does not classify."""
        return int(getattr(self.model, "num_classes", 0))

    @property
    def labelled(self) -> bool:
        """Whether only clips with a label are learned from: a classifier can also learn from a teacher."""
        return self.num_classes > 0 and bool(getattr(self.objective, "needs_labels", True))

    @property
    def read_modalities(self) -> Modalities:
        """What training reads, and so what a clip must have: what the model does, and what a teacher of it does."""
        reads = {self.modalities, *getattr(self.objective, "reads", ())}
        return self.modalities if len(reads) == 1 else "both"

    @property
    def modalities(self) -> Modalities:
        """What the model reads."""
        mode = str(getattr(self.model, "mode", getattr(self.model, "modalities", "both")))
        read: Modalities = mode.removesuffix("_of_both")  # type: ignore[assignment]
        return read

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON values; model and objective carry their name as `kind`."""
        values: dict[str, Any] = to_dict(self)
        values["model"] = {"kind": model_kind(self.model), **values["model"]}
        values["objective"] = {"kind": _kind_of(self.objective, OBJECTIVES), **values["objective"]}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Run":
        """The inverse of `to_dict`. Raises ConfigError for unknown kinds, names, missing settings and wrong types."""
        parts = dict(values)
        kinds: Mapping[str, type]
        for part, kinds in (("model", MODEL_CONFIGS), ("objective", OBJECTIVES)):
            settings = dict(parts.get(part, {}))
            kind = settings.pop("kind", None)
            if kind not in kinds:
                raise ConfigError(f"no {part} of kind {kind!r}{nearest(str(kind), kinds)}")
            parts[part] = from_dict(kinds[kind], settings, where=f"{part}.")
        return from_dict(cls, parts)


def model_kind(config: Any) -> str:
    """The name in MODELS of the model that `config` describes."""
    return _kind_of(config, MODEL_CONFIGS)


def _kind_of(config: object, kinds: Mapping[str, type]) -> str:
    for name, kind in kinds.items():
        if type(config) is kind:
            return name
    raise ConfigError(f"{type(config).__name__} is not known here; known: {', '.join(kinds)}")
