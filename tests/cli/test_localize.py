"""If these fail, `localize` asks for a model that the archive's index names already, or takes another one."""

from pathlib import Path

import pytest

from lookhear import cli
from lookhear.search.crawl import index
from tiny_embedder import in_memory_embedder, make_clip, tiny_embedder

SETTINGS = ["--at", "1", "--set", "region_patches=1"]


def test_the_model_of_the_index_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "media" / "clip.mp4", 0)
    embedder = tiny_embedder(tmp_path)
    index([tmp_path / "media"], model=embedder, index_path=tmp_path / "lookhear.index", workers=0)
    words = ["localize", str(clip), *SETTINGS]
    assert cli.main([*words, "--model", str(embedder.path), "--out", str(tmp_path / "named.png")]) == 0
    named = capsys.readouterr().out
    assert cli.main([*words, "--index", str(tmp_path / "lookhear.index"), "--out", str(tmp_path / "heat.png")]) == 0
    assert capsys.readouterr().out == named
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--seconds", "0.5", "--out", "heat.mp4"]) == 0
    assert (tmp_path / "heat.mp4").stat().st_size
    assert cli.main([*words, "--region", "0,0,0.5,0.5", "--out", "sound.png"]) == 0
    Path(str(embedder.path)).unlink()
    assert cli.main([*words, "--out", "again.png"]) == 1
    assert "which is no longer there" in capsys.readouterr().err


def test_without_a_model_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = make_clip(tmp_path / "media" / "clip.mp4", 0)
    words = ["localize", str(clip), *SETTINGS, "--index", str(tmp_path / "index"), "--out", str(tmp_path / "heat.png")]
    assert cli.main(words) == 1
    assert "name a checkpoint or a run folder with --model, or an index with --index" in capsys.readouterr().err
    index([tmp_path / "media"], model=in_memory_embedder(), index_path=tmp_path / "index", workers=0)
    assert cli.main(words) == 1
    assert "made by a model in memory" in capsys.readouterr().err
