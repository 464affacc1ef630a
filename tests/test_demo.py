"""demo.py and demo_page.py: the whole path, very small, on made scenes and on a folder of someone's own videos."""

import html.parser
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from lookhear import cli
from lookhear.console import show_progress
from lookhear.demo import DemoSettings, demo
from lookhear.demo_page import cells, machine_line, rows
from lookhear.errors import UserError

TINY = (
    "steps=3",
    "data.batch_size=8",
    "data.windows_per_clip=2",
    "model.width=32",
    "model.heads=1",
    "model.audio_depth=1",
    "model.visual_depth=1",
    "model.decoder_width=16",
    "model.decoder_heads=1",
)
SETTINGS = DemoSettings(learn=16, held_out=18, run=TINY, shown_heat_maps=4)  # 18: more than there are kinds


def _run(out: Path, media: Path | None = None, settings: DemoSettings = SETTINGS) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    report = demo(out, media=media, workers=0, settings=settings, say=said.append, show_progress=show_progress)
    assert report["seconds"] == json.loads((out / "report.json").read_text(encoding="utf-8"))["seconds"]
    return json.loads((out / "report.json").read_text(encoding="utf-8")), said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    out = tmp_path_factory.mktemp("demo") / "demo"
    return out, *_run(out)


def test_report_holds_every_number(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, report, said = made
    retrieval = report["retrieval"]
    for direction in ("audio_to_visual", "visual_to_audio"):
        figures = retrieval[direction]
        for name in ("r1", "r5", "r10", "within_kind_r1", "shuffled_r1", "ridge_r1"):
            assert 0 <= figures[name] <= 1, f"{direction}.{name}"
        assert 1 <= figures["median_rank"] <= 18
        low, high = figures["r1_ci95"]
        assert 0 <= low <= figures["r1"] <= high <= 1
    assert retrieval["clips"] == 18
    assert retrieval["chance_r1"] == pytest.approx(1 / 18)
    assert 0 <= retrieval["kind_only_r1"] <= 1
    assert 0 <= report["sync"]["accuracy"] <= 1
    assert 0 < report["sync"]["chance"] < 1
    assert (
        report["sync"]["with_event"]["frames"] + report["sync"]["without_event"]["frames"] == report["sync"]["frames"]
    )
    for name in ("ciou", "pointing", "chance"):
        assert 0 <= report["localization"][name] <= 1
    steps = ["scenes", "prepare", "pretrain", "evaluate", "search", "localize", "report"]
    assert [name for name in report["seconds"] if name != "all"] == steps
    assert report["seconds"]["all"] >= sum(report["seconds"][name] for name in steps) - 0.1
    assert [line.partition("]")[0] for line in said if line.startswith("[")] == [f"[{i}/7" for i in range(1, 8)]
    assert report["loss"]["steps"] == 3
    assert not report["went_on"]


def test_every_way_of_asking_is_asked(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, report, said = made
    asked = [question["command"].split(" --")[2].split()[0] for question in report["search"]]
    assert asked == ["sound", "picture", "clip", "sound"]
    assert report["search"][3]["command"].endswith("--in picture")
    for question in report["search"]:
        assert f"  $ {question['command']}" in said
        assert question["hits"]
        for hit in question["hits"]:
            assert hit["start_seconds"] <= hit["peak_seconds"] <= hit["end_seconds"]
    assert len(list((out / "queries").iterdir())) == 4


class _Links(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_page_opens_without_server_or_network(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, report, _ = made
    page = (out / "report.html").read_text(encoding="utf-8")
    links = _Links()
    links.feed(page)
    assert len(links.found) == 5, "four answers, heat maps"
    assert all(link.startswith("data:image/png;base64,") for link in links.found)
    assert "http" not in page
    assert not re.search(r"url\((?!#)", page), "only what is in the page"
    assert page.count("<svg") > 3, "bars, similarity, the loss and its terms"
    shown = rows(report)
    assert {row.key for row in shown} >= {"retrieval.audio_to_visual.r1", "sync.accuracy", "localization.pointing"}
    for row in shown:
        for cell in cells(row)[1:]:
            assert cell in page, f"{row.name}: {cell} is not on the page"
    assert f"{report['machine']['cores']} cores" in machine_line(report)


def test_a_second_call_makes_nothing_again(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, first, _ = made
    lasting = [
        path
        for folder in ("library", "store", "run/checkpoints")
        for path in (out / folder).rglob("*")
        if path.is_file()
    ]
    before = {path: path.stat().st_mtime_ns for path in lasting}
    again, _ = _run(out)
    assert {path: path.stat().st_mtime_ns for path in lasting} == before
    assert again["went_on"]
    for name in ("retrieval", "sync", "localization", "loss"):
        assert again[name] == first[name]


def test_another_demo_in_the_same_folder_is_refused(made: tuple[Path, dict[str, Any], list[str]]) -> None:
    out, _, _ = made
    with pytest.raises(UserError):
        _run(out, settings=DemoSettings(learn=16, held_out=18, run=("steps=4", *TINY[1:])))


@pytest.mark.ci
def test_own_videos(made: tuple[Path, dict[str, Any], list[str]], tmp_path: Path) -> None:
    """Few videos without truth: what needs truth is null with a reason, and the batch is what can be filled."""
    media = tmp_path / "my videos"
    media.mkdir()
    for path in sorted((made[0] / "library" / "learn").glob("*.mp4"))[:7]:
        shutil.copy(path, media)
    (media / "broken.mp4").write_bytes(b"no video")
    settings = DemoSettings(run=tuple(line for line in TINY if "batch_size" not in line), held_out_share=0.4)
    report, said = _run(tmp_path / "out", media, settings)
    assert report["localization"]["ciou"] is None
    assert "truth" in report["localization"]["reason"]
    assert report["retrieval"]["audio_to_visual"]["within_kind_r1"] is None
    assert report["retrieval"]["kind_only_r1"] is None
    assert "truth" in report["retrieval"]["reason"]
    assert report["retrieval"]["audio_to_visual"]["ridge_r1"] is None, "four clips are too few for a baseline"
    assert any("batches of 4 instead of" in line for line in said)
    assert any("1 refused" in line for line in said)
    assert [row.key for row in rows(report)] == [
        "retrieval.audio_to_visual.r1",
        "retrieval.visual_to_audio.r1",
        "sync.accuracy",
    ]
    assert "'" in report["search"][0]["command"] or " " not in str(tmp_path), "a path with a blank must be quoted"
    assert "Shown, not measured" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 4"):
        _run(tmp_path / "out", _folder(tmp_path / "few"))
    with pytest.raises(UserError, match="another --out"):
        _run(tmp_path / "few" / "demo", tmp_path / "few")
    soundless = _folder(tmp_path / "soundless", *(f"{i}.mp4" for i in range(5)))
    with pytest.raises(UserError):
        _run(tmp_path / "out", soundless)


def _folder(path: Path, *names: str) -> Path:
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"")
    return path


@pytest.mark.ci
def test_the_verb_prints_the_main_figures(
    made: tuple[Path, dict[str, Any], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, report, _ = made
    settings = [f"--set={name}" for name in ("learn=16", "held_out=18", f"run={json.dumps(TINY)}", "shown_heat_maps=4")]
    assert cli.main(["demo", "--out", os.fspath(out), "--workers", "0", *settings]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 1 + len(rows(report))
    assert lines[1][1] == f"{report['retrieval']['audio_to_visual']['r1']:.3f}"
