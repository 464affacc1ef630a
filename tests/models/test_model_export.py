"""models/export.py and published_notes.py. If these fail, an exported model comes back as another one, unseen."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lookhear.config import to_dict
from lookhear.data.preprocess import PreprocessConfig
from lookhear.errors import CheckpointError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.checkpoint import LoadedCheckpoint, load_checkpoint, save_checkpoint
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.export import export_checkpoint
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.models.published import PublishedChoices, export_published, load_published
from lookhear.models.published_notes import notes_path
from lookhear.models.unpickle import unpickle

INPUT: dict[str, Any] = {"audio_frames": 32, "num_mel_bins": 32, "picture_height": 32, "picture_width": 32}
SIZES: dict[str, Any] = INPUT | {"width": 12, "heads": 3, "audio_depth": 1, "visual_depth": 1, "decoder_depth": 0}


def _checkpoint(folder: Path) -> LoadedCheckpoint:
    """A classifier of three heads with preprocessing of its own."""
    encoder = CAVMAEConfig(**SIZES, learned_positions=True)
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=encoder, num_classes=2, mode="both"))
    preprocess = to_dict(PreprocessConfig(**INPUT, audio_mean=-7.5, audio_std=3.0))
    extra = {"store": "a digest", "splits": ["train"], "objective": {"loss": "ce", "label_smoothing": 0.1}}
    save_checkpoint(folder / "m.safetensors", model, preprocess=preprocess, labels=("a", "b"), extra=extra)
    return load_checkpoint(folder / "m.safetensors")


def test_what_is_exported_comes_back_whole_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = _checkpoint(tmp_path)
    assert export_checkpoint(ours, tmp_path / "m.pth") == []
    again = load_published(tmp_path / "m.pth")
    assert (again.fingerprint, again.config, again.labels) == (ours.fingerprint, ours.config, ours.labels)
    assert again.preprocess == ours.preprocess
    assert again.extra == ours.extra | {"published_file": "m.pth"}
    assert "is as m.pth.json says" in caplog.text


def test_where_a_file_cannot_be_written_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder; name the file to write"):
        export_checkpoint(ours, tmp_path)
    with pytest.raises(CheckpointError, match="cannot write"):
        export_checkpoint(ours, tmp_path / "m.safetensors" / "m.pth")  # a file where a folder should be
    (tmp_path / "new" / "m.pth.json").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="but not the notes beside it"):
        export_checkpoint(ours, tmp_path / "new" / "m.pth")
    export_checkpoint(ours, tmp_path / "newer" / "m.pth")
    assert load_published(tmp_path / "newer" / "m.pth").fingerprint == ours.fingerprint

    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed\nframe #0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="failed") as caught:
        export_checkpoint(ours, tmp_path / "newer" / "m.pth")
    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in (tmp_path / "newer").iterdir()) == ["m.pth", "m.pth.json"]
    assert load_published(tmp_path / "newer" / "m.pth").fingerprint == ours.fingerprint


def test_without_its_notes_the_heads_are_supposed_and_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    export_published(_checkpoint(tmp_path).model, tmp_path / "m.pth")
    choices = PublishedChoices(num_mel_bins=32)
    assert load_published(tmp_path / "m.pth", choices=choices).config.encoder.heads == 1
    assert "attention heads are not in the file" in caplog.text
    assert "taken as 1" in caplog.text
    caplog.clear()
    load_published(tmp_path / "m.pth", choices=replace(choices, heads=3))
    assert not caplog.records


def test_notes_may_be_written_by_hand_and_must_be_right(tmp_path: Path) -> None:
    export_published(_checkpoint(tmp_path).model, tmp_path / "m.pth")
    notes = notes_path(tmp_path / "m.pth")
    notes.write_text(json.dumps({"choices": {"heads": 4, "num_mel_bins": 32}, "preprocess": {"channel": "mix"}}))
    loaded = load_published(tmp_path / "m.pth")
    assert (loaded.config.encoder.heads, loaded.preprocess["channel"]) == (4, "mix")
    assert loaded.preprocess["audio_mean"] == -5.081  # what is not said is as published
    notes.write_text(json.dumps({"choices": {"head": 4}}))
    with pytest.raises(CheckpointError, match="did you mean 'heads'"):
        load_published(tmp_path / "m.pth")


def test_what_stays_lost_is_named(tmp_path: Path) -> None:
    ours = _checkpoint(tmp_path)
    fixed = replace(ours.config, encoder=replace(ours.config.encoder, learned_positions=False))
    model = CAVMAEClassifier(fixed)
    lost = export_checkpoint(replace(ours, model=model, config=fixed), tmp_path / "m.pth")
    assert lost == ["encoder.learned_positions: here false, on loading true"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stem_channels": (4, 8)}, r"a convolutional stem \(model.stem_channels \[4, 8\]\)"),
        ({"picture_width": 48}, "pictures of 32 x 48, which are not square"),
        ({"modalities": "visual"}, "is of pictures alone"),
    ],
)
def test_the_reason_why_there_is_no_layout_is_named(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    model = CAVMAEClassifier(
        CAVMAEClassifierConfig(encoder=CAVMAEConfig(**SIZES | change), num_classes=2, mode="visual")
    )
    with pytest.raises(CheckpointError, match=reason):
        export_published(model, tmp_path / "m.pth")
    assert not (tmp_path / "m.pth").exists()


def test_other_models_have_no_layout(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = MultiStream(MultiStreamConfig())
    with pytest.raises(CheckpointError, match="this is a multi_stream"):
        export_published(model, tmp_path / "m.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    model = _checkpoint(tmp_path).model
    with torch.no_grad():
        model.head.bias[1] = value
    save_checkpoint(tmp_path / "bad.safetensors", model, preprocess={})
    with pytest.raises(CheckpointError, match=r"infinite or no numbers, in 1 of \d+ tensors \(head.bias\)"):
        load_checkpoint(tmp_path / "bad.safetensors")
    export_published(model, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"infinite or no numbers"):
        load_published(tmp_path / "bad.pth", choices=PublishedChoices(num_mel_bins=32))


def test_large_numbers_whose_sum_overflows_are_numbers(tmp_path: Path) -> None:
    model = _checkpoint(tmp_path).model
    with torch.no_grad():
        model.head.bias.fill_(3e38)
    save_checkpoint(tmp_path / "large.safetensors", model, preprocess={})
    load_checkpoint(tmp_path / "large.safetensors")


def test_damage_is_one_sentence_and_no_warning(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(400)}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:900])
    (tmp_path / "bare.pth").write_bytes(b"\x80\x02}q\x00.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CheckpointError) as told:
            unpickle(tmp_path / "cut.pth")
        assert str(told.value).count(". ") == 0
        with pytest.raises(CheckpointError):
            unpickle(tmp_path / "bare.pth")
