"""If these fail, `lookhear search` finds other moments than `Index.search`, or is silent where there are none."""

import importlib.resources
import json
import re
from pathlib import Path

import pytest

from lookhear import cli
from lookhear.cli.search import Search
from lookhear.search.crawl import index
from lookhear.search.index import Index
from lookhear.search.library import LIKENESS
from tiny_embedder import make_clip, save_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for number in range(4):
        make_clip(folder / "media" / f"clip{number}.mp4", number, seconds=2.0 + number)
    index([folder / "media"], model=save_tiny(folder / "model.safetensors"), index_path=folder / "index", workers=0)
    return folder


def asked(made: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert cli.main(["search", "--index", str(made / "index"), "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_all_that_can_be_asked_is_what_python_finds(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, other, no = (made / "media" / f"clip{number}.mp4" for number in (2, 1, 0))
    found = Index(made / "index")
    both = asked(
        made,
        capsys,
        "--sound",
        str(clip),
        str(other),
        "--picture",
        str(clip),
        "--not-sound",
        str(made / "media" / "clip0.mp4"),
    )
    direct = found.search(sound=[clip, other], picture=clip, not_sound=no)
    assert [hit["path"] for hit in both] == [hit.path for hit in direct]
    assert [hit["score"] for hit in both] == [hit.score for hit in direct]
    words = ("--like", "clip3.mp4@2.4", "--not-like", "clip0.mp4@1", "--in", "sound", "--likeness", "0.9")
    like = asked(made, capsys, *words)
    direct = found.search(like="clip3.mp4@2.4", not_like="clip0.mp4@1", within="sound", likeness=0.9)
    assert [hit["peak_seconds"] for hit in like] == [hit.peak_seconds for hit in direct]
    assert [hit["cosine"] for hit in like] == [hit.cosine for hit in direct]
    first = asked(made, capsys, "--clip", str(clip), "--top", "2", "--balance", "0.9")
    second = asked(made, capsys, "--clip", str(clip), "--top", "2", "--balance", "0.9", "--page", "2")
    assert first + second == asked(made, capsys, "--clip", str(clip), "--top", "4", "--balance", "0.9")
    kept = asked(made, capsys, "--clip", str(clip), "--name", "clip?.mp4", "--longer", "4.5", "--after", "2020-01-01")
    assert {Path(str(hit["path"])).name for hit in kept} == {"clip3.mp4"}
    assert asked(made, capsys, "--clip", str(clip), "--folder", str(made / "media"), "--status", "ok", "partial")
    assert not asked(made, capsys, "--clip", str(clip), "--before", "2020-01-01")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--at-least", "99"), "nothing here: no moment reaches 99, the best of page 1 has "),
        (("--page", "99"), "nothing here: there is no page 99"),
        (("--name", "nothing"), "and passes the filters (name nothing)"),
    ],
)
def test_nothing_here(made: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str) -> None:
    clip = str(made / "media" / "clip2.mp4")
    assert cli.main(["search", "--index", str(made / "index"), "--sound", clip, *words]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err


def test_unless_told_otherwise_the_command_the_page_and_python_weigh_looks_alike() -> None:
    page = importlib.resources.files("lookhear.serve").joinpath("page", "index.html").read_text(encoding="utf-8")
    (shown,) = re.findall(r'id="likeness" [^>]*value="([\d.]+)"', page)
    assert Search.likeness == float(shown) == LIKENESS


def test_what_is_wrong_is_said(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        ((), "nothing to search by"),
        (("--like", "clip2.mp4"), "FILE@SECONDS"),
        (("--label", "bell", "--in", "sound"), "which --label has none of"),
        (("--like", "clip2.mp4@1", "--after", "soon"), "is no date"),
        (("--like", "clip2.mp4@1", "--balance", "7"), "balance is 7"),
        (("--like", "clip2.mp4@1", "--balance", "-0.1"), "balance is -0.1"),
        (("--like", "clip2.mp4@1", "--page", "0"), "pages from 1 on"),
        (("--like", "clip2.mp4@1", "--page", "-1"), "pages from 1 on"),
        (("--like", "clip2.mp4@1", "--top", "0"), "at least one hit"),
        (("--like", "clip2.mp4@1", "--cut", str(made / "media" / "clips")), "which is indexed"),
    ):
        assert cli.main(["search", "--index", str(made / "index"), *words]) == 1
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--hop", "-1"), "a hop of -1 s is not possible"),
        (("--hop", "0"), "a hop of 0 s is not possible"),
        (("--hop", "nan"), "a hop of nan s is not possible"),
        (("--workers", "-1"), "give 0 or more workers"),
        (("--time-limit", "0"), "give limits above 0"),
        (("--memory-limit", "-2"), "give limits above 0"),
        (("--memory-limit", "nan"), "--memory-limit is nan"),
        (("--memory-limit", "inf", "--watch"), "--memory-limit is inf"),
        (("--settle", "-1"), "seconds to settle"),
        (("--every", "0", "--watch"), "seconds above 0"),
        (("--workers", "-1", "--watch"), "give 0 or more workers"),
    ],
)
def test_what_cannot_be_indexed_with(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    model = ["--model", str(made / "model.safetensors")]
    assert cli.main(["index", str(made / "media"), "--index", str(tmp_path / "index"), *model, *words]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_forget_and_index_with_their_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "media" / "a.mp4", 1)
    make_clip(tmp_path / "media" / "b.mp4", 2)
    where = ["--index", str(tmp_path / "index")]
    model = str(save_tiny(tmp_path / "model.safetensors"))
    limits = ["--time-limit", "100", "--memory-limit", "3", "--workers", "0", "--json"]
    assert cli.main(["index", str(tmp_path / "media"), *where, "--model", model, "--hop", "0.2", *limits]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["ok"] == 2
    assert Index(tmp_path / "index").facts.hop_seconds == 0.2
    assert cli.main(["forget", str(tmp_path / "media" / "a.mp4"), *where]) == 0
    assert "files\t1" in capsys.readouterr().out
    newer = str(save_tiny(tmp_path / "newer.safetensors", seed=4))
    assert cli.main(["index", *where, "--model", newer]) == 1
    assert "was made by another model" in capsys.readouterr().err
    assert cli.main(["index", str(tmp_path / "media"), *where, "--model", newer]) == 1
    assert "--beside" in capsys.readouterr().err
    assert cli.main(["index", *where, "--model", newer, "--beside", "--watch"]) == 1
    assert "--watch" in capsys.readouterr().err
    assert cli.main(["index", *where, "--model", newer, "--beside", "--retry-refused", *limits]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 2  # forgotten, but still in the folder


def test_files_are_listed_by_paths_that_other_verbs_take(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--index", str(made / "index"), "--files"]) == 0
    listed = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [str(made / "media" / f"clip{number}.mp4") for number in range(4)]
    assert asked(made, capsys, "--like", f"{listed[2]}@1")
