"""How data sets are judged, as their publishers and those who compare on them say: splits, windows, classifiers.

A published protocol is a value. What is printed beside a number is what was done, with every difference from it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lookhear.config import nearest
from lookhear.errors import ConfigError
from lookhear.tasks.labels.units import WindowChoice


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is learned from and what is judged, once."""

    train: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.train or not self.test or set(self.train) & set(self.test):
            raise ConfigError(
                f"a probe needs different splits to learn from and to be judged on, not {', '.join(self.train)} and "
                f"{', '.join(self.test)}"
            )

    @property
    def name(self) -> str:
        """The splits that are judged."""
        return "+".join(self.test)


def folds(names: Sequence[str]) -> tuple[Round, ...]:
    """Every one of `names` judged once, and learned from in the other rounds. Raises ConfigError for fewer than two."""
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"folds are at least two different splits, not {', '.join(names) or 'none'}")
    return tuple(Round(train=tuple(other for other in names if other != name), test=(name,)) for name in names)


FINE_TUNED = "a fine-tuned model"


def frozen(probe: str, *, stages: bool) -> str:
    """What a probe of frozen features is called in protocols."""
    return f"{probe} on {'the stages' if stages else 'pooled features'} of a frozen model"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a data set is judged; the number is the mean over rounds."""

    rounds: tuple[Round, ...]
    choice: WindowChoice
    """windows of each file when it is judged (and, with frozen features, when it is learned from)"""
    num_classes: int | None
    """null: it depends on the edition"""
    classifier: str
    """what names the files: FINE_TUNED, or what `frozen` says"""
    number: str
    """what is reported"""
    source: str
    """where the protocol is from"""
    window_seconds: float | None = None
    """of the published windows; null: it differs"""
    strength: float | None = None
    """C of the published SVM; null: none was published"""
    not_followed: tuple[str, ...] = ()
    """what is done otherwise here, whatever the settings"""

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits that are judged, in order."""
        return tuple(name for own in self.rounds for name in own.test)

    def differences(self, done: "Done") -> list[str]:
        """In what an evaluation differs from this protocol, a sentence each: to be printed beside its number."""
        found = list(self.not_followed)
        if done.splits != self.splits:
            found.append(f"judged on {', '.join(done.splits)}, not on {', '.join(self.splits)}")
        if done.choice != self.choice:
            found.append(f"{_in_words(done.choice)}, not {_in_words(self.choice)}")
        if self.window_seconds is not None and abs(done.window_seconds - self.window_seconds) > 1e-6:
            found.append(f"windows of {done.window_seconds:g} s, not {self.window_seconds:g} s")
        if self.num_classes not in (None, done.num_classes):
            found.append(f"{done.num_classes} classes, not {self.num_classes}")
        if done.classifier != self.classifier:
            found.append(f"{done.classifier}, not {self.classifier}")
        elif self.strength is not None and done.strength != self.strength:
            said = "chosen by cross-validation" if done.strength is None else f"{done.strength:g}"
            found.append(f"C {said}, not {self.strength:g}")
        return found

    def to_dict(self, name: str, done: "Done") -> dict[str, Any]:
        """What a result says of the protocol `name` that it follows."""
        return {
            "follows": name,
            "source": self.source,
            "number": self.number,
            "done": asdict(done),
            "differs": self.differences(done),
        }


@dataclass(frozen=True, kw_only=True)
class Done:
    """What an evaluation did, in the words of a protocol."""

    splits: tuple[str, ...]
    choice: WindowChoice
    window_seconds: float
    num_classes: int
    classifier: str
    strength: float | None = None
    """C of an SVM that was given; null: chosen, or no SVM"""


def _in_words(choice: WindowChoice) -> str:
    return f"{choice.windows or 'all disjoint'} windows of each {choice.unit}"


_THREE_SPLITS = tuple(Round(train=(f"train{number}",), test=(f"test{number}",)) for number in (1, 2, 3))
_ESC_FOLDS = folds([f"fold{number}" for number in range(1, 6)])
_ALL_WINDOWS = WindowChoice(unit="file")
_TEN_WINDOWS = WindowChoice(unit="file", windows=10)
_PICTURES_ARE_CUT = ("pictures are scaled to cover the model's size and cut around the centre, not to 8/7 of it first",)
_SOUND_IS_CUT = (
    "training windows are evenly spaced, not drawn at random with changes of speed of 3/4 to 4/3",
    "a window that reaches beyond the sound hears silence, not the beginning again",
)

PROTOCOLS = {
    "ucf101": Protocol(
        rounds=_THREE_SPLITS,
        choice=_TEN_WINDOWS,
        num_classes=101,
        classifier=FINE_TUNED,
        number="video@1, mean of three splits",
        source="AVID (Morgado et al., CVPR 2021): 10 clips per video, mean softmax",
        not_followed=_PICTURES_ARE_CUT,
    ),
    "ucf51": Protocol(
        rounds=_THREE_SPLITS[:1],
        choice=_ALL_WINDOWS,
        num_classes=51,
        classifier=FINE_TUNED,
        number="video@1, split 1",
        source="CCL (Chen et al., CVPR 2021): disjoint clips of 16 frames, mean softmax; the 51 classes with sound",
    ),
    "hmdb51": Protocol(
        rounds=_THREE_SPLITS,
        choice=_TEN_WINDOWS,
        num_classes=51,
        classifier=FINE_TUNED,
        number="video@1, mean of three splits",
        source="AVID (Morgado et al., CVPR 2021): 10 clips per video, mean softmax",
        not_followed=_PICTURES_ARE_CUT,
    ),
    "kinetics": Protocol(
        rounds=(Round(train=("train",), test=("val",)),),
        choice=_TEN_WINDOWS,
        num_classes=None,
        classifier=frozen("linear", stages=True),
        number="video@1 of the stages, and mAP, on val",
        source="AVID (Morgado et al., CVPR 2021): 10 clips per video, a linear map after batch norm for each stage",
        not_followed=_PICTURES_ARE_CUT,
    ),
    "activitynet": Protocol(
        rounds=(Round(train=("train",), test=("val",)),),
        choice=_ALL_WINDOWS,
        num_classes=200,
        classifier=FINE_TUNED,
        number="video@1 and mAP on val",
        source="CCL (Chen et al., CVPR 2021) and Listen to Look (Gao et al., CVPR 2020): whole videos",
    ),
    "esc50": Protocol(
        rounds=_ESC_FOLDS,
        choice=_TEN_WINDOWS,
        num_classes=50,
        classifier=frozen("svm", stages=True),
        number="accuracy, mean of the five official folds",
        source="AVID (Morgado et al., CVPR 2021): 10 windows of 2 s, one-vs-rest linear SVM of stages, C = 10",
        window_seconds=2.0,
        strength=10.0,
        not_followed=_SOUND_IS_CUT,
    ),
    "esc10": Protocol(
        rounds=_ESC_FOLDS,
        choice=_TEN_WINDOWS,
        num_classes=10,
        classifier=frozen("svm", stages=True),
        number="accuracy, mean of the five official folds",
        source="as ESC-50, of which it is a part: these methods published no protocol of its own",
        window_seconds=2.0,
        strength=10.0,
        not_followed=_SOUND_IS_CUT,
    ),
    "dcase": Protocol(
        rounds=(Round(train=("train",), test=("test",)),),
        choice=WindowChoice(unit="file", windows=60),
        num_classes=10,
        classifier=frozen("svm", stages=True),
        number="accuracy on the official test set",
        source="AVID (Morgado et al., CVPR 2021): 60 windows of 2 s, one-vs-rest linear SVM of stages, C = 1",
        window_seconds=2.0,
        strength=1.0,
        not_followed=_SOUND_IS_CUT,
    ),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a data set. Raises ConfigError for an unknown name, with the known ones."""
    if name not in PROTOCOLS:
        raise ConfigError(f"no protocol '{name}'{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
