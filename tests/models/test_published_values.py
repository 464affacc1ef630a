"""Full-size models against values that the published code gave (facts of both repositories, fp32 on a CPU).

Their weights are drawn from the tensors' published names. Minutes long: run with `-m slow`. If these fail, a
published file does not give the published numbers, whatever the small golden models say.
"""

import zlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.published import _import, layout, published_shapes
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig


def _fill(model: nn.Module, name: str, *, norm_scale: float) -> None:
    """Draws every tensor but the position tables from its published name, as the reference values were made."""
    config: Any = model.config
    shapes = published_shapes(name, config)
    tensors = {}
    for entry in layout(name, config):
        if "pos_embed" in entry.published:
            continue
        size = shapes[entry.published]
        drawn = _drawn(zlib.crc32(entry.published.encode()), *size)
        is_norm = len(size) == 1 and entry.published.endswith("weight")
        tensors |= dict(_import(entry, 1 + norm_scale * drawn if is_norm else 0.05 * drawn))
    model.load_state_dict(model.state_dict() | tensors)


def _drawn(seed: int, *size: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(int(np.prod(size))).astype(np.float32)).reshape(
        size
    )


@pytest.mark.slow
@torch.no_grad()
def test_full_size_cavmae_sync_equals_the_published_code() -> None:
    config = CAVMAESyncConfig()
    model = CAVMAESync(config).eval()
    _fill(model, "cavmae_sync", norm_scale=0.05)
    audio, frames = _drawn(1, 2, 1, 416, 128), _drawn(2, 2, 1, 3, 224, 224)
    output = model(audio, frames)
    close = {"atol": 2e-5, "rtol": 0}
    expected = torch.tensor([-0.77880, -0.52031, 0.21420, 0.20740])
    torch.testing.assert_close(output.audio.pooled[0, 0, :4], expected, **close)
    expected = torch.tensor([0.65176, -1.57091, -0.64495, 0.08272])
    torch.testing.assert_close(output.visual.pooled[0, 0, :4], expected, **close)
    cosines = output.audio.embedding[:, 0] @ output.visual.embedding[:, 0].T
    expected = torch.tensor([[-0.0246206, -0.0355171], [0.0012708, -0.0203829]])
    torch.testing.assert_close(cosines, expected, **close)
    torch.manual_seed(0)
    masks = model.draw_masks(2)
    assert masks.audio.kept[0].sort().values[:8].tolist() == [2, 3, 12, 13, 18, 27, 28, 32]
    assert masks.visual.kept[0].sort().values[:8].tolist() == [5, 9, 11, 14, 18, 21, 23, 24]
    found = model(audio, frames, mask=masks).reconstruction
    expected = torch.tensor([-0.07522, 0.86368, 1.71283, -0.23665])
    torch.testing.assert_close(found.audio[0, 0, 0, :4], expected, **close)
    error = (found.audio - found.audio_patches)[:, 0].square().mean(-1)
    assert error[masks.audio.removed].mean().item() == pytest.approx(2.308471, abs=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_cavmae_equals_the_published_code() -> None:
    config = CAVMAEConfig()
    model = CAVMAE(config).eval()
    _fill(model, "cavmae", norm_scale=0.1)
    audio, frames = _drawn(1, 4, 1, 1024, 128), _drawn(2, 4, 1, 3, 224, 224)
    output = model(audio, frames)
    close = {"atol": 2e-5, "rtol": 0}
    expected = torch.tensor([-0.1925881, -0.3507162, 0.1721755, 0.3205422])
    torch.testing.assert_close(output.audio.pooled[0, 0, :4], expected, **close)
    cosines = output.audio.embedding[0, 0] @ output.visual.embedding[:, 0].T
    expected = torch.tensor([-0.006781098, 0.006084756, 0.009809861, 0.01238520])
    torch.testing.assert_close(cosines, expected, **close)
    noise = [
        torch.from_numpy(np.random.RandomState(3 + n).random_sample((4, size))) for n, size in enumerate((512, 196))
    ]
    masks = model.draw_masks(4, audio_noise=noise[0].float(), visual_noise=noise[1].float())
    assert masks.audio.restore[0, :8].tolist() == [290, 373, 146, 265, 463, 467, 62, 106]
    masked = model(audio, frames, mask=masks)
    expected = torch.tensor([-0.1417191, -0.0725709, 1.012983, -0.3816106])
    torch.testing.assert_close(masked.joint[0, 0, 0, :4], expected, **close)
    expected = torch.tensor([-1.762665, -1.380298, 2.193421])
    torch.testing.assert_close(masked.reconstruction.visual[3, 0, 195, -3:], expected, **close)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("changes", "audio_start", "visual_start"),
    [
        ({"keep_registers": True}, [-0.77682, -0.52308, 0.20986, 0.20681], None),
        (
            {"contrastive_head_depth": 2},
            [-1.00093, -1.35455, 0.65083, 0.05640],
            [0.73918, -1.15835, -0.88058, 0.46969],
        ),
    ],
)
def test_full_size_sync_variants_equal_the_published_code(
    changes: dict, audio_start: list[float], visual_start: list[float] | None
) -> None:
    model = CAVMAESync(CAVMAESyncConfig(**changes)).eval()
    _fill(model, "cavmae_sync", norm_scale=0.05)
    output = model(_drawn(1, 2, 1, 416, 128), _drawn(2, 2, 1, 3, 224, 224))
    torch.testing.assert_close(output.audio.pooled[0, 0, :4], torch.tensor(audio_start), atol=2e-5, rtol=0)
    if visual_start is not None:
        torch.testing.assert_close(output.visual.pooled[0, 0, :4], torch.tensor(visual_start), atol=2e-5, rtol=0)


# ---- losses


class Given(Draws):
    """Draws whose noise was drawn elsewhere."""

    def __init__(self, audio: Tensor, visual: Tensor) -> None:
        super().__init__(seed=0, epoch=0)
        object.__setattr__(self, "noise", {"audio": audio, "visual": visual})

    def uniform(self, index: Tensor, count: int, *, purpose: str) -> Tensor:
        """The noise of the modality that `purpose` ends with."""
        found: Tensor = self.noise[purpose.split()[-1]]  # type: ignore[attr-defined]
        assert found.shape == (len(index), count)
        return found


def _torch_draws(rows: int, audio: int, visual: int) -> Given:
    torch.manual_seed(0)
    return Given(torch.rand(rows, audio), torch.rand(rows, visual))


def _batch(rows: int, audio_frames: int) -> Batch:
    return Batch(
        clip_ids=tuple(map(str, range(rows))),
        index=torch.arange(rows),
        start_seconds=torch.zeros(rows, 1, dtype=torch.float64),
        audio=_drawn(1, rows, 1, audio_frames, 128),
        frames=_drawn(2, rows, 1, 3, 224, 224),
    )


def _check_losses(model: nn.Module, batch: Batch, draws: Draws, expected: dict[str, float], **changes: Any) -> None:
    """`expected`: loss, audio and visual (reconstruction), contrastive (weighted), accuracy; what is not named is not
    known."""
    step = CAVMAEObjectiveConfig(**changes).build(model)(model, batch, draws)
    found = {"loss": step.loss, "accuracy": step.report["contrastive_accuracy"]}
    found |= {name.removeprefix("reconstruction_"): value for name, value in step.terms.items()}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, abs=1e-5), name


@pytest.mark.slow
@torch.no_grad()
def test_losses_of_full_size_cavmae() -> None:
    model = CAVMAE(CAVMAEConfig()).eval()
    _fill(model, "cavmae", norm_scale=0.1)
    batch = _batch(4, 1024)
    noise = [
        np.random.RandomState(3 + n).random_sample((4, size)).astype(np.float32) for n, size in enumerate((512, 196))
    ]
    given = Given(*map(torch.from_numpy, noise))
    normalised = {"loss": 4.723996, "audio": 2.278890, "visual": 2.431203, "contrastive": 0.0139029, "accuracy": 0.25}
    _check_losses(model, batch, given, normalised)
    plain = {"loss": 4.722424, "audio": 2.280391, "visual": 2.428130, "contrastive": 0.0139029, "accuracy": 0.25}
    _check_losses(model, batch, given, plain, normalise_patches=False)
    contrast = {"reconstruction_weight": 0.0, "contrastive_weight": 1.0}
    _check_losses(model, batch, given, {"contrastive": 1.390290, "accuracy": 0.25}, **contrast)
    _check_losses(model, batch, given, {"contrastive": 1.424842, "accuracy": 0.25}, direction="both", **contrast)
    seeded = {"loss": 4.727269, "audio": 2.279145, "visual": 2.434295, "contrastive": 0.01382813, "accuracy": 0.5}
    _check_losses(model, batch, _torch_draws(4, 512, 196), seeded)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize(
    ("sizes", "changes", "expected"),
    [
        (
            {},
            {"normalise_patches": False},
            {"loss": 4.682936, "audio": 2.308471, "visual": 2.368510, "contrastive": 0.005956, "accuracy": 1.0},
        ),
        ({}, {}, {"loss": 4.686719, "audio": 2.307355, "visual": 2.373409, "contrastive": 0.005956}),
        ({"contrastive_head_depth": 2}, {"normalise_patches": False}, {"contrastive": 0.005775}),
        (
            {"num_registers": 4},
            {"normalise_patches": False, "local_share": 0.5},
            {"loss": 4.680293, "contrastive": 0.006762},
        ),
        ({"num_registers": 4}, {"normalise_patches": False, "local_share": 1.0}, {"contrastive": 0.006687}),
        ({"num_registers": 4}, {"normalise_patches": False}, {"contrastive": 0.006838}),
        (
            {"audio_frames": 96, "num_registers": 0, "num_global_tokens": 0},
            {"normalise_patches": False},
            {"loss": 4.601079, "audio": 2.253917, "visual": 2.339569, "contrastive": 0.007592},
        ),
    ],
)
def test_losses_of_full_size_sync(sizes: dict, changes: dict, expected: dict[str, float]) -> None:
    """Without the published loss of kept registers: its code feeds the decoder shifted tokens then (facts, 7.2)."""
    config = CAVMAESyncConfig(**sizes)
    model = CAVMAESync(config).eval()
    _fill(model, "cavmae_sync", norm_scale=0.05)
    draws = _torch_draws(2, config.audio_grid.num_tokens, config.picture_grid.num_tokens)
    _check_losses(model, _batch(2, config.audio_frames), draws, expected, **changes)


@pytest.mark.slow
@torch.no_grad()
def test_logits_of_the_full_size_classifier() -> None:
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=CAVMAEConfig(decoder_depth=0), num_classes=5)).eval()
    _fill(model, "cavmae_classifier", norm_scale=0.1)
    batch = _batch(4, 1024)
    expected = {
        "both": [2.907096, -0.6295722, -0.9104181, -0.9288800, 0.06898172],
        "audio": [2.243755, -0.5293494, -1.452171, -0.9552345, -0.04082368],
        "visual": [2.358546, -1.317177, 0.5019355, -0.1548868, 0.02619614],
        "audio_of_both": [2.470001, -0.3579174, -1.469650, -0.9625953, -0.04758821],
        "visual_of_both": [2.240171, -1.363933, 0.5339199, -0.1840847, 0.2331919],
    }
    for mode, logits in expected.items():
        found = model(batch.audio, batch.frames, mode=mode).logits
        torch.testing.assert_close(found[0, 0], torch.tensor(logits), atol=2e-5, rtol=0)
