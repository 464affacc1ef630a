"""The table that says what a contrastive method compares: who asks, which keys answer, and who learns from it.

    method                  keys      rows: query -> keys (positive)
    end to end              step      visual -> audio, audio -> visual; both learn
    memory bank, AVID cross bank      visual -> audio, audio -> visual
    AVID self               bank      visual -> visual, audio -> audio
    AVID joint              bank      all four
    CMA                     bank      cross, and visual -> visual, audio -> audio with positives that agree
    MoCo                    queue     visual -> audio, audio -> visual
    SSCL                    bank      phases of the above, one side standing still

Weights are used as they are: those of a method that takes a mean add up to 1.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from lookhear.errors import ConfigError

Side = Literal["audio", "visual"]
SIDES: tuple[Side, Side] = ("audio", "visual")


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One row: the windows of one side find their partners among keys of a side."""

    query: Side
    """whose live embeddings ask"""
    keys: Side
    """whose embeddings answer: those of the step, of a bank or of a queue"""
    weight: float = 1.0
    """of this row's loss"""
    positives: Literal["own", "agreeing"] = "own"
    """own: the key of the same clip; agreeing: keys of the clips that both modalities find alike (CMA)"""
    gradient: Literal["query", "both"] = "query"
    """query: keys are constants; both: the positive (of the step: every key) is live and learns too"""
    num_negatives: int | None = None
    """the first so many of the negatives; null: all"""

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ConfigError(f"the weight of {self.name} is {self.weight}; it must be above 0, or leave the row out")
        if self.positives == "agreeing" and self.gradient == "both":
            raise ConfigError(f"positives of {self.name} are entries of a bank, which cannot learn: set gradient=query")
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ConfigError(f"num_negatives of {self.name} is {self.num_negatives}; it must be at least 1, or null")

    @property
    def name(self) -> str:
        """What its loss is called in the journal."""
        return f"{self.query}_to_{self.keys}" + ("_agreeing" if self.positives == "agreeing" else "")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A table for some epochs."""

    table: tuple[Contrast, ...]
    epochs: int | None = None
    """how many; null: to the end of the run"""

    @property
    def learning(self) -> frozenset[Side]:
        """The sides that learn in it; the others stand still."""
        asked = {row.query for row in self.table}
        return frozenset(asked | {row.keys for row in self.table if row.gradient == "both"})


def weighted(rows: Iterable[Contrast], factor: float) -> tuple[Contrast, ...]:
    """The same rows with `factor` times their weights."""
    return tuple(replace(row, weight=row.weight * factor) for row in rows)


# The mean of both directions, as in AVID (Morgado et al., CVPR 2021, eq. 4-6).
CROSS = (Contrast(query="visual", keys="audio", weight=0.5), Contrast(query="audio", keys="visual", weight=0.5))
WITHIN = (Contrast(query="visual", keys="visual", weight=0.5), Contrast(query="audio", keys="audio", weight=0.5))
JOINT = weighted((*CROSS, *WITHIN), 0.5)
# The sum of both directions, in which every embedding of the step learns.
END_TO_END = tuple(replace(row, weight=1.0, gradient="both") for row in CROSS)


def agreement_table(within_weight: float = 1.0, *, num_negatives: int = 64) -> tuple[Contrast, ...]:
    """CMA: cross-modal instances, and `within_weight` times within-modal agreement, divided by the sum of both."""
    within = tuple(replace(row, positives="agreeing", num_negatives=num_negatives) for row in WITHIN)
    total = 1 + within_weight
    return weighted(CROSS, 1 / total) + weighted(within, within_weight / total)


def check_table(table: Iterable[Contrast]) -> None:
    """Raises ConfigError for a table without rows, or with two rows that are the same comparison."""
    names = [row.name for row in table]
    if not names:
        raise ConfigError("a table without rows compares nothing; give it at least one")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"the table has {twice[0]} more than once; give one row its whole weight")
