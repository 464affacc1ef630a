"""Lists of action videos and scenes. If these fail, videos get other labels, or are learned from and judged."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lookhear.data.lists import Format, Listed, ListOptions, read_classes, read_list
from lookhear.data.manifest import FileLabels, splits_of
from lookhear.data.survey import survey
from lookhear.errors import UserError


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, form: Format | None = None, classes: Path | None = None) -> dict[str, Listed]:
    return read_list(path, ListOptions(format=form, classes=classes))


def about(listed: dict[str, Listed]) -> dict[str, tuple[str, str]]:
    """Label and split by name."""
    return {name: ("; ".join(entry.labels.labels), entry.labels.split) for name, entry in listed.items()}


# ---- UCF101


@pytest.fixture
def ucf(tmp_path: Path) -> Path:
    """Two videos in two of the official splits, and one more that is only in the first."""
    folder = tmp_path / "ucfTrainTestlist"
    write(folder / "classInd.txt", "1 Archery\r\n2 HandstandPushups\r\n")
    write(
        folder / "trainlist01.txt",
        "Archery/v_Archery_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g09_c02.avi 2\n",
    )
    write(folder / "testlist01.txt", "Archery/v_Archery_g01_c01.avi\n\n")
    write(folder / "trainlist02.txt", "Archery/v_Archery_g01_c01.avi 1\n")
    write(folder / "testlist02.txt", "Archery/v_Archery_g08_c01.avi\n")
    return folder


def test_ucf101_a_video_belongs_to_every_split_that_names_it(ucf: Path) -> None:
    expected = {
        "Archery/v_Archery_g01_c01": ("Archery", "test1;train2"),
        "Archery/v_Archery_g08_c01": ("Archery", "test2;train1"),
        "HandstandPushups/v_HandStandPushups_g09_c02": ("HandstandPushups", "train1"),
    }
    assert about(read(ucf, "ucf101")) == expected
    assert about(read(ucf, "ucf101", ucf / "classInd.txt")) == expected
    assert read(ucf, "ucf101")["Archery/v_Archery_g01_c01"].any_suffix
    write(ucf / "ucf101_train.csv", "v_Archery_g08_c01,1\n")  # says the same again
    assert about(read(ucf, "ucf101")) == expected
    assert splits_of("test1;train2") == ("test1", "train2")
    assert splits_of(" ; ") == splits_of("") == ()


def test_one_list_of_ucf101_is_known_by_what_it_holds_and_its_split_by_its_name(ucf: Path, tmp_path: Path) -> None:
    assert about(read(ucf / "testlist01.txt")) == {"Archery/v_Archery_g01_c01": ("Archery", "test1")}
    sounding = write(tmp_path / "ucf101_train.csv", "v_Archery_g08_c01,1\nv_HandStandPushups_g09_c02,2\n")
    assert about(read(sounding)) == {
        "Archery/v_Archery_g08_c01": ("Archery", "train1"),
        "HandstandPushups/v_HandStandPushups_g09_c02": ("HandstandPushups", "train1"),
    }
    assert about(read(write(tmp_path / "mine.csv", "v_Archery_g08_c01,1\n")))["Archery/v_Archery_g08_c01"][1] == ""


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ucf101_train.csv", "v_Archery_g08_c01,2\n", "class 2 is not 'Archery'"),
        ("ucf101_train.csv", "v_Archery_g08_c01,0\n", "class 0 is not 'Archery'"),
        ("ucf101_train.csv", "v_Archery_g08_c01,3\n", "class 3 is not 'Archery'"),
        ("ucf101_train.csv", "v_Archary_g08_c01,1\n", "no 'Archary'; did you mean 'Archery'"),
        ("ucf101_train.csv", "v_Archery_g08_c01,1\nArchery\n", "line 2: 'Archery' is no video of UCF101"),
        ("ucf101_train.csv", "v_Archery_g08_c01,1\nv_Archery_g08_c01,1\n", "names 'Archery/v_Archery_g08_c01' twice"),
        ("testlist01.txt", "Archery/v_Archery_g08_c01.avi\n", "to be learned from and judged in split 1"),
    ],
)
def test_bad_ucf101(ucf: Path, name: str, text: str, words: str) -> None:
    write(ucf / name, text)
    source = ucf if name.endswith("txt") else ucf / name
    with pytest.raises(UserError, match=words):
        read(source, "ucf101", ucf / "classInd.txt")


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no list of UCF101"):
        read(tmp_path, "ucf101")
    with pytest.raises(UserError, match="has no list of HMDB51"):
        read(tmp_path, "hmdb51")
    with pytest.raises(UserError, match="is no folder; the splits of HMDB51"):
        read(write(tmp_path / "wave_test_split1.txt", "a.avi 1\n"), "hmdb51")
    with pytest.raises(UserError, match="has not both scenes_stereo and scenes_stereo_testset"):
        read(tmp_path, "dcase")


# ---- HMDB51


def test_hmdb51(tmp_path: Path) -> None:
    """Names as odd as the real ones: signs, dots, spaces at the end of a line."""
    write(tmp_path / "wave_test_split1.txt", "#20_a!_wave_u_cm_np1.avi 1 \nA_(2008).b_wave_f.avi 2 \nnone_wave.avi 0\n")
    write(tmp_path / "wave_test_split2.txt", "#20_a!_wave_u_cm_np1.avi 2 \nA_(2008).b_wave_f.avi 1 \nnone_wave.avi 0\n")
    write(tmp_path / "ride_bike_test_split3.txt", "Bike man_ride_bike.avi 2\n")
    write(tmp_path / "readme.txt", "not a list\n")
    classes = write(tmp_path / "map.txt", "ride_bike\nwave\n")
    assert about(read(tmp_path, "hmdb51", classes)) == {
        "ride_bike/Bike man_ride_bike": ("ride_bike", "test3"),
        "wave/none_wave": ("wave", ""),
        "wave/#20_a!_wave_u_cm_np1": ("wave", "train1;test2"),
        "wave/A_(2008).b_wave_f": ("wave", "test1;train2"),
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a_wave.avi 3\n", "line 1: want a name and 0, 1 or 2"),
        ("a_wave.avi\n", "line 1: want"),
        ("a_wave.avi 1\na_wave.avi 2\n", "names 'a_wave.avi' twice"),
    ],
)
def test_bad_hmdb51(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path / "wave_test_split1.txt", text)
    with pytest.raises(UserError, match=words):
        read(tmp_path, "hmdb51")


# ---- Kinetics, ActivityNet


def test_kinetics(tmp_path: Path) -> None:
    rows = 'label,youtube_id,time_start,time_end,split,is_cc\n"testifying","---QUuC4vJs",84,94,validate,0\n'
    rows += "air drumming,-0-abcdefgh,7,17,train,0\n"
    assert about(read(write(tmp_path / "val.csv", rows))) == {
        "---QUuC4vJs_000084_000094": ("testifying", "val"),
        "-0-abcdefgh_000007_000017": ("air drumming", "train"),
    }
    test = "youtube_id,time_start,time_end,split\n---QUuC4vJs,84,94,test\n"
    assert about(read(write(tmp_path / "test.csv", test))) == {"---QUuC4vJs_000084_000094": ("", "test")}
    with pytest.raises(UserError, match=r"row 2: .* no 'testifying'"):
        read(tmp_path / "val.csv", None, write(tmp_path / "map.txt", "abseiling\nair drumming\n"))
    for text, words in (
        (rows.replace(",84,", ",late,"), "row 2: youtube_id, time_start or time_end"),
        (rows.replace("-0-abcdefgh,7,17", "---QUuC4vJs,84,94"), "twice"),
        ("", "no column youtube_id"),
    ):
        with pytest.raises(UserError, match=words):
            read(write(tmp_path / "bad.csv", text), "kinetics")


def activities(**videos: Any) -> str:
    return json.dumps({"version": "VERSION 1.3", "taxonomy": [], "database": videos}, indent=1)


def test_activitynet(tmp_path: Path) -> None:
    twice = [{"label": "Surfing", "segment": [1.0, 5.5]}, {"label": "Surfing", "segment": [9.0, 12.0]}]
    both = [*twice, {"label": "Drum corps", "segment": [20.0, 30.0]}]
    text = activities(
        a={"subset": "training", "annotations": twice, "duration": 30.0},
        b={"subset": "validation", "annotations": both},
        c={"subset": "testing", "annotations": []},
    )
    assert about(read(write(tmp_path / "activity_net.v1-3.min.json", text))) == {
        "v_a": ("Surfing", "train"),
        "v_b": ("Surfing; Drum corps", "val"),
        "v_c": ("", "test"),
    }
    for text, words in (
        (activities(a={"annotations": []}), "video 'a': want an object with 'subset'"),
        (activities(a=["Surfing"]), "video 'a': want an object"),
        (activities(a={"subset": "training", "annotations": ["Surfing"]}), "an annotation without a label"),
        ("[]", "is no JSON object"),
        ('{"data": []}', "needs the key 'database'"),
    ):
        with pytest.raises(UserError, match=words):
            read(write(tmp_path / "bad.json", text), "activitynet")


# ---- DCASE, ESC-10


def test_dcase_takes_scenes_from_names_and_splits_from_folders(tmp_path: Path) -> None:
    write(tmp_path / "scenes_stereo" / "scenes_stereo" / "bus01.wav", "")
    write(tmp_path / "scenes_stereo_testset" / "tubestation17.wav", "")
    write(tmp_path / "events" / "speech1.wav", "")
    assert about(read(tmp_path, "dcase")) == {
        "scenes_stereo/scenes_stereo/bus01.wav": ("bus", "train"),
        "scenes_stereo_testset/tubestation17.wav": ("tubestation", "test"),
    }
    write(tmp_path / "scenes_stereo" / "17.wav", "")
    with pytest.raises(UserError, match="names no scene"):
        read(tmp_path, "dcase")


def test_esc10_is_a_part_of_esc50(tmp_path: Path) -> None:
    table = "filename,fold,target,category,esc10,src_file,take\n"
    table += "1-1-A-0.wav,1,0,dog,True,1,A\n5-2-B-3.wav,5,3,cow,False,2,B\n"
    path = write(tmp_path / "esc50.csv", table)
    assert about(read(path, "esc10")) == {"1-1-A-0.wav": ("dog", "fold1")}
    assert len(read(path)) == 2
    with pytest.raises(UserError, match="no column esc10"):
        read(write(path, table.replace("esc10", "small")), "esc10")


# ---- label maps, folders as sources


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "has no class"), ("a\n\nb\n", "line 2, has no class"), ("a\nb\na\n", "the class 'a' twice")],
)
def test_bad_label_maps(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_classes(write(tmp_path / "map.txt", text))


def test_label_maps(tmp_path: Path) -> None:
    plain = read_classes(write(tmp_path / "map.txt", "air drumming\n2 step\n\n"))
    assert plain.names == plain.mids == ("air drumming", "2 step")
    assert read_classes(write(tmp_path / "map.txt", "1 Archery\r\n2 YoYo\r\n")).names == ("Archery", "YoYo")
    assert read_classes(write(tmp_path / "map.txt", "2 Archery\n1 YoYo\n")).names == ("2 Archery", "1 YoYo")


def test_a_folder_of_lists_is_a_source_where_that_is_said(ucf: Path, tmp_path: Path) -> None:
    media = tmp_path / "UCF-101"
    write(media / "Archery" / "v_Archery_g01_c01.avi", "x")
    write(media / "HandstandPushups" / "v_HandStandPushups_g09_c02.mp4", "x")
    found = survey(ucf, options=ListOptions(format="ucf101", root=media))
    assert [(file.name, file.labels.split, file.problem) for file in found] == [
        ("Archery/v_Archery_g01_c01.avi", "test1;train2", ""),
        ("Archery/v_Archery_g08_c01", "test2;train1", "the file does not exist"),
        ("HandstandPushups/v_HandStandPushups_g09_c02.mp4", "train1", ""),
    ]
    with pytest.raises(UserError, match="is no list of files, so --root"):
        survey(ucf, options=ListOptions(root=media))


# ---- as published


@pytest.fixture
def published() -> Path:
    root = os.environ.get("LOOKHEAR_TEST_MEDIA")
    if not root:
        pytest.skip("LOOKHEAR_TEST_MEDIA names no folder of real media")
    return Path(root) / "data" / "splits"


def test_real_ucf51(published: Path) -> None:
    """Groups 1 to 7 are judged in split 1; every number agrees with the name, though only 51 of 101 are used."""
    classes = read_classes(published / "ucf101_label_map.txt")
    listed = read_list(published, ListOptions(format="ucf101", classes=published / "ucf101_label_map.txt"))
    assert Counter(entry.labels.split for entry in listed.values()) == {"train1": 4893, "test1": 1944}
    assert len({entry.labels.labels for entry in listed.values()}) == 51
    assert len(classes) == 101
    assert listed["HandstandPushups/v_HandStandPushups_g01_c01"] == Listed(
        path="HandstandPushups/v_HandStandPushups_g01_c01",
        labels=FileLabels(labels=("HandstandPushups",), split="test1"),
        any_suffix=True,
    )
    groups = {int(name.rsplit("_g", 1)[1][:2]) for name, entry in listed.items() if entry.labels.split == "test1"}
    assert groups == set(range(1, 8))
    assert (
        listed.keys()
        == {**read_list(published / "ucf101_train.csv"), **read_list(published / "ucf101_test.csv")}.keys()
    )


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("ucf101_label_map.txt", 101, "ApplyEyeMakeup", "YoYo"),
        ("hmdb51_label_map.txt", 51, "brush_hair", "wave"),
        ("kinetics_label_map_k400.txt", 400, "abseiling", "zumba"),
        ("activitynet_label_map.txt", 200, "Applying sunscreen", "Playing badminton"),
    ],
)
def test_real_label_maps(published: Path, name: str, count: int, first: str, last: str) -> None:
    classes = read_classes(published / name)
    assert (len(classes), classes.names[0], classes.names[-1]) == (count, first, last)


def test_real_esc10(published: Path) -> None:
    listed = read_list(published / "esc50_fold4_meta.csv", ListOptions(format="esc10"))
    assert len({entry.labels.labels for entry in listed.values()}) == 10
    assert Counter(entry.labels.split for entry in listed.values())["fold4"] == 80
