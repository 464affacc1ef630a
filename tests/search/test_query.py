"""If these fail, a query finds the wrong moment, ranks by incomparable numbers, or shows one moment many times."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.errors import IndexStateError, MediaError
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.search.calibration import (
    HIGHEST,
    MIN_PAIRS,
    SURE,
    Pairs,
    _Kind,
    calibrate,
    chance_score,
    combined_surprise,
    fit,
    score_of,
)
from lookhear.search.examples import make_query
from lookhear.search.library import (
    Alignments,
    Library,
    Span,
    alignments_of,
    merge_alignments,
    sequence_similarity,
)
from lookhear.search.likeness import describe_picture
from lookhear.search.query import Phase, Query, Sequence
from made_library import HOP, WIDTH, WINDOW, make_library, query_of, search, unit
from tiny_embedder import RATE, in_memory_embedder, make_clip, tune

# ---- matching a sequence


def slow_similarity(
    library: Library, alignments: Alignments, vectors: torch.Tensor, offsets: np.ndarray, neutral: float
) -> np.ndarray:
    scores = []
    for rank, start in zip(alignments.file_rank, alignments.start_seconds, strict=True):
        total, matched = 0.0, 0
        for vector, offset in zip(vectors, offsets, strict=True):
            nearest, distance = None, math.inf
            for moment in range(len(library)):
                apart = abs(library.start_seconds[moment] - (start + offset))
                if library.file_rank[moment] == rank and apart < distance:
                    nearest, distance = moment, apart
            if nearest is not None and distance <= HOP / 2 + 1e-6 and library.has_audio[nearest]:
                total += float(library.audio[nearest] @ vector)
                matched += 1
            else:
                total += neutral
        scores.append(total / len(offsets) if matched else math.nan)
    return np.array(scores)


@pytest.mark.parametrize("offsets", [[0.0], [0.0, 0.5], [0.0, 0.5, 1.0, 1.37], [0.0, 0.2, 5.0]])
def test_a_sequence_is_matched_as_its_slow_form_says(offsets: list[float]) -> None:
    library = make_library([3.2, 0.4, 1.0, 2.13, 5.0])
    library.has_audio[[2, 9]] = False
    vectors = unit(np.random.default_rng(1).normal(size=(len(offsets), WIDTH)))
    alignments = alignments_of(library, offsets[-1])
    fast = sequence_similarity(library, alignments, "sound", vectors, np.array(offsets), neutral=0.1)
    slow = slow_similarity(library, alignments, vectors, np.array(offsets), 0.1)
    assert np.allclose(fast, slow, atol=1e-5, equal_nan=True)
    assert np.isfinite(fast).any()


def test_alignments_reach_back_before_a_file() -> None:
    library = make_library([2.0, 1.0])
    alignments = alignments_of(library, 1.1)
    assert alignments.file_rank.tolist() == [0] * 5 + [1] * 3
    assert alignments.start_seconds.tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0, -1.0, -0.5, 0.0]


def test_a_sequence_finds_its_own_place() -> None:
    library = make_library([8.0] * 6)
    moment = 2 * 15 + 7  # the eighth moment of the third file
    hit = search(library, query_of(library.audio[moment : moment + 4]), within="sound")[0]
    assert hit.path == "2.mp4"
    assert hit.cosine == pytest.approx(1.0, abs=1e-5)
    assert hit.peak_seconds == pytest.approx(3.5 + (3 * HOP + WINDOW) / 2)
    late = search(library, query_of(library.audio[moment : moment + 4], offset=0.2), within="sound")[0]
    assert late.peak_seconds == pytest.approx(3.5 - 0.2 + (0.2 + 3 * HOP + WINDOW) / 2)


def test_a_query_that_is_longer_than_the_file_finds_it() -> None:
    library = make_library([2.0] * 5)
    around = unit(np.random.default_rng(5).normal(size=(9, WIDTH)))
    around[4:7] = library.audio[6:9]  # the third file is the middle of the query
    hit = search(library, query_of(around), within="sound")[0]
    assert hit.path == "2.mp4"
    assert (hit.start_seconds, hit.end_seconds) == (0.0, 2.0)


# ---- merging


def slow_merge(library: Library, alignments: Alignments, score: np.ndarray, span: float, top: int) -> list[Span]:
    begin = {rank: library.start_seconds[library.file_rank == rank].min() for rank in set(library.file_rank)}
    finish = {rank: library.end_seconds[library.file_rank == rank].max() for rank in set(library.file_rank)}

    def cover(number: int) -> tuple[float, float]:
        rank, start = alignments.file_rank[number], alignments.start_seconds[number]
        return max(start, begin[rank]), min(start + span, finish[rank])

    def meets(number: int, other: Span) -> bool:
        start, end = cover(number)
        same = alignments.file_rank[number] == other.file_rank
        return same and start < other.end_seconds and other.start_seconds < end

    spans: list[Span] = []
    for peak in sorted(range(len(score)), key=lambda number: (-score[number], number)):
        if len(spans) == top or any(meets(peak, other) for other in spans):
            continue
        low = high = peak
        for step in (-1, 1):
            number = peak + step
            while (
                0 <= number < len(score)
                and alignments.file_rank[number] == alignments.file_rank[peak]
                and score[number] >= 0.7 * score[peak]
                and not any(meets(number, other) for other in spans)
            ):
                low, high = min(low, number), max(high, number)
                number += step
        start, end = cover(peak)
        spans.append(
            Span(
                file_rank=int(alignments.file_rank[peak]),
                start_seconds=cover(low)[0],
                end_seconds=cover(high)[1],
                peak=peak,
                peak_seconds=(start + end) / 2,
            )
        )
    return spans


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("top", [1, 4, 1000])
def test_merging_is_its_slow_form(seed: int, top: int) -> None:
    library = make_library([6.3, 0.3, 4.0, 9.0], seed=seed)
    alignments = alignments_of(library, 1.0)
    score = np.random.default_rng(seed).integers(0, 8, len(alignments)) / 2.0  # many ties
    fast = merge_alignments(library, alignments, score, score, np.zeros(len(score)), span_seconds=2.0, top=top)
    slow = slow_merge(library, alignments, score, 2.0, top)
    assert fast == slow
    for one in fast:  # no two hits show the same seconds
        others = [other for other in fast if other is not one and other.file_rank == one.file_rank]
        assert all(one.end_seconds <= other.start_seconds or other.end_seconds <= one.start_seconds for other in others)


def test_ties_come_in_order_of_path_and_start_however_many() -> None:
    library = make_library([200.0] * 8)
    alignments = alignments_of(library, 0.0)
    score = np.ones(len(library))
    score[::4] = 3.0
    spans = merge_alignments(library, alignments, score, score, np.zeros(len(score)), span_seconds=WINDOW, top=300)
    places = [(span.file_rank, span.peak_seconds) for span in spans]
    assert len(spans) == 300
    assert places == sorted(places)


# ---- calibration


def test_surprise_is_how_often_random_pairs_score_as_high() -> None:
    sample = np.random.default_rng(0).normal(0.5, 0.1, 20_000)
    calibration = fit(sample, width=WIDTH)
    for cosine in (0.3, 0.5, 0.65, 0.72):
        assert calibration.surprise(np.array([cosine]))[0] == pytest.approx(
            -math.log10((sample >= cosine).mean()), abs=0.02
        )
    grid = np.linspace(0.3, 1.0, 500)
    for measure in (calibration.surprise, calibration.nearness):
        assert (np.diff(measure(grid)) > 0).all()  # beyond the sample's end, too, order is kept
    assert calibration.surprise(np.array([1.0 + 1e-6])) == calibration.surprise(np.array([1.0]))  # sums are rounded
    assert calibration.surprise(np.array([-1.0]))[0] == 0.0
    assert np.isnan(calibration.surprise(np.array([np.nan]))[0])


@pytest.mark.parametrize("sample", [np.full(1000, 0.7), np.zeros(0), np.repeat([0.1, 0.9], 500)])
def test_calibration_of_samples_without_a_spread(sample: np.ndarray) -> None:
    surprise = fit(sample, width=WIDTH).surprise(np.linspace(-1, 1, 100))
    assert np.isfinite(surprise).all()
    assert (np.diff(surprise) >= 0).all()
    assert surprise[-1] > surprise[0]


@pytest.mark.parametrize("size", [MIN_PAIRS, 100, 400])
def test_the_highest_of_few_pairs_lie_together(size: int) -> None:
    """Two files of 18 moments gave scores of 1,748: the highest of their pairs were alike to the fourth digit."""
    sample = np.random.default_rng(1).normal(0.0, 0.1, size)
    sample[np.argsort(sample)[-10:]] = sample.max() + np.arange(10) * 1e-6
    calibration = fit(sample, width=WIDTH)
    for measure in (calibration.surprise, calibration.nearness):
        values = measure(np.array([0.2, 0.4, 1.0]))
        # By the tail that ends at 1 a copy is far above all; its score stays below `HIGHEST`.
        assert values[-1] < (250 if measure == calibration.surprise else 50)
        assert (np.diff(values) > 0).all()


def test_the_tail_is_that_of_random_directions() -> None:
    """Of which (1 - c)^((E - 1) / 2) is the share beyond a high cosine c, where (1 + c) changes little."""
    rng, width = np.random.default_rng(3), 9
    sample = unit(rng.normal(size=(200_000, width))).numpy()[:, 0].astype(np.float64)
    calibration = fit(sample[:20_000], width=width)
    assert calibration.tail_power == pytest.approx((width - 1) / 2, rel=0.2)
    for cosine in (0.85, 0.9, 0.93):  # one in 400 to one in 10,000, beyond the last knot
        share = (sample >= cosine).mean()
        assert calibration.surprise(np.array([cosine]))[0] == pytest.approx(-math.log10(share), abs=0.3)


def test_a_copy_is_above_what_is_much_alike_whatever_the_phase() -> None:
    """The means of three windows spread less than those of two, so .97 of three is rarer than .97 of two."""
    library = make_library([20.0] * 10)
    rng = np.random.default_rng(5)
    even, odd = (unit(rng.normal(size=(count, WIDTH))) for count in (3, 2))
    library.audio[50:53] = unit(even.numpy() + 0.05 * rng.normal(size=even.shape))
    library.audio[100:102] = odd
    phases = tuple(
        Phase(start_seconds=start, sound=Sequence(vectors=vectors, offset_seconds=HOP * np.arange(len(vectors))))
        for start, vectors in ((0.0, even), (HOP / 2, odd))
    )
    query = Query(phases=phases, span_seconds=2 * HOP + WINDOW)
    hits = search(library, query, within="sound", top=2)
    assert [hit.path for hit in hits] == [str(library.files[library.file_rank[row]].path) for row in (100, 50)]
    assert hits[1].cosine > 0.95
    alike, copy = (
        calibrate(library, "sound", "sound", HOP * np.arange(count)).nearness(np.array([cosine]))[0]
        for count, cosine in ((3, hits[1].cosine), (2, 1.0))
    )
    assert alike > copy, "by a tail that does not end at 1 the copy would be second"


def test_scores_are_surprises_as_far_as_samples_reach() -> None:
    surprise = np.array([-2.0, 0.0, 3.0, SURE, 7.0, 20.0, 200.0, -math.inf, math.nan])
    score = score_of(surprise)
    assert np.array_equal(score[:4], surprise[:4])
    assert (np.diff(score[3:7]) > 0).all()
    assert score[6] < HIGHEST
    assert score[7] == -math.inf
    assert math.isnan(score[8])
    assert np.allclose(score_of(torch.from_numpy(surprise)).numpy(), score, equal_nan=True)
    assert (chance_score(0), chance_score(1000)) == (0.0, pytest.approx(3.0))
    assert SURE < chance_score(10**7) < 7.0


def test_combined_surprise_is_the_share_of_random_pairs() -> None:
    rng = np.random.default_rng(0)
    first, second = (-np.log10(rng.random(200_000)) for _ in range(2))
    for weights in ((1.0, 1.0), (1.0, 0.4), (0.2, 1.0), (1.0, 0.0), (1.0, 0.9995)):
        total = weights[0] * first + weights[1] * second
        for number in (3, 77, 1234):
            share = (total >= total[number]).mean()
            found = combined_surprise(first[[number]], weights[0], second[[number]], weights[1])[0]
            assert found == pytest.approx(-math.log10(share), abs=0.05)
    nothing = combined_surprise(np.array([np.nan]), 1.0, np.array([np.nan]), 1.0)
    assert np.isnan(nothing).all()
    one = combined_surprise(np.array([5.0]), 1.0, np.array([np.nan]), 0.0)
    assert one == pytest.approx(5.0)
    assert np.isfinite(combined_surprise(np.array([500.0]), 1.0, np.array([0.0]), 0.9)).all()


def test_pictures_count_by_how_much_the_library_says_they_tell() -> None:
    matching = make_library([20.0] * 10)
    offsets = np.zeros(1)
    assert calibrate(matching, "sound", "picture", offsets).weight > 0.5
    assert calibrate(matching, "sound", "sound", offsets).weight == 1.0
    rng = np.random.default_rng(9)
    torn = make_library([20.0] * 10)
    torn.visual.copy_(unit(rng.normal(size=torn.visual.shape)))
    assert calibrate(torn, "sound", "picture", offsets).weight < 0.15
    again = calibrate(matching, "sound", "picture", offsets)
    assert np.array_equal(again.knot_surprise, calibrate(matching, "sound", "picture", offsets).knot_surprise)


def test_what_is_remembered_changes_no_calibration() -> None:
    """Of queries of several lengths, forwards and backwards, in a library whose files have gaps and are cut."""
    library = make_library([9.0, 0.4, 30.0, 12.3, 5.0, 7.7])
    library.has_audio[::7] = False
    cut = replace(library, cut_before=np.arange(6) == 2, cut_after=np.arange(6) == 3)
    for some in (library, cut):
        known: dict = {}
        for length in (3, 1, 6, 2):
            for asked, searched in (("sound", "sound"), ("picture", "sound")):
                offsets = np.round(HOP * np.arange(length) + 0.1 * (length == 2), 3)
                first, second = (
                    calibrate(some, asked, searched, offsets, known=memory)  # type: ignore[arg-type]
                    for memory in (known, None)
                )
                assert first.mean == second.mean
                assert first.weight == second.weight
                assert np.array_equal(first.knot_surprise, second.knot_surprise)
                assert np.array_equal(first.cosine, second.cosine)


def test_a_calibration_is_of_the_mean_cosines_of_random_pairs() -> None:
    """Each window pair one by one."""
    library = make_library([9.0, 12.0, 6.0])
    library.has_visual[5:9] = False
    offsets = np.array([0.0, 0.5, 1.5])
    pairs = Pairs(
        _Kind(library=library, asked="sound", searched="picture", likeness=0.5),
        np.ones(len(library), bool),
        np.random.default_rng(0),
    )
    left, right = (side.start_seconds for side in pairs.random._sides)
    ranks = [side.file_rank for side in pairs.random._sides]
    found = pairs.random.cosines(offsets, neutral=0.25)
    for pair in range(0, len(pairs.random), 997):
        total = 0.0
        for offset in offsets:
            ours, theirs = (
                np.flatnonzero(
                    (library.file_rank == rank[pair]) & (np.abs(library.start_seconds - start[pair] - offset) < 0.1)
                )
                for rank, start in zip(ranks, (left, right), strict=True)
            )
            is_there = len(ours) and len(theirs) and library.has_visual[theirs[0]]
            total += float(library.audio[ours[0]] @ library.visual[theirs[0]]) if is_there else 0.25
        assert found[pair] == pytest.approx(total / 3, abs=1e-5)


def test_the_scale_of_a_modality_is_of_no_account() -> None:
    """Pictures whose cosines are all near 1 must not outrank sounds whose cosines are not."""
    library = make_library([10.0] * 8)
    library.visual.copy_(unit(library.visual.numpy() * 0.05 + np.ones(WIDTH)))
    hit = search(library, query_of(library.audio[40:41]))[0]
    assert hit.path == f"{library.file_rank[40]}.mp4"
    assert hit.peak_seconds == pytest.approx(library.start_seconds[40] + WINDOW / 2)
    assert hit.matched == "sound"


# ---- queries


def test_a_sound_finds_pictures_and_a_picture_finds_sounds() -> None:
    library = make_library([10.0] * 8)
    for number in (5, 60, 100):
        expected = (f"{library.file_rank[number]}.mp4", library.start_seconds[number] + WINDOW / 2)
        found = search(library, query_of(library.audio[number : number + 1]), within="picture", top=3)
        assert expected in [(hit.path, hit.peak_seconds) for hit in found]
        assert {hit.matched for hit in found} == {"picture"}
        found = search(library, query_of(library.visual[number : number + 1], picture=True), within="sound", top=3)
        assert expected in [(hit.path, hit.peak_seconds) for hit in found]


def test_a_clip_is_matched_in_both_and_balance_weighs_them() -> None:
    library = make_library([10.0] * 8)
    sound = Sequence(vectors=library.audio[30:31], offset_seconds=np.zeros(1))
    picture = Sequence(vectors=library.visual[30:31], offset_seconds=np.zeros(1))
    other = Sequence(vectors=library.visual[90:91], offset_seconds=np.zeros(1))
    both = Query(phases=(Phase(start_seconds=0.0, sound=sound, picture=picture),), span_seconds=WINDOW)
    torn = Query(phases=(Phase(start_seconds=0.0, sound=sound, picture=other),), span_seconds=WINDOW)
    assert search(library, both)[0].matched == "both"
    by_sound, by_picture = search(library, torn, balance=0.9)[0], search(library, torn, balance=0.1)[0]
    assert by_sound.path == f"{library.file_rank[30]}.mp4"
    assert by_picture.path == f"{library.file_rank[90]}.mp4"
    assert (by_sound.matched, by_picture.matched) == ("sound", "picture")


def test_libraries_of_one_modality_one_moment_and_none() -> None:
    mute = make_library([10.0] * 4, sound=False)
    hits = search(mute, query_of(mute.visual[3:4], picture=True))
    assert hits[0].matched == "picture"
    assert search(mute, query_of(mute.visual[3:4], picture=True), within="sound") == []
    assert {hit.matched for hit in search(mute, query_of(mute.visual[3:4]))} == {"picture"}
    one = make_library([1.0])
    assert search(one, query_of(one.audio))[0].peak_seconds == 0.5
    assert search(make_library([]), query_of(one.audio)) == []


def test_the_score_of_a_hit_is_what_it_says() -> None:
    library = make_library([30.0] * 8)
    query = query_of(unit(np.random.default_rng(3).normal(size=(1, WIDTH))))
    hits = search(library, query, within="sound", top=5)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    cosines = (library.audio @ library.audio.T).numpy()[library.file_rank[:, None] != library.file_rank[None]]
    for hit in hits:
        share = (cosines >= hit.cosine).mean()
        assert hit.score == pytest.approx(-math.log10(max(share, 1e-9)), abs=0.35)


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    library, query = make_library([2.0]), query_of(make_library([2.0]).audio[:1])
    with pytest.raises(IndexStateError, match="within"):
        search(library, query, within="smell")
    with pytest.raises(IndexStateError, match="balance"):
        search(library, query, balance=2.0)
    with pytest.raises(IndexStateError, match="at least one"):
        search(library, query, top=0)
    embedder = in_memory_embedder()
    with pytest.raises(IndexStateError, match="by nothing"):
        make_query(embedder, hop_seconds=0.24)
    with pytest.raises(IndexStateError, match="sound and clip"):
        make_query(embedder, sound="a", clip="b", hop_seconds=0.24)
    with pytest.raises(MediaError):
        make_query(embedder, sound=tmp_path / "nowhere.wav", hop_seconds=0.24)


def test_what_files_become(tmp_path: Path) -> None:
    embedder = in_memory_embedder()
    video = make_clip(tmp_path / "a.mp4", 1, seconds=1.3)
    clip = make_query(embedder, clip=video, hop_seconds=0.24)
    assert len(clip.phases) == 16
    assert all(phase.sound and phase.picture for phase in clip.phases)
    assert clip.phases[0].sound.offset_seconds.tolist() == [0.0, 0.24, 0.48, 0.72]  # type: ignore[union-attr]
    assert clip.span_seconds == pytest.approx(1.3, abs=0.1)
    write_sound(tmp_path / "short.wav", tune(1, 0.1), RATE)
    short = make_query(embedder, sound=tmp_path / "short.wav", hop_seconds=0.24)
    assert len(short.phases) == 1
    assert short.span_seconds == pytest.approx(0.48)
    picture = make_query(embedder, picture=video, hop_seconds=0.24)
    assert picture.phases[0].sound is None
    mute = make_query(embedder, clip=make_clip(tmp_path / "mute.mp4", 2, sound=False), hop_seconds=0.24)
    assert mute.phases[0].sound is None
    frame = read_clip(video, frame_seconds=[0.0]).frames[0]  # type: ignore[index]
    assert np.allclose(picture.phases[0].picture.vectors[0], describe_picture(embedder, frame), atol=1e-5)  # type: ignore[union-attr]
    long = tmp_path / "long.wav"
    write_sound(long, tune(2, 20.0), RATE)
    assert {len(phase.sound.vectors) for phase in make_query(embedder, sound=long, hop_seconds=0.24).phases} == {32}  # type: ignore[union-attr]
