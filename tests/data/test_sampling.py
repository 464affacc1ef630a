"""Where to look. If these fail, windows miss a part of a file, overlap, or differ from run to run."""

import numpy as np
import pytest

from lookhear.data.sampling import (
    clip_rng,
    disjoint_windows,
    draw_windows,
    epoch_order,
    frame_times,
    nearest_frames,
    num_disjoint,
    published_pairs,
    window_starts,
)


def spans(count: int = 200) -> list[tuple[float, float, float, float]]:
    rng = np.random.default_rng(3)
    starts = rng.uniform(-5, 100, count)
    return [(s, s + rng.uniform(0.05, 30), rng.uniform(0.1, 12), rng.uniform(0.05, 8)) for s in starts]


@pytest.mark.parametrize("overlap", [0.5, 1.0])
def test_windows_cover_the_span_and_stay_inside(overlap: float) -> None:
    for start, end, window, _ in spans():
        starts = window_starts(start, end, window_seconds=window, hop_seconds=window * overlap)
        assert starts[0] == start
        if end - start <= window:
            assert len(starts) == 1
            continue
        assert starts[-1] + window == pytest.approx(end)
        assert (np.diff(starts) > 0).all()
        assert (np.diff(starts) <= window * overlap + 1e-6).all()


def test_a_whole_number_of_hops_gives_no_extra_window() -> None:
    assert window_starts(0.0, 1.2, window_seconds=0.4, hop_seconds=0.2) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert window_starts(2.0, 3.0, window_seconds=1.0, hop_seconds=0.5) == pytest.approx([2.0])
    assert window_starts(0.0, 1.1, window_seconds=0.4, hop_seconds=0.4) == pytest.approx([0, 0.4, 0.7])


def test_no_window_of_no_length() -> None:
    with pytest.raises(ValueError, match="positive"):
        window_starts(0, 1, window_seconds=0, hop_seconds=1)


def test_disjoint_windows_do_not_overlap() -> None:
    for start, end, window, _ in spans():
        for count in (None, *range(1, num_disjoint(start, end, window) + 1)):
            starts = disjoint_windows(start, end, window, count)
            assert len(starts) == (num_disjoint(start, end, window) if count is None else count)
            assert (np.diff(starts) >= window - 1e-6).all()
            assert not len(starts) or (starts[0] >= start - 1e-6 and starts[-1] + window <= end + 1e-6)


def test_seven_windows_of_a_three_second_clip() -> None:
    assert disjoint_windows(0, 3.0, 0.4) == pytest.approx(0.1 + 0.4 * np.arange(7))
    with pytest.raises(ValueError, match="7 do"):
        disjoint_windows(0, 3.0, 0.4, 8)


def test_drawn_windows_stay_inside_and_apart_where_they_fit() -> None:
    for number, (start, end, window, _) in enumerate(spans()):
        for count in (1, 2, 5):
            starts = draw_windows(clip_rng(0, 0, number), start, end, window, count)
            assert len(starts) == count
            if end - start <= window:
                assert (starts == start).all()
                continue
            assert starts[0] >= start
            assert starts[-1] + window <= end + 1e-6
            if count * window <= end - start:
                assert (np.diff(starts) >= window - 1e-6).all()
            else:
                assert (np.diff(starts) > 0).all()


def test_one_drawn_window_is_uniform() -> None:
    starts = [draw_windows(clip_rng(1, 0, index), 2.0, 12.0, 2.0, 1)[0] for index in range(4000)]
    counts, _ = np.histogram(starts, bins=8, range=(2.0, 10.0))
    assert (abs(counts - 500) < 100).all()


def test_several_drawn_windows_reach_every_place() -> None:
    starts = np.concatenate([draw_windows(clip_rng(1, 0, index), 0.0, 3.0, 0.8, 2) for index in range(2000)])
    counts, _ = np.histogram(starts, bins=11, range=(0.0, 2.2))
    assert counts.min() > 0.3 * counts.mean()


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    draws = {key: clip_rng(*key).random() for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]}
    assert len(set(draws.values())) == len(draws)
    assert draws == {key: clip_rng(*key).random() for key in reversed(draws)}


def test_epoch_order_is_a_permutation_of_its_own() -> None:
    orders = [epoch_order(seed, epoch, 50) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert (epoch_order(0, 1, 50) == orders[1]).all()
    assert len(epoch_order(0, 0, 0)) == 0


def test_frame_times_are_the_middles_of_equal_parts() -> None:
    assert frame_times(2.0, 1.0, 1) == pytest.approx([2.5])
    assert frame_times(2.0, 1.0, 4) == pytest.approx([2.125, 2.375, 2.625, 2.875])


def test_nearest_frames_equal_a_loop() -> None:
    rng = np.random.default_rng(0)
    frames, times = np.sort(rng.uniform(0, 10, 9)), rng.uniform(-1, 11, 40)
    slow = [min(range(9), key=lambda number: abs(frames[number] - time)) for time in times]
    assert nearest_frames(frames, times).tolist() == slow
    assert nearest_frames(np.array([1.0, 2.0]), np.array([1.5])).tolist() == [0]


@pytest.mark.parametrize(
    ("audio_frames", "starts"),
    [
        (96, [0, 16, 80, 144, 208, 272, 336, 400, 464, 528, 592, 656, 720, 784, 848, 912]),
        (192, [0, 0, *range(32, 801, 64), 832]),
        (304, [0, 0, 0, *range(40, 681, 64), 720, 720]),
        (416, [0, 0, 0, 0, 48, 112, 176, 240, 304, 368, 432, 496, 560, 608, 608, 608]),
        (512, [0, 0, 0, 0, 0, *range(64, 449, 64), 512, 512, 512, 512]),
        (1024, [0] * 16),
    ],
)
def test_published_windows(audio_frames: int, starts: list[int]) -> None:
    """The table that the published code gives for 16 pictures."""
    pairs = published_pairs(16, audio_frames)
    assert pairs.start_frames.tolist() == starts
    assert pairs.unique_starts.tolist() == sorted(set(starts))
    assert pairs.unique_starts[pairs.inverse].tolist() == starts
    assert pairs.frame_seconds == pytest.approx(0.64 * np.arange(16))


def test_published_windows_of_other_numbers() -> None:
    for num_frames in (1, 3, 10, 24):
        for audio_frames in (1, 97, 1024):
            pairs = published_pairs(num_frames, audio_frames)
            assert len(pairs.frame_seconds) == len(pairs.inverse) == num_frames
            assert pairs.start_frames.min() >= 0
            assert pairs.start_frames.max() + audio_frames <= 1024
    assert published_pairs(2, 10, padded_frames=50).start_frames.tolist() == [0, 20]
    for wrong in ((0, 96), (16, 0), (16, 1025)):
        with pytest.raises(ValueError, match="at least 1 picture"):
            published_pairs(*wrong)
