"""Did the model learn from what it is judged on? Then its figures say what it remembers, not what it can do.

A checkpoint names the store that it learned from, by its digest, and the splits. Clips are compared, not names of
splits. What a checkpoint does not say stays unknown: of another store, which may hold the same files, of published
files, and of weights that a run started from.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from lookhear.errors import StoreError

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

# Whether any of the judged clips was learned from; every result has it in its protocol.
Seen = bool | Literal["unknown"]

# Shown on stderr without any setting up, from Python too: figures of learned clips must not pass in silence.
_log = logging.getLogger("lookhear")


def seen_in_training(embedder: "Embedder", store: "Store", indices: np.ndarray | Sequence[int]) -> Seen:
    """Whether the checkpoint learned from any of the clips `indices` of `store`; if so, a warning says how many."""
    learned = _learned_of(embedder, store, indices)
    if learned is None:
        return "unknown"
    if not len(learned):
        return False
    _log.warning(
        "the model learned from %s, and so from %d of the %d clips that it is judged on: these figures "
        "are of training; for what it can do with new clips, judge a split or a store that it did not learn from",
        _splits(embedder),
        len(learned),
        len(indices),
    )
    return True


def check_not_learned(embedder: "Embedder", store: "Store", split: str) -> None:
    """Raises StoreError where the checkpoint says that it learned from clips of this very store that are judged."""
    indices = store.clips_in_split(split)
    learned = _learned_of(embedder, store, indices)
    if learned is not None and len(learned):
        raise StoreError(
            f"the model learned from {_splits(embedder)}, which has {len(learned)} of the {len(indices)} clips of "
            f"'{split}'; judge it on a split that it did not learn from"
        )


def check_baseline_apart(learned_from: "Store", judged: "Store") -> None:
    """Raises StoreError where a baseline would be fitted on the clips that it is then judged on."""
    if learned_from.digest == judged.digest:
        raise StoreError(
            f"the linear baseline would be fitted on {learned_from.path}, whose clips are judged, and look better than "
            "it is; name the store that the model learned from as --learned-from, and another as --store"
        )


def _learned_of(embedder: "Embedder", store: "Store", indices: np.ndarray | Sequence[int]) -> np.ndarray | None:
    """int64: those of `indices` that the checkpoint's run learned from; None where it does not say."""
    if embedder.extra.get("store") != store.digest or "splits" not in embedder.extra:
        return None
    judged = np.unique(np.asarray(indices, np.int64))
    splits = embedder.extra["splits"]
    if not splits:
        return judged
    return np.intersect1d(judged, np.concatenate([store.clips_in_split(name) for name in splits]))


def _splits(embedder: "Embedder") -> str:
    return ", ".join(embedder.extra["splits"]) or "all of the store"
