"""The study: rows of one size, trials that are not run twice, judges, and a page that says what came out."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from lookhear.errors import ConfigError, UserError
from lookhear.media.scenes import SceneSettings, make_scenes
from lookhear.study import cavmae
from lookhear.study.cavmae import CLAIMS, NOT_TRAINED, SYNC, StudySettings, grid_rows, judge, scene_rows, study
from lookhear.study.costs import encoder_parameters, step_gigaflops
from lookhear.study.page import BEGIN, END, claims_table, fill_page, tables
from lookhear.study.trials import Judgement, Outcome, Trial, run_trials, with_seed


def outcome(row: str, seed: int, **figures: float) -> Outcome:
    return Outcome(
        row=row,
        data="scenes",
        seed=seed,
        steps=7,
        encoder_parameters=1000,
        gigaflops=1.5,
        train_seconds=2.0,
        judge_seconds=1.0,
        figures=figures,
        context={"chance of R@1": 0.25},
    )


def test_rows_have_one_size_and_one_number_of_steps() -> None:
    for rows in (scene_rows(5), grid_rows(5)):
        trained = {row: run for row, run in rows.items() if row != NOT_TRAINED}
        sizes = [encoder_parameters(run) for run in trained.values()]
        assert max(sizes) <= 1.2 * min(sizes)
        assert {run.steps for run in trained.values()} == {5}
        assert {(run.data.batch_size, run.optim) for run in trained.values()} == {
            (run.data.batch_size, run.optim) for run in (rows[SYNC],)
        }
        for run in rows.values():
            run.check()


def test_the_cost_of_a_step_is_what_its_products_are() -> None:
    run = scene_rows(1)[SYNC]
    one, twice = (
        step_gigaflops(dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=size)))
        for size in (8, 16)
    )
    assert twice == pytest.approx(2 * one, rel=0.01)
    # A linear layer of width 128 on the tokens of the four windows of a clip is part of it, forward and back.
    tokens = run.data.windows_per_clip * (80 + 108) * 0.75
    assert one > 8 * 3 * tokens * 2 * (12 * 128 * 128) / 1e9


def _count(trial: Trial, folder: Path) -> Judgement:
    return Judgement(figures={"files": float(len(list(folder.iterdir())))}, context={})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four steps, made by the function that the command calls."""
    out = tmp_path_factory.mktemp("study")
    scenes = StudySettings(learn=24, test=8, probe_clips=16, located=2, steps=2, seeds=1)
    with pytest.MonkeyPatch.context() as patch:
        two = {row: _lighter(run) for row, run in scene_rows(2).items() if row in (NOT_TRAINED, SYNC)}
        patch.setattr(cavmae, "scene_rows", lambda steps: two)
        patch.setattr(
            "lookhear.media.scenes.make_scenes", partial(make_scenes, settings=SceneSettings(width=96, height=72))
        )
        study(out, settings=scenes, workers=0)
    return out


def _lighter(run):  # type: ignore[no-untyped-def]
    return dataclasses.replace(run, data=dataclasses.replace(run.data, batch_size=8))


def test_a_study_is_a_file_a_trial_and_every_figure_in_it(small: Path) -> None:
    results = {path.stem: json.loads(path.read_text()) for path in (small / "results").glob("*.json")}
    assert set(results) == {"scenes-not-trained-0", "scenes-cav-mae-sync-0"}
    found = results["scenes-cav-mae-sync-0"]["outcome"]
    assert found["steps"] == 2
    assert set(found["figures"]) == {
        "sound finds picture",
        "picture finds sound",
        "sync",
        "cIoU",
        "pointing",
        "probe, sound",
        "probe, picture",
        "probe, both",
    }
    assert all(0 <= value <= 1 for value in found["figures"].values())
    assert found["context"]["chance of R@1"] == pytest.approx(1 / 8)


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(tmp_path: Path, small: Path) -> None:
    run = dataclasses.replace(_lighter(scene_rows(1)[SYNC]), steps=1)
    trial = Trial(row="one", data="scenes", run=run, store=small / "scenes" / "learn.store")
    (first,) = run_trials([trial], tmp_path, _count, judged_on={"clips": 3}, workers=0)

    def never(trial: Trial, folder: Path) -> Judgement:
        raise AssertionError("it was judged already")

    assert run_trials([trial], tmp_path, never, judged_on={"clips": 3}, workers=0) == [first]
    other = dataclasses.replace(trial, run=dataclasses.replace(run, steps=2))
    with pytest.raises(UserError, match="other settings"):
        run_trials([other], tmp_path, never, judged_on={"clips": 3}, workers=0)
    with pytest.raises(UserError, match="or data"):
        run_trials([trial], tmp_path, never, judged_on={"clips": 4}, workers=0)
    with pytest.raises(ConfigError, match="same data, row and seed"):
        run_trials([trial, trial], tmp_path, never, judged_on={}, workers=0)
    assert with_seed(run, 4).seed == 4


def test_a_trial_that_fails_in_a_process_is_named(tmp_path: Path) -> None:
    trial = Trial(row="lost", data="scenes", run=scene_rows(1)[SYNC], store=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"scenes-lost-0 failed: .*nowhere"):
        run_trials([trial], tmp_path, partial(judge, data=None), judged_on={}, workers=1)  # type: ignore[arg-type]


def test_the_page_has_means_ranges_and_dashes(tmp_path: Path) -> None:
    outcomes = [outcome(SYNC, seed, sync=0.4 + seed / 10) for seed in (0, 1)]
    outcomes += [outcome(NOT_TRAINED, 0, cIoU=0.1)]
    page = tables(outcomes)
    assert "| CAV-MAE Sync | 2 | 0.450 [0.400, 0.500] | – |" in page
    assert "| not trained | 1 | – | 0.100 |" in page
    assert "chance of R@1 0.250" in page
    target = tmp_path / "study.md"
    target.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    fill_page(target, outcomes)
    filled = target.read_text()
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith(f"{END}\nafter\n")
    fill_page(target, outcomes)
    assert target.read_text() == filled
    target.write_text("no marks")
    with pytest.raises(UserError, match="no place for figures"):
        fill_page(target, outcomes)


def test_a_claim_is_counted_seed_by_seed() -> None:
    claim = next(claim for claim in CLAIMS if claim.says == "registers help")
    outcomes = [outcome(claim.better, seed, sync=0.5) for seed in (0, 1, 2)]
    outcomes += [outcome(claim.worse, seed, sync=worse) for seed, worse in ((0, 0.4), (1, 0.6))]
    assert "| registers help (scenes) | sync | +0.000 [-0.100, +0.100] | 1 of 2 |" in claims_table(outcomes)


def test_grid_needs_its_list(tmp_path: Path) -> None:
    settings = StudySettings(learn=1, test=1, seeds=0, steps=1)
    with pytest.raises(UserError, match=r"holds 0 lists"):
        cavmae._listed(tmp_path)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], ["a.mp4", "train"]])
    assert cavmae._listed(tmp_path) == [("a.mp4", "train")]
    assert settings.seeds == 0
