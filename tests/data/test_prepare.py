"""`prepare`. If these fail, a bad file stops a run or is silently missing, or what comes out depends on luck."""

import errno
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bad_decoders
import pytest

import synthetic
from locked_folders import lock_folders
from lookhear.data import assemble as assemble_module
from lookhear.data import staging
from lookhear.data.lists import Listed, read_labels, read_list
from lookhear.data.manifest import FileLabels, ManifestRow, read_manifest
from lookhear.data.prepare import PrepareConfig, prepare
from lookhear.data.staging import clip_spans
from lookhear.data.store import Store
from lookhear.errors import StoreError, UserError


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, byte for byte."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(store: Path) -> dict[str, ManifestRow]:
    return {row.path: row for row in read_manifest(store / "manifest.jsonl")}


@pytest.fixture(scope="module")
def undisturbed(media: Path, tmp_path_factory: pytest.TempPathFactory, config: PrepareConfig) -> Path:
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    prepare(media, store, config=config, workers=0)
    return store


# ---- what comes of files


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory, config: PrepareConfig) -> tuple[dict[str, ManifestRow], Store]:
    folder = synthetic.make_messy_folder(tmp_path_factory.mktemp("messy") / "media")
    synthetic.make_video(folder / "late sound.mp4", seconds=3.0, sound_start=1.0, beep_times=(1.5,))
    synthetic.make_video(folder / "gap.mp4", seconds=4.0, sound_gap=(1.0, 2.0))
    store = folder.parent / "store"
    summary = prepare(folder, store, config=config, workers=2)
    assert summary.files == sum(summary.counts.values())
    return rows_of(store), Store(store)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("good.mp4", "ok", ""),
        ("front.mp4", "ok", ""),
        ("short.mp4", "ok", ""),
        ("Ünïcode/naïve 映画\nsecond line.mp4", "ok", ""),
        ("late sound.mp4", "ok", ""),
        ("gap.mp4", "ok", ""),
        ("soundless.mp4", "picture_only", "no sound track"),
        ("pictureless.wav", "sound_only", "no picture track"),
        ("cover.m4a", "sound_only", "cover art"),
        ("truncated.mp4", "partial", "header declares"),
        ("flipped.mp4", "partial", "damaged"),
        ("empty.mp4", "refused", "empty"),
        ("text.mp4", "refused", "not a media file"),
        ("folder.mp4", "refused", "folder"),
        pytest.param("loop.mp4", "refused", "link", marks=pytest.mark.skipif(os.name == "nt", reason="no links")),
    ],
)
def test_every_file_has_a_truthful_row(
    messy: tuple[dict[str, ManifestRow], Store], name: str, status: str, words: str
) -> None:
    row = messy[0][name]
    assert row.status == status, row
    assert words in row.reason
    assert bool(row.reason) == (status != "ok")


def test_no_file_is_missing_and_no_other_is_there(messy: tuple[dict[str, ManifestRow], Store]) -> None:
    rows, store = messy
    assert len(rows) == 15 if os.name != "nt" else 14
    assert "notes.txt" not in rows
    assert {clip.path for clip in store.clips} == {row.path for row in rows.values() if row.status != "refused"}
    for row in rows.values():
        if row.status == "refused":
            assert row.picture_seconds == row.sound_seconds == 0.0


def test_seconds_are_those_decoded(messy: tuple[dict[str, ManifestRow], Store]) -> None:
    rows, _ = messy
    good, cut, late, gap = (rows[name] for name in ("good.mp4", "truncated.mp4", "late sound.mp4", "gap.mp4"))
    assert good.declared_seconds == pytest.approx(2.0, abs=0.15)
    assert (good.picture_seconds, good.sound_seconds) == (pytest.approx(2.0, abs=0.1), pytest.approx(2.0, abs=0.1))
    assert cut.declared_seconds == pytest.approx(2.0, abs=0.15)
    assert 0.5 < cut.picture_seconds < 1.8
    assert late.sound_seconds == pytest.approx(2.0 if late.sound_track_seconds < 2.5 else 3.0, abs=0.15)  # type: ignore[operator]
    assert gap.sound_seconds == pytest.approx(3.0, abs=0.2)


def test_nothing_is_made_up(messy: tuple[dict[str, ManifestRow], Store]) -> None:
    """What is stored of a file covers what was decoded and no more; a sound that starts late is known to."""
    _, store = messy
    for clip in store.clips:
        assert clip.has_picture == (clip.picture_span is not None)
        assert clip.has_sound == (clip.sound_span is not None)
    late = next(clip for clip in store.clips if clip.path == "late sound.mp4")
    assert late.sound_span is not None
    assert late.sound_span[0] == pytest.approx(1.0, abs=0.1)
    assert abs(store.waveform(late.index, 0, 15000)).max() == 0
    short = next(clip for clip in store.clips if clip.path == "short.mp4")
    assert short.end_seconds - short.start_seconds < 0.35


def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    synthetic.make_video(tmp_path / "media" / "locked.mp4", seconds=1.0)
    (tmp_path / "media" / "locked.mp4").chmod(0)
    if os.access(tmp_path / "media" / "locked.mp4", os.R_OK):
        pytest.skip("this user may read everything")
    prepare(tmp_path / "media", tmp_path / "store", workers=0)
    row = rows_of(tmp_path / "store")["locked.mp4"]
    assert (row.status, "permission" in row.reason) == ("refused", True)


def test_what_must_not_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media = tmp_path / "media"
    outside = synthetic.make_video(tmp_path / "outside.mp4", seconds=1.0)
    (media / "locked").mkdir(parents=True)
    try:
        (media / "out.mp4").symlink_to(outside)
    except OSError:
        pytest.skip("no links on this system")
    lock_folders(monkeypatch, media / "locked")
    monkeypatch.setattr(staging, "open_media", None)  # nothing may be opened
    prepare(media, tmp_path / "store", workers=0)
    reasons = {name: (row.status, row.reason) for name, row in rows_of(tmp_path / "store").items()}
    assert reasons["out.mp4"] == ("refused", "it is a link out of the folder")
    assert reasons["locked"] == ("refused", "no permission to list this folder; what is in it is not known")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [("hang", "took longer than 1 s"), ("crash", "crashed"), ("eat_memory", "more than 0.59 GiB of memory")],
)
def test_a_file_that_breaks_its_decoder_becomes_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, words: str
) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    for name in ("a.mp4", "bad.mp4", "c.mp4"):
        synthetic.make_video(folder / name, seconds=0.5)
    monkeypatch.setattr("lookhear.data.prepare.stage_file", getattr(bad_decoders, trouble))
    limits = {"time_limit_seconds": 1.0 if trouble == "hang" else 60.0, "memory_limit_bytes": 600 << 20}
    summary = prepare(folder, tmp_path / "store", workers=2, **limits)  # type: ignore[arg-type]
    assert (summary.counts["ok"], summary.counts["refused"]) == (2, 1)
    row = rows_of(tmp_path / "store")["bad.mp4"]
    assert words in row.reason
    assert row.size_bytes > 0


@pytest.mark.parametrize(
    ("seconds", "lengths"),
    [
        (0.2, [0.2]),
        (9.0, [9.0]),
        (10.0, [10.0]),
        (10.9, [10.9]),
        (11.0, [10.0, 1.0]),
        (20.5, [10.0, 10.5]),
        (35.0, [10.0, 10.0, 10.0, 5.0]),
        (0.0, []),
    ],
)
@pytest.mark.parametrize("start", [0.0, -0.5, 1.25])
def test_how_files_are_cut_into_clips(seconds: float, lengths: list[float], start: float) -> None:
    spans = clip_spans(start, start + seconds, 10.0)
    assert [end - first for first, end in spans] == pytest.approx(lengths)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))


# ---- the same result whatever happens


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_byte(
    media: Path, undisturbed: Path, tmp_path: Path, workers: int, config: PrepareConfig
) -> None:
    seen: list[tuple[int, int | None]] = []
    prepare(
        media,
        tmp_path / "store",
        config=config,
        workers=workers,
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert contents(tmp_path / "store") == contents(undisturbed)
    assert seen == [(done, 9) for done in range(10)]


def test_pieces_merge(media: Path, undisturbed: Path, tmp_path: Path, config: PrepareConfig) -> None:
    store = tmp_path / "store"
    for number in (2, 0):
        summary = prepare(media, store, config=config, workers=0, shard=(number, 3))
        assert (summary.files, summary.missing_files > 0) == (3, True)
        with pytest.raises(StoreError, match="unfinished"):
            Store(store)
    assert prepare(media, store, config=config, workers=0, shard=(1, 3)).missing_files == 0
    assert contents(store) == contents(undisturbed)
    assert prepare(media, store, config=config, shard=(2, 3)).nothing_to_do
    with pytest.raises(UserError, match="does not exist: the first of 3 pieces is 0/3"):
        prepare(media, store, config=config, shard=(3, 3))


def test_many_shards(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PrepareConfig) -> None:
    """Clips are found again when each shard holds one file or two."""
    prepare(media, tmp_path / "one", config=config, workers=0)
    monkeypatch.setattr(assemble_module, "SHARD_BYTES", 300_000)
    prepare(media, tmp_path / "many", config=config, workers=0)
    one, many = Store(tmp_path / "one"), Store(tmp_path / "many")
    assert 3 < len(list((tmp_path / "many").glob("shard-*.tar"))) < 9
    assert one.digest == many.digest
    for clip in one.clips:
        assert (one.waveform(clip.index) == many.waveform(clip.index)).all()
        count = len(clip.frame_seconds)
        assert (one.frames(clip.index, range(count)) == many.frames(clip.index, range(count))).all()


def start_prepare(media: Path, store: Path, workers: int) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from lookhear.data import assemble; from lookhear.data.prepare import PrepareConfig, prepare; "
        "assemble.SHARD_BYTES = 300_000; "  # several shards, to be killed between them
        f"prepare({str(media)!r}, {str(store)!r}, config=PrepareConfig(frames_per_second=5.0), workers={workers})"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def kill_and_compare(media: Path, tmp_path: Path, kills: int, seed: int) -> None:
    begun = time.monotonic()
    assert start_prepare(media, tmp_path / "whole", 2).wait(60) == 0
    usual_seconds = time.monotonic() - begun
    expected = contents(tmp_path / "whole")
    rng = random.Random(seed)
    for number in range(kills):
        store = tmp_path / f"killed {number}"
        process = start_prepare(media, store, rng.choice([0, 1, 2]))
        time.sleep(rng.uniform(0.1, 1.1) * usual_seconds)
        process.kill()
        process.wait()
        assert start_prepare(media, store, 1 + number % 2).wait(60) == 0
        assert contents(store) == expected, f"kill {number} of seed {seed}"


def test_a_killed_run_ends_as_an_undisturbed_one(media: Path, tmp_path: Path) -> None:
    kill_and_compare(media, tmp_path, kills=3, seed=int(time.time()))


@pytest.mark.slow
def test_twenty_killed_runs(media: Path, tmp_path: Path) -> None:
    kill_and_compare(media, tmp_path, kills=20, seed=int(time.time()))


@pytest.mark.parametrize("stop_at", ["assemble", "_write_shard", "_finish", "_summary"])
def test_stopped_at_any_step_of_the_end(
    media: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: str, config: PrepareConfig
) -> None:
    """Stopped before and after each of the last steps, a second run makes the same store."""
    prepare_module = sys.modules["lookhear.data.prepare"]
    module = prepare_module if stop_at in ("assemble", "_summary") else assemble_module
    real: Callable[..., object] = getattr(module, stop_at)
    for after in (False, True):
        store = tmp_path / str(after)

        def stop(*arguments: object, after: bool = after, **named: object) -> None:
            if after:
                real(*arguments, **named)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(module, stop_at, stop)
            with pytest.raises(KeyboardInterrupt):
                prepare(media, store, config=config, workers=0)
        prepare(media, store, config=config, workers=0)
        assert contents(store) == contents(undisturbed)


def test_a_second_run_has_nothing_to_do(
    media: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, config: PrepareConfig
) -> None:
    before = contents(undisturbed)
    monkeypatch.setattr("lookhear.data.prepare.LimitedPool", None)  # it would fail if it started one
    summary = prepare(media, undisturbed, config=config)
    assert summary.nothing_to_do
    assert (summary.files, summary.clips, summary.counts["ok"]) == (9, 10, 7)
    assert summary.seconds == pytest.approx(34.5, abs=0.6)
    assert contents(undisturbed) == before


def test_prepare_starts_without_torch() -> None:
    code = "import sys, lookhear.data.prepare; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- refusals and changes


@pytest.fixture
def own_media(media: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "own media"
    folder.mkdir()
    for name in ("first/clip 1.mp4", "second/clip 0.mp4"):
        shutil.copy2(media / name, folder / Path(name).name)
    return folder


def test_a_finished_store_is_not_changed(own_media: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(own_media, store, workers=0)
    before = contents(store)
    with pytest.raises(StoreError, match=r"jpeg_quality: it has 90, asked for 80.*prepare into a new folder"):
        prepare(own_media, store, config=PrepareConfig(jpeg_quality=80), workers=0)
    shutil.copy2(own_media / "clip 1.mp4", own_media / "zzz.mp4")
    with pytest.raises(StoreError, match=r"1 new \(such as 'zzz.mp4'\)"):
        prepare(own_media, store, workers=0)
    (own_media / "zzz.mp4").unlink()
    os.utime(own_media / "clip 0.mp4", (1, 1))
    with pytest.raises(StoreError, match=r"1 changed \(such as 'clip 0.mp4'\)"):
        prepare(own_media, store, workers=0)
    assert contents(store) == before


def test_files_may_change_while_a_store_is_unfinished(
    own_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of files that stayed are kept, shards that were begun are made anew."""
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(assemble_module, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(own_media, store, workers=0)
    assert list(store.glob("shard-*.tar"))
    synthetic.make_video(own_media / "aaa.mp4", seconds=1.5)
    with pytest.raises(StoreError, match="begun with something else"):
        prepare(own_media, store, workers=0, shard=(0, 2))
    with pytest.raises(StoreError, match="short_side"):
        prepare(own_media, store, config=PrepareConfig(short_side=32), workers=0)
    assert prepare(own_media, store, workers=0).files == 3
    prepare(own_media, tmp_path / "other", workers=0)
    assert contents(store) == contents(tmp_path / "other")


def test_a_damaged_piece_is_found_and_made_anew(own_media: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(own_media, store, workers=0, shard=(0, 2))
    piece = next(store.glob("staging/*/*.tar"))
    data = bytearray(piece.read_bytes())
    data[1000] ^= 1
    piece.write_bytes(data)
    with pytest.raises(StoreError, match="damaged; run the same command again"):
        prepare(own_media, store, workers=0)
    prepare(own_media, store, workers=0)
    prepare(own_media, tmp_path / "other", workers=0)
    assert contents(store) == contents(tmp_path / "other")


@pytest.mark.parametrize("room", [0, 5_000, 200_000])
def test_a_full_disk_is_a_sentence_and_loses_nothing(
    own_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """With room for nothing, for part of a piece, and for the pieces but not the shard."""
    left = room

    class FullDisk:
        def __init__(self, file: object) -> None:
            self.file = file
            self.name = "piece"

        def write(self, data: bytes) -> None:
            nonlocal left
            left -= len(data)
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.file.write(data)  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    real = staging._Piece.__init__
    real_copy = assemble_module._copy
    store = tmp_path / "store"
    with monkeypatch.context() as patch:
        patch.setattr(staging._Piece, "__init__", lambda self, file: real(self, FullDisk(file)))  # type: ignore[arg-type]
        patch.setattr(assemble_module, "_copy", lambda piece, file: real_copy(piece, FullDisk(file)))  # type: ignore[arg-type]
        with pytest.raises(StoreError, match=r"No space left.*run the same command again"):
            prepare(own_media, store, workers=0)
    assert not list(store.rglob("*.tmp"))
    assert prepare(own_media, store, workers=0).counts["ok"] == 2
    prepare(own_media, tmp_path / "other", workers=0)
    assert contents(store) == contents(tmp_path / "other")


def test_sources_and_stores_that_make_no_sense(own_media: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "store")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match=r"no media files in .*\.mp4"):
        prepare(tmp_path / "bare", tmp_path / "store")
    with pytest.raises(StoreError, match="is no store; choose a new folder"):
        prepare(own_media, own_media)
    assert not (tmp_path / "store").exists()


def test_a_run_killed_at_the_very_beginning_can_go_on(own_media: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "source.jsonl.123-abc.tmp").write_text("half a li")
    prepare(own_media, tmp_path / "store", workers=0)
    prepare(own_media, tmp_path / "other", workers=0)
    assert contents(tmp_path / "store") == contents(tmp_path / "other")


# ---- one file, lists, labels


def test_one_file_is_a_source(own_media: Path, tmp_path: Path) -> None:
    assert prepare(own_media / "clip 1.mp4", tmp_path / "store", workers=0).clips == 1


def test_lists_with_labels_and_missing_files(own_media: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(
        "path,label,split,other\nown media/clip 1.mp4,dog; cat,val,7\nown media/clip 0.mp4,,train,8\ngone.mp4,,,\n"
    )
    prepare(table, tmp_path / "store", workers=0)
    rows = rows_of(tmp_path / "store")
    assert rows["own media/clip 1.mp4"].labels == ("dog", "cat")
    assert rows["own media/clip 0.mp4"].split == "train"
    assert (rows["gone.mp4"].status, rows["gone.mp4"].reason) == ("refused", "the file does not exist")
    plain = tmp_path / "list.txt"
    plain.write_text("# two files\nown media/clip 1.mp4\n\nown media/clip 0.mp4\r\n")
    assert list(read_list(plain)) == ["own media/clip 1.mp4", "own media/clip 0.mp4"]
    assert prepare(plain, tmp_path / "plain", workers=0).counts["ok"] == 2


def test_any_legal_name_can_stand_in_a_list(tmp_path: Path) -> None:
    names = ["a\u2028b.mp4", "c\rd.mp4", " e\x85f.mp4 ", "g\x0ch.mp4"]
    plain = tmp_path / "list.txt"
    plain.write_bytes("\ufeff".encode() + "\r\n".join(["# four", "", " ", *names, ""]).encode())
    assert list(read_list(plain)) == names
    table = tmp_path / "list.csv"
    names.append("i\nj.mp4")
    rows = "".join(f'"{name}", dog ;cat\r\n' for name in names)
    table.write_bytes(f"\ufeffpath,label\r\n{rows}".encode())
    about = FileLabels(labels=("dog", "cat"))
    assert read_list(table) == {name: Listed(path=name, labels=about) for name in names}


def test_how_the_source_is_spelled_does_not_change_a_byte(
    own_media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.make_empty(own_media / "empty.mp4")
    synthetic.make_renamed_text(own_media / "text.mp4")
    synthetic.make_truncated(own_media / "clip 0.mp4", own_media / "truncated.mp4")  # without its index
    monkeypatch.chdir(tmp_path)
    prepare(own_media.relative_to(tmp_path), tmp_path / "relative", workers=0)
    prepare(own_media.resolve(), tmp_path / "absolute", workers=1)
    assert contents(tmp_path / "relative") == contents(tmp_path / "absolute")
    rows = rows_of(tmp_path / "relative")
    assert (rows["empty.mp4"].status, rows["empty.mp4"].reason) == ("refused", "it is empty (0 bytes)")
    assert not [row for row in rows.values() if own_media.name in row.reason]


def test_labels_must_fit_the_source(own_media: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("file,label\nclip 1.mp4,dog\nunknown.mp4,cat\n")
    labels = read_labels(table)
    assert labels["clip 1.mp4"] == FileLabels(labels=("dog",))
    prepare(own_media, tmp_path / "store", labels=labels, workers=0)
    assert json.loads((tmp_path / "store" / "manifest.jsonl").read_text().splitlines()[1])["labels"] == ["dog"]
    with pytest.raises(UserError, match="write paths relative to the source"):
        prepare(own_media, tmp_path / "other", labels={"x/clip 1.mp4": FileLabels()}, workers=0)
    with pytest.raises(StoreError, match="1 changed"):
        prepare(own_media, tmp_path / "store", labels={"clip 1.mp4": FileLabels(split="val")}, workers=0)
    with pytest.raises(UserError, match=r"\.csv"):
        read_labels(tmp_path / "labels.json")
    table.write_text("name,label\nclip 1.mp4,dog\n")
    with pytest.raises(UserError, match="needs a header with a column 'path'; its first line has: name, label"):
        read_labels(table)


# ---- real clips


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["clips", "formats"])
def test_real_files(tmp_path: Path, kind: str) -> None:
    root = os.environ.get("LOOKHEAR_TEST_MEDIA")
    if not root:
        pytest.skip("LOOKHEAR_TEST_MEDIA names no folder of real media")
    summary = prepare(Path(root) / "media" / kind, tmp_path / "store", workers=2)
    assert summary.counts["refused"] == summary.counts["partial"] == 0
    assert summary.counts["ok"] == summary.files or kind == "formats"
    store = Store(tmp_path / "store")
    for clip in store.clips:
        assert clip.has_sound or clip.has_picture
