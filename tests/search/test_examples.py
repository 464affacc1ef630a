"""If these fail, several examples are not one question, a moment of the index finds itself, or pages repeat hits."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.media.encode import write_sound
from lookhear.search import examples as examples_module
from lookhear.search import library as library_module
from lookhear.search.calibration import NEUTRAL_SURPRISE, calibrate, score_of
from lookhear.search.crawl import index as crawl
from lookhear.search.examples import make_query, make_request, moment_query
from lookhear.search.facts import IndexFacts
from lookhear.search.index import Index
from lookhear.search.library import Library, alignments_of, sequence_similarities, sequence_similarity
from lookhear.search.query import Hit, Phase, Query, Terms, find_moments, find_spans, hits_frame
from made_library import HOP, WINDOW, make_library, query_of, search, unit
from tiny_embedder import RATE, in_memory_embedder, make_clip, tiny_embedder, tune

WIDTH = 16


@pytest.fixture
def library() -> Library:
    library = make_library([8.0, 3.3, 6.0, 0.4, 7.5, 5.0])
    library.has_visual[3:9] = False
    library.visual[3:9] = 0.0
    return library


def random_query(seed: int, count: int, *, offset: float = 0.0) -> Query:
    return query_of(unit(np.random.default_rng(seed).normal(size=(count, WIDTH))), offset=offset)


# ---- several examples


def slow_score(library: Library, query: Query, moment: int) -> float:
    """Of the query's sound against the library's sound, its middle laid on the middle of one moment."""
    middle = (library.start_seconds[moment] + library.end_seconds[moment]) / 2
    best = math.nan
    for phase in query.phases:
        assert phase.sound is not None
        calibration = calibrate(library, "sound", "sound", phase.sound.offset_seconds)
        total, matched = 0.0, 0
        for vector, offset in zip(phase.sound.vectors, phase.sound.offset_seconds, strict=True):
            at = middle - query.span_seconds / 2 + phase.start_seconds + offset
            same = [row for row in range(len(library)) if library.file_rank[row] == library.file_rank[moment]]
            nearest = min(same, key=lambda row: (abs(library.start_seconds[row] - at), row))
            if abs(library.start_seconds[nearest] - at) <= HOP / 2 + 1e-6:
                total += float(library.audio[nearest] @ vector)
                matched += 1
            else:
                total += calibration.mean
        if matched:
            surprise = float(calibration.surprise(np.array([total / len(phase.sound.vectors)]))[0])
            best = surprise if math.isnan(best) else max(best, surprise)
    return float(score_of(np.array(best)))


def test_several_examples_and_counter_examples_are_their_slow_form(library: Library) -> None:
    two = random_query(1, 1).phases[0], random_query(2, 3, offset=0.2).phases[0]
    both = Query(phases=two, span_seconds=0.2 + 2 * HOP + WINDOW)
    examples, against = [both, random_query(3, 2)], [random_query(4, 1), random_query(5, 2)]
    slow = {}
    for moment in range(len(library)):
        told = [slow_score(library, query, moment) for query in examples]
        less = max(np.nan_to_num(slow_score(library, query, moment)) for query in against)
        mean = float(np.mean([NEUTRAL_SURPRISE if math.isnan(value) else value for value in told]))
        if less <= NEUTRAL_SURPRISE or less < mean:
            middle = float(library.start_seconds[moment] + library.end_seconds[moment]) / 2
            slow[str(library.files[library.file_rank[moment]].path), round(middle, 6)] = mean - max(
                0.0, less - NEUTRAL_SURPRISE
            )
    hits = find_moments(
        library,
        examples,
        lambda *asked: calibrate(library, *asked),
        against=against,
        within="sound",
        top=1,
    )
    best = max(slow, key=lambda place: slow[place])
    assert hits[0].path == best[0]
    assert hits[0].score == pytest.approx(slow[best], abs=1e-4)
    terms = Terms(examples=tuple(examples), against=tuple(against), within="sound")
    match = find_spans(library, terms, lambda *asked: calibrate(library, *asked)).match
    assert np.isnan(match.score).sum() == len(library) - len(slow)
    assert np.allclose(sorted(match.score[~np.isnan(match.score)]), sorted(slow.values()), atol=1e-4)


def test_the_same_example_twice_changes_nothing(library: Library) -> None:
    query = query_of(library.audio[20:21])
    once, twice = search(library, query), find(library, [query, query])
    assert [hit.path for hit in once[:3]] == [hit.path for hit in twice[:3]]
    assert twice[0].score == pytest.approx(once[0].score, abs=1e-4)
    assert twice[0].peak_seconds == pytest.approx(once[0].peak_seconds)


def find(library: Library, examples: list[Query], **options: object) -> list[Hit]:
    return find_moments(library, examples, lambda *asked: calibrate(library, *asked), **options)  # type: ignore[arg-type]


def test_two_examples_want_what_both_are_like_and_a_counter_example_takes_it_away() -> None:
    library = make_library([20.0] * 6)
    rng = np.random.default_rng(42)
    one, other = (unit(rng.normal(size=(1, WIDTH))) for _ in range(2))
    library.audio[50] = torch.nn.functional.normalize(one + other, dim=-1)  # like both
    library.audio[100] = one  # like one
    examples = [query_of(one), query_of(other)]
    ranks = [str(library.files[rank].path) for rank in library.file_rank]
    assert find(library, examples, within="sound")[0].path == ranks[50]
    assert find(library, examples[:1], within="sound")[0].path == ranks[100]
    left = find(library, examples[:1], against=[query_of(library.audio[100:101])], within="sound", top=100)
    assert (ranks[100], library.start_seconds[100] + WINDOW / 2) not in [(hit.path, hit.peak_seconds) for hit in left]
    assert left[0].path == ranks[50]


def test_sequences_in_one_pass_are_as_one_by_one(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_module, "_WINDOWS_AT_ONCE", 4)
    rng = np.random.default_rng(6)
    sequences = [(unit(rng.normal(size=(count, WIDTH))), HOP * np.arange(count), 0.01 * count) for count in (1, 3, 6)]
    alignments = alignments_of(library, 5 * HOP)
    together = list(sequence_similarities(library, alignments, "picture", sequences))
    for (vectors, offsets, neutral), found in zip(sequences, together, strict=True):
        fresh = alignments_of(library, 5 * HOP)
        alone = sequence_similarity(library, fresh, "picture", vectors, offsets, neutral=neutral)
        assert np.allclose(found, alone, equal_nan=True, atol=1e-6)


def test_where_windows_fall_is_asked_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = calibrate(library, "sound", "sound", np.zeros(1))
    asked: list[int] = []
    monkeypatch.setattr(
        Library,
        "nearest",
        lambda self, ranks, seconds, original=Library.nearest: asked.append(0) or original(self, ranks, seconds),
    )
    other = random_query(9, 3).phases[0].sound
    phases = tuple(
        Phase(start_seconds=0.1 * n, sound=random_query(n, 3).phases[0].sound, picture=other) for n in range(4)
    )
    find_moments(library, Query(phases=phases, span_seconds=2.3), lambda *_: fixed)
    assert len(asked) == 3  # offsets, not offsets x phases x modalities


# ---- moments of the library


def test_a_moment_of_the_library_finds_others_like_it(library: Library) -> None:
    library.audio[40] = library.audio[5]
    query = moment_query(library, f"0.mp4@{library.start_seconds[5] + 0.4}")
    assert query.phases[0].picture is None  # it has none there
    hits = search(library, query, within="sound", top=100)
    assert (hits[0].path, hits[0].peak_seconds) == (
        str(library.files[library.file_rank[40]].path),
        library.start_seconds[40] + WINDOW / 2,
    )
    start = float(library.start_seconds[5])
    assert not [
        hit for hit in hits if hit.path == "0.mp4" and start - 0.01 < hit.peak_seconds - WINDOW / 2 < start + 0.01
    ]
    span = moment_query(library, "0.mp4@1-4")
    assert span.span_seconds == pytest.approx(3.0)
    assert len(span.phases[0].sound.vectors) == 5  # type: ignore[union-attr]
    assert moment_query(library, hits[0]).place.file_id == library.files[library.file_rank[40]].file_id  # type: ignore[union-attr]
    assert moment_query(library, "4.mp4@0:05.2").place.start_seconds == 4.5  # type: ignore[union-attr]


def test_the_beginning_of_a_long_stretch_is_the_query(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "MAX_QUERY_SECONDS", 3.0)
    short, long = (moment_query(library, f"0.mp4@1-{end}") for end in (4, 7))
    assert "only its beginning" in long.note
    assert short.note == ""
    assert long.span_seconds == short.span_seconds == 3.0
    assert torch.equal(long.phases[0].sound.vectors, short.phases[0].sound.vectors)  # type: ignore[union-attr]
    assert long.place is not None
    assert (long.place.start_seconds, long.place.end_seconds) == (1.0, 7.0), "all of it is no answer to itself"
    assert moment_query(library, "0.mp4@2").note == ""


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("0.mp4", "FILE@SECONDS"),
        ("0.mp4@soon", "FILE@SECONDS"),
        ("0.mp4@5-3", "FILE@SECONDS"),
        ("@3", "FILE@SECONDS"),
        ("nowhere.mp4@3", "no moments of a file nowhere.mp4"),
        ("0.mp4@nan", "names no moment"),
        ("0.mp4@inf", "names no moment"),
        ("0.mp4@99", r"from 0\.00 to 8\.00 s"),
    ],
)
def test_moments_that_are_not_there(library: Library, moment: str, words: str) -> None:
    with pytest.raises(IndexStateError, match=words):
        moment_query(library, moment)


def test_no_model_is_needed_for_a_moment_of_the_library(library: Library) -> None:
    def no_model() -> Embedder:
        raise AssertionError

    facts = IndexFacts(
        format=1,
        model="",
        fingerprint="",
        preprocess={},
        window_seconds=WINDOW,
        hop_seconds=HOP,
        embedding_width=WIDTH,
        plain_width=0,
    )
    request = make_request(no_model, lambda: library, facts, {"like": ["0.mp4@3", "1.mp4@1"]}, {"like": "2.mp4@2"})
    assert (len(request.examples), len(request.counter_examples), request.notes) == (2, 1, ())
    with pytest.raises(IndexStateError, match="nothing to search by"):
        make_request(no_model, lambda: library, facts, {"sound": (), "like": None}, {"like": "2.mp4@2"})


# ---- pages, thresholds, frames


def test_pages_follow_each_other_and_a_threshold_says_nothing_here() -> None:
    library = make_library([30.0] * 6)
    query = random_query(7, 2)
    whole = search(library, query, top=30)
    pages = [search(library, query, top=10, page=page) for page in (1, 2, 3)]
    assert [hit for page in pages for hit in page] == whole
    assert search(library, query, top=10, page=1000) == []
    least = whole[7].score
    assert search(library, query, top=30, at_least=least) == [hit for hit in whole if hit.score >= least]
    assert search(library, query, at_least=99.0) == []
    with pytest.raises(IndexStateError, match="pages from 1"):
        search(library, query, page=0)


def test_a_threshold_means_what_it_says() -> None:
    """Of random queries, as many moments reach 2 as one in a hundred."""
    library = make_library([60.0] * 10)
    shares = []
    for seed in range(20):
        query = random_query(100 + seed, 1)
        hits = search(library, query, within="sound", at_least=2.0, top=10_000)
        shares.append(len(hits) / len(library))
    assert 0.003 < float(np.mean(shares)) < 0.02


def test_hits_as_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    library = make_library([10.0] * 3)
    hits = search(library, random_query(8, 1))
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(IndexStateError, match="pip install"):
        hits_frame(hits)
    monkeypatch.undo()
    pytest.importorskip("pandas")
    frame = hits_frame(hits)
    assert frame["score"].tolist() == [hit.score for hit in hits]
    assert list(frame.columns) == list(hits_frame([]).columns)
    assert "peak_seconds" in frame.columns


# ---- with files


def test_a_damaged_example_is_searched_by_what_is_left_of_it_and_says_so(tmp_path: Path) -> None:
    whole = make_clip(tmp_path / "whole.mkv", 1, seconds=4.0)
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    embedder = in_memory_embedder()
    cut = make_query(embedder, clip=tmp_path / "cut.mkv", hop_seconds=HOP)
    assert "cut.mkv' is searched for as far as it can be read: ends at " in cut.note
    assert "of the 4.00 s that its header declares" in cut.note
    assert make_query(embedder, clip=whole, hop_seconds=HOP).note == ""


def test_the_beginning_of_a_long_file_is_the_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "MAX_QUERY_SECONDS", 2.0)
    embedder = in_memory_embedder()
    write_sound(tmp_path / "long.wav", tune(1, 5.0), RATE)
    write_sound(tmp_path / "short.wav", tune(1, 5.0)[: 2 * RATE], RATE)
    long = make_query(embedder, sound=tmp_path / "long.wav", hop_seconds=0.24)
    short = make_query(embedder, sound=tmp_path / "short.wav", hop_seconds=0.24)
    assert "only its beginning" in long.note
    assert short.note == ""
    assert long.span_seconds == pytest.approx(short.span_seconds)
    for ours, theirs in zip(long.phases, short.phases, strict=True):
        assert len(ours.sound.vectors) == len(theirs.sound.vectors)  # type: ignore[union-attr]
        assert torch.allclose(ours.sound.vectors[0], theirs.sound.vectors[0], atol=1e-5)  # type: ignore[union-attr]
    clip = make_clip(tmp_path / "long.mp4", 3, seconds=4.0)
    assert make_query(embedder, clip=clip, hop_seconds=0.24).span_seconds == pytest.approx(2.0, abs=0.05)


def test_an_index_is_asked_by_several_kinds_at_once(tmp_path: Path) -> None:
    media = tmp_path / "media"
    for number in range(4):
        make_clip(media / f"{number}.mp4", number, seconds=3.0)
    crawl([media], model=tiny_embedder(tmp_path), index_path=tmp_path / "index", workers=0)
    found = Index(tmp_path / "index")
    wanted = str((media / "2.mp4").resolve())
    assert found.search(sound=[media / "2.mp4"], picture=[media / "2.mp4"], top=1)[0].path == wanted
    lost = found.search(clip=media / "2.mp4", not_clip=[str(media / "2.mp4")], top=50)
    assert all(hit.score <= NEUTRAL_SURPRISE + 1e-6 for hit in lost)
    (media / "2.mp4").unlink()
    by_moment = found.search(like="2.mp4@1.5", top=50)
    assert by_moment
    assert not [hit for hit in by_moment if hit.path == wanted and abs(hit.peak_seconds - 1.5) < 0.2]
    assert found.search(like=by_moment[0], top=1)


def test_what_is_cut_off_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "MAX_QUERY_SECONDS", 1.0)
    media = make_clip(tmp_path / "media" / "a.mp4", 1).parent
    crawl([media], model=tiny_embedder(tmp_path), index_path=tmp_path / "index", workers=0)
    with pytest.warns(UserWarning, match="only its beginning"):
        assert Index(tmp_path / "index").search(sound=media / "a.mp4")
