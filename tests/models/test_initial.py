"""If these fail, a model starts from other weights than it says, or from random ones without saying so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lookhear.errors import CheckpointError
from lookhear.hub import open_weights
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.initial import initialise_from
from lookhear.models.published import PublishedChoices, export_published, from_published, load_published
from lookhear.models.tokens import sincos_positions
from lookhear.models.weights import WEIGHTS, file_of

Make = Callable[..., CAVMAE]
GOLDEN = Path(__file__).parent.parent / "golden" / "tiny"
CHOICES = PublishedChoices(heads=2, decoder_heads=2)
SIZES: dict[str, Any] = {
    "audio_frames": 64,
    "picture_height": 64,
    "picture_width": 64,
    "width": 24,
    "heads": 2,
    "audio_depth": 2,
    "visual_depth": 2,
    "joint_depth": 2,
    "decoder_depth": 2,
    "decoder_width": 16,
    "decoder_heads": 2,
}


def _save(model: nn.Module, path: Path) -> Path:
    save_checkpoint(path, model, preprocess={})
    return path


def _classifier(encoder: CAVMAEConfig, num_classes: int = 3) -> CAVMAEClassifier:
    config = replace(encoder, decoder_depth=0)
    return CAVMAEClassifier(CAVMAEClassifierConfig(encoder=config, num_classes=num_classes))


def _count(model: nn.Module) -> int:
    return len(model.state_dict())


def test_the_same_model_takes_everything(tiny: Make, tmp_path: Path) -> None:
    source = tiny()
    model = CAVMAE(source.config)
    report = initialise_from(model, _save(source, tmp_path / "model.safetensors"))
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert (report.taken, report.resized, report.new, report.left_out) == (_count(model), (), {}, {})
    assert report.kind == "lookhear cavmae"


def test_a_classifier_takes_the_encoder_and_says_what_it_leaves_out(tiny: Make, tmp_path: Path) -> None:
    source = tiny()
    model = _classifier(source.config)
    head = model.head.weight.clone()
    report = initialise_from(model, _save(source, tmp_path / "model.safetensors"))
    assert report.new == {"classification head": 4}
    assert set(report.left_out) == {
        "decoder",
        "audio modality token of the decoder",
        "visual modality token of the decoder",
        "audio positions of the decoder",
        "visual positions of the decoder",
    }
    assert report.taken == _count(model) - 4
    assert report.taken + sum(report.left_out.values()) == _count(source)
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.encoder.joint_norm.weight, source.joint_norm.weight)


def test_a_classifier_of_other_labels_gets_a_new_head(tiny: Make, tmp_path: Path) -> None:
    source = _classifier(tiny().config, num_classes=3)
    report = initialise_from(_classifier(tiny().config, num_classes=5), _save(source, tmp_path / "c.safetensors"))
    assert (report.new, report.left_out) == ({"classification head": 4}, {"classification head": 4})
    assert report.assumed == {}
    back = initialise_from(CAVMAE(source.config.encoder), tmp_path / "c.safetensors")
    assert (back.new, back.left_out) == ({}, {"classification head": 4})


@pytest.mark.parametrize(
    ("theirs", "ours", "fits"),
    [
        ("abc", "abc", True),
        ("abc", "acb", False),
        ("abc", "abd", False),
        ("", "abc", True),
        ("abc", "", True),
    ],
)
def test_a_head_of_the_same_size_is_that_of_the_same_labels(
    tiny: Make, tmp_path: Path, theirs: str, ours: str, fits: bool
) -> None:
    """Labels that one side does not know cannot be compared."""
    source, model = _classifier(tiny().config), _classifier(tiny().config)
    before = model.head.weight.clone()
    save_checkpoint(tmp_path / "c.safetensors", source, preprocess={}, labels=tuple(theirs))
    report = initialise_from(model, tmp_path / "c.safetensors", labels=tuple(ours))
    assert torch.equal(model.head.weight, source.head.weight if fits else before)
    assert report.new == report.left_out == ({} if fits else {"classification head": 4})
    assert torch.equal(model.encoder.joint_norm.weight, source.encoder.joint_norm.weight)


def test_sync_starts_from_published_cavmae(tmp_path: Path) -> None:
    """As published: the window becomes shorter, registers and global tokens are new."""
    path = GOLDEN / "cavmae.pth"
    source = load_published(path, choices=CHOICES)
    sizes = vars(source.config) | {"audio_frames": 32}
    model = CAVMAESync(CAVMAESyncConfig(**sizes, num_registers=2))
    registers = model.audio_tower.registers.clone()
    report = initialise_from(model, path, choices=CHOICES)
    assert report.new == {f"{side} {part}": 1 for side in ("audio", "visual") for part in ("global token", "registers")}
    assert report.left_out == {}
    assert report.resized == ("audio_tower.positions", "decoder.audio_positions")
    assert report.fingerprint == source.fingerprint
    table = source.model.audio_tower.positions.unflatten(0, (8, -1))[:, :2].flatten(0, 1)
    assert torch.equal(model.audio_tower.positions, table)
    assert torch.equal(model.audio_tower.registers, registers)


def test_one_modality_and_registers_of_another_number(tmp_path: Path) -> None:
    source = CAVMAESync(CAVMAESyncConfig(**SIZES, num_registers=4))
    path = _save(source, tmp_path / "model.safetensors")
    alone = CAVMAESync(CAVMAESyncConfig(**SIZES | {"decoder_depth": 0}, modalities="audio", num_registers=4))
    report = initialise_from(alone, path)
    assert report.new == {}
    assert report.left_out["visual tower"] == sum(
        name.startswith(("visual_tower.blocks", "visual_tower.patch", "visual_norm")) for name in source.state_dict()
    )
    assert torch.equal(alone.audio_tower.registers, source.audio_tower.registers)
    report = initialise_from(CAVMAESync(CAVMAESyncConfig(**SIZES, num_registers=2)), path)
    assert report.new == report.left_out == {"audio registers": 1, "visual registers": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 48}, "does not fit the .* of another shape"),
        ({"audio_depth": 3}, r"does not fit the audio tower of this model: 12 missing \(audio_tower.blocks.2"),
        ({"joint_depth": 1}, r"does not fit the joint blocks of this model: .* unexpected \(joint_blocks.1"),
        ({"heads": 4}, "has 2 heads and this model 4: the same tensors would mean something else"),
        ({"decoder_heads": 4}, "has 2 decoder_heads and this model 4"),
        ({"picture_patch": (8, 8)}, "does not fit the"),
    ],
)
def test_a_part_that_fits_only_in_places_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    path = _save(CAVMAE(CAVMAEConfig(**SIZES)), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        initialise_from(CAVMAE(CAVMAEConfig(**SIZES | changes)), path)
    assert "\n" not in str(caught.value)


def test_a_refused_start_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = _save(CAVMAE(CAVMAEConfig(**SIZES)), tmp_path / "model.safetensors")
    model = CAVMAE(CAVMAEConfig(**SIZES | {"audio_depth": 3}))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError):
        initialise_from(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- the vision MAE ---


def _vision_mae(decoder: bool = True, depth: int = 4, width: int = 24, decoder_width: int = 16) -> dict[str, Tensor]:
    """Tensors of a MAE, by default of `SIZES`, under their published names."""
    generator = torch.Generator().manual_seed(3)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def blocks(family: str, count: int, width: int) -> dict[str, Tensor]:
        sizes = {
            "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,), "norm2.bias": (width,),
            "attn.qkv.weight": (3 * width, width), "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
        }  # fmt: skip
        return {f"{family}.{n}.{name}": draw(*size) for n in range(count) for name, size in sizes.items()}

    tensors = {"cls_token": draw(1, 1, width), "pos_embed": draw(1, 17, width)}
    tensors |= {"patch_embed.proj.weight": draw(width, 3, 16, 16), "patch_embed.proj.bias": draw(width)}
    tensors |= blocks("blocks", depth, width) | {"norm.weight": draw(width), "norm.bias": draw(width)}
    if decoder:
        inner = decoder_width
        tensors |= {"mask_token": draw(1, 1, inner), "decoder_pos_embed": draw(1, 17, inner)}
        tensors |= {"decoder_embed.weight": draw(inner, width), "decoder_embed.bias": draw(inner)}
        tensors |= blocks("decoder_blocks", 2, inner)
        tensors |= {"decoder_norm.weight": draw(inner), "decoder_norm.bias": draw(inner)}
        tensors |= {"decoder_pred.weight": draw(768, inner), "decoder_pred.bias": draw(768)}
    return tensors


def _as_published(mae: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published mapping, by hand, in the published layout (what it gives nothing for is zero or sine-cosine)."""
    norms = ("norm1", "norm2")
    found = {"pos_embed_v": mae["pos_embed"][:, 1:], "decoder_pos_embed_v": mae["decoder_pos_embed"][:, 1:]}
    config = CAVMAEConfig(**SIZES)
    found |= {f"modality_{letter}": torch.zeros(1, 1, 24) for letter in "av"}
    found |= {f"decoder_modality_{letter}": torch.zeros(1, 1, 16) for letter in "av"}
    found["pos_embed_a"] = sincos_positions(config.audio_grid, 24)[None]
    found["decoder_pos_embed_a"] = sincos_positions(config.audio_grid, 16)[None]
    for name, tensor in mae.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            homes = [f"blocks_{x}.{number}." for x in "av"] if int(number) < 2 else [f"blocks_u.{int(number) - 2}."]
            for home in homes:
                found[home + rest] = tensor
                for norm in norms:
                    if rest.startswith(norm):
                        for letter in "av":
                            found[home + rest.replace(norm, f"{norm}_{letter}")] = tensor
        elif name.startswith("decoder_blocks."):
            found[name] = tensor
            for norm in norms:
                for letter in "av":
                    found[name.replace(norm, f"{norm}_{letter}")] = tensor
        elif name.startswith("norm."):
            found |= {name: tensor, name.replace("norm", "norm_a"): tensor, name.replace("norm", "norm_v"): tensor}
        elif name.startswith("patch_embed"):
            found[name.replace("patch_embed", "patch_embed_v")] = tensor
            summed = tensor.sum(1, keepdim=True) if name.endswith("weight") else tensor
            found[name.replace("patch_embed", "patch_embed_a")] = summed
        elif name.startswith("decoder_pred"):
            found[name.replace("pred", "pred_v")] = tensor
            found[name.replace("pred", "pred_a")] = tensor[:256]
        elif name not in ("cls_token", "pos_embed", "decoder_pos_embed"):
            found[name] = tensor
    return found


@pytest.mark.parametrize("kind", [CAVMAE, CAVMAESync])
def test_a_vision_mae_starts_both_models_as_published(kind: type[CAVMAE], tmp_path: Path) -> None:
    mae = _vision_mae()
    torch.save({"model": mae}, tmp_path / "mae.pth")
    config = CAVMAEConfig(**SIZES) if kind is CAVMAE else CAVMAESyncConfig(**SIZES)
    model = kind(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = initialise_from(model, tmp_path / "mae.pth")
    _, expected = from_published(_as_published(mae), choices=CHOICES)
    new = {f"{side} modality token" for side in ("audio", "visual")}
    new |= {f"{side} modality token of the decoder" for side in ("audio", "visual")}
    new |= {"audio positions", "audio positions of the decoder"}
    if kind is CAVMAESync:
        new |= {f"{side} {part}" for side in ("audio", "visual") for part in ("registers", "global token")}
    assert set(report.new) == new
    assert report.left_out == {"class token": 1}
    assert report.kind == "vision MAE"
    assert report.assumed == {"heads": 2, "decoder_heads": 2}, "no size of a published MAE, so nothing says"
    fresh = ("modality", "registers", "global_tokens")
    for name, tensor in model.state_dict().items():
        if name.endswith(fresh):
            assert torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, expected.state_dict()[name]), name
    assert report.taken == _count(model) - len(new)


def test_a_vision_mae_without_decoder_and_of_other_pictures(tmp_path: Path) -> None:
    torch.save({"model": _vision_mae(decoder=False)}, tmp_path / "mae.pth")
    model = CAVMAE(CAVMAEConfig(**SIZES | {"picture_height": 32}))
    report = initialise_from(model, tmp_path / "mae.pth")
    assert report.resized == ("visual_tower.positions",)
    assert report.new["decoder"] > 20


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"heads": 3}, "has 12 heads and this model 3"), ({"decoder_heads": 4}, "has 16 decoder_heads and this model 4")],
)
def test_the_heads_of_published_vision_maes_are_known(tmp_path: Path, changes: dict, words: str) -> None:
    torch.save({"model": _vision_mae(depth=2, width=768, decoder_width=512)}, tmp_path / "mae.pth")
    sizes = SIZES | {"audio_depth": 1, "visual_depth": 1, "joint_depth": 1, "width": 768, "decoder_width": 512}
    sizes |= {"heads": 12, "decoder_heads": 16}
    assert initialise_from(CAVMAE(CAVMAEConfig(**sizes)), tmp_path / "mae.pth").assumed == {}
    with pytest.raises(CheckpointError, match=words):
        initialise_from(CAVMAE(CAVMAEConfig(**sizes | changes)), tmp_path / "mae.pth")


@pytest.mark.parametrize("change", ["renamed", "shape", "depth"])
def test_a_vision_mae_that_is_not_whole_is_refused(change: str, tmp_path: Path) -> None:
    mae = _vision_mae(depth=5 if change == "depth" else 4)
    if change == "renamed":
        mae["blocks.1.attn.qkv.weights"] = mae.pop("blocks.1.attn.qkv.weight")
    elif change == "shape":
        mae["blocks.1.mlp.fc1.weight"] = torch.zeros(3, 24)
    torch.save({"model": mae}, tmp_path / "mae.pth")
    words = {
        "renamed": r"1 missing \(blocks.1.attn.qkv.weight\); 1 unexpected \(blocks.1.attn.qkv.weights\)",
        "shape": "does not fit the audio tower.*mlp.expand.weight is 3 x 24, not 96 x 24",
        "depth": "is a vision MAE of 5 blocks",
    }[change]
    with pytest.raises(CheckpointError, match=words):
        initialise_from(CAVMAE(CAVMAEConfig(**SIZES)), tmp_path / "mae.pth")


def test_names_of_weights_and_what_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKHEAR_CACHE", str(tmp_path))
    weights = WEIGHTS["cavmae-as2m-audio"]
    encoder = CAVMAEConfig(**SIZES | {"decoder_depth": 0, "width": 64, "heads": 1})
    with pytest.raises(CheckpointError, match="models fetch cavmae-as2m-audio"):
        initialise_from(CAVMAE(encoder), weights.name)
    file_of(weights).parent.mkdir(parents=True)
    export_published(_classifier(encoder), file_of(weights))
    report = initialise_from(CAVMAE(encoder), weights.name)
    assert report.left_out == {"classification head": 4}
    assert open_weights(weights.name).config.mode == "audio"
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        initialise_from(CAVMAE(encoder), tmp_path / "nowhere")
    address = "https://huggingface.co/user/model/resolve/main"
    for name, file in (("user/model", "model.safetensors"), ("user/model/a.pth", "a.pth")):
        with pytest.raises(CheckpointError, match=f"download it first with `lookhear models fetch {address}/{file} "):
            initialise_from(CAVMAE(encoder), name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint at user/model; name a model\.safetensors"):
        initialise_from(CAVMAE(encoder), "user/model")
