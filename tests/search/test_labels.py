"""If these fail, an index names what a classifier did not hear, or forgets or hides what it did."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, cast

import numpy as np
import pytest

from lookhear import cli
from lookhear.data.stretch import Decoded, StretchJob
from lookhear.embedder import Embedder
from lookhear.errors import CheckpointError, ConfigError, IndexStateError
from lookhear.search import labels as labels_module
from lookhear.search.crawl import index as crawl
from lookhear.search.filters import Where
from lookhear.search.forget import forget
from lookhear.search.index import Index
from lookhear.search.labelled import FileLabels, LabelledStretch, counted, from_text, labels_between, to_text
from lookhear.search.labels import LabelSummary, find_label, label
from lookhear.search.library import Library
from lookhear.tasks.labels.moments import LabelledMoment, classify
from made_library import HOP, WINDOW, make_library, query_of, search
from tiny_embedder import classifier_embedder, in_memory_embedder, make_clip

NAMES = ("bell", "door", "Engine")


@pytest.fixture(scope="module")
def classifier() -> Embedder:
    return classifier_embedder(NAMES)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """An index of two clips, of which one lies there twice."""
    for seed in range(2):
        make_clip(tmp_path / "media" / f"{seed}.mp4", seed)
    shutil.copy(tmp_path / "media" / "1.mp4", tmp_path / "media" / "copy.mp4")
    crawl([tmp_path / "media"], model=in_memory_embedder(), index_path=tmp_path / "index", workers=0)
    return tmp_path / "index"


def labels_of(place: Path) -> dict[str, FileLabels | None]:
    return {row.path: from_text(row.labels) for row in Index(place).files()}


def named(classifier: Embedder, place: Path, **options: object) -> LabelSummary:
    return label(classifier, index_path=place, threshold=0.0, **options)  # type: ignore[arg-type]


def test_files_have_the_labels_that_the_classifier_gives_them(place: Path, classifier: Embedder) -> None:
    summary = named(classifier, place, top=2)
    assert (summary.files, summary.labelled, summary.unchanged, summary.left_out) == (3, 3, 0, ())
    counts = Index(place).status().labels
    assert sum(counts.values()) == summary.stretches, "of files with the same bytes once"
    found = labels_of(place)
    assert found["1.mp4"] == found["copy.mp4"]
    for name in ("0.mp4", "1.mp4"):
        direct = classify(place.parent / "media" / name, model=classifier, top=2, threshold=0.0)
        kept = found[name]
        assert kept is not None
        assert kept.matched == "both"
        assert [(each.label, each.start_seconds) for each in kept.stretches] == [
            (each.label, pytest.approx(each.start_seconds, abs=1e-3)) for each in direct
        ]
        assert [each.score for each in kept.stretches] == pytest.approx([each.score for each in direct], abs=1e-4)
    assert summary.stretches == sum(len(found[name].stretches) for name in ("0.mp4", "1.mp4"))  # type: ignore[union-attr]


def test_what_is_labelled_is_not_labelled_again(
    place: Path, classifier: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path, **options: object) -> list[LabelledMoment]:
        read.append(Path(path).name)
        return classify(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "classify", counted)
    named(classifier, place)
    assert sorted(read) in (["0.mp4", "1.mp4"], ["0.mp4", "copy.mp4"]), "equal bytes are read once"
    read.clear()
    assert named(classifier, place).unchanged == 3
    assert not read
    assert named(classifier, place, top=1).labelled == 3, "asked in another way"
    make_clip(place.parent / "media" / "new.mp4", 9)
    (place.parent / "media" / "0.mp4").rename(place.parent / "media" / "moved.mp4")
    crawl([place.parent / "media"], model=in_memory_embedder(), index_path=place, workers=0)
    read.clear()
    summary = named(classifier, place, top=1)
    assert (summary.labelled, summary.unchanged) == (1, 3), "a renamed file keeps its labels"
    assert read == ["new.mp4"]


def test_what_cannot_be_read_is_left_out_and_tried_again(place: Path, classifier: Embedder) -> None:
    path = place.parent / "media" / "0.mp4"
    path.rename(place.parent / "elsewhere")
    summary = named(classifier, place)
    assert [Path(each.path).name for each in summary.left_out] == ["0.mp4"]
    assert "is gone" in summary.left_out[0].reason
    (place.parent / "elsewhere").rename(path)
    assert named(classifier, place).labelled == 1


def test_forgotten_files_leave_no_label(place: Path, classifier: Embedder) -> None:
    named(classifier, place)
    forget([place.parent / "media" / "0.mp4"], index_path=place)
    found = labels_of(place)
    assert set(found) == {"1.mp4", "copy.mp4"}
    assert all(found.values())


def test_an_index_of_another_model_takes_labels_over(place: Path, classifier: Embedder) -> None:
    named(classifier, place)
    before = labels_of(place)
    make_clip(place.parent / "media" / "new.mp4", 9)
    crawl([], model=in_memory_embedder(), index_path=place, beside=True, hop_seconds=0.2, workers=0)
    assert labels_of(place) == before | {"new.mp4": None}
    assert all(before.values())
    assert named(classifier, place).labelled == 1


def partial(place: Path) -> None:
    """0.mp4 as a crawl leaves what it could read in part."""
    target = Index(place)
    with target.writing():
        target.write([replace(row, status="partial") for row in target.files() if row.path == "0.mp4"])


def test_a_file_that_was_read_in_part_is_tried_within_limits(
    place: Path, classifier: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process would hang or die at it, each time."""
    partial(place)

    def stopped(pool: object, jobs: Iterable[StretchJob]) -> Iterator[tuple[StretchJob, Decoded]]:
        for job in jobs:
            assert job.path.endswith("0.mp4")
            refusal = "took longer than 300 s and was stopped" if job.stretch else ""
            yield job, Decoded(num_stretches=3, refusal=refusal)

    with monkeypatch.context() as hanging:
        hanging.setattr(labels_module, "decode_stretches", stopped)
        summary = named(classifier, place)
    ((path, reason),) = [(each.path, each.reason) for each in summary.left_out]
    assert Path(path).name == "0.mp4"
    assert "took longer than 300 s" in reason
    assert summary.labelled == 2
    assert named(classifier, place).labelled == 1, "where a process does get through it"


def test_what_a_decoder_stumbles_over_costs_one_file(
    place: Path, classifier: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumbling(path: Path, **options: object) -> list[LabelledMoment]:
        if path.name == "0.mp4":
            raise IndexError("list index out of range")
        return classify(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "classify", stumbling)
    summary = named(classifier, place)
    assert [(Path(each.path).name, each.reason) for each in summary.left_out] == [("0.mp4", "list index out of range")]
    assert summary.labelled == 2


def test_what_was_done_before_ctrl_c_is_kept(
    place: Path, classifier: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, **options: object) -> list[LabelledMoment]:
        if path.name == "1.mp4":
            raise KeyboardInterrupt
        return classify(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "classify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        named(classifier, place)
    assert [name for name, labels in labels_of(place).items() if labels] == ["0.mp4"]


@pytest.mark.parametrize(("mode", "matched"), [("audio", "sound"), ("visual", "picture")])
def test_what_the_classifier_reads_is_what_matched(place: Path, mode: Literal["audio", "visual"], matched: str) -> None:
    named(classifier_embedder(NAMES, mode=mode), place)
    assert {labels.matched for labels in labels_of(place).values() if labels} == {matched}


def test_models_and_settings_that_cannot_be(place: Path, classifier: Embedder) -> None:
    with pytest.raises(CheckpointError, match="names no classes"):
        label(in_memory_embedder(), index_path=place)
    with pytest.raises(ConfigError, match="threshold"):
        label(classifier, index_path=place, threshold=1.5)
    with pytest.raises(ConfigError, match="top is 0"):
        label("no-such-model", index_path=place, top=0)  # said before the model is looked for
    with pytest.raises(IndexStateError, match="has no labels; make them"):
        find_label(Index(place), "bell")
    named(classifier, place)
    with pytest.raises(IndexStateError, match=r"no moment of .* has the label 'thunder'; there are "):
        find_label(Index(place), "thunder")


def test_a_name_finds_its_stretches_the_most_probable_first(place: Path, classifier: Embedder) -> None:
    named(classifier, place, top=3)
    index = Index(place, model=in_memory_embedder())
    hits = find_label(index, "engine", top=50)
    kept = labels_of(place)
    wanted = [
        (each.score, name)
        for name in ("0.mp4", "1.mp4")
        for each in kept[name].stretches  # type: ignore[union-attr]
        if each.label == "Engine"
    ]
    assert sorted(wanted, reverse=True) == [(hit.score, Path(hit.path).name) for hit in hits]
    assert {hit.matched for hit in hits} == {"both"}
    assert all("Engine" in hit.labels for hit in hits)
    assert [len(hit.copies) for hit in hits if Path(hit.path).name == "1.mp4"] == [1] * sum(
        w[1] == "1.mp4" for w in wanted
    )
    assert [find_label(index, "Engine", top=1, page=page)[0] for page in (1, 2)] == hits[:2]
    assert find_label(index, "Engine", at_least=1.1) == []
    for wrong in ({"top": 0}, {"page": 0}):
        with pytest.raises(IndexStateError, match="pages from 1 on"):
            find_label(index, "Engine", **wrong)
    assert {Path(hit.path).name for hit in find_label(index, "bell", where=Where(name="0*"), top=50)} <= {"0.mp4"}
    more = index.search(like=hits[0])
    assert all(hit.labels for hit in more), "every window has three labels"


# ---- in a library with known labels


def stretch(name: str, start: float, end: float, score: float = 0.5) -> LabelledStretch:
    middle = (start + end) / 2
    return LabelledStretch(label=name, start_seconds=start, end_seconds=end, peak_seconds=middle, score=score)


def labelled_library() -> Library:
    library = make_library([20.0] * 6)
    given = {
        1: (stretch("bell", 3.0, 5.0), stretch("door", 4.5, 9.0, 0.9)),
        4: (stretch("Bell", 0.0, 1.0), stretch("bell", 18.0, 20.0)),
    }
    files = tuple(
        replace(file, labels=FileLabels(made_by="me", matched="sound", stretches=given[rank]))
        if rank in given
        else file
        for rank, file in enumerate(library.files)
    )
    return replace(library, files=files)


def test_a_search_can_be_kept_to_moments_with_a_label() -> None:
    library = labelled_library()
    query = query_of(library.audio[50:52])
    everything = search(library, query, within="sound", top=1000)
    found = search(library, query, within="sound", where=Where(label="bell"), top=1000)
    assert {hit.path for hit in found} == {"1.mp4", "4.mp4"}
    allowed = {"1.mp4": [(3.0, 5.0)], "4.mp4": [(0.0, 1.0), (18.0, 20.0)]}
    span = WINDOW + HOP
    for hit in found:
        start = hit.peak_seconds - span / 2
        assert any(start < end and start + span > first for first, end in allowed[hit.path])
    best = {hit.path: hit.score for hit in reversed(everything)}
    assert all(hit.score <= best[hit.path] for hit in found), "scores do not change"
    assert search(library, query, where=Where(label="thunder")) == []


def test_stretches_of_a_name_can_be_kept_to_those_with_another_label() -> None:
    index = cast(Index, SimpleNamespace(library=labelled_library, path="index"))
    assert len(find_label(index, "bell")) == 3
    (hit,) = find_label(index, "bell", where=Where(label="Door"))
    assert (hit.path, hit.start_seconds, hit.end_seconds) == ("1.mp4", 3.0, 5.0)
    with pytest.raises(IndexStateError, match=r"has the label 'thunder'; there are"):
        find_label(index, "bell", where=Where(label="thunder"))


def test_the_filter_is_its_slow_form() -> None:
    library = labelled_library()
    rng = np.random.default_rng(0)
    rank = np.sort(rng.integers(0, 6, 300))
    start = rng.uniform(-1.0, 20.0, 300)
    end = start + rng.uniform(0.1, 3.0, 300)
    slow = [
        any(
            each.label.lower() == "bell" and each.start_seconds < last and first < each.end_seconds
            for each in (library.files[number].labels.stretches if library.files[number].labels else ())  # type: ignore[union-attr]
        )
        for number, first, last in zip(rank, start, end, strict=True)
    ]
    assert Where(label="BELL").passes_moments(library.files, rank, start, end).tolist() == slow
    assert 0 < sum(slow) < 300


def test_hits_carry_their_labels_the_most_probable_first() -> None:
    file = labelled_library().files[1]
    assert labels_between(file.labels, 4.6, 5.1) == ("door", "bell")
    assert labels_between(file.labels, 5.0, 6.0) == ("door",)
    assert labels_between(file.labels, 12.0, 13.0) == ()
    assert labels_between(None, 0.0, 1.0) == ()


def test_labels_are_counted_whatever_their_capitals() -> None:
    assert counted(file.labels for file in labelled_library().files) == {"Bell": 3, "door": 1}
    assert counted([None]) == {}


def test_labels_are_kept_as_they_are() -> None:
    labels = FileLabels(made_by='a"b', matched="picture", stretches=(stretch("Tür, zu", 1.0, 2.0),))
    assert from_text(to_text(labels)) == labels
    assert from_text("") is None


def test_verbs(place: Path, classifier: Embedder, capsys: pytest.CaptureFixture[str]) -> None:
    named(classifier, place)
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["score"] for hit in hits] == [hit.score for hit in find_label(Index(place), "bell")]
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--at-least", "2"]) == 0
    best = f"the best of page 1 has {hits[0]['score']:.2f}"
    assert f"no stretch that was labelled 'bell' reaches 2, {best}" in capsys.readouterr().err
    second = ["search", "--index", str(place), "--label", "bell", "--top", "1", "--page", "2", "--at-least", "2"]
    assert cli.main(second) == 0
    assert f"the best of page 2 has {hits[1]['score']:.2f}" in capsys.readouterr().err
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--page", "99"]) == 0
    assert "nothing here: there is no page 99" in capsys.readouterr().err
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--name", "none"]) == 0
    assert "no stretch that was labelled 'bell' and passes the filters (name none)" in capsys.readouterr().err
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--sound", "a.wav"]) == 1
    assert "--label is asked alone" in capsys.readouterr().err
    words = ["search", "--index", str(place), "--like", "0.mp4@1", "--labelled", "door", "--json"]
    assert cli.main(words) == 0
    assert all("door" in hit["labels"] for hit in json.loads(capsys.readouterr().out))
    assert cli.main(["search", "--index", str(place), "--like", "0.mp4@1", "--labelled", "dor"]) == 1
    assert "has the label 'dor'; there are" in capsys.readouterr().err
    assert cli.main(["search", "--index", str(place), "--label", "bell", "--page", "0"]) == 1
    assert "pages from 1 on" in capsys.readouterr().err
    assert cli.main(["label", "nothing-there", "--index", str(place)]) == 1
