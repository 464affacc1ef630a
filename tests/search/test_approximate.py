"""If these fail, an approximate search scores wrongly, forgets filters, or claims a recall that it does not have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lookhear.search import approximate as approximate_module
from lookhear.search import large as large_module
from lookhear.search.approximate import (
    ApproximateOptions,
    NearLibrary,
    make_approximate,
    near_library,
)
from lookhear.search.calibration import calibrate
from lookhear.search.facts import Approximate
from lookhear.search.filters import Where
from lookhear.search.labelled import FileLabels, LabelledStretch
from lookhear.search.library import LIKENESS, Library, weighed
from lookhear.search.query import Hit, Place, Query, Terms, find_moments
from lookhear.search.snapshot import Neighbours, Snapshot
from lookhear.search.tables import MomentRows, Tables
from made_library import HOP, WIDTH, WINDOW, make_library, parts_of, query_of, unit

OPTIONS = ApproximateOptions(first_probes=1, most_probes=8, sampled=40)


@pytest.fixture(scope="module")
def library() -> Library:
    library = make_library([30.0] * 40)
    library.has_visual[library.file_rank < 3] = False
    library.visual[~library.has_visual] = 0.0
    return library


@pytest.fixture(scope="module")
def tables(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Tables:
    tables = Tables(tmp_path_factory.mktemp("near"), WIDTH)
    tables.add_moments(parts_of(library, range(40)))
    return tables


@pytest.fixture(scope="module")
def made(tables: Tables) -> Approximate:
    return make_approximate(tables, options=OPTIONS)


@pytest.fixture
def near(library: Library, tables: Tables, made: Approximate, monkeypatch: pytest.MonkeyPatch) -> NearLibrary:
    monkeypatch.setattr(approximate_module, "_FEW", 50)
    return near_library(library.files, tables.snapshot(), made, window_seconds=WINDOW, hop_seconds=HOP)


def both(library: Library, other: NearLibrary, query: Query | list[Query], **options: object) -> list[list[Hit]]:
    queries = (query,) if isinstance(query, Query) else tuple(query)
    terms = Terms(examples=queries, **options)  # type: ignore[arg-type]

    def calibrated(*asked: object) -> object:
        return calibrate(library, *asked)  # type: ignore[arg-type]

    return [find_moments(library, query, calibrated, **options), other.find(terms, calibrated)]  # type: ignore[arg-type]


def noisy(library: Library, row: int, count: int = 1, *, seed: int = 0) -> Query:
    vectors = library.audio[row : row + count].numpy()
    return query_of(unit(vectors + 0.05 * np.random.default_rng(seed).normal(size=vectors.shape)))


def place_of(hit: Hit) -> tuple[str, float, float]:
    return hit.path, round(hit.peak_seconds, 3), round(hit.score, 4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("within", ["sound", "both"])
def test_what_is_found_is_scored_as_an_exact_search_does(
    library: Library, near: NearLibrary, count: int, within: str
) -> None:
    for seed in range(8):
        exact, found = both(library, near, noisy(library, 61 * seed + 7, count, seed=seed), within=within, top=5)
        assert place_of(found[0]) == place_of(exact[0])
        everything = {place_of(hit) for hit in exact}
        assert len(found) == 5
        assert len({place_of(hit) for hit in found} & everything) >= 3


def test_filters_hold_however_they_are_asked_for(
    library: Library, near: NearLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str]] = []
    real = Snapshot.neighbours

    def counted(snapshot: Snapshot, modality: str, vector: torch.Tensor, count: int, **options: object) -> Neighbours:
        asked.append((count, str(options["condition"])))
        return real(snapshot, modality, vector, count, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "neighbours", counted)
    query = noisy(library, 700)
    half = Where(name="?.mp4")  # ten files of forty
    exact, found = both(library, near, query, within="sound", where=half, top=4)
    assert [hit.path for hit in found][:1] == [hit.path for hit in exact][:1]
    assert asked[-1][1].startswith("file_id IN (")
    most = Where(name="[!x]*")  # a bracket is a bracket: none passes
    assert both(library, near, query, where=most)[1] == []
    monkeypatch.setattr(approximate_module, "_MOST_NAMES", 5)
    asked.clear()
    exact, found = both(library, near, query, within="sound", where=half, top=4)
    assert {Path(hit.path).stem for hit in found} <= {str(number) for number in range(10)}
    assert place_of(found[0]) == place_of(exact[0])
    assert asked[-1][1] == ""
    assert asked[0][0] == large_module._SHORTLIST * 4, "three quarters are left out afterwards"
    asked.clear()
    monkeypatch.setattr(approximate_module, "_FEW", 60 * 10)
    exact, found = both(library, near, query, within="sound", where=half, top=20)
    assert [place_of(hit) for hit in found] == [place_of(hit) for hit in exact]
    assert not asked, "what passes is read as a whole"


@pytest.mark.parametrize("num_films", [1, 3])
def test_long_films_that_stay_alike_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_films: int
) -> None:
    """As a fixed camera with nothing before it: of each there is one hit, however many of its moments are near."""
    monkeypatch.setattr(approximate_module, "_FEW", 50)
    monkeypatch.setattr(approximate_module, "_MOST_NAMED", 512)
    library = make_library([600.0 / num_films] * num_films + [30.0] * 40, picture=False)
    rng = np.random.default_rng(0)
    for film in range(num_films):
        rows = library.file_rank == film
        seen = library.audio[0].numpy() + 0.1 * film * rng.normal(size=WIDTH)
        library.audio[rows] = unit(seen + 0.005 * rng.normal(size=(rows.sum(), WIDTH)))
    tables = Tables(tmp_path, WIDTH)
    tables.add_moments(parts_of(library, range(len(library.files))))
    near = near_library(
        library.files,
        tables.snapshot(),
        make_approximate(tables, options=OPTIONS),
        window_seconds=WINDOW,
        hop_seconds=HOP,
    )
    for top in (10, 100):
        exact, found = both(library, near, noisy(library, 0), within="sound", top=top)
        assert len(exact) == len(found) == top
        assert list(map(place_of, found[:num_films])) == list(map(place_of, exact[:num_films]))
        assert len({place_of(hit) for hit in found} & {place_of(hit) for hit in exact}) >= 0.8 * top


def test_a_long_film_that_is_being_indexed_hides_nothing(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written of it before its end is in the index of neighbours, and may be nearer than all else."""
    monkeypatch.setattr(approximate_module, "_FEW", 50)
    tables = Tables(tmp_path, WIDTH)
    tables.add_moments(parts_of(library, range(40)))
    made = make_approximate(tables, options=OPTIONS)
    query, count = noisy(library, 700), 3000
    near = unit(library.audio[700].numpy() + 0.01 * np.random.default_rng(0).normal(size=(count, WIDTH))).numpy()
    start = HOP * np.arange(count)
    film = MomentRows(file_id="f" * 32, start_seconds=start, end_seconds=start + WINDOW, audio=near, visual=near)
    tables.add_moments([film])
    named = near_library(library.files, tables.snapshot(), made, window_seconds=WINDOW, hop_seconds=HOP)
    for most_names in (100, 5, 0):
        monkeypatch.setattr(approximate_module, "_MOST_NAMES", most_names)
        for where in (None, Where(name="?.mp4")):
            exact, found = both(library, named, query, within="sound", where=where, top=5)
            assert place_of(found[0]) == place_of(exact[0])
            assert len(found) == 5


@pytest.mark.parametrize("few", [50, 400])
def test_a_label_is_found_however_much_else_is_nearer(
    library: Library, near: NearLibrary, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(approximate_module, "_FEW", few)
    bell = LabelledStretch(label="bell", start_seconds=20.0, end_seconds=20.5, peak_seconds=20.2, score=0.9)
    labels = FileLabels(made_by="me", matched="sound", stretches=(bell,))
    files = tuple(replace(file, labels=labels) for file in library.files)
    ours, theirs = replace(library, files=files), replace(near, files=files)
    exact, found = both(ours, theirs, noisy(library, 700), within="sound", where=Where(label="bell"), top=20)
    assert len(exact) == 20
    assert place_of(found[0]) == place_of(exact[0])
    assert few == 50 or list(map(place_of, found)) == list(map(place_of, exact)), "so few are read as a whole"


def test_examples_counter_examples_and_the_moment_itself(library: Library, near: NearLibrary) -> None:
    queries = [noisy(library, 333), noisy(library, 400, 2)]
    for options in ({}, {"against": (noisy(library, 900),)}):
        exact, found = both(library, near, queries, top=3, **options)
        assert {place_of(hit) for hit in found} & {place_of(hit) for hit in exact}
    start = float(library.start_seconds[333])
    own = Place(file_id=library.files[library.file_rank[333]].file_id, start_seconds=start, end_seconds=start + WINDOW)
    query = query_of(library.audio[333:334])
    hits = both(library, near, Query(phases=query.phases, span_seconds=WINDOW, place=own), within="sound")[1]
    assert hits
    assert max(hit.cosine for hit in hits) < 0.99


def test_pages_of_any_size_are_slices_of_one_list(
    library: Library, near: NearLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Snapshot.neighbours

    def forgetful(snapshot: Snapshot, modality: str, vector: torch.Tensor, count: int, **options: object) -> Neighbours:
        """Short lists miss some of what longer ones name, as those of an index of neighbours do."""
        found = real(snapshot, modality, vector, count, **options)  # type: ignore[arg-type]
        there = found.row_id % 5 != count % 5
        return Neighbours(row_id=found.row_id[there], cosine=found.cosine[there])

    monkeypatch.setattr(Snapshot, "neighbours", forgetful)
    query = noisy(library, 333)
    one = both(library, near, query, top=160)[1]
    assert len({(hit.path, hit.peak_seconds) for hit in one}) == 160, "more is asked for where hits are too few"
    for top in (20, 32, 40):
        pages = [hit for page in range(1, 160 // top + 1) for hit in both(library, near, query, top=top, page=page)[1]]
        assert pages == one
    alone = [both(library, near, query, top=1, page=page)[1] for page in (1, 2, 33)]
    assert alone == [[one[0]], [one[1]], [one[32]]]


def test_the_recall_that_is_kept_is_the_recall_that_is(library: Library, tables: Tables, made: Approximate) -> None:
    assert set(made.recall_at_10) == {f"{a}>{b}" for a in ("sound", "picture") for b in ("sound", "picture")}
    lowest = min(made.recall_at_10.values())
    assert 0.5 < lowest <= 1.0
    assert made.recall.startswith(f"{lowest:.1%} of the 10")
    assert (made.moments, made.sampled) == (len(library), 40)
    snapshot = tables.snapshot()
    sample = approximate_module._sample(snapshot, 40, 0)
    shares = []
    keys = {row: number for number, row in enumerate(snapshot.keys().row_id.tolist())}
    assert len(keys) == len(library)
    everything = snapshot.vectors(snapshot.keys().row_id)
    for number, row_id in enumerate(sample.row_id.tolist()):
        cosine = everything.audio @ sample.vectors["sound"][number]
        cosine[keys[row_id]] = -2.0
        nearest = snapshot.keys().row_id[cosine.topk(10).indices.numpy()]
        named = snapshot.neighbours(
            "sound", sample.vectors["sound"][number], 64, probes=made.probes, refine=made.refine
        ).row_id
        shares.append(len(set(nearest.tolist()) & set(named.tolist())) / 10)
    assert made.recall_at_10["sound>sound"] == pytest.approx(np.mean(shares), abs=0.02)


def test_a_bad_index_of_neighbours_says_so(tables: Tables, made: Approximate, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Snapshot.neighbours

    def half_blind(snapshot: Snapshot, *asked: object, **options: object) -> Neighbours:
        found = real(snapshot, *asked, **options)  # type: ignore[arg-type]
        return Neighbours(row_id=found.row_id[1::2], cosine=found.cosine[1::2])

    monkeypatch.setattr(Snapshot, "neighbours", half_blind)
    snapshot = tables.snapshot()
    sample = approximate_module._sample(snapshot, 40, 0)
    nearest = {"sound": approximate_module._nearest(snapshot, "sound", sample)}
    recall = approximate_module._recall(snapshot, sample, nearest, probes=8, refine=4)  # type: ignore[arg-type]
    assert recall["sound>sound"] < 0.7


def test_equal_moments_do_for_each_other(tmp_path: Path) -> None:
    library = make_library([30.0] * 8, picture=False)
    library.audio[:] = library.audio[0].clone()
    tables = Tables(tmp_path, WIDTH)
    tables.add_moments(parts_of(library, range(8)))
    made = make_approximate(tables, options=OPTIONS)
    assert made.recall_at_10 == {"sound>sound": 1.0}


def test_more_partitions_are_looked_into_where_recall_is_low(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def recall(*_: object, probes: int, refine: int) -> dict[str, float]:
        asked.append(probes)
        return {"sound>sound": min(1.0, 0.3 * probes)}

    monkeypatch.setattr(approximate_module, "_recall", recall)
    monkeypatch.setattr(Tables, "index_neighbours", lambda *_: None)
    assert make_approximate(tables, options=OPTIONS).probes == 4
    assert asked == [1, 2, 4]


def test_recall_is_of_what_searches_ask(tmp_path: Path) -> None:
    """Across modalities a plain description plays no part, and so not in the recall that is measured either."""
    library = make_library([30.0] * 8)
    for vectors in (library.audio, library.visual):
        vectors[:] = unit(vectors.reshape(-1, 2, WIDTH // 2).numpy()).reshape(-1, WIDTH)
    tables = Tables(tmp_path, WIDTH)
    tables.add_moments(parts_of(library, range(8)))
    assert min(make_approximate(tables, plain_width=WIDTH // 2, options=OPTIONS).recall_at_10.values()) > 0.9
    sample = approximate_module._sample(tables.snapshot(), 20, WIDTH // 2)
    across, within = sample.asked("sound", "picture"), sample.asked("sound", "sound")
    assert not across[:, WIDTH // 2 :].any()
    assert torch.allclose(within, weighed(sample.vectors["sound"], WIDTH // 2, LIKENESS))
    snapshot = tables.snapshot()
    keys = snapshot.keys().row_id
    stored = snapshot.vectors(keys).visual
    cosine = (across @ stored.T) / (stored.norm(dim=1) * across.norm(dim=1, keepdim=True))
    cosine[torch.from_numpy(sample.row_id[:, None] == keys[None, :])] = -2.0
    found = approximate_module._nearest(snapshot, "picture", sample)["sound"]
    assert torch.allclose(found, cosine.topk(10, dim=1).values, atol=1e-5)
