"""If these fail, a checkpoint is not what was saved, or a damaged one is taken for a good one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.checkpoint import MODELS, compare, expected_shapes, load_checkpoint, save_checkpoint
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig

Make = Callable[..., CAVMAE]
PREPROCESS = {"audio_mean": -5.081, "picture_mean": (0.4, 0.5, 0.6)}


def _rewrite(
    path: Path, *, rename: dict[str, str] | None = None, tensors: dict | None = None, **metadata: object
) -> None:
    """Changes tensor names, tensors, or metadata of a checkpoint (None removes)."""
    held = load_file(path) | (tensors or {})
    held = {(rename or {}).get(name, name): tensor for name, tensor in held.items()}
    with safe_open(path, "pt") as opened:
        kept = dict(opened.metadata())
    for name, value in metadata.items():
        kept[name] = json.dumps(value)
    save_file(held, path, metadata={name: text for name, text in kept.items() if text != "null"})


@pytest.mark.parametrize("sync", [False, True])
def test_what_is_loaded_is_what_was_saved(
    tiny: Make, inputs: Callable[..., tuple[Tensor, Tensor]], tmp_path: Path, sync: bool
) -> None:
    model, path = tiny(sync), tmp_path / "new folder" / "model.safetensors"
    save_checkpoint(path, model, preprocess=PREPROCESS, labels=["dog", "tür"], extra={"step": 3})
    loaded = load_checkpoint(path)
    assert loaded.name == ("cavmae_sync" if sync else "cavmae")
    assert loaded.config == model.config
    assert loaded.preprocess == {"audio_mean": -5.081, "picture_mean": [0.4, 0.5, 0.6]}
    assert (loaded.labels, loaded.extra, loaded.format) == (("dog", "tür"), {"step": 3}, 1)
    assert not loaded.model.training
    audio, frames = inputs(model)
    assert torch.equal(model(audio, frames).audio.embedding, loaded.model(audio, frames).audio.embedding)
    assert not loaded.model.audio_tower.positions.requires_grad
    assert all(part.requires_grad for part in loaded.model.joint_blocks.parameters())
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_classifier_keeps_its_encoder_and_mode(tmp_path: Path) -> None:
    encoder = CAVMAEConfig(width=8, heads=1, audio_depth=1, visual_depth=1, decoder_depth=0, audio_frames=16)
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=encoder, num_classes=2, mode="audio"))
    save_checkpoint(tmp_path / "c.safetensors", model, preprocess={}, labels=("a", "b"))
    assert load_checkpoint(tmp_path / "c.safetensors").config == model.config


def test_the_fingerprint_follows_what_changes_embeddings(tiny: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"

    def fingerprint(model: CAVMAE, **arguments: object) -> str:
        save_checkpoint(path, model, **({"preprocess": PREPROCESS} | arguments))
        return load_checkpoint(path).fingerprint

    first = fingerprint(tiny())
    assert len(first) == 64
    assert fingerprint(tiny(), labels=("a",), extra={"step": 4}) == first
    assert fingerprint(tiny(), preprocess=PREPROCESS | {"audio_mean": -5.0}) != first
    assert fingerprint(tiny(heads=6)) != first  # no tensor shows the heads
    changed = tiny()
    with torch.no_grad():
        changed.audio_norm.bias[0] += 1e-6
    assert fingerprint(changed) != first


def test_saving_over_a_checkpoint_leaves_the_old_or_the_new(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={}, extra={"step": 1})

    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("lookhear.models.checkpoint.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, tiny(), preprocess={}, extra={"step": 2})
    assert load_checkpoint(path).extra == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_given_tensors_stand_in_for_the_model_s(tiny: Make, tmp_path: Path) -> None:
    model = tiny()
    average = {name: tensor / 2 for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "m.safetensors", model, preprocess={}, tensors=average)
    loaded = load_checkpoint(tmp_path / "m.safetensors").model
    assert torch.equal(loaded.audio_norm.weight, model.audio_norm.weight / 2)


def test_a_renamed_tensor_is_named_on_both_sides(tiny: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={})
    _rewrite(path, rename={"joint_norm.weight": "joint_norm.scale"})
    with pytest.raises(CheckpointError, match=r"1 missing \(joint_norm.weight\); 1 unexpected \(joint_norm.scale\)"):
        load_checkpoint(path)


def test_a_wrong_shape_is_named_with_both_sizes(tiny: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={})
    _rewrite(path, tensors={"audio_norm.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"1 of another shape \(audio_norm.weight is 3, not 24\)"):
        load_checkpoint(path)


def test_many_differences_are_counted_and_a_few_named() -> None:
    difference = compare({f"t{number}": (1,) for number in range(9)}, {})
    assert str(difference) == "9 missing (t0, t1, t2, t3, and 5 more)"
    assert not compare({"a": (1, 2)}, {"a": (1, 2)})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"format": 2}, "format 2 and this lookhear reads format 1"),
        ({"format": None}, "without lookhear's metadata"),
        ({"model": "cavmea"}, "called 'cavmea'; did you mean 'cavmae'"),
        ({"config": {"widht": 3}}, "no setting 'widht'; did you mean 'width'"),
        ({"config": {"width": 7}}, "width is 7"),
        ({"config": [1, 2]}, r"damaged metadata \('config' is \[1, 2\]\)"),
        ({"model": 3}, r"damaged metadata \('model' is 3\)"),
        ({"preprocess": []}, r"damaged metadata \('preprocess' is \[\]\)"),
        ({"labels": 5}, r"damaged metadata \('labels' is 5\)"),
        ({"extra": [3]}, r"damaged metadata \('extra' is \[3\]\)"),
    ],
)
def test_metadata_that_cannot_be_read_is_refused(tiny: Make, tmp_path: Path, metadata: dict, words: str) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={})
    _rewrite(path, **metadata)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_in_another_precision_become_the_model_s(
    tiny: Make, inputs: Callable[..., tuple[Tensor, Tensor]], tmp_path: Path, dtype: torch.dtype
) -> None:
    """Else the first layer would stop at inputs of another type, in a sentence of torch's."""
    path, plain, model = tmp_path / "model.safetensors", tmp_path / "plain.safetensors", tiny()
    rounded = {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}
    save_checkpoint(path, model, preprocess={}, tensors=rounded)
    save_checkpoint(plain, model, preprocess={}, tensors={name: tensor.float() for name, tensor in rounded.items()})
    found, wanted = load_checkpoint(path), load_checkpoint(plain)
    assert {tensor.dtype for tensor in found.model.state_dict().values()} == {torch.float32}
    assert found.fingerprint == wanted.fingerprint
    audio, frames = inputs(model)
    assert torch.equal(found.model(audio, frames).audio.embedding, wanted.model(audio, frames).audio.embedding)


def test_numbers_that_overflow_the_model_s_precision_and_whole_ones_are_refused(tiny: Make, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={})
    bias = load_file(path)["audio_norm.bias"]
    _rewrite(path, tensors={"audio_norm.bias": bias.double() + 1e300})
    with pytest.raises(CheckpointError, match=r"infinite or no numbers, in 1 of \d+ tensors \(audio_norm.bias\)"):
        load_checkpoint(path)
    _rewrite(path, tensors={"audio_norm.bias": bias.long()})
    with pytest.raises(CheckpointError, match=r"audio_norm\.bias holds torch\.int64, not torch\.float32"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.999])
def test_a_truncated_file_is_refused(tiny: Make, tmp_path: Path, keep: float) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny(), preprocess={})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    with pytest.raises(CheckpointError, match=r"cut short|empty"):
        load_checkpoint(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not a checkpoint at all, just some text", encoding="utf-8")
    torch.save({"a": torch.ones(2)}, tmp_path / "weights.pth")
    for name, words in (
        ("gone.safetensors", "there is no checkpoint at"),
        ("text.safetensors", "no safetensors file"),
        ("weights.pth", "is a PyTorch pickle"),
        ("", "is a folder"),
    ):
        with pytest.raises(CheckpointError, match=words) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_checkpoint_of_any_header_length_is_read(tmp_path: Path) -> None:
    """The first byte of a safetensors file is the low byte of that length: also the one that pickles begin with."""
    path = tmp_path / "model.safetensors"
    model = CAVMAE(CAVMAEConfig(width=4, heads=1, audio_depth=0, visual_depth=0, joint_depth=0, decoder_depth=0))
    first = set()
    for length in range(0, 256, 8):
        save_checkpoint(path, model, preprocess={}, extra={"note": "x" * length})
        first.add(path.read_bytes()[:1])
        assert load_checkpoint(path).extra == {"note": "x" * length}
    assert b"\x80" in first


def test_a_model_without_a_name_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Linear is not a model"):
        save_checkpoint(tmp_path / "m.safetensors", torch.nn.Linear(2, 2), preprocess={})


def test_shapes_need_no_weights() -> None:
    for name in ("cavmae", "cavmae_sync"):
        shapes = expected_shapes(name, MODELS[name][0]())
        assert shapes["joint_blocks.0.attention.qkv.weight"] == (2304, 768)
