"""If these fail, clips hold frames or sound of other times, wrong colours, or something that was made up."""

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import synthetic
from lookhear.errors import MediaError
from lookhear.media.clip import ClipRequest
from lookhear.media.decode import open_media, read_clip, read_picture, resize_frames
from synthetic import beep_onsets, make_sound, make_video, read_number, read_numbers

REAL_MEDIA = Path(os.environ.get("LOOKHEAR_TEST_MEDIA", "")) / "media"
HAS_REAL_MEDIA = "LOOKHEAR_TEST_MEDIA" in os.environ and (REAL_MEDIA / "clips").is_dir()
needs_real_media = pytest.mark.skipif(not HAS_REAL_MEDIA, reason="LOOKHEAR_TEST_MEDIA is not set")


def _real_files() -> list[Path]:
    if not HAS_REAL_MEDIA:
        return []
    return sorted(p for name in ("clips", "formats") for p in (REAL_MEDIA / name).iterdir() if p.suffix != ".csv")


def _request(start: float, end: float, *frame_seconds: float, sound: bool = True) -> ClipRequest:
    return ClipRequest(start_seconds=start, end_seconds=end, frame_seconds=frame_seconds, sound=sound)


# --- the slow, obvious form: decode everything in order ---


def _all_frames(path: Path) -> list[tuple[float, np.ndarray]]:
    """Every frame of a file in the order of the plain decoder, with its time."""
    with av.open(str(path)) as container:
        is_avi = container.format.name == "avi"
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        tick = float(stream.time_base)
        frames = []
        for packet in container.demux(stream):
            for frame in packet.decode():
                time = frame.dts if is_avi and frame.dts is not None else frame.pts
                frames.append((time * tick, frame.to_ndarray(format="rgb24")))
        return frames


def _shown(frames: list, time: float) -> tuple[float, np.ndarray]:
    return max((frame for frame in frames if frame[0] <= time + 1e-6), key=lambda frame: frame[0])


# --- times of frames ---


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", {"preset": "veryfast", "crf": "18", "bf": "3"}),
        ("mp4", "libx264", {"preset": "veryfast", "crf": "18", "bf": "0"}),
        ("mkv", "libx264", {"preset": "veryfast", "crf": "18", "x264-params": "open-gop=1:b-pyramid=2:bframes=5"}),
        ("mp4", "libx265", {"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none:bframes=4"}),
        ("avi", "mpeg4", {"b": "900k", "bf": "2"}),
        ("mp4", "mpeg4", {"b": "900k", "bf": "2"}),
        ("webm", "libvpx", {"b": "600k", "deadline": "realtime", "cpu-used": "8"}),
        ("webm", "libvpx-vp9", {"b": "600k", "deadline": "realtime", "cpu-used": "8"}),
        ("mp4", "libsvtav1", {"preset": "12", "crf": "25"}),
        ("ts", "libx264", {"preset": "veryfast", "crf": "18"}),
    ],
)
def test_asked_frames_are_those_of_plain_decoding(tmp_path: Path, suffix: str, codec: str, options: dict) -> None:
    path = tmp_path / f"clip.{suffix}"
    size = (64, 104) if codec == "libsvtav1" else (48, 104)
    make_video(path, codec=codec, picture_options=options, keyframe_every=12, sound=False, seconds=3.0, size=size)
    reference = _all_frames(path)
    assert len(reference) == 75
    for times in (
        [reference[0][0] + 0.31 * index for index in range(9)],  # far apart
        [time for time, _ in reference],  # all
        [reference[40][0] + 0.02, reference[41][0] + 0.001, reference[74][0]],
    ):
        clip = read_clip(path, start_seconds=reference[0][0], end_seconds=reference[-1][0] + 0.04, frame_seconds=times)
        expected = [_shown(reference, time) for time in times]
        np.testing.assert_allclose(clip.frame_seconds, [time for time, _ in expected], atol=1e-6)
        for frame, (_, pixels) in zip(clip.frames, expected, strict=True):
            # plain conversion may take another matrix, but the content must be that very frame
            assert read_number(frame) == read_number(pixels.transpose(2, 0, 1))
            assert np.abs(frame.astype(int).mean() - pixels.mean()) < 4
        assert clip.problems == ()


def test_variable_rate_frames_last_until_the_next(tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.15, 0.5, 0.52, 1.2, 1.9]
    path = make_video(tmp_path / "vfr.mp4", frame_times=times)
    asked = [0.0, 0.05, 0.14, 0.3, 0.499, 0.51, 0.6, 1.19, 1.2, 1.5, 1.9]
    clip = read_clip(path, frame_seconds=asked)
    assert read_numbers(clip.frames) == [0, 0, 1, 2, 2, 3, 4, 4, 5, 5, 6]
    np.testing.assert_allclose(clip.frame_seconds, [times[number] for number in read_numbers(clip.frames)], atol=1e-4)


def test_times_the_track_does_not_cover_give_no_frame(tmp_path: Path) -> None:
    path = make_video(tmp_path / "late.mp4", seconds=1.0, picture_start=0.4, beep_times=(0.5,))
    clip = read_clip(path, start_seconds=0.0, end_seconds=2.0, frame_seconds=[0.0, 0.39, 0.4, 1.39, 1.41, 1.9])
    assert read_numbers(clip.frames) == [0, 24]
    nothing = read_clip(path, start_seconds=5.0, end_seconds=6.0, frame_seconds=[5.5], short_side=24)
    assert nothing.frames.shape == (0, 3, 24, 52)
    assert nothing.silent_spans == ((5.0, 6.0),)


def test_an_edit_list_hides_frames_but_not_what_they_carry(tmp_path: Path) -> None:
    source = make_video(tmp_path / "a.mp4", keyframe_every=100, picture_options={"preset": "veryfast", "crf": "18"})
    cut = synthetic.make_cut(source, tmp_path / "cut.mp4", start_seconds=0.6)
    with open_media(cut) as media:
        assert media.info.video.start_seconds == 0
        assert media.info.video.num_frames == 35
    clip = read_clip(cut, start_seconds=0.0, frames_per_second=5)
    assert read_numbers(clip.frames) == [15, 20, 25, 30, 35, 40, 45]
    np.testing.assert_allclose(beep_onsets(clip.waveform), [0.9], atol=0.003)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_come_turned_as_players_show_them(tmp_path: Path, degrees: int) -> None:
    upright = read_clip(make_video(tmp_path / "a.mp4", sound=False), frame_seconds=[0.2]).frames
    turned = read_clip(
        make_video(tmp_path / "b.mp4", sound=False, rotation_degrees=degrees), frame_seconds=[0.2]
    ).frames
    # rot90 turns counterclockwise
    np.testing.assert_array_equal(turned, np.rot90(upright, -degrees // 90, axes=(2, 3)))


def test_a_mirrored_display_matrix_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "mirror.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 104, 48, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        for _ in range(5):
            picture = av.VideoFrame.from_ndarray(synthetic.numbered_frame(5), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    frame = read_picture(path)
    assert read_number(frame[:, :, ::-1]) == 5
    assert read_number(frame) != 5


# --- sound ---


def test_sound_lies_where_its_timestamps_say(tmp_path: Path) -> None:
    path = make_video(tmp_path / "late.mp4", sound_start=0.4, beep_times=(0.9, 1.5))
    clip = read_clip(path, start_seconds=0.0, end_seconds=2.4)
    assert len(clip.waveform) == round(2.4 * 16000)
    np.testing.assert_allclose(beep_onsets(clip.waveform), [0.9, 1.5], atol=0.003)
    assert clip.silent_spans == ((0.0, pytest.approx(0.336, abs=1e-3)),)
    inner = read_clip(path, start_seconds=0.85, end_seconds=1.0)
    np.testing.assert_allclose(beep_onsets(inner.waveform), [0.05], atol=0.003)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_gap_stays_a_gap(tmp_path: Path, suffix: str) -> None:
    path = make_video(tmp_path / f"gap.{suffix}", sound_gap=(0.7, 1.2), beep_times=(0.5, 1.5))
    clip = read_clip(path, start_seconds=0.0, end_seconds=2.0)
    ((start, end),) = clip.silent_spans
    assert (start, end) == (pytest.approx(0.7, abs=0.07), pytest.approx(1.2, abs=0.07))
    assert not clip.waveform[round((start + 0.01) * 16000) : round((end - 0.01) * 16000)].any()
    np.testing.assert_allclose(beep_onsets(clip.waveform), [0.5, 1.5], atol=0.003)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_resampling_keeps_length_time_and_pitch(tmp_path: Path, rate: int) -> None:
    path = make_sound(tmp_path / "a.wav", seconds=3.0, sample_rate=rate, beep_times=(0.5, 2.9))
    waveform = read_clip(path).waveform
    assert abs(len(waveform) - 48000) <= 2
    np.testing.assert_allclose(beep_onsets(waveform), [0.5, 2.9], atol=0.002)
    ideal = synthetic.beeps(3.0, [0.5, 2.9])[0][: len(waveform)]
    inside = slice(8080, 8720)  # a beep without its edges: a shift of a sample would differ by 0.2
    assert np.abs(waveform[inside] - ideal[inside]).max() < 0.03


def test_clips_of_one_pass_continue_each_other(tmp_path: Path) -> None:
    path = make_sound(tmp_path / "a.wav", seconds=6.0, sample_rate=44100, beep_times=(0.5, 1.98, 3.0, 5.5))
    whole = read_clip(path).waveform
    with open_media(path) as media:
        parts = list(media.read(_request(start, start + 1.0) for start in range(6)))
    assert all(part.frames is None and part.silent_spans == () for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.waveform for part in parts]), whole[:96000])
    # a span read alone is resampled on the same grid
    alone = read_clip(path, start_seconds=5.30125, end_seconds=5.9).waveform
    np.testing.assert_allclose(alone, whole[84820:94400], atol=1e-3)


def test_mix_is_the_mean_and_first_is_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    left, right = synthetic.beeps(1.0, [0.2])[0], synthetic.beeps(1.0, [0.6])[0]
    from lookhear.media.encode import write_sound

    write_sound(path, np.stack([left, right], axis=1), 16000)
    np.testing.assert_allclose(read_clip(path).waveform, (left + right) / 2, atol=1e-4)
    np.testing.assert_allclose(read_clip(path, channel="first").waveform, left, atol=1e-4)


@pytest.mark.parametrize(("codec", "tolerance"), [("pcm_u8", 0.01), ("pcm_s24le", 1e-4), ("pcm_s32le", 1e-4)])
def test_sample_formats_have_the_same_scale(tmp_path: Path, codec: str, tolerance: float) -> None:
    path = tmp_path / "a.wav"
    waveform = synthetic.beeps(0.5, [0.1])
    format_name = {"pcm_u8": "u8", "pcm_s24le": "s32", "pcm_s32le": "s32"}[codec]
    scaled = waveform * 128 + 128 if format_name == "u8" else waveform * 2.0**31
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16000, layout="mono")
        dtype = np.uint8 if format_name == "u8" else np.int32
        frame = av.AudioFrame.from_ndarray(scaled.astype(dtype), format=format_name, layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    np.testing.assert_allclose(read_clip(path).waveform, waveform[0], atol=tolerance)


# --- one pass, many requests ---


def test_overlapping_requests_equal_single_ones(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=5.0, keyframe_every=30, beep_times=(0.7, 2.3, 4.1))
    requests = [_request(s, s + 1.5, *np.arange(s, s + 1.5, 0.3)) for s in np.arange(0, 3.5, 0.25).tolist()]
    with open_media(path) as media:
        together = list(media.read(iter(requests), short_side=24))
        assert len(together) == len(requests)
        for request, clip in zip(requests, together, strict=True):
            alone = next(media.read([request], short_side=24))
            np.testing.assert_array_equal(clip.frames, alone.frames)
            np.testing.assert_array_equal(clip.frame_seconds, alone.frame_seconds)
            np.testing.assert_allclose(clip.waveform, alone.waveform, atol=1e-6)


def test_requests_are_drawn_lazily_and_must_ascend(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=5.0)
    drawn = []

    def requests():
        for start in (0.0, 1.0, 2.0, 3.0, 4.0):
            drawn.append(start)
            yield _request(start, start + 0.5, start)

    with open_media(path) as media:
        clips = media.read(requests())
        first = next(clips)
        assert read_numbers(first.frames) == [0]
        assert len(drawn) <= 3
        assert [read_numbers(clip.frames) for clip in clips] == [[25], [50], [75], [100]]
        with pytest.raises(ValueError, match="ascending"):
            list(media.read([_request(1.0, 2.0), _request(0.0, 1.0)]))


def test_two_hours_are_read_with_little_memory_and_jumps_are_exact(tmp_path: Path) -> None:
    import tracemalloc

    path = synthetic.make_long(tmp_path / "long.mp4")
    with open_media(path) as media:
        starts = [*range(0, 300, 10), *range(3000, 3100, 10), 7190]
        tracemalloc.start()
        for clip in media.read(_request(s, s + 10.0, s + 0.5, s + 9.5) for s in starts):
            start = round(clip.start_seconds)
            assert read_numbers(clip.frames) == [start, start + 9]
            expected = [b - start for b in range(4, 7200, 8) if start <= b < start + 10]
            np.testing.assert_allclose(beep_onsets(clip.waveform), expected, atol=0.003)
            assert clip.silent_spans == ()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


# --- colour ---

PATCHES = [(255, 255, 255), (0, 0, 0), (200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)]


@pytest.mark.parametrize("matrix", ["601", "709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_tagged_colour_is_right(tmp_path: Path, matrix: str, full_range: bool) -> None:
    path = synthetic.make_patches(tmp_path / "a.mp4", PATCHES, matrix=matrix, full_range=full_range)
    seen = read_picture(path)[:, 32, 16::32].T
    assert np.abs(seen.astype(int) - PATCHES).max() <= 3


@pytest.mark.parametrize(("height", "matrix"), [(64, "601"), (720, "709")])
def test_untagged_colour_follows_the_size(tmp_path: Path, height: int, matrix: str) -> None:
    path = synthetic.make_patches(tmp_path / "a.mp4", PATCHES, matrix=matrix, tagged=False, height=height)
    seen = read_picture(path)[:, 32, 16::32].T
    assert np.abs(seen.astype(int) - PATCHES).max() <= 3


def test_hdr_is_tone_mapped_to_neutral_ascending_greys(tmp_path: Path) -> None:
    # coded PQ of 0, 20.3 (a tenth of white), 203 and 1000 nits
    coded = [0.0, 0.3518, 0.5807, 0.7518]
    path = synthetic.make_hdr_patches(tmp_path / "a.mp4", coded, transfer="PQ")
    assert open_media(path).info.video.hdr == "PQ"
    seen = read_picture(path)[:, 32, 16::32].T.astype(int)
    assert (seen.max(axis=1) - seen.min(axis=1)).max() <= 2
    greys = seen[:, 0]
    assert greys[0] <= 2
    assert greys[1] == pytest.approx(255 * 0.1 ** (1 / 2.2), abs=4)  # below the knee nothing is changed
    assert 190 <= greys[2] <= 235
    assert greys[3] >= 252
    hlg = read_picture(synthetic.make_hdr_patches(tmp_path / "b.mp4", [0.0, 0.5, 0.75, 1.0], transfer="HLG"))
    assert (np.diff(hlg[0, 32, 16::32].astype(int)) > 20).all()


# --- sizes ---


def test_short_side_shrinks_like_pillow_and_never_enlarges(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", size=(90, 160), sound=False)
    whole = read_clip(path, frame_seconds=[0.4]).frames
    small = read_clip(path, frame_seconds=[0.4], short_side=64).frames
    assert small.shape == (1, 3, 64, 114)
    pillow = Image.fromarray(whole[0].transpose(1, 2, 0)).resize((114, 64), Image.Resampling.BICUBIC)
    assert np.abs(small[0].astype(int) - np.asarray(pillow).transpose(2, 0, 1)).max() <= 1
    np.testing.assert_array_equal(resize_frames(whole, 64, 114), small)
    assert read_clip(path, frame_seconds=[0.4], short_side=500).frames.shape == whole.shape
    assert resize_frames(np.zeros((0, 3, 9, 9), np.uint8), 4, 5).shape == (0, 3, 4, 5)


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p10le", "yuv422p"])
def test_odd_sizes_and_other_samplings(tmp_path: Path, pixel_format: str) -> None:
    size = (47, 103) if pixel_format == "yuv444p" else (48, 104)
    path = make_video(tmp_path / "a.mp4", size=size, pixel_format=pixel_format, sound=False)
    clip = read_clip(path, frames_per_second=5)
    assert clip.frames.shape[2:] == size
    assert read_numbers(clip.frames) == [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]


# --- still pictures ---


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:, :15] = (250, 10, 20)
    image = Image.fromarray(rgb)
    path = tmp_path / "a.png"
    for mode in ("RGB", "P", "RGBA", "CMYK", "L", "1"):
        target = path.with_suffix(".tif") if mode == "CMYK" else path
        image.convert(mode).save(target)
        assert read_picture(target).shape == (3, 20, 30)
    clear = image.convert("RGBA")
    clear.putalpha(0)
    clear.save(path)
    assert (read_picture(path) == 255).all()
    Image.fromarray(np.full((20, 30), 0x8000, np.uint16)).save(path)
    assert (read_picture(path) == 0x80).all()


def test_exif_turns_a_picture(tmp_path: Path) -> None:
    image = Image.fromarray(synthetic.numbered_frame(9))
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise
    image.save(tmp_path / "a.png", exif=exif)
    seen = read_picture(tmp_path / "a.png")
    assert seen.shape == (3, 104, 48)
    assert read_number(np.rot90(seen, 1, axes=(1, 2))) == 9


def test_the_first_picture_of_a_video_and_none_of_a_sound(tmp_path: Path) -> None:
    assert read_number(read_picture(make_video(tmp_path / "a.mp4", picture_start=0.3))) == 0
    with pytest.raises(MediaError, match="has no picture"):
        read_picture(make_sound(tmp_path / "a.wav"))
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    with pytest.raises(MediaError):
        read_picture(tmp_path / "b.png")


def test_the_decoder_loads_without_torch() -> None:
    code = "import lookhear.media.decode, lookhear.media.probe, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- real files ---


@needs_real_media
@pytest.mark.parametrize("path", _real_files(), ids=lambda path: path.name)
def test_real_files_equal_plain_decoding(path: Path) -> None:
    with open_media(path) as media:
        info = media.info
        span = info.end_seconds - info.start_seconds
        times = tuple(info.start_seconds + span * (index + 0.5) / 6 for index in range(6))
        clip = next(media.read([_request(info.start_seconds, info.end_seconds, *times)]))
    assert clip.problems == ()
    if info.audio is not None:
        assert abs(len(clip.waveform) - span * 16000) <= 2
        assert sum(end - start for start, end in clip.silent_spans) < 0.2
        assert np.isfinite(clip.waveform).all()
        assert np.abs(clip.waveform).max() <= 2
        assert clip.waveform.any() or path.name.startswith("flower")  # which is silent
    if info.video is not None:
        reference = _all_frames(path)
        expected = [_shown(reference, time) for time in times if time < info.video.end_seconds]
        np.testing.assert_allclose(clip.frame_seconds, [time for time, _ in expected], atol=1e-5)
        for frame, (_, pixels) in zip(clip.frames, expected, strict=True):
            if info.video.hdr is None and info.video.rotation_degrees == 0:
                plain = pixels.transpose(2, 0, 1).astype(int)
                # the matrix may differ where the file does not say; the picture may not
                assert plain[1].std() < 2 or np.corrcoef(frame[1].ravel(), plain[1].ravel())[0, 1] > 0.98


@needs_real_media
def test_twins_in_other_codecs_look_the_same() -> None:
    times = [0.1, 0.5, 0.9]
    folder = REAL_MEDIA / "formats"
    frames = [
        read_clip(folder / name, frame_seconds=times, short_side=128).frames.astype(int)
        for name in ("testsrc2.mp4", "testsrc2_vp8.webm", "testsrc2_vp9.webm")
    ]
    for other in frames[1:]:
        assert np.corrcoef(frames[0].ravel(), other.ravel())[0, 1] > 0.95


@needs_real_media
def test_a_fragmented_file_equals_its_twin() -> None:
    whole = read_clip(REAL_MEDIA / "formats" / "flower.mp4", frame_seconds=[1.0], short_side=128)
    with open_media(REAL_MEDIA / "formats" / "flower-fragmented.mp4") as media:
        shift = media.info.video.start_seconds  # its edit list is not applied to fragments
        clip = next(media.read([_request(0.0, 5.0, 1.0 + shift)], short_side=128))
    assert np.abs(clip.frames.astype(int) - whole.frames).mean() < 3
