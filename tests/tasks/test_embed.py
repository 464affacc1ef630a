"""If these fail, vectors on disk are not those of the model, a file is missing without a word, or a kill loses work."""

import errno
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookhear.data.lock import only_writer
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.data.vectors import read_embeddings
from lookhear.embedder import Embedder
from lookhear.errors import ConfigError, MediaError, StoreError
from lookhear.media.clip import Clip
from lookhear.media.decode import open_media
from lookhear.media.encode import write_sound
from lookhear.tasks import embed as embedding
from lookhear.tasks.embed import EmbedSummary, embed
from tiny_embedder import RATE, in_memory_embedder, make_clip, save_tiny, tiny_embedder, tune


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos, a sound, a silent video, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    make_clip(folder / "a.mp4", 0, seconds=1.2)
    make_clip(folder / "below" / "b.mp4", 1, seconds=0.3)  # shorter than a window
    make_clip(folder / "c silent.mp4", 2, seconds=0.8, sound=False)
    write_sound(folder / "d.wav", tune(3, 1.0), RATE)
    (folder / "e broken.mp4").write_bytes(b"\0" * 5000)
    return folder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return tiny_embedder(tmp_path_factory.mktemp("model"))


def _digests(folder: Path) -> dict[str, str]:
    files = {path.name: path for path in folder.iterdir() if path.name != "embeddings.json"}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(files.items())}


def _run(source: Path, out: Path, embedder: Embedder, **options: object) -> EmbedSummary:
    return embed(source, out, model=embedder, **({"workers": 0} | options))  # type: ignore[arg-type]


def test_every_file_has_a_row_and_its_vectors_are_those_of_embed(
    media: Path, embedder: Embedder, tmp_path: Path
) -> None:
    summary = _run(media, tmp_path / "out", embedder)
    stored = read_embeddings(tmp_path / "out")
    by_path = {file.path: file for file in stored.files}
    assert list(by_path) == sorted(by_path) == ["a.mp4", "below/b.mp4", "c silent.mp4", "d.wav", "e broken.mp4"]
    assert [file.status for file in stored.files] == ["ok", "ok", "picture_only", "sound_only", "refused"]
    assert summary.counts["refused"] == 1
    assert summary.refused[0].path == "e broken.mp4"
    assert summary.refused[0].reason == by_path["e broken.mp4"].reason != ""
    assert summary.windows == sum(file.num_rows for file in stored.files) == len(stored.shard(0))
    for path, file in by_path.items():
        if file.status == "refused":
            assert len(stored.windows(file)) == 0
            continue
        expected, found = embedder.embed(media / path), stored.windows(file)
        np.testing.assert_array_equal(found.start_seconds, expected.start_seconds)
        np.testing.assert_array_equal(found.end_seconds, expected.end_seconds)
        for ours, theirs in ((found.audio, expected.audio), (found.visual, expected.visual)):
            assert ours is not None
            if theirs is None:
                assert np.isnan(ours).all()
            else:
                np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert isinstance(stored.shard(0).audio, np.memmap)


def test_numpy_opens_it_without_us(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    _run(media, tmp_path / "out", embedder, dtype="float16")
    vectors = np.load(tmp_path / "out" / "shard-00000.audio.npy", mmap_mode="r")
    assert vectors.dtype == np.float16
    rows = [json.loads(line) for line in (tmp_path / "out" / "shard-00000.jsonl").read_text().splitlines()]
    first = rows[0]
    expected = embedder.embed(media / "a.mp4").audio
    found = vectors[first["first_row"] : first["first_row"] + first["num_rows"]]
    np.testing.assert_allclose(found.astype(np.float32), expected, atol=1e-3)


@pytest.mark.parametrize("what", ["pooled", "tokens"])
def test_what_comes_before_the_shared_space(what: str, media: Path, embedder: Embedder, tmp_path: Path) -> None:
    _run(media, tmp_path / "out", embedder, what=what)
    stored = read_embeddings(tmp_path / "out")
    windows = stored.windows(stored.files[0])
    np.testing.assert_array_equal(stored.windows(stored.files[0].path).start_seconds, windows.start_seconds)
    with pytest.raises(StoreError, match=r"has no file 'gone\.mp4'"):
        stored.windows("gone.mp4")
    clip = _clip(media / "a.mp4", embedder)
    output = embedder.tokens(clip, float(windows.start_seconds[1]))
    for found, encoded in ((windows.audio, output.audio), (windows.visual, output.visual)):
        assert found is not None
        assert encoded is not None
        expected = (encoded.tokens if what == "tokens" else encoded.pooled)[0, 0]
        assert found.shape[1:] == expected.shape
        np.testing.assert_allclose(found[1], expected.numpy(), atol=1e-4)


def test_one_modality_alone(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    _run(media / "d.wav", tmp_path / "sound", embedder)
    sound = read_embeddings(tmp_path / "sound").shard(0)
    assert sound.visual is None
    assert np.isfinite(sound.audio).all()
    _run(media / "c silent.mp4", tmp_path / "picture", embedder)
    picture = read_embeddings(tmp_path / "picture").shard(0)
    assert picture.audio is None
    assert np.isfinite(picture.visual).all()


def test_one_window_at_a_time_and_many_small_shards(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(media, tmp_path / "large", embedder)
    monkeypatch.setattr(embedding, "_SHARD_FILES", 1)
    small = Embedder(
        embedder.model,
        embedder.preprocess,
        config=embedder.config,
        fingerprint=embedder.fingerprint,
        device="cpu",
        dtype="float32",
        batch_size=1,
    )
    _run(media, tmp_path / "small", small)
    large, small_shards = read_embeddings(tmp_path / "large"), read_embeddings(tmp_path / "small")
    assert small_shards.num_shards == 5
    assert len(small_shards.shard(4)) == 0, "a shard of refused files is a shard too"
    for one, other in zip(large.files, small_shards.files, strict=True):
        ours, theirs = large.windows(one), small_shards.windows(other)
        np.testing.assert_array_equal(ours.start_seconds, theirs.start_seconds)
        if theirs.audio is not None:
            np.testing.assert_allclose(ours.audio, theirs.audio, atol=1e-5)


def test_a_long_file_is_decoded_in_stretches(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lookhear.data import stretch

    write_sound(tmp_path / "long.wav", tune(5, 40.0), RATE)
    write_sound(tmp_path / "short.wav", tune(6, 1.0), RATE)
    _run(tmp_path, tmp_path / "whole", embedder)
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 1.0)  # of 30 s spans: one at a time
    _run(tmp_path, tmp_path / "pieces", embedder)
    assert _digests(tmp_path / "whole") == _digests(tmp_path / "pieces")
    stored = read_embeddings(tmp_path / "whole")
    starts = stored.windows(stored.files[0]).start_seconds
    assert starts[-1] > 39.0
    assert (np.diff(starts) > 0).all()


def test_a_second_run_takes_only_what_is_new(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    folder, out = tmp_path / "media", tmp_path / "out"
    make_clip(folder / "b.mp4", 0, seconds=0.6)
    _run(folder, out, embedder)
    before = _digests(out)
    again = _run(folder, out, embedder)
    assert (again.files, again.done_before) == (1, 1)
    assert _digests(out) == before
    make_clip(folder / "a.mp4", 1, seconds=0.6)
    more = _run(folder, out, embedder)
    assert (more.files, more.done_before) == (2, 1)
    assert [file.path for file in read_embeddings(out).files] == ["b.mp4", "a.mp4"]
    make_clip(folder / "b.mp4", 2, seconds=0.7)
    with pytest.raises(StoreError, match="has changed"):
        _run(folder, out, embedder)


def test_a_refused_file_does_not_stand_in_the_way(embedder: Embedder, tmp_path: Path) -> None:
    """It has no vectors: mended it is taken, its old row counts no more, and when asked it is tried again as it is."""
    folder, out = tmp_path / "media", tmp_path / "out"
    make_clip(folder / "b.mp4", 0, seconds=0.6)
    (folder / "a.mp4").write_bytes(b"\0" * 5000)
    (folder / "c.mp4").write_bytes(b"\0" * 5000)
    assert _run(folder, out, embedder).counts["refused"] == 2
    make_clip(folder / "a.mp4", 1, seconds=0.6)
    mended = _run(folder, out, embedder)
    assert (mended.files, mended.done_before, mended.counts["refused"], mended.counts["ok"]) == (3, 2, 1, 2)
    stored = read_embeddings(out)
    assert {file.path: file.status for file in stored.files} == {"b.mp4": "ok", "c.mp4": "refused", "a.mp4": "ok"}
    assert stored.num_shards == 2
    windows = stored.windows(stored.files[-1])
    np.testing.assert_allclose(windows.audio, embedder.embed(folder / "a.mp4").audio, atol=1e-5)
    again = _run(folder, out, embedder, retry_refused=True)
    assert (again.files, again.done_before, again.counts["refused"]) == (3, 2, 1)
    assert _run(folder, out, embedder).done_before == 3
    with pytest.raises(ConfigError, match="time limit above 0"):
        _run(folder, out, embedder, time_limit_seconds=0)


def test_one_process_writes_at_a_time(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    """A second run must not clear away the shard that the first is writing."""
    out = tmp_path / "out"
    _run(media / "d.wav", out, embedder)
    with only_writer(out):
        (out / "shard-00001.times.npy.1.tmp").write_bytes(b"under way")
        with pytest.raises(StoreError, match="another process is writing"):
            _run(media / "d.wav", out, embedder)
        assert (out / "shard-00001.times.npy.1.tmp").exists()
    _run(media / "d.wav", out, embedder)
    assert not (out / "shard-00001.times.npy.1.tmp").exists(), "of a run that was killed"


def test_the_precision_of_the_model_is_not_mixed(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    _run(media / "d.wav", tmp_path / "out", embedder)
    assert read_embeddings(tmp_path / "out").facts.precision == "float32"
    rough = in_memory_embedder(dtype="bfloat16")
    rough.fingerprint = embedder.fingerprint
    with pytest.raises(StoreError, match="precision float32 there, bfloat16 now"):
        _run(media / "d.wav", tmp_path / "out", rough)


def test_another_way_is_refused_with_a_sentence(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(media, out, embedder)
    before = _digests(out)
    other = tiny_embedder(tmp_path, seed=1)
    for options, said in (
        ({"embedder": other}, "fingerprint"),
        ({"what": "pooled"}, "what embedding there, pooled now"),
        ({"dtype": "float16"}, "dtype"),
        ({"hop_seconds": 0.1}, "hop_seconds"),
        ({"source": media / "below"}, "source"),
    ):
        with pytest.raises(StoreError, match=f"made in another way .*{said}"):
            _run(**({"source": media, "out": out, "embedder": embedder} | options))  # type: ignore[arg-type]
    assert _digests(out) == before
    with pytest.raises(StoreError, match="not empty"):
        _run(media, media, embedder)
    with pytest.raises(StoreError, match="is a file"):
        _run(media, media / "a.mp4", embedder)


def test_nothing_to_embed(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no media"):
        _run(tmp_path / "empty", tmp_path / "out", embedder)
    with pytest.raises(MediaError, match="does not exist"):
        _run(tmp_path / "nowhere", tmp_path / "out", embedder)
    assert not (tmp_path / "out").exists()
    with pytest.raises(StoreError, match="no embeddings"):
        read_embeddings(tmp_path / "empty")


def test_a_store_gives_what_its_media_give(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    config = PrepareConfig(clip_seconds=1.0, frames_per_second=10.0)
    prepare(media, tmp_path / "store", config=config, workers=0)
    summary = _run(tmp_path / "store", tmp_path / "out", embedder)
    stored = read_embeddings(tmp_path / "out")
    assert summary.files == len(stored.files) == 4, "the refused file is in the manifest of the store"
    assert stored.files[0].path == "a.mp4@0"
    assert [file.status for file in stored.files] == ["ok", "ok", "picture_only", "sound_only"]
    found, expected = stored.windows(stored.files[0]), embedder.embed(media / "a.mp4")
    assert expected.audio is not None
    cosines = (found.audio[:3] * expected.audio[:3]).sum(axis=1)
    np.testing.assert_array_equal(found.start_seconds[:3], expected.start_seconds[:3])
    assert cosines.min() > 0.99, "the store keeps 16 bit sound"


def test_a_store_that_was_made_anew_is_not_taken_for_the_old_one(
    media: Path, embedder: Embedder, tmp_path: Path
) -> None:
    """The clips have the same names, and other sound: vectors of the old ones would be passed off as theirs."""
    config = PrepareConfig(clip_seconds=1.0, frames_per_second=10.0)
    prepare(media, tmp_path / "store", config=config, workers=0)
    _run(tmp_path / "store", tmp_path / "out", embedder)
    shutil.rmtree(tmp_path / "store")
    prepare(media, tmp_path / "store", config=replace(config, frames_per_second=5.0), workers=0)
    with pytest.raises(StoreError, match=r"made in another way .*store_digest"):
        _run(tmp_path / "store", tmp_path / "out", embedder)


def test_a_hop_of_nothing_and_a_full_disk_are_said(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hop in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="hop above 0"):
            _run(media, tmp_path / "out", embedder, hop_seconds=hop)
    assert not (tmp_path / "out").exists(), "no file was written down as refused"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(embedding.ShardWriter, "finish", full)
        with pytest.raises(StoreError, match="No space left on device; mend that"):
            _run(media, tmp_path / "out", embedder)
    assert _run(media, tmp_path / "out", embedder).files == 5


def test_a_damaged_folder_is_named(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(media / "d.wav", out, embedder)
    index = (out / "shard-00000.jsonl").read_bytes()
    (out / "shard-00000.jsonl").write_bytes(b"{")
    with pytest.raises(StoreError, match="damaged"):
        read_embeddings(out)
    (out / "shard-00000.jsonl").write_bytes(index)
    (out / "shard-00000.audio.npy").write_bytes(b"no array")
    with pytest.raises(StoreError, match=r"audio\.npy is damaged"):
        read_embeddings(out).shard(0)
    (out / "embeddings.json").write_text('{"format": 9}')
    with pytest.raises(StoreError, match="format 9"):
        read_embeddings(out)


def test_an_embedder_in_memory_will_do(media: Path, tmp_path: Path) -> None:
    assert _run(media / "a.mp4", tmp_path / "out", in_memory_embedder()).counts["ok"] == 1


_EMBED = """
import sys
from pathlib import Path
from lookhear.tasks import embed as embedding
embedding._SHARD_FILES = 3
if __name__ == "__main__":
    embedding.embed(sys.argv[1], sys.argv[2], model=sys.argv[3], workers=1)
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_run_again_it_writes_the_same(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model.safetensors")
    for number in range(40):
        make_clip(tmp_path / "media" / f"{number:02d}.mp4", number, seconds=0.6)
    (tmp_path / "media" / "17b.mp4").write_bytes(b"broken")
    write_sound(tmp_path / "media" / "18b.wav", tune(5, 150.0), RATE)  # of two stretches
    script = tmp_path / "run.py"
    script.write_text(_EMBED)
    command = [sys.executable, str(script), str(tmp_path / "media")]
    subprocess.run([*command, str(tmp_path / "whole"), str(model)], check=True)
    started = time.monotonic()
    subprocess.run([*command, str(tmp_path / "timed"), str(model)], check=True)
    seconds = time.monotonic() - started
    rng, kills = random.Random(0), 0
    while kills < 5:
        process = subprocess.Popen([*command, str(tmp_path / "killed"), str(model)])
        try:
            process.wait(timeout=seconds * rng.uniform(0.5, 0.95))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        else:  # the machine was slower when the run was timed
            shutil.rmtree(tmp_path / "killed")
            seconds /= 2
    subprocess.run([*command, str(tmp_path / "killed"), str(model)], check=True)
    assert _digests(tmp_path / "killed") == _digests(tmp_path / "whole") == _digests(tmp_path / "timed")
    assert len(read_embeddings(tmp_path / "killed").files) == 42


def _clip(path: Path, embedder: Embedder) -> Clip:
    plan = embedder.plan()
    with open_media(path) as media:
        [(clip, _)] = plan.read(media, plan.spans(media.info))
    return clip
