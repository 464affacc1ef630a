"""If these fail, the wrong part is filled in, what was visible is altered, or a file is filled in from nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from lookhear.cli import main
from lookhear.config import to_dict
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.embedder import Embedder, load
from lookhear.errors import CheckpointError, ConfigError, MediaError, UserError
from lookhear.media.clip import Clip
from lookhear.media.decode import read_clip
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.published import PublishedChoices, export_published
from lookhear.models.weights import WEIGHTS
from lookhear.tasks.inpainting import InpaintConfig, fill_in, inpaint
from tiny_embedder import make_clip, save_tiny, tune

ROWS, COLUMNS = 32, 48  # not square
PREPROCESS = PreprocessConfig(audio_frames=48, num_mel_bins=32, picture_height=ROWS, picture_width=COLUMNS)
SIZES = {
    "audio_frames": 48,
    "num_mel_bins": 32,
    "picture_height": ROWS,
    "picture_width": COLUMNS,
    "audio_patch": (8, 8),
    "picture_patch": (8, 8),
    "width": 16,
    "heads": 2,
    "audio_depth": 1,
    "visual_depth": 1,
    "decoder_depth": 1,
    "decoder_width": 16,
    "decoder_heads": 2,
}


def _model(kind: str) -> CAVMAE:
    torch.manual_seed(0)
    if kind == "cavmae":
        return CAVMAE(CAVMAEConfig(**SIZES)).eval()
    if kind == "stem":
        return CAVMAE(CAVMAEConfig(**SIZES, stem_channels=(4,))).eval()
    return CAVMAESync(CAVMAESyncConfig(**SIZES, num_registers=2)).eval()


PLAIN = {"objective": {"normalise_patches": False}}  # as checkpoints of training say it


def _embedder(kind: str = "cavmae", **extra: object) -> Embedder:
    model = _model(kind)
    extra = extra or PLAIN
    return Embedder(
        model,
        Preprocess(PREPROCESS),
        config=model.config,
        fingerprint="0" * 64,
        extra=extra,
        device="cpu",
        dtype="float32",
    )


def _clip(*, picture: bool = True, sound: bool = True) -> Clip:
    frames = np.random.default_rng(0).integers(0, 256, (10, 3, ROWS, COLUMNS), dtype=np.uint8)
    return Clip(
        start_seconds=0.0,
        end_seconds=1.0,
        frames=frames if picture else None,
        frame_seconds=np.arange(10) / 10 if picture else np.zeros(0),
        waveform=tune(0, 1.0) if sound else None,
    )


@pytest.mark.parametrize("kind", ["cavmae", "stem", "sync"])
@pytest.mark.parametrize(
    "config",
    [
        InpaintConfig(),
        InpaintConfig(audio=1),
        InpaintConfig(visual=1),
        InpaintConfig(audio=0.5, audio_structure="time"),
        InpaintConfig(audio=0.5, audio_structure="frequency", visual=1),
        InpaintConfig(visual=0.6, visual_structure="both", patch_statistics="true"),
        InpaintConfig(picture_box=(0.1, 0.1, 0.4, 0.5)),
        InpaintConfig(sound_box=(0.3, 0.5, 500, 2000)),
        InpaintConfig(sound_box=(0.3, 0.5, 500, 2000), visual=0.5),
    ],
    ids=repr,
)
def test_only_what_was_removed_changes(kind: str, config: InpaintConfig) -> None:
    found = fill_in(_embedder(kind), _clip(), 0.5, config)
    assert found.picture.after.shape == (3, ROWS, COLUMNS)
    assert found.picture.after.dtype == np.uint8
    assert found.spectrogram.after.shape == (32, 48)
    for part, channels in ((found.picture, True), (found.spectrogram, False)):
        assert part.before is not None
        assert np.isfinite(part.after).all()
        assert part.removed.shape == part.after.shape[-2:]
        assert part.removed_share == pytest.approx(part.removed.mean())
        seen = ~part.removed if not channels else np.broadcast_to(~part.removed, part.after.shape)
        np.testing.assert_allclose(part.after[seen], part.before[seen], atol=1e-5)
        np.testing.assert_allclose(part.masked[seen], part.before[seen], atol=1e-5)
        assert (part.loss is None) == (not part.removed.any())
        if part.removed.any():
            assert np.abs(part.after[~seen] - part.before[~seen]).max() > 0
            assert part.loss is not None
            assert part.loss > 0


def test_the_loss_is_the_error_over_the_removed_patches() -> None:
    """A pixel at a time, in the normalised values that the model works on."""
    found = fill_in(_embedder(), _clip(), 0.5, InpaintConfig(audio=0.5, visual=0.5))
    sound = found.spectrogram
    assert sound.before is not None
    error = ((sound.after - sound.before) / PREPROCESS.audio_std) ** 2
    assert sound.loss == pytest.approx(float(error[sound.removed].mean()), rel=1e-3)


def test_shares_and_defaults() -> None:
    found = fill_in(_embedder(), _clip(), 0.5)
    assert found.picture.removed_share == found.spectrogram.removed_share == 0.75
    only_sound = fill_in(_embedder(), _clip(), 0.5, InpaintConfig(audio=1))
    assert (only_sound.picture.removed_share, only_sound.spectrogram.removed_share) == (0.0, 1.0)


def test_boxes_remove_every_patch_that_they_touch() -> None:
    found = fill_in(_embedder(), _clip(), 0.5, InpaintConfig(picture_box=(0.2, 0.3, 0.3, 0.4)))
    rows, columns = np.nonzero(found.picture.removed)
    assert (rows.min(), rows.max()) == (8, 15)  # .3 x 32 = 9.6 to 12.8
    assert (columns.min(), columns.max()) == (8, 15)  # .2 x 48 = 9.6 to 14.4
    edges = PREPROCESS.mel_edges_hz
    start = found.start_seconds
    box = (start + 0.17, start + 0.18, float(edges[10]) + 1, float(edges[10]) + 2)
    sound = fill_in(_embedder(), _clip(), 0.5, InpaintConfig(sound_box=box)).spectrogram
    bins, times = np.nonzero(sound.removed)
    assert (bins.min(), bins.max()) == (8, 15)
    assert (times.min(), times.max()) == (16, 23)
    whole = fill_in(_embedder(), _clip(), 0.5, InpaintConfig(sound_box=(0, 9, 0, 20000))).spectrogram
    assert whole.removed_share == 1.0


@pytest.mark.parametrize("missing", ["picture", "sound"])
def test_what_a_file_lacks_is_made_from_the_other(missing: str) -> None:
    clip = _clip(**{missing: False})
    name = {"picture": "visual", "sound": "audio"}[missing]
    found = fill_in(_embedder(), clip, 0.5, InpaintConfig(**{name: 1}))
    made = found.picture if missing == "picture" else found.spectrogram
    assert made.before is None
    assert made.loss is None
    assert np.ptp(made.after) > 0
    assert (found.sound("before") is None) == (missing == "sound")
    with pytest.raises(MediaError, match=f"no {missing} at 0.5 s; set {name}=1"):
        fill_in(_embedder(), clip, 0.5)
    with pytest.raises(MediaError, match="borrow"):
        fill_in(_embedder(), clip, 0.5, InpaintConfig(**{name: 1}, patch_statistics="true"))


@pytest.mark.parametrize(("normalised", "same_as"), [(True, "true"), (False, "predicted")])
def test_what_is_not_asked_for_is_as_the_model_learned(
    normalised: bool, same_as: Literal["predicted", "true"], caplog: pytest.LogCaptureFixture
) -> None:
    embedder = _embedder(objective={"normalise_patches": normalised})
    found = fill_in(embedder, _clip(), 0.5, InpaintConfig(audio=0.5))
    assert ("borrowed from what was there" in caplog.text) == normalised
    asked = fill_in(embedder, _clip(), 0.5, InpaintConfig(audio=0.5, patch_statistics=same_as))
    np.testing.assert_array_equal(found.spectrogram.after, asked.spectrogram.after)


def test_a_model_that_must_borrow_cannot_make_what_is_not_there() -> None:
    embedder = _embedder(objective={"normalise_patches": True})
    with pytest.raises(MediaError, match=r"no sound at 0.5 s.*objective\.normalise_patches=false"):
        fill_in(embedder, _clip(sound=False), 0.5, InpaintConfig(audio=1))
    with pytest.raises(CheckpointError, match="nothing says whether"):
        fill_in(_embedder(other=1), _clip(), 0.5)


def test_true_statistics_are_those_of_what_was_there() -> None:
    """A model that learned normalised patches: the filled patch has about the mean that the true one had."""
    embedder = _embedder(objective={"kind": "cavmae", "normalise_patches": True})
    with pytest.raises(CheckpointError, match="predicts no brightness"):
        fill_in(embedder, _clip(), 0.5, InpaintConfig(patch_statistics="predicted"))
    model = embedder.model
    assert isinstance(model, CAVMAE)
    assert model.decoder is not None
    for layer in (model.decoder.audio_prediction, model.decoder.visual_prediction):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    sound = fill_in(embedder, _clip(), 0.5, InpaintConfig(audio=1, patch_statistics="true")).spectrogram
    assert sound.before is not None
    patches = sound.before.reshape(4, 8, 6, 8).transpose(0, 2, 1, 3).reshape(24, 64)
    expected = patches.mean(axis=1).reshape(4, 6).repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_allclose(sound.after, expected, atol=1e-4)
    patches = patches / PREPROCESS.audio_std
    slow = [np.mean((one - one.mean()) ** 2) / (one.var(ddof=1) + 1e-6) for one in patches]
    assert sound.loss == pytest.approx(np.mean(slow), rel=1e-3)


def test_published_weights_fill_in_only_what_they_are_known_to_predict(tmp_path: Path) -> None:
    """The files do not say it: with the wrong guess, garbage would be written without a word."""
    path = tmp_path / "weights.pth"
    export_published(CAVMAE(CAVMAEConfig(**(SIZES | {"picture_width": ROWS}))), path)
    heads = PublishedChoices(heads=2, decoder_heads=2, num_mel_bins=32)
    config = InpaintConfig(audio=0.5, patch_statistics="predicted")
    for known, said in ((None, "nothing says whether"), (True, "predicts no brightness")):
        with pytest.raises(CheckpointError, match=said):
            fill_in(load(path, choices=replace(heads, normalise_patches=known), device="cpu"), _clip(), 0.3, config)
        borrowed = replace(config, patch_statistics="true")
        fill_in(load(path, choices=replace(heads, normalise_patches=known), device="cpu"), _clip(), 0.3, borrowed)
    fill_in(load(path, choices=replace(heads, normalise_patches=False), device="cpu"), _clip(), 0.3, config)
    decoders = {name: weights.choices.normalise_patches for name, weights in WEIGHTS.items()}
    assert [name for name, known in decoders.items() if known is False] == ["cavmae-base-nonorm"]
    assert decoders["cavmae-base"] is decoders["cavmae-sync"] is True


def test_a_silent_file_is_filled_in() -> None:
    clip = _clip()
    silent = Clip(
        start_seconds=0.0,
        end_seconds=1.0,
        frames=clip.frames,
        frame_seconds=clip.frame_seconds,
        waveform=np.zeros(16000, np.float32),
    )
    found = fill_in(_embedder(), silent, 0.5, InpaintConfig(audio=0.5))
    assert np.isfinite(found.spectrogram.after).all()
    assert found.spectrogram.loss is not None


def test_the_padding_of_published_models_is_not_heard() -> None:
    """They are given log-mels of 0 beyond the end of the sound, which would be a roar."""
    model = _model("cavmae")
    settings = replace(PREPROCESS, framing="published")
    embedder = Embedder(
        model, Preprocess(settings), config=model.config, fingerprint="0", extra=PLAIN, device="cpu", dtype="float32"
    )
    clip = _clip()
    assert clip.waveform is not None
    short = replace(clip, waveform=clip.waveform[:5600], end_seconds=0.35)
    found = fill_in(embedder, short, 0.1, InpaintConfig(visual=1))
    assert found.spectrogram.before is not None
    assert (found.spectrogram.before[:, 34:] < -15).all()
    assert (found.spectrogram.after[:, 34:] < -15).all()
    assert found.spectrogram.before[:, :30].max() > -5
    assert found.waveform is not None
    assert np.isfinite(found.waveform).all()
    heard = found.sound("after")
    assert heard is not None
    assert np.abs(heard[6500:]).max() < 0.1 * np.abs(heard).max()


def test_a_model_without_a_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no decoder"):
        inpaint(make_clip(tmp_path / "a.mp4", 0), model=save_tiny(tmp_path / "m.st"), at_seconds=1, out=tmp_path / "o")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"audio": 1.5}, "share from 0 to 1"),
        ({"audio": 0.5, "sound_box": (0, 1, 0, 100)}, "both given"),
        ({"sound_box": (1, 0, 0, 100)}, "sound_box"),
        ({"audio": 1, "visual": 1}, "nothing is left"),
        ({"audio": 0}, "nothing is removed"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        InpaintConfig(**settings)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (InpaintConfig(picture_box=(0.5, 0.1, 0.4, 0.5)), "no region"),
        (InpaintConfig(picture_box=(0.5, 0.1, 1.4, 0.5)), "no region"),
        (InpaintConfig(sound_box=(7.0, 8.0, 100, 200)), "outside the window"),
        (InpaintConfig(sound_box=(0, 9, 0, 20000), picture_box=(0, 0, 1, 1)), "nothing is left"),
    ],
)
def test_boxes_outside(config: InpaintConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fill_in(_embedder(), _clip(), 0.5, config)


def test_the_verb_writes_what_one_can_see_and_hear(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    media = make_clip(tmp_path / "clip.mp4", 0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, _model("sync"), preprocess=to_dict(PREPROCESS), extra=PLAIN)
    words = ["inpaint", str(media), "--model", str(path), "--at", "1", "--out", str(tmp_path / "out")]
    assert main([*words, "--picture-box", "0.3,0.3,0.6,0.6", "--set", "audio=0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sound"]["removed"] == 0.5
    assert 0 < record["picture"]["removed"] < 0.5
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    stages = ("after", "before", "masked")
    assert written == sorted(
        [f"{kind}_{stage}.png" for kind in ("picture", "spectrogram") for stage in stages]
        + [f"sound_{stage}.wav" for stage in (*stages, "original")]
    )
    with Image.open(tmp_path / "out" / "picture_after.png") as image:
        assert image.size == (COLUMNS, ROWS)
    sound = read_clip(tmp_path / "out" / "sound_after.wav")
    assert sound.waveform is not None
    assert len(sound.waveform) == PREPROCESS.window_samples
    assert np.abs(sound.waveform).max() > 0
    assert main([*words, "--picture-box", "0.3,0.3"]) == 1
    assert "want four numbers" in capsys.readouterr().err
    assert main(words) == 1
    assert "is not empty; name a new one" in capsys.readouterr().err
    words[-1] = str(tmp_path / "other")
    assert main([*words[:5], "99", *words[6:]]) == 1
    assert "has nothing at 99 s" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_file_with_sound_alone(tmp_path: Path) -> None:
    media = make_clip(tmp_path / "sound.mp4", 0, picture=False)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, _model("cavmae"), preprocess=to_dict(PREPROCESS), extra=PLAIN)
    with pytest.raises(MediaError, match="no picture"):
        inpaint(media, model=path, at_seconds=1.0, out=tmp_path / "out")
    inpaint(media, model=path, at_seconds=1.0, out=tmp_path / "out", config=InpaintConfig(visual=1))
    assert (tmp_path / "out" / "picture_after.png").exists()
    assert not (tmp_path / "out" / "picture_before.png").exists()
