"""Mixup. If these fail, labels do not say what is in the mixture, or a run depends on its batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lookhear.data.batch import REPEAT_BITS
from lookhear.data.dataset import WindowDataset
from lookhear.data.draws import Draws
from lookhear.data.mixing import draw_pairs
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.data.store import Store

CONFIG = PreprocessConfig(audio_frames=80, picture_height=24, picture_width=24)
MANY = torch.arange(4000)


def test_shares_partners_and_their_number_are_drawn_as_published() -> None:
    """Against numpy's own Beta(10, 10): quantiles agree within what 2,000 draws allow."""
    pairs = draw_pairs(Draws(seed=1, epoch=2), MANY, probability=0.5, num_clips=10)
    assert len(pairs.rows) == pytest.approx(2000, abs=120)
    shares = np.quantile(pairs.shares.numpy(), [0.05, 0.25, 0.5, 0.75, 0.95])
    wanted = np.quantile(np.random.default_rng(0).beta(10, 10, 200000), [0.05, 0.25, 0.5, 0.75, 0.95])
    assert shares == pytest.approx(wanted, abs=0.015)
    counts = np.bincount(pairs.partners.numpy(), minlength=10)
    assert len(counts) == 10
    assert counts.min() > 140
    assert not len(draw_pairs(Draws(seed=1, epoch=2), MANY, probability=0.0, num_clips=10).rows)
    assert len(draw_pairs(Draws(seed=1, epoch=2), MANY, probability=1.0, num_clips=10).rows) == 4000


def test_draws_follow_the_clip_and_its_repeat() -> None:
    draws = Draws(seed=1, epoch=2)
    whole = draw_pairs(draws, MANY, probability=1.0, num_clips=999)
    part = draw_pairs(draws, MANY[[7, 3]], probability=1.0, num_clips=999)
    assert torch.equal(part.partners, whole.partners[[7, 3]])
    assert torch.equal(part.shares, whole.shares[[7, 3]])
    again = draw_pairs(draws, MANY + (1 << REPEAT_BITS), probability=1.0, num_clips=999)
    assert (again.partners != whole.partners).float().mean() > 0.9


def test_a_mixed_batch_equals_its_slow_form(store: Store) -> None:
    classes = ("alarm", "bell", "door")
    plain = WindowDataset(store, CONFIG, windows_per_clip=2, classes=classes, seed=4)
    dataset = WindowDataset(store, CONFIG, windows_per_clip=2, classes=classes, seed=4, mixup=0.6)
    preprocess = Preprocess(CONFIG)
    positions = list(range(len(dataset)))
    seen = set()
    for epoch in range(3):
        batch = dataset.batch(epoch, positions)
        own = plain.batch(epoch, positions)
        assert batch.mixed is not None
        assert batch.waveform is not None
        assert own.waveform is not None
        assert batch.frames is not None
        assert own.frames is not None
        assert batch.labels is not None
        assert own.labels is not None
        pairs = draw_pairs(Draws(seed=4, epoch=epoch), own.index, probability=0.6, num_clips=len(plain))
        places = {row: place for place, row in enumerate(pairs.rows.tolist())}
        for row in positions:
            seen.add(bool(batch.mixed[row]))
            assert bool(batch.mixed[row]) == (row in places)
            picture = preprocess.pixels(own.frames[row])
            if row not in places:
                assert torch.equal(batch.waveform[row], own.waveform[row])
                assert torch.equal(batch.frames[row], picture)
                assert torch.equal(batch.labels[row], own.labels[row])
                continue
            share = float(pairs.shares[places[row]])
            other = plain.batch(epoch, [int(pairs.partners[places[row]])])
            assert other.waveform is not None
            assert other.frames is not None
            assert other.labels is not None
            for window in range(2):
                first, second = own.waveform[row, window], other.waveform[0, window]
                sound = share * (first - first.mean()) + (1 - share) * (second - second.mean())
                torch.testing.assert_close(batch.waveform[row, window], sound - sound.mean())
            mixture = share * picture + (1 - share) * preprocess.pixels(other.frames[0])
            torch.testing.assert_close(batch.frames[row], mixture)
            torch.testing.assert_close(batch.labels[row], share * own.labels[row] + (1 - share) * other.labels[0])
    assert seen == {True, False}


@pytest.mark.parametrize("modalities", ["audio", "visual"])
def test_one_clip_of_one_modality(store: Store, modalities: str) -> None:
    dataset = WindowDataset(store, CONFIG, modalities=modalities, mixup=1.0)  # type: ignore[arg-type]
    batch = dataset.batch(0, [2])
    assert (batch.waveform is None, batch.frames is None) == (modalities == "visual", modalities == "audio")
    assert batch.mixed is not None
    assert batch.mixed.tolist() == [True]
    ready = Preprocess(CONFIG)(batch)
    assert (ready.audio is None) == (modalities == "visual")


def test_a_clip_is_mixed_alike_in_any_batch(store: Store) -> None:
    dataset = WindowDataset(store, replace(CONFIG, audio_frames=40), mixup=0.7)
    whole, part = dataset.batch(3, [0, 1, 2, 3]), dataset.batch(3, [2, 0])
    for name in ("waveform", "frames", "labels", "mixed"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[[2, 0]])
