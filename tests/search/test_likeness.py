"""If these fail, an index forgets what its moments look like, or looks speak where they have nothing to say."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.data.preprocess import log_mel
from lookhear.data.windows import Windows, join_windows
from lookhear.errors import IndexStateError
from lookhear.media.encode import write_sound
from lookhear.search.crawl import index as crawl
from lookhear.search.facts import read_facts
from lookhear.search.index import Index
from lookhear.search.library import Library, weighed
from lookhear.search.likeness import (
    PLAIN_WIDTH,
    describe_file,
    describe_picture,
    describe_windows,
    plain_pictures,
    plain_sounds,
)
from made_library import HOP, WIDTH, WINDOW, make_library, query_of, search, unit
from tiny_embedder import RATE, classifier_embedder, in_memory_embedder, make_clip, tune

# ---- sounds


def slow_sound(waveform: np.ndarray) -> np.ndarray:
    """Five spectra of 24 bands, each band less the mean of itself and its neighbours, the whole less its mean."""
    mel = log_mel(torch.from_numpy(waveform[None]), num_mel_bins=24)[0].numpy()
    silent = [all(value < -15.94 for value in frame) for frame in mel]
    mel = np.maximum(mel, mel.max() - 8.0)
    edges = [round(len(mel) * part / 5) for part in range(6)]
    numbers = []
    for first, end in itertools.pairwise(edges):
        frames = [number for number in range(first, end) if not silent[number]]
        frames = frames or [number for number in range(len(mel)) if not silent[number]]
        spectrum = mel[frames].mean(axis=0) if frames else np.zeros(24)
        for band in range(24):
            around = spectrum[max(0, band - 1) : band + 2]
            numbers.append(spectrum[band] - sum(around) / len(around))
    values = np.array(numbers) - np.mean(numbers)
    values = np.concatenate([values, np.zeros(PLAIN_WIDTH - 1 - len(values)), [1.0]])
    return values / math.sqrt(sum(values**2))


def test_a_sound_is_described_as_its_slow_form_says() -> None:
    half = tune(3, 0.5)
    half[4000:] = 0.0
    sounds = np.stack([tune(1, 0.5), tune(2, 0.5), half, np.zeros(8000, np.float32)])
    assert np.allclose(plain_sounds(sounds, RATE), [slow_sound(each) for each in sounds], atol=1e-5)


def test_loudness_and_soft_noise_change_little_and_another_sound_much() -> None:
    own, other = tune(1, 0.8), tune(2, 0.8)
    noise = 0.002 * np.random.default_rng(0).standard_normal(len(own))
    plain = plain_sounds(np.stack([own, 0.2 * own, own + noise, other]).astype(np.float32), RATE)
    cosine = plain[1:] @ plain[0]
    assert cosine[0] > 0.999
    assert cosine[1] > 0.95
    assert abs(cosine[2]) < 0.5


def test_silence_is_like_silence_only_and_what_is_not_there_is_silent() -> None:
    silence = np.zeros((2, 8000), np.float32)
    silence[1] = np.nan
    plain = plain_sounds(np.concatenate([silence, tune(1, 0.5)[None]]), RATE)
    assert plain[0] @ plain[1] == pytest.approx(1.0)
    assert plain[0] @ plain[2] < 0.3
    assert plain_sounds(np.ones((1, 10), np.float32), RATE)[0] @ plain[0] == pytest.approx(1.0), "shorter than a frame"
    assert plain_sounds(np.zeros((0, 8000), np.float32), RATE).shape == (0, PLAIN_WIDTH)


# ---- pictures


def slow_picture(picture: np.ndarray) -> np.ndarray:
    red, green, blue = picture.astype(np.float64)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    numbers: list[float] = []
    for channel, side in ((luminance, 8), ((blue - luminance) * 0.564, 5), ((red - luminance) * 0.713, 5)):
        rows, columns = channel.shape
        grid = []
        for row in range(side):
            for column in range(side):
                down = slice(row * rows // side, -(-(row + 1) * rows // side))
                along = slice(column * columns // side, -(-(column + 1) * columns // side))
                grid.append(channel[down, along].mean())
        numbers += [value - sum(grid) / len(grid) for value in grid]
    values = np.concatenate([numbers, np.zeros(PLAIN_WIDTH - 1 - len(numbers)), [4.0]])
    return values / math.sqrt(sum(values**2))


@pytest.mark.parametrize("size", [(32, 32), (37, 61), (3, 4)])
def test_a_picture_is_described_as_its_slow_form_says(size: tuple[int, int]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, *size), dtype=np.uint8)
    assert np.allclose(plain_pictures(pictures), [slow_picture(each) for each in pictures], atol=1e-5)


def test_of_several_pictures_the_middle_one_counts() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (1, 9, 32, 32), dtype=np.uint8)
    changed = frames.copy()
    changed[:, :3], changed[:, 6:] = 0, 255
    assert np.array_equal(plain_pictures(frames), plain_pictures(changed))
    assert np.array_equal(plain_pictures(frames), plain_pictures(frames[:, 3:6]))


def test_blank_pictures_are_like_each_other_only() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    frames[0], frames[1] = 0, 250
    plain = plain_pictures(frames)
    assert plain[0] @ plain[1] > 0.99
    assert plain[0] @ plain[2] < 0.5
    assert plain_pictures(frames[:0]).shape == (0, PLAIN_WIDTH)


# ---- with the model's vectors


def windows_of(path: Path) -> Windows:
    embedder = in_memory_embedder()
    return join_windows(list(embedder.read_windows(path, embedder.plan())))


def test_windows_become_two_halves_of_unit_length(tmp_path: Path) -> None:
    embedder = in_memory_embedder()
    windows = windows_of(make_clip(tmp_path / "a.mp4", 1))
    windows.has_sound[0] = windows.has_picture[1] = False
    found, alone = describe_windows(embedder, windows), embedder.embed_windows(windows)
    for ours, theirs in ((found.audio, alone.audio), (found.visual, alone.visual)):
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours[:, :32], theirs, equal_nan=True)
        lengths = np.linalg.norm(ours.reshape(len(ours), -1)[:, 32:], axis=1)
        assert np.allclose(lengths[~np.isnan(theirs[:, 0])], 1.0)
        assert ours.shape == (len(windows), 32 + PLAIN_WIDTH)
    assert found.has_audio.tolist() == [False] + [True] * (len(windows) - 1)
    assert found.has_visual.tolist() == [True, False] + [True] * (len(windows) - 2)


def test_what_the_model_does_not_take_has_no_looks(tmp_path: Path) -> None:
    windows = windows_of(make_clip(tmp_path / "a.mp4", 1))
    found = describe_windows(classifier_embedder(("a", "b"), mode="audio", modalities="audio"), windows)
    assert found.visual is None
    assert found.audio is not None


def test_a_still_is_described_as_a_window_in_which_nothing_moves(tmp_path: Path) -> None:
    embedder = in_memory_embedder()
    path = make_clip(tmp_path / "a.mp4", 1)
    first = describe_file(embedder, path, embedder.plan()).visual
    assert first is not None
    assert np.allclose(describe_picture(embedder, path), first[0], atol=0.02)


# ---- searching


def test_weights_are_their_slow_form_and_keep_scores_within_bounds() -> None:
    rng = np.random.default_rng(0)
    stored = torch.cat([unit(rng.normal(size=(50, WIDTH))), unit(rng.normal(size=(50, 8)))], dim=1)
    for likeness in (0.0, 0.3, 1.0):
        asked = weighed(stored, 8, likeness)
        for one, vector in zip(asked, stored, strict=True):
            for other in stored[:5]:
                meaning, looks = vector[:WIDTH] @ other[:WIDTH], vector[WIDTH:] @ other[WIDTH:]
                assert float(one @ other) == pytest.approx(float((1 - likeness) * meaning + likeness * looks), abs=1e-5)
        assert float((asked @ stored.T).abs().max()) <= 1.0 + 1e-5
    assert weighed(stored, 0, 0.7) is stored


def plain_library(*, seconds: Sequence[float] = (20.0,) * 12) -> Library:
    """Files of which the second halves of the vectors say something else than the first."""
    library, looks = make_library(list(seconds)), make_library(list(seconds), seed=100)
    return Library(
        **{name: getattr(library, name) for name in Library.__dataclass_fields__}
        | {
            "audio": torch.cat([library.audio, looks.audio], dim=1),
            "visual": torch.cat([library.visual, looks.visual], dim=1),
            "plain_width": WIDTH,
        }
    )


def test_likeness_decides_between_looks_and_meaning() -> None:
    library = plain_library()
    # It means what moment 100 does, and looks like moment 300.
    asked = torch.cat([library.audio[100:101, :WIDTH], library.audio[300:301, WIDTH:]], dim=1)
    places = {}
    for likeness in (0.0, 1.0):
        hit = search(library, query_of(asked), within="sound", likeness=likeness)[0]
        places[likeness] = (hit.path, hit.start_seconds)
    for likeness, row in ((0.0, 100), (1.0, 300)):
        assert places[likeness] == (str(library.files[library.file_rank[row]].path), library.start_seconds[row])
    assert len(set(places.values())) == 2
    own = search(library, query_of(library.audio[100:101]), within="sound")[0]
    assert own.cosine == pytest.approx(1.0, abs=1e-5)


def test_across_kinds_looks_play_no_part() -> None:
    library = plain_library()
    changed = library.audio[40:42].clone()
    changed[:, WIDTH:] = unit(np.random.default_rng(9).normal(size=(2, WIDTH)))
    first, second, third = (
        search(library, query_of(vectors), within="picture", likeness=likeness, top=5)
        for vectors, likeness in ((library.audio[40:42], 0.5), (changed, 0.5), (changed, 1.0))
    )
    assert first == second == third
    assert first[0].path == str(library.files[library.file_rank[40]].path), "pictures are noisy copies of their sound"


def test_a_share_that_cannot_be() -> None:
    library = plain_library()
    with pytest.raises(IndexStateError, match="from 0"):
        search(library, query_of(library.audio[:1]), likeness=1.5)


def test_few_pairs_are_as_independent_directions() -> None:
    """Two halves agree by chance more rarely than one."""
    library = plain_library(seconds=[WINDOW] * 2)
    blended, looks = (
        search(library, query_of(library.audio[:1]), within="sound", likeness=likeness)[0] for likeness in (0.5, 1.0)
    )
    assert blended.cosine == pytest.approx(looks.cosine, abs=1e-5) == pytest.approx(1.0, abs=1e-5)
    assert blended.score > looks.score + 1.0


def test_an_index_describes_files_as_queries_do(tmp_path: Path) -> None:
    for seed in range(3):
        make_clip(tmp_path / "media" / f"{seed}.mp4", seed, seconds=3.0)
    place = tmp_path / "index"
    embedder = in_memory_embedder()
    crawl([tmp_path / "media"], model=embedder, index_path=place, workers=0)
    facts = read_facts(place)
    assert (facts.embedding_width, facts.plain_width, facts.vector_width) == (32, PLAIN_WIDTH, 32 + PLAIN_WIDTH)
    index = Index(place, model=embedder)
    assert index.library().plain_width == PLAIN_WIDTH
    write_sound(tmp_path / "cut.wav", 0.5 * tune(1, 3.0)[RATE : 2 * RATE], RATE)
    for likeness in (0.5, 1.0):
        hit = index.search(sound=tmp_path / "cut.wav", within="sound", likeness=likeness, top=1)[0]
        assert Path(hit.path).name == "1.mp4"
        assert abs(hit.peak_seconds - 1.5) <= HOP
    assert index.search(clip=tmp_path / "media" / "2.mp4", likeness=1.0)[0].cosine > 0.98


def test_an_index_of_the_format_before_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "index.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(IndexStateError, match="make the index again"):
        read_facts(tmp_path / "index")
