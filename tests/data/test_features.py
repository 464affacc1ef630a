"""If these fail, features are taken for those of another file or another time, or of clips in the wrong order."""

from pathlib import Path

import numpy as np
import pytest

from lookhear.data.features import PLAIN, open_features
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.data.vectors import read_embeddings
from lookhear.errors import StoreError
from lookhear.tasks.embed import embed
from tiny_embedder import make_clip, tiny_embedder


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "a@b.mp4", 0, seconds=2.6)
    make_clip(folder / "below" / "c.mp4", 1, seconds=0.8, sound=False)
    (folder / "d.mp4").write_bytes(b"\0" * 999)
    return folder


def test_of_media_files(media: Path, tmp_path: Path) -> None:
    embed(media, tmp_path / "out", model=tiny_embedder(tmp_path), workers=0, what="pooled")
    features, stored = open_features(tmp_path / "out"), read_embeddings(tmp_path / "out")
    assert features.paths == ("a@b.mp4", "below/c.mp4")
    assert features.file("d.mp4") is None
    for file in stored.files[:2]:
        found, windows = features.file(file.path), stored.windows(file)
        assert found is not None
        assert len(found) == len(windows)
        for name, rows in found.arrays.items():
            np.testing.assert_array_equal(rows, getattr(windows, name))
        np.testing.assert_allclose(found.seconds, (windows.start_seconds + windows.end_seconds) / 2)
        assert found.nearest(np.array([0.0, 99.0])).tolist() == [0, len(found) - 1]
    assert features.identity["fingerprint"] == stored.facts.fingerprint
    assert "source" not in features.identity


def test_clips_of_a_store_are_files_again(media: Path, tmp_path: Path) -> None:
    prepare(media, tmp_path / "store", config=PrepareConfig(clip_seconds=1.0, frames_per_second=10), workers=0)
    embed(tmp_path / "store", tmp_path / "out", model=tiny_embedder(tmp_path), workers=0)
    features, stored = open_features(tmp_path / "out"), read_embeddings(tmp_path / "out")
    assert features.paths == ("a@b.mp4", "below/c.mp4")
    found = features.file("a@b.mp4")
    assert found is not None
    assert found.seconds is not None
    clips = [file for file in stored.files if file.path.startswith("a@b.mp4@")]
    assert len(clips) > 1
    assert len(found) == sum(clip.num_rows for clip in clips)
    assert np.all(np.diff(found.seconds) > 0)
    silent = features.file("below/c.mp4")
    assert silent is not None
    assert np.isnan(silent.arrays["audio"]).all()
    assert np.isfinite(silent.arrays["visual"]).all()


def test_arrays_of_another_program(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "x").mkdir()
    sound, seen, whole = rng.random((3, 4)), rng.random((3, 6)), rng.random(5, dtype=np.float32)
    np.save(tmp_path / "x" / "one.mp4.audio.npy", sound)
    np.save(tmp_path / "x" / "one.mp4.visual.npy", seen)
    np.save(tmp_path / "x" / "one.mp4.times.npy", [0.5, 1.5, 2.5])
    np.save(tmp_path / "x" / "two.npy", whole)
    features = open_features(tmp_path)
    assert features.paths == ("x/one.mp4", "x/two")
    one, two = features.file("x/one.mp4"), features.file("x/two.avi")
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.arrays["audio"], sound)
    np.testing.assert_array_equal(one.arrays["visual"], seen)
    assert one.nearest(np.array([[1.4, 2.1], [9.0, 0.0]])).tolist() == [[1, 2], [2, 0]]
    np.testing.assert_array_equal(two.arrays[PLAIN], whole[None])
    with pytest.raises(StoreError, match=r"x/two\.avi\.times\.npy|have no times"):
        two.nearest(np.zeros(1))
    assert features.file("x/three.mp4") is None


def test_what_is_refused(media: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no features"):
        open_features(tmp_path)
    np.save(tmp_path / "a.audio.npy", np.zeros((2, 3)))
    np.save(tmp_path / "a.visual.npy", np.zeros((3, 3)))
    with pytest.raises(StoreError, match="differ in number"):
        open_features(tmp_path).file("a")
    np.save(tmp_path / "b.npy", np.zeros((2, 3), np.int64))
    with pytest.raises(StoreError, match="int64"):
        open_features(tmp_path).file("b")
    embed(media, tmp_path / "out", model=tiny_embedder(tmp_path), workers=0, what="tokens")
    with pytest.raises(StoreError, match="tokens"):
        open_features(tmp_path / "out")
