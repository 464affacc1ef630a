"""Balanced sampling. If these fail, rare labels come as seldom as they are, or an epoch cannot be repeated."""

import numpy as np
import pytest
import torch

from lookhear.data.balance import balance_weights, balanced_order
from lookhear.data.dataset import WindowDataset, make_batches
from lookhear.data.preprocess import PreprocessConfig
from lookhear.data.store import Store
from lookhear.errors import StoreError

CONFIG = PreprocessConfig(audio_frames=40, picture_height=24, picture_width=24)


def test_the_published_weights() -> None:
    labels = [["dog"], ["dog", "rain"], ["dog"], []]
    rare, often = 1000 / (1 + 0.01), 1000 / (3 + 0.01)
    assert balance_weights(labels) == pytest.approx([often, often + rare, often, 0.0])


def test_an_epoch_is_drawn_by_weight_and_repeats_are_numbered() -> None:
    """Against torch's WeightedRandomSampler: both draw each clip as often as its weight says, within chance."""
    weights = np.array([1.0, 0.0, 5.0, 2.0] * 500)
    order = balanced_order(weights, seed=1, epoch=3)
    num = len(weights)
    assert len(order) == num
    torch.manual_seed(0)
    sampler = torch.utils.data.WeightedRandomSampler(weights.tolist(), num, replacement=True)
    slow = np.array(list(sampler))
    for drawn in (order % num, slow):
        share = np.bincount(drawn % 4, minlength=4) / num
        assert share == pytest.approx(weights[:4] / 8, abs=0.04)
    seen: dict[int, int] = {}
    for position in order.tolist():
        repeat, clip = divmod(position, num)
        assert repeat == seen.get(clip, 0)
        seen[clip] = repeat + 1
    assert max(seen.values()) > 1
    assert np.array_equal(order, balanced_order(weights, seed=1, epoch=3))
    assert not np.array_equal(order, balanced_order(weights, seed=1, epoch=4))
    assert not np.array_equal(order, balanced_order(weights, seed=2, epoch=3))
    assert balanced_order(np.array([7.0]), seed=0, epoch=0).tolist() == [0]


def test_a_dataset_draws_labelled_clips_alone_and_repeats_differ(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, sampling="balanced")
    batches = list(make_batches(dataset, batch_size=len(dataset), epoch=0))
    assert len(batches) == 1
    drawn = [dataset.clips[position % len(dataset)] for position in dataset.order(0)]
    assert tuple(clip.clip_id for clip in drawn) == batches[0].clip_ids
    assert all(clip.labels for clip in drawn)
    assert len(set(batches[0].clip_ids)) == 2
    for clip_id in set(batches[0].clip_ids):
        own = [i for i, found in enumerate(batches[0].clip_ids) if found == clip_id]
        starts = batches[0].start_seconds[own, 0].tolist()
        assert len(set(starts)) == len(starts), "a clip that comes twice gives two windows"
        assert len(set(batches[0].draw_key[own].tolist())) == len(own)
    ranks = [list(make_batches(dataset, batch_size=1, epoch=5, rank=rank, world_size=2)) for rank in (0, 1)]
    alone = list(make_batches(dataset, batch_size=2, epoch=5))
    for step, batch in enumerate(alone):
        assert [rank[step].clip_ids[0] for rank in ranks] == list(batch.clip_ids)
        assert [float(rank[step].start_seconds) for rank in ranks] == batch.start_seconds[:, 0].tolist()


def test_listed_weights_and_none(store: Store) -> None:
    dataset = WindowDataset(store, CONFIG, sampling="weighted")
    assert len(dataset.order(0)) == len(dataset)
    unlabelled = [clip.index for clip in store.clips if not clip.labels]
    with pytest.raises(StoreError, match="have no labels to balance"):
        WindowDataset(store, CONFIG, sampling="balanced", indices=unlabelled)
