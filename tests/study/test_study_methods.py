"""The study of methods: rows of one size, teachers before pupils, judges that ask what a row can answer, a page."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from lookhear.data.store import Store
from lookhear.errors import ConfigError, UserError
from lookhear.media.scenes import KINDS
from lookhear.recipes.skimming import SkimRun
from lookhear.study import methods
from lookhear.study.cavmae import CAV_MAE, SYNC
from lookhear.study.costs import encoder_parameters, step_gigaflops, window_megaflops
from lookhear.study.method_rows import (
    AVID_CROSS,
    CCL_BOTH,
    CCL_PICTURE,
    CCL_SOUND,
    CLAIMS,
    CMA,
    EVENLY,
    LABELS_ALONE,
    NAMED,
    NOT_TRAINED,
    PICTURE_TEACHER,
    SKIMMED,
    SOUND_TEACHER,
    SSCL_BOTH,
    SSCL_FIRST,
    STUDENT,
    MethodRow,
    method_rows,
    skim_rows,
)
from lookhear.study.methods import MethodsSettings, study
from lookhear.study.page import fill_page, places_of
from lookhear.study.trials import Outcome

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
ROWS = method_rows(epochs=8, clips=480, classes=KINDS)
PICTURES: dict[str, Any] = {"picture_height": 24, "picture_width": 32}


def test_rows_have_one_size_and_as_many_steps_on_as_many_clips() -> None:
    sizes = {name: encoder_parameters(row.run) for name, row in ROWS.items()}
    teachers = {SOUND_TEACHER, PICTURE_TEACHER}  # of one modality, and a single picture
    compared = [size for name, size in sizes.items() if name not in teachers]
    assert min(compared) >= 0.8 * max(compared)
    whole = ROWS[AVID_CROSS].run
    for name, row in ROWS.items():
        row.run.check()
        assert row.run.data.batch_size == whole.data.batch_size
        assert (row.run.steps, row.run.epochs) == ((1, whole.epochs) if name == NOT_TRAINED else (None, 8)) or (
            name == NOT_TRAINED and row.run.steps == 1
        )


def test_phases_and_warm_up_share_the_epochs() -> None:
    assert ROWS[SSCL_FIRST].run.objective.phase_epochs == (4, 4, 0, 0)
    assert ROWS[SSCL_BOTH].run.objective.phase_epochs == (2, 2, 2, 2)
    assert ROWS[CMA].run.objective.keys.agreement.warmup_epochs == 4
    for name, message in ((6, "multiple of 4"), (0, "multiple of 4")):
        with pytest.raises(ConfigError, match=message):
            method_rows(epochs=name, clips=480, classes=KINDS)
    with pytest.raises(ConfigError, match="there are 12 scenes to learn from and a step has 16"):
        method_rows(epochs=4, clips=12, classes=KINDS)
    with pytest.raises(ConfigError, match="claim_seeds must be at least 1"):
        MethodsSettings(claim_seeds=1, other_seeds=2)


def test_teachers_are_rows_that_come_first() -> None:
    names = list(ROWS)
    for name, row in ROWS.items():
        assert all(names.index(by) < names.index(name) for by in row.taught_by.values())
    assert set(ROWS[CCL_BOTH].taught_by.values()) == {SOUND_TEACHER, PICTURE_TEACHER}
    assert list(ROWS[CCL_SOUND].taught_by.values()) == [SOUND_TEACHER]
    assert list(ROWS[CCL_PICTURE].taught_by.values()) == [PICTURE_TEACHER]
    for row in ROWS.values():
        assert all(by in ROWS and (ROWS[by].claimed or not row.claimed) for by in row.taught_by.values())


def test_every_claim_is_about_rows_of_several_seeds() -> None:
    films = skim_rows(epochs=1, looks=3, classes=KINDS)
    for claim in CLAIMS:
        for row in (claim.better, claim.worse):
            assert row in films or ROWS[row].claimed
    assert films[SKIMMED].model.looks == films[EVENLY].model.looks == 3


def test_the_page_has_a_place_for_every_row() -> None:
    named = [row for place in places_of(PAGE.read_text(encoding="utf-8")) for row in place]
    beside = {CAV_MAE, SYNC}  # pages of their own explain these
    assert set(named) | beside == {*ROWS, *skim_rows(epochs=1, looks=1, classes=KINDS)}


def test_what_a_window_costs() -> None:
    """Pictures through 2-D convolutions and a sound, against eight pictures through R(2+1)D."""
    student, teacher = ROWS[STUDENT].run, ROWS[LABELS_ALONE].run
    assert window_megaflops(student) < 0.4 * window_megaflops(teacher)
    # a backward pass is two forward ones, but of the first convolution, whose input needs no gradient, one
    assert 2.0 < step_gigaflops(teacher) / (16 * window_megaflops(teacher) / 1e3) < 3.0


# ---- the whole of it, very small


def _smaller(row: MethodRow) -> MethodRow:
    """Two steps of four clips, on pictures and networks of a few numbers."""
    run = row.run
    sizes = run.model.encoder if run.num_classes else run.model
    narrow = {
        side: None if own is None else dataclasses.replace(own, width=16)
        for side, own in (("audio", sizes.audio), ("visual", sizes.visual))
    }
    sizes = dataclasses.replace(sizes, **narrow, **PICTURES)
    model = dataclasses.replace(run.model, encoder=sizes) if run.num_classes else sizes
    if getattr(model, "fusion", None) is not None:
        model = dataclasses.replace(model, fusion=(16, 16))
    objective = run.objective
    if hasattr(getattr(objective, "keys", None), "num_negatives"):
        objective = dataclasses.replace(objective, keys=dataclasses.replace(objective.keys, num_negatives=4))
    return dataclasses.replace(
        row,
        run=dataclasses.replace(
            run,
            model=model,
            objective=objective,
            preprocess=dataclasses.replace(run.preprocess, **PICTURES),
            data=dataclasses.replace(run.data, batch_size=4),
            dtype="float32",
            steps=run.steps or 2,
        ),
    )


CHOSEN = (NOT_TRAINED, AVID_CROSS, LABELS_ALONE, STUDENT)


def _few_rows(**sizes: Any) -> dict[str, MethodRow]:
    return {name: _smaller(row) for name, row in method_rows(**sizes | {"clips": 64}).items() if name in CHOSEN}


def _few_skimmers(**sizes: Any) -> dict[str, SkimRun]:
    return {row: run for row, run in skim_rows(**sizes).items() if row in (SKIMMED, EVENLY)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Outcome], MethodsSettings]:
    """A study of a few rows, made by the function that the command calls."""
    out = tmp_path_factory.mktemp("methods")
    settings = MethodsSettings(learn=12, test=4, epochs=4, claim_seeds=1, films=4, shots=1, looks=2, skim_epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        _make_small(patch)
        return out, study(out, settings=settings, workers=0), settings


def _make_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(methods, "method_rows", _few_rows)
    patch.setattr(methods, "skim_rows", _few_skimmers)


Small = tuple[Path, list[Outcome], MethodsSettings]


@pytest.mark.ci
def test_each_row_is_asked_what_it_can_answer(small: Small) -> None:
    out, outcomes, _ = small
    found = {outcome.row: outcome for outcome in outcomes}
    assert set(found) == {*CHOSEN, SKIMMED, EVENLY}
    assert list(found)[:2] == [NOT_TRAINED, AVID_CROSS], "on the page, methods without labels come first"
    sound, sight = {"k-NN, sound", "sound recognition"}, {"k-NN, pictures", "action recognition"}
    pairs = {"sound finds picture", "picture finds sound", "linear probe, both"}
    assert set(found[AVID_CROSS].figures) == pairs | sound | sight
    assert set(found[LABELS_ALONE].figures) == sight | {NAMED}
    assert set(found[STUDENT].figures) == sound | sight | {"linear probe, both", NAMED}
    for outcome in outcomes:
        assert all(0 <= value <= 1 for value in outcome.figures.values())
        assert outcome.context["chance of naming"] > 0
    assert found[SKIMMED].context["films"] == 1
    assert found[AVID_CROSS].context["chance of R@1"] == pytest.approx(1 / 4)
    assert (found[NOT_TRAINED].steps, found[AVID_CROSS].steps) == (1, 2)
    learned = json.loads((out / "runs" / "scenes-not-trained-0" / "run.json").read_text())["run"]
    assert learned["optim"]["learning_rate"] == 0


@pytest.mark.ci
def test_called_again_it_reads_and_other_settings_are_refused(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    out, outcomes, settings = small
    _make_small(monkeypatch)

    def never(*parts: object, **more: object) -> None:
        raise AssertionError("it was done already")

    monkeypatch.setattr("lookhear.training.loop.train", never)
    monkeypatch.setattr("lookhear.recipes.skimming.train_skimmer", never)
    assert study(out, settings=settings, workers=0) == outcomes
    result = out / "results" / "scenes-avid-cross-0.json"
    kept = result.read_text()
    result.unlink()
    with pytest.raises(AssertionError, match="done already"):
        study(out, settings=settings, workers=0)
    result.write_text(kept)
    with pytest.raises(UserError, match="other settings or data"):
        study(out, settings=dataclasses.replace(settings, skim_epochs=2), workers=0)


@pytest.mark.ci
def test_the_page_is_filled_from_the_results(small: Small, tmp_path: Path) -> None:
    page = tmp_path / "methods.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    fill_page(page, small[1], CLAIMS)
    filled = page.read_text(encoding="utf-8")
    assert places_of(filled) == places_of(PAGE.read_text(encoding="utf-8"))
    assert f"| {AVID_CROSS} | 1 |" in filled
    assert "one seed tells nothing" in filled
    fill_page(page, small[1], CLAIMS)
    assert page.read_text(encoding="utf-8") == filled


@pytest.mark.ci
def test_stores_have_labels_and_films_have_splits(small: Small) -> None:
    out = small[0]
    films = Store(out / "films.store")
    assert {row.split for row in films.manifest} == {"train", "test"}
    assert all(clip.labels for clip in Store(out / "scenes" / "learn.store").clips)
