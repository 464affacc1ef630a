"""If these failed, a model that learns from scenes would learn something false, or its scores would mean nothing."""

import dataclasses
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from lookhear.errors import ConfigError, UserError
from lookhear.media import scenes
from lookhear.media.scene_kinds import SHAPES
from lookhear.media.scene_sounds import MIDDLE_PITCH_HZ, SOUND_SECONDS, SOUNDS, off_screen_sound, sound_of
from lookhear.media.scenes import KINDS, SceneSettings, SceneTruth, load_truth, make_scenes

RATE = 16000
# One object, one cause, nothing else: what is seen and heard must be the events.
PLAIN = SceneSettings(distractor_share=0.0, off_screen_share=0.0, picture_noise=0.0, sound_noise=0.0005)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    frames: np.ndarray  # (T, H, W, 3)
    frame_seconds: np.ndarray  # (T,)
    waveform: np.ndarray  # (S,), sample 0 at 0 s


def decode(path: Path) -> Decoded:
    with av.open(str(path)) as container:
        pictures = list(container.decode(video=0))
    with av.open(str(path)) as container:
        blocks = list(container.decode(audio=0))
    num_samples = max(round(float(block.time) * RATE) + block.samples for block in blocks)
    waveform = np.zeros(num_samples, np.float32)
    for block in blocks:
        start = round(float(block.time) * RATE)
        data = block.to_ndarray()[0][max(0, -start) :]
        waveform[max(0, start) : max(0, start) + len(data)] = data
    return Decoded(
        frames=np.stack([picture.to_ndarray(format="rgb24") for picture in pictures]),
        frame_seconds=np.array([float(picture.time) for picture in pictures]),
        waveform=waveform,
    )


@dataclass(frozen=True, kw_only=True)
class Library:
    folder: Path
    truths: list[SceneTruth]
    decoded: dict[str, Decoded]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("scenes") / "plain"
    truths = make_scenes(folder, count=2 * len(KINDS), seed=7, workers=2, settings=PLAIN)
    return Library(folder=folder, truths=truths, decoded={truth.path: decode(folder / truth.path) for truth in truths})


def test_files_are_what_the_truth_says(plain: Library) -> None:
    assert len(KINDS) >= 12
    assert set(SHAPES) == set(SOUNDS) == set(MIDDLE_PITCH_HZ) == set(KINDS)
    assert Counter(truth.kind for truth in plain.truths[: len(KINDS)]) == dict.fromkeys(KINDS, 1)
    assert [truth.path for truth in plain.truths] == [f"scene-{i:05d}.mp4" for i in range(2 * len(KINDS))]
    for truth in plain.truths:
        media = plain.decoded[truth.path]
        assert media.frames.shape == (len(truth.boxes), truth.height, truth.width, 3)
        np.testing.assert_allclose(
            media.frame_seconds, np.arange(len(truth.boxes)) / truth.frames_per_second, atol=1e-3
        )
        assert abs(len(media.waveform) / RATE - truth.seconds) < 0.07
        assert 3.9 <= truth.seconds <= 6.1
        assert 1 <= len(truth.event_seconds) <= 5
        gaps = np.diff([-0.05, *truth.event_seconds, truth.seconds])
        assert gaps.min() >= 0.5
        for x0, y0, x1, y1 in truth.boxes:
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
    assert load_truth(plain.folder) == {truth.path: truth for truth in plain.truths}


def test_each_event_is_heard_when_it_happens(plain: Library) -> None:
    """An encoder's priming delay (64 ms for AAC at 16 kHz) or any other shift would show here."""
    errors = []
    for truth in plain.truths:
        wave = plain.decoded[truth.path].waveform
        block = 80  # 5 ms
        energy = np.sqrt(np.mean(wave[: len(wave) // block * block].reshape(-1, block) ** 2, axis=1))
        for at in truth.event_seconds:
            around = np.arange(max(0, int((at - 0.1) * 200)), int((at + 0.1) * 200))
            rise = energy[around + 4] - energy[around]  # over 20 ms
            errors.append((around[np.argmax(rise)] + 2) / 200 - at)
    assert abs(np.median(errors)) < 0.01
    assert np.quantile(np.abs(errors), 0.9) < 0.02
    assert np.max(np.abs(errors)) < 0.05  # a soft strike in the loud tail of the one before


def test_each_event_is_seen_in_the_first_frame_after_it(plain: Library) -> None:
    """What an event shows changes the picture more than all movement towards it, by and large."""
    ratios: dict[str, list[float]] = {}
    for truth in plain.truths:
        frames = plain.decoded[truth.path].frames.astype(np.float32)
        change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))  # [i]: from frame i to i + 1
        for at in truth.event_seconds:
            first = math.ceil(at * truth.frames_per_second - 1e-6)
            run_up = change[max(0, first - 5) : first - 1].max()
            ratios.setdefault(truth.kind, []).append(float(change[first - 1] / run_up))
    medians = {kind: float(np.median(values)) for kind, values in ratios.items()}
    assert min(medians.values()) > 1.0, medians
    assert min(min(values) for values in ratios.values()) > 0.4, ratios
    assert np.mean([value > 1.0 for values in ratios.values() for value in values]) > 0.9


def test_it_is_silent_and_at_rest_before_the_first_event(plain: Library) -> None:
    for truth in plain.truths:
        media = plain.decoded[truth.path]
        first = truth.event_seconds[0]
        before = media.waveform[: int((first - 0.03) * RATE)]
        assert np.sqrt(np.mean(before**2)) < 0.003
        peak = np.abs(media.waveform[int(first * RATE) : int((first + 0.3) * RATE)]).max()
        assert peak > 0.1
        still = media.frames[: max(2, int((first - 0.45) * truth.frames_per_second))].astype(np.float32)
        assert np.abs(still - still[0]).mean() < 2.0


def test_the_larger_the_lower(plain: Library) -> None:
    for truth in plain.truths:
        ratio = truth.parameters["pitch_hz"] / MIDDLE_PITCH_HZ[truth.kind]
        assert 0.5 <= ratio <= 2.0
    ratios = [truth.parameters["pitch_hz"] / MIDDLE_PITCH_HZ[truth.kind] for truth in plain.truths]
    sizes = [truth.parameters["size"] for truth in plain.truths]
    assert np.all(np.diff(np.array(ratios)[np.argsort(sizes)]) < 0)
    heights = [np.median([box[3] - box[1] for box in truth.boxes]) for truth in plain.truths]
    assert np.corrcoef(sizes, heights)[0, 1] > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_pitch_sounds_higher(kind: str) -> None:
    """The whole spectrum moves with the pitch: its centre, in octaves, rises with every step."""
    centres = []
    for octave in (-1.0, 0.0, 1.0):
        wave = sound_of(kind, np.random.default_rng(3), MIDDLE_PITCH_HZ[kind] * 2**octave, RATE)
        assert wave.shape == (round(SOUND_SECONDS * RATE),)
        assert wave.dtype == np.float32
        assert np.abs(wave).max() == pytest.approx(1.0)
        assert np.abs(wave[:160]).max() > 0.05  # begins at once
        assert np.abs(wave[-160:]).max() < 0.01  # has died away
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
        centres.append(np.sum(power[hertz > 30] * np.log2(hertz[hertz > 30])) / power[hertz > 30].sum())
    assert np.diff(centres).min() > 0.25


def test_the_decoded_pitch_is_the_true_one(plain: Library) -> None:
    """For kinds whose lowest partial is a steady tone, the strongest frequency of the file is the recorded pitch."""
    for truth in plain.truths:
        if truth.kind not in ("bell", "metronome"):
            continue
        start = int((truth.event_seconds[0] + 0.01) * RATE)
        piece = plain.decoded[truth.path].waveform[start : start + 2400]
        power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), 1 << 16))
        strongest = np.argmax(power) * RATE / (1 << 16)
        assert abs(strongest / truth.parameters["pitch_hz"] - 1) < 0.03


def test_boxes_hold_what_moves(plain: Library) -> None:
    """The box follows the object: most of what changes at rest's end lies in or close to it."""
    shares = []
    for truth in plain.truths:
        frames = plain.decoded[truth.path].frames.astype(np.float32)
        first = math.ceil(truth.event_seconds[0] * truth.frames_per_second - 1e-6)
        change = np.abs(frames[first - 1] - frames[0]).max(axis=2)  # just before the event: no effects yet
        change[change < 25] = 0  # the codec's own
        x0, y0, x1, y1 = truth.boxes[first - 1]
        rest_x0, rest_y0, rest_x1, rest_y1 = truth.boxes[0]
        inside = np.zeros(change.shape, bool)
        for left, top, right, bottom in ((x0, y0, x1, y1), (rest_x0, rest_y0, rest_x1, rest_y1)):
            rows = slice(max(0, int(top * truth.height) - 2), int(bottom * truth.height) + 3)
            columns = slice(max(0, int(left * truth.width) - 2), int(right * truth.width) + 3)
            inside[rows, columns] = True
        shares.append(change[inside].sum() / change.sum())
    assert np.median(shares) > 0.9


def test_the_same_seed_gives_the_same_files_whatever_the_workers_and_the_count(tmp_path: Path) -> None:
    alone = make_scenes(tmp_path / "alone", count=3, seed=1, workers=0)
    pooled = make_scenes(tmp_path / "pooled", count=4, seed=1, workers=2)
    other = make_scenes(tmp_path / "other", count=3, seed=2, workers=0)
    assert alone == pooled[:3]
    for truth in alone:
        first, second = decode(tmp_path / "alone" / truth.path), decode(tmp_path / "pooled" / truth.path)
        np.testing.assert_array_equal(first.frames, second.frames)
        np.testing.assert_array_equal(first.waveform, second.waveform)
    assert all(mine.event_seconds != theirs.event_seconds for mine, theirs in zip(alone, other, strict=True))


def test_an_interrupted_run_is_continued_and_not_done_twice(tmp_path: Path) -> None:
    notes: list[tuple[int, int | None, str]] = []

    def progress(done: int, total: int | None, note: str = "") -> None:
        notes.append((done, total, note))
        if note == "scene-00002.mp4" and total == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_scenes(tmp_path, count=5, workers=0, progress=progress)
    assert sorted(load_truth(tmp_path)) == [f"scene-{i:05d}.mp4" for i in range(3)]
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    (tmp_path / "scene-00001.mp4").unlink()
    truths = make_scenes(tmp_path, count=4, workers=1, progress=progress)
    assert len(truths) == 4
    assert notes[-1] == (4, 4, "scene-00003.mp4")
    for name in ("scene-00000.mp4", "scene-00002.mp4"):
        assert (tmp_path / name).stat().st_mtime_ns == times[name]
    assert len(make_scenes(tmp_path, count=2, workers=2)) == 2
    assert len(load_truth(tmp_path)) == 4
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".mp4", ".jsonl")]


def test_a_folder_is_not_mixed_from_two_recipes(tmp_path: Path) -> None:
    make_scenes(tmp_path, count=1, seed=1, workers=0)
    with pytest.raises(UserError, match="seed: there 1, asked 2"):
        make_scenes(tmp_path, count=1, seed=2, workers=0)
    with pytest.raises(UserError, match="another recipe"):
        make_scenes(tmp_path, count=1, seed=1, workers=0, settings=SceneSettings(width=96))


def test_bad_folders_get_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="choose another folder"):
        make_scenes(tmp_path / "file", count=1)
    with pytest.raises(UserError, match="no folder of scenes"):
        load_truth(tmp_path)
    (tmp_path / "truth.jsonl").write_text(json.dumps({"path": "x.mp4"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1"):
        load_truth(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"width": 97}, {"min_events": 0}, {"min_seconds": 2.0}, {"max_size": 1.5}, {"frames_per_second": 1.0}],
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(SceneSettings(), **changes)  # type: ignore[arg-type]


def test_nuisances_say_nothing_and_can_be_asked_for(tmp_path: Path) -> None:
    base = make_scenes(tmp_path / "base", count=2, workers=0)
    rich = SceneSettings(distractor_share=1.0, off_screen_share=1.0)
    noisy = make_scenes(tmp_path / "rich", count=2, workers=0, settings=rich)
    for before, after in zip(base, noisy, strict=True):
        assert after.parameters["distractor"] is not None
        assert after.parameters["off_screen"] is True
        assert (after.kind, after.event_seconds, after.boxes) == (before.kind, before.event_seconds, before.boxes)
    idle = make_scenes(tmp_path / "idle", count=1, workers=0, settings=SceneSettings(idle_share=1.0))
    assert idle[0].event_seconds == ()
    odd = SceneSettings(width=96, height=72, frames_per_second=15.0, min_seconds=4.0, max_seconds=4.0)
    small = make_scenes(tmp_path / "odd", count=1, workers=0, settings=odd)
    assert decode(tmp_path / "odd" / small[0].path).frames.shape == (60, 72, 96, 3)
    assert make_scenes(tmp_path / "none", count=0) == []
    wave = off_screen_sound(np.random.default_rng(0), 64000, RATE)
    assert np.abs(wave).max() == pytest.approx(1.0)


def test_a_scene_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(scenes, "_make_scene", fail)
    with pytest.raises(UserError, match="first second") as raised:
        make_scenes(tmp_path, count=1, workers=0)
    assert "\n" not in str(raised.value)
    assert "Traceback" in str(raised.value.__cause__)
