"""`lookhear report`: a page of runs in any state. If these fail, a person is shown less, or other, than a run says."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report_page import parse

from fake_store import FakeStore, small_classifier_run, small_run
from lookhear import cli
from lookhear.errors import UserError
from lookhear.models.tokens import MaskConfig
from lookhear.report.reconstructions import _as_learned, reconstruct
from lookhear.report.run_page import report_runs
from lookhear.report.runs import read_runs
from lookhear.training.journal import JOURNAL
from lookhear.training.loop import train
from made_runs import make_run


def written(folders: list[Path], out: Path, **options: Any) -> str:
    report_runs(folders, out=out, **options)
    page = out.read_text(encoding="utf-8")
    assert "http" not in page
    return page


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps that evaluated every 4 steps, and one step of a batch of one clip."""
    place = tmp_path_factory.mktemp("trained")
    run = small_run(evaluate_every=4)
    judge = {"retrieval": lambda model, preprocess: {"audio_to_visual_r1": 0.25, "chance_r1": 1 / 13}}
    train(run, FakeStore(), place / "evaluated", evaluators=judge)  # type: ignore[arg-type]
    one = small_run(steps=1, data=replace(run.data, batch_size=1, windows_per_clip=1))
    train(one, FakeStore(), place / "one_step")  # type: ignore[arg-type]
    return place


def test_a_run_with_evaluation_speed_and_samples(trained: Path, tmp_path: Path) -> None:
    page = written([trained / "evaluated"], tmp_path / "page.html", store=FakeStore(), clips=2)
    # loss, loss over time, three terms; one evaluation; rate, norm, two reported; two speeds; two clips
    assert parse(page)["svg"] == 5 + 1 + 4 + 2 + 2
    for title in ("loss over time spent", "retrieval: audio to visual r1", "learning rate", "samples a second"):
        assert f"<h3>{title}</h3>" in page
    assert "chance r1" not in page, "chance is a line in the figure it belongs to"
    assert "clip0.mp4" in page
    assert "Clips of the store that the run learns from" in page
    assert "finished" in page
    assert "12 of 12" in page


def test_one_step_of_one_clip_without_evaluation_or_store(trained: Path, tmp_path: Path) -> None:
    page = written([trained / "one_step"], tmp_path / "page.html")
    assert "1 of 1" in page
    assert "does not evaluate as it goes" in page
    assert "What is filled in" not in page
    assert parse(page)["svg"] == 5 + 4 + 2


def test_several_runs_share_axes_and_differences_are_shown(trained: Path, tmp_path: Path) -> None:
    long = make_run(
        tmp_path / "long", steps=90, evaluate=True, epochs=50, optim=replace(small_run().optim, clip_norm=None)
    )
    page = written(
        [trained / "evaluated", trained / "one_step", long], tmp_path / "page.html", store=FakeStore(), clips=1
    )
    counts = parse(page)
    assert counts["li"] == 3
    assert page.count("<h3>loss</h3>") == 1
    table = page.partition("<h3>What differs</h3>")[2].partition("</table>")[0]
    assert "<td>optim.clip_norm</td><td>1.0</td><td>1.0</td><td>null</td>" in table
    assert "<td>data.batch_size</td><td>4</td><td>1</td><td>4</td>" in table
    assert "seed" not in table
    assert "long: Nothing could be filled in: " in page, "it has no checkpoint"
    assert len(re.findall(r"<h3>clip0.mp4, [\d.]+–[\d.]+ s: (?:evaluated|one_step)</h3>", page)) == 2
    assert page.count("original</text>") == 2 * 2
    assert "<td>measured.audio_mean</td><td>–</td><td>–</td><td>-4.5</td>" in table


def test_runs_that_are_the_same(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, steps=3) for name in ("a", "b")]
    page = written(folders, tmp_path / "page.html")
    assert "All settings are the same." in page


def test_damaged_lines_are_said_on_the_page_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run(tmp_path / "run", steps=5)
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"step": \n{"step": 6, "lo')
    out = tmp_path / "page.html"
    assert cli.main(["report", str(folder), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    said = f"{folder / 'journal.jsonl'}: line 6 is damaged and left out"
    assert said in printed.err
    assert said in out.read_text()
    record = json.loads(printed.out)
    assert record["runs"]["run"]["step"] == 5
    assert record["problems"] == [said]
    assert record["figures"] == out.read_text().count("<svg")


def test_a_run_without_a_single_step(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=0)
    for name in ("journal.jsonl", "speed.jsonl"):
        (folder / name).unlink()
    page = written([folder], tmp_path / "page.html", store=FakeStore())
    assert "No step has been written down yet." in page
    assert "not begun" in page
    assert parse(page).get("svg", 0) == 0


def test_what_is_changed_from_the_recipe(tmp_path: Path) -> None:
    page = written([make_run(tmp_path / "run", steps=3, name="tiny")], tmp_path / "page.html")
    table = page.partition("<h3>Changed from the recipe</h3>")[2].partition("</table>")[0]
    assert "<td>epochs</td><td>16</td><td>4</td>" in table
    page = written([make_run(tmp_path / "own", steps=3, name="own")], tmp_path / "page.html")
    assert "recipe</h3>" not in page


def test_the_best_step_of_a_run_that_chooses_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", steps=9, evaluate=True, select="retrieval.audio_to_visual_r1")
    assert "retrieval: audio to visual r1 0.165 at step 9" in written([folder], tmp_path / "page.html")


def test_runs_judged_on_other_clips_share_no_line_of_chance(tmp_path: Path) -> None:
    """A blind draw among 100 clips gets less than one among 13: one line would be wrong for one of the runs."""
    folders = [make_run(tmp_path / name, steps=9, evaluate=True) for name in ("a", "b")]
    alone, alike = written(folders[:1], tmp_path / "page.html"), written(folders, tmp_path / "page.html")
    assert "Dotted: chance" in alone
    assert "Dotted: chance" in alike
    lines = (folders[1] / JOURNAL).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        if "evaluation" in record:
            record["evaluation"]["retrieval"]["chance_r1"] = 0.01
    (folders[1] / JOURNAL).write_text("".join(json.dumps(record) + "\n" for record in records))
    page = written(folders, tmp_path / "page.html")
    assert "Dotted: chance" not in page
    assert "no line for chance" in page


def test_runs_that_cannot_fill_in_say_why(trained: Path, tmp_path: Path) -> None:
    (log,) = read_runs([trained / "one_step"])
    soundless: Any = FakeStore(3, silent=(0, 1, 2))
    assert "No clip of memory has sound" in reconstruct(log, soundless, count=2).note
    for other, words in ({"sample_rate": 8000}, "at 8000 Hz"), ({"frames_per_second": 1.0}, "1 pictures a second"):
        unfit: Any = FakeStore(3)
        unfit.config = replace(unfit.config, **other)
        assert words in reconstruct(log, unfit, count=2).note
    objective = replace(small_run().objective, reconstruction_weight=0.0)
    (log,) = read_runs([make_run(tmp_path / "contrast", steps=1, objective=objective)])
    assert "does not learn to reconstruct" in reconstruct(log, soundless, count=2).note
    folder = make_run(tmp_path / "labels", steps=1)
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(values | {"run": small_classifier_run().to_dict()}))
    (log,) = read_runs([folder])
    assert "does not learn to reconstruct" in reconstruct(log, soundless, count=2).note
    values["run"]["model"]["newer"] = 1
    (folder / "run.json").write_text(json.dumps(values))
    (log,) = read_runs([folder])
    assert "no setting 'model.newer'" in reconstruct(log, soundless, count=2).note


def test_what_is_removed_is_what_the_run_removes() -> None:
    objective = replace(small_run().objective, mask=MaskConfig(audio=0.0, visual=0.5, visual_structure="time"))
    found = _as_learned(objective)
    assert (found.audio, found.visual, found.visual_structure, found.patch_statistics) == (0.0, 0.5, "time", "true")
    drawn = replace(objective, mask_ratio_range=(0.5, 0.7), normalise_patches=False)
    found = _as_learned(drawn)
    assert (found.audio, found.visual, found.patch_statistics) == (0.6, 0.6, "predicted")
    assert _as_learned(replace(objective, mask=MaskConfig(audio=0.0, visual=0.0))).ratios["audio"] == 0.75


def test_clips_of_the_validation_split_and_plain_pixels(tmp_path: Path) -> None:
    run = small_run(steps=1, objective=replace(small_run().objective, normalise_patches=False))
    run = replace(run, data=replace(run.data, split="train", validation_split="val"))
    store: Any = FakeStore(silent=(4,))
    train(run, store, tmp_path / "run")
    (log,) = read_runs([tmp_path / "run"])
    found = reconstruct(log, store, count=9)
    assert list(found.figures) == [0, 8, 12], "one a stretch; clip 4 has no sound"
    assert "its split val, which is not learned from" in found.note
    assert "mean and deviation" not in found.note
    other: Any = FakeStore(2)
    found = reconstruct(log, other, count=1)
    assert "did not learn from" in found.note
    assert list(found.figures) == [0]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", steps=1)
    for words, said in (
        ([], "name a run folder"),
        ([str(tmp_path)], "no run folder"),
        ([str(folder), "--store", str(tmp_path / "none")], "does not exist"),
        ([str(folder), "--clips", "0"], "1 clip or more"),
        ([str(folder), "--out", str(tmp_path)], "name another file"),
    ):
        assert cli.main(["report", *words]) == 1
        assert said in capsys.readouterr().err
    with pytest.raises(UserError):
        report_runs([])
