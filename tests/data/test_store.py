"""The store. If these fail, clips are read at the wrong place, or a damaged store is taken for a good one."""

import io
import json
import pickle
import shutil
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookhear.data.manifest import FileLabels, ManifestRow, read_manifest, write_manifest
from lookhear.data.prepare import prepare
from lookhear.data.store import PrepareConfig, Store
from lookhear.errors import ConfigError, StoreError
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound


def test_clips_come_in_order_of_path_and_start(store: Store) -> None:
    order = [(clip.path, clip.start_seconds) for clip in store.clips]
    assert order == sorted(order)
    assert [clip.index for clip in store.clips] == list(range(len(store)))
    assert len({clip.clip_id for clip in store.clips}) == len(store)
    long = [clip for clip in store.clips if clip.path == "first/clip 5.mp4"]
    assert [clip.clip_id for clip in long] == ["first/clip 5.mp4@0", "first/clip 5.mp4@10000"]
    assert [len(clip.frame_seconds) for clip in long] == [50, 12]


def test_frames_and_waveform_are_those_of_the_file(store: Store, media: Path) -> None:
    clip = store.clips[0]
    times = tuple(clip.frame_seconds)
    truth = read_clip(
        media / clip.path, start_seconds=clip.start_seconds, end_seconds=clip.end_seconds, frame_seconds=times
    )
    assert truth.frames is not None
    assert truth.waveform is not None
    frames = store.frames(0, range(len(times)))
    assert frames.shape == truth.frames.shape
    assert abs(frames.astype(int) - truth.frames).mean() < 5  # JPEG
    assert truth.frame_seconds == pytest.approx(times, abs=1e-6)
    waveform = store.waveform(0)
    assert waveform.dtype == np.float32
    assert len(waveform) == clip.num_samples
    assert abs(waveform - truth.waveform).max() <= 0.51 / 32768


def test_any_part_can_be_read(store: Store) -> None:
    frames, waveform = store.frames(2, range(5)), store.waveform(2)
    assert np.array_equal(store.frames(2, [4, 0, 0]), frames[[4, 0, 0]])
    assert store.frames(2, []).shape == (0, 3, 0, 0)
    for start, stop in [(0, 10), (100, 101), (50, 50), (-7, 5), (len(waveform) - 3, len(waveform) + 9), (10**9, None)]:
        end = len(waveform) if stop is None else stop
        assert np.array_equal(store.waveform(2, start, stop), waveform[max(start, 0) : max(end, 0)])
    with pytest.raises(IndexError, match="no frame 99"):
        store.frames(2, [99])


def test_modalities_that_a_file_lacks(store: Store) -> None:
    by_path = {clip.path: clip for clip in store.clips}
    rain, mute = by_path["rain.wav"], by_path["mute.mp4"]
    assert (rain.has_picture, rain.has_sound, rain.picture_span) == (False, True, None)
    assert (mute.has_picture, mute.has_sound, mute.sound_span) == (True, False, None)
    assert len(store.waveform(mute.index)) == 0
    assert by_path["first/clip 1.mp4"].labels == ("bell", "door")


def test_splits(store: Store) -> None:
    assert [store.clips[int(index)].path for index in store.clips_in_split("val")] == ["first/clip 1.mp4"]
    with pytest.raises(StoreError, match=r"no split 'test'; it has: train, val"):
        store.clips_in_split("test")


def test_a_file_may_belong_to_several_splits(tmp_path: Path) -> None:
    """As the videos of UCF101 and HMDB51 do, which are judged on three splits."""
    known = {}
    (tmp_path / "media").mkdir()
    for number, split in enumerate(("train1;test2", "test1;train2", "train1; train2")):
        write_sound(tmp_path / "media" / f"{number}.wav", np.zeros(16000, np.float32), 16000)
        known[f"{number}.wav"] = FileLabels(labels=("hum",), split=split)
    store = Store(prepare(tmp_path / "media", tmp_path / "store", labels=known, workers=0).store)
    assert [store.clips_in_split(name).tolist() for name in ("train1", "test1", "train2")] == [[0, 2], [1], [1, 2]]
    assert store.clips[2].splits == store.manifest[2].splits == ("train1", "train2")
    with pytest.raises(StoreError, match="it has: test1, test2, train1, train2"):
        store.clips_in_split("train1;test2")


def test_a_pickled_store_reads_the_same(store: Store) -> None:
    copy = pickle.loads(pickle.dumps(store))
    assert np.array_equal(copy.frames(1, [0]), store.frames(1, [0]))
    assert copy.digest == store.digest


def test_shards_are_what_webdataset_reads(store_path: Path, store: Store) -> None:
    """Members of a clip follow each other and share the name up to the first dot; nothing tells when they were made."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(store_path / "shard-00000.tar") as shard:
        for member in shard:
            assert (member.mtime, member.uid, member.uname) == (0, 0, "")
            key, _, suffix = member.name.partition(".")
            assert key not in samples or key == list(samples)[-1]
            samples.setdefault(key, {})[suffix] = shard.extractfile(member).read()  # type: ignore[union-attr]
    assert len(samples) == len(store)
    for clip, sample in zip(store.clips, samples.values(), strict=True):
        description = json.loads(sample["json"])
        assert description["clip_id"] == clip.clip_id
        assert description["labels"] == list(clip.labels)
        assert sum(name.endswith("jpg") for name in sample) == len(clip.frame_seconds)
        if clip.has_sound:
            with wave.open(io.BytesIO(sample["wav"])) as sound:
                assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16000, 1, 2)
                assert sound.getnframes() == clip.num_samples
        if clip.has_picture:
            assert Image.open(io.BytesIO(sample["000.jpg"])).size == (104, 48)


def copy_of(store_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(store_path, tmp_path / "copy"))


def test_no_store_and_unfinished_stores_say_so(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist; make one"):
        Store(tmp_path / "nothing")
    copy = copy_of(store_path, tmp_path)
    (copy / "store.json").unlink()
    with pytest.raises(StoreError, match="unfinished; run `lookhear prepare` again"):
        Store(copy)


def test_another_format_is_refused(store_path: Path, tmp_path: Path) -> None:
    copy = copy_of(store_path, tmp_path)
    description = json.loads((copy / "store.json").read_text())
    (copy / "store.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        Store(copy)
    (copy / "store.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be read"):
        Store(copy)


def test_damage_is_found(store_path: Path, tmp_path: Path) -> None:
    copy = copy_of(store_path, tmp_path)
    shard = copy / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    place = data.index(b"\xff\xd8\xff")
    data[place : place + 600] = bytes(600)
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="frame 0 is no JPEG"):
        Store(copy).frames(0, [0])
    shard.write_bytes(data[:5000])
    with pytest.raises(StoreError, match="5000 bytes, not"):
        Store(copy).waveform(0)
    shard.unlink()
    with pytest.raises(StoreError, match="cannot read the shard"):
        Store(copy).waveform(0)
    (copy / "index.npz").write_bytes(b"PK nonsense")
    with pytest.raises(StoreError, match="index"):
        Store(copy)


@pytest.mark.parametrize(
    "path", ["a b.mp4", "zwei\nzeilen.mp4", "été 日本.mp4", "bad\udcff.mp4", 'quote".mp4', "x\u2028y"]
)
def test_manifest_rows_survive(tmp_path: Path, path: str) -> None:
    rows = [
        ManifestRow(path=path, status="refused", reason="it is empty", size_bytes=0),
        ManifestRow(path="ok.mp4", status="ok", declared_seconds=1.5, picture_seconds=1.5, labels=("a", "b")),
    ]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert read_manifest(tmp_path / "manifest.jsonl") == rows
    assert (tmp_path / "manifest.jsonl").read_bytes().count(b"\n") == 2


def test_a_bad_manifest_names_its_line(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", [ManifestRow(path="a", status="ok")])
    for line in ('{"path": "b", "status": "fine"}', "[]", "{"):
        (tmp_path / "bad.jsonl").write_text((tmp_path / "manifest.jsonl").read_text() + line + "\n")
        with pytest.raises(StoreError, match="line 2"):
            read_manifest(tmp_path / "bad.jsonl")


def test_prepare_settings_are_checked() -> None:
    for wrong in ({"clip_seconds": 0.5}, {"frames_per_second": 0.0}, {"jpeg_quality": 101}, {"short_side": 0}):
        with pytest.raises(ConfigError):
            PrepareConfig(**wrong)  # type: ignore[arg-type]
