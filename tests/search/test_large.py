"""If these fail, an index that is too large for memory answers otherwise than a small one does."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.search import large as large_module
from lookhear.search.calibration import calibrate
from lookhear.search.filters import Where
from lookhear.search.labelled import FileLabels, LabelledStretch
from lookhear.search.large import Calibrations, LargeLibrary, find_hits, scanned_library
from lookhear.search.library import Library
from lookhear.search.query import Calibrate, Hit, Phase, Place, Query, Sequence, Terms, find_moments
from lookhear.search.tables import Tables
from made_library import HOP, WIDTH, WINDOW, make_library, parts_of, query_of, unit


def store(library: Library, path: Path) -> Tables:
    """The moments of `library` in tables, in two commits and in another order than theirs."""
    tables = Tables(path, WIDTH)
    ranks = np.random.default_rng(5).permutation(len(library.files)).tolist()
    tables.add_moments(parts_of(library, ranks[::2]))
    tables.add_moments(parts_of(library, ranks[1::2]))
    return tables


class InMemory:
    """A library in memory, searched by a shortlist."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def find(self, terms: Terms, calibrated: Calibrate) -> list[Hit]:
        return find_hits(self.library, terms, calibrated)


def large(library: Library, tables: Tables, *folders: Path) -> LargeLibrary:
    return scanned_library(library.files, tables.snapshot(), folders, window_seconds=WINDOW, hop_seconds=HOP)


def both(
    library: Library, other: LargeLibrary | InMemory, query: Query | list[Query], **options: object
) -> tuple[list, list]:
    """The hits of a small and of a large library."""
    known: dict = {}

    def calibrated(asked: str, searched: str, offsets: np.ndarray) -> object:
        key = (asked, searched, tuple(offsets))
        if key not in known:
            known[key] = calibrate(library, asked, searched, offsets, likeness=options.get("likeness", 0.5))  # type: ignore[arg-type]
        return known[key]

    queries = (query,) if isinstance(query, Query) else tuple(query)
    terms = Terms(examples=queries, **options)  # type: ignore[arg-type]
    return find_moments(library, query, calibrated, **options), other.find(terms, calibrated)  # type: ignore[arg-type]


def assert_same(ours: list[Hit], theirs: list[Hit]) -> None:
    assert ours
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.path, one.matched, one.status) == (other.path, other.matched, other.status)
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert one.cosine == pytest.approx(other.cosine, abs=1e-5)
        places = [(hit.start_seconds, hit.end_seconds, hit.peak_seconds) for hit in (one, other)]
        assert places[0] == pytest.approx(places[1])


@pytest.fixture(scope="module")
def library() -> Library:
    """Files in which what is heard and seen changes slowly, some without sound or picture here or there."""
    rng = np.random.default_rng(3)
    library = make_library([40.0, 7.3, 300.0, 0.4, 120.0, 33.3, 75.0, 1.0, 180.0])
    for name in ("audio", "visual"):
        walk = np.zeros((len(library), WIDTH))
        for row in range(len(library)):
            before = walk[row - 1] if row and library.file_rank[row] == library.file_rank[row - 1] else 0.0
            walk[row] = 0.8 * before + rng.normal(size=WIDTH)
        getattr(library, name)[:] = unit(walk + (0.0 if name == "audio" else library.audio.numpy()))
    library.has_audio[rng.integers(0, len(library), 60)] = False
    library.has_visual[library.file_rank == 4] = False
    library.audio[~library.has_audio] = 0.0
    library.visual[~library.has_visual] = 0.0
    return library


@pytest.fixture(scope="module")
def tables(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return store(library, tmp_path_factory.mktemp("tables"))


@pytest.fixture(params=["in the table", "in memory", "in memory, without fast bfloat16"])
def other(
    library: Library, tables: Tables, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> LargeLibrary | InMemory:
    """The same, with shortlists so short that more must be read."""
    monkeypatch.setattr(large_module, "_SHORTLIST", 2)
    monkeypatch.setattr(large_module, "_SHORTLIST_A_HIT", 1)
    monkeypatch.setattr(large_module, "_MARGIN", 1)
    monkeypatch.setattr(large_module, "_MORE", 2)
    if request.param == "in the table":
        return large(library, tables)
    monkeypatch.setattr(large_module, "_FEW", 0)
    monkeypatch.setattr(large_module, "bfloat16_is_fast", lambda: request.param == "in memory")
    return InMemory(library)


def near(
    library: Library, row: int, count: int = 1, *, noise: float = 0.3, seed: int = 0, picture: bool = False
) -> Query:
    vectors = (library.visual if picture else library.audio)[row : row + count].numpy()
    rng = np.random.default_rng(seed)
    return query_of(unit(vectors + noise * rng.normal(size=vectors.shape) / WIDTH**0.5), picture=picture)


@pytest.mark.parametrize("within", ["sound", "picture", "both"])
@pytest.mark.parametrize("count", [1, 4])
def test_a_large_library_answers_as_a_small_one(
    library: Library, other: LargeLibrary | InMemory, within: str, count: int
) -> None:
    for seed in range(12):
        row = int(np.random.default_rng(seed).integers(0, len(library) - count))
        query = near(library, row, count, seed=seed, picture=seed % 3 == 0)
        assert_same(*both(library, other, query, within=within, top=1 + seed, page=1 + seed % 2))


def test_phases_of_both_modalities(library: Library, other: LargeLibrary | InMemory) -> None:
    def sequence(vectors: torch.Tensor, first: int) -> Sequence:
        return Sequence(vectors=vectors, offset_seconds=HOP * np.arange(first, first + len(vectors)))

    phases = tuple(
        Phase(
            start_seconds=0.1 * number,
            sound=sequence(near(library, 100 + number, 5, seed=number).phases[0].sound.vectors, 0),  # type: ignore[union-attr]
            picture=sequence(near(library, 102, 2, seed=number, picture=True).phases[0].picture.vectors, 1),  # type: ignore[union-attr]
        )
        for number in range(3)
    )
    query = Query(phases=phases, span_seconds=0.2 + 4 * HOP + WINDOW)
    for balance in (0.0, 0.3, 1.0):
        assert_same(*both(library, other, query, balance=balance, top=20))


def test_meaning_and_looks_are_weighed_alike(tmp_path: Path, library: Library) -> None:
    """The last half of each vector is a plain description, which counts within one modality only."""
    halves = {}
    for name, has in (("audio", library.has_audio), ("visual", library.has_visual)):
        halves[name] = unit(getattr(library, name).reshape(-1, 2, WIDTH // 2).numpy()).reshape(-1, WIDTH)
        halves[name][~torch.from_numpy(has)] = 0.0
    described = replace(library, **halves, plain_width=WIDTH // 2)
    found = scanned_library(
        described.files,
        store(described, tmp_path).snapshot(),
        (),
        window_seconds=WINDOW,
        hop_seconds=HOP,
        plain_width=WIDTH // 2,
    )
    for seed, likeness in enumerate((0.0, 0.2, 0.5, 1.0)):
        query = near(described, 37 + 100 * seed, 1 + seed % 2, seed=seed, noise=0.1)
        assert_same(*both(described, found, query, likeness=likeness, top=8))
        assert_same(*both(described, found, query, likeness=likeness, within="picture", top=8))


def test_several_examples_and_counter_examples(library: Library, other: LargeLibrary | InMemory) -> None:
    queries = [near(library, 50, 3), near(library, 400, 1, picture=True)]
    against = (near(library, 700, 2, seed=4), near(library, 60, 1, seed=5))
    assert_same(*both(library, other, queries, top=15))
    assert_same(*both(library, other, queries, against=against, top=15))
    assert_same(*both(library, other, queries[:1], against=against, within="sound", top=15))


def test_filters_pages_thresholds_and_the_moment_itself(library: Library, other: LargeLibrary | InMemory) -> None:
    query = near(library, 200, 2)
    assert_same(*both(library, other, query, where=Where(name="4.mp4"), top=5))
    pages = [both(library, other, query, top=4, page=page)[1] for page in (1, 2, 3)]
    assert_same([hit for page in pages for hit in page], both(library, other, query, top=12)[1])
    assert_same(*both(library, other, query, top=50, at_least=1.0))
    assert both(library, other, query, at_least=99.0) == ([], [])
    own = library.files[library.file_rank[200]]
    start = float(library.start_seconds[200])
    place = Place(file_id=own.file_id, start_seconds=start, end_seconds=start + HOP + WINDOW)
    assert_same(*both(library, other, replace(query, place=place), top=5))
    assert both(library, other, query, where=Where(name="nothing"))[1] == []


def test_a_label_is_found_however_much_else_matches_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else only what is read first is searched, and most of that has no such label."""
    monkeypatch.setattr(large_module, "_MOST_READ", 300)
    monkeypatch.setattr(large_module, "_MOST_READ_A_HIT", 1)
    monkeypatch.setattr(large_module, "_FEW", 0)
    bell = LabelledStretch(label="bell", start_seconds=31.0, end_seconds=32.0, peak_seconds=31.5, score=0.9)
    labels = FileLabels(made_by="me", matched="sound", stretches=(bell,))
    library = make_library([60.0] * 20)
    library = replace(library, files=tuple(replace(file, labels=labels) for file in library.files))
    query = query_of(library.audio[:1])
    has_it = torch.from_numpy((library.start_seconds < 32.0) & (library.end_seconds > 31.0))
    away = library.audio[has_it] - 0.5 * query.phases[0].sound.vectors  # type: ignore[union-attr]
    library.audio[has_it] = unit(away.numpy())
    for other in (InMemory(library), large(library, store(library, tmp_path))):
        assert_same(*both(library, other, query, within="sound", where=Where(label="bell"), top=8))
        several = [query, query_of(library.audio[200:203])]
        assert_same(*both(library, other, several, where=Where(label="bell"), top=8))


def test_an_hour_of_silence_is_one_hit(tables: Tables, tmp_path: Path) -> None:
    library = make_library([1800.0, 60.0, 60.0])
    library.audio[library.file_rank == 0] = library.audio[0].clone()
    found, ours = both(
        library, large(library, store(library, tmp_path)), query_of(library.audio[:1]), within="sound", top=3
    )
    assert_same(found, ours)
    assert (ours[0].start_seconds, ours[0].end_seconds) == (0.0, 1800.0)


def test_what_many_are_alike_ends(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_module, "_MOST_READ", 600)
    monkeypatch.setattr(large_module, "_MOST_READ_A_HIT", 1)
    library = make_library([2.0] * 400)
    library.audio[:] = library.audio[0].clone()
    hits = both(library, large(library, store(library, tmp_path)), query_of(library.audio[:1]), within="sound", top=30)[
        1
    ]
    assert len(hits) == 30
    assert [hit.cosine for hit in hits] == pytest.approx([1.0] * 30, abs=1e-6)


def test_a_library_without_one_modality(tmp_path: Path) -> None:
    library = make_library([30.0] * 4, picture=False)
    other = large(library, store(library, tmp_path))
    query = query_of(library.audio[30:31])
    assert_same(*both(library, other, query, top=3))
    assert both(library, other, query, within="picture") == ([], [])


def test_what_scores_are_calibrated_on_is_bounded() -> None:
    """A search may ask for any likeness, and each has a sample of its own."""
    library, known = make_library([20.0] * 4), Calibrations()
    for number in range(40):
        known.of(library, number / 40, "sound", "sound", np.zeros(1))
    assert len(known._pairs) == large_module._MAX_PAIRS
    offsets = np.array([0.0, HOP])
    again, anew = (each.of(library, 0.0, "sound", "sound", offsets) for each in (known, Calibrations()))
    assert again.cosine.tolist() == anew.cosine.tolist()
