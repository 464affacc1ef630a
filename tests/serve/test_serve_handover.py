"""If these fail, what is exported from the page is not what the command line exports."""

import io
import json
import urllib.parse
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from editing import make_timecoded
from lookhear.media.probe import probe
from lookhear.search.crawl import index
from lookhear.search.export import FORMATS, render_hits, to_bytes
from lookhear.search.index import Index
from tiny_embedder import make_clip, save_tiny
from web_library import Made, Running, running


@pytest.fixture
def chosen(made: Made, web: Running) -> dict[str, Any]:
    example = {"kind": "moment", "file_id": web.file_id(made.clip(1)), "start_seconds": 2.0}
    return {"kind": "search", "search": {"examples": [example]}, "top": 4}


def report_of(answer: Any) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(urllib.parse.unquote(answer.headers["x-lookhear-report"]))
    return report


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_what_the_command_line_writes(
    made: Made, web: Running, chosen: dict[str, Any], format_: Any
) -> None:
    hits = Index(made.index).search(like=f"{made.clip(1)}@2.0", top=4)
    answer = web.client.post("/api/export", json={"format": format_, "chosen": chosen})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="lookhear.{format_}"'
    assert report_of(answer)["hits"] == 4
    rendered = render_hits(hits, format=format_)
    if format_ in ("tsv", "m3u", "edl"):  # numbers of these are rounded; the others may differ in the last digit
        assert answer.content == to_bytes(rendered.documents[0].text)
    assert made.clip(1).name not in answer.text or hits[0].path != str(made.clip(1))
    assert str(Path(hits[0].path).name.replace(" ", "%20" if format_ in ("m3u", "otio") else " ")) in answer.text


def test_chosen_hits(made: Made, web: Running, chosen: dict[str, Any]) -> None:
    found = web.client.post("/api/search", json=chosen["search"]).json()["hits"]
    keys = ("file_id", "start_seconds", "end_seconds", "peak_seconds", "score", "cosine", "matched")
    two = [{key: hit[key] for key in keys} for hit in (found[2], found[0])]
    body = {"format": "json", "chosen": {"kind": "hits", "hits": two}}
    given = web.client.post("/api/export", json=body).json()
    assert [hit["path"] for hit in given] == [found[2]["path"], found[0]["path"]]
    assert given[1]["score"] == found[0]["score"]
    assert given[0]["status"] == found[2]["status"]
    # a path is never taken from outside
    assert (
        web.client.post(
            "/api/export",
            json={"format": "json", "chosen": {"kind": "hits", "hits": [two[0] | {"path": "/etc/passwd"}]}},
        ).status_code
        == 422
    )
    unknown = {"kind": "hits", "hits": [two[0] | {"file_id": "0" * 32}]}
    assert web.client.post("/api/export", json={"format": "csv", "chosen": unknown}).status_code == 404
    # one that has been forgotten since is left out of the others
    some = {"kind": "hits", "hits": [two[0] | {"file_id": "0" * 32}, two[1]]}
    for path, body in (("export", {"format": "json"}), ("export", {"format": "m3u"}), ("sheet", {}), ("cut", {})):
        answer = web.client.post(f"/api/{path}", json=body | {"chosen": some})
        assert answer.status_code == 200
        report = report_of(answer)
        assert (report["hits"], report["left_out"]) == (1, 1)
        assert report["skipped"] == [{"path": "0" * 32, "reason": "it is not in the library any more"}]
    backwards = {"kind": "hits", "hits": [two[0] | {"start_seconds": 2.0, "end_seconds": 1.0, "peak_seconds": 9.0}]}
    given = web.client.post("/api/export", json={"format": "json", "chosen": backwards}).json()
    assert (given[0]["start_seconds"], given[0]["peak_seconds"], given[0]["end_seconds"]) == (2.0, 2.0, 2.0)


def test_clips(made: Made, web: Running, chosen: dict[str, Any]) -> None:
    for exact in (False, True):
        answer = web.client.post("/api/cut", json={"chosen": chosen | {"top": 2}, "exact": exact})
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            rows = archive.read("clips.csv").decode().splitlines()
        assert len(names) == 3
        assert len(rows) == 3
        assert rows[1].endswith("encoded" if exact else "copied")
    assert [path.name for path in web.workshop.folder.iterdir() if path.name.startswith("export")] == []


def test_a_sheet(web: Running, chosen: dict[str, Any]) -> None:
    answer = web.client.post("/api/sheet", json={"chosen": chosen})
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    nothing = chosen | {"search": chosen["search"] | {"at_least": 999}}
    refused = web.client.post("/api/sheet", json={"chosen": nothing})
    assert refused.status_code == 400
    assert "these are 0" in refused.json()["error"]


def test_limits_of_clips(made: Made, chosen: dict[str, Any]) -> None:
    for limit in ({"max_cut_clips": 3}, {"max_cut_seconds": 0.5}):
        with running(made.index, **limit) as web:
            answer = web.client.post("/api/cut", json={"chosen": chosen})
            assert answer.status_code == 400
            assert "choose fewer" in answer.json()["error"]
    with running(made.index, max_cut_bytes=2000) as web:
        answer = web.client.post("/api/cut", json={"chosen": chosen})
        assert answer.status_code == 422
        assert "choose fewer" in answer.json()["error"]
        assert [path for path in web.workshop.folder.iterdir() if path.name.startswith("export")] == []


def test_nothing_from_outside_the_library_is_handed_over(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    kept, swapped = make_clip(media / "kept.mp4", 1), make_clip(media / "swapped.mp4", 2)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        times = {"start_seconds": 0.2, "end_seconds": 0.9, "peak_seconds": 0.5}
        chosen = {"kind": "hits", "hits": [{"file_id": web.file_id(each)} | times for each in (swapped, kept)]}
        swapped.unlink()
        swapped.symlink_to(make_clip(tmp_path / "private.mp4", 3))
        for path, asked in (
            ("cut", {}),
            ("sheet", {}),
            ("export", {"format": "edl"}),
            ("export", {"format": "m3u"}),
        ):
            answer = web.client.post(f"/api/{path}", json={"chosen": chosen} | asked)
            assert answer.status_code == 200, answer.text
            report = report_of(answer)
            assert (report["hits"], report["left_out"]) == (1, 1), path
            assert "link out of the library" in report["skipped"][0]["reason"]
            if path == "cut":
                with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                    assert archive.namelist() == ["001_kept_0.20s.mp4", "clips.csv"]
        table = web.client.post("/api/export", json={"format": "tsv", "chosen": chosen})
        assert len(table.text.splitlines()) == 2, "a table opens no file"
        alone = {"chosen": {"kind": "hits", "hits": chosen["hits"][:1]}}
        assert web.client.post("/api/sheet", json=alone).status_code == 422


def test_several_rates_and_files_that_are_gone(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    make_clip(media / "a.mp4", 1)
    make_clip(media / "gone.mp4", 2)
    make_timecoded(media / "tape.mov", Fraction(30000, 1001), "01:00:00;00")
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index") as web:
        hits = [
            {
                "file_id": web.file_id(media / name),
                "start_seconds": 0.2,
                "end_seconds": min(1.0, probe(media / name).end_seconds),
                "peak_seconds": 0.5,
            }
            for name in ("a.mp4", "gone.mp4", "tape.mov")
        ]
        (media / "gone.mp4").unlink()
        chosen = {"kind": "hits", "hits": hits}
        answer = web.client.post("/api/export", json={"format": "edl", "chosen": chosen})
        assert answer.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert sorted(archive.namelist()) == ["lookhear.10.edl", "lookhear.29.97df.edl"]
        report = report_of(answer)
        assert (report["hits"], report["left_out"]) == (2, 1)
        assert report["skipped"][0]["path"].endswith("gone.mp4")
        assert "does not exist" in report["skipped"][0]["reason"]
