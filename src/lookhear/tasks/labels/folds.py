"""Parts of the training side, held out in turn: how settings are chosen without a look at the test side. n clips."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_FOLDS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Folds:
    """What is learned from and what is held out, for each fold: numbers of training clips."""

    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]
    description: str

    def __len__(self) -> int:
        return len(self.pairs)


def training_folds(
    labels: np.ndarray, groups: np.ndarray | None = None, *, parts: np.ndarray | None = None, seed: int = 0
) -> Folds:
    """Folds of clips with `labels` str (n,); none where a class cannot be held out and learned at the same time.

    `parts` (n,), where they are at least two, are the folds: the official ones of a data set, say, which keep together
    what was cut from one recording. Otherwise clips of one of `groups` (n,), such as clips of one file, stay together:
    what was seen of a file would otherwise be judged on the same file.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if parts is not None and len(np.unique(parts)) > 1:
        names = np.unique(parts)
        pairs = tuple((np.flatnonzero(parts != name), np.flatnonzero(parts == name)) for name in names)
        if all(len(set(labels[learned].tolist())) > 1 for learned, _ in pairs):
            return Folds(pairs=pairs, description=f"cross-validation over {', '.join(map(str, names))}")
    groups = np.arange(len(labels)) if groups is None else groups
    num_folds = min(MAX_FOLDS, _fewest_groups(labels, groups))
    if num_folds < 2:
        return Folds(pairs=(), description="default: a class has one clip (or file) only")
    description = f"{num_folds}-fold cross-validation"
    if len(np.unique(groups)) == len(groups):
        split = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels)
        return Folds(pairs=tuple(split), description=description)
    grouped = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed).split(labels, labels, groups)
    return Folds(pairs=tuple(grouped), description=f"{description}, clips of a file together")


def without_folds(strengths: Sequence[float]) -> float:
    """The strength that is taken where nothing can be held out to choose one: the nearest to 1, by its logarithm."""
    return min(strengths, key=lambda strength: abs(math.log(strength)))


def _fewest_groups(labels: Sequence[str] | np.ndarray, groups: Sequence[object] | np.ndarray) -> int:
    """In how many groups the class is that is in the fewest."""
    members: dict[str, set[object]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        members[str(label)].add(group)
    return min(len(own) for own in members.values())
