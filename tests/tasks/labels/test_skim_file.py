"""Skimming a file: what is said equals what the skimmer says of the stored features, and only what it chose is decoded.

If these fail, a film is named from other moments than those it reports, or all of it is decoded after all.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lookhear import cli
from lookhear.data.features import open_features
from lookhear.data.windows import Span, WindowPlan
from lookhear.embedder import Embedder, load
from lookhear.errors import CheckpointError, ConfigError, MediaError
from lookhear.media.encode import write_sound
from lookhear.models.checkpoint import save_checkpoint
from lookhear.models.skimmer import Skimmer, SkimmerConfig
from lookhear.tasks.embed import embed
from lookhear.tasks.labels.skim_file import skim
from lookhear.tasks.labels.skimming import load_skimmer
from lookhear.tasks.labels.videos import LabelledVideo, gather_moments
from tiny_embedder import RATE, make_clip, save_tiny, tune

LABELS = ("bark", "bell", "drop")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    make_clip(path, 0, seconds=6.0)
    return path


@pytest.fixture(scope="module")
def features(film: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "out"
    embed(film.parent, out, model=embedder_of(model), what="pooled", workers=0)
    return out


def embedder_of(model: Path) -> Embedder:
    return load(model, device="cpu", dtype="float32")


def save_skimmer(path: Path, features: Path, **settings: Any) -> Path:
    sizes: dict[str, Any] = {"hidden_width": 16, "key_width": 8, "fusion_width": 16, "fused_width": 8}
    sizes |= {"audio_width": 32, "visual_width": 32}
    torch.manual_seed(0)
    skimmer = Skimmer(SkimmerConfig(num_classes=len(LABELS), looks=4, **(sizes | settings)))
    for parameter in skimmer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    facts = {"features": open_features(features).identity, "objective": {"loss": "ce"}}
    save_checkpoint(path, skimmer, preprocess={}, labels=LABELS, extra=facts)
    return path


class Decoded:
    """Which windows were decoded, of what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sounds: list[float] = []
        self.pictures: list[float] = []
        read = WindowPlan.read

        def watched(plan: WindowPlan, media: Any, spans: Sequence[Span]) -> Iterator[Any]:
            for span in spans:
                self.sounds += span.start_seconds if plan.sound else ()
                self.pictures += span.start_seconds if plan.picture else ()
            return read(plan, media, spans)

        monkeypatch.setattr(WindowPlan, "read", watched)


def stored_video(features: Path, film: Path) -> LabelledVideo:
    found = open_features(features).file(film.name)
    assert found is not None
    from lookhear.models.transformer import Stream

    return LabelledVideo(path=film.name, features={Stream(n): rows for n, rows in found.arrays.items()}, labels=())


@pytest.mark.parametrize(
    "settings",
    [
        {"selection": "hard", "read": "moments"},
        {"selection": "hard", "read": "moments", "visual_every": 6},
        {"selection": "hard_each", "read": "moments", "visual_every": 5, "audio_every": 3},
        {"selection": "soft", "visual_every": 4, "audio_every": 2},
        {"policy": "single_query", "selection": "hard", "read": "moments", "visual_every": 6},
        {"policy": "uniform"},
        {"audio_width": 0, "average_start": False, "selection": "hard", "read": "moments", "visual_every": 7},
    ],
    ids=lambda settings: ",".join(map(str, settings.values())),
)
def test_it_says_what_the_stored_features_say(
    settings: dict[str, Any],
    film: Path,
    features: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skimmer = load_skimmer(save_skimmer(tmp_path / "skim.safetensors", features, **settings))
    network = skimmer.model
    assert isinstance(network, Skimmer)
    with torch.no_grad():
        moments = gather_moments([stored_video(features, film)], network.config)
        expected = network(moments, noise=None)
    decoded = Decoded(monkeypatch)
    found = skim(film, model=embedder_of(model), skimmer=skimmer, top=3, threshold=0.0)
    scores = expected.logits[0].softmax(0).tolist()
    ranked = sorted(range(3), key=lambda number: -scores[number])
    assert [label.label for label in found.labels] == [LABELS[number] for number in ranked]
    np.testing.assert_allclose([label.score for label in found.labels], [scores[n] for n in ranked], atol=1e-4)
    assert found.moments == moments.real.shape[1]
    chosen = {place for place in expected.chosen[0].tolist() if place >= 0}
    assert len(found.chosen_seconds) == len(chosen)
    # The stretch that is timed comes last; here it is the whole file.
    sounds, pictures = (set(times[: len(times) - found.moments]) for times in (decoded.sounds, decoded.pictures))
    reads_sound = network.config.audio_width > 0
    assert len(sounds) == found.heard <= found.moments
    assert len(pictures) == found.seen <= found.moments
    assert set(found.chosen_seconds) <= pictures
    assert (found.heard > 0) == reads_sound
    if "visual_every" in settings:
        assert found.seen < found.moments


def test_what_all_moments_take_is_measured_or_estimated(
    film: Path, features: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_skimmer(tmp_path / "skim.safetensors", features, selection="hard", read="moments", visual_every=6)
    estimated = skim(film, model=embedder_of(model), skimmer=path)
    assert not estimated.dense_is_measured
    assert estimated.dense_labels is None
    assert estimated.saved_share == pytest.approx(1 - estimated.seconds / estimated.dense_seconds)
    decoded = Decoded(monkeypatch)
    measured = skim(film, model=embedder_of(model), skimmer=path, top=3, threshold=0.0, measure_dense=True)
    assert measured.dense_is_measured
    assert measured.dense_labels is not None
    assert len(decoded.pictures) == measured.seen + measured.moments
    network = load_skimmer(path).model
    with torch.no_grad():
        moments = gather_moments([stored_video(features, film)], network.config)  # type: ignore[arg-type]
        everything = network(moments, policy="uniform", looks=measured.moments).logits[0].softmax(0)
    assert [label.score for label in measured.dense_labels] == pytest.approx(
        sorted(everything.tolist(), reverse=True), abs=1e-4
    )


def test_soft_selection_of_all_moments_becomes_hard(film: Path, features: Path, model: Path, tmp_path: Path) -> None:
    path = save_skimmer(tmp_path / "skim.safetensors", features, selection="soft", read="moments", visual_every=6)
    found = skim(film, model=embedder_of(model), skimmer=path)
    assert len(found.chosen_seconds) == 3
    assert found.seen < found.moments


def test_a_film_without_sound_and_a_sound_without_film(features: Path, model: Path, tmp_path: Path) -> None:
    path = save_skimmer(tmp_path / "skim.safetensors", features, selection="hard", read="moments", visual_every=3)
    make_clip(tmp_path / "silent.mp4", 1, seconds=2.0, sound=False)
    write_sound(tmp_path / "sound.wav", tune(2, 2.0), RATE)
    embedder = embedder_of(model)
    silent = skim(tmp_path / "silent.mp4", model=embedder, skimmer=path, threshold=0.0)
    assert (silent.heard, len(silent.labels)) == (0, 1)
    heard = skim(tmp_path / "sound.wav", model=embedder, skimmer=path, threshold=0.0)
    assert (heard.seen, len(heard.labels)) == (0, 1)
    one = save_skimmer(tmp_path / "one.safetensors", features, audio_width=0, selection="hard", read="moments")
    with pytest.raises(MediaError, match="none of what this skimmer reads"):
        skim(tmp_path / "sound.wav", model=embedder, skimmer=one)


def test_what_is_refused(film: Path, features: Path, model: Path, tmp_path: Path) -> None:
    path = save_skimmer(tmp_path / "skim.safetensors", features)
    other = save_tiny(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(CheckpointError, match="features of another model"):
        skim(film, model=embedder_of(other), skimmer=path)
    with pytest.raises(ConfigError, match="top is 0"):
        skim(film, model=embedder_of(model), skimmer=path, top=0)
    with pytest.raises(CheckpointError, match="reads features and no media"):
        load(path)
    with pytest.raises(CheckpointError, match="not a skimmer"):
        load_skimmer(model)


def test_on_the_command_line(
    film: Path, features: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_skimmer(tmp_path / "skim.safetensors", features, selection="hard", read="moments", visual_every=6)
    words = ["classify", str(film), "--model", str(model), "--skimmer", str(path), "--skim", "3", "--threshold", "0"]
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    fields = shown.out.strip().split("\t")
    assert fields[0] == str(film)
    assert fields[-1] in LABELS
    assert "2 of 24 moments chosen, 24 heard" in shown.err
    assert "estimated" in shown.err
    assert cli.main([*words, "--mode", "audio"]) == 1
    capsys.readouterr()
    assert cli.main([*words[:-1], "1"]) == 0
    found = capsys.readouterr()
    assert "no label reaches 1; a smaller --threshold" in found.err
    assert not found.out
    assert cli.main(["classify", str(film), "--model", str(model), "--skim", "3"]) == 1
    assert "name one with --skimmer" in capsys.readouterr().err
