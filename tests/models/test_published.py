"""If these fail, published weights are not what their authors published, or a bad file passes for a good one.

(Golden tensors: tests/golden.)
"""

import os
import pickle
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.published import (
    PublishedChoices,
    _import,
    export_published,
    infer,
    is_published,
    layout,
    load_published,
    published_shapes,
    to_published,
)

TINY = Path(__file__).parent.parent / "golden" / "tiny"
CHOICES = PublishedChoices(heads=2, decoder_heads=2)
FILES = ["cavmae", "cavmae_finetuned", "sync_registers_only", "sync_released_flags"]


@pytest.mark.parametrize("name", FILES)
def test_export_equals_the_import(name: str, tmp_path: Path) -> None:
    original = torch.load(TINY / f"{name}.pth", weights_only=True)
    loaded = load_published(TINY / f"{name}.pth", choices=CHOICES)
    save_checkpoint(tmp_path / "ours.safetensors", loaded.model, preprocess=loaded.preprocess)
    ours = load_checkpoint(tmp_path / "ours.safetensors")
    assert ours.fingerprint == loaded.fingerprint
    for number, model in enumerate((loaded.model, ours.model)):
        path = tmp_path / f"{number}.pth"
        export_published(model, path)
        exported = torch.load(path, weights_only=True)
        assert list(exported) == list(original)
        assert all(torch.equal(exported[key], original[key]) for key in original)
    assert is_published(path)
    assert not is_published(tmp_path / "ours.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_the_prefix_is_read_too(name: str, tmp_path: Path) -> None:
    bare = {key.removeprefix("module."): tensor for key, tensor in torch.load(TINY / f"{name}.pth").items()}
    torch.save(bare, tmp_path / "bare.pth")
    loaded = load_published(tmp_path / "bare.pth", choices=CHOICES)
    assert loaded.fingerprint == load_published(TINY / f"{name}.pth", choices=CHOICES).fingerprint


def test_a_model_made_here_exports_and_comes_back(tmp_path: Path) -> None:
    config = CAVMAESyncConfig(
        width=128, heads=2, decoder_width=32, decoder_heads=1, picture_height=32, picture_width=32,
        audio_frames=64, audio_depth=1, visual_depth=2, joint_depth=3, decoder_depth=1, contrastive_head_depth=2,
    )  # fmt: skip
    model = CAVMAESync(config)
    export_published(model, tmp_path / "m.pth")
    loaded = load_published(tmp_path / "m.pth")
    assert loaded.config == config
    assert all(torch.equal(tensor, loaded.model.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert loaded.preprocess["channel"] == "first"
    assert loaded.preprocess["audio_frames"] == 64


def test_the_audio_only_file_has_252_tensors_and_its_own_layout() -> None:
    encoder = CAVMAEConfig(modalities="audio", decoder_depth=0, learned_positions=True)
    config = CAVMAEClassifierConfig(encoder=encoder, num_classes=527, mode="audio")
    shapes = published_shapes("cavmae_classifier", config)
    assert len(shapes) == 252
    assert sum(np.prod(shape) for shape in shapes.values()) == 86_129_423
    assert infer(shapes) == ("cavmae_classifier", config)


def test_audio_only_weights_classify_and_export(tmp_path: Path) -> None:
    sizes = {"width": 24, "heads": 2, "audio_depth": 1, "audio_frames": 32}
    encoder = CAVMAEConfig(modalities="audio", decoder_depth=0, learned_positions=True, **sizes)
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=encoder, num_classes=3, mode="audio")).eval()
    export_published(model, tmp_path / "a.pth")
    loaded = load_published(tmp_path / "a.pth", choices=CHOICES).model
    audio = torch.randn(1, 1, 32, 128)
    torch.testing.assert_close(loaded(audio).logits, model(audio).logits)


def test_weights_run_on_other_window_lengths() -> None:
    path = TINY / "cavmae.pth"
    whole = load_published(path, choices=CHOICES)
    short = load_published(path, choices=PublishedChoices(heads=2, decoder_heads=2, audio_frames=32))
    assert (short.config.audio_frames, short.preprocess["audio_frames"]) == (32, 32)
    assert short.model(torch.randn(1, 1, 32, 128)).audio.tokens.shape == (1, 1, 16, 24)
    grid = whole.model.audio_tower.positions.reshape(8, 4, 24)
    assert torch.equal(short.model.audio_tower.positions.reshape(8, 2, 24), grid[:, :2])


def _spoil(tmp_path: Path, change: str) -> Path:
    tensors = torch.load(TINY / "cavmae.pth", weights_only=True)
    key = "module.blocks_v.3.mlp.fc2.bias"
    if change == "renamed":
        tensors["module.blocks_v.3.mlp.fc3.bias"] = tensors.pop(key)
    elif change == "shape":
        tensors[key] = torch.zeros(5)
    elif change == "nested":
        tensors = {"model": tensors, "epoch": 3}
    elif change == "positions":
        tensors["module.pos_embed_v"] = torch.zeros(1, 15, 24)
    elif change == "other":
        tensors = {"layer.weight": torch.zeros(3)}
    torch.save(tensors, tmp_path / "bad.pth")
    return tmp_path / "bad.pth"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("renamed", r"1 missing \(blocks_v.3.mlp.fc2.bias\); 1 unexpected \(blocks_v.3.mlp.fc3.bias\)"),
        ("shape", r"1 of another shape \(blocks_v.3.mlp.fc2.bias is 5, not 24\)"),
        ("nested", "holds a dict of model, epoch, not a dict of tensors"),
        ("positions", "pos_embed_v is no square: pass picture_size"),
        ("other", "no published CAV-MAE file: it has no patch_embed_a"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        load_published(_spoil(tmp_path, change), choices=CHOICES)
    assert "\n" not in str(caught.value)


class _Code:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "code.pth"
    if zipped:
        torch.save({"module.a": _Code()}, path)
    else:
        path.write_bytes(pickle.dumps({"module.a": _Code()}, protocol=2))
    with pytest.raises(CheckpointError, match="could run code"):
        load_published(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [10, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    data = (TINY / "cavmae.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(CheckpointError, match="cut short or damaged") as caught:
        load_published(tmp_path / "cut.pth")
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<html>quota exceeded</html>", encoding="utf-8")
    for name, words in (("gone.pth", "no checkpoint at"), ("page.pth", "not a PyTorch file"), ("", "is a folder")):
        with pytest.raises(CheckpointError, match=words):
            load_published(tmp_path / name)


def test_pictures_that_are_not_square_have_no_published_layout() -> None:
    config = CAVMAEConfig(width=8, heads=1, audio_depth=1, visual_depth=1, decoder_depth=0, picture_width=240)
    with pytest.raises(CheckpointError, match="not square"):
        to_published(CAVMAE(config))


# --- full size, against values that the published code gave (its weights drawn from the tensors' names) ---


def _fill(model: CAVMAE, name: str, *, norm_scale: float) -> None:
    """Draws every tensor but the position tables from its published name, as the reference values were made."""
    shapes = published_shapes(name, model.config)
    tensors = {}
    for entry in layout(name, model.config):
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
