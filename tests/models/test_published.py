"""If these fail, published weights are not what their authors published, or a bad file passes for a good one.

(Golden tensors: tests/golden.)
"""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint, with_audio_frames
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.published import (
    PublishedChoices,
    export_published,
    infer,
    is_published,
    load_published,
    published_shapes,
    read_model,
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


def test_published_weights_in_half_precision_are_read(tmp_path: Path) -> None:
    tensors = torch.load(TINY / "cavmae.pth", weights_only=True)
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, tmp_path / "half.pth")
    model = load_published(tmp_path / "half.pth", choices=CHOICES).model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    again = to_published(model)
    assert all(
        torch.equal(again[name.removeprefix("module.")].float(), tensor.half().float())
        for name, tensor in tensors.items()
    )


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


@pytest.mark.parametrize("name", FILES)
def test_weights_run_on_other_window_lengths(name: str) -> None:
    whole = load_published(TINY / f"{name}.pth", choices=CHOICES)
    old = getattr(whole.config, "encoder", whole.config)
    long, short = (with_audio_frames(whole, old.audio_frames + change) for change in (16, -16))
    columns = old.audio_grid.columns
    table = _table(whole.model)
    assert torch.equal(_table(short.model), table[:, : columns - 1])
    assert torch.equal(_table(long.model)[:, [0, -1]], table[:, [0, -1]])  # interpolated between the same ends
    for changed in (short, long):
        frames = changed.preprocess["audio_frames"]
        encoder = getattr(changed.model, "encoder", changed.model)
        assert encoder.config.audio_frames == frames != old.audio_frames
        assert encoder(torch.randn(1, 1, frames, 128)).audio.tokens.shape[2] == 8 * frames // 16
    assert len({whole.fingerprint, short.fingerprint, long.fingerprint}) == 3
    assert with_audio_frames(whole, old.audio_frames).fingerprint == whole.fingerprint
    with pytest.raises(ConfigError, match="audio_frames is 40, which is not a multiple of its patch"):
        with_audio_frames(whole, 40)


def _table(model: nn.Module) -> Tensor:
    """The audio positions (8 mel rows, time columns, D)."""
    return getattr(model, "encoder", model).audio_tower.positions.unflatten(0, (8, -1))


def test_what_no_tensor_shows_may_be_chosen(tmp_path: Path) -> None:
    path = TINY / "cavmae_finetuned.pth"
    assert load_published(path, choices=replace(CHOICES, mode="audio")).config.mode == "audio"
    assert load_published(path, choices=CHOICES).config.mode == "both"
    assert read_model(path, choices=CHOICES).name == "cavmae_classifier"
    ours = load_published(path, choices=CHOICES)
    save_checkpoint(tmp_path / "ours.safetensors", ours.model, preprocess=ours.preprocess)
    assert read_model(tmp_path / "ours.safetensors").fingerprint == ours.fingerprint
    with pytest.raises(CheckpointError, match="leave out the choices"):
        read_model(tmp_path / "ours.safetensors", choices=CHOICES)


def test_sync_files_with_an_attention_probe_are_refused_by_name(tmp_path: Path) -> None:
    tensors = torch.load(TINY / "sync_released_flags.pth", weights_only=True)
    tensors["module.classifier_layers.0.norm1.weight"] = torch.zeros(48)
    torch.save(tensors, tmp_path / "probe.pth")
    with pytest.raises(CheckpointError, match="with an attention probe"):
        load_published(tmp_path / "probe.pth", choices=CHOICES)


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
        ("positions", "pos_embed_v is 1 x 15 x 24, and 15 patches are no square: pass picture_size"),
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
    (tmp_path / "page.pth").write_text("\n<!DOCTYPE html>quota exceeded", encoding="utf-8")
    (tmp_path / "text.pth").write_text("some text", encoding="utf-8")
    (tmp_path / "empty.pth").touch()
    torch.save({}, tmp_path / "nothing.pth")
    for name, words in (
        ("gone.pth", "no checkpoint at"),
        ("page.pth", "is a web page, not a file of weights"),
        ("empty.pth", "is empty"),
        ("nothing.pth", "holds a dict of nothing"),
        ("text.pth", "is not a PyTorch file"),
        ("", "is a folder"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_published(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_pictures_that_are_not_square_have_no_published_layout() -> None:
    config = CAVMAEConfig(width=8, heads=1, audio_depth=1, visual_depth=1, decoder_depth=0, picture_width=240)
    with pytest.raises(CheckpointError, match="sees pictures of 224 x 240, which are not square"):
        to_published(CAVMAE(config))
