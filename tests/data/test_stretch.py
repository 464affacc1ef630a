"""If these fail, a long file is decoded wrongly where its stretches meet, or its beginning is read again and again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookhear.data import stretch
from lookhear.data.stretch import Decoded, Gathered, StretchJob, decode_stretch, decode_stretches, hash_file
from lookhear.data.windows import join_windows
from lookhear.embedder import Embedder
from lookhear.media import decode
from lookhear.media.encode import write_video
from lookhear.media.workers import Done, LimitedPool
from synthetic import make_video
from tiny_embedder import RATE, in_memory_embedder, slides, tune

SECONDS = 8.0


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return in_memory_embedder()


# AVI with this codec says of no frame when it is shown, so every one is decoded in turn.
CODECS = {"avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le"}, "flv": {"codec": "libx264"}}


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi", "flv"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / f"long.{request.param}"
    sound = {"beep_times": (0.5, 2.2, 5.1, 6.7), "sound_rate": 44100 if path.suffix == ".flv" else 16000}
    return make_video(path, seconds=SECONDS, **sound, **CODECS.get(request.param, {}))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stretch, "STRETCH_SECONDS", 1.6)
    monkeypatch.setattr(stretch, "_open_reading", None)
    yield
    if stretch._open_reading is not None:
        stretch._open_reading.close()


def job(embedder: Embedder, path: Path, number: int) -> StretchJob:
    plan = replace(embedder.plan(), span_seconds=0.8)
    return StretchJob(rank=0, path=str(path), plan=plan, stretch=number)


def one_by_one(embedder: Embedder, path: Path, numbers: list[int]) -> list[Decoded]:
    """Each from a file that is opened anew."""
    found = []
    for number in numbers:
        stretch._open_reading = None
        found.append(decode_stretch(job(embedder, path, number)))
    stretch._open_reading = None
    return found


def assert_same(ours: Decoded, theirs: Decoded) -> None:
    assert (ours.file_id, ours.num_stretches, ours.problems) == (theirs.file_id, theirs.num_stretches, theirs.problems)
    mine, other = join_windows(ours.windows), join_windows(theirs.windows)
    for name, rows in vars(mine).items():
        # Sound that is decoded from the middle of a file on differs from the same in one go by rounding.
        assert np.allclose(rows, getattr(other, name), atol=2e-3), name


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 2, 4], [1, 3], [0, 1, 0, 4, 2]])
def test_a_file_that_stays_open_gives_the_same(embedder: Embedder, video: Path, order: list[int]) -> None:
    slow = one_by_one(embedder, video, order)
    fast = [decode_stretch(job(embedder, video, number)) for number in order]
    assert all(len(each.windows) for each in fast)
    for ours, theirs in zip(fast, slow, strict=True):
        assert_same(ours, theirs)


def test_packets_are_read_once(embedder: Embedder, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[str] = []
    packets: list[int] = []

    def scan(container: Any, original: Any = decode._scan) -> Any:
        scans.append(container.name)
        return original(container)

    def next_packet(self: Any, original: Any = decode._Stream.next_packet) -> Any:
        packets.append(self._index)
        return original(self)

    monkeypatch.setattr(decode, "_scan", scan)
    monkeypatch.setattr(decode._Stream, "next_packet", next_packet)
    num_stretches = decode_stretch(job(embedder, video, 0)).num_stretches
    assert num_stretches > 4
    for number in range(1, num_stretches):
        decode_stretch(job(embedder, video, number))
    assert len(scans) == 1
    assert stretch._open_reading is None  # closed after the last one
    num_once = len(packets)
    one_by_one(embedder, video, list(range(num_stretches)))
    assert len(packets) - num_once > 2 * num_once


def test_a_file_that_was_changed_is_opened_anew(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, frames=slides(1, 4.0), frames_per_second=10.0, waveform=tune(1, 4.0))
    decode_stretch(job(embedder, path, 0))
    write_video(path, frames=slides(2, 4.5), frames_per_second=10.0, waveform=tune(2, 4.5))
    assert_same(decode_stretch(job(embedder, path, 1)), one_by_one(embedder, path, [1])[0])


def test_what_is_known_or_unwanted_is_not_hashed(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * (RATE // 2))
    assert len(hash_file(path)) == 32
    assert hash_file(path, is_unwanted=lambda: True) == ""
    assert hash_file(tmp_path / "nowhere") == ""
    monkeypatch.setattr(stretch, "hash_file", None)
    known = replace(job(embedder, path, 0), file_id="0" * 32, known_ids=frozenset(["0" * 32]))
    assert not decode_stretch(known).refusal  # nor decoded
    assert "media file" in decode_stretch(replace(known, known_ids=frozenset())).refusal


class Killing(LimitedPool):
    """Of its processes, each stretch loses so many to somebody else."""

    def __init__(self, kills: dict[int, int]) -> None:
        super().__init__(0, time_limit_seconds=60.0)
        self.kills = kills

    def map(self, function: Any, items: Any, **options: Any) -> Iterator[Done]:
        for item in items:
            if self.kills.get(item.stretch, 0):
                self.kills[item.stretch] -= 1
                yield Done(item=item, failure="it was killed", is_from_outside=True)
            else:
                yield from super().map(function, [item], **options)


def test_a_process_that_was_stopped_from_outside_gets_one_more_try(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, frames=slides(1, 4.0), frames_per_second=10.0, waveform=tune(1, 4.0))
    pool = Killing({0: 1, 1: 5})
    gathered = Gathered()
    jobs = [job(embedder, path, number) for number in range(3)]
    found = []
    for asked, decoded in decode_stretches(pool, jobs):
        found.append((asked.stretch, decoded.refusal, decoded.is_innocent, bool(gathered.take(decoded))))
    assert found == [(0, "", False, True), (1, "it was killed", True, False), (2, "", False, True)]
    assert pool.kills == {0: 0, 1: 3}
    verdict = gathered.verdict()
    assert (verdict.status, verdict.reason) == ("partial", "it was killed")
