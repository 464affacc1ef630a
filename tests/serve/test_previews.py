"""If these fail, a file that the browser cannot play is shown at another moment than the one that matched."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from lookhear.media.decode import read_clip
from lookhear.media.probe import probe
from lookhear.search.crawl import index
from lookhear.serve import previews as previews_module
from lookhear.serve.catalogue import UnknownFileError
from lookhear.serve.previews import PreviewJob, Previews, make_preview, plays
from lookhear.serve.work import UnreadableError
from synthetic import beep_onsets, make_sound, make_video, read_numbers
from tiny_embedder import save_tiny
from web_library import Made, Running, running


def preview_of(path: Path, out: Path, start: float, seconds: float) -> Path:
    made = make_preview(PreviewJob(path=str(path), start_seconds=start, seconds=seconds, out=str(out)))
    assert made == out.stat().st_size
    return out


@pytest.mark.parametrize("name", ["a.mkv", "b.avi", "c.ts", "d.mov"])
def test_frames_and_sound_are_those_of_the_moment(tmp_path: Path, name: str) -> None:
    codec = {".avi": "mpeg4", ".mov": "mpeg4"}.get(Path(name).suffix, "libx264")
    source = make_video(
        tmp_path / name, seconds=5, codec=codec, size=(96, 208), beep_times=(0.5, 1.5, 2.5, 3.5, 4.5), sound_rate=48000
    )
    begin = probe(source).start_seconds  # of a transport stream it is not 0
    made = preview_of(source, tmp_path / "preview.mp4", begin + 2.0, 2.0)
    info = probe(made)
    assert (info.video and info.video.codec, info.audio and info.audio.codec) == ("h264", "aac")
    assert plays(info) == "directly"
    assert info.end_seconds == pytest.approx(2.0, abs=0.1)
    clip = read_clip(made, frame_seconds=[0.02, 1.02])
    truth = read_clip(source, start_seconds=begin, frame_seconds=[begin + 2.02, begin + 3.02])
    assert clip.frames is not None
    assert truth.frames is not None
    shown, wanted = (read_numbers(each.frames) for each in (clip, truth))
    assert np.abs(np.array(shown) - np.array(wanted)).max() <= 1
    assert clip.waveform is not None
    assert beep_onsets(clip.waveform, 16000) == pytest.approx([0.5, 1.5], abs=0.03)


def test_odd_sizes_sound_alone_and_ends(tmp_path: Path) -> None:
    odd = make_video(tmp_path / "odd.avi", seconds=1.0, codec="rawvideo", pixel_format="rgb24", size=(35, 131))
    video = probe(preview_of(odd, tmp_path / "odd.mp4", 0.0, 9.0)).video
    assert video is not None
    assert (video.height, video.width) == (34, 130)
    sound = make_sound(tmp_path / "a.wav", seconds=3, sample_rate=8000, beep_times=(2.5,))
    info = probe(preview_of(sound, tmp_path / "sound.mp4", 2.0, 5.0))
    assert info.video is None
    assert info.end_seconds == pytest.approx(1.0, abs=0.1)
    heard = read_clip(tmp_path / "sound.mp4").waveform
    assert heard is not None
    assert beep_onsets(heard) == pytest.approx([0.5], abs=0.03)
    silent = make_video(tmp_path / "silent.mkv", seconds=2, sound=False)
    assert probe(preview_of(silent, tmp_path / "s.mp4", 1.0, 1.0)).audio is None
    for start in (3.0, 99.0):
        beyond = make_preview(PreviewJob(path=str(sound), start_seconds=start, seconds=2, out=str(tmp_path / "no.mp4")))
        assert isinstance(beyond, UnreadableError)
        assert "has nothing at" in str(beyond)
        assert str(tmp_path) not in str(beyond)
    assert not (tmp_path / "no.mp4").exists()


def test_a_picture_that_begins_late(tmp_path: Path) -> None:
    late = make_video(tmp_path / "late.mkv", seconds=2, picture_start=1.0)
    made = preview_of(late, tmp_path / "late.mp4", 0.0, 2.5)
    clip = read_clip(made, frame_seconds=[0.1, 1.5])
    assert clip.frames is not None
    first, then = read_numbers(clip.frames)
    assert first == 0  # stands until the picture begins
    assert abs(then - 12) <= 1


def test_what_browsers_play(tmp_path: Path) -> None:
    for name, options, answer in (
        ("a.mp4", {}, "directly"),
        ("a.mov", {}, "directly"),
        ("a.mkv", {}, "as preview"),
        ("b.mov", {"codec": "mpeg4"}, "as preview"),
        ("c.mov", {"sound_codec": "pcm_s16le"}, "as preview"),
        ("d.mp4", {"sound_codec": "ac3", "sound_rate": 48000}, "as preview"),
        ("e.webm", {"codec": "libvpx", "sound_codec": "libopus", "sound_rate": 48000}, "directly"),
    ):
        assert plays(probe(make_video(tmp_path / name, seconds=0.4, **options))) == answer, name
    for name, codec, answer in (
        ("a.wav", "pcm_s16le", "directly"),
        ("a.mp3", "libmp3lame", "directly"),
        ("a.flac", "flac", "directly"),
        ("a.ogg", "libopus", "directly"),
        ("a.m4a", "aac", "directly"),
        ("a.aiff", "pcm_s16be", "as preview"),
    ):
        rate = 48000 if codec in ("libopus", "libmp3lame") else 16000
        assert plays(probe(make_sound(tmp_path / name, codec=codec, sample_rate=rate))) == answer, name


def test_asked_over_the_web(made: Made, web: Running) -> None:
    url = f"/api/files/{web.file_id(made.clip(0))}/preview"
    answer = web.client.get(url, params={"start": 1, "seconds": 2})
    assert answer.headers["content-type"] == "video/mp4"
    part = web.client.get(url, params={"start": 1, "seconds": 2}, headers={"range": "bytes=4-7"})
    assert part.status_code == 206
    assert part.content == answer.content[4:8] == b"ftyp"
    beyond = web.client.get(url, params={"start": 50})
    assert beyond.status_code == 422
    assert "has nothing at 50 s" in beyond.json()["error"]
    for wrong in ({}, {"start": "nan"}, {"start": 1, "seconds": 0}, {"start": 1, "seconds": 1e9}, {"start": "1e30"}):
        assert web.client.get(url, params=wrong).status_code == 422


def test_made_once_and_kept_up_to_a_limit(tmp_path: Path) -> None:
    media = (tmp_path / "media").resolve()
    media.mkdir()
    clip = make_video(media / "a.mkv", seconds=6)
    index([media], model=save_tiny(tmp_path / "m.safetensors"), index_path=tmp_path / "index", workers=0)
    with running(tmp_path / "index", preview_bytes=1) as web:
        previews, folder = Previews(web.workshop), web.workshop.folder / "previews"
        job = PreviewJob(path=str(clip), start_seconds=1.0, seconds=1.0)

        async def several() -> list[Path]:
            return list(await asyncio.gather(*(previews.find(job) for _ in range(3))))

        found = asyncio.run(several())
        assert len(set(found)) == 1
        assert len(list(folder.iterdir())) == 1
        made_at = found[0].stat().st_mtime_ns
        assert asyncio.run(previews.find(job)).stat().st_mtime_ns == made_at
        other = asyncio.run(previews.find(PreviewJob(path=str(clip), start_seconds=3.0, seconds=1.0)))
        assert list(folder.iterdir()) == [other]
        assert asyncio.run(previews.find(job)).exists()  # made anew


def test_a_slow_disk_does_not_stop_the_loop(made: Made, web: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def gone(path: str) -> None:
        asked.append(threading.get_ident())
        raise UnknownFileError(path)

    monkeypatch.setattr(previews_module, "status_of", gone)
    with pytest.raises(UnknownFileError):
        asyncio.run(Previews(web.workshop).find(PreviewJob(path=str(made.clip(0)), start_seconds=0.0, seconds=1.0)))
    assert asked
    assert asked[0] != threading.get_ident()


def test_nothing_stays_of_one_that_fails_and_all_are_counted(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(made.index) as web:
        previews, folder = Previews(web.workshop), web.workshop.folder / "previews"
        job = PreviewJob(path=str(made.clip(0)), start_seconds=1.0, seconds=1.0)

        def stopped(one: PreviewJob) -> UnreadableError:
            Path(one.out).write_bytes(b"half of it")
            return UnreadableError("it took longer than 1 s and was stopped")

        with monkeypatch.context() as patched:
            patched.setattr(previews_module, "make_preview", stopped)
            with pytest.raises(UnreadableError, match="was stopped"):
                asyncio.run(previews.find(job))
        assert list(folder.iterdir()) == []

        async def given_up() -> None:
            asking = asyncio.ensure_future(previews.find(job))
            while not previews._under_way:
                await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.gather(*previews._under_way.values())

        asyncio.run(given_up())
        assert [path.name for path in folder.iterdir()] == list(previews._sizes)
        assert len(previews._sizes) == 1
