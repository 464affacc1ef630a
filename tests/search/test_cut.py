"""Hits cut into a folder: every clip is listed, and what it is is true."""

import csv
from pathlib import Path

import pytest

from editing import hit_of, odd_names
from lookhear.errors import UserError
from lookhear.media.probe import probe
from lookhear.search.cut import cut_hits
from synthetic import make_sound, make_video


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "clips.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_clips_and_their_list(tmp_path: Path) -> None:
    video = make_video(tmp_path / "dog.mp4", seconds=4, keyframe_every=10)
    sound = make_sound(tmp_path / "dog.wav", seconds=4)
    hits = [hit_of(video, 1.1, 2.0), hit_of(tmp_path / "gone.mp4"), hit_of(sound, 2.5, 3.0), hit_of(video, 3.0, 3.0)]
    done = cut_hits(hits, tmp_path / "clips")
    names = ["001_dog_1.10s.mp4", "003_dog_2.50s.wav", "004_dog_3.00s.mp4"]
    assert [Path(clip.clip).name for clip in done.clips] == names
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == [*names, "clips.csv"]
    assert [skipped.path for skipped in done.skipped] == [str(tmp_path / "gone.mp4")]
    rows = rows_of(tmp_path / "clips")
    assert [row["clip"] for row in rows] == names
    assert rows[0]["source"] == str(video)
    assert (rows[0]["start_seconds"], rows[0]["made"]) == ("1.100", "copied")
    for clip, row in zip(done.clips, rows, strict=True):
        assert clip.start_seconds <= clip.moment_start_seconds
        assert float(row["clip_start_seconds"]) == pytest.approx(clip.start_seconds, abs=1e-3)
        info = probe(clip.clip)
        assert info.end_seconds - info.start_seconds == pytest.approx(clip.end_seconds - clip.start_seconds, abs=0.1)


def test_a_clip_of_a_copy(tmp_path: Path) -> None:
    """As where a disk is not mounted, of which the index keeps what it knows."""
    copy = make_video(tmp_path / "copy.mp4")
    done = cut_hits([hit_of(tmp_path / "gone.mp4", copies=(str(copy),))], tmp_path / "clips")
    assert ([clip.path for clip in done.clips], done.skipped) == ([str(copy)], ())


def test_exact_clips_begin_where_the_moment_does(tmp_path: Path) -> None:
    video = make_video(tmp_path / "dog.mp4", seconds=4)
    done = cut_hits([hit_of(video, 1.1, 2.0)], tmp_path / "clips", exact=True)
    assert (done.clips[0].start_seconds, done.clips[0].is_copy) == (1.1, False)
    assert rows_of(tmp_path / "clips")[0]["made"] == "encoded"


def test_odd_names_become_names_that_every_system_takes(tmp_path: Path) -> None:
    paths = [*odd_names(tmp_path), make_video(tmp_path / ("long" * 40 + ".mp4"))]
    done = cut_hits([hit_of(path) for path in paths], tmp_path / "clips")
    assert not done.skipped
    assert [row["source"] for row in rows_of(tmp_path / "clips")] == [str(path) for path in paths]
    for clip in done.clips:
        name = Path(clip.clip).name
        assert name.isprintable()
        assert not set(name) & set('/\\:*?"<>| ')
        assert len(name.encode()) < 200


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot make the folder"):
        cut_hits([], tmp_path / "file" / "clips")


def test_nothing_is_replaced_and_no_library_gets_clips(tmp_path: Path) -> None:
    """Neither the work of an earlier search, nor media, nor a folder whose next crawl would index the clips."""
    library = tmp_path / "media"
    library.mkdir()
    hit = hit_of(make_video(library / "x.mp4"))
    cut_hits([hit], tmp_path / "clips", libraries=[library])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for folder, sentence in (
        (tmp_path / "clips", "is not empty"),
        (library, "which is indexed"),
        (library / "new" / "clips", "which is indexed"),
        (tmp_path / "clips" / ".." / "media" / "new", "which is indexed"),
    ):
        with pytest.raises(UserError, match=sentence):
            cut_hits([hit], folder, libraries=[library.resolve()])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before
    (tmp_path / "media elsewhere").mkdir()  # a name that begins alike is another folder
    assert cut_hits([hit], tmp_path / "media elsewhere", libraries=[library.resolve()]).clips
