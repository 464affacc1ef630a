"""Readers of lists. If these fail, a published list is refused, or clips get the labels of others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lookhear.cli.data import Prepare
from lookhear.data.lists import Format, Listed, ListOptions, read_classes, read_labels, read_list
from lookhear.data.manifest import FileLabels
from lookhear.errors import UserError

CLASSES = 'index,mid,display_name\n0,/m/a,"Speech, loud"\n1,/m/b,Dog\n2,/m/c,Bell\n'


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return write(tmp_path / "classes.csv", CLASSES)


def clip(name: str, **changes: Any) -> dict[str, Any]:
    clip = {"video_id": name, "wav": f"/far/audio/{name}.wav", "video_path": "/far/frames/", "labels": "/m/b,/m/a"}
    return {key: value for key, value in (clip | changes).items() if value is not None}


def cavmae_list(path: Path, *clips: Any) -> Path:
    return write(path, json.dumps({"data": list(clips)}, indent=1))


# ---- CAV-MAE


def test_cavmae(tmp_path: Path, classes: Path) -> None:
    path = cavmae_list(tmp_path / "train.json", clip("x"), clip("y", labels="/m/c"), clip("z", labels=None))
    listed = read_list(path, ListOptions(classes=classes))
    assert listed["x"] == Listed(
        path="/far/audio/x.wav", picture_folder="/far/frames/", labels=FileLabels(labels=("Dog", "Speech, loud"))
    )
    assert [entry.labels.labels for entry in listed.values()] == [("Dog", "Speech, loud"), ("Bell",), ()]
    assert read_list(path)["x"].labels.labels == ("/m/b", "/m/a")
    harmless = ["-a..b", "..x", "x..", "a/b", "día: 1"]
    assert list(read_list(cavmae_list(tmp_path / "odd.json", *map(clip, harmless)))) == harmless


def test_weights_lie_beside(tmp_path: Path) -> None:
    path = cavmae_list(tmp_path / "train.json", clip("x"), clip("y"))
    beside = write(tmp_path / "train_weight.csv", "1.5e+00\r\n0.25\r\n")
    assert [entry.labels.weight for entry in read_list(path).values()] == [1.5, 0.25]
    for text, words in (("1\n", "1 weights, train.json has 2 clips"), ("1\nx\n", "line 2"), ("1\n-1\n", "'-1'")):
        write(beside, text)
        with pytest.raises(UserError, match=words):
            read_list(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"data": [{"video_id": "x", ', "is no JSON"),
        ('{"clips": []}', "needs the key 'data'"),
        ('{"data": {}}', "needs the key 'data'"),
        ('[{"video_id": "x"}]', "needs the key 'data'"),
        ('{"data": ["x"]}', "entry 1: a clip is an object"),
        (json.dumps({"data": [clip("x"), clip("y", wav=None)]}), "entry 2: wav is missing"),
        (json.dumps({"data": [clip("x", video_id="")]}), "entry 1: video_id is missing"),
        *(
            (json.dumps({"data": [clip("x"), clip("x", video_id=name)]}), "entry 2: video_id .* is no name of a clip")
            for name in ("..", "../x", "a/../../x", "a/..", "/etc/x", "C:x", "C:/x", "a\\..\\x", "\\x", "\\\\host\\x")
        ),
        (json.dumps({"data": [clip("x", labels=["/m/a"])]}), "entry 1: labels must be text"),
        (json.dumps({"data": [clip("x"), clip("x")]}), "names 'x' twice"),
        (json.dumps({"data": [clip("x"), clip("y", labels="/m/bb")]}), "entry 2: .* no '/m/bb'; did you mean '/m/b'"),
    ],
)
def test_bad_cavmae(tmp_path: Path, classes: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_list(write(tmp_path / "list.json", text), ListOptions(classes=classes))


# ---- VGGSound


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_vggsound_two_columns(tmp_path: Path, classes: Path, mark: str, end: str) -> None:
    path = write(tmp_path / "test.csv", f'{mark}a_000001.mp4,"Speech, loud"{end}b_000030.mp4,Dog{end}')
    assert {name: entry.labels.labels for name, entry in read_list(path).items()} == {
        "a_000001.mp4": ("Speech, loud",),
        "b_000030.mp4": ("Dog",),
    }
    assert read_list(path)["b_000030.mp4"].path == "b_000030.mp4"
    spelled = write(classes, CLASSES.replace('"Speech, loud"', "Speech_ loud"))  # as the published file has it
    assert read_list(path, ListOptions(classes=spelled))["a_000001.mp4"].labels.labels == ("Speech_ loud",)
    assert read_labels(path, spelled)["a_000001.mp4"].labels == ("Speech_ loud",)


def test_vggsound_four_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "vggsound.csv", '---g-f_I2yQ,1,"Speech, loud",test\n--0PQM4-hqg,30,Dog,train\n')
    listed = read_list(path)
    assert list(listed) == ["---g-f_I2yQ_000001", "--0PQM4-hqg_000030"]
    assert listed["---g-f_I2yQ_000001"] == Listed(
        path="---g-f_I2yQ_000001", labels=FileLabels(labels=("Speech, loud",), split="test"), any_suffix=True
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.mp4,Dog\nb.mp4\n", "row 2: want file,label"),
        ("a.mp4,Dog\nb.mp4,\n", "row 2: want file,label"),
        ("a.mp4,Dog\na.mp4,Bell\n", "names 'a.mp4' twice"),
        ("a.mp4,Dogs\n", "row 1: the classes have no 'Dogs'; did you mean 'Dog'"),
        ('a.mp4,"Dog\n', "cannot read the list"),
        ("---g-f_I2yQ,1,Dog,test\n---g-f_I2yQ,one,Dog,test\n", "row 2: want"),
    ],
)
def test_bad_vggsound(tmp_path: Path, classes: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_list(write(tmp_path / "list.csv", text), ListOptions(classes=classes))


# ---- AudioSet, ESC-50, our own


def test_a_path_that_is_told_two_things_of_is_refused(tmp_path: Path) -> None:
    """Otherwise the labels of all lines but the last would be lost."""
    path = write(tmp_path / "list.csv", "path,label\na.mp4,Dog\na.mp4,Dog\nb.mp4,Bell\n")
    assert [entry.labels.labels for entry in read_list(path).values()] == [("Dog",), ("Bell",)]
    with pytest.raises(UserError, match=r"names 'a\.mp4' twice"):
        read_list(write(path, "path,label\na.mp4,Dog\na.mp4,Bell\n"))


def test_audioset(tmp_path: Path, classes: Path) -> None:
    head = (
        "# Segments csv created Sun\n# num_ytids=2, num_segs=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    text = head + '--4gqARaEJE, 0.000, 10.000, "/m/b,/m/a"\n-0nqfRcnAYE, 364.000, 374.000, "/m/c"\n'
    listed = read_list(write(tmp_path / "eval_segments.csv", text), ListOptions(classes=classes))
    assert listed["--4gqARaEJE"].labels.labels == ("Dog", "Speech, loud")
    assert listed["-0nqfRcnAYE"] == Listed(path="-0nqfRcnAYE", labels=FileLabels(labels=("Bell",)), any_suffix=True)
    with pytest.raises(UserError, match="segment 1: the classes have no '/m/x'"):
        read_list(write(tmp_path / "bad.csv", head + 'id, 0, 1, "/m/x"\n'), ListOptions(classes=classes))
    with pytest.raises(UserError, match="segment 2: want id"):
        read_list(write(tmp_path / "bad.csv", head + 'id, 0, 1, "/m/a"\nid, 0\n'))


ESC50 = (
    "filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n5-2-B-3.wav,5,3,cow,False,2,B\n"
)


def test_esc50(tmp_path: Path) -> None:
    path = write(tmp_path / "esc50.csv", ESC50)
    assert read_labels(path) == {
        "1-1-A-0.wav": FileLabels(labels=("dog",), split="fold1"),
        "5-2-B-3.wav": FileLabels(labels=("cow",), split="fold5"),
    }
    with pytest.raises(UserError, match="line 3: filename, fold or category is missing"):
        read_list(write(path, ESC50.replace(",cow,", ",,")))
    with pytest.raises(UserError, match="no column category"):
        read_list(write(path, ESC50.replace("category", "class")), ListOptions(format="esc50"))


def test_folds_are_splits(tmp_path: Path) -> None:
    path = write(tmp_path / "manifest.csv", "path,label,fold,split\na.ogg,0,1,\nb.ogg,1,2,val\n")
    assert [entry.labels.split for entry in read_list(path).values()] == ["fold1", "val"]


def test_the_format_is_told_from_what_a_list_holds(tmp_path: Path) -> None:
    """A name says nothing: CAV-MAE lists have been told apart by a substring of theirs."""
    assert read_list(cavmae_list(tmp_path / "vggsound.csv", clip("x")))["x"].picture_folder == "/far/frames/"
    assert list(read_list(write(tmp_path / "audioset.csv", ESC50))) == ["1-1-A-0.wav", "5-2-B-3.wav"]
    one_line = write(tmp_path / "one.csv", "videos/a b.mp4")  # what CAV-MAE extracts from
    assert list(read_list(one_line)) == ["videos/a b.mp4"]
    assert list(read_list(write(tmp_path / "cavmae.txt", "a.mp4,b.mp4\n"))) == ["a.mp4,b.mp4"]
    forced = read_list(tmp_path / "cavmae.txt", ListOptions(format="vggsound"))
    assert forced["a.mp4"].labels.labels == ("b.mp4",)


@pytest.mark.parametrize(("name", "words"), [("a.csv", "its first line has: nothing"), ("gone.csv", "cannot read")])
def test_empty_and_missing_lists(tmp_path: Path, name: str, words: str) -> None:
    write(tmp_path / "a.csv", "")
    with pytest.raises(UserError, match=words):
        read_list(tmp_path / name)
    assert read_list(write(tmp_path / "a.json", '{"data": []}')) == {}
    with pytest.raises(UserError, match="cannot read"):
        read_list(write(tmp_path / "latin.csv", "path\nä.mp4\n", encoding="latin-1"))


def test_the_command_line_knows_every_format() -> None:
    hint = get_type_hints(Prepare, globalns=vars(sys.modules["lookhear.cli.data"]))["format"]
    assert get_args(get_args(hint)[0]) == get_args(Format)


# ---- where the files are


@pytest.mark.parametrize(
    ("options", "written", "place"),
    [
        (ListOptions(), "a/b.mp4", "/lists/a/b.mp4"),
        (ListOptions(), "/a/b.mp4", "/a/b.mp4"),
        (ListOptions(), "<YOUR_VGGS_PATH>/audio/b.wav", "/lists/audio/b.wav"),
        (ListOptions(root=Path("/r")), "<YOUR_VGGS_PATH>/audio/b.wav", "/r/audio/b.wav"),
        (ListOptions(root=Path("/r")), "a<B>/b.mp4", "/r/a<B>/b.mp4"),
        (ListOptions(root=Path("/r")), "b.mp4", "/r/b.mp4"),
        (ListOptions(root=Path("/r")), "/a/b.mp4", "/a/b.mp4"),
        (ListOptions(root=Path("/r"), moved_from="/a"), "/a/b.mp4", "/r/b.mp4"),
        (ListOptions(root=Path("/r"), moved_from="/a/"), "/a/c/b.mp4", "/r/c/b.mp4"),
        (ListOptions(root=Path("/r"), moved_from="/a"), "/ab/b.mp4", "/ab/b.mp4"),
        (ListOptions(root=Path("/r"), moved_from="<YOUR_VGGS_PATH>"), "<YOUR_VGGS_PATH>/frames/", "/r/frames"),
    ],
)
def test_where_files_are(options: ListOptions, written: str, place: str) -> None:
    assert options.place(written, Path("/lists")) == Path(place)


def test_a_moved_folder_needs_its_new_place() -> None:
    with pytest.raises(UserError, match="takes the place of /a is missing"):
        ListOptions(moved_from="/a")


# ---- classes


def test_classes_are_in_order_of_their_index(classes: Path) -> None:
    expected = read_classes(classes)
    assert (expected.names, expected.mids) == (("Speech, loud", "Dog", "Bell"), ("/m/a", "/m/b", "/m/c"))
    lines = CLASSES.splitlines()
    shuffled = write(classes, "\ufeff" + "\r\n".join([lines[0], lines[3], lines[1], lines[2], ""]))
    assert read_classes(shuffled) == expected
    assert expected.display_names(("/m/c", "Dog", "Speech_ loud"), where="") == ("Bell", "Dog", "Speech, loud")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its first line has: nothing"),
        ("id,name\n0,x\n", "its first line has: id, name"),
        (CLASSES.replace("2,/m/c", "3,/m/c"), "must number the 3 classes from 0"),
        (CLASSES.replace("2,/m/c", "two,/m/c"), "must number the 3 classes from 0"),
        (CLASSES.replace("/m/c", "/m/a"), "the mid '/m/a' twice"),
        (CLASSES.replace("Bell", "Dog"), "the display_name 'Dog' twice"),
        (CLASSES.replace("Bell", ""), "line 4: index, mid or display_name is missing"),
    ],
)
def test_bad_classes(classes: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_classes(write(classes, text))


def test_classes_need_no_decoder() -> None:
    """A training machine may have none."""
    code = "import sys, lookhear.data.lists; sys.exit('av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- as published


@pytest.fixture
def published() -> Path:
    root = os.environ.get("LOOKHEAR_TEST_MEDIA")
    if not root:
        pytest.skip("LOOKHEAR_TEST_MEDIA names no folder of real media")
    return Path(root) / "data" / "splits"


@pytest.mark.parametrize(
    ("name", "classes_name", "num_classes", "count", "used"),
    [
        ("cavmae_sample_audioset.json", "audioset_class_labels_indices.csv", 527, 1725, 524),
        ("cavmae_sync_vggsound_retrieval.json", "vggsound_class_labels_indices.csv", 309, 1545, 309),
        ("vggsound_test.csv", "vggsound_class_labels_indices.csv", 309, 15446, 309),
    ],
)
def test_real_lists(published: Path, name: str, classes_name: str, num_classes: int, count: int, used: int) -> None:
    classes = read_classes(published / classes_name)
    listed = read_list(published / name, ListOptions(classes=published / classes_name))
    labels = [label for entry in listed.values() for label in entry.labels.labels]
    assert (len(classes), len(listed), len(set(labels))) == (num_classes, count, used)
    assert set(labels) <= set(classes.names)
    if "sync" in name:
        assert {labels.count(label) for label in classes.names} == {5}
        assert ListOptions(root=Path("/r")).place(listed["glLQrEijrKg_000300"].path, Path()) == Path(
            "/r/audio/glLQrEijrKg_000300.wav"
        )


def test_real_esc50(published: Path) -> None:
    labels = read_labels(published / "esc50_fold4_meta.csv")
    splits = [about.split for about in labels.values()]
    assert [splits.count(f"fold{number}") for number in range(1, 6)] == [0, 11, 1, 400, 2]
    assert labels["2-103426-A-3.wav"] == FileLabels(labels=("cow",), split="fold2")
