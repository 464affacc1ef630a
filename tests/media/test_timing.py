"""Frame rates and start timecodes as editing programs count them."""

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from editing import make_broadcast_wave, make_timecoded
from lookhear.errors import MediaError
from lookhear.media.timing import read_timing
from synthetic import make_sound, make_video


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(25), Fraction(30000, 1001), Fraction(60000, 1001)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_the_rate_is_exact(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    path = make_video(tmp_path / f"a{suffix}", frames_per_second=float(rate))
    timing = read_timing(path)
    assert (timing.rate, timing.is_variable, timing.timecode) == (rate, False, None)
    assert timing.start_seconds == pytest.approx(0, abs=1e-3)
    assert timing.seconds == pytest.approx(2, abs=0.05)


def test_a_variable_rate_is_said_so(tmp_path: Path) -> None:
    steps = np.random.default_rng(0).choice([1 / 30, 1 / 15, 1 / 10], 60)
    path = make_video(tmp_path / "phone.mp4", frame_times=np.cumsum(steps).tolist(), seconds=4.0)
    timing = read_timing(path)
    assert timing.is_variable
    assert timing.rate in (Fraction(24000, 1001), Fraction(24))  # nothing slower has a name


@pytest.mark.parametrize(
    ("name", "rate", "label"),
    [
        ("a.mov", Fraction(30000, 1001), "01:00:00;02"),
        ("a.mp4", Fraction(25), "09:59:50:10"),
        ("a.mxf", Fraction(25), "10:00:00:00"),
    ],
)
def test_the_timecode_of_the_file(tmp_path: Path, name: str, rate: Fraction, label: str) -> None:
    timing = read_timing(make_timecoded(tmp_path / name, rate, label))
    assert (timing.timecode, timing.rate) == (label, rate)


def test_sound_has_no_rate_but_may_know_its_time_of_day(tmp_path: Path) -> None:
    plain = read_timing(make_sound(tmp_path / "plain.wav", sample_rate=48000))
    assert (plain.rate, plain.midnight_samples, plain.timecode) == (None, None, None)
    make_broadcast_wave(tmp_path / "field.wav", midnight_samples=48000 * 3600)
    assert read_timing(tmp_path / "field.wav").midnight_samples == 48000 * 3600


def test_a_missing_file_and_a_text(tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        read_timing(tmp_path / "gone.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 100, encoding="utf-8")
    with pytest.raises(MediaError):
        read_timing(text)


def test_names_that_are_no_addresses(tmp_path: Path) -> None:
    path = make_video(tmp_path / "plain.mp4")
    odd = tmp_path / "http: second\nline %41.mp4"
    shutil.copy(path, odd)
    assert read_timing(odd).rate == 25
