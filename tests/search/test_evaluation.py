"""If these fail, a figure of how well an archive is searched is wrong: of pieces from elsewhere, or hits misjudged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear import cli
from lookhear.errors import UserError
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound, write_video
from lookhear.search import evaluation
from lookhear.search.evaluation import (
    PIECE_SECONDS,
    Answer,
    OneFrame,
    Piece,
    SearchQuality,
    draw_pieces,
    evaluate_search,
)
from lookhear.search.query import Hit
from tiny_embedder import RATE, in_memory_embedder, make_clip, save_tiny, tune


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three files of both kinds, one of sound, one of pictures, one that is too short, one that is no media."""
    place = tmp_path_factory.mktemp("library")
    for seed in range(3):
        make_clip(place / f"{seed}.mp4", seed, seconds=6.0)
    write_sound(place / "sound.wav", tune(7, 5.0), RATE)
    make_clip(place / "silent.mp4", 8, seconds=5.0, sound=False)
    write_sound(place / "short.wav", tune(9, 1.0), RATE)
    (place / "broken.mp4").write_bytes(b"no media at all")
    return place


@pytest.fixture(scope="module")
def quality(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchQuality:
    scratch = tmp_path_factory.mktemp("scratch")
    return evaluate_search(in_memory_embedder(), folder, scratch=scratch, per_file=2, workers=0)


def hit(path: Path, start: float, end: float, *, copies: tuple[str, ...] = ()) -> Hit:
    return Hit(
        path=str(path),
        start_seconds=start,
        end_seconds=end,
        peak_seconds=(start + end) / 2,
        score=1.0,
        cosine=0.5,
        matched="sound",
        status="ok",
        copies=copies,
    )


def test_pieces_are_what_they_say(folder: Path, tmp_path: Path) -> None:
    pieces, left_out = draw_pieces(folder, tmp_path, per_file=2)
    assert sorted({piece.source.name for piece in pieces}) == ["0.mp4", "1.mp4", "2.mp4", "silent.mp4", "sound.wav"]
    assert len(pieces) == 10
    assert [line.partition(":")[0] for line in left_out] == ["broken.mp4", "short.wav"]
    for piece in pieces:
        assert (piece.sound is None) == (piece.source.name == "silent.mp4")
        assert (piece.video is None) == (piece.source.name == "sound.wav") == (not piece.stills)
    piece = next(piece for piece in pieces if piece.source.name == "0.mp4")
    whole, part = read_clip(piece.source), read_clip(piece.sound)
    assert whole.waveform is not None
    assert part.waveform is not None
    first = round(piece.start_seconds * RATE)
    mine = whole.waveform[first : first + round(PIECE_SECONDS * RATE)]
    length = min(len(mine), len(part.waveform))
    assert np.corrcoef(mine[:length], part.waveform[:length])[0, 1] > 0.9, "encoded again, but the same sound"


def test_the_same_seed_draws_the_same_pieces(folder: Path, tmp_path: Path) -> None:
    def starts(seed: int, name: str) -> list[float]:
        (tmp_path / name).mkdir()
        return [piece.start_seconds for piece in draw_pieces(folder, tmp_path / name, per_file=1, seed=seed)[0]]

    assert starts(0, "a") == starts(0, "b") != starts(1, "c")


def test_pieces_lie_around_events(folder: Path, tmp_path: Path) -> None:
    pieces, _ = draw_pieces(folder, tmp_path, per_file=4, events={"0.mp4": (3.0,)})
    own = [piece.start_seconds for piece in pieces if piece.source.name == "0.mp4"]
    assert all(3.0 - PIECE_SECONDS / 2 <= start <= 3.0 for start in own)
    others = [piece.start_seconds for piece in pieces if piece.source.name == "1.mp4"]
    assert len(set(others)) == 4, "a file without events has random pieces"


def test_a_frame_that_the_file_shows_for_long_tells_nothing(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    make_clip(library / "changing.mp4", 0, seconds=6.0)
    still = np.full((60, 48, 64, 3), 90, np.uint8)
    write_video(library / "still.mp4", frames=still, frames_per_second=10.0, waveform=None)
    (tmp_path / "scratch").mkdir()
    pieces, _ = draw_pieces(library, tmp_path / "scratch", per_file=2)
    assert {(piece.source.name, piece.telling) for piece in pieces} == {("changing.mp4", True), ("still.mp4", False)}


def test_no_piece_is_an_error(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    write_sound(library / "short.wav", tune(0, 1.0), RATE)
    with pytest.raises(UserError, match=r"no file of .* gives a piece of 2 s"):
        draw_pieces(library, tmp_path, per_file=1)


def test_what_counts_as_found(tmp_path: Path) -> None:
    source, other = tmp_path / "a.wav", tmp_path / "b.wav"
    for path in (source, other):
        path.write_bytes(path.name.encode())
    piece = Piece(source=source, start_seconds=4.0, sound=source, video=None, stills=(), telling=False)
    cases = [
        (hit(source, 4.0, 6.0), True, True),
        (hit(source, 4.9, 6.9), True, False),  # 1.1 of 2.9 s are common
        (hit(source, 4.0, 9.9), False, False),  # the peak is 1.95 s from the middle
        (hit(other, 4.0, 6.0), False, False),
        (hit(other, 4.0, 6.0, copies=(str(source),)), True, True),  # the very same bytes
    ]
    for found, is_moment, overlaps in cases:
        assert evaluation._is_moment(found, piece) == is_moment
        assert evaluation._overlaps(found, piece) == overlaps
    answers = [Answer(hits=(cases[3][0], cases[1][0])), Answer(hits=(cases[0][0],)), Answer(hits=()), None]
    figures = evaluation._judge("sound_to_sound", [piece] * 4, answers)
    assert figures is not None
    assert (figures.pieces, figures.files) == (3, 1)
    assert (figures.moment_r1, figures.moment_r10) == pytest.approx((1 / 3, 2 / 3))
    assert (figures.file_r1, figures.iou_r1, figures.iou_r10) == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_a_model_with_random_weights_finds_the_sounds_and_pictures_it_was_given(quality: SearchQuality) -> None:
    """Even untrained, what is nearly the same lies near; across kinds nothing is promised."""
    assert quality.figures["sound_to_sound"]["plain"].moment_r1 == 1.0
    assert quality.figures["sound_to_sound"]["model"].moment_r1 > 5 * quality.chance["moment_r1"]
    assert quality.figures["sound_to_sound"]["model"].pieces == 8
    assert quality.figures["sound_to_sound"]["model"].files == 4
    assert quality.figures["frame_to_picture"]["plain"].file_r1 == 1.0
    assert quality.figures["frame_to_picture"]["model"].iou_r1 is None
    assert quality.figures["picture_to_sound"]["model"].iou_r1 is not None


def test_every_question_has_its_baselines(quality: SearchQuality) -> None:
    methods = {question: set(found) for question, found in quality.figures.items()}
    assert methods == {
        "sound_to_sound": {"model", "meaning", "looks", "untrained", "plain"},
        "frame_to_picture": {"model", "meaning", "looks", "untrained", "plain"},
        "sound_to_picture": {"model", "untrained", "one_frame"},
        "picture_to_sound": {"model", "untrained", "one_frame"},
        "frame_to_sound": {"model", "untrained", "best_still"},
    }
    best, one = (quality.figures["frame_to_sound"][name] for name in ("best_still", "model"))
    assert best.moment_r1 >= one.moment_r1
    assert best.moment_r10 >= one.moment_r10


def test_chance_is_that_of_draws(quality: SearchQuality) -> None:
    """Simulated: moments drawn without replacement."""
    assert 0 < quality.chance["moment_r1"] < quality.chance["moment_r10"] < 1
    moments, right = quality.protocol["moments"], quality.chance["moment_r1"] * quality.protocol["moments"]
    rng = np.random.default_rng(0)
    drawn = [(rng.choice(moments, 10, replace=False) < round(right)).any() for _ in range(4000)]
    assert quality.chance["moment_r10"] == pytest.approx(float(np.mean(drawn)), abs=0.05)


def test_one_frame_is_the_middle_one_held() -> None:
    model = in_memory_embedder()
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    one = OneFrame.of(model)
    np.testing.assert_allclose(
        one._embed_frames(torch.from_numpy(frames)), model._embed_frames(torch.from_numpy(frames)), atol=1e-6
    )
    assert one.fingerprint != model.fingerprint


def test_verb(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = save_tiny(tmp_path / "tiny.safetensors"), tmp_path / "result.json"
    words = ["evaluate", "search", "--model", str(model), "--library", str(folder), "--pieces", "1"]
    assert cli.main([*words, "--no-baselines", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text(encoding="utf-8"))
    assert set(printed["search"]["figures"]["sound_to_picture"]) == {"model"}
