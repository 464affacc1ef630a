"""`Run`: everything that decides what a training run learns, as one frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lookhear.config import from_dict, nearest, to_dict
from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.device import Dtype
from lookhear.errors import ConfigError
from lookhear.models.checkpoint import MODELS
from lookhear.objectives import OBJECTIVES
from lookhear.training.optim import OptimConfig

MODEL_CONFIGS = {name: config for name, (config, _) in MODELS.items()}
# Settings that change where and how a run computes, not what it learns: they may differ when it is resumed.
OPERATIONAL = frozenset({"device", "data.num_workers", "checkpoint_every", "keep_checkpoints", "journal_every"})


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a step is made of."""

    batch_size: int = 32
    """clips in a step, over all processes"""
    windows_per_clip: int = 1
    """windows of each clip in a step"""
    windows: Literal["random", "disjoint"] = "random"
    """where they lie: anywhere, or not overlapping one another"""
    split: str | None = None
    """only clips of this split of the store; null: all"""
    measure_statistics: bool = False
    """measure mean and deviation of the log-mel on the store, instead of preprocess.audio_mean and audio_std"""
    num_workers: int = 2
    """processes that read the store, started anew for every epoch; 0: this one reads, best for a store of minutes"""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.windows_per_clip < 1 or self.num_workers < 0:
            raise ConfigError("batch_size and windows_per_clip must be at least 1, num_workers at least 0")


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
    checkpoint_every: int = 500
    """steps between checkpoints; there is always one at the end"""
    keep_checkpoints: int = 2
    """the newest that are kept; 0: all"""
    evaluate_every: int | None = None
    """steps between evaluations; null: at the end only"""
    journal_every: int = 10
    """steps between writes of the journal, and looks at whether the loss is still a number"""

    def __post_init__(self) -> None:
        counts = {"epochs": self.epochs, "checkpoint_every": self.checkpoint_every, "journal_every": self.journal_every}
        counts |= {"steps": self.steps or 1, "evaluate_every": self.evaluate_every or 1}
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
        wanted = {
            "audio_frames": self.preprocess.audio_frames,
            "num_mel_bins": self.preprocess.num_mel_bins,
            "picture_height": self.preprocess.picture_height,
            "picture_width": self.preprocess.picture_width,
            "picture_channels": 3 * self.preprocess.frames_per_window,
        }
        problems = [
            f"model.{name} is {getattr(self.model, name)} but the preprocessing gives {value}"
            for name, value in wanted.items()
            if getattr(self.model, name) != value
        ]
        if problems:
            raise ConfigError("; ".join(problems))

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
