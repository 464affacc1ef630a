"""If these fail, the server gives away files that are not in the library, or a player cannot seek."""

import os
import shutil
from pathlib import Path

import pytest

from lookhear.search.crawl import index
from lookhear.search.index import Index
from lookhear.search.tables import FileRow
from lookhear.serve.catalogue import Catalogue, UnknownFileError, media_type
from lookhear.serve.ranged import is_range
from tiny_embedder import make_clip, save_tiny
from web_library import Made, Running, running


def test_the_bytes_of_a_file(made: Made, web: Running) -> None:
    url = f"/api/files/{web.file_id(made.clip(0))}/media"
    whole = made.clip(0).read_bytes()
    answer = web.client.get(url)
    assert answer.content == whole
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["accept-ranges"] == "bytes"
    head = web.client.head(url)
    assert head.status_code == 200
    assert int(head.headers["content-length"]) == len(whole)
    assert head.content == b""


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-", 206, 0, None),
        ("bytes=0-0", 206, 0, 1),
        ("bytes=100-199", 206, 100, 200),
        ("bytes=100-99999999", 206, 100, None),
        ("bytes=-10", 206, -10, None),
        ("bytes=-99999999", 206, 0, None),
        ("bytes=99999999-", 416, None, None),
        ("bytes=99999999-,88888888-", 416, None, None),
        ("bytes=-0", 416, None, None),
        ("bytes=0-1,99999999-", 206, 0, 2),
        ("bytes=99999999-, -10 , -0", 206, -10, None),
        ("bytes=200-100", 200, None, None),
        ("bytes=", 200, None, None),
        ("bytes=a-b", 200, None, None),
        ("bytes=0-9, 5", 200, None, None),
        ("lines=1-2", 200, None, None),
    ],
)
def test_ranges(made: Made, web: Running, asked: str, status: int, first: int | None, last: int | None) -> None:
    whole = made.clip(0).read_bytes()
    url = f"/api/files/{web.file_id(made.clip(0))}/media"
    answer = web.client.get(url, headers={"range": asked})
    assert answer.status_code == status
    if status == 206:
        wanted = whole[first:last]
        assert answer.content == wanted
        begin = whole.index(wanted) if len(wanted) > 1 else 0
        assert answer.headers["content-range"] == f"bytes {begin}-{begin + len(wanted) - 1}/{len(whole)}"
    elif status == 200:  # no range at all, so it is ignored
        assert answer.content == whole
    else:
        assert answer.headers["content-range"] == f"bytes */{len(whole)}"
        assert "none of them is in the range" in answer.json()["error"]
    head = web.client.head(url, headers={"range": asked})
    assert (head.status_code, int(head.headers["content-length"])) == (200, len(whole))


def test_what_is_known_already_is_not_sent(made: Made, web: Running) -> None:
    for what in ("media", "preview?start=0&seconds=0.5"):
        url = f"/api/files/{web.file_id(made.clip(0))}/{what}"
        tag = web.client.get(url).headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            answer = web.client.get(url, headers={"if-none-match": known, "range": "bytes=0-9"})
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == tag
            assert answer.headers["cache-control"] == "private, no-cache"
        assert web.client.get(url, headers={"if-none-match": '"other"'}).status_code == 200


def test_several_ranges_and_changed_files(made: Made, web: Running) -> None:
    url = f"/api/files/{web.file_id(made.clip(0))}/media"
    whole = made.clip(0).read_bytes()
    several = web.client.get(url, headers={"range": "bytes=0-9,20-29"})
    assert several.status_code == 206
    assert whole[:10] in several.content
    assert whole[20:30] in several.content
    assert len(several.content) < 1000
    many = web.client.get(url, headers={"range": "bytes=" + ",".join(f"{n}-{n + 5}" for n in range(0, 4000, 2))})
    assert many.status_code in (200, 206)
    assert len(many.content) <= 2 * len(whole)
    tag = web.client.get(url).headers["etag"]
    same = web.client.get(url, headers={"range": "bytes=0-9", "if-range": tag})
    assert (same.status_code, len(same.content)) == (206, 10)
    other = web.client.get(url, headers={"range": "bytes=0-9", "if-range": '"another"'})
    assert (other.status_code, len(other.content)) == (200, len(whole))
    beyond = web.client.get(url, headers={"range": "bytes=99999999-", "if-range": '"another"'})
    assert (beyond.status_code, len(beyond.content)) == (200, len(whole))


@pytest.mark.parametrize(
    "path",
    [
        "/api/files/../../../../etc/passwd/media",
        "/api/files/..%2f..%2f..%2fetc%2fpasswd/media",
        "/api/files/%2e%2e/%2e%2e/etc/passwd",
        "/api/files/%2fetc%2fpasswd/media",
        "/api/files/%252e%252e%252fetc%252fpasswd/media",
        "/api/files/C:%5Cwindows%5Cwin.ini/media",
        "/api/files/clip0.mp4/media",
        "/api/files/%00/media",
        "/api/files//etc/passwd/media",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%5c..%5cetc/passwd",
        "/app.py",
        "/page/index.html",
        "/../app.py",
        "//etc/passwd",
        "/static/../../app.py",
    ],
)
def test_no_path_leads_out(web: Running, path: str) -> None:
    import httpx2

    # sent as it is: the client would take the dots out
    request = web.client.build_request("GET", "/")
    request.url = httpx2.URL(request.url).copy_with(raw_path=path.encode())
    answer = web.client.send(request)
    assert answer.status_code in (400, 404, 422), answer.text
    assert "root:" not in answer.text
    assert "def " not in answer.text


def test_only_what_became_of_the_library(made: Made, web: Running) -> None:
    broken = next(row for row in web.archive.catalogue().rows if row.status == "refused")
    assert broken.file_id
    assert web.client.get(f"/api/files/{broken.file_id}/media").status_code == 404
    assert web.client.get("/api/files/" + "f" * 64 + "/media").status_code == 404


def test_a_file_that_goes_or_becomes_something_else(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    secret = tmp_path / "secret.txt"
    secret.write_text("root: this must stay here")
    clips = [make_clip(media / "inner" / f"{number}.mp4", number) for number in range(4)]
    model = save_tiny(tmp_path / "model.safetensors")
    index([media], model=model, index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        ids = [web.file_id(clip) for clip in clips]
        clips[0].unlink()
        clips[1].unlink()
        clips[1].symlink_to(secret)
        if hasattr(os, "mkfifo"):
            clips[2].unlink()
            os.mkfifo(clips[2])
        else:
            clips[2].unlink()
        for file_id, sentence in zip(ids, ("is not where it was", "link out of the library", "i"), strict=False):
            for what in ("media", "frame?at=1", "strip?start=0&end=1", "heat?at=1", "preview?start=0"):
                answer = web.client.get(f"/api/files/{file_id}/{what}")
                assert answer.status_code == 404, what
                assert sentence in answer.json()["error"]
        # a folder on the way that becomes a link to a place outside
        assert web.client.get(f"/api/files/{ids[3]}/media").status_code == 200
        shutil.copytree(media / "inner", tmp_path / "outside", ignore=shutil.ignore_patterns("[012].mp4"))
        shutil.rmtree(media / "inner")
        (media / "inner").symlink_to(tmp_path / "outside")
        assert (media / "inner" / "3.mp4").exists()
        answer = web.client.get(f"/api/files/{ids[3]}/media")
        assert answer.status_code == 404
        assert "link out of the library" in answer.json()["error"]


def test_links_inside_the_library_are_fine(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    clip = make_clip(media / "real" / "a.mp4", 1)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    (media / "elsewhere").mkdir()
    shutil.move(clip, media / "elsewhere" / "a.mp4")
    clip.symlink_to(media / "elsewhere" / "a.mp4")
    with running(tmp_path / "index") as web:
        file_id = web.archive.catalogue().rows[0].file_id
        assert web.archive.catalogue().path_of(file_id) == media / "elsewhere" / "a.mp4"
        assert web.client.get(f"/api/files/{file_id}/media").status_code == 200


def row(path: str, *, library: str = "/films", **more: object) -> FileRow:
    values: dict[str, object] = {
        "library": library,
        "path": path,
        "file_id": f"{abs(hash(path)):032x}"[:32],
        "size_bytes": 1,
        "mtime_ns": 0,
        "status": "ok",
        "reason": "",
        "seconds": 1.0,
        "num_moments": 2,
    }
    return FileRow(**(values | more))  # type: ignore[arg-type]


def test_ten_thousand_files_come_in_parts() -> None:
    rows = tuple(row(f"{n % 50:02d}/tape {n:05d}.mp4", seconds=float(n), mtime_ns=-n) for n in range(10_000))
    catalogue = Catalogue(version=("t", 1, 1), libraries=("/films",), rows=rows)
    first, second = (catalogue.page(order="path", offset=offset, limit=100) for offset in (0, 100))
    assert first.total == second.total == 10_000
    paths = [each.path for each in (*first.rows, *second.rows)]
    assert paths == sorted(each.path for each in rows)[:200]
    assert [each.seconds for each in catalogue.page(order="seconds", descending=True, limit=2).rows] == [9999, 9998]
    assert catalogue.page(order="modified", limit=1).rows[0].mtime_ns == -9999
    assert catalogue.page(text="07/ 0123").total == len([r for r in rows if "07/" in r.path and "0123" in r.path])
    assert catalogue.page(offset=20_000).rows == ()
    assert len(catalogue.folders) == 51
    assert catalogue.folders["/films"] == 10_000
    assert catalogue.num_moments == 20_000


def test_copies_share_moments_and_stand_in_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "b.mp4").write_bytes(b"film")
    rows = (
        row("a.mp4", library=str(tmp_path.resolve()), file_id="1" * 32),
        row("b.mp4", library=str(tmp_path.resolve()), file_id="1" * 32),
        row("c.mp4", library=str(tmp_path.resolve()), file_id="1" * 32, status="refused"),
        row("d.mp4", library=str(tmp_path.resolve()), file_id="", status="waiting"),
    )
    catalogue = Catalogue(version=("t", 1, 1), libraries=(), rows=rows)
    assert catalogue.num_moments == 2
    assert catalogue.path_of("1" * 32) == (tmp_path / "b.mp4").resolve()
    assert catalogue.id_of(str(tmp_path.resolve() / "c.mp4")) is None
    with pytest.raises(UnknownFileError, match="no file"):
        catalogue.rows_of("2" * 32)


def test_types_are_never_pages_or_scripts() -> None:
    assert media_type(Path("a.MP4")) == "video/mp4"
    for name in ("a.html", "a.svg", "a.js", "a", "a.mxf", "a.xml"):
        assert media_type(Path(name)) == "application/octet-stream"


def test_a_file_that_is_renamed_has_its_new_name_at_once(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    clip = make_clip(media / "old.mp4", 1)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        url = f"/api/files/{web.file_id(clip)}"
        first = web.client.get(url)
        assert first.json()["row"]["path"] == "old.mp4"
        clip.rename(media / "new.mp4")
        index([media], index_path=tmp_path / "index", workers=0)
        second = web.client.get(url)
        assert second.json()["row"]["path"] == "new.mp4"
        # and no browser keeps what depends on more than the bytes
        for answer in (first, second, web.client.get(f"{url}/heat?at=1")):
            assert answer.headers["cache-control"] == "private, no-cache"
        assert "max-age" in web.client.get(f"{url}/frame?at=1").headers["cache-control"]


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    media.mkdir()
    odd = Path(os.fsdecode(os.fsencode(media) + b"/caf\xe9 \xff.mp4"))
    try:
        shutil.copy(make_clip(tmp_path / "a.mp4", 1), odd)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    make_clip(media / "b.mp4", 2)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        rows = web.client.get("/api/files").json()["rows"]
        assert {each["path"] for each in rows} == {"b.mp4", "caf? ?.mp4"}
        file_id = web.archive.catalogue().id_of(str(odd))
        assert web.client.get(f"/api/files/{file_id}/media").content == odd.read_bytes()
        assert web.client.get(f"/api/files/{file_id}/frame?at=1").status_code == 200
        asked = {"examples": [{"kind": "moment", "file_id": web.file_id(media / "b.mp4"), "start_seconds": 1}]}
        hits = web.client.post("/api/search", json=asked).json()["hits"]
        assert "caf? ?.mp4" in {hit["name"] for hit in hits}
        chosen = {"kind": "search", "search": asked, "top": 10}
        text = web.client.post("/api/export", json={"format": "tsv", "chosen": chosen}).content
        assert os.fsencode(odd) in text
        moment = asked | {"examples": [{"kind": "moment", "file_id": file_id, "start_seconds": 1}]}
        assert web.client.post("/api/search", json=moment).status_code == 200
    assert len(Index(tmp_path / "index").files()) == 2


@pytest.mark.parametrize("what", ["", "/media", "/preview?start=0"])
def test_a_file_that_goes_while_it_is_asked_for(
    made: Made, web: Running, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async def gone(*_: object) -> Path:
        return made.clip(0).with_name("not there.mp4")

    monkeypatch.setattr("lookhear.serve.routes.Service.path_of", gone)
    answer = web.client.get(f"/api/files/{web.file_id(made.clip(0))}{what}")
    assert answer.status_code == 404
    assert "try again" in answer.json()["error"]


@pytest.mark.parametrize(
    ("value", "known"),
    [
        ("bytes=0-", True),
        ("Bytes = 5-9 , -3", True),
        ("bytes=9-5", False),
        ("bytes=--3", False),
        ("", False),
        ("bytes=0-" + 5000 * "9", False),
    ],
)
def test_what_a_range_is(value: str, known: bool) -> None:
    assert is_range(value) is known
