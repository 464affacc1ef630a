"""If these fail, clips are compared otherwise than we say, or ranks depend on how the work was cut into blocks."""

import subprocess
import sys

import numpy as np
import pytest

from lookhear.tasks import metrics
from lookhear.tasks.matching.similarity import (
    AGGREGATIONS,
    Aggregation,
    PairQuestion,
    answer_pairs,
    pair_ranks,
    pair_similarity,
)
from lookhear.tasks.metrics import Ranks, ranks


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    values = rng.standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def _slow_similarity(audio: list[np.ndarray], visual: list[np.ndarray], aggregation: str) -> np.ndarray:
    matrix = np.zeros((len(audio), len(visual)))
    for i, sound in enumerate(audio):
        for j, picture in enumerate(visual):
            cosines = sound.astype(np.float64) @ picture.T.astype(np.float64)
            values = np.diagonal(cosines) if aggregation.startswith("diagonal") else cosines
            matrix[i, j] = values.max() if aggregation.endswith("max") else values.mean()
    return matrix


def _summary(found: Ranks) -> list[float]:
    return [metrics.recall_at(found, k) for k in (1, 5, 10)] + [metrics.median_rank(found)]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_similarity_and_ranks_equal_the_golden_ones(aggregation: Aggregation, golden: dict[str, np.ndarray]) -> None:
    audio, image = (golden[name] / np.linalg.norm(golden[name], axis=2, keepdims=True) for name in ("audio", "image"))
    similarity = pair_similarity(audio, image, aggregation=aggregation)
    both = pair_ranks(audio, image, aggregations=(aggregation,), block_bytes=5000)[aggregation]
    own = np.arange(len(audio))
    for direction, matrix, streamed in (
        ("audio_to_image", similarity, both.audio_to_visual),
        ("image_to_audio", similarity.T, both.visual_to_audio),
    ):
        np.testing.assert_allclose(matrix, golden[f"{direction}.{aggregation}.similarity"], atol=1e-6)
        expected = golden[f"{direction}.{aggregation}.r1_r5_r10_medr"].tolist()
        assert _summary(ranks(matrix, own)) == expected
        assert _summary(streamed) == expected


def test_one_window_equals_the_golden_clip_similarity(golden: dict[str, np.ndarray]) -> None:
    audio, image = (golden[name] / np.linalg.norm(golden[name], axis=2, keepdims=True) for name in ("audio", "image"))
    for aggregation in AGGREGATIONS:  # with one window they are all the same thing
        similarity = pair_similarity(audio[:, :1], image[:, :1], aggregation=aggregation)
        np.testing.assert_allclose(similarity, golden["clip.similarity"], atol=1e-6)
    assert _summary(ranks(similarity, np.arange(len(audio)))) == golden["clip.r1_r5_r10_medr"].tolist()


def test_published_spot_values() -> None:
    rng = np.random.RandomState(0)
    audio, visual = rng.randn(5, 3, 8).astype(np.float32), rng.randn(5, 3, 8).astype(np.float32)
    audio, visual = (part / np.linalg.norm(part, axis=2, keepdims=True) for part in (audio, visual))
    rows = {
        "diagonal_mean": [0.34079, 0.09286, 0.16580, 0.00831, -0.28210],
        "diagonal_max": [0.79516, 0.27922, 0.57472, 0.26015, 0.02800],
        "mean": [0.02552, -0.03203, -0.05036, 0.12066, -0.06243],
        "max": [0.79516, 0.31101, 0.57472, 0.52459, 0.44993],
    }
    for aggregation in AGGREGATIONS:
        np.testing.assert_allclose(
            pair_similarity(audio, visual, aggregation=aggregation)[0], rows[aggregation], atol=1e-5
        )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_clips_of_different_length_equal_the_loop(aggregation: Aggregation) -> None:
    rng = np.random.default_rng(1)
    counts = np.array([3, 1, 5, 2, 5, 4, 1])
    audio, visual = _unit(rng, 7, 5, 6), _unit(rng, 7, 5, 6)
    sounds = [part[:count] for part, count in zip(audio, counts, strict=True)]
    pictures = [part[:count] for part, count in zip(visual, counts, strict=True)]
    if aggregation.startswith("diagonal"):  # only the windows that both clips have
        expected = np.array(
            [
                _slow_similarity([a[: min(len(a), len(v))]], [v[: min(len(a), len(v))]], aggregation)[0, 0]
                for a in sounds
                for v in pictures
            ]
        ).reshape(7, 7)
    else:
        expected = _slow_similarity(sounds, pictures, aggregation)
    found = pair_similarity(audio, visual, aggregation=aggregation, audio_counts=counts, visual_counts=counts)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    streamed = pair_ranks(audio, visual, aggregations=(aggregation,), counts=counts, block_bytes=300)[aggregation]
    for both, matrix in ((streamed.audio_to_visual, found), (streamed.visual_to_audio, found.T)):
        np.testing.assert_array_equal(both.expected, ranks(matrix, np.arange(7)).expected)


def test_more_clips_than_one_tile_and_other_numbers_of_sounds_and_pictures() -> None:
    rng = np.random.default_rng(2)
    audio, visual = _unit(rng, 60, 16, 4), _unit(rng, 37, 16, 4)
    for aggregation in AGGREGATIONS:
        expected = _slow_similarity(list(audio), list(visual), aggregation)
        np.testing.assert_allclose(pair_similarity(audio, visual, aggregation=aggregation), expected, atol=1e-6)


def test_one_clip_is_always_found() -> None:
    one = _unit(np.random.default_rng(0), 1, 1, 4)
    for aggregation in AGGREGATIONS:
        assert pair_similarity(one, one, aggregation=aggregation).shape == (1, 1)
        found = pair_ranks(one, one, aggregations=(aggregation,))[aggregation]
        assert found.audio_to_visual.expected.tolist() == [1.0]


def test_a_collapsed_model_gets_chance_and_not_everything() -> None:
    same = np.ones((20, 3, 8), dtype=np.float32) / np.sqrt(8, dtype=np.float32)
    for aggregation in AGGREGATIONS:
        both = pair_ranks(same, same, aggregations=(aggregation,))[aggregation]
        assert metrics.recall_at(both.audio_to_visual, 1) == pytest.approx(1 / 20)
        assert metrics.recall_at(both.visual_to_audio, 5) == pytest.approx(5 / 20)
        assert metrics.median_rank(both.visual_to_audio) == 10.5


def _equal(found: Ranks, expected: Ranks) -> None:
    for name in ("num_ahead", "num_tied", "num_right"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def _copies(num: int, num_different: int, num_windows: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Clips of which many are the same, far apart from each other."""
    rng = np.random.default_rng(4)
    which = np.arange(num) % num_different
    return _unit(rng, num_different, num_windows, 6)[which], _unit(rng, num_different, num_windows, 6)[which]


@pytest.mark.parametrize("block_bytes", [1, 5_000, 1 << 28])
def test_all_aggregations_in_one_pass_with_ties_across_blocks(block_bytes: int) -> None:
    audio, visual = _copies(50, 9)
    own = np.arange(50)
    found = pair_ranks(audio, visual, aggregations=AGGREGATIONS, block_bytes=block_bytes)
    assert list(found) == list(AGGREGATIONS)
    for name, both in found.items():
        matrix = pair_similarity(audio, visual, aggregation=name)
        _equal(both.audio_to_visual, ranks(matrix, own, tie_tolerance=1e-6))
        _equal(both.visual_to_audio, ranks(matrix.T, own, tie_tolerance=1e-6))
        assert both.audio_to_visual.num_tied.min() >= 4, "copies must be tied, in whatever block they are"


def test_other_questions_about_the_same_similarities() -> None:
    audio, visual = _copies(40, 11, num_windows=1)
    rng = np.random.default_rng(5)
    partners, clip, kind = rng.permutation(40), rng.integers(0, 12, 40), rng.integers(0, 3, 40)
    questions = (PairQuestion(partners=partners), PairQuestion(clip=clip), PairQuestion(kind=kind))
    by_partner, by_clip, by_kind = answer_pairs(audio, visual, questions, block_bytes=3_000)["diagonal_mean"]
    matrix = pair_similarity(audio, visual)
    _equal(by_partner.audio_to_visual, ranks(matrix, partners, tie_tolerance=1e-6))
    _equal(by_partner.visual_to_audio, ranks(matrix.T, np.argsort(partners), tie_tolerance=1e-6))
    right = clip[:, None] == clip[None, :]
    _equal(by_clip.audio_to_visual, ranks(matrix, right, tie_tolerance=1e-6))
    _equal(by_clip.visual_to_audio, ranks(matrix.T, right, tie_tolerance=1e-6))
    for row in range(40):
        same = np.flatnonzero(kind == kind[row])
        alone = ranks(matrix[row : row + 1, same], np.flatnonzero(same == row), tie_tolerance=1e-6)
        assert by_kind.audio_to_visual.expected[row] == alone.expected[0]
    with pytest.raises(ValueError, match="one window a row"):
        answer_pairs(np.ones((2, 2, 3)), np.ones((2, 2, 3)), (PairQuestion(clip=np.zeros(2, int)),))


def test_a_clip_that_failed_is_not_found_and_hides_no_other() -> None:
    rng = np.random.default_rng(6)
    audio = _unit(rng, 12, 2, 5)
    visual = audio.copy()
    visual[3, 1] = np.nan
    for name, both in pair_ranks(audio, visual, aggregations=AGGREGATIONS, block_bytes=700).items():
        for found in (both.audio_to_visual, both.visual_to_audio):
            assert np.flatnonzero(found.failed).tolist() == [3], name
            assert metrics.recall_at(found, 1000) == pytest.approx(11 / 12)
    both = pair_ranks(audio, visual)["diagonal_mean"]
    assert metrics.recall_at(both.audio_to_visual, 1) == pytest.approx(11 / 12)
    windows = (audio.reshape(24, 1, 5), visual.reshape(24, 1, 5))
    [found] = answer_pairs(*windows, (PairQuestion(clip=np.arange(24) // 2),))["diagonal_mean"]
    assert not found.audio_to_visual.failed.any(), "the other window of the clip still answers"
    assert np.flatnonzero(found.visual_to_audio.failed).tolist() == [7], "this one asks nothing"


def test_padding_that_is_no_number_is_not_looked_at() -> None:
    rng = np.random.default_rng(7)
    audio, visual = _unit(rng, 5, 3, 4), _unit(rng, 5, 3, 4)
    counts = np.array([3, 1, 2, 3, 1])
    clean = pair_similarity(audio, visual, audio_counts=counts, visual_counts=counts)
    audio[1, 1:], visual[4, 2] = np.nan, 7.0
    found = pair_similarity(audio, visual, audio_counts=counts, visual_counts=counts)
    np.testing.assert_array_equal(found, clean)


_PEAK = """
import resource, numpy as np
from lookhear.tasks.matching.similarity import AGGREGATIONS, pair_ranks
rng = np.random.default_rng(0)
vectors = rng.standard_normal(({clips}, 2, 8)).astype(np.float32)
pair_ranks(vectors[:200], vectors[:200], aggregations=AGGREGATIONS)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pair_ranks(vectors, vectors, aggregations={aggregations}, block_bytes=8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is told in other units elsewhere")
def test_memory_does_not_grow_with_the_square_of_the_clips() -> None:
    """6,000 clips in three aggregations: their matrices would be 432 MB."""
    code = _PEAK.format(clips=6000, aggregations=("diagonal_mean", "diagonal_max", "mean"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000, f"{done.stdout.strip()} kB"


def test_no_such_aggregation_and_no_such_windows() -> None:
    with pytest.raises(ValueError, match="no aggregation"):
        pair_similarity(np.ones((1, 1, 2)), np.ones((1, 1, 2)), aggregation="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window counts"):
        pair_similarity(np.ones((1, 1, 2)), np.ones((1, 1, 2)), audio_counts=np.array([2]))
    with pytest.raises(ValueError, match="differ in windows"):
        pair_similarity(np.ones((1, 2, 2)), np.ones((1, 1, 2)))
