"""What a classifier found in a file, as an index keeps it: `labels.py` makes it, searches read it."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal


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
