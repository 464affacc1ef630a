"""If these fail, a card shows another frame, or its strip marks another sound, than the moment that matched."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookhear.serve.pictures import FrameJob, Kept, StripJob, draw_frame, draw_strip, peaks_of
from lookhear.serve.work import UnreadableError
from synthetic import make_sound, make_video, read_number
from web_library import Made, Running


def picture(data: bytes | UnreadableError) -> np.ndarray:
    assert isinstance(data, bytes)
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_frame_of_a_time(tmp_path: Path) -> None:
    video = make_video(tmp_path / "a.mp4", seconds=2, size=(96, 208))
    for at, number in ((0.0, 0), (1.02, 25), (-5.0, 0), (99.0, 49)):
        shown = picture(draw_frame(FrameJob(path=str(video), at_seconds=at, height=96)))
        assert shown.shape == (96, 208, 3)
        assert read_number(shown.transpose(2, 0, 1)) == number
    small = picture(draw_frame(FrameJob(path=str(video), at_seconds=1.0, height=32)))
    assert small.shape[0] == 32
    upright = make_video(tmp_path / "b.mp4", seconds=1, size=(64, 128), rotation_degrees=90)
    assert picture(draw_frame(FrameJob(path=str(upright), at_seconds=0.5, height=64))).shape == (64, 32, 3)
    silent = make_sound(tmp_path / "a.wav")
    refused = draw_frame(FrameJob(path=str(silent), at_seconds=0.0, height=64))
    assert isinstance(refused, UnreadableError)
    assert str(refused) == "it has no picture"


@pytest.mark.parametrize("kind", ["waveform", "spectrogram"])
def test_a_strip_is_dark_where_it_is_loud(tmp_path: Path, kind: str) -> None:
    sound = make_sound(tmp_path / "a.wav", seconds=4, beep_times=(1.0, 1.05, 3.0, 3.05))
    job = StripJob(path=str(sound), start_seconds=0, end_seconds=4, kind=kind, width=400, height=64)  # type: ignore[arg-type]
    strip = picture(draw_strip(job))
    assert strip.shape == (64, 400, 2)
    loud = strip[..., 1].astype(float).mean(axis=0)
    assert loud[101:109].mean() > 5 * loud[150:250].mean()
    assert loud[301:309].mean() > 5 * loud[320:400].mean()
    assert (strip[..., 0] == 0).all()


def test_a_low_tone_is_low_and_silence_is_empty(tmp_path: Path) -> None:
    tone = make_sound(tmp_path / "tone.wav", seconds=1, beep_times=[n / 20 for n in range(20)])
    job = StripJob(path=str(tone), start_seconds=0, end_seconds=1, kind="spectrogram", width=100, height=64)
    rows = picture(draw_strip(job))[..., 1].astype(float).mean(axis=1)
    assert rows.argmax() > 30  # 1 kHz lies in the lower half of a mel scale up to 8 kHz
    silence = make_sound(tmp_path / "silence.wav", seconds=1, beep_times=())
    nothing = picture(
        draw_strip(
            StripJob(path=str(silence), start_seconds=0, end_seconds=1, kind="spectrogram", width=100, height=64)
        )
    )
    assert nothing[..., 1].max() == 0
    silent = make_video(tmp_path / "silent.mp4", sound=False)
    for kind in ("waveform", "spectrogram"):
        drawn = picture(
            draw_strip(StripJob(path=str(silent), start_seconds=0, end_seconds=1, kind=kind, width=50, height=20))
        )  # type: ignore[arg-type]
        assert drawn[..., 1].max() == 0
    # a stretch shorter than a spectrogram frame, and one beyond the end
    for start, end in ((0.0, 0.01), (50.0, 51.0)):
        drawn = picture(
            draw_strip(
                StripJob(path=str(tone), start_seconds=start, end_seconds=end, kind="spectrogram", width=50, height=20)
            )
        )
        assert drawn.shape == (20, 50, 2)


def test_peaks() -> None:
    assert peaks_of(np.array([0.1, -0.5, 0.2, 0.0]), 2).tolist() == [0.5, 0.2]
    assert peaks_of(np.array([0.3]), 3).max() == 0.3
    assert peaks_of(np.zeros(0), 3).tolist() == [0, 0, 0]


def test_kept_up_to_a_limit() -> None:
    kept = Kept(10)
    kept.keep(("a",), b"12345")
    kept.keep(("b",), b"12345")
    assert kept.find(("a",)) == b"12345"
    kept.keep(("c",), b"1")
    assert kept.find(("b",)) is None  # not asked for longest
    assert kept.find(("a",)) == b"12345"
    kept.keep(("a",), b"1")
    kept.keep(("d",), b"12345678")
    assert kept.find(("a",)) == b"1"
    kept.keep(("e",), b"x" * 100)
    assert kept.find(("e",)) is None


def test_over_the_web(made: Made, web: Running) -> None:
    clip, sound = web.file_id(made.clip(0)), web.file_id(made.media / "sound only.m4a")
    for what, kind in (("frame?at=1", "image/jpeg"), ("heat?at=1", "image/jpeg"), ("strip?start=0&end=3", "image/png")):
        answer = web.client.get(f"/api/files/{clip}/{what}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == kind
        assert answer.headers["cache-control"].startswith("private")
        assert web.client.get(f"/api/files/{clip}/{what}").content == answer.content
    hot, cold = (
        picture(web.client.get(f"/api/files/{clip}/{what}?at=1&height=48").content) for what in ("heat", "frame")
    )
    assert hot.shape == cold.shape == (48, 64, 3)
    assert np.abs(hot.astype(int) - cold).max() > 30
    none = web.client.get(f"/api/files/{sound}/heat?at=1")
    assert none.status_code == 422
    assert "no picture" in none.json()["error"]
    silent = web.file_id(made.media / "silent.mp4")
    assert "no sound" in web.client.get(f"/api/files/{silent}/heat?at=1").json()["error"]
    for wrong in ("frame", "frame?at=x", "frame?at=1&height=5000", "strip?start=0&end=1&kind=smell", "heat?at=inf"):
        assert web.client.get(f"/api/files/{clip}/{wrong}").status_code == 422
    # what ends before it begins is shown as short as can be
    assert web.client.get(f"/api/files/{clip}/strip?start=2&end=1").status_code == 200
