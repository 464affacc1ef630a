"""If these fail, damage is shown as if it were picture or sound, or stops whoever reads on."""

import os
import pickle
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import synthetic
from lookhear.errors import MediaError
from lookhear.media.decode import _Stream, open_media, read_clip
from lookhear.media.picture import IndexedPictureTrack
from synthetic import beep_onsets, make_sound, make_video, read_number, read_numbers


@pytest.mark.parametrize("keep", [0.35, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8])
def test_a_truncated_file_gives_its_beginning_and_says_so(tmp_path: Path, keep: float) -> None:
    whole = synthetic.front_index(make_video(tmp_path / "a.mp4", seconds=4.0), tmp_path / "front.mp4")
    path = synthetic.make_truncated(whole, tmp_path / "cut.mp4", keep=keep)
    with open_media(path) as media:
        info = media.info
    assert any("header declares" in problem for problem in info.problems)
    assert info.declared_seconds == pytest.approx(4.0, abs=0.1)
    assert 0.2 < info.end_seconds < 3.5
    clip = read_clip(path, start_seconds=0.0, end_seconds=4.0, frame_seconds=(np.arange(100) / 25).tolist())
    shown = read_numbers(clip.frames)
    assert 5 < len(shown) < 90
    assert shown == np.rint(clip.frame_seconds * 25).astype(int).tolist()
    # a frame shown twice would stand for one that is lost
    assert len(set(shown)) == len(shown)
    assert clip.silent_spans[-1][1] == 4.0


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("intact", [0.02, 0.3, 0.7])
def test_nothing_is_shown_that_hangs_on_a_damaged_keyframe(tmp_path: Path, codec: str, intact: float) -> None:
    options = {"preset": "veryfast", "crf": "18"} if codec == "libx264" else {"b": "900k"}
    options |= {"sc_threshold": "0" if codec == "libx264" else "1000000000", "bf": "2"}
    source = make_video(
        tmp_path / "a.mp4", seconds=3.0, keyframe_every=24, codec=codec, picture_options=options, sound=False
    )
    with av.open(str(source)) as container:
        keyframes = [packet.pts * packet.time_base for packet in container.demux(video=0) if packet.is_keyframe]
    first, last = round(keyframes[1] * 25), round(keyframes[2] * 25)
    path = synthetic.make_damaged_packets(
        source,
        tmp_path / "b.mp4",
        kind="video",
        from_seconds=first / 25 - 0.001,
        to_seconds=first / 25 + 0.001,
        intact=intact,
    )
    clip = read_clip(path, frame_seconds=(np.arange(75) / 25).tolist())
    shown = read_numbers(clip.frames)
    assert shown == np.rint(clip.frame_seconds * 25).astype(int).tolist()
    assert not set(shown) & set(range(first, last - 3))
    assert set(shown) >= {*range(first - 4), *range(last, 75)}
    assert any("damaged picture" in problem for problem in clip.problems)


def test_damaged_sound_is_a_hole_of_its_own_length(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", sound_rate=44100, beep_times=(0.3, 1.7))
    path = synthetic.make_damaged_packets(
        source, tmp_path / "b.mp4", kind="audio", from_seconds=0.99, to_seconds=1.01, intact=0.0
    )
    clip = read_clip(path, start_seconds=0.0, end_seconds=2.0)
    np.testing.assert_allclose(beep_onsets(clip.waveform), [0.3, 1.7], atol=0.003)
    assert any("damaged sound" in problem for problem in clip.problems)
    assert any(0.9 < start < end < 1.1 and end - start < 0.05 for start, end in clip.silent_spans)


def test_a_frame_that_went_by_before_it_was_announced_is_fetched_again(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", sound=False)
    with _Stream(path, 0) as source:
        track = IndexedPictureTrack(source, lambda frame: frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
        for time in (1.0, 0.2, 1.96, 0.0):
            track.announce([time])
            shown = track.frame_at(time)
            assert shown is not None
            assert read_number(shown.pixels) == round(time * 25)


@pytest.mark.parametrize("seed", range(6))
def test_bit_flips_never_raise_anything_but_a_reason(tmp_path: Path, seed: int) -> None:
    source = make_video(tmp_path / "a.mp4", seconds=1.0)
    for flips in (3, 60, 800):
        path = synthetic.make_flipped(source, tmp_path / "b.mp4", flips=flips, seed=seed)
        try:
            clip = read_clip(path, start_seconds=0.0, end_seconds=1.0, frame_seconds=(np.arange(25) / 25).tolist())
        except MediaError as error:
            assert str(path) in str(error)  # noqa: PT017
            continue
        assert clip.waveform is None or len(clip.waveform) == 16000
        assert clip.frames is None or all(earlier <= later for earlier, later in pairwise(clip.frame_seconds))


def test_a_packet_with_an_impossible_time_does_not_make_a_file_an_hour_long(tmp_path: Path) -> None:
    times = [*(np.arange(50) / 25).tolist(), 3600.0]
    path = make_video(tmp_path / "a.mkv", frame_times=times)
    with open_media(path) as media:
        assert media.info.end_seconds < 3
        assert media.info.problems == ("1 packet with impossible times",)
    assert read_numbers(read_clip(path, frames_per_second=5).frames) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]


def test_what_is_no_media_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    cases = {
        "is empty": synthetic.make_empty(tmp_path / "a.mp4"),
        "is not a media file": synthetic.make_renamed_text(tmp_path / "b.mp4"),
        "does not exist": tmp_path / "c.mp4",
        "is a folder": tmp_path,
    }
    playlist = tmp_path / "d.mp4"
    make_video(tmp_path / "real.ts", seconds=0.5)
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path / 'real.ts'}\n", encoding="utf-8")
    listing = tmp_path / "e.mp4"
    listing.write_text("ffconcat version 1.0\nfile real.ts\n", encoding="utf-8")
    for path in (playlist, listing):
        with pytest.raises(MediaError, match="is not a media file"):
            open_media(path)
    for reason, path in cases.items():
        with pytest.raises(MediaError, match=reason) as caught:
            open_media(path)
        copy = pickle.loads(pickle.dumps(caught.value))  # as it crosses from one process to another
        assert str(path) in str(copy)
        assert reason in copy.reason
        assert str(path) not in copy.reason


@pytest.mark.skipif(os.name == "nt", reason="no such links and permissions there")
def test_links_permissions_and_pipes_have_reasons(tmp_path: Path) -> None:
    loop, dangling, pipe, locked = (tmp_path / f"{name}.mp4" for name in ("loop", "dangling", "pipe", "locked"))
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "nowhere")
    os.mkfifo(pipe)
    reasons = [(loop, "leads to itself"), (dangling, "link to a file that does not"), (pipe, "not a regular")]
    if os.geteuid() != 0:
        locked.write_bytes(b"x")
        locked.chmod(0)
        reasons.append((locked, "no permission"))
    for path, reason in reasons:
        with pytest.raises(MediaError, match=reason):
            open_media(path)


def test_a_name_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name == "nt":
        pytest.skip("no colons in names there")
    monkeypatch.chdir(tmp_path)
    make_sound(tmp_path / "a.wav", seconds=0.5).rename(tmp_path / "concat:x y.wav")
    assert len(read_clip("concat:x y.wav").waveform) == 8000
