"""If these fail, the page offers labels that no moment has, hides some, or lists other moments than `find_label`."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lookhear.errors import IndexStateError
from lookhear.search.filters import Where
from lookhear.search.index import Index
from lookhear.search.labels import find_label
from web_library import Made, Running, labelled_index, running, stretch


@pytest.fixture(scope="module")
def place(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {
        "clip0.mp4": (stretch("bell", 0.0, 1.5, 0.6), stretch("door", 1.0, 3.0, 0.9)),
        "clip4.mp4": (stretch("bell", 0.5, 2.0, 0.8), stretch("bell", 3.0, 4.0, 0.4)),
    }
    return labelled_index(made.index, tmp_path_factory.mktemp("labelled") / "index", labels)


@pytest.fixture(scope="module")
def labelled(place: Path) -> Iterator[Running]:
    with running(place) as server:
        yield server


def ask(web: Running, **asked: Any) -> dict[str, Any]:
    answer = web.client.post("/api/search", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_labels_that_there_are_with_their_counts(web: Running, labelled: Running) -> None:
    assert web.client.get("/api/labels").json() == []
    assert labelled.client.get("/api/labels").json() == [{"name": "bell", "moments": 3}, {"name": "door", "moments": 1}]


def test_hits_have_labels_and_a_search_can_be_kept_to_one(made: Made, labelled: Running) -> None:
    example = {"kind": "moment", "file_id": labelled.file_id(made.clip(0)), "start_seconds": 3.0}
    hits = ask(labelled, examples=[example], page_size=100)["hits"]
    assert {hit["name"] for hit in hits if hit["labels"]} <= {"clip0.mp4", "clip4.mp4"}
    assert any(hit["labels"] for hit in hits)
    kept = ask(labelled, examples=[example], page_size=100, filters={"label": "BELL"})
    assert kept["hits"]
    assert all("bell" in hit["labels"] for hit in kept["hits"])
    assert kept["chance_score"] is not None
    refused = labelled.client.post("/api/search", json={"examples": [example], "filters": {"label": "thunder"}})
    assert (refused.status_code, "there are bell, door" in refused.json()["error"]) == (409, True)


def test_a_name_that_nothing_has_is_refused_in_python(made: Made, place: Path, labelled: Running) -> None:
    moment = f"{made.clip(0)}@3"
    assert Index(place).search(like=moment, where=Where(label="Bell"))
    with pytest.raises(IndexStateError, match="there are bell, door"):
        Index(place).search(like=moment, where=Where(label="thunder"))


def test_a_label_alone_lists_its_moments(made: Made, labelled: Running, place: Path) -> None:
    direct = find_label(Index(place), "bell")
    found = ask(labelled, filters={"label": "bell"})
    assert [hit["score"] for hit in found["hits"]] == [hit.score for hit in direct] == [0.8, 0.6, 0.4]
    assert [hit["start_seconds"] for hit in found["hits"]] == [0.5, 0.0, 3.0]
    assert (found["best_score"], found["chance_score"], found["has_more"]) == (0.8, None, False)
    first, second = (ask(labelled, filters={"label": "bell"}, page_size=2, page=page) for page in (1, 2))
    assert first["hits"] + second["hits"] == found["hits"]
    assert (first["has_more"], second["has_more"]) == (True, False)
    assert len(ask(labelled, filters={"label": "bell"}, at_least=0.5)["hits"]) == 2
    day2 = {"label": "bell", "folder": str(made.media / "day2")}
    assert [hit["name"] for hit in ask(labelled, filters=day2)["hits"]] == ["clip4.mp4"] * 2
    assert len(find_label(Index(place), "bell", where=Where(folder=made.media / "day2"))) == 2


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ({}, 422, "one of the examples"),
        ({"filters": {"label": ""}}, 422, "one of the examples"),
        ({"filters": {"label": "thunder"}}, 409, "has the label 'thunder'; there are bell, door"),
        (
            {
                "filters": {"label": "bell"},
                "counter_examples": [{"kind": "moment", "file_id": "0" * 32, "start_seconds": 1}],
            },
            422,
            "without counter_examples",
        ),
    ],
)
def test_what_no_label_answers(labelled: Running, asked: dict[str, Any], status: int, sentence: str) -> None:
    answer = labelled.client.post("/api/search", json=asked)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert "Value error" not in answer.json()["error"]


def test_what_is_exported_has_its_labels(labelled: Running) -> None:
    search = {"filters": {"label": "bell"}}
    keys = ("file_id", "start_seconds", "end_seconds", "peak_seconds", "score", "cosine", "matched")
    hits = [{key: hit[key] for key in keys} for hit in ask(labelled, **search)["hits"]]
    sheets = []
    for chosen in ({"kind": "search", "search": search, "top": 10}, {"kind": "hits", "hits": hits}):
        answer = labelled.client.post("/api/export", json={"format": "csv", "chosen": chosen})
        assert answer.status_code == 200, answer.text
        sheets.append(list(csv.DictReader(io.StringIO(answer.text))))
    assert sheets[0] == sheets[1]
    assert [row["labels"] for row in sheets[0]] == ['["bell"]', '["door", "bell"]', '["bell"]']
