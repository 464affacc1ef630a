"""If these fail, embeddings lie at wrong times, invent a modality that is not there, or depend on batching."""

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lookhear.data.windows import WindowPlan
from lookhear.embedder import Embedder, load, untrained
from lookhear.errors import CheckpointError, ConfigError, MediaError
from lookhear.media.clip import Clip
from lookhear.media.decode import open_media, read_clip
from lookhear.media.encode import write_sound
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.classifier import CAVMAEClassifier, CAVMAEClassifierConfig
from lookhear.models.published import PublishedChoices, export_published
from tiny_embedder import (
    PREPROCESS,
    RATE,
    WINDOW_SECONDS,
    in_memory_embedder,
    make_clip,
    save_tiny,
    slides,
    tiny_embedder,
    tiny_model,
    tune,
)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return in_memory_embedder()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("media") / "clip.mp4", 1, seconds=3.0)


def test_windows_cover_the_file_at_half_a_window(embedder: Embedder, video: Path) -> None:
    found = embedder.embed(video)
    assert found.audio is not None
    assert found.visual is not None
    assert np.allclose(np.diff(found.start_seconds)[:-1], WINDOW_SECONDS / 2)
    with open_media(video) as media:
        assert found.start_seconds[0] == pytest.approx(media.info.start_seconds)
        assert found.end_seconds[-1] == pytest.approx(media.info.end_seconds)
    assert found.audio.dtype == found.visual.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.audio, axis=1), 1, atol=1e-5)
    assert np.allclose(np.linalg.norm(found.visual, axis=1), 1, atol=1e-5)
    assert found.has_audio.all()
    assert found.has_visual.all()


def test_a_window_is_embedded_as_if_it_were_alone(video: Path) -> None:
    """Batches, spans and the shape of the decoding are of no account: the slow form takes one window after another."""
    embedder = in_memory_embedder(batch_size=3)
    found = embedder.embed(video)
    with open_media(video) as media:
        for span in (0.5, 1.0, 100.0):
            plan = embedder.plan(span_seconds=span)
            spans = plan.spans(media.info)
            rows = [embedder.embed_windows(windows) for _, windows in plan.read(media, spans)]
            assert np.allclose(np.concatenate([row.audio for row in rows]), found.audio, atol=1e-4)
            assert np.allclose(np.concatenate([row.visual for row in rows]), found.visual, atol=1e-4)
        assert len(WindowPlan(preprocess=PREPROCESS, hop_seconds=0.24, span_seconds=0.1).spans(media.info)) == len(
            found
        )
    alone = [
        embedder.embed(video, start_seconds=start, end_seconds=start + WINDOW_SECONDS) for start in found.start_seconds
    ]
    assert [len(one) for one in alone] == [1] * len(found)
    assert np.allclose(np.concatenate([one.audio for one in alone]), found.audio, atol=1e-4)


def test_a_part_of_a_file(embedder: Embedder, video: Path) -> None:
    found = embedder.embed(video, start_seconds=1.0, end_seconds=2.0, hop_seconds=0.1)
    assert found.start_seconds[0] == pytest.approx(1.0)
    assert found.end_seconds[-1] == pytest.approx(2.0)
    with pytest.raises(MediaError, match="nothing in the part"):
        embedder.embed(video, start_seconds=60.0)


def test_requests_hold_every_window_whole(embedder: Embedder, video: Path) -> None:
    with open_media(video) as media:
        requests = embedder.requests(media.info, span_seconds=1.0)
        starts = embedder.embed(video).start_seconds
        end = media.info.end_seconds
    assert len(requests) > 2
    for start in starts:
        stop = min(start + WINDOW_SECONDS, end)
        assert any(each.start_seconds <= start and stop <= each.end_seconds for each in requests)
    assert [each.start_seconds for each in requests] == sorted(each.start_seconds for each in requests)


def test_a_file_shorter_than_a_window_is_one_window(embedder: Embedder, tmp_path: Path) -> None:
    found = embedder.embed(make_clip(tmp_path / "short.mp4", 2, seconds=0.2))
    assert len(found) == 1
    assert found.end_seconds[0] < WINDOW_SECONDS
    assert found.has_audio.all()
    assert found.has_visual.all()


def test_one_modality(embedder: Embedder, tmp_path: Path) -> None:
    silent = embedder.embed(make_clip(tmp_path / "silent.mp4", 3, sound=False))
    assert silent.audio is None
    assert not silent.has_audio.any()
    assert silent.has_visual.all()
    write_sound(tmp_path / "sound.wav", tune(3, 1.0), RATE)
    sound = embedder.embed(tmp_path / "sound.wav")
    assert sound.visual is None
    assert sound.has_audio.all()
    with pytest.raises(MediaError, match="no sound"):
        embedder.embed_sound(tmp_path / "silent.mp4")
    with pytest.raises(MediaError, match="no picture"):
        embedder.embed_picture(tmp_path / "sound.wav")


def test_a_modality_that_ends_early_is_missing_from_there(embedder: Embedder) -> None:
    sound = tune(4, 2.0)
    clip = Clip(
        start_seconds=10.0,
        end_seconds=14.0,
        frames=np.ascontiguousarray(slides(4, 4.0).transpose(0, 3, 1, 2)),
        frame_seconds=10.0 + np.arange(40) / 10,
        waveform=np.concatenate([sound, np.zeros(2 * RATE, np.float32)]),
        silent_spans=((12.0, 14.0),),
    )
    found = embedder.embed(clip)
    assert (found.has_audio == (found.start_seconds < 12.0 - 0.01)).all()
    assert found.has_visual.all()
    assert found.audio is not None
    assert np.isnan(found.audio[~found.has_audio]).all()
    few = replace(clip, frames=clip.frames[:5], frame_seconds=clip.frame_seconds[:5])  # type: ignore[index]
    found = embedder.embed(few)
    assert found.has_visual[0]
    assert not found.has_visual[-1]


def test_sound_of_a_file_and_of_a_waveform(embedder: Embedder, tmp_path: Path) -> None:
    waveform = tune(5, 1.5)
    write_sound(tmp_path / "a.wav", waveform, RATE)
    ours, file = embedder.embed_sound((waveform, RATE)), embedder.embed_sound(tmp_path / "a.wav")
    assert np.allclose(ours.audio, file.audio, atol=2e-2)
    assert ours.visual is None
    with pytest.raises(MediaError, match="8000 Hz"):
        embedder.embed_sound((waveform, 8000))


def test_picture_of_a_file_and_of_an_array(embedder: Embedder, video: Path) -> None:
    frame = read_clip(video, frame_seconds=[0.0]).frames[0]  # type: ignore[index]
    vector = embedder.embed_picture(frame)
    assert vector.shape == (32,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert np.allclose(vector, embedder.embed_picture(video), atol=1e-5)


def test_tokens_are_those_behind_the_embedding(embedder: Embedder, video: Path) -> None:
    clip = read_clip(video, frames_per_second=10.0)
    output = embedder.tokens(clip, 0.5)
    found = embedder.embed_clip(clip, [0.5])
    assert output.audio is not None
    assert output.visual is not None
    assert np.allclose(output.audio.embedding[0, 0].numpy(), found.audio[0], atol=1e-5)  # type: ignore[index]
    assert output.visual.tokens.shape[:2] == (1, 1)
    mute = embedder.tokens(replace(clip, waveform=None), 0.5)
    assert mute.audio is None
    with pytest.raises(MediaError, match="neither"):
        embedder.tokens(replace(clip, waveform=None, frames=None, frame_seconds=np.zeros(0)), 0.5)


def test_bfloat16_is_close(video: Path) -> None:
    exact, half = in_memory_embedder().embed(video), in_memory_embedder(dtype="bfloat16").embed(video)
    assert half.audio is not None
    assert half.audio.dtype == np.float32
    assert ((half.audio * exact.audio).sum(axis=1) > 0.999).all()


def test_load_takes_a_file_a_checkpoint_or_a_run(tmp_path: Path) -> None:
    old = save_tiny(tmp_path / "run/checkpoints/step-9/model.safetensors", 1)
    new = save_tiny(tmp_path / "run/checkpoints/step-10/model.safetensors", 2)
    (tmp_path / "run/checkpoints/step-11").mkdir()  # killed before it was written
    assert load(tmp_path / "run").path == new
    assert load(old.parent).path == old
    first, second = load(old), load(tmp_path / "run")
    assert first.fingerprint != second.fingerprint
    assert first.window_seconds == pytest.approx(WINDOW_SECONDS)
    assert first.embedding_width == tiny_model().config.width
    assert load(save_tiny(tmp_path / "again.safetensors", 1)).fingerprint == first.fingerprint


GOLDEN = Path(__file__).parent / "golden" / "tiny"
CHOICES = PublishedChoices(heads=2, decoder_heads=2)


@pytest.mark.parametrize("name", ["cavmae", "cavmae_finetuned", "sync_registers_only", "sync_released_flags"])
def test_load_takes_published_files(name: str, video: Path) -> None:
    embedder = load(GOLDEN / f"{name}.pth", choices=CHOICES, device="cpu", dtype="float32")
    found = embedder.embed(video)
    assert found.audio is not None
    assert found.visual is not None
    assert found.audio.shape[1] == found.visual.shape[1] == embedder.embedding_width == 24
    assert np.allclose(np.linalg.norm(found.audio, axis=1), 1, atol=1e-5)
    assert embedder.preprocess.config.channel == "first"
    assert embedder.tokens(read_clip(video, frames_per_second=10.0), 0.0).audio is not None


def test_load_takes_audio_only_files(tmp_path: Path, video: Path) -> None:
    encoder = CAVMAEConfig(modalities="audio", decoder_depth=0, width=64, heads=1, audio_depth=1, audio_frames=32)
    model = CAVMAEClassifier(CAVMAEClassifierConfig(encoder=encoder, num_classes=3, mode="audio"))
    export_published(model, tmp_path / "audio.pth")
    embedder = load(tmp_path / "audio.pth", device="cpu", dtype="float32")
    found = embedder.embed(video)
    assert found.has_audio.all()
    assert found.visual is None


def test_another_window_length(tmp_path: Path, video: Path) -> None:
    ours = load(save_tiny(tmp_path / "tiny.safetensors"), device="cpu", dtype="float32")
    for embedder in (
        load(ours.path, audio_frames=96, device="cpu", dtype="float32"),  # type: ignore[arg-type]
        load(GOLDEN / "cavmae.pth", choices=CHOICES, audio_frames=96, device="cpu", dtype="float32"),
    ):
        assert embedder.window_seconds == pytest.approx(0.96)
        assert embedder.config.audio_frames == 96
        assert embedder.fingerprint != ours.fingerprint
        found = embedder.embed(video, hop_seconds=1.0)
        assert found.end_seconds[0] - found.start_seconds[0] == pytest.approx(0.96)


def test_a_path_wins_over_a_name_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stand_in(name: str) -> Path:
        asked.append(name)
        return tmp_path / "tiny.safetensors"

    save_tiny(tmp_path / "tiny.safetensors")
    save_tiny(tmp_path / "user" / "model" / "model.safetensors", 1)
    monkeypatch.setattr("lookhear.hub.download", stand_in)
    monkeypatch.chdir(tmp_path)
    here, there = load("user/model"), load("them/other")
    with pytest.raises(CheckpointError, match="since the folder 'user' is here, it was not looked for"):
        load("user/other")
    assert asked == ["them/other"]
    assert here.fingerprint != there.fingerprint == load("tiny.safetensors").fingerprint


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="no device"):
        load(tiny_embedder(tmp_path).path, device="quantum")  # type: ignore[arg-type]


class _Code:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("ran",))


def _spoil(path: Path, change: str) -> None:
    """Damages a checkpoint of either kind in place."""
    ours = path.suffix == ".safetensors"
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif change in ("empty", "page"):
        path.write_bytes(b"" if change == "empty" else b"<!DOCTYPE html><title>Quota exceeded</title>")
    elif change == "code":
        torch.save({"module.pos_embed_a": _Code()}, path)
    else:
        tensors = load_file(path) if ours else torch.load(path, weights_only=True)
        with safe_open(path, "pt") if ours else nullcontext() as opened:
            metadata = opened.metadata() if ours else {}
        name = next(name for name in tensors if name.endswith("mlp.expand.bias" if ours else "mlp.fc1.bias"))
        tensor = tensors.pop(name)
        tensors |= {f"{name}es": tensor} if change == "renamed" else {name: tensor[:-1].clone()}
        if ours:
            save_file(tensors, path, metadata)
        else:
            torch.save(tensors, path)


@pytest.mark.parametrize("kind", ["ours", "published"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("renamed", r"1 missing \(\S+\.bias\); 1 unexpected \(\S+\.biases\)"),
        ("shape", r"1 of another shape \(\S+\.bias is \d+, not \d+\)"),
        ("code", "holds more than tensors: it is refused, because unpickling it could run code"),
        ("truncated", "is cut short"),
        ("empty", "is empty"),
        ("page", "is a web page"),
    ],
)
def test_the_front_door_refuses_what_is_spoiled(
    kind: str, change: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "ours":
        path = save_tiny(tmp_path / "model.safetensors")
    else:
        path = tmp_path / "model.pth"
        path.write_bytes((GOLDEN / "cavmae.pth").read_bytes())
    _spoil(path, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        load(path, choices=None if kind == "ours" else CHOICES)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_untrained_has_other_weights_of_the_same_kind(embedder: Embedder) -> None:
    fresh = untrained(embedder, 1)
    assert fresh.fingerprint != embedder.fingerprint
    assert (fresh.device, fresh.dtype, fresh.config) == (embedder.device, embedder.dtype, embedder.config)
    sound = (tune(0, 1.0), RATE)
    one, other, again = (each.embed_sound(sound).audio for each in (embedder, fresh, untrained(embedder, 1)))
    assert one is not None
    assert not np.allclose(one, other, atol=1e-3)
    np.testing.assert_array_equal(other, again)
