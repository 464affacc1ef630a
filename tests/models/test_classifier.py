"""If these fail, a classification mode pools other tokens than it says. (Golden logits: tests/golden.)"""

import pytest
import torch

from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig

SIZES = {"audio_frames": 24, "num_mel_bins": 32, "audio_patch": (16, 8), "picture_height": 32, "picture_width": 48}
ENCODER = CAVMAEConfig(width=24, heads=2, audio_depth=1, visual_depth=1, joint_depth=2, decoder_depth=0, **SIZES)


@pytest.fixture
def classifier() -> CAVMAEClassifier:
    torch.manual_seed(0)
    return CAVMAEClassifier(CAVMAEClassifierConfig(encoder=ENCODER, num_classes=5)).eval()


@pytest.mark.parametrize(("num_clips", "num_windows"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("mode", ["both", "audio", "visual", "audio_of_both", "visual_of_both"])
def test_every_mode_reads_only_its_own(
    classifier: CAVMAEClassifier, mode: str, num_clips: int, num_windows: int
) -> None:
    audio = torch.randn(num_clips, num_windows, 24, 32)
    frames = torch.randn(num_clips, num_windows, 3, 32, 48)
    logits = classifier(audio, frames, mode=mode).logits
    assert logits.shape == (num_clips, num_windows, 5)
    if mode != "both":
        given = {"audio": audio} if mode.startswith("audio") else {"frames": frames}
        torch.testing.assert_close(classifier(**given, mode=mode).logits, logits)
    with pytest.raises(ConfigError, match="not given"):
        classifier(mode=mode)


def test_both_pools_all_tokens_alike(classifier: CAVMAEClassifier) -> None:
    audio, frames = torch.randn(1, 1, 24, 32), torch.randn(1, 1, 3, 32, 48)
    encoder = classifier.encoder
    sound = encoder.audio_tower(encoder.audio_patches(audio))
    picture = encoder.visual_tower(encoder.visual_patches(frames))
    tokens = encoder.joint_tokens(sound, picture)
    assert tokens.shape == (1, 6 + 6, 24)
    slow = classifier.head(classifier.head_norm(tokens.mean(1)))
    torch.testing.assert_close(classifier(audio, frames).logits[0], slow)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="has no decoder"):
        CAVMAEClassifierConfig(encoder=CAVMAEConfig(), num_classes=5)
    with pytest.raises(ConfigError, match="at least 1"):
        CAVMAEClassifierConfig(encoder=ENCODER, num_classes=0)
