"""If these fail, a video is judged by windows that it has not, or twice by the same."""

from dataclasses import replace

import numpy as np
import pytest

from lookhear.data.sampling import disjoint_windows
from lookhear.errors import ConfigError
from lookhear.tasks.labels.units import WindowChoice, choose_windows, spread_windows
from stand_ins import in_files, make_store


def test_windows_are_spread_from_the_first_to_the_last_moment() -> None:
    (ten,) = spread_windows([(2.0, 12.0)], 1.0, 10)
    np.testing.assert_allclose(ten, 2.0 + np.arange(10))
    (three,) = spread_windows([(0.0, 1.5)], 1.0, 3)
    np.testing.assert_allclose(three, [0.0, 0.25, 0.5])
    (one,) = spread_windows([(0.0, 10.0)], 2.0, 1)
    np.testing.assert_allclose(one, [4.0])
    (short,) = spread_windows([(3.0, 3.5)], 2.0, 5)
    np.testing.assert_allclose(short, [3.0])


def test_a_window_lies_within_one_of_the_clips_of_a_file() -> None:
    """10 s pieces, and windows of 4 s evenly over 25 s: those across a border move into the nearer piece."""
    spans = [(0.0, 10.0), (10.0, 20.0), (20.0, 25.0)]
    found = spread_windows(spans, 4.0, 8)
    wanted = np.linspace(0.0, 21.0, 8)
    together = np.concatenate(found)
    assert (np.diff(together) > 0).all()
    for (start, end), own in zip(spans, found, strict=True):
        assert ((own >= start) & (own + 4.0 <= end)).all()
    for time in wanted:
        inside = any(start <= time and time + 4.0 <= end for start, end in spans)
        nearest = np.abs(together - time).min()
        assert nearest == pytest.approx(0.0) if inside else 0 < nearest <= 2.0 + 1e-9
    gap = spread_windows([(0.0, 2.0), (50.0, 52.0)], 1.0, 4)
    assert [len(own) for own in gap] == [2, 2] or sum(map(len, gap)) == 4


def test_units() -> None:
    store = in_files(make_store(count=5, num_slots=(7, 5)), 2)  # files of 2.8 + 2.0 s, and one of 2.8 s
    default, left_out = choose_windows(store.clips, WindowChoice(), modality="both", window_seconds=0.48)
    assert [len(own.start_seconds) for own in default] == [5, 4, 5, 4, 5]
    np.testing.assert_allclose(default[0].start_seconds, disjoint_windows(0.0, 2.8, 0.48))
    assert not left_out
    choice = WindowChoice(unit="file", windows=6)
    of_files, _ = choose_windows(store.clips, choice, modality="both", window_seconds=0.48)
    counts = [len(own.start_seconds) for own in of_files]
    assert [counts[0] + counts[1], counts[2] + counts[3], counts[4]] == [6, 6, 6]
    assert [choice.key(own.clip) for own in of_files] == ["file-0.mp4"] * 2 + ["file-1.mp4"] * 2 + ["file-2.mp4"]
    of_clips, _ = choose_windows(store.clips, WindowChoice(windows=3), modality="both", window_seconds=0.48)
    assert [len(own.start_seconds) for own in of_clips] == [3] * 5
    (few,), _ = choose_windows(store.clips[:1], WindowChoice(windows=2), modality="audio", window_seconds=9.0)
    assert len(few.start_seconds) == 1
    (start,), _ = choose_windows(store.clips[1:2], WindowChoice(windows=1), modality="visual", window_seconds=9.0)
    assert start.start_seconds.tolist() == [pytest.approx(2.8)], "a clip shorter than a window begins where it begins"


def test_what_lacks_the_modality_is_left_out_and_the_rest_of_the_file_is_not() -> None:
    store = in_files(make_store(count=2), 2)
    store.clips[0] = replace(store.clips[0], num_samples=0, sound_span=None)
    choice = WindowChoice(unit="file", windows=3)
    found, left_out = choose_windows(store.clips, choice, modality="audio", window_seconds=0.48)
    assert [own.clip.index for own in found] == [1]
    assert len(found[0].start_seconds) == 3
    assert [clip.reason for clip in left_out] == ["has no sound"]
    with pytest.raises(ConfigError, match="windows is 0"):
        WindowChoice(windows=0)
