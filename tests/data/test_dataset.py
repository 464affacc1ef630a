"""Batches. If these fail, what is trained on depends on workers, ranks or restarts, or pairs the wrong moments."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from lookhear.data.batch import Batch
from lookhear.data.dataset import WindowDataset, make_batches, make_feed, num_steps, paired_span
from lookhear.data.preprocess import Preprocess, PreprocessConfig, log_mel, resize_and_crop
from lookhear.data.sampling import frame_times, published_pairs
from lookhear.data.store import Store
from lookhear.errors import ConfigError, StoreError, UserError

CONFIG = PreprocessConfig(audio_frames=80, picture_height=24, picture_width=24)


def same(first: Batch, second: Batch) -> bool:
    return first.clip_ids == second.clip_ids and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in ("start_seconds", "waveform", "frames")
    )


@pytest.mark.parametrize("frames_per_window", [1, 3])
@pytest.mark.parametrize("windows_per_clip", [1, 2])
def test_a_batch_equals_its_slow_form(store: Store, frames_per_window: int, windows_per_clip: int) -> None:
    config = replace(CONFIG, frames_per_window=frames_per_window)
    dataset = WindowDataset(store, config, windows_per_clip=windows_per_clip)
    batch = dataset.batch(4, [3, 0, 5])
    assert batch.waveform is not None
    assert batch.frames is not None
    assert batch.frames.shape == (3, windows_per_clip, 3 * frames_per_window, 24, 24)
    assert batch.frames.dtype == torch.uint8
    for row, position in enumerate([3, 0, 5]):
        clip = dataset.clips[position]
        assert batch.clip_ids[row] == clip.clip_id
        assert int(batch.index[row]) == clip.index
        whole = np.pad(store.waveform(clip.index), 20000)
        pictures = store.frames(clip.index, range(len(clip.frame_seconds)))
        for number, start in enumerate(batch.start_seconds[row].tolist()):
            first = round((start - clip.start_seconds) * 16000) - 120 + 20000
            assert np.array_equal(batch.waveform[row, number].numpy(), whole[first : first + config.window_samples])
            for place, time in enumerate(frame_times(start, config.window_seconds, frames_per_window)):
                nearest = int(np.argmin(abs(clip.frame_seconds - time)))
                expected = resize_and_crop(torch.from_numpy(pictures[nearest]), 24, 24)
                assert torch.equal(batch.frames[row, number, 3 * place : 3 * place + 3], expected)


def test_windows_lie_where_both_tracks_are(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, windows_per_clip=2)
    for position, clip in enumerate(dataset.clips):
        start, end = paired_span(clip)
        for epoch in range(20):
            starts = dataset.starts(epoch, position)
            assert starts[0] >= start
            assert starts[-1] + CONFIG.window_seconds <= end + 1e-6
            assert starts[1] - starts[0] >= CONFIG.window_seconds - 1e-6


def test_epochs_differ_and_repeat(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    assert same(dataset.batch(1, [0, 1]), dataset.batch(1, [0, 1]))
    assert not same(dataset.batch(1, [0, 1]), dataset.batch(2, [0, 1]))
    assert same(dataset.batch(1, [1]), WindowDataset(store, CONFIG, indices=[dataset.clips[1].index]).batch(1, [0]))


def test_any_step_goes_on_as_the_epochs_do(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    epochs = [list(make_batches(dataset, batch_size=2, epoch=epoch)) for epoch in range(3)]
    steps = len(dataset) // 2
    assert [len(epoch) for epoch in epochs] == [steps] * 3 == [num_steps(dataset, batch_size=2)] * 3
    whole = [batch for epoch in epochs for batch in epoch]
    for start, stop in [(0, 3 * steps), (1, steps), (steps - 1, 2 * steps + 1), (2 * steps, 2 * steps)]:
        part = list(make_feed(dataset, batch_size=2, start=start, stop=stop))
        assert len(part) == stop - start
        assert all(same(*pair) for pair in zip(part, whole[start:stop], strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_same_global_batches(store: Store, world_size: int) -> None:
    dataset = WindowDataset(store, CONFIG)
    alone = list(make_batches(dataset, batch_size=4, epoch=0))
    ranks = [
        list(make_batches(dataset, batch_size=4 // world_size, epoch=0, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for step, batch in enumerate(alone):
        together = [clip for rank in ranks for clip in rank[step].clip_ids]
        assert sorted(together) == sorted(batch.clip_ids)
        place = batch.clip_ids.index(ranks[1][step].clip_ids[0])
        assert torch.equal(ranks[1][step].start_seconds[0], batch.start_seconds[place])


def test_workers_give_the_same_batches(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, windows_per_clip=2)
    steps = num_steps(dataset, batch_size=2)
    here, there = (
        list(make_feed(dataset, batch_size=2, start=steps - 1, stop=steps + 2, num_workers=count)) for count in (0, 2)
    )
    assert len(here) == len(there)
    assert all(same(*pair) for pair in zip(here, there, strict=True))


def test_the_last_small_batch_may_be_kept(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    batches = list(make_batches(dataset, batch_size=3, epoch=0, drop_last=False, shuffle=False))
    assert [clip for batch in batches for clip in batch.clip_ids] == [clip.clip_id for clip in dataset.clips]
    with pytest.raises(StoreError, match="do not fill one batch of 100"):
        make_batches(dataset, batch_size=50, epoch=0, world_size=2)


def test_clips_without_sound_or_picture_are_left_out_and_counted(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    assert (dataset.left_out.no_sound, dataset.left_out.no_picture, dataset.left_out.too_short) == (1, 1, 0)
    assert dataset.left_out.total == 2
    assert len(dataset) == len(store) - 2
    mute = [clip.index for clip in store.clips if not clip.has_sound]
    with pytest.raises(StoreError, match="1 no sound"):
        WindowDataset(store, CONFIG, indices=mute)


def test_all_disjoint_windows(store: Store) -> None:
    config = replace(CONFIG, audio_frames=40)
    dataset = WindowDataset(store, config, mode="disjoint", windows_per_clip=None)
    fitting = [int((np.diff(paired_span(clip))[0] + 1e-6) / 0.4) for clip in WindowDataset(store, config).clips]
    assert dataset.windows_per_clip in fitting
    assert len(dataset) == sum(count >= dataset.windows_per_clip for count in fitting)
    assert dataset.left_out.too_short == len(fitting) - len(dataset)
    starts = dataset.batch(0, range(len(dataset))).start_seconds
    assert (starts.diff(dim=1) >= 0.4 - 1e-6).all()
    assert torch.equal(starts, dataset.batch(7, range(len(dataset))).start_seconds)


def test_a_window_longer_than_its_clip_is_padded(store: Store) -> None:
    config = replace(CONFIG, audio_frames=1024)
    for mode in ("random", "disjoint"):
        batch = WindowDataset(store, config, mode=mode).batch(0, [1])  # type: ignore[arg-type]
        assert batch.waveform is not None
        assert (batch.waveform[0, 0, :119] == 0).all()
        assert (batch.waveform[0, 0, -16000:] == 0).all()
        assert batch.waveform[0, 0, 1000:16000].abs().max() > 0.1


def test_labels_are_multi_hot_in_sorted_order(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    assert dataset.classes == ("alarm", "bell", "door")
    assert dataset.num_classes == 3
    labels = dataset.batch(0, range(len(dataset))).labels
    assert labels is not None
    by_path = {clip.path: row.tolist() for clip, row in zip(dataset.clips, labels, strict=True)}
    assert by_path["first/clip 1.mp4"] == [0, 1, 1]
    assert by_path["second/clip 0.mp4"] == [1, 0, 0]
    assert by_path["second/clip 2.mp4"] == [0, 0, 0]
    others = WindowDataset(store, CONFIG, classes=("door", "wind")).batch(0, range(len(dataset))).labels
    assert others is not None
    assert others.sum(dim=0).tolist() == [1, 0]
    unlabelled = WindowDataset(store, CONFIG, indices=[clip.index for clip in dataset.clips if not clip.labels])
    assert unlabelled.batch(0, [0]).labels is None


def test_a_raw_batch_is_what_preprocess_takes(store: Store) -> None:
    batch = Preprocess(CONFIG)(WindowDataset(store, CONFIG).batch(0, [0, 1]).to("cpu"))
    assert batch.audio is not None
    assert batch.frames is not None
    assert batch.audio.shape == (2, 1, 80, 128)
    assert batch.frames.shape == (2, 1, 3, 24, 24)
    assert batch.frames.dtype == torch.float32


@pytest.mark.parametrize("frames_per_window", [1, 3])
def test_pictures_may_be_sized_later(store: Store, frames_per_window: int) -> None:
    """A GPU resizes them in batches; here the CPU does, so that the numbers are the same to the bit."""
    config = replace(CONFIG, frames_per_window=frames_per_window)
    sized = WindowDataset(store, config, windows_per_clip=2)
    later = WindowDataset(store, config, windows_per_clip=2, resize=False)
    raw = later.batch(2, [0, 3, 4])
    assert raw.frames is not None
    assert raw.frame_sizes is not None
    assert raw.frames.shape[-2:] != (24, 24)
    ready, wanted = (Preprocess(config)(batch).frames for batch in (raw, sized.batch(2, [0, 3, 4])))
    assert ready is not None
    assert wanted is not None
    assert torch.equal(ready, wanted)
    mixed = WindowDataset(store, config, windows_per_clip=2, resize=False, mixup=1.0).batch(2, [0, 3])
    assert mixed.frame_sizes is None, "what is mixed is of one size"


def test_workers_pass_on_what_a_user_can_mend(store: Store) -> None:
    """One line, not a traceback of the worker."""
    dataset = WindowDataset(store, CONFIG)
    dataset.store = Broken()  # type: ignore[assignment]
    for num_workers in (0, 1):
        with pytest.raises(StoreError, match=r"^shard 0 is damaged$"):
            list(make_feed(dataset, batch_size=2, start=0, stop=2, num_workers=num_workers))


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_is_killed_is_a_sentence(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG)
    dataset.store = Deadly()  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"a process that reads the store ended .*lower data\.num_workers"):
        list(make_feed(dataset, batch_size=2, start=0, stop=2, num_workers=1))


class Broken:
    """A store whose reader finds damage."""

    def waveform(self, *_: object) -> object:
        raise StoreError("shard 0 is damaged")

    frames = waveform


class Deadly:
    """A store that the system ends the reader of."""

    def waveform(self, *_: object) -> object:
        os.kill(os.getpid(), signal.SIGKILL)

    frames = waveform


def test_a_store_made_for_another_channel_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"channel 'mix'.*'first'.*prepare it again"):
        WindowDataset(store, replace(CONFIG, channel="first"))


def test_published_pairs(store: Store) -> None:
    """Clips of about two seconds have the first pictures of the ten published seconds; each keeps its own window."""
    config = replace(CONFIG, framing="published")
    dataset = WindowDataset(store, config, mode="published", windows_per_clip=2, pairs_per_clip=16)
    pairs = published_pairs(16, config.audio_frames)
    seen = set()
    for epoch in range(12):
        batch = dataset.batch(epoch, range(len(dataset)))
        assert batch.frames is not None
        for row, clip in enumerate(dataset.clips):
            shown = [n for n in range(16) if clip.start_seconds + 0.64 * n <= paired_span(clip)[1] + 0.32]
            numbers = [
                [n for n in shown if abs(clip.start_seconds + 0.01 * pairs.start_frames[n] - start) < 1e-9]
                for start in batch.start_seconds[row].tolist()
            ]
            assert all(len(found) == 1 for found in numbers), "windows of 0.8 s differ from pair to pair"
            assert numbers[0] < numbers[1]
            seen.add((row, *numbers[0]))
            for place, (number,) in enumerate(numbers):
                time = clip.start_seconds + 0.64 * number
                nearest = int(np.argmin(abs(clip.frame_seconds - time)))
                picture = torch.from_numpy(store.frames(clip.index, [nearest])[0])
                assert torch.equal(batch.frames[row, place], resize_and_crop(picture, 24, 24))
    assert len(seen) > len(dataset), "pairs are drawn anew in every epoch"
    assert same(dataset.batch(3, [0]), dataset.batch(3, [0]))


def test_all_published_pairs_of_clips_that_have_them(store: Store) -> None:
    whole = WindowDataset(store, CONFIG, mode="published", windows_per_clip=None)
    assert whole.windows_per_clip == 16
    lasting = [clip for clip in WindowDataset(store, CONFIG).clips if paired_span(clip)[1] - clip.start_seconds >= 9.28]
    assert lasting
    assert [clip.clip_id for clip in whole.clips] == [clip.clip_id for clip in lasting]
    assert whole.left_out.too_short > 0
    batch = whole.batch(0, [0])
    expected = whole.clips[0].start_seconds + 0.01 * published_pairs(16, 80).start_frames
    assert batch.start_seconds[0].tolist() == pytest.approx(expected)
    for wrong, words in (
        ({"windows_per_clip": 3, "pairs_per_clip": 2}, "there are 2 pairs"),
        ({"config": replace(CONFIG, frames_per_window=3)}, "has one picture"),
        ({"config": replace(CONFIG, audio_frames=1025)}, "at most 1024 frames"),
    ):
        with pytest.raises(ConfigError, match=words):
            WindowDataset(store, mode="published", **({"config": CONFIG} | wrong))  # type: ignore[arg-type]


def test_a_store_of_too_few_pictures_for_the_published_pairs_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"fewer pictures than 400 in 10.24 s.*frames_per_second=39"):
        WindowDataset(store, CONFIG, mode="published", pairs_per_clip=400)


def test_sound_that_is_missing_is_padded_as_published(store: Store) -> None:
    config = replace(CONFIG, framing="published", audio_frames=1024)
    batch = WindowDataset(store, config, mode="published", pairs_per_clip=10).batch(0, [1])
    clip = WindowDataset(store, config).clips[1]
    whole = torch.from_numpy(store.waveform(clip.index))
    audio = Preprocess(config)(batch).audio
    assert audio is not None
    mel = log_mel(whole)
    torch.testing.assert_close(audio[0, 0, : len(mel)], (mel - config.audio_mean) / config.audio_std)
    torch.testing.assert_close(audio[0, 0, len(mel) :], torch.full((1024 - len(mel), 128), 5.081 / 4.4849))


def test_mixed_clips_keep_their_own_length(store: Store) -> None:
    """A partner's missing sound is silence; what a clip itself lacks stays missing."""
    config = replace(CONFIG, framing="published", audio_frames=600)
    plain = WindowDataset(store, config, mode="published").batch(0, range(5))
    mixed = WindowDataset(store, config, mode="published", mixup=1.0).batch(0, range(5))
    assert plain.waveform is not None
    assert mixed.waveform is not None
    assert plain.waveform.isnan().any()
    assert torch.equal(mixed.waveform.isnan(), plain.waveform.isnan())
    audio = Preprocess(config)(mixed).audio
    assert audio is not None
    assert audio.isfinite().all()
