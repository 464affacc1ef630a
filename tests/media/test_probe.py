"""If these fail, a folder's files are overlooked, looked at twice, or described wrongly."""

import os
from pathlib import Path

import pytest

from locked_folders import lock_folders
from lookhear.errors import MediaError
from lookhear.media.info import is_loss
from lookhear.media.probe import MEDIA_SUFFIXES, find_media, probe
from synthetic import make_cover_art, make_long, make_messy_folder, make_sound, make_video


def _names(folder: Path) -> list[str]:
    return [found.relative for found in find_media(folder)]


def test_probe_tells_size_rate_length_and_codecs(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "a.mp4", seconds=2.0, frames_per_second=20, channels=2))
    assert (info.video.codec, info.video.width, info.video.height, info.video.num_frames) == ("h264", 104, 48, 40)
    assert info.video.frames_per_second == pytest.approx(20)
    assert (info.audio.codec, info.audio.sample_rate, info.audio.channels) == ("aac", 16000, 2)
    assert (info.start_seconds, info.end_seconds) == (0.0, pytest.approx(2.0, abs=0.07))
    assert info.problems == ()


def test_probe_gives_the_size_after_rotation(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "a.mp4", rotation_degrees=90, sound=False))
    assert (info.video.width, info.video.height, info.video.rotation_degrees) == (48, 104, 90)
    assert info.audio is None


def test_cover_art_is_no_picture_track(tmp_path: Path) -> None:
    info = probe(make_cover_art(tmp_path / "a.m4a"))
    assert info.video is None
    assert info.problems == ("its only picture is cover art",)
    assert not is_loss(info.problems[0])
    assert is_loss("a packet of its cover art is damaged")


def test_a_late_track_starts_late(tmp_path: Path) -> None:
    info = probe(make_video(tmp_path / "a.mp4", sound_start=0.5))
    assert info.video.start_seconds == 0
    # the encoder's priming (1024 samples) comes before
    assert info.audio.start_seconds == pytest.approx(0.5 - 0.064, abs=0.001)


def test_the_ends_of_a_long_file_tell_its_span(tmp_path: Path) -> None:
    info = probe(make_long(tmp_path / "a.mp4", hours=0.5))
    assert info.video.num_frames == 1800
    assert info.video.end_seconds == pytest.approx(1800)
    assert info.audio.end_seconds == pytest.approx(1800, abs=0.1)


def test_the_walk_finds_everything_that_is_named_like_media(tmp_path: Path) -> None:
    folder = make_messy_folder(tmp_path / "messy")
    found = list(find_media(folder))
    names = [item.relative for item in found]
    expected = {
        "good.mp4",
        "soundless.mp4",
        "pictureless.wav",
        "short.mp4",
        "Ünïcode/naïve 映画\nsecond line.mp4",
        "front.mp4",
        "truncated.mp4",
        "flipped.mp4",
        "empty.mp4",
        "text.mp4",
        "cover.m4a",
        "folder.mp4",
        "loop.mp4",
    }
    assert set(names) == expected
    assert names == sorted(names)
    assert {item.relative: item.size_bytes for item in found}["good.mp4"] == (folder / "good.mp4").stat().st_size


def test_links_are_followed_inside_the_folder_only_and_nothing_is_found_twice(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "a.mp4", inside / "sub" / "b.mp4", inside / "blob", outside / "c.mp4"):
        path.write_bytes(b"x")
    try:
        (inside / "linked-folder").symlink_to(inside / "sub")
        (inside / "up").symlink_to(inside)
        (inside / "out").symlink_to(outside)
        (inside / "c.mp4").symlink_to(outside / "c.mp4")
        (inside / "again.mp4").symlink_to(inside / "a.mp4")
        (inside / "annexed.mp4").symlink_to(inside / "blob")
        (inside / "broken.mp4").symlink_to(inside / "missing")
    except OSError:
        pytest.skip("no links on this system")
    assert _names(inside) == ["a.mp4", "annexed.mp4", "broken.mp4", "c.mp4", "sub/b.mp4"]
    problems = {found.relative: found.problem for found in find_media(inside) if found.problem}
    assert problems == {"c.mp4": "it is a link out of the folder"}


def test_a_folder_that_cannot_be_listed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.mp4", "locked/b.mp4", "named.mp4/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    lock_folders(monkeypatch, tmp_path / "locked", tmp_path / "named.mp4")
    found = list(find_media(tmp_path))
    assert [(item.relative, item.is_unlisted) for item in found] == [
        ("a.mp4", False),
        ("locked", True),
        ("named.mp4", True),
    ]
    assert all("no permission to list" in item.problem for item in found if item.is_unlisted)
    lock_folders(monkeypatch, tmp_path)
    with pytest.raises(MediaError, match="cannot be listed"):
        list(find_media(tmp_path))


def test_the_folder_itself_may_be_a_link_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "A.MP4").write_bytes(b"x")
    with pytest.raises(MediaError, match="cannot be listed"):
        list(find_media(tmp_path / "nowhere"))
    try:
        (tmp_path / "link").symlink_to(tmp_path / "real")
    except OSError:
        pytest.skip("no links on this system")
    assert _names(tmp_path / "link") == ["A.MP4"]


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_is_found_and_read(tmp_path: Path) -> None:
    source = make_sound(tmp_path / "a.wav", seconds=0.5)
    try:
        source.rename(os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.wav"))
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    (found,) = find_media(tmp_path)
    assert probe(found.path).audio.sample_rate == 16000


def test_suffixes_are_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_SUFFIXES)
