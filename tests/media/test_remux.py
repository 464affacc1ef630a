"""Clips cut out of files: what is copied must be the packets of the source, what is encoded must begin exactly."""

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lookhear.errors import MediaError
from lookhear.media import remux
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.media.probe import probe
from lookhear.media.remux import Cut, cut_clip
from synthetic import beep_onsets, make_cut, make_sound, make_video, read_number


def numbers(path: Path) -> list[int]:
    """The numbers in all frames of a file, in the order in which they are shown."""
    with av.open(str(path)) as container:
        return [read_number(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) for frame in container.decode(video=0)]


def onsets(path: Path) -> np.ndarray:
    """When beeps start, on the file's own clock from the beginning of its picture."""
    info = probe(path)
    start = info.video.start_seconds if info.video else info.start_seconds
    clip = read_clip(path, start_seconds=start, end_seconds=info.end_seconds)
    assert clip.waveform is not None
    return beep_onsets(clip.waveform)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.mp4"
    return make_video(
        path,
        seconds=8,
        keyframe_every=50,
        picture_options={"preset": "veryfast", "crf": "18", "x264-params": "scenecut=0"},
        beep_times=(0.5, 2.5, 4.5, 5.1, 7.0),
        channels=2,
    )


def convert(source: Path, path: Path) -> Path:
    with av.open(str(source)) as reader, av.open(str(path), "w") as writer:
        copies = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        for packet in reader.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                writer.mux(packet)
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".ts", ".m4v"])
def test_a_copy_begins_at_the_keyframe_and_says_so(source: Path, tmp_path: Path, suffix: str) -> None:
    path = source if suffix == ".mp4" else convert(source, tmp_path / f"source{suffix}")
    begin = probe(path).video.start_seconds  # type: ignore[union-attr]
    cut = cut_clip(path, tmp_path / "clip", start_seconds=begin + 5.0, end_seconds=begin + 6.0)
    assert cut.is_copy
    assert cut.path == tmp_path / f"clip{suffix}"
    assert cut.start_seconds == pytest.approx(begin + 4.0, abs=2e-3)
    shown = numbers(cut.path)
    # Frames 100..149 are wanted; B-frames may bring a few later ones that others need.
    assert shown[:50] == list(range(100, 150))
    assert len(shown) <= 53
    assert cut.end_seconds == pytest.approx(begin + (shown[-1] + 1) / 25, abs=2e-3)
    # Sound and picture still belong together.
    np.testing.assert_allclose(onsets(cut.path)[:2], [0.5, 1.1], atol=0.005)
    assert list(tmp_path.glob(".*")) == []


def test_copied_packets_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    cut = cut_clip(source, tmp_path / "clip", start_seconds=4.0, end_seconds=5.0)
    with av.open(str(source)) as before, av.open(str(cut.path)) as after:
        wanted = [bytes(packet) for packet in before.demux(video=0) if packet.size]
        copied = [bytes(packet) for packet in after.demux(video=0) if packet.size]
    assert copied == wanted[100 : 100 + len(copied)]


@pytest.mark.parametrize("start", [0.0, 0.96, 1.999, 2.0, 3.3, 7.7])
def test_the_copy_holds_the_whole_moment(source: Path, tmp_path: Path, start: float) -> None:
    cut = cut_clip(source, tmp_path / "clip", start_seconds=start, end_seconds=start + 0.3)
    assert cut.start_seconds <= start + 1e-3
    assert cut.start_seconds == pytest.approx(start // 2 * 2, abs=1e-3)
    shown = numbers(cut.path)
    assert shown[0] == round(cut.start_seconds * 25)
    assert shown[-1] >= min(199, int((start + 0.3 - 1e-6) * 25))


@pytest.mark.parametrize("start", [0.0, 1.0, 4.9, 5.01])
def test_exact_begins_with_the_frame_that_is_shown_then(source: Path, tmp_path: Path, start: float) -> None:
    cut = cut_clip(source, tmp_path / "clip", start_seconds=start, end_seconds=start + 1.0, exact=True)
    assert cut == Cut(path=tmp_path / "clip.mp4", start_seconds=start, end_seconds=start + 1.0, is_copy=False)
    shown = numbers(cut.path)
    assert shown[0] == int(start * 25 + 1e-6)
    assert shown[-1] == int((start + 1.0) * 25 - 1e-6)
    assert shown == list(range(shown[0], shown[-1] + 1))
    wanted = [time - start for time in (0.5, 2.5, 4.5, 5.1, 7.0) if start <= time < start + 0.95]
    np.testing.assert_allclose(onsets(cut.path), wanted, atol=0.004)
    audio = probe(cut.path).audio
    assert audio is not None
    assert (audio.channels, audio.sample_rate) == (2, 16000)


def test_exact_keeps_frame_times_rotation_and_odd_sizes(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.2, 0.24, 0.5, 0.9, 1.0, 1.04, 1.4, 1.9]
    path = make_video(
        tmp_path / "vfr.mp4", frame_times=times, size=(49, 105), pixel_format="yuv444p", rotation_degrees=90
    )
    cut = cut_clip(path, tmp_path / "clip", start_seconds=0.3, end_seconds=1.2, exact=True)
    with av.open(str(cut.path)) as container:
        frames = list(container.decode(video=0))
    seconds = [float(frame.pts * frame.time_base) for frame in frames]
    np.testing.assert_allclose(seconds, [0.0, 0.2, 0.6, 0.7, 0.74], atol=1e-4)
    assert [read_number(frame.to_ndarray(format="rgb24").transpose(2, 0, 1)) for frame in frames] == [3, 4, 5, 6, 7]
    assert (frames[0].width, frames[0].height, frames[0].rotation) == (105, 49, -90)
    copied = cut_clip(path, tmp_path / "copied", start_seconds=0.3, end_seconds=1.2)
    assert probe(copied.path).video.rotation_degrees == 90  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 44100),
        ("a.wav", "pcm_s24le", 48000),
        ("a.m4a", "aac", 22050),
        ("a.mp3", "libmp3lame", 44100),
        ("a.ogg", "libopus", 48000),
        ("a.flac", "flac", 96000),
        ("a.mka", "flac", 16000),
        ("a.aiff", "pcm_s16be", 11025),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_sound_alone(tmp_path: Path, name: str, codec: str, rate: int, exact: bool) -> None:
    path = make_sound(tmp_path / name, seconds=6, sample_rate=rate, codec=codec, beep_times=(0.5, 3.2, 5.0))
    cut = cut_clip(path, tmp_path / "clip", start_seconds=3.0, end_seconds=4.0, exact=exact)
    assert cut.is_copy is not exact
    assert cut.start_seconds <= 3.0
    assert cut.start_seconds == (3.0 if exact else pytest.approx(3.0, abs=0.3))
    suffix = ".wav" if exact else ".mka" if name == "a.aiff" else path.suffix
    assert cut.path == tmp_path / f"clip{suffix}"
    info = probe(cut.path)
    assert info.audio is not None
    assert info.audio.sample_rate == rate
    if exact:
        wanted = "pcm_s16le" if codec in ("pcm_s16le", "pcm_s16be") or name == "a.mka" else "pcm_s24le"
        assert info.audio.codec == wanted or codec == "flac"
    found = onsets(cut.path) + cut.start_seconds - probe(path).start_seconds  # an mp3 begins a little after 0
    assert np.abs(found - 3.2).min() < (0.004 if exact else 0.06)
    assert info.end_seconds - info.start_seconds == pytest.approx(cut.end_seconds - cut.start_seconds, abs=0.1)


def test_exact_sound_of_any_length_takes_no_memory(tmp_path: Path) -> None:
    rate, seconds = 16000, 100
    tone = 0.5 * np.sin(2 * np.pi * 440.0 * np.arange(rate * seconds) / rate)
    write_sound(tmp_path / "long.wav", tone, rate)
    tracemalloc.start()
    cut = cut_clip(tmp_path / "long.wav", tmp_path / "clip", start_seconds=1.0, end_seconds=99.0, exact=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * rate * seconds / 4  # a quarter of its samples
    with av.open(str(cut.path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    np.testing.assert_allclose(samples / 32768, tone[rate : 99 * rate], atol=1e-4)


def test_exact_reads_sound_as_far_as_the_picture(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {True: 0.0, False: 0.0}
    ahead: list[float] = []

    def decoded(info: Any, seconds: float, *, picture: bool, original: Any = remux._decoded) -> Iterator[Any]:
        for time, frame in original(info, seconds, picture=picture):
            reached[picture] = time
            ahead.append(reached[False] - max(seconds, reached[True]))
            yield time, frame

    monkeypatch.setattr(remux, "_decoded", decoded)
    cut_clip(source, tmp_path / "clip", start_seconds=1.0, end_seconds=7.0, exact=True)
    assert reached[False] > 6.9
    assert max(ahead) < 0.5


def test_exact_sound_has_no_holes_but_those_of_the_file(tmp_path: Path) -> None:
    """Times in Matroska are whole milliseconds: frames seem to lie some samples apart or over each other."""
    rate, gap = 44100, (2.0, 3.2)
    clock = np.arange(5 * rate) / rate
    path = tmp_path / "tone.mkv"
    with av.open(str(path), "w") as writer:
        stream = writer.add_stream("pcm_s16le", rate=rate, layout="mono")
        for first in range(0, len(clock), 1000):
            if gap[0] * rate <= first < gap[1] * rate:
                continue
            block = (16000 * np.sin(2 * np.pi * 441.0 * clock[first : first + 1000])).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, first
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode(None))
    cut = cut_clip(path, tmp_path / "clip", start_seconds=0.5, end_seconds=4.5, exact=True)
    with av.open(str(cut.path)) as container:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) / 32768
    assert len(samples) == 4 * rate
    at = np.arange(4 * rate) / rate + 0.5
    assert not samples[(at > gap[0] + 0.05) & (at < gap[1])].any()
    step = 2 * np.pi * 441.0 / rate * 16000 / 32768  # of the tone; a hole of ten samples would be a greater one
    for whole in (at < gap[0], at > gap[1] + 0.05):
        assert np.abs(samples[whole]).max() == pytest.approx(16000 / 32768, rel=0.01)
        assert np.abs(np.diff(samples[whole])).max() < 1.5 * step


def test_what_only_an_edit_list_makes_visible_is_encoded(source: Path, tmp_path: Path) -> None:
    """A copy from the keyframe would show pictures that the file itself hides."""
    path = make_cut(source, tmp_path / "cut.mp4", start_seconds=3.0)  # begins at frame 75, keyframe 50 is hidden
    cut = cut_clip(path, tmp_path / "clip", start_seconds=0.4, end_seconds=0.9)
    assert not cut.is_copy
    assert numbers(cut.path)[0] == 85


@pytest.mark.parametrize(("b_frames", "is_copy"), [("0", True), ("2", False)])
def test_avi_is_copied_only_where_its_order_is_that_of_its_frames(tmp_path: Path, b_frames: str, is_copy: bool) -> None:
    """AVI does not say when frames are shown; what the reader makes of it would put them elsewhere."""
    options = {"bf": b_frames, "qscale": "2", "sc_threshold": "1000000000"}
    path = make_video(
        tmp_path / "old.avi",
        seconds=6,
        codec="mpeg4",
        keyframe_every=24,
        picture_options=options,
        sound_codec="pcm_s16le",
        beep_times=(3.5,),
    )
    cut = cut_clip(path, tmp_path / "clip", start_seconds=3.2, end_seconds=4.2)
    assert cut.is_copy is is_copy
    shown = numbers(cut.path)
    assert shown[:25] == list(range(shown[0], shown[0] + 25))
    assert shown[0] == pytest.approx(cut.start_seconds * 25, abs=1.01)
    np.testing.assert_allclose(onsets(cut.path), [3.5 - cut.start_seconds], atol=0.045)


def test_a_codec_that_the_container_cannot_hold_goes_to_matroska(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "liar.webm"
    shutil.copy(source, path)
    cut = cut_clip(path, tmp_path / "clip", start_seconds=2.0, end_seconds=3.0)
    assert (cut.path.name, cut.is_copy) == ("clip.mkv", True)
    assert numbers(cut.path)[0] == 50


def test_no_length_no_room_no_file(source: Path, tmp_path: Path) -> None:
    cut = cut_clip(source, tmp_path / "point", start_seconds=4.0, end_seconds=4.0)
    assert numbers(cut.path)[:2] == [100, 101]
    with pytest.raises(MediaError, match="nothing between 9 and 10 s"):
        cut_clip(source, tmp_path / "beyond", start_seconds=9.0, end_seconds=10.0)
    with pytest.raises(MediaError):
        cut_clip(tmp_path / "gone.mp4", tmp_path / "clip", start_seconds=0.0, end_seconds=1.0)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MediaError, match="cannot write"):
        cut_clip(source, tmp_path / "file" / "clip", start_seconds=0.0, end_seconds=1.0)
    before = source.read_bytes()
    for exact in (False, True):
        with pytest.raises(MediaError, match="which is not replaced"):
            cut_clip(source, source.with_suffix(""), start_seconds=0.0, end_seconds=1.0, exact=exact)
    assert source.read_bytes() == before
    assert list(tmp_path.glob(".*")) == []


def test_names(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "http: a\nb.mp4"
    shutil.copy(source, path)
    cut = cut_clip(path, tmp_path / "file: x\ny", start_seconds=2.0, end_seconds=3.0)
    assert numbers(cut.path)[0] == 50
