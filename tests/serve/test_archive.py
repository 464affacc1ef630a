"""If these fail, the page finds other moments than `Index.search`, or does not see what an indexer wrote."""

import math
from pathlib import Path
from typing import Any

import pytest

from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.search.crawl import index
from lookhear.search.filters import Where
from lookhear.search.index import Index
from lookhear.search.query import Hit
from lookhear.serve.schemas import Search
from tiny_embedder import make_clip, save_tiny
from web_library import Made, Running, running


def moment(file_id: str, start: float, end: float | None = None, **more: Any) -> dict[str, Any]:
    return {"kind": "moment", "file_id": file_id, "start_seconds": start, "end_seconds": end, **more}


def find(web: Running, *examples: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = web.client.post("/api/search", json={"examples": list(examples), **options})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def assert_same(found: dict[str, Any], hits: list[Hit]) -> None:
    assert [hit["path"] for hit in found["hits"]] == [hit.path for hit in hits]
    for name in ("start_seconds", "end_seconds", "peak_seconds", "matched"):
        assert [hit[name] for hit in found["hits"]] == [getattr(hit, name) for hit in hits]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in hits], rel=1e-4)


def test_an_upload_finds_what_the_file_finds(made: Made, web: Running) -> None:
    direct = Index(made.index)
    clip = made.clip(4)
    upload = web.upload(clip)
    assert (upload["kind"], upload["has_sound"], upload["has_picture"]) == ("clip", True, True)
    example = {"kind": "upload", "id": upload["id"]}
    assert_same(find(web, example, page_size=5), direct.search(clip=clip, top=5))
    assert_same(find(web, example | {"use": "sound"}, page_size=5), direct.search(sound=clip, top=5))
    assert_same(
        find(web, example, within="picture", balance=0.2, likeness=0.9, page_size=5),
        direct.search(clip=clip, within="picture", balance=0.2, likeness=0.9, top=5),
    )


def test_a_sound_and_a_picture(made: Made, web: Running, tmp_path: Path) -> None:
    direct = Index(made.index)
    cut = read_clip(made.clip(1), start_seconds=1.0, end_seconds=2.5, frame_seconds=[1.2])
    assert cut.waveform is not None
    write_sound(tmp_path / "slam.wav", cut.waveform, 16000)
    sound = web.upload(tmp_path / "slam.wav")
    assert (sound["kind"], sound["has_picture"], sound["seconds"]) == ("sound", False, pytest.approx(1.5))
    assert len(sound["peaks"]) == 160
    assert max(sound["peaks"]) > 0.05
    found = find(web, {"kind": "upload", "id": sound["id"]}, page_size=3)
    assert_same(found, direct.search(sound=tmp_path / "slam.wav", top=3))
    assert found["hits"][0]["name"] == "clip1.mp4"
    assert found["hits"][0]["folder"] == "day1"
    from PIL import Image

    assert cut.frames is not None
    Image.fromarray(cut.frames[0].transpose(1, 2, 0)).resize((320, 240)).save(tmp_path / "still.png")
    picture = web.upload(tmp_path / "still.png")
    assert (picture["kind"], picture["peaks"], picture["seconds"]) == ("picture", [], 0)
    found = find(web, {"kind": "upload", "id": picture["id"]}, page_size=3)
    assert_same(found, direct.search(picture=tmp_path / "still.png", top=3))
    thumbnail = web.client.get(f"/api/uploads/{picture['id']}/picture")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert thumbnail.content.startswith(b"\xff\xd8")
    assert web.client.get(f"/api/uploads/{sound['id']}/picture").status_code == 404


def test_moments_several_examples_and_counter_examples(made: Made, web: Running) -> None:
    direct = Index(made.index)
    one, two = web.file_id(made.clip(1)), web.file_id(made.clip(2))
    assert_same(find(web, moment(one, 2.0), page_size=4), direct.search(like=f"{made.clip(1)}@2.0", top=4))
    assert_same(find(web, moment(one, 1.0, 2.5), page_size=4), direct.search(like=f"{made.clip(1)}@1.0-2.5", top=4))
    both = find(web, moment(one, 2.0), moment(two, 1.0), counter_examples=[moment(two, 3.0)], page_size=4)
    likes = [f"{made.clip(1)}@2.0", f"{made.clip(2)}@1.0"]
    assert_same(both, direct.search(like=likes, not_like=f"{made.clip(2)}@3.0", top=4))
    # a span that ends before it begins is the moment where it begins, and one before the file its beginning
    assert find(web, moment(one, 2.0, 1.0))["hits"]


def test_pages_threshold_and_chance(made: Made, web: Running) -> None:
    example = moment(web.file_id(made.clip(0)), 1.0)
    four = find(web, example, page_size=4)
    first, second = (find(web, example, page_size=2, page=page) for page in (1, 2))
    assert first["hits"] + second["hits"] == four["hits"]
    assert first["has_more"]
    last = find(web, example, page_size=100)
    assert not last["has_more"]
    assert not find(web, example, page_size=100, page=2)["hits"]
    best = four["best_score"]
    assert best == four["hits"][0]["score"]
    kept = find(web, example, page_size=100, at_least=best - 0.01)
    assert [hit["score"] for hit in kept["hits"]] == [
        hit["score"] for hit in last["hits"] if hit["score"] >= best - 0.01
    ]
    nothing = find(web, example, at_least=best + 1)
    assert nothing["hits"] == []
    assert nothing["best_score"] == best
    assert not nothing["has_more"]
    assert four["chance_score"] == pytest.approx(math.log10(web.client.get("/api/status").json()["moments"]))


def test_filters(made: Made, web: Running) -> None:
    example = moment(web.file_id(made.clip(0)), 1.0)
    day2 = str(made.media / "day2")

    def names(**filters: Any) -> set[str]:
        return {hit["name"] for hit in find(web, example, page_size=100, filters=filters)["hits"]}

    assert names(folder=day2) == {"clip3.mp4", "clip4.mp4", "clip5.mp4"}
    assert names(name="*.m4a") == {"sound only.m4a"}
    assert names(status=["picture_only"]) == {"silent.mp4"}
    assert names(longer_seconds=100) == set()
    assert names(shorter_seconds=100, name="clip2*") == {"clip2.mp4"}
    assert names(before="1971-01-01") == names(after="8999-01-01") == set()
    assert names(after="0001-01-01", before="9999-12-31") == names()
    request = {"examples": [example], "filters": {"folder": str(made.folder)}}
    outside = web.client.post("/api/search", json=request)
    assert outside.status_code == 404
    assert "/api/folders" in outside.json()["error"]
    direct = Index(made.index).search(like=f"{made.clip(0)}@1.0", where=Where(folder=Path(day2)), top=3)
    assert_same(find(web, example, page_size=3, filters={"folder": day2}), direct)


@pytest.mark.parametrize(("page", "size", "last"), [(1, 24, False), (99, 24, False), (100, 24, True), (50, 100, True)])
def test_the_last_page_has_no_next(page: int, size: int, last: bool) -> None:
    asked = Search.model_validate({"filters": {"label": "bell"}, "page": page, "page_size": size})
    assert asked.is_last_page is last


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"examples": []}, 422, "examples"),
        ({"examples": [{"kind": "upload", "id": "A" * 24}]}, 404, "not remembered"),
        ({"examples": [moment("0" * 32, 1.0)]}, 404, "no file with the id"),
        ({"balance": 2}, 422, "balance"),
        ({"within": "smell"}, 422, "within"),
        ({"filters": {"nmae": "x"}}, 422, "nmae"),
        ({"filters": {"name": "a\0b"}}, 422, "name"),
        ({"filters": {"after": "soon"}}, 422, "after"),
        ({"page": 0}, 422, "page"),
        ({"page_size": 1000}, 422, "page_size"),
        ({"page": 51, "page_size": 100}, 422, "only the best 5,000 hits"),
        ({"at_least": "nan"}, 422, "at_least"),
    ],
)
def test_what_cannot_be_asked(made: Made, web: Running, changes: dict[str, Any], status: int, sentence: str) -> None:
    asked = {"examples": [moment(web.file_id(made.clip(0)), 1.0)]} | changes
    answer = web.client.post("/api/search", json=asked)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]


def test_moments_that_are_not_there(made: Made, web: Running) -> None:
    clip, sound = web.file_id(made.clip(0)), web.file_id(made.media / "sound only.m4a")
    for example, sentence in (
        (moment(clip, 99.0), "nothing at 99 s"),
        (moment(clip, -5.0), "nothing at -5 s"),
        (moment(sound, 1.0, use="picture"), "no picture to search by"),
    ):
        answer = web.client.post("/api/search", json={"examples": [example]})
        assert answer.status_code == 409, answer.text
        assert sentence in answer.json()["error"]


def test_status_files_and_folders(made: Made, web: Running) -> None:
    status = web.client.get("/api/status").json()
    truth = Index(made.index).status()
    assert status["counts"] == truth.counts == {"ok": 6, "picture_only": 1, "refused": 1, "sound_only": 1}
    assert (status["files"], status["moments"]) == (9, truth.moments)
    assert status["seconds"] == pytest.approx(truth.seconds)
    folders = {folder["path"]: folder["files"] for folder in web.client.get("/api/folders").json()}
    assert folders == {str(made.media): 9, str(made.media / "day1"): 3, str(made.media / "day2"): 3}
    refused = web.client.get("/api/files", params={"status": "refused"}).json()
    assert refused["total"] == 1
    assert refused["rows"][0]["reason"] == "it is not a media file, or its beginning or index is damaged"
    assert refused["rows"][0]["file_id"] is None
    found = web.client.get("/api/files", params={"text": "DAY2 clip", "order": "path", "descending": True}).json()
    assert [row["path"] for row in found["rows"]] == ["day2/clip5.mp4", "day2/clip4.mp4", "day2/clip3.mp4"]


def test_one_file(made: Made, web: Running) -> None:
    about = web.client.get(f"/api/files/{web.file_id(made.clip(0))}").json()
    assert about["plays"] == "directly"
    assert (about["picture"]["codec"], about["picture"]["width"], about["sound"]["codec"]) == ("h264", 64, "aac")
    assert about["row"]["path"] == "day1/clip0.mp4"
    sound = web.client.get(f"/api/files/{web.file_id(made.media / 'sound only.m4a')}").json()
    assert sound["picture"] is None
    assert sound["plays"] == "directly"


def test_what_an_indexer_writes_is_seen(tmp_path: Path) -> None:
    media, model = (tmp_path / "media").resolve(), save_tiny(tmp_path / "model.safetensors")
    for number in range(3):
        make_clip(media / f"{number}.mp4", number)
    index([media], model=model, index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        first = web.client.get("/api/status").json()
        upload = web.upload(media / "1.mp4")
        example = {"kind": "upload", "id": upload["id"]}
        assert len({hit["name"] for hit in find(web, example)["hits"]}) == 3
        (media / "copy.mp4").write_bytes((media / "1.mp4").read_bytes())
        make_clip(media / "new.mp4", 7)
        (media / "0.mp4").unlink()
        index([media], index_path=tmp_path / "index", workers=0)
        second = web.client.get("/api/status").json()
        assert second["generation"] != first["generation"]
        assert second["files"] == 4
        hits = find(web, example)["hits"]
        assert {hit["name"] for hit in hits} == {"1.mp4", "2.mp4", "new.mp4"}
        assert hits[0]["copies"] == [str(media / "copy.mp4")]
        gone = web.client.get("/api/files/" + "0" * 32)
        assert gone.status_code == 404
        # another model takes its place: the examples of the old one are of no use
        newer = save_tiny(tmp_path / "newer.safetensors", seed=4)
        index([], model=newer, index_path=tmp_path / "index", beside=True, workers=0)
        stale = web.client.post("/api/search", json={"examples": [example]})
        assert stale.status_code == 409
        assert "another model" in stale.json()["error"]
        again = web.upload(media / "1.mp4")
        assert find(web, {"kind": "upload", "id": again["id"]})["hits"][0]["name"] == "1.mp4"


def test_an_empty_index(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    model = save_tiny(tmp_path / "model.safetensors")
    index([tmp_path / "media"], model=model, index_path=tmp_path / "index", workers=0)
    clip = make_clip(tmp_path / "a.mp4", 1)
    with running(tmp_path / "index") as web:
        assert web.client.get("/api/files").json()["rows"] == []
        found = find(web, {"kind": "upload", "id": web.upload(clip)["id"]})
        assert found["hits"] == []
        assert found["best_score"] is None
