"""Models of one encoder a modality. If these fail, what the surveyed methods learn cannot be saved, loaded or used."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lookhear.config import from_dict, override, to_dict
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.checkpoint import load_checkpoint, save_checkpoint, with_audio_frames
from lookhear.models.encoders import EncoderConfig
from lookhear.models.initial import initialise_from
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifier, StreamClassifierConfig
from lookhear.models.tokens import Masks, mask_from_removed

SMALL = EncoderConfig(width=16, blocks=(1, 1), strides=(1, 2))
CLIPS = EncoderConfig(kind="r2plus1d", width=16, blocks=(1, 1), strides=(1, 2), pooling="max")
TOKENS = EncoderConfig(kind="vit", width=16, blocks=(1, 1), patch=(8, 8), heads=2)
CONFIG = MultiStreamConfig(
    audio=replace(SMALL, kind="plain"),
    visual=CLIPS,
    projection=(24,),
    embedding_width=8,
    audio_frames=32,
    num_mel_bins=24,
    picture_height=16,
    picture_width=24,
    picture_channels=6,
)


def make(config: MultiStreamConfig = CONFIG) -> MultiStream:
    torch.manual_seed(0)
    return MultiStream(config).eval()


def sound(clips: int = 2, windows: int = 3) -> torch.Tensor:
    return torch.randn(clips, windows, 32, 24, generator=torch.Generator().manual_seed(1))


def pictures(clips: int = 2, windows: int = 3) -> torch.Tensor:
    return torch.randn(clips, windows, 6, 16, 24, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("windows", [(2, 3), (1, 1)])
def test_both_streams_come_out_in_one_space(windows: tuple[int, int]) -> None:
    output = make()(sound(*windows), pictures(*windows))
    for encoded in (output.audio, output.visual):
        assert encoded is not None
        assert encoded.embedding.shape == (*windows, 8)
        assert encoded.embedding.dtype == torch.float32
        torch.testing.assert_close(encoded.embedding.norm(dim=-1), torch.ones(windows))
        assert encoded.pooled.shape == (*windows, 16)
        assert encoded.tokens.shape == (*windows, encoded.grid.num_tokens, 16)
        assert encoded.stages == ()
    assert (output.joint, output.reconstruction, output.logits) == (None, None, None)


def test_a_missing_modality_changes_nothing_about_the_other() -> None:
    model = make()
    both, heard, seen = model(sound(), pictures()), model(sound()), model(frames=pictures())
    assert heard.visual is None
    assert seen.audio is None
    assert torch.equal(both.audio.embedding, heard.audio.embedding)
    assert torch.equal(both.visual.embedding, seen.visual.embedding)


def test_video_is_another_form_of_the_frames_of_one_window() -> None:
    model, frames = make(), pictures(windows=1)
    video = frames[:, 0].unflatten(1, (2, 3)).transpose(1, 2)  # (B, 3, M, H, W)
    assert torch.equal(model(video=video).visual.embedding, model(frames=frames).visual.embedding)
    with pytest.raises(ConfigError, match="two forms"):
        model(frames=frames, video=video)


def test_stages_where_they_are_asked_for() -> None:
    output = make()(sound(), pictures(), stages=True)
    assert [maps.shape[:3] for maps in output.audio.stages] == [(2, 3, 8), (2, 3, 16)]
    assert [maps.ndim for maps in output.visual.stages] == [6, 6]  # of a clip: time too


def test_normed_embeddings_do_not_begin_alike(tmp_path: Path) -> None:
    """Without, two windows that have nothing in common have nearly one embedding, and banks stay there."""
    plain, normed = make().train(), make(replace(CONFIG, projection_norm="batch")).train()
    given = pictures(8, 4)

    def mean_cosine(model: MultiStream) -> float:
        rows = model(frames=given).visual.embedding.flatten(0, 1).detach()
        return float((rows @ rows.T).mean())

    assert mean_cosine(plain) > 0.5
    assert abs(mean_cosine(normed)) < 0.05
    assert torch.isfinite(normed(frames=pictures(1, 1)).visual.embedding).all(), "one window has no variance"
    save_checkpoint(tmp_path / "model.safetensors", normed.eval(), preprocess={"audio_frames": 32})
    loaded = load_checkpoint(tmp_path / "model.safetensors").model
    whole, alone = loaded(frames=given).visual.embedding, loaded(frames=given[:1]).visual.embedding
    torch.testing.assert_close(alone, whole[:1])  # by what was seen in training
    assert torch.equal(whole, normed(frames=given).visual.embedding)


def test_masks_remove_cells_of_either_grid() -> None:
    model = make()
    grid = model.audio_encoder.grid
    removed = (torch.arange(grid.num_tokens) % 2 == 0).expand(6, -1)
    output = model(sound(), pictures(), mask=Masks(audio=mask_from_removed(removed)))
    assert output.audio.tokens.shape[2] == grid.num_tokens - int(removed[0].sum())
    assert torch.equal(output.visual.embedding, model(frames=pictures()).visual.embedding)


def test_what_it_has_not_or_does_not_fit_is_said() -> None:
    deaf = make(replace(CONFIG, audio=None))
    assert deaf.config.modalities == "visual"
    with pytest.raises(ConfigError, match=r"no audio encoder .*model\.audio=null"):
        deaf(audio=sound())
    with pytest.raises(ConfigError, match="clips x windows x 32 x 24"):
        make()(sound()[..., :20])
    with pytest.raises(ConfigError, match="audio and visual are both null"):
        replace(CONFIG, audio=None, visual=None)
    with pytest.raises(ConfigError, match="a window has one spectrogram"):
        replace(CONFIG, audio=replace(SMALL, pictures="first"))


def test_settings_come_back_from_json_and_change_by_name() -> None:
    assert from_dict(MultiStreamConfig, to_dict(CONFIG)) == CONFIG
    deaf = replace(CONFIG, audio=None)
    assert from_dict(MultiStreamConfig, to_dict(deaf)) == deaf
    changed = override(CONFIG, ["visual.pooling=mean", "embedding_width=12", "audio.norm=group"])
    assert (changed.visual.pooling, changed.embedding_width, changed.audio.norm) == ("mean", 12, "group")


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, audio=None), replace(CONFIG, audio=TOKENS, visual=TOKENS)])
def test_a_checkpoint_gives_the_same_model(config: MultiStreamConfig, tmp_path: Path) -> None:
    model = make(config)
    save_checkpoint(tmp_path / "model.safetensors", model, preprocess={"audio_frames": 32})
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert (loaded.name, loaded.config) == ("multi_stream", config)
    found, wanted = loaded.model(frames=pictures()), model(frames=pictures())
    assert torch.equal(found.visual.embedding, wanted.visual.embedding)
    # what no tensor shows is part of the fingerprint
    other = make(replace(config, visual=replace(config.visual, pooling="mean")))
    save_checkpoint(tmp_path / "other.safetensors", other, preprocess={"audio_frames": 32})
    same = config.visual.pooling == "mean"
    assert (load_checkpoint(tmp_path / "other.safetensors").fingerprint == loaded.fingerprint) == same


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, audio=TOKENS)])
def test_longer_and_shorter_windows(config: MultiStreamConfig, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", make(config), preprocess={"audio_frames": 32})
    for frames in (16, 48):
        changed = with_audio_frames(load_checkpoint(tmp_path / "model.safetensors"), frames)
        assert changed.model(torch.zeros(1, 1, frames, 24)).audio.embedding.shape == (1, 1, 8)


def test_dropout_is_of_training_alone() -> None:
    model, frames = classifier(mode="visual", dropout=0.5), pictures()
    assert torch.equal(model(frames=frames).logits, classifier(mode="visual")(frames=frames).logits)
    model.head.train()
    assert torch.equal(model(frames=frames).logits, classifier(mode="visual")(frames=frames).logits), (
        "the model says, not the head"
    )
    model.training = True  # of the whole: batch norms stay as they are
    found = torch.stack([model(frames=frames).logits for _ in range(20)])
    assert found.std(dim=0).min() > 0
    with pytest.raises(ConfigError, match="dropout is 1"):
        classifier(dropout=1.0)


def classifier(**changes: object) -> StreamClassifier:
    torch.manual_seed(0)
    values = {"encoder": CONFIG, "num_classes": 5, "mode": "both"}
    return StreamClassifier(StreamClassifierConfig(**(values | changes))).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("fusion", [None, (12, 10)])
def test_a_classifier_joins_both_vectors(fusion: tuple[int, int] | None) -> None:
    model = classifier(fusion=fusion)
    output = model(sound(), pictures())
    heard, seen = (encoded.pooled for encoded in (model.encoder(sound()).audio, model.encoder(None, pictures()).visual))
    joined = torch.cat([seen, heard], -1) if fusion is None else model.fusion(seen, heard)
    torch.testing.assert_close(output.logits, model.head(joined))
    torch.testing.assert_close(output.joint[:, :, 0], joined)
    with pytest.raises(ConfigError, match="reads frames, which were not given"):
        model(sound())
    alone = model(sound(), mode="audio_of_both").logits
    zeros = torch.zeros_like(seen)
    joined = torch.cat([zeros, heard], -1) if fusion is None else model.fusion(zeros, heard)
    torch.testing.assert_close(alone, model.head(joined))


def test_a_classifier_of_one_stream() -> None:
    model = classifier(mode="visual", encoder=replace(CONFIG, audio=None))
    assert model(frames=pictures()).logits.shape == (2, 3, 5)
    with pytest.raises(ConfigError, match="made for mode 'visual', not 'both'"):
        model(sound(), pictures(), mode="both")
    with pytest.raises(ConfigError, match="needs another encoder"):
        classifier(mode="audio", encoder=replace(CONFIG, audio=None))
    with pytest.raises(ConfigError, match="nothing to fuse"):
        classifier(mode="audio", fusion=(4, 4))


def test_a_classifier_starts_from_what_was_learned_without_labels(tmp_path: Path) -> None:
    source = make()
    save_checkpoint(tmp_path / "model.safetensors", source, preprocess={})
    model = classifier()
    report = initialise_from(model, tmp_path / "model.safetensors")
    assert report.new == {"classification head": 2}
    assert torch.equal(model.encoder(sound()).audio.pooled, source(sound()).audio.pooled)
    deaf = make(replace(CONFIG, audio=None, embedding_width=4))
    report = initialise_from(deaf, tmp_path / "model.safetensors")
    assert set(report.left_out) == {"audio encoder", "audio projection", "visual projection"}
    assert set(report.new) == {"visual projection"}


def test_what_would_mean_something_else_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.safetensors", make(), preprocess={})
    other = make(replace(CONFIG, visual=replace(CLIPS, strides=(1, 1))))
    with pytest.raises(CheckpointError, match=r"has visual\.strides=\(1, 2\) and this model \(1, 1\)"):
        initialise_from(other, tmp_path / "model.safetensors")
    wider = make(replace(CONFIG, visual=replace(CLIPS, width=32)))
    with pytest.raises(CheckpointError, match="does not fit the visual encoder"):
        initialise_from(wider, tmp_path / "model.safetensors")
