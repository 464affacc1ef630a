"""If these fail, written files are not what was asked: wrong times, colours, sizes, or half-written files."""

from pathlib import Path

import numpy as np
import pytest

from lookhear.errors import MediaError
from lookhear.media.decode import open_media, read_clip
from lookhear.media.encode import SOUND_FORMATS, write_sound, write_video
from synthetic import beep_onsets, beeps, numbered_frame, read_numbers


def _frames(count: int):
    return (numbered_frame(number) for number in range(count))


def test_a_written_video_reads_back_frame_by_frame_and_beep_by_beep(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    waveform = beeps(2.0, [0.25, 1.75])[0]
    write_video(path, frames=_frames(50), frames_per_second=25, waveform=waveform)
    clip = read_clip(path, frames_per_second=25)
    assert read_numbers(clip.frames) == list(range(50))
    np.testing.assert_allclose(clip.frame_seconds, np.arange(50) / 25, atol=1e-6)
    np.testing.assert_allclose(beep_onsets(clip.waveform), [0.25, 1.75], atol=0.003)
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_colour_survives_within_a_few_levels(tmp_path: Path) -> None:
    colors = np.array([(200, 30, 60), (20, 180, 40), (30, 60, 220)], np.uint8)
    picture = np.repeat(np.repeat(colors[None], 32, axis=1), 48, axis=0)
    path = tmp_path / "colour.mp4"
    write_video(path, frames=[picture] * 3, frames_per_second=10, waveform=None, crf=4)
    frame = read_clip(path, frame_seconds=[0.0]).frames[0]
    assert np.abs(frame[:, 24, 16::32].T.astype(int) - colors).max() <= 6


@pytest.mark.parametrize("frames_per_second", [25, 30000 / 1001, 12.5, 1])
def test_frame_rate_is_kept(tmp_path: Path, frames_per_second: float) -> None:
    path = tmp_path / "rate.mp4"
    write_video(path, frames=_frames(6), frames_per_second=frames_per_second, waveform=None)
    with open_media(path) as media:
        video = media.info.video
    assert video.num_frames == 6
    assert video.end_seconds == pytest.approx(6 / frames_per_second, abs=1e-3)


def test_sound_only_and_stereo(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    write_video(path, frames=None, frames_per_second=25, waveform=beeps(1.0, [0.5], channels=2).T)
    with open_media(path) as media:
        assert media.info.video is None
        assert media.info.audio.channels == 2


@pytest.mark.parametrize("suffix", sorted(SOUND_FORMATS))
@pytest.mark.parametrize("sample_rate", [16000, 44100])
def test_every_sound_format_keeps_time(tmp_path: Path, suffix: str, sample_rate: int) -> None:
    path = tmp_path / f"sound{suffix}"
    write_sound(path, beeps(1.5, [0.5, 1.0], sample_rate)[0], sample_rate)
    clip = read_clip(path)
    onsets = clip.start_seconds + beep_onsets(clip.waveform)
    # an mp3 starts its clock when its priming starts
    shift = clip.start_seconds if suffix == ".mp3" else 0.0
    np.testing.assert_allclose(onsets - shift, [0.5, 1.0], atol=0.004)


def test_wav_is_exact_to_half_a_step_and_clips_instead_of_wrapping(tmp_path: Path) -> None:
    waveform = np.array([0.0, 0.25, -0.5, 0.999, 1.5, -1.5], np.float32).repeat(400)
    write_sound(tmp_path / "a.wav", waveform, 16000)
    read = read_clip(tmp_path / "a.wav").waveform
    np.testing.assert_allclose(read, np.clip(waveform, -1, 32767 / 32768), atol=0.5 / 32768)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, frames=_frames(5), frames_per_second=5, waveform=beeps(1.0, [0.5])[0])
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    def failing():
        yield numbered_frame(0)
        raise RuntimeError("the renderer broke")

    with pytest.raises(RuntimeError, match="renderer"):
        write_video(tmp_path / "a.mp4", frames=failing(), frames_per_second=5, waveform=None)
    odd = [np.zeros((31, 40, 3), np.uint8)]
    with pytest.raises(ValueError, match="even"):
        write_video(tmp_path / "b.mp4", frames=odd, frames_per_second=5, waveform=None)
    with pytest.raises(ValueError, match="suffix"):
        write_sound(tmp_path / "a.xyz", np.zeros(10, np.float32), 16000)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MediaError, match="cannot write"):
        write_sound(tmp_path / "nowhere" / "a.wav", np.zeros(10, np.float32), 16000)
