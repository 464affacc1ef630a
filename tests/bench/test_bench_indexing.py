"""bench/indexing.py: the links are those of a real index, and the slowest is named."""

import json
from pathlib import Path

import pytest

from lookhear import cli
from lookhear.bench import indexing
from lookhear.errors import UserError
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from tiny_embedder import SIZES, make_clip

TINY = CAVMAESyncConfig(**SIZES, num_registers=0)


def test_links_of_a_folder(tmp_path: Path) -> None:
    for seed in range(2):
        make_clip(tmp_path / f"{seed}.mp4", seed, seconds=3.0)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    found = indexing.measure(tmp_path, config=TINY, hop_seconds=0.4, workers=0)
    assert found.files == 2
    assert found.moments == 2 * 8  # starts 0, 0.4, ... 2.4, and flush with the end
    assert found.media_seconds == pytest.approx(6.0, abs=0.2)
    assert min(found.whole, found.reading, found.embedding) > 0
    assert found.slowest_link == ("reading" if found.reading < found.embedding else "embedding")


def test_parameters_are_counted_by_hand() -> None:
    block = 4 * 32 * 32 + 4 * 32 + 8 * 32 * 32 + 5 * 32 + 4 * 32  # products with biases, and two norms
    shared = block + 2 * 4 * 32  # with two more pairs of norms
    audio = block + 16 * 16 * 32 + 32 + 2 * 32  # patches with bias, modality and global token
    counted = indexing._parameters_per_tower(indexing._embedder(TINY).model)
    positions = counted - shared - audio
    assert positions in (0, 24 * 32), "positions of 3 x 8 tokens, where they are parameters"


def test_the_model_has_twenty_million_parameters_a_tower() -> None:
    import torch

    from lookhear.models.cavmae_sync import CAVMAESync

    with torch.device("meta"):
        assert indexing._parameters_per_tower(CAVMAESync(indexing.MODEL)) >= 20e6


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no media that can be read"):
        indexing.measure(tmp_path, config=TINY, workers=0)


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "clip.mp4", 0, seconds=2.0)
    small = ["audio_frames=48", "picture_height=32", "picture_width=32", "width=32", "heads=2"]
    words = [word for name in [*small, "audio_depth=1", "visual_depth=1"] for word in ("--set", name)]
    assert (
        cli.main(["bench", "index", "--media", str(tmp_path), "--hop", "0.4", "--workers", "0", "--json", *words]) == 0
    )
    assert json.loads(capsys.readouterr().out)["files"] == 1
