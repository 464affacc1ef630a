"""tasks/learned.py. If these fail, figures of learned clips pass for figures of new ones."""

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lookhear.errors import StoreError
from lookhear.tasks.labels.classification import evaluate_classification
from lookhear.tasks.learned import check_baseline_apart, seen_in_training
from lookhear.tasks.matching.retrieval import evaluate_retrieval
from lookhear.tasks.matching.sync import evaluate_sync
from stand_ins import EmbedderStandIn, make_store
from tiny_embedder import classifier_embedder


class _Splits:
    """Ten clips, the first six of them for training."""

    digest, path = "one", "a store"

    def clips_in_split(self, name: str) -> np.ndarray:
        return {"train": np.arange(6), "test": np.arange(6, 10), "late": np.arange(5, 10)}[name]


def _model(**extra: object) -> Any:
    return SimpleNamespace(extra=extra)


def test_clips_are_compared_and_not_names_of_splits(caplog: pytest.LogCaptureFixture) -> None:
    store: Any = _Splits()
    model = _model(store="one", splits=["train"])
    assert seen_in_training(model, store, np.arange(6, 10)) is False
    assert not caplog.records
    assert seen_in_training(model, store, [5, 6, 7]) is True
    assert "learned from train, and so from 1 of the 3 clips" in caplog.text


def test_a_model_without_splits_learned_all_of_its_store(caplog: pytest.LogCaptureFixture) -> None:
    store: Any = _Splits()
    assert seen_in_training(_model(store="one", splits=[]), store, [7]) is True
    assert "from all of the store, and so from 1 of the 1 clips" in caplog.text


@pytest.mark.parametrize("extra", [{}, {"store": "another", "splits": []}, {"store": "one"}])
def test_what_a_checkpoint_does_not_say_is_unknown(extra: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    store: Any = _Splits()
    assert seen_in_training(_model(**extra), store, [0]) == "unknown"
    assert not caplog.records


def test_a_baseline_is_not_fitted_on_what_is_judged() -> None:
    store, other = make_store(count=3), make_store(count=3)
    other.digest = "other"
    check_baseline_apart(other, store)  # type: ignore[arg-type]
    for judge in (evaluate_retrieval, evaluate_sync):
        with pytest.raises(StoreError, match=r"whose clips are judged.*--learned-from"):
            judge(EmbedderStandIn(), store, train_store=store)  # type: ignore[operator]


def test_every_result_says_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    store = make_store(count=4, labels=2)
    trained = {"store": store.digest, "splits": []}
    model = EmbedderStandIn()
    assert evaluate_retrieval(model, store).protocol["seen_in_training"] == "unknown"  # type: ignore[arg-type]
    model.extra = trained  # type: ignore[misc]
    results = [
        evaluate_retrieval(model, store),  # type: ignore[arg-type]
        evaluate_sync(model, store),  # type: ignore[arg-type]
        evaluate_classification(classifier_embedder(("kind 0", "kind 1"), extra=trained), store),  # type: ignore[arg-type]
    ]
    assert [result.protocol["seen_in_training"] for result in results] == [True] * 3
    assert len(caplog.records) == 3
