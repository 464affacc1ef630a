"""Edit lists and OpenTimelineIO, read back: a wrong frame here is a wrong cut in the editing program."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import opentimelineio
import pytest

from editing import hit_of, make_broadcast_wave, make_timecoded, odd_names, path_of
from lookhear.errors import UserError
from lookhear.media.timing import read_timing
from lookhear.search import timeline
from lookhear.search.export import export_hits, render_hits
from lookhear.search.timecode import Counting
from lookhear.search.timeline import Placed, edit_lists, plain_text
from synthetic import make_sound, make_video

NTSC = Fraction(30000, 1001)
TIMES = ("source_in", "source_out", "record_in", "record_out")
EVENT = re.compile(
    r"(?P<number>\d{3})  (?P<reel>[A-Z0-9]{1,8}) +(?P<track>V|A|AA|B|AA/V) +C +"
    + " ".join(rf"(?P<{name}>\d\d:\d\d:\d\d[:;]\d\d)" for name in TIMES)
)


def events(text: str) -> list[dict[str, str]]:
    return [found.groupdict() for line in text.splitlines() if (found := EVENT.fullmatch(line))]


def edl(*hits: object) -> str:
    (document,) = render_hits(hits, format="edl").documents  # type: ignore[arg-type]
    return document.text


def test_an_edit_list_of_drop_frame_material(tmp_path: Path) -> None:
    path = make_timecoded(tmp_path / "tape 7.mov", NTSC, "00:59:59;20", num_frames=60)
    frame = 1001 / 30000
    text = edl(hit_of(path, 5 * frame, 35 * frame, peak_seconds=20 * frame), hit_of(path, 0.0, 60 * frame))
    assert text.splitlines()[:2] == ["TITLE: lookhear", "FCM: DROP FRAME"]
    first, second = events(text)
    # 10 frames after 00:59:59;20 the hour is full; it is a tenth minute, so no label is left out.
    assert (first["source_in"], first["source_out"]) == ("00:59:59;25", "01:00:00;25")
    assert (first["record_in"], first["record_out"]) == ("01:00:00;00", "01:00:01;00")
    assert (second["source_in"], second["source_out"]) == ("00:59:59;20", "01:00:01;20")
    assert (second["record_in"], second["record_out"]) == ("01:00:01;00", "01:00:03;00")
    assert (first["reel"], first["track"], first["number"]) == ("TAPE7", "V", "001")
    assert "* FROM CLIP NAME: tape 7.mov" in text
    assert "* LOC: 01:00:00:15 GREEN" in text


def test_labels_are_left_out_on_the_source_side(tmp_path: Path) -> None:
    path = make_timecoded(tmp_path / "a.mov", NTSC, "00:00:59;28")
    (event,) = events(edl(hit_of(path, 0.0, 4 * 1001 / 30000)))
    assert (event["source_in"], event["source_out"]) == ("00:00:59;28", "00:01:00;04")


@pytest.mark.parametrize(
    ("rate", "label", "mode", "source_in"),
    [
        (NTSC, "01:00:00:00", "NON-DROP FRAME", "01:00:01:00"),
        (Fraction(25), "10:00:00:00", "NON-DROP FRAME", "10:00:01:05"),
        (Fraction(24000, 1001), "01:00:00:00", "NON-DROP FRAME", "01:00:01:06"),
    ],
    ids=str,
)
def test_other_rates_count_every_frame(tmp_path: Path, rate: Fraction, label: str, mode: str, source_in: str) -> None:
    path = make_timecoded(tmp_path / "a.mov", rate, label)
    start = float(30 / rate)
    text = edl(hit_of(path, start, start + 0.2))
    assert f"FCM: {mode}" in text
    assert events(text)[0]["source_in"] == source_in


def test_no_timecode_begins_at_zero_and_drops_nothing(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", frames_per_second=float(NTSC), seconds=2)
    text = edl(hit_of(path, 1.0, 1.5))
    # 1 s is 29.97 frames: frame 29 is shown then. 1.5 s is 44.955: frames up to and with 44.
    assert events(text)[0]["source_in"] == "00:00:00:29"
    assert events(text)[0]["source_out"] == "00:00:01:15"
    assert "FCM: NON-DROP FRAME" in text


def test_the_record_side_has_no_gaps_and_events_stay_in_their_file(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=2)
    rng = np.random.default_rng(0)
    hits = [hit_of(path, *sorted(rng.uniform(-1, 3, 2))) for _ in range(50)] + [hit_of(path, 2.0, 2.0)]
    counting = Counting(rate=Fraction(25))
    record = counting.frame("01:00:00:00")
    for event in events(edl(*hits)):
        frames = {name: counting.frame(event[name]) for name in TIMES}
        assert 0 <= frames["source_in"] < frames["source_out"] <= 50  # type: ignore[operator]
        assert frames["record_in"] == record
        length = frames["source_out"] - frames["source_in"]  # type: ignore[operator]
        assert frames["record_out"] - frames["record_in"] == length  # type: ignore[operator]
        record = frames["record_out"]
    assert len(events(edl(*hits))) == 51


def test_one_list_for_each_rate(tmp_path: Path) -> None:
    """An edit list counts in one way only: 25 read as 29.97 would be other frames."""
    pal = make_video(tmp_path / "pal.mp4")
    drop = make_timecoded(tmp_path / "drop.mov", NTSC, "01:00:00;00")
    plain = make_timecoded(tmp_path / "plain.mov", NTSC, "01:00:00:00")
    hits = [hit_of(path, 0.5, 1.0) for path in (pal, drop, plain, pal)]
    done = export_hits(hits, format="edl", out=tmp_path / "found.edl")
    assert [Path(name).name for name in done.files] == ["found.25.edl", "found.29.97df.edl", "found.29.97.edl"]
    texts = [Path(name).read_text(encoding="utf-8") for name in done.files]
    assert [len(events(text)) for text in texts] == [2, 1, 1]
    assert ["NON-DROP" in text for text in texts] == [True, False, True]
    assert done.hits == 4


def test_sound_alone_is_counted_like_the_pictures(tmp_path: Path) -> None:
    mono = make_sound(tmp_path / "mono.wav", sample_rate=44100, seconds=2)
    stereo = make_sound(tmp_path / "stereo.wav", sample_rate=48000, channels=2)
    text = edl(hit_of(mono, 0.5, 1.5), hit_of(stereo, 1.0, 9.0))
    first, second = events(text)
    assert (first["track"], first["source_in"], first["source_out"]) == ("A", "00:00:00:12", "00:00:01:13")
    assert (second["track"], second["source_in"], second["source_out"]) == ("AA", "00:00:01:00", "00:00:02:00")
    assert "* SOUND ONLY, COUNTED AT 25 FRAMES A SECOND" in text
    film = make_video(tmp_path / "film.mp4", frames_per_second=24)
    first, second = events(edl(hit_of(mono, 0.5, 1.5), hit_of(film, 0.5, 1.5)))
    assert first["source_in"] == second["source_in"] == "00:00:00:12"
    assert second["track"] == "B"


def test_the_time_of_day_of_a_field_recording(tmp_path: Path) -> None:
    make_broadcast_wave(tmp_path / "field.wav", midnight_samples=48000 * 3600 * 14 + 24000)
    (event,) = events(edl(hit_of(tmp_path / "field.wav", 1.0, 1.4)))
    assert event["source_in"] == "14:00:01:12"  # half a second is 12.5 frames


def test_a_variable_rate_is_counted_at_its_neighbour_and_said_so(tmp_path: Path) -> None:
    times = np.cumsum(np.tile([1 / 30, 1 / 30, 1 / 20], 20))
    path = make_video(tmp_path / "phone.mp4", frame_times=times.tolist())
    rendered = render_hits([hit_of(path, 0.9, 1.1)], format="edl")
    assert rendered.notes == (f"{path}: variable frame rate, counted at 25 frames a second",)
    assert "* VARIABLE FRAME RATE, COUNTED AT 25 FRAMES A SECOND" in rendered.documents[0].text


def test_reels_are_short_and_no_two_alike(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    paths = []
    for folder in folders:
        folder.mkdir()
        paths.append(make_video(folder / "interview_2024.mp4", seconds=0.5))
    for name in ("Ünïcode", "映画", "ax", "bl"):
        paths.append(make_video(tmp_path / f"{name}.mp4", seconds=0.5))
    reels = [event["reel"] for event in events(edl(*[hit_of(path, 0.0, 0.2) for path in [*paths, paths[0]]]))]
    assert reels == ["INTERVIE", "INTERVI2", "INTERVI3", "UNICODE", "CLIP", "AX2", "BL2", "INTERVIE"]


def test_names_stay_on_their_line(tmp_path: Path) -> None:
    paths = odd_names(tmp_path)
    text = edl(*[hit_of(path, 0.0, 0.2) for path in paths])
    assert len(events(text)) == len(paths)
    assert text.count("* FROM CLIP NAME: ") == len(paths)
    assert plain_text("a\nb\udce9\u2028c") == "a\ufffdb\ufffd\ufffdc"
    text.encode()  # valid Unicode


def test_a_full_edit_list(tmp_path: Path) -> None:
    timing = read_timing(make_video(tmp_path / "a.mp4"))
    placed = [Placed(rank=rank, hit=hit_of(tmp_path / "a.mp4"), timing=timing) for rank in range(1, 1001)]
    assert len(events(edit_lists(placed[:999], title="x")[0].text)) == 999
    with pytest.raises(UserError, match="holds 999 events, and these are 1000"):
        edit_lists(placed, title="x")


# ---- OpenTimelineIO


def read_back(path: Path) -> opentimelineio.schema.Timeline:
    return opentimelineio.adapters.read_from_file(str(path))


def test_a_timeline_is_read_back(tmp_path: Path) -> None:
    drop = make_timecoded(tmp_path / "drop.mov", NTSC, "01:00:00;00", num_frames=60)
    both = make_video(tmp_path / "both.mp4", seconds=2)
    sound = make_sound(tmp_path / "sound.wav", sample_rate=44100, seconds=2)
    hits = [hit_of(drop, 0.5, 1.0, peak_seconds=0.7), hit_of(both, 0.5, 1.5, score=2.5), hit_of(sound, 0.5, 1.25)]
    export_hits(hits, format="otio", out=tmp_path / "found.otio", title="door")
    found = read_back(tmp_path / "found.otio")
    assert found.name == "door"
    picture, heard = found.tracks
    assert (picture.kind, heard.kind) == ("Video", "Audio")
    assert [type(item).__name__ for item in picture] == ["Clip", "Clip", "Gap"]
    assert [type(item).__name__ for item in heard] == ["Gap", "Clip", "Clip"]
    assert picture.duration().to_seconds() == pytest.approx(heard.duration().to_seconds())

    clip = picture[0]
    assert path_of(clip.media_reference.target_url) == drop
    available = clip.media_reference.available_range
    assert (available.start_time.value, available.duration.value) == (107_892, 60)
    assert available.start_time.rate == pytest.approx(29.97002997)
    # .5 s is 14.985 frames: frame 14 is still shown; 1 s is 29.97: frame 29 has begun.
    assert (clip.source_range.start_time.value, clip.source_range.duration.value) == (107_892 + 14, 16)
    (marker,) = clip.markers
    assert (marker.marked_range.start_time.value, marker.marked_range.duration.value) == (107_892 + 20, 1)
    facts = clip.metadata["lookhear"]
    assert (facts["score"], facts["matched"], facts["rank"], facts["drop_frame"]) == (3.25, "both", 1, True)
    assert picture[1].metadata["lookhear"]["score"] == 2.5
    assert picture[1].source_range == heard[1].source_range
    assert not heard[1].markers

    samples = heard[2].source_range
    assert (samples.start_time.value, samples.start_time.rate, samples.duration.value) == (22050, 44100, 33075)
    assert heard[2].media_reference.available_range.duration.value == 88200


def test_a_timecode_of_sound_alone_counts_frames(tmp_path: Path) -> None:
    """The clip counts samples; its start label does not."""
    sound = make_sound(tmp_path / "a.wav", sample_rate=48000, seconds=2)
    timing = dataclasses.replace(read_timing(sound), timecode="01:00:00:24")
    film = make_timecoded(tmp_path / "film.mov", Fraction(30), "02:00:00:00")
    alone = Placed(rank=1, hit=hit_of(sound, 0.5, 1.0), timing=timing)
    beside = Placed(rank=2, hit=hit_of(film), timing=read_timing(film))
    for placed, rate in (([alone], 25), ([alone, beside], 30)):
        made = timeline.otio_timeline(placed, title="t")
        assert made.notes == (f"{sound}: sound only, its timecode counted at {rate} frames a second",)
        clip = opentimelineio.adapters.read_from_string(made.text, "otio_json").tracks[1][0]
        start = clip.media_reference.available_range.start_time
        assert (start.value, start.rate) == (48000 * 3600 + 48000 * 24 // rate, 48000)
        assert clip.source_range.start_time.value - start.value == 24000


def test_any_name_leads_back_to_its_file(tmp_path: Path) -> None:
    paths = odd_names(tmp_path)
    export_hits([hit_of(path) for path in paths], format="otio", out=tmp_path / "found.otio")
    clips = read_back(tmp_path / "found.otio").tracks[0]
    assert [path_of(clip.media_reference.target_url) for clip in clips] == paths


def test_source_ranges_lie_within_what_is_available(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=2)
    sound = make_sound(tmp_path / "a.wav", seconds=2)
    rng = np.random.default_rng(1)
    hits = [hit_of(each, *sorted(rng.uniform(-1, 3, 2))) for each in (path, sound) for _ in range(20)]
    export_hits([*hits, hit_of(path, 1.0, 1.0)], format="otio", out=tmp_path / "found.otio")
    for clip in read_back(tmp_path / "found.otio").find_clips():
        available = clip.media_reference.available_range
        assert clip.source_range.start_time >= available.start_time
        assert clip.source_range.end_time_exclusive() <= available.end_time_exclusive()
        assert clip.source_range.duration.value >= 1
        for marker in clip.markers:
            assert clip.source_range.contains(marker.marked_range.start_time)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentimelineio", None)
    with pytest.raises(UserError, match=r"pip install 'lookhear\[editor\]'"):
        timeline.otio_timeline([], title="x")


def test_lists_of_rates_that_look_alike_have_names_of_their_own(tmp_path: Path) -> None:
    path = make_timecoded(tmp_path / "a.mov", NTSC, "01:00:00:00", num_frames=10)
    known = read_timing(path)
    placed = [
        Placed(rank=rank, hit=hit_of(path, 0.0, 0.1), timing=dataclasses.replace(known, rate=rate))
        for rank, rate in enumerate((Fraction(12501, 1000), Fraction(125012, 10000), Fraction(25)), start=1)
    ]
    assert [each.part for each in edit_lists(placed, title="t")] == ["12.501", "12.501-2", "25"]
