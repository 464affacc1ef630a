"""Labels and their loss. If these fail, fine-tuning learns other targets than the published runs did."""

import dataclasses

import pytest
import torch
from torch import nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.objectives.supervised import Supervised, SupervisedConfig, smooth_labels

SIZES = {"audio_frames": 24, "num_mel_bins": 32, "audio_patch": (16, 8), "picture_height": 16, "picture_width": 24}
ENCODER = CAVMAEConfig(
    width=16, heads=2, audio_depth=1, visual_depth=1, joint_depth=2, decoder_depth=0, picture_patch=(8, 8), **SIZES
)
DRAWS = Draws(seed=0, epoch=0)


def classifier(mode: str = "both") -> CAVMAEClassifier:
    torch.manual_seed(0)
    return CAVMAEClassifier(CAVMAEClassifierConfig(encoder=ENCODER, num_classes=4, mode=mode))  # type: ignore[arg-type]


def make_batch(clips: int = 3, windows: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.zeros(clips, 4)
    labels[:, 1] = 1.0
    labels[0, 2] = 1.0
    return Batch(
        clip_ids=tuple(f"c{i}" for i in range(clips)),
        index=torch.arange(clips),
        start_seconds=torch.zeros(clips, windows, dtype=torch.float64),
        audio=torch.randn(clips, windows, 24, 32, generator=generator),
        frames=torch.randn(clips, windows, 3, 16, 24, generator=generator),
        labels=labels,
    )


def slow_target(own: list[int], other: list[int] | None, share: float, eps: float, num_classes: int) -> list[float]:
    """The published code, line by line: mixing adds, no mixing sets."""
    target = [eps / num_classes] * num_classes
    if other is None:
        for label in own:
            target[label] = 1 - eps
        return target
    for label in own:
        target[label] += share * (1 - eps)
    for label in other:
        target[label] += (1 - share) * (1 - eps)
    return target


def test_the_published_targets() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert smooth_labels(labels, 0.1)[0].tolist() == pytest.approx([0.9, 0.9, 0.025, 0.025])
    shared = smooth_labels(labels, 0.1, mixed=torch.tensor([True]))
    assert shared[0].tolist() == pytest.approx([0.925, 0.925, 0.025, 0.025])
    assert smooth_labels(labels, 0.0)[0].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_targets_equal_their_slow_form() -> None:
    cases = [([0, 1], None, 1.0), ([0, 1], [1, 3], 0.3), ([2], [2], 0.6), ([2], [0], 0.45), ([3], None, 1.0)]
    mixtures = torch.zeros(len(cases), 5)
    for row, (own, other, share) in enumerate(cases):
        for label in own:
            mixtures[row, label] += share
        for label in other or []:
            mixtures[row, label] += 1 - share
    mixed = torch.tensor([other is not None for _, other, _ in cases])
    found = smooth_labels(mixtures, 0.1, mixed=mixed)
    slow = torch.tensor([slow_target(own, other, share, 0.1, 5) for own, other, share in cases])
    torch.testing.assert_close(found, slow)


@pytest.mark.parametrize("loss", ["bce", "ce"])
@pytest.mark.parametrize(("clips", "windows"), [(1, 1), (3, 2)])
def test_losses_equal_their_slow_form(loss: str, clips: int, windows: int) -> None:
    model, batch = classifier(), make_batch(clips, windows)
    objective = SupervisedConfig(loss=loss).build(model, num_classes=4)  # type: ignore[arg-type]
    step = objective(model, batch, DRAWS)
    logits = model(batch.audio, batch.frames).logits.detach()
    assert batch.labels is not None
    target = smooth_labels(batch.labels, 0.1)
    rows = []
    for clip in range(clips):
        for window in range(windows):
            own, wanted = logits[clip, window], target[clip]
            if loss == "bce":
                rows.append(-(wanted * own.sigmoid().log() + (1 - wanted) * (1 - own.sigmoid()).log()).mean())
            else:
                rows.append(-(wanted * own.log_softmax(0)).sum())
    torch.testing.assert_close(step.loss.detach(), torch.stack(rows).mean())
    right = [float(batch.labels[clip, logits[clip, w].argmax()] > 0) for clip in range(clips) for w in range(windows)]
    assert step.report["accuracy"].item() == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("mode", ["both", "audio", "visual"])
def test_a_mode_learns_from_what_it_reads_alone(mode: str) -> None:
    model = classifier(mode)
    objective = SupervisedConfig(loss="bce").build(model)
    batch = make_batch()
    without = {"audio": {"frames": None}, "visual": {"audio": None}, "both": {}}[mode]
    objective(model, dataclasses.replace(batch, **without), DRAWS).loss.backward()
    towers = {"audio": model.encoder.audio_tower, "visual": model.encoder.visual_tower}
    for name, tower in towers.items():
        learned = any(p.grad is not None for p in tower.parameters())
        assert learned == (mode in ("both", name))


def test_what_cannot_be_learned_is_said() -> None:
    with pytest.raises(ConfigError, match="needs a model that classifies, not a Linear"):
        SupervisedConfig(loss="ce").build(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="num_classes is 4 but there are 7 labels"):
        SupervisedConfig(loss="ce").build(classifier(), num_classes=7)
    with pytest.raises(ConfigError, match="set it to bce or ce"):
        SupervisedConfig().build(classifier())
    with pytest.raises(ConfigError, match="label_smoothing is 1"):
        SupervisedConfig(label_smoothing=1.0)
    with pytest.raises(ConfigError, match="no labels to learn"):
        Supervised(SupervisedConfig(loss="ce"))(classifier(), dataclasses.replace(make_batch(), labels=None), DRAWS)
