"""If these fail, the index does not say what is in the folders: files lost, doubled, stale, or refused in silence."""

import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from crawled import by_path, crawl
from index_contents import assert_same, contents
from lookhear.data import stretch
from lookhear.data.stretch import decode_stretch
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.media.workers import Done
from lookhear.search import crawl as crawling
from lookhear.search import hashing
from lookhear.search.crawl import index
from lookhear.search.forget import forget
from lookhear.search.index import Index
from tiny_embedder import RATE, classifier_embedder, make_clip


def test_every_file_has_a_row_and_is_found(media: Path, embedder: Embedder) -> None:
    summary = crawl(media, embedder)
    assert summary.counts == {"ok": 6, "picture_only": 0, "sound_only": 1, "partial": 0, "refused": 0, "waiting": 0}
    assert (summary.added, summary.files, summary.refused) == (7, 7, ())
    rows = by_path(media)
    assert rows["sound.wav"].reason == "no picture track"
    found = Index(media.parent / "index")
    assert summary.moments == len(found.library()) == sum(row.num_moments for row in rows.values())
    hits = found.search(clip=media / "sub1" / "clip3.mp4", top=2)
    assert hits[0].path == str((media / "sub1" / "clip3.mp4").resolve())
    assert hits[0].start_seconds == pytest.approx(0.0, abs=0.05)
    assert hits[0].score > hits[1].score


def test_cuts_find_their_own_moment(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    crawl(media, embedder)
    found = Index(media.parent / "index")
    rng = random.Random(0)
    right = 0
    for number in range(6):
        path = media / f"sub{number % 2}" / f"clip{number}.mp4"
        clip = read_clip(path)
        start = rng.uniform(0.0, clip.end_seconds - 1.0)
        first = round(start * RATE)
        assert clip.waveform is not None
        write_sound(tmp_path / "cut.m4a", clip.waveform[first : first + RATE], RATE)
        hit = found.search(sound=tmp_path / "cut.m4a", top=1)[0]
        right += hit.path == str(path.resolve()) and abs(hit.peak_seconds - (start + 0.5)) <= 0.15
    assert right >= 5


def test_the_second_crawl_finds_nothing_to_do(media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    crawl(media, embedder)
    before = contents(media.parent / "index")
    monkeypatch.setattr(stretch, "decode_stretch", None)  # nothing may be decoded
    summary = crawl(media, embedder)
    assert (summary.unchanged, summary.added) == (7, 0)
    assert contents(media.parent / "index").rows == before.rows


def test_new_changed_renamed_copied_touched_and_deleted(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crawl(media, embedder)
    make_clip(media / "new.mp4", 20)
    make_clip(media / "sub0" / "clip0.mp4", 21)
    (media / "elsewhere").mkdir()
    (media / "sub1" / "clip1.mp4").rename(media / "elsewhere" / "renamed.mp4")
    shutil.copy(media / "sub0" / "clip2.mp4", media / "copy.mp4")
    os.utime(media / "sub1" / "clip3.mp4", ns=(1, 1))
    (media / "sub0" / "clip4.mp4").unlink()
    decoded = []
    monkeypatch.setattr(
        stretch, "open_media", lambda path, original=stretch.open_media: decoded.append(path) or original(path)
    )
    summary = crawl(media, embedder)
    assert (summary.added, summary.changed, summary.moved, summary.copied, summary.deleted) == (1, 1, 1, 1, 1)
    assert summary.unchanged == 4
    assert sorted(Path(path).name for path in decoded) == ["clip0.mp4", "new.mp4"]
    assert by_path(media)["sub1/clip3.mp4"].mtime_ns == 1
    fresh = tmp_path / "fresh"
    index([media], model=embedder, index_path=fresh, workers=0)
    assert_same(media.parent / "index", fresh)
    assert crawl(media, embedder).unchanged == 8


def test_an_index_knows_its_folders(media: Path, embedder: Embedder) -> None:
    place = media.parent / "index"
    with pytest.raises(IndexStateError, match="no index at"):
        index([], model=embedder, index_path=place)
    crawl(media, embedder)
    make_clip(media / "new.mp4", 20)
    summary = index([], model=embedder, index_path=place, workers=0)
    assert (summary.added, summary.unchanged) == (1, 7)


def test_files_that_cannot_be_read(media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    (media / "empty.mp4").touch()
    (media / "text.mp4").write_text("this is no video " * 100)
    (media / "folder.mp4").mkdir()
    whole = (media / "sub0" / "clip0.mp4").read_bytes()
    (media / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    (media / "loop.mp4").symlink_to(media / "loop.mp4")
    (media / "locked.mp4").write_bytes(whole)
    (media / "locked.mp4").chmod(0)
    summary = crawl(media, embedder)
    rows = by_path(media)
    assert len(rows) == summary.files == 13
    refused = {Path(each.path).name: each.reason for each in summary.refused}
    assert {"empty.mp4", "text.mp4", "folder.mp4", "loop.mp4"} <= refused.keys()
    assert "empty" in refused["empty.mp4"]
    assert "folder" in refused["folder.mp4"]
    assert all(row.reason for row in rows.values() if row.status != "ok")
    assert not [row for row in rows.values() if str(media) in row.reason]
    assert rows["truncated.mp4"].status in ("partial", "refused")
    # What could not even be opened is tried again, what was read and is broken is not.
    (media / "locked.mp4").chmod(0o644)
    decoded = []
    monkeypatch.setattr(stretch, "decode_stretch", lambda job: decoded.append(job.path) or decode_stretch(job))
    crawl(media, embedder)
    assert by_path(media)["locked.mp4"].status == "ok"
    assert {"text.mp4", "truncated.mp4"} & {Path(path).name for path in decoded} == set()


def test_one_modality_files(tmp_path: Path, embedder: Embedder) -> None:
    media = tmp_path / "media"
    make_clip(media / "mute.mp4", 1, sound=False)
    make_clip(media / "blind.mp4", 2, picture=False)
    make_clip(media / "tiny.mp4", 3, seconds=0.2)
    summary = crawl(media, embedder)
    assert (summary.counts["picture_only"], summary.counts["sound_only"], summary.counts["ok"]) == (1, 1, 1)
    found = Index(tmp_path / "index")
    assert {hit.matched for hit in found.search(sound=media / "tiny.mp4", within="sound")} == {"sound"}
    names = {Path(hit.path).name for hit in found.search(picture=media / "mute.mp4", within="picture")}
    assert "blind.mp4" not in names
    library = found.library()
    assert library.has_audio.sum() == library.count[[0, 2]].sum()


def test_an_empty_folder_and_folders_that_are_not_there(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert index([empty], model=embedder, index_path=tmp_path / "one", workers=0).files == 0
    assert Index(tmp_path / "one").search(sound=media / "sound.wav") == []
    crawl(media, embedder)
    with pytest.raises(IndexStateError, match="does not exist"):
        index([tmp_path / "gone"], model=embedder, index_path=media.parent / "index")
    with pytest.raises(IndexStateError, match="not a folder"):
        index([media / "sound.wav"], model=embedder, index_path=media.parent / "index")
    with pytest.raises(IndexStateError, match="--model"):
        index([empty], index_path=tmp_path / "two")
    assert len(by_path(media)) == 7


def test_a_link_out_of_the_folder_is_not_opened(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl(media, embedder)
    try:
        (media / "out.mp4").symlink_to(make_clip(media.parent / "outside.mp4", 40))
    except OSError:
        pytest.skip("no links on this system")
    monkeypatch.setattr(stretch, "decode_stretch", None)  # nothing may be decoded, nor hashed
    for _ in range(2):
        summary = crawl(media, embedder)
        assert [refused.reason for refused in summary.refused] == ["it is a link out of the folder"]
    assert by_path(media)["out.mp4"].file_id == ""


def test_other_libraries_stay(tmp_path: Path, media: Path, embedder: Embedder) -> None:
    crawl(media, embedder)
    other = tmp_path / "other"
    make_clip(other / "a.mp4", 30)
    summary = index([other], index_path=tmp_path / "index", model=embedder, workers=0)
    assert (summary.files, summary.deleted) == (1, 0)
    assert len(by_path(media)) == 8
    assert Index(tmp_path / "index").facts.libraries == tuple(sorted(map(str, (media.resolve(), other.resolve()))))


def test_long_files_are_decoded_in_stretches(
    media: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crawl(media, embedder)
    whole = Embedder.plan
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(whole(self, **options), span_seconds=0.8))
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 1.6)
    monkeypatch.setattr(crawling, "_WRITE_FILES", 1)
    index([media], model=embedder, index_path=tmp_path / "cut", workers=0)
    assert_same(media.parent / "index", tmp_path / "cut")


def test_a_stretch_that_fails_makes_the_file_partial(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Embedder.plan
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(whole(self, **options), span_seconds=0.8))
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 0.8)

    def failing(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip3.mp4") and job.stretch == 1:
            raise RuntimeError("the decoder gave up")
        return decode_stretch(job)

    monkeypatch.setattr(stretch, "decode_stretch", failing)
    summary = crawl(media, embedder)
    assert summary.counts["partial"] == 1
    row = by_path(media)["sub1/clip3.mp4"]
    assert "the decoder gave up" in row.reason
    assert 0 < row.num_moments < by_path(media)["sub0/clip4.mp4"].num_moments


def test_a_file_that_changes_while_it_is_read_is_not_believed(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writing(job: stretch.StretchJob) -> stretch.Decoded:
        decoded = decode_stretch(job)
        if job.path.endswith("clip0.mp4"):
            os.utime(job.path, ns=(5, 5))
        return decoded

    monkeypatch.setattr(stretch, "decode_stretch", writing)
    summary = crawl(media, embedder)
    assert [Path(each.path).name for each in summary.refused] == ["clip0.mp4"]
    monkeypatch.undo()
    assert crawl(media, embedder).counts["refused"] == 0


def test_workers_give_the_same(media: Path, embedder: Embedder, tmp_path: Path) -> None:
    crawl(media, embedder)
    notes: list[tuple[int, int | None]] = []
    index(
        [media],
        model=embedder,
        index_path=tmp_path / "workers",
        workers=1,
        progress=lambda done, total, note="": notes.append((done, total)),
    )
    assert_same(media.parent / "index", tmp_path / "workers")
    assert notes == [(done, 7) for done in range(8)]


# ---- causes that pass


def test_a_child_that_is_killed_from_outside_says_nothing_about_its_file(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done by hand: what `workers.py` says of such a child is tested there."""
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 0.8)
    whole = Embedder.plan
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(whole(self, **options), span_seconds=0.8))
    kills = {"sub0/clip0.mp4@0": 1, "sub1/clip1.mp4@1": 1, "sub0/clip2.mp4@0": 9, "sub1/clip3.mp4@1": 9}

    class Killing(crawling.LimitedPool):
        def map(self, function: object, items: object, **options: object) -> object:
            for item in items:  # type: ignore[attr-defined]
                key = f"{Path(item.path).relative_to(media.resolve()).as_posix()}@{item.stretch}"
                if kills.get(key, 0):
                    kills[key] -= 1
                    yield Done(item=item, failure="the process crashed (SIGKILL)", is_from_outside=True)
                else:
                    yield Done(item=item, value=decode_stretch(item))

    with monkeypatch.context() as killing:
        killing.setattr(crawling, "LimitedPool", Killing)
        summary = crawl(media, embedder)
    assert kills == {"sub0/clip0.mp4@0": 0, "sub1/clip1.mp4@1": 0, "sub0/clip2.mp4@0": 7, "sub1/clip3.mp4@1": 7}
    assert sorted(Path(each.path).name for each in summary.refused) == ["clip2.mp4", "clip3.mp4"]
    assert all("next crawl tries it again" in each.reason for each in summary.refused)
    assert (summary.counts["ok"], summary.counts["partial"]) == (4, 0)
    again = crawl(media, embedder)
    assert (again.counts["ok"], again.added, again.unchanged) == (6, 2, 5)
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(media.parent / "index", media.parent / "fresh")


def test_refused_files_are_tried_again_when_asked(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (media / "text.mp4").write_text("this is no video " * 100)

    def failing(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip3.mp4"):
            raise RuntimeError("took longer than 300 s")
        return decode_stretch(job)

    with monkeypatch.context() as failed:
        failed.setattr(stretch, "decode_stretch", failing)
        assert crawl(media, embedder).counts["refused"] == 2
    assert crawl(media, embedder).counts["refused"] == 2
    decoded: list[str] = []
    monkeypatch.setattr(stretch, "decode_stretch", lambda job: decoded.append(job.path) or decode_stretch(job))
    summary = crawl(media, embedder, retry_refused=True)
    assert sorted(Path(path).name for path in decoded) == ["clip3.mp4", "text.mp4"]
    assert (summary.counts["refused"], summary.counts["ok"]) == (1, 6)
    (media / "text.mp4").unlink()
    crawl(media, embedder)
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(media.parent / "index", media.parent / "fresh")


def test_bytes_that_were_refused_in_another_folder_count_once_they_are_read(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever folder comes first in the alphabet."""
    target, first = tmp_path / "index", make_clip(tmp_path / "b" / "x.mp4", 1)
    with monkeypatch.context() as failed:
        failed.setattr(stretch, "decode_stretch", lambda job: stretch.Decoded(refusal="took longer than 300 s"))
        assert index([tmp_path / "b"], model=embedder, index_path=target, workers=0).counts["refused"] == 1
    for name in "ac":
        (tmp_path / name).mkdir()
        shutil.copy(first, tmp_path / name / "x.mp4")
    assert index([tmp_path / "a"], model=embedder, index_path=target, workers=0).counts["refused"] == 1
    read = index([tmp_path / "a"], model=embedder, index_path=target, workers=0, retry_refused=True)
    assert read.counts["ok"] == 1
    assert read.moments == len(Index(target).library()) > 0
    copied = index([tmp_path / "c"], model=embedder, index_path=target, workers=0)
    assert (copied.counts["ok"], copied.copied, copied.moments) == (1, 1, read.moments)


def test_large_files_are_hashed_once_and_in_this_process(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crawl(media, embedder)
    sizes = sorted(path.stat().st_size for path in media.rglob("*.mp4"))
    monkeypatch.setattr(crawling, "_LARGE_BYTES", sizes[3])
    here, inside = [], []
    monkeypatch.setattr(
        hashing, "hash_file", lambda path, **options: here.append(path) or stretch.hash_file(path, **options)
    )
    original = stretch.hash_file
    monkeypatch.setattr(stretch, "hash_file", lambda path, **o: inside.append(path) or original(path, **o))

    def failing(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip5.mp4"):
            raise RuntimeError("crash")
        return decode_stretch(job)

    monkeypatch.setattr(stretch, "decode_stretch", failing)
    index([media], model=embedder, index_path=tmp_path / "large", workers=0)
    large = {path.resolve() for path in media.rglob("*.*") if path.is_file() and path.stat().st_size >= sizes[3]}
    assert set(here) == large
    assert len(here) == len(large) >= 3
    assert len(inside) == 7  # every file once, by either
    rows = {row.path: row for row in Index(tmp_path / "large").files()}
    assert {path: row.file_id for path, row in rows.items()} == {path: r.file_id for path, r in by_path(media).items()}
    assert rows["sub1/clip5.mp4"].status == "refused"


def test_a_model_that_only_hears_leaves_silent_films_out(media: Path) -> None:
    hearing = classifier_embedder(("a",), mode="audio", modalities="audio")
    make_clip(media / "silent.mp4", 40, sound=False)
    summary = crawl(media, hearing)
    assert (summary.counts["ok"], summary.counts["sound_only"]) == (6, 1)
    assert [(Path(each.path).name, each.reason) for each in summary.refused] == [
        ("silent.mp4", "the model embeds neither its sound nor its picture")
    ]


@pytest.mark.parametrize("retry", [False, True])
def test_what_was_read_in_part_stays_until_it_is_forgotten(
    media: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch, retry: bool
) -> None:
    whole = Embedder.plan
    monkeypatch.setattr(Embedder, "plan", lambda self, **options: replace(whole(self, **options), span_seconds=0.8))
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 0.8)

    def slow(job: stretch.StretchJob) -> stretch.Decoded:
        if job.path.endswith("clip3.mp4") and job.stretch == 1:
            raise RuntimeError("took longer than 300 s")
        return decode_stretch(job)

    with monkeypatch.context() as limited:
        limited.setattr(stretch, "decode_stretch", slow)
        assert crawl(media, embedder).counts["partial"] == 1
    before = contents(media.parent / "index").rows
    assert crawl(media, embedder, retry_refused=retry).unchanged == 7
    assert contents(media.parent / "index").rows == before
    forget([media / "sub1" / "clip3.mp4"], index_path=media.parent / "index")
    assert crawl(media, embedder, retry_refused=retry).counts["partial"] == 0
    index([media], model=embedder, index_path=media.parent / "fresh", workers=0)
    assert_same(media.parent / "index", media.parent / "fresh")


# ---- files that are still being written


def test_a_file_that_was_just_written_waits(media: Path, embedder: Embedder) -> None:
    old = time.time_ns() - 3600 * 10**9
    for path in media.rglob("*.*"):
        os.utime(path, ns=(old, old))
    crawl(media, embedder)
    before = contents(media.parent / "index")
    make_clip(media / "new.mp4", 20)
    make_clip(media / "sub0" / "clip0.mp4", 21)
    ahead = time.time_ns() + 3600 * 10**9
    make_clip(media / "ahead.mp4", 22)
    os.utime(media / "ahead.mp4", ns=(ahead, ahead))  # written by a machine whose clock is wrong
    summary = crawl(media, embedder, settle_seconds=60.0)
    assert sorted(Path(each.path).name for each in summary.waiting) == ["clip0.mp4", "new.mp4"]
    assert (summary.counts["waiting"], summary.added, summary.changed, summary.refused) == (1, 1, 0, ())
    rows = by_path(media)
    assert (rows["new.mp4"].status, rows["new.mp4"].num_moments) == ("waiting", 0)
    assert "still being written" in rows["new.mp4"].reason
    assert rows["sub0/clip0.mp4"] in before.rows  # what was known of it stays until it is known better
    os.utime(media / "new.mp4", ns=(old, old))
    os.utime(media / "sub0" / "clip0.mp4", ns=(old, old))
    summary = crawl(media, embedder, settle_seconds=60.0)
    assert (summary.added, summary.changed, summary.waiting, summary.counts["waiting"]) == (1, 1, (), 0)
    assert by_path(media)["new.mp4"].status == "ok"
