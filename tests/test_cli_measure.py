"""`evaluate retrieval` and `embed` on the command line: figures as lines or JSON, the result file, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import lookhear
from lookhear import cli
from tiny_embedder import make_clip, save_tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, a store of them, a model."""
    place = tmp_path_factory.mktemp("place")
    for number in range(4):
        make_clip(place / "media" / f"{number}.mp4", number, seconds=1.2)
    save_tiny(place / "tiny.safetensors")
    words = ["prepare", str(place / "media"), "--store", str(place / "store"), "--set", "frames_per_second=10"]
    assert cli.main([*words, "--workers", "0"]) == 0
    return place


def _words(place: Path, *more: str) -> list[str]:
    return ["evaluate", "retrieval", "--model", str(place / "tiny.safetensors"), "--store", str(place / "store"), *more]


def test_figures_as_lines_and_all_of_it_in_a_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "result.json"
    aggregations = ["--aggregation", "diagonal_mean", "max"]
    assert cli.main(_words(place, *aggregations, "--out", str(out))) == 0
    printed = capsys.readouterr()
    lines = dict(line.split("\t") for line in printed.out.splitlines())
    assert 0.0 <= float(lines["retrieval.audio_to_visual.r1"]) <= 1.0
    assert "retrieval.further.max.visual_to_audio.r1" in lines
    assert lines["retrieval.clip_list"] == "4"
    assert "clips" in printed.err
    record = json.loads(out.read_text())["retrieval"]
    assert len(record["clip_list"]) == 4
    assert len(record["clip_list"][0]["sha256"]) == 64
    assert len(record["model_fingerprint"]) == 64
    assert record["left_out"] == []
    assert record["protocol"]["pairs"] == "timestamps"


def test_json_levels_pairs_and_ties(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(_words(place, "--level", "window", "--ties", "published", "--json")) == 0
    record = json.loads(capsys.readouterr().out)["retrieval"]
    assert record["windows"] == 8
    assert "own_clip" in record["further"]
    assert cli.main(_words(place, "--pairs", "clip", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["retrieval"]["windows"] == 4
    assert cli.main(_words(place, "--pairs", "published")) == 1
    assert "no picture within" in capsys.readouterr().err
    assert cli.main(_words(place, "--pairs", "clip", "--learned-from", str(place / "store"))) == 1
    assert "leave it out (--learned-from)" in capsys.readouterr().err


def test_sync_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "sync", "--model", str(place / "tiny.safetensors"), "--store", str(place / "store")]
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sync"]["clips"] == 4


def test_embed_and_read_embeddings(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", str(place / "media"), "--model", str(place / "tiny.safetensors"), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--workers", "0"]) == 0
    assert "counts.ok\t4" in capsys.readouterr().out
    stored = lookhear.read_embeddings(tmp_path / "out")
    windows = stored.windows(stored.files[2])
    np.testing.assert_allclose(np.linalg.norm(windows.audio, axis=1), 1.0, atol=1e-5)
    assert cli.main([*words, "--retry-refused", "--time-limit", "600"]) == 0
    assert "done_before\t4" in capsys.readouterr().out
    assert cli.main([*words, "--what", "pooled"]) == 1
    assert "made in another way" in capsys.readouterr().err
