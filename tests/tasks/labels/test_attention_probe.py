"""If these fail, the attention probe learns from what it is judged on, or depends on more than its seed."""

import numpy as np
import pytest
import torch

from lookhear.errors import ConfigError, StoreError
from lookhear.tasks.labels.attention_probe import (
    AttentionHead,
    AttentionProbeConfig,
    attention_probe,
    split_clips,
)
from lookhear.tasks.labels.features import ClipFeatures

QUICK = AttentionProbeConfig(epochs=8, batch_size=8, learning_rate=3e-3)


def clips(
    count: int, seed: int, *, several: bool = False, lengths: tuple[int, ...] = (3, 1, 4), noise: float = 0.3
) -> list[ClipFeatures]:
    """One random window of each clip carries its class; the others are noise."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(9).standard_normal((3, 8)) * 2
    found = []
    for number in range(count):
        length, kind = lengths[number % len(lengths)], number % 3
        steps = noise * rng.standard_normal((length, 8))
        steps[rng.integers(length)] += centres[kind]
        labels = (f"kind {kind}", "all") if several else (f"kind {kind}",)
        found.append(
            ClipFeatures(
                clip_id=f"{seed}-{number}",
                path=f"{seed}-{number}",
                index=number,
                labels=labels,
                audio=steps[:, :4].astype(np.float32),
                visual=steps[:, 4:].astype(np.float32),
            )
        )
    return found


def test_it_learns_and_is_the_same_for_the_same_seed() -> None:
    train, test = clips(60, 0), clips(30, 1)
    found = attention_probe(train, test, config=QUICK)
    assert found.accuracy > 0.9
    assert (found.chance, found.majority) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (found.train_clips, found.protocol["validation_clips"], found.test_clips) == (48, 12, 30)
    assert attention_probe(train, test, config=QUICK) == found
    torch.manual_seed(77)  # nor does the global generator matter, or change
    state = torch.get_rng_state()
    assert attention_probe(train, test, config=QUICK) == found
    assert torch.equal(state, torch.get_rng_state())


def test_the_epoch_is_chosen_on_the_validation_clips_and_not_on_the_test_clips() -> None:
    train, test, validation = clips(30, 0), clips(30, 1), clips(30, 2)
    found = attention_probe(train, test, validation=validation, config=QUICK)
    other = attention_probe(train, clips(9, 5, noise=9.0), validation=validation, config=QUICK)
    assert other.protocol["chosen_epoch"] == found.protocol["chosen_epoch"]
    assert other.protocol["validation_score"] == found.protocol["validation_score"]
    assert found.train_clips == 30


def test_several_labels_a_clip_are_a_yes_or_no_each() -> None:
    found = attention_probe(clips(60, 0, several=True), clips(30, 1, several=True), config=QUICK)
    assert found.protocol["settings"]["loss"] == "bce"
    assert found.accuracy == found.majority == 1.0  # every clip has "all", and naming it is right
    assert found.mean_average_precision > 0.9
    with pytest.raises(StoreError, match="set loss to bce"):
        attention_probe(clips(6, 0, several=True), clips(3, 1), config=AttentionProbeConfig(loss="ce"))


def test_the_order_of_windows_does_not_matter() -> None:
    torch.manual_seed(0)
    head = AttentionHead(24, 5, AttentionProbeConfig())
    assert head.blocks[0].attention.heads == 12
    steps = torch.randn(1, 4, 24)
    torch.testing.assert_close(head(steps), head(steps.flip(1)), atol=1e-5, rtol=1e-5)
    assert head(steps[:, :1]).shape == (1, 5)


def test_a_split_keeps_every_label_on_the_training_side() -> None:
    many = clips(31, 0)
    many[30] = ClipFeatures(clip_id="x", path="x", index=30, labels=("rare",), audio=many[30].audio, visual=None)
    kept, held = split_clips(many, 0.2, seed=1)
    assert (len(kept), len(held)) == (25, 6)
    assert {clip.label for clip in kept} == {"kind 0", "kind 1", "kind 2", "rare"}
    assert not {clip.clip_id for clip in kept} & {clip.clip_id for clip in held}
    assert split_clips(many, 0.2, seed=1)[1] == held


def test_one_clip_a_class_trains_without_validation() -> None:
    found = attention_probe(clips(3, 0), clips(3, 1), config=QUICK)
    assert found.protocol["validation_score"] is None
    assert found.protocol["chosen_epoch"] == 8


def test_bad_sides_and_settings() -> None:
    train = clips(9, 0)
    with pytest.raises(StoreError, match="at least two classes"):
        attention_probe(train[::3], train[::3], config=QUICK)
    with pytest.raises(StoreError, match="test side has no clips"):
        attention_probe(train, [], config=QUICK)
    with pytest.raises(ConfigError, match="epochs"):
        AttentionProbeConfig(epochs=0)
