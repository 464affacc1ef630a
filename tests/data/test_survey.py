"""Lists as sources of `prepare`. If these fail, a published list does not work, or says less than what became of it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from lookhear.cli import main
from lookhear.data.lists import ListOptions, read_labels
from lookhear.data.manifest import FileLabels, ManifestRow, read_manifest
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.data.store import Store
from lookhear.data.survey import survey
from lookhear.errors import StoreError, UserError

NUM_FRAMES = 10
CLASSES = "index,mid,display_name\n0,vgg_0,Dog\n1,vgg_1,Bell_ ringing\n"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(store: Path) -> dict[str, ManifestRow]:
    return {row.path: row for row in read_manifest(store / "manifest.jsonl")}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CAV-MAE list with a placeholder, as CAV-MAE Sync publishes it: clips whole, and with this or that missing."""
    folder = tmp_path_factory.mktemp("published")
    sounds = folder / "data" / "audio"
    sounds.mkdir(parents=True)
    numbers = {name: range(NUM_FRAMES) for name in ("whole", "short", "no sound", "bad sound", "no track")}
    numbers |= {"some": range(6), "no pictures": range(0), "nothing": range(0), "bad pictures": range(NUM_FRAMES)}
    for name in numbers:
        if name not in ("no sound", "nothing", "no track"):
            synthetic.make_sound(
                sounds / f"{name}.wav", seconds=6.0 if name == "short" else 10.0, beep_times=(1.0, 4.5)
            )
    synthetic.make_sound(sounds / "short.flac", seconds=6.0, codec="flac", beep_times=(1.0, 4.5))  # as of AudioSet
    (sounds / "bad sound.wav").write_bytes(b"no sound at all")
    synthetic.make_video(sounds / "no track.wav.mp4", seconds=2.0, sound=False)
    (sounds / "no track.wav.mp4").rename(sounds / "no track.wav")
    for number in range(NUM_FRAMES):
        pictures = folder / "data" / "frames" / f"frame_{number}"
        pictures.mkdir(parents=True)
        for name, own in numbers.items():
            if number in own:
                Image.new("RGB", (32, 24), (20 * number,) * 3).save(pictures / f"{name}.jpg")
    for number in (2, 3):
        (folder / "data" / "frames" / f"frame_{number}" / "bad pictures.jpg").write_bytes(b"")
    clips = [
        {
            "video_id": name,
            "wav": f"<YOUR_PATH>/audio/{name}.{'flac' if name == 'short' else 'wav'}",
            "video_path": "<YOUR_PATH>/frames/",
            "labels": "vgg_1",
        }
        for name in numbers
    ]
    (folder / "test.json").write_text(json.dumps({"data": clips}))
    (folder / "test_weight.csv").write_text("".join(f"{number / 4}\n" for number in range(len(clips))))
    (folder / "classes.csv").write_text(CLASSES)
    return folder


@pytest.fixture(scope="module")
def options(published: Path) -> ListOptions:
    return ListOptions(root=published / "data", classes=published / "classes.csv")


@pytest.fixture(scope="module")
def store(published: Path, options: ListOptions, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("published store") / "store"
    prepare(published / "test.json", path, list_options=options, workers=0)
    return Store(path)


# ---- clips whose sound and pictures are files of their own


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("whole", "ok", ""),
        ("short", "ok", ""),
        ("some", "partial", "4 of 10 pictures do not exist"),
        ("no sound", "picture_only", "no sound: the file does not exist"),
        ("no track", "picture_only", "no sound: the file has no sound track"),
        ("no pictures", "sound_only", "no pictures: none of 10 frame folders has one"),
        ("bad pictures", "partial", "picture 2 cannot be used: it is no picture; picture 3 cannot be used: it is no"),
        ("bad sound", "partial", "the sound cannot be used: "),
        ("nothing", "refused", "no pictures: none of 10 frame folders has one; no sound: the file does not exist"),
    ],
)
def test_every_clip_has_a_truthful_row(store: Store, name: str, status: str, reason: str) -> None:
    row = next(row for row in store.manifest if row.path == name)
    assert row.status == status
    assert row.reason.startswith(reason)
    assert bool(reason) == bool(row.reason)
    assert row.labels == ("Bell_ ringing",)
    assert str(store.path.parent) not in row.reason


def test_sound_and_pictures_are_on_one_clock(store: Store, published: Path) -> None:
    clips = {clip.path: clip for clip in store.clips}
    whole = clips["whole"]
    assert (whole.clip_id, whole.start_seconds, whole.end_seconds) == ("whole@0", 0.0, 10.0)
    assert whole.frame_seconds.tolist() == list(range(10))
    assert (whole.picture_span, whole.sound_span) == ((0.0, 10.0), (0.0, 10.0))
    assert synthetic.beep_onsets(store.waveform(whole.index)) == pytest.approx([1.0, 4.5], abs=0.01)
    original = np.asarray(Image.open(published / "data" / "frames" / "frame_7" / "whole.jpg"))
    np.testing.assert_array_equal(store.frames(whole.index, [7])[0].transpose(1, 2, 0), original)
    np.testing.assert_allclose(clips["short"].frame_seconds, np.arange(10) * 0.6)
    assert clips["short"].picture_span == (0.0, 6.0)
    assert clips["some"].frame_seconds.tolist() == [0, 1, 2, 3, 4, 5]
    assert clips["some"].picture_span == (0.0, 6.0)
    assert clips["bad pictures"].frame_seconds.tolist() == [0, 1, 4, 5, 6, 7, 8, 9]
    assert (clips["no sound"].num_samples, clips["no sound"].end_seconds) == (0, 10.0)
    assert (clips["no pictures"].has_picture, clips["no pictures"].picture_span) == (False, None)
    assert "nothing" not in clips
    assert [clips[name].weight for name in ("whole", "no sound")] == [0.0, 0.5]


def test_shorter_clips_share_the_pictures_out(published: Path, options: ListOptions, tmp_path: Path) -> None:
    config = PrepareConfig(clip_seconds=4.0)
    prepare(published / "test.json", tmp_path / "store", config=config, list_options=options, workers=0)
    clips = [clip for clip in Store(tmp_path / "store").clips if clip.path == "whole"]
    assert [clip.frame_seconds.tolist() for clip in clips] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [clip.picture_span for clip in clips] == [(0.0, 4.0), (4.0, 8.0), (8.0, 10.0)]


class _StoppedError(Exception):
    pass


def _stop_after(count: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, name: str) -> None:
        if done >= count:
            raise _StoppedError

    return progress


def test_kills_workers_and_other_folders_change_no_byte(
    published: Path, options: ListOptions, store: Store, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(published, moved)  # copies times of change
    source, again = moved / "test.json", tmp_path / "store"
    options = ListOptions(root=moved / "data", classes=moved / "classes.csv")
    with pytest.raises(_StoppedError):
        prepare(source, again, list_options=options, workers=0, progress=_stop_after(4))
    prepare(source, again, list_options=options, workers=2)
    assert contents(again) == contents(store.path)
    assert prepare(source, again, list_options=options, workers=2).nothing_to_do
    (moved / "data" / "frames" / "frame_3" / "some.jpg").unlink()
    with pytest.raises(StoreError, match=r"1 changed .such as 'some'"):
        prepare(source, again, list_options=options, workers=0)


def test_one_clip_without_any_frame_folder(tmp_path: Path) -> None:
    synthetic.make_sound(tmp_path / "x.wav", seconds=2.0)
    clip = {"video_id": "x", "wav": "x.wav", "video_path": "frames", "labels": ""}
    (tmp_path / "one.json").write_text(json.dumps({"data": [clip]}))
    prepare(tmp_path / "one.json", tmp_path / "store", workers=0)
    assert rows_of(tmp_path / "store")["x"].status == "sound_only"


# ---- other lists


@pytest.fixture
def videos(media: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("---g-f_I2yQ_000001.mp4", "--0PQM4-hqg_000030.mp4"):
        shutil.copy(media / "second" / "clip 6.mp4", folder / name)
    return folder


def test_vggsound_lists(videos: Path, tmp_path: Path) -> None:
    two, four = tmp_path / "test.csv", tmp_path / "all.csv"
    two.write_text("---g-f_I2yQ_000001.mp4,Dog\r\ngone_000000.mp4,Bell\r\n")
    four.write_text("---g-f_I2yQ,1,Dog,test\n--0PQM4-hqg,30,Bell,train\nXXXXXXXXXXX,0,Bell,train\n")
    options = ListOptions(root=videos)
    prepare(two, tmp_path / "two", list_options=options, workers=0)
    found = {name: (row.status, row.labels) for name, row in rows_of(tmp_path / "two").items()}
    assert found == {"---g-f_I2yQ_000001.mp4": ("ok", ("Dog",)), "gone_000000.mp4": ("refused", ("Bell",))}
    surveyed = {file.name: (file.labels.split, file.problem) for file in survey(four, options=options)}
    assert surveyed == {
        "---g-f_I2yQ_000001.mp4": ("test", ""),
        "--0PQM4-hqg_000030.mp4": ("train", ""),
        "XXXXXXXXXXX_000000": ("train", "the file does not exist"),
    }
    (videos / "--0PQM4-hqg_000030.wav").write_bytes(b"")
    assert "several files" in {file.name: file.problem for file in survey(four, options=options)}["--0PQM4-hqg_000030"]


def test_labels_of_esc50_fit_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("1-1-A-0.wav", "5-2-B-3.wav"):
        synthetic.make_sound(folder / name, seconds=1.0)
    table = tmp_path / "esc50.csv"
    table.write_text("filename,fold,target,category,esc10,src_file,take\n1-1-A-0.wav,1,0,dog,True,1,A\n")
    files = {file.name: file.labels for file in survey(folder, read_labels(table))}
    assert files == {"1-1-A-0.wav": FileLabels(labels=("dog",), split="fold1"), "5-2-B-3.wav": FileLabels()}
    (file,) = survey(table, options=ListOptions(root=folder))
    assert (file.name, file.problem, file.labels.split) == ("1-1-A-0.wav", "", "fold1")


def test_labels_add_to_what_a_list_says(published: Path, options: ListOptions) -> None:
    labels = {"whole": FileLabels(split="val"), "some": FileLabels(labels=("Dog",), weight=3.0)}
    files = {file.name: file.labels for file in survey(published / "test.json", labels, options)}
    assert files["whole"] == FileLabels(labels=("Bell_ ringing",), split="val", weight=0.0)
    assert files["some"] == FileLabels(labels=("Dog",), weight=3.0)


def test_a_list_none_of_whose_files_is_there_is_refused(published: Path) -> None:
    with pytest.raises(UserError, match=r"none of the 9 files .* --root"):
        survey(published / "test.json")
    with pytest.raises(UserError, match=r"no file that .* names is below /far; the first is <YOUR_PATH>"):
        survey(published / "test.json", options=ListOptions(root=published, moved_from="/far"))


def test_a_folder_takes_no_options_of_lists(published: Path) -> None:
    with pytest.raises(UserError, match="is no list of files, so --root, --classes would do nothing"):
        survey(published, options=ListOptions(root=published, classes=published / "classes.csv"))


def test_the_journal_of_older_stores_is_known_again(tmp_path: Path) -> None:
    """Before lists had weights, an entry had exactly these keys."""
    synthetic.make_sound(tmp_path / "x.wav", seconds=1.0)
    (file,) = survey(tmp_path)
    assert list(file.journal_entry()) == ["path", "size", "changed", "labels", "split"]


def test_the_command_line(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = tmp_path / "old.json"
    old.write_text((published / "test.json").read_text().replace("<YOUR_PATH>", "/far/away"))
    command = ["prepare", str(old), "--store", str(tmp_path / "store"), "--workers", "0", "--json"]
    assert main([*command, "--root", str(published / "data")]) == 1
    assert "none of the 9 files" in capsys.readouterr().err
    root = f"/far/away={published / 'data'}"
    assert main([*command, "--root", root, "--classes", str(published / "classes.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["ok"] == 2
    assert rows_of(tmp_path / "store")["whole"].labels == ("Bell_ ringing",)
