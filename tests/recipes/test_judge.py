"""recipes/judge.py: retrieval on held-out clips as a run goes. If these fail, a run is judged on what it learns, or
differs from one that nobody looked at."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lookhear.recipes as recipes
from fake_store import FakeStore, small_run
from lookhear.data.preprocess import Preprocess
from lookhear.embedder import Embedder
from lookhear.recipes.judge import judge_retrieval
from lookhear.tasks.matching.retrieval import evaluate_retrieval
from lookhear.tasks.windows import embed_windows
from lookhear.training.journal import read_records
from lookhear.training.loop import train
from lookhear.training.run import Run


def split_run(**changes: Any) -> Run:
    run = small_run(**changes)
    return replace(run, data=replace(run.data, split="train", validation_split="val"))


class Watched(FakeStore):
    """Remembers whose pictures were looked at."""

    seen: set[int]

    def frames(self, index: int, which: Any) -> np.ndarray:
        self.__dict__.setdefault("seen", set()).add(index)
        return super().frames(index, which)


def test_the_numbers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    store: Any = Watched()
    run = split_run(steps=2)
    judge = judge_retrieval(run, store)
    figures: list[dict[str, float]] = []
    wanted: list[Any] = []

    def both(model: Any, preprocess: Any) -> dict[str, float]:
        store.seen = set()
        figures.append(dict(judge(model, preprocess)))
        assert store.seen == {0, 4, 8, 12}
        embedder = Embedder(model, Preprocess(preprocess), config=None, fingerprint="", device="cpu", dtype="float32")
        windows = embed_windows(embedder, store, indices=[0, 4, 8, 12])
        wanted.append(evaluate_retrieval(embedder, store, windows=windows))
        return figures[-1]

    train(run, store, tmp_path / "run", evaluators={"retrieval": both})
    (found,), (result,) = figures, wanted
    for name in ("audio_to_visual", "visual_to_audio"):
        side = getattr(result, name)
        assert [found[f"{name}_{key}"] for key in ("r1", "r5", "median_rank")] == [side.r1, side.r5, side.median_rank]
    assert (found["chance_r1"], found["chance_r5"]) == (0.25, 1.0)


def test_pretrain_judges_every_epoch_and_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.RECIPES, "small_run", small_run)
    monkeypatch.setattr(recipes, "Store", lambda path: FakeStore())
    split = ["data.split=train", "epochs=2"]
    for folder, settings in (("plain", []), ("judged", ["data.validation_split=val"])):
        recipes.pretrain("small_run", store="any", folder=tmp_path / folder, settings=[*split, *settings])
    plain, judged = (read_records(tmp_path / name / "journal.jsonl") for name in ("plain", "judged"))
    evaluations = [record.pop("evaluation", None) for record in judged]
    assert judged == plain
    assert [record["step"] for record, found in zip(judged, evaluations, strict=True) if found] == [2, 4]
    assert set(evaluations[-1]["retrieval"]) >= {"audio_to_visual_r1", "visual_to_audio_median_rank", "chance_r1"}
