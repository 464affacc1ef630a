"""`search` with its hits handed over: what is printed where, and what is written."""

import csv
import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest

from editing import hit_of, make_timecoded
from lookhear import cli
from lookhear.cli.search import Search
from lookhear.search.facts import FORMAT, IndexFacts, write_facts
from lookhear.search.query import Hit
from synthetic import make_video


@pytest.fixture
def hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Hit]:
    """Three hits, one of a file that is gone; every search finds them."""
    (tmp_path / "media").mkdir()
    video = make_video(tmp_path / "media" / "dog.mp4", seconds=4)
    found = [hit_of(video), hit_of(tmp_path / "media" / "gone.mp4"), hit_of(video, 2.0, 2.5)]
    monkeypatch.setattr(Search, "hits", lambda self, index: found)
    facts = IndexFacts(
        format=FORMAT,
        model="",
        fingerprint="",
        preprocess={},
        window_seconds=1.0,
        hop_seconds=0.5,
        embedding_width=8,
        plain_width=0,
        libraries=(str((tmp_path / "media").resolve()),),
    )
    (tmp_path / "lookhear.index").mkdir()
    write_facts(tmp_path / "lookhear.index", facts)
    monkeypatch.chdir(tmp_path)
    return found


def search(*words: str) -> int:
    return cli.main(["search", "--sound", "bark.wav", *words])


def test_printed_as_before(hits: list[Hit], capsys: pytest.CaptureFixture[str]) -> None:
    assert search() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{hit.path}\t{hit.start_seconds:.2f}\t{hit.end_seconds:.2f}\t3.250\tboth" for hit in hits]
    assert search("--json") == 0
    by_flag = capsys.readouterr().out
    assert search("--format", "json") == 0
    assert capsys.readouterr().out == by_flag
    assert json.loads(by_flag) == [asdict(hit) | {"copies": [], "labels": []} for hit in hits]


def test_a_timeline_on_stdout_and_the_rest_on_stderr(hits: list[Hit], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--format", "edl") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("TITLE: lookhear\nFCM: NON-DROP FRAME\n")
    assert f"left out {hits[1].path}: " in printed.err


def test_written_to_a_file(hits: list[Hit], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--format", "csv", "--out", "found/hits.csv") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "wrote 3 of 3 hits to " in printed.err
    with Path("found/hits.csv").open(encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [hit.path for hit in hits]


def test_clips_and_a_sheet(hits: list[Hit], capsys: pytest.CaptureFixture[str]) -> None:
    assert search("--cut", "clips", "--sheet", "sheet.png") == 1, "scripts must know that a clip was left out"
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3
    assert "wrote 2 of 3 clips to clips" in printed.err
    assert "0.000 to 1.5" in printed.err  # the true start
    assert sorted(path.name for path in Path("clips").iterdir()) == [
        "001_dog_0.50s.mp4",
        "003_dog_2.00s.mp4",
        "clips.csv",
    ]
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")
    del hits[1]
    assert search("--cut", "others") == 0


def test_no_hits_make_a_table_and_nothing_else(
    hits: list[Hit], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Search, "hits", lambda self, index: [])
    assert search("--out", "hits.tsv", "--cut", "clips", "--sheet", "sheet.png") == 0
    assert search() == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in Path().iterdir()) == ["hits.tsv", "lookhear.index", "media"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--exact",), "name a folder for them with --cut"),
        (("--json", "--format", "csv"), "leave one of them out"),
        (("--sheet", "media/dog.mp4/sheet.png"), "cannot write"),
        (("--sheet", "media/dog.mp4"), "a contact sheet is a PNG; name a file such as dog.png"),
        (("--out", "media/dog.mp4"), "it is there already"),
        (("--cut", "media/clips"), "which is indexed"),
        (("--cut", "lookhear.index"), "is not empty"),
        (("--cut", "media/dog.mp4"), "which is indexed"),
    ],
)
def test_what_cannot_be(hits: list[Hit], words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()}
    assert search(*words) == 1
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path().rglob("*.*") if path.is_file()} == before


def test_several_rates_need_a_file(hits: list[Hit], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hits.append(hit_of(make_timecoded(tmp_path / "tape.mov", Fraction(30000, 1001), "01:00:00;00")))
    assert search("--format", "edl") == 1
    assert "several frame rates (25, 29.97df)" in capsys.readouterr().err
    assert search("--format", "edl", "--out", "found.edl") == 0
    assert {path.name for path in Path().glob("*.edl")} == {"found.25.edl", "found.29.97df.edl"}
    Path("found.25.edl").unlink()
    assert search("--format", "edl", "--out", "found.edl") == 1
    assert "found.29.97df.edl: it is there already" in capsys.readouterr().err
    assert not Path("found.25.edl").exists()  # all or none
