"""The study: rows of one size, trials that are not run twice, judges, and a page that says what came out."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest

from lookhear.errors import ConfigError, UserError
from lookhear.media.scenes import SceneSettings
from lookhear.study import cavmae
from lookhear.study.cavmae import CLAIMS, NOT_TRAINED, SYNC, StudySettings, grid_rows, judge, scene_rows, study
from lookhear.study.claims import Claim, find
from lookhear.study.costs import encoder_parameters, step_gigaflops, window_megaflops
from lookhear.study.made_data import scene_store
from lookhear.study.page import BEGIN, END, ROWS_END, claims_table, fill_page, places_of, tables
from lookhear.study.trials import Judgement, Training, name_of, run_folder, run_trials, with_seed
from noted import Noted, outcome


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
    # one window, forward alone and with nothing removed; the decoder has no part in it
    assert 0.2 < window_megaflops(run) * 3 * run.data.windows_per_clip * run.data.batch_size / (4e3 * one) < 1.0


def _count(trial: Training, folder: Path) -> Judgement:
    return Judgement(figures={"files": float(len(list(folder.iterdir())))}, context={})


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four steps, made by the function that the command calls."""
    out = tmp_path_factory.mktemp("study")
    scenes = StudySettings(learn=24, test=8, probe_clips=16, located=2, steps=2, seeds=1)
    with pytest.MonkeyPatch.context() as patch:
        two = {row: _lighter(run) for row, run in scene_rows(2).items() if row in (NOT_TRAINED, SYNC)}
        patch.setattr(cavmae, "scene_rows", lambda steps: two)
        little = partial(scene_store, scene=SceneSettings(width=96, height=72))
        patch.setattr("lookhear.study.made_data.scene_store", little)
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
    trial = Training(
        row="one",
        data="scenes",
        run=run,
        store=small / "scenes" / "learn.store",
        judge=_count,
        judged_on={"clips": 3},
    )
    (first,) = run_trials([trial], tmp_path, workers=0)

    def never(trial: Training, folder: Path) -> Judgement:
        raise AssertionError("it was judged already")

    assert run_trials([dataclasses.replace(trial, judge=never)], tmp_path, workers=0) == [first]
    other = dataclasses.replace(trial, run=dataclasses.replace(run, steps=2))
    with pytest.raises(UserError, match="other settings"):
        run_trials([other], tmp_path, workers=0)
    with pytest.raises(UserError, match="or data"):
        run_trials([dataclasses.replace(trial, judged_on={"clips": 4})], tmp_path, workers=0)
    with pytest.raises(UserError, match="other settings"):
        run_trials([dataclasses.replace(trial, taught_by={"objective.teacher": "scenes-one-0"})], tmp_path, workers=0)
    with pytest.raises(ConfigError, match="same data, row and seed"):
        run_trials([trial, trial], tmp_path, workers=0)
    assert with_seed(run, 4).seed == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_trials_wait_for_those_that_they_need(tmp_path: Path, workers: int) -> None:
    last = Noted(row="pupil", needs=("notes-teacher-0", "notes-other-teacher-0"))
    trials = [last, Noted(row="other teacher", needs=("notes-teacher-0",)), Noted(row="teacher")]
    assert [found.row for found in run_trials(trials, tmp_path, workers=workers)] == [
        "pupil",
        "other teacher",
        "teacher",
    ]
    assert (tmp_path / "order.txt").read_text().split("\n") == ["teacher", "other teacher", "pupil", ""]
    run_trials(trials, tmp_path, workers=workers)
    assert len((tmp_path / "order.txt").read_text().split()) == 4, "nothing was done twice"


def test_trials_that_cannot_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no trial notes-nobody-0"):
        run_trials([Noted(row="pupil", needs=("notes-nobody-0",))], tmp_path, workers=0)
    circle = [Noted(row="one", needs=("notes-two-0",)), Noted(row="two", needs=("notes-one-0",))]
    for workers in (0, 1):
        with pytest.raises(ConfigError, match="notes-one-0, notes-two-0 need each other"):
            run_trials(circle, tmp_path, workers=workers)
    broken = [Noted(row="teacher", fails=True), Noted(row="pupil", needs=("notes-teacher-0",)), Noted(row="third")]
    with pytest.raises(UserError, match="notes-teacher-0 failed: UserError: it broke"):
        run_trials(broken, tmp_path, workers=1)
    assert not (tmp_path / "results" / "notes-pupil-0.json").exists()
    mended = [dataclasses.replace(broken[0], fails=False), *broken[1:]]
    assert len(run_trials(mended, tmp_path, workers=0)) == 3


def test_a_trial_that_fails_in_a_process_is_named(tmp_path: Path) -> None:
    trial = Training(
        row="lost",
        data="scenes",
        run=scene_rows(1)[SYNC],
        store=tmp_path / "nowhere",
        judge=partial(judge, data=None),  # type: ignore[arg-type]
        judged_on={},
    )
    with pytest.raises(UserError, match=r"scenes-lost-0 failed: .*nowhere"):
        run_trials([trial], tmp_path, workers=1)
    assert not run_folder(tmp_path, name_of(trial)).exists()


def test_the_page_has_means_ranges_and_dashes(tmp_path: Path) -> None:
    outcomes = [outcome(SYNC, seed, sync=0.4 + seed / 10) for seed in (0, 1)]
    outcomes += [outcome(NOT_TRAINED, 0, cIoU=0.1)]
    page = tables(outcomes, CLAIMS)
    assert "| CAV-MAE Sync | 2 | 0.450 [0.400, 0.500] | – |" in page
    assert "| not trained | 1 | – | 0.100 |" in page
    assert "chance of R@1 0.250" in page
    target = tmp_path / "study.md"
    target.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    fill_page(target, outcomes, CLAIMS)
    filled = target.read_text()
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith(f"{END}\nafter\n")
    fill_page(target, outcomes, CLAIMS)
    assert target.read_text() == filled
    target.write_text("no marks")
    with pytest.raises(UserError, match="no place for figures"):
        fill_page(target, outcomes, CLAIMS)


def test_a_place_for_rows_has_these_alone(tmp_path: Path) -> None:
    place = "<!-- study:rows one; two -->\nold\n{end}\n\nbetween\n\n<!-- study:rows three -->\n{end}\n"
    text = place.format(end=ROWS_END) + f"{BEGIN}\n{END}\n"
    target = tmp_path / "page.md"
    target.write_text(text)
    fill_page(target, [outcome(row, 0, sync=value) for row, value in (("two", 0.2), ("one", 0.1), ("four", 0.4))], ())
    filled = target.read_text()
    first = filled.partition("between")[0]
    assert "| one | 1 | 0.100 |\n| two | 1 | 0.200 |" in first
    assert "four" not in first
    assert "chance of R@1 0.250" in first
    assert "old" not in filled
    assert "Not measured yet." in filled.partition("between")[2]
    assert places_of(filled) == places_of(text) == [("one", "two"), ("three",)]


def test_a_claim_is_counted_seed_by_seed() -> None:
    claim = next(claim for claim in CLAIMS if claim.says == "registers help")
    outcomes = [outcome(claim.better, seed, sync=0.5) for seed in (0, 1, 2)]
    outcomes += [outcome(claim.worse, seed, sync=worse) for seed, worse in ((0, 0.4), (1, 0.6))]
    told = claims_table(outcomes, CLAIMS)
    assert "| registers help (scenes) | sync | +0.000 [-0.100, +0.100] | 1 of 2 | cannot be told |" in told
    assert claims_table([], CLAIMS) == ""


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ((0.5, 0.6, 0.7), (0.1, 0.2, 0.3), "holds"),
        ((0.5, 0.6, 0.2), (0.1, 0.3, 0.1), "in every seed, but within their spread"),
        ((0.5, 0.6, 0.2), (0.1, 0.3, 0.3), "cannot be told"),
        ((0.1, 0.1, 0.2), (0.1, 0.3, 0.3), "does not hold"),
        ((0.5,), (0.1, 0.2, 0.3), "one seed tells nothing"),
    ],
)
def test_verdicts(better: tuple[float, ...], worse: tuple[float, ...], verdict: str) -> None:
    claim = Claim(says="more", better="a", worse="b", figures=("sync",))
    rows = (("a", better), ("b", worse))
    found = find([outcome(row, seed, sync=v) for row, own in rows for seed, v in enumerate(own)], claim, "sync")
    assert found is not None
    assert found.verdict == verdict
    assert found.values == pytest.approx([one - two for one, two in zip(better, worse, strict=False)])
    assert find([outcome("a", 0, sync=1.0), outcome("b", 1, sync=1.0)], claim, "sync") is None, "no seed has both"


def test_a_claim_of_keeping_is_a_share_above_chance_and_has_its_cost() -> None:
    claim = Claim(says="most", better="a", worse="b", figures=("sync",), keeps=0.8, chance="chance of R@1")
    outcomes = [outcome("a", seed, window=20.0, sync=0.25 + kept * 0.4) for seed, kept in enumerate((0.9, 0.7))]
    outcomes += [outcome("b", seed, window=80.0, sync=0.65) for seed in (0, 1)]
    found = find(outcomes, claim, "sync")
    assert found is not None
    assert found.values == pytest.approx((0.9, 0.7))
    assert (found.held, found.cost_ratio, found.verdict) == ((True, False), 0.25, "cannot be told")
    (line,) = claims_table(outcomes, [claim]).splitlines()[2:]
    assert (
        "0.800 [0.700, 0.900] of what is above chance is kept, at 0.250 of the operations of a window | 1 of 2" in line
    )
    empty = find([outcome("a", 0, sync=0.9), outcome("b", 0, sync=0.2)], claim, "sync")
    assert empty is not None
    assert empty.held == (False,), "where the other is below chance there is nothing to keep"


def test_grid_needs_its_list(tmp_path: Path) -> None:
    settings = StudySettings(learn=1, test=1, seeds=0, steps=1)
    with pytest.raises(UserError, match=r"holds 0 lists"):
        cavmae._listed(tmp_path)
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split"], ["a.mp4", "train"]])
    assert cavmae._listed(tmp_path) == [("a.mp4", "train")]
    assert settings.seeds == 0
