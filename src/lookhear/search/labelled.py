"""What a classifier found in a file, as an index keeps it: `labels.py` makes it, searches read it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lookhear.errors import IndexStateError

_SHOWN = 10  # names of labels in a sentence


@dataclass(frozen=True, kw_only=True)
class LabelledStretch:
    """A stretch of a file with one label. Times are on the file's clock."""

    label: str
    start_seconds: float
    end_seconds: float
    peak_seconds: float  # the middle of the window with the highest score
    score: float  # of that window: a probability

    def meets(self, start_seconds: float, end_seconds: float) -> bool:
        """Whether it has any of these seconds."""
        return self.start_seconds < end_seconds and self.end_seconds > start_seconds


@dataclass(frozen=True, kw_only=True)
class FileLabels:
    """All labelled stretches of a file."""

    made_by: str  # names the classifier and its settings
    matched: Literal["sound", "picture", "both"]  # what it reads
    stretches: tuple[LabelledStretch, ...]

    def named(self, label: str) -> list[LabelledStretch]:
        """Those with this label, whatever its capitals."""
        wanted = label.casefold()
        return [stretch for stretch in self.stretches if stretch.label.casefold() == wanted]


def labels_between(labels: FileLabels | None, start_seconds: float, end_seconds: float) -> tuple[str, ...]:
    """What a classifier named in these seconds of a file, the most probable first, each once."""
    if labels is None:
        return ()
    found = [each for each in labels.stretches if each.meets(start_seconds, end_seconds)]
    return tuple(dict.fromkeys(each.label for each in sorted(found, key=lambda each: -each.score)))


def check_label(name: str, files: Sequence[FileLabels | None], index: object) -> None:
    """Raises IndexStateError, with some labels that there are, where none of the files of `index` has this one."""
    if any(labels is not None and labels.named(name) for labels in files):
        return
    known = list(counted(files))
    if not known:
        raise IndexStateError(f"{index} has no labels; make them with `lookhear label MODEL --index {index}`")
    more = ", ..." if len(known) > _SHOWN else ""
    raise IndexStateError(f"no moment of {index} has the label '{name}'; there are {', '.join(known[:_SHOWN])}{more}")


def counted(files: Iterable[FileLabels | None]) -> dict[str, int]:
    """How many stretches of these files have each label, in the order of the alphabet.

    Labels that differ in capitals alone are one, as for `named`, by the name that comes first.
    """
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for stretch in (each for labels in files if labels is not None for each in labels.stretches):
        key = stretch.label.casefold()
        counts[key] = counts.get(key, 0) + 1
        names[key] = min(names.get(key, stretch.label), stretch.label)
    return {names[key]: counts[key] for key in sorted(counts)}


def to_text(labels: FileLabels) -> str:
    """As the table of files holds it."""
    return json.dumps(asdict(labels), ensure_ascii=False)


def from_text(text: str) -> FileLabels | None:
    """What `to_text` wrote; None of an empty text: a file that was not labelled."""
    if not text:
        return None
    values: dict[str, Any] = json.loads(text)
    stretches = tuple(LabelledStretch(**stretch) for stretch in values.pop("stretches"))
    return FileLabels(stretches=stretches, **values)
