"""Hits handed over: every format is read back by something that did not write it."""

import csv
import errno
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from editing import hit_of, odd_names, path_of
from lookhear.errors import UserError
from lookhear.search.export import FORMATS, export_hits, render_hits, to_bytes
from synthetic import make_sound, make_video


def test_csv_json_and_tsv_hold_every_hit(tmp_path: Path) -> None:
    """Also of files that are gone: they are tables of what was found, and open nothing."""
    odd = ["/gone/a,b.mp4", '/gone/"quoted".mp4', "/gone/two\nlines\t.mp4", "/gone/" + os.fsdecode(b"caf\xe9.mp4")]
    hits = [hit_of(path, copies=("/other/a;b.mp4",), labels=("Glocke", "Tür, zu")) for path in odd]
    for name in ("csv", "json", "tsv"):
        done = export_hits(hits, format=name, out=tmp_path / f"found.{name}")  # type: ignore[arg-type]
        assert (done.files, done.hits, done.skipped) == ((str(tmp_path / f"found.{name}"),), 4, ())
    with (tmp_path / "found.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == odd
    assert [float(row["score"]) for row in rows] == [3.25] * 4
    assert json.loads(rows[0]["copies"]) == ["/other/a;b.mp4"]
    assert json.loads(rows[0]["labels"]) == ["Glocke", "Tür, zu"]
    assert set(rows[0]) >= {"start_seconds", "end_seconds", "peak_seconds", "cosine", "matched", "status"}
    records = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert [replace(hit_of(**_as_hit(record))) for record in records] == hits
    lines = (tmp_path / "found.tsv").read_bytes().splitlines()
    assert len(lines) == 4
    assert lines[2].split(b"\t") == [rb"/gone/two\nlines\t.mp4", b"0.50", b"1.50", b"3.250", b"both"]
    assert b"caf\xe9.mp4" in lines[3]


def _as_hit(record: dict[str, Any]) -> dict[str, Any]:
    values = dict(record, copies=tuple(record["copies"]), labels=tuple(record["labels"]))
    values["start"], values["end"] = values.pop("start_seconds"), values.pop("end_seconds")
    return values


def test_a_playlist_starts_and_stops_at_the_moment(tmp_path: Path) -> None:
    paths = odd_names(tmp_path)
    done = export_hits([hit_of(path) for path in paths], format="m3u", out=tmp_path / "found.m3u")
    assert (done.hits, done.skipped) == (len(paths), ())
    lines = (tmp_path / "found.m3u").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#EXTM3U"
    assert len(lines) == 1 + 4 * len(paths)
    for number, path in enumerate(paths):
        title, start, stop, uri = lines[1 + 4 * number : 5 + 4 * number]
        assert title.startswith("#EXTINF:1,")
        assert (start, stop) == ("#EXTVLCOPT:start-time=0.500", "#EXTVLCOPT:stop-time=1.500")
        assert path_of(uri) == path


def test_a_player_counts_from_the_first_packet(tmp_path: Path) -> None:
    """A transport stream may begin at 1.4 s on its own clock, and at 0 in a player."""
    path = make_video(tmp_path / "a.ts", seconds=4, picture_start=1.4, sound_start=1.4)
    lines = render_hits([hit_of(path, 2.4, 2.4)], format="m3u").documents[0].text.splitlines()
    start, stop = (float(line.partition("=")[2]) for line in lines[2:4])
    assert start == pytest.approx(1.0, abs=0.1)
    assert stop == pytest.approx(start + 0.1)  # a moment without length is played at least


@pytest.mark.parametrize("name", ["m3u", "edl", "otio"])
def test_what_cannot_be_read_is_left_out_and_said_so(tmp_path: Path, name: Any) -> None:
    good = make_video(tmp_path / "good.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 100, encoding="utf-8")
    hits = [hit_of(tmp_path / "gone.mp4"), hit_of(good), hit_of(text)]
    done = export_hits(hits, format=name, out=tmp_path / f"found.{name}")
    assert done.hits == 1
    assert [Path(skipped.path).name for skipped in done.skipped] == ["gone.mp4", "text.mp4"]
    assert all(skipped.reason and str(tmp_path) not in skipped.reason for skipped in done.skipped)
    assert b"good.mp4" in (tmp_path / f"found.{name}").read_bytes()


@pytest.mark.parametrize("name", ["m3u", "edl", "otio"])
def test_a_copy_stands_in_for_a_file_that_is_not_there(tmp_path: Path, name: Any) -> None:
    """As where a disk is not mounted, of which the index keeps what it knows."""
    copy = make_video(tmp_path / "copy.mp4")
    hit = hit_of(tmp_path / "gone.mp4", copies=(str(tmp_path / "gone too.mp4"), str(copy)))
    rendered = render_hits([hit], format=name)
    assert rendered.skipped == ()
    assert "copy.mp4" in rendered.documents[0].text
    assert "gone" not in rendered.documents[0].text


@pytest.mark.parametrize("name", FORMATS)
def test_no_hits(tmp_path: Path, name: Any) -> None:
    done = export_hits([], format=name, out=tmp_path / "new folder" / f"found.{name}")
    assert (done.hits, len(done.files)) == (0, 1)
    assert Path(done.files[0]).exists()


def test_sound_has_its_place_in_every_format(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "a.wav", sample_rate=44100)
    for name in FORMATS:
        rendered = render_hits([hit_of(path)], format=name)
        assert not rendered.skipped
        assert "a.wav" in rendered.documents[0].text


def test_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:  # as for root, whom permissions do not stop
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(UserError, match=r"cannot write .*found.csv: Read-only file system; name a place"):
        export_hits([hit_of("/a.mp4")], format="csv", out=tmp_path / "found.csv")


def test_an_unfinished_file_is_never_seen(tmp_path: Path) -> None:
    out = tmp_path / "found.csv"
    out.mkdir()
    with pytest.raises(UserError, match="cannot write"):
        export_hits([hit_of("/a.mp4")], format="csv", out=out)
    assert [path.name for path in tmp_path.iterdir()] == ["found.csv"]


def test_an_unknown_format() -> None:
    with pytest.raises(UserError, match="'aaf' is no export format; choose one of tsv, json, csv, m3u, edl, otio"):
        render_hits([], format="aaf")  # type: ignore[arg-type]


def test_bytes_of_names_are_kept() -> None:
    name = os.fsdecode(b"caf\xe9") if sys.platform == "linux" else "caf\udce9"
    assert to_bytes(name) == b"caf\xe9"
    assert asdict(hit_of(name))["path"] == name


@pytest.mark.parametrize("name", [".", "/", ""])
def test_a_folder_is_no_file(name: str) -> None:
    with pytest.raises(UserError, match="name a file"):
        export_hits([], format="csv", out=name)
