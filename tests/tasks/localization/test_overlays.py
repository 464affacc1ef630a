"""If these fail, the pictures and videos that people look at show the heat in the wrong place or at the wrong time."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lookhear.cli import main
from lookhear.errors import MediaError, UserError
from lookhear.media.clip import Clip, ClipRequest
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_video
from lookhear.media.probe import probe
from lookhear.tasks.localization import overlays
from lookhear.tasks.localization.drawing import overlay, spectrogram_picture
from lookhear.tasks.localization.heat import HeatConfig
from lookhear.tasks.localization.overlays import localize, localize_sound
from lookhear.tasks.localization.visibility import Visibility, VisibilityResult
from tiny_embedder import make_clip, save_tiny, slides, tiny_embedder, tune

CONFIG = HeatConfig(region_patches=1)
WORDS = ["--set", "region_patches=1"]


def test_heat_glows_where_it_is_high() -> None:
    picture, heat = np.full((3, 4, 4), 100, np.uint8), np.zeros((4, 4))
    heat[1, 2] = 1.0
    shown = overlay(picture, heat)
    assert shown.dtype == np.uint8
    assert shown[0, 1, 2] > 180
    assert (shown[:, 3, 3] == 75).all()
    half = overlay(picture, heat, scale=(0.0, 2.0))  # on a scale shared with a hotter map
    assert 75 < half[0, 1, 2] < shown[0, 1, 2]
    assert np.isfinite(overlay(picture, np.ones((4, 4)))).all()  # a flat map


def test_low_pitches_are_at_the_bottom() -> None:
    log_mel = np.zeros((3, 2))
    log_mel[0, 1] = 5.0
    picture = spectrogram_picture(log_mel, removed=np.array([[False, False], [False, False], [True, False]]))
    assert (picture[:, 2, 1] == 255).all()
    assert picture[2, 0, 0] > picture[0, 0, 0]  # the removed corner is blue


def test_lost_frames_do_not_make_the_rest_run_ahead_of_the_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seconds of which a part of the first and all of the second cannot be decoded."""
    times: list[float] = []

    class Damaged:
        def __enter__(self) -> "Damaged":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, requests: list[ClipRequest], short_side: int) -> Iterator[Clip]:
            for number, request in enumerate(requests):
                asked = np.array(request.frame_seconds)
                times.extend(asked.tolist())
                kept = asked[[slice(0, 10), slice(0, 0), slice(None)][number]]
                frames = np.full((len(kept), 3, 4, 6), number * 50, np.uint8)
                yield Clip(start_seconds=asked[0], end_seconds=asked[-1], frames=frames, frame_seconds=kept)

    monkeypatch.setattr("lookhear.media.decode.open_media", lambda path: Damaged())
    monkeypatch.setattr(overlays, "_paint", lambda embedder, frame, seconds, found, scale: frame + np.uint8(seconds))
    place = overlays.Place(at_seconds=0.0, x=0.5, y=0.5, score=0.0, visible=None)
    located = overlays.Located(place=place, grid=np.zeros((1, 1)), heat=np.zeros((0, 0)), frame=np.zeros((3, 0, 0)))
    info = SimpleNamespace(path=tmp_path / "none.mp4")
    shown = [int(frame[0, 0, 0]) for frame in overlays._painted(None, info, [located], 3.0)]  # type: ignore[arg-type]
    assert len(shown) == len(times) == 75
    assert shown == [0] * 25 + [1] * 25 + [102] * 25


def test_a_picture(tmp_path: Path) -> None:
    media, model = make_clip(tmp_path / "clip.mp4", 0), save_tiny(tmp_path / "model.safetensors")
    (place,) = localize(media, model=model, at_seconds=1.0, out=tmp_path / "heat.png", config=CONFIG)
    with Image.open(tmp_path / "heat.png") as image:
        assert image.size == (64, 48)
    assert 0 <= place.x <= 1
    assert 0 <= place.y <= 1
    assert -1 <= place.score <= 1
    assert place.visible is None
    with pytest.raises(UserError, match="cannot write"):
        localize(media, model=model, at_seconds=1.0, out=tmp_path / "heat.unknown", config=CONFIG)


def test_a_video_has_the_stretch_and_its_sound(tmp_path: Path) -> None:
    media, model = tmp_path / "clip.mp4", save_tiny(tmp_path / "model.safetensors")
    write_video(media, frames=slides(0, 2.0), frames_per_second=10, waveform=tune(0, 2.0), preset="ultrafast")
    out = tmp_path / "heat.mp4"
    places = localize(media, model=model, at_seconds=0.5, out=out, seconds=1.0, config=CONFIG)
    assert [place.at_seconds for place in places] == [0.5, 1.0]
    info = probe(out)
    assert info.video is not None
    assert info.end_seconds == pytest.approx(1.0, abs=0.1)
    assert info.video.num_frames == 25
    shown = read_clip(out, frame_seconds=(0.0, 0.96))
    assert shown.frames is not None
    assert shown.waveform is not None
    original = read_clip(media, frame_seconds=(0.5, 1.46), start_seconds=0.5, end_seconds=1.5)
    assert original.frames is not None
    assert original.waveform is not None
    found, true = shown.waveform[2000:12000], original.waveform[2000:12000]
    assert np.corrcoef(found, true)[0, 1] > 0.9
    assert shown.frames.shape == original.frames.shape
    for number, painted in enumerate(shown.frames):  # darkened or glowing, but of that moment
        differences = [np.abs(painted[1].astype(float) - 0.75 * other[1]).mean() for other in original.frames]
        assert np.argmin(differences) == number
    rest = localize(media, model=model, at_seconds=1.7, out=out, seconds=60, maps_per_second=10, config=CONFIG)
    assert len(rest) == 3
    assert probe(out).end_seconds == pytest.approx(0.3, abs=0.1)


@pytest.mark.parametrize("threshold", [-1.0, 1.0])
def test_no_visible_source_shows_no_heat(tmp_path: Path, threshold: float, capsys: pytest.CaptureFixture) -> None:
    media, embedder = make_clip(tmp_path / "clip.mp4", 0), tiny_embedder(tmp_path)
    calibration = tmp_path / "visible.json"
    Visibility(threshold=threshold, share=0.05, pairs=40, model_fingerprint=embedder.fingerprint).save(calibration)
    out = tmp_path / "heat.png"
    words = ["localize", str(media), "--model", str(embedder.path), "--at", "1", *WORDS]
    assert main([*words, "--out", str(out), "--calibration", str(calibration)]) == 0
    time, x, _, score, answer = capsys.readouterr().out.strip("\n").split("\t")
    assert time == "1.00"
    assert (answer, x == "") == (("no visible source", True) if threshold > 0 else ("visible", False))
    assert -1 <= float(score) <= 1
    frames = read_clip(media, frame_seconds=(1.0,)).frames
    assert frames is not None
    with Image.open(out) as image:
        bare = np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - frames[0]).max() == 0
    assert bare == (threshold > 0)
    video = tmp_path / "heat.mp4"
    assert main([*words, "--out", str(video), "--calibration", str(calibration), "--seconds", "0.5", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)["places"]
    assert [place["visible"] for place in places] == [threshold < 0]
    assert probe(video).video is not None


def test_visible_is_doubted_where_it_was_often_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    media, embedder = make_clip(tmp_path / "clip.mp4", 0), tiny_embedder(tmp_path)
    rates = {"false_positive_silence": 0.0, "false_positive_noise": 0.9, "false_positive_off_screen": 0.2}
    facts = {"threshold": -1.0, "share": 0.05, "library_pairs": 40, "windows": 10, "missed": 0.0}
    measured = VisibilityResult(**rates, **facts, false_positive_other_sound=None)  # type: ignore[arg-type]
    made = Visibility(threshold=-1.0, share=0.05, pairs=40, model_fingerprint=embedder.fingerprint)
    for number, own in enumerate((made, replace(made, measured=measured))):
        own.save(tmp_path / "seen.json")
        assert Visibility.load(tmp_path / "seen.json", embedder) == own
        out = tmp_path / f"{number}.png"
        calibration = tmp_path / "seen.json"
        localize(media, model=embedder.path, at_seconds=1.0, out=out, config=CONFIG, calibration=calibration)  # type: ignore[arg-type]
        assert ("a place was also named for 90% of noise" in caplog.text) == bool(number)
        assert "silence" not in caplog.text


def test_the_reverse(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    media, model = make_clip(tmp_path / "clip.mp4", 0), save_tiny(tmp_path / "model.safetensors")
    out = tmp_path / "sound.png"
    words = ["localize", str(media), "--model", str(model), "--at", "0:01", "--out", str(out), *WORDS]
    assert main([*words, "--region", "0.2,0.1,0.8,0.9", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0.76 <= record["seconds"] <= 1.24
    assert 20 < record["hertz"] < 8000
    with Image.open(out) as image:
        assert image.size == (48 * 3, 128 * 3)
    assert main([*words, "--region", "0.2,0.1,0.8,0.9", "--seconds", "3", "--calibration", str(out)]) == 1
    assert "has no --seconds, --calibration; leave that out" in capsys.readouterr().err
    assert main([*words, "--region", "0.2,0.1"]) == 1
    assert "want four numbers" in capsys.readouterr().err
    assert main([*words, "--region", "0.2,0.1,0.8,0.9"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*words, "--seconds", "2"]) == 1
    assert "is a picture of one moment, which has no --seconds" in capsys.readouterr().err
    out.unlink()
    assert main([*words, "--region", "0.2,0.1,0.1,0.9"]) == 1
    assert "no region" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--at", "noon"])
    assert "'noon' is no time" in capsys.readouterr().err


def test_what_no_picture_is_written_to_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    media, nothing = make_clip(tmp_path / "clip.mp4", 0), tmp_path / "no.safetensors"
    with pytest.raises(UserError, match=r"'.wav' is no picture; name a file such as heat.png or heat.mp4"):
        localize(media, model=nothing, at_seconds=1.0, out=tmp_path / "heat.wav")
    with pytest.raises(UserError, match=r"'.mp4' is no picture; name a file such as heat.png"):
        localize_sound(media, model=nothing, at_seconds=1.0, region=(0, 0, 1, 1), out=tmp_path / "heat.mp4")


def test_files_that_cannot_be_located_in(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model.safetensors")
    for name, word in (("picture", "no picture"), ("sound", "no sound")):
        media = make_clip(tmp_path / f"no-{name}.mp4", 0, **{name: False})
        for out in ("heat.png", "heat.mp4"):
            with pytest.raises(MediaError, match=word):
                localize(media, model=model, at_seconds=1.0, out=tmp_path / out, config=CONFIG)
        with pytest.raises(MediaError, match=word):
            localize_sound(media, model=model, at_seconds=1.0, region=(0, 0, 1, 1), out=tmp_path / "s.png")
    media = make_clip(tmp_path / "clip.mp4", 0)
    with pytest.raises(MediaError, match="shows nothing at 9 s"):
        localize(media, model=model, at_seconds=9.0, out=tmp_path / "heat.mp4", config=CONFIG)
    with pytest.raises(UserError, match="positive"):
        localize(media, model=model, at_seconds=0.0, out=tmp_path / "heat.mp4", seconds=0, config=CONFIG)
