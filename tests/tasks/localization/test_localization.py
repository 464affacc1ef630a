"""If these fail, heat maps lie beside the thing that sounds: a wrong crop, a wrong grid, or a wrong frame."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear.data.preprocess import resize_and_crop
from lookhear.errors import ConfigError, MediaError, StoreError
from lookhear.media.clip import Clip
from lookhear.media.encode import write_video
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.models.tokens import Encoded, Grid, Mask, Masks, Output, patchify
from lookhear.tasks.localization.boxes import read_boxes
from lookhear.tasks.localization.crop import crop_of, enlarge
from lookhear.tasks.localization.evaluation import evaluate_localization
from lookhear.tasks.localization.heat import HeatConfig
from lookhear.tasks.localization.maps import heat_map
from lookhear.tasks.localization.overlays import localize
from planted import StandInEmbedder
from stand_ins import StoreStandIn, stored_clip
from synthetic import make_video
from tiny_embedder import tiny_embedder

SIDE, PATCH = 32, 4
FRAME_HEIGHT, FRAME_WIDTH = 40, 64
METHODS = ("cosine", "gradient", "occlusion", "region")


class ToyTower(nn.Module):
    """Patches to tokens: a bright patch looks like the sound, a dark one like nothing in particular."""

    def forward(self, patches: Tensor, mask: Mask | None = None) -> Tensor:
        if mask is not None:
            patches = patches.gather(1, mask.kept[..., None].expand(-1, -1, patches.shape[2]))
        bright = patches.mean(dim=2)
        return torch.stack([bright, torch.ones_like(bright), torch.zeros_like(bright)], dim=2)


class ToyModel(nn.Module):
    """Embeds every sound as (1, 0, 0) and a picture as the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_tower = ToyTower()
        self.scale = nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace()

    def forward(
        self, audio: Tensor | None = None, frames: Tensor | None = None, *, mask: Masks | None = None
    ) -> Output:
        sound = picture = None
        if audio is not None:
            vector = torch.tensor([1.0, 0.0, 0.0]).expand(*audio.shape[:2], 3)
            sound = Encoded(tokens=vector[:, :, None], grid=Grid(1, 1), pooled=vector, embedding=vector)
        if frames is not None:
            patches = patchify(frames.flatten(0, 1), (PATCH, PATCH))
            tokens = self.visual_tower(patches, mask.visual if mask else None).unflatten(0, frames.shape[:2])
            pooled = tokens.mean(dim=2)
            grid = Grid(SIDE // PATCH, SIDE // PATCH)
            picture = Encoded(tokens=tokens, grid=grid, pooled=pooled, embedding=F.normalize(pooled, dim=-1))
        return Output(audio=sound, visual=picture)


class ToyEmbedder(StandInEmbedder):
    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__(model or ToyModel(), audio_frames=32, num_mel_bins=16, rows=SIDE, columns=SIDE)


@dataclass
class TruthStandIn:
    boxes: tuple[tuple[float, ...], ...]
    event_seconds: tuple[float, ...] = (0.5,)
    kind: str = "flash"
    frames_per_second: float = 10.0


def _frames(
    box: tuple[float, ...], count: int = 10, height: int = FRAME_HEIGHT, width: int = FRAME_WIDTH
) -> np.ndarray:
    """Dark frames with a bright rectangle."""
    frames = np.full((count, 3, height, width), 10, dtype=np.uint8)
    left, right = round(box[0] * width), round(box[2] * width)
    frames[:, :, round(box[1] * height) : round(box[3] * height), left:right] = 250
    return frames


def _clip(box: tuple[float, ...]) -> Clip:
    sound = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    return Clip(
        start_seconds=0.0, end_seconds=1.0, frames=_frames(box), frame_seconds=np.arange(10) / 10, waveform=sound
    )


def _store(boxes: list[tuple[float, ...]]) -> StoreStandIn:
    clips = [stored_clip(index, 1.0, np.arange(10) / 10, num_samples=16000) for index in range(len(boxes))]
    sound = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    return StoreStandIn(clips, [_frames(box) for box in boxes], [sound] * len(boxes))


BOXES = [(0.25, 0.2, 0.5, 0.6), (0.5, 0.4, 0.75, 0.8), (0.35, 0.1, 0.6, 0.4), (0.3, 0.6, 0.5, 1.0)]


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"), [(40, 64, 32, 32), (64, 40, 32, 32), (48, 48, 24, 40), (90, 120, 24, 32)]
)
def test_boxes_move_with_the_picture(height: int, width: int, rows: int, columns: int) -> None:
    """A rectangle painted into the frame lies, after the real resizing and cropping, where the moved box says."""
    for box in ((0.4, 0.3, 0.6, 0.7), (0.05, 0.1, 0.3, 0.5), (0.6, 0.55, 1.0, 0.95)):
        painted = _frames(box, count=1, height=height, width=width)
        seen = resize_and_crop(torch.from_numpy(painted), rows, columns)[0, 0].numpy() > 130
        moved = crop_of(height, width, rows, columns).box(box)
        if moved is None:
            assert not seen.any()
            continue
        down, across = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        found = (across[0], down[0], across[-1] + 1, down[-1] + 1)
        expected = np.array(moved) * [columns, rows, columns, rows]
        np.testing.assert_allclose(found, expected, atol=1.5)


def test_a_box_outside_the_crop_is_no_box() -> None:
    crop = crop_of(40, 80, 32, 32)  # the middle half of the width
    assert crop.left == pytest.approx(0.25)
    assert crop.box((0.0, 0.0, 0.2, 1.0)) is None
    assert crop.box((0.0, 0.0, 0.5, 0.5)) == pytest.approx((0.0, 0.0, 0.5, 0.5))


def test_maps_are_enlarged_about_the_middles_of_patches() -> None:
    grid = np.zeros((4, 8), dtype=np.float32)
    grid[1, 6] = 1.0
    large = enlarge(grid, 40, 80)
    row, column = np.unravel_index(large.argmax(), large.shape)
    assert 10 <= row < 20
    assert 60 <= column < 70


@pytest.mark.parametrize("method", METHODS)
def test_what_sounds_is_found_by_every_method(method: str) -> None:
    store = _store(BOXES)
    truth = {clip.path: TruthStandIn((box,) * 10) for clip, box in zip(store.clips, BOXES, strict=True)}
    result = evaluate_localization(
        ToyEmbedder(),
        store,
        truth,
        config=HeatConfig(method=method, region_patches=2),  # type: ignore[arg-type]
    )
    record = json.loads(json.dumps(result.to_dict()))
    assert record["pointing"] == 1.0
    assert record["ciou"] == 1.0
    assert record["pointing_ci95"] == [1.0, 1.0]
    assert record["frames"] == record["clips"] == 4
    assert 0.05 < record["chance"] < 0.35
    assert record["centre_pointing"] < 1.0
    assert "examples" not in record
    assert result.examples[0].picture.shape == (3, SIDE, SIDE)
    assert result.examples[0].heat.shape == (SIDE, SIDE)


def test_published_boxes_are_judged_on_the_middle_frame(tmp_path: Path) -> None:
    """By name of the file, whatever its folder and suffix; several boxes are one truth."""
    store = _store([BOXES[0], BOXES[1], BOXES[2]])
    flashes = _frames(BOXES[0])
    flashes[5] = _frames(BOXES[3], count=1)[0]  # the frame at 0.5 s
    store.pictures[0] = flashes
    rows = [
        {"file": "clip-000", "class": "flash", "bbox": [list(BOXES[3]), [0.0, 0.0, 0.1, 0.1]]},  # one beside the crop
        {"file": "clip-001", "class": "flash", "bbox": [list(BOXES[1]), [0.5, 0.5, 0.5, 0.6]]},  # one without area
        {"file": "elsewhere", "class": "flash", "bbox": [list(BOXES[1])]},
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    result = evaluate_localization(
        ToyEmbedder(), store, read_boxes(path), config=HeatConfig(method="cosine", region_patches=2)
    )
    assert (result.frames, result.clips) == (2, 2)
    assert result.ciou == result.pointing == 1.0
    assert result.auc > 0.5
    assert result.ciou_half == 0.0  # small things: half the picture is too much
    assert result.protocol["box_list"] == {"files": 3, "broken_boxes": 1, "agreement": 1}
    assert result.left_out == [{"clip_id": "clip-002.mp4@0", "reason": "is not in the list of boxes"}]
    assert len(result.examples[0].boxes) == 1


def test_a_later_part_of_a_file_is_not_judged_though_the_first_could_not_be(tmp_path: Path) -> None:
    store = _store([BOXES[0], BOXES[1], BOXES[2]])
    store.clips[0] = replace(store.clips[0], num_samples=0, sound_span=None)
    store.clips[1] = replace(store.clips[1], path=store.clips[0].path)
    path = tmp_path / "boxes.json"
    names = ("clip-000", "clip-002")
    path.write_text(json.dumps([{"file": name, "class": "flash", "bbox": [list(BOXES[2])]} for name in names]))
    config = HeatConfig(method="cosine", subtract_background=True)
    result = evaluate_localization(ToyEmbedder(), store, read_boxes(path), config=config)
    assert [clip["reason"] for clip in result.left_out] == [
        "has no event that is both seen and heard",
        "is a later part of its file, and the boxes are of the first",
    ]
    assert result.protocol["background"] == "the mean sound of the 1 judged windows"


def test_the_box_of_the_frame_that_was_seen_is_the_one_that_counts() -> None:
    """The object jumps at 0.5 s; the event is at 0.8 s, so the later box is right."""
    first, later = BOXES[0], BOXES[1]
    store = _store([first])
    store.pictures[0][5:] = _frames(later, count=5)
    truth = {"clip-000.mp4": TruthStandIn((first,) * 5 + (later,) * 5, event_seconds=(0.8,))}
    assert evaluate_localization(ToyEmbedder(), store, truth).ciou == 1.0
    wrong = {"clip-000.mp4": TruthStandIn((first,) * 10, event_seconds=(0.8,))}
    assert evaluate_localization(ToyEmbedder(), store, wrong).ciou == 0.0


def test_only_seen_events_are_judged() -> None:
    store = _store(BOXES)
    truth = {clip.path: TruthStandIn((box,) * 10) for clip, box in zip(store.clips, BOXES, strict=True)}
    truth["clip-000.mp4"] = TruthStandIn(((0.0, 0.0, 0.1, 0.1),) * 10)  # outside what the model sees
    truth["clip-001.mp4"] = TruthStandIn((BOXES[1],) * 10, event_seconds=())
    truth["clip-002.mp4"] = TruthStandIn((BOXES[2],) * 10, event_seconds=(0.0, 0.3, 0.6, 0.9))
    result = evaluate_localization(ToyEmbedder(), store, truth, events_per_clip=3)
    assert (result.frames, result.clips) == (4, 2)
    assert [clip["clip_id"] for clip in result.left_out] == ["clip-000.mp4@0", "clip-001.mp4@0"]
    with pytest.raises(StoreError, match="no clip has an event"):
        evaluate_localization(ToyEmbedder(), store, truth, indices=[0, 1])


def test_moments_of_which_sound_or_picture_is_lost_are_left_out_and_stop_nothing(tmp_path: Path) -> None:
    """A damaged file is judged where both were decoded, and nowhere else."""
    store = _store(BOXES)
    store.clips[0] = replace(store.clips[0], sound_span=(0.0, 0.45))  # the event is at 0.5 s
    store.clips[1] = replace(store.clips[1], picture_span=(0.55, 1.0))
    # says that it has a picture throughout, and keeps one that is too far away
    store.clips[2] = replace(store.clips[2], end_seconds=9.0, frame_seconds=np.zeros(1), picture_span=(0.0, 9.0))
    store.clips[2] = replace(store.clips[2], sound_span=(0.0, 9.0))
    store.pictures[2], store.sounds[2] = store.pictures[2][:1], np.tile(store.sounds[2], 9)
    truth = {clip.path: TruthStandIn((box,) * 10) for clip, box in zip(store.clips, BOXES, strict=True)}
    truth["clip-002.mp4"] = TruthStandIn((BOXES[2],) * 10, event_seconds=(5.0,))
    result = evaluate_localization(ToyEmbedder(), store, truth)
    assert (result.frames, result.clips) == (1, 1)
    reasons = {clip["clip_id"]: clip["reason"] for clip in result.left_out}
    assert list(reasons) == ["clip-000.mp4@0", "clip-001.mp4@0", "clip-002.mp4@0"]
    assert set(reasons.values()) == {"has no event that is both seen and heard"}


def test_heat_map_lies_on_the_frame_and_not_only_on_the_crop() -> None:
    box = BOXES[0]
    heat = heat_map(ToyEmbedder(), _clip(box), 0.5)
    assert heat.shape == (FRAME_HEIGHT, FRAME_WIDTH)
    assert heat.dtype == np.float32
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert box[1] <= row / FRAME_HEIGHT < box[3]
    assert box[0] <= column / FRAME_WIDTH < box[2]
    assert (heat[:, :10] == heat.min()).all()  # the model did not see these columns


def test_heat_map_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "flash.mp4"
    frames = (frame.transpose(1, 2, 0) for frame in _frames(BOXES[1]))
    write_video(path, frames=frames, frames_per_second=10, waveform=_clip(BOXES[1]).waveform)
    for at_seconds in (0.0, 0.5, 0.99):  # the first and the last window are moved into the file
        heat = heat_map(ToyEmbedder(), path, at_seconds)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert BOXES[1][1] <= row / FRAME_HEIGHT < BOXES[1][3]
        assert BOXES[1][0] <= column / FRAME_WIDTH < BOXES[1][2]


def test_a_clip_without_sound_or_picture_has_no_map() -> None:
    whole = _clip(BOXES[0])
    deaf = Clip(start_seconds=0, end_seconds=1, frames=whole.frames, frame_seconds=whole.frame_seconds)
    blind = Clip(start_seconds=0, end_seconds=1, waveform=whole.waveform)
    for clip, word in ((deaf, "sound"), (blind, "picture")):
        with pytest.raises(MediaError, match=f"no {word} at"):
            heat_map(ToyEmbedder(), clip, 0.5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep_registers", [False, True])
@pytest.mark.parametrize("num_global_tokens", [0, 1])
def test_real_models_of_every_shape_give_maps(method: str, keep_registers: bool, num_global_tokens: int) -> None:
    torch.manual_seed(0)
    model = CAVMAESync(
        CAVMAESyncConfig(
            audio_frames=32,
            num_mel_bins=16,
            picture_height=SIDE,
            picture_width=SIDE,
            audio_patch=(8, 8),
            picture_patch=(8, 8),
            width=16,
            heads=2,
            audio_depth=1,
            visual_depth=1,
            decoder_depth=0,
            joint_depth=2,
            num_registers=2,
            keep_registers=keep_registers,
            num_global_tokens=num_global_tokens,
        )
    ).eval()
    config = HeatConfig(method=method, region_patches=2)  # type: ignore[arg-type]
    heat = heat_map(ToyEmbedder(model=model), _clip(BOXES[0]), 0.5, config=config)
    assert heat.shape == (FRAME_HEIGHT, FRAME_WIDTH)
    assert np.isfinite(heat).all()
    assert heat.max() > heat.min()
    assert all(parameter.grad is None for parameter in model.parameters())  # asking leaves no trace


def test_settings_that_make_no_map_are_refused() -> None:
    with pytest.raises(ConfigError, match="region_patches"):
        HeatConfig(region_patches=0)
    with pytest.raises(ConfigError, match="covers the whole grid"):
        heat_map(ToyEmbedder(), _clip(BOXES[0]), 0.5, config=HeatConfig(method="region", region_patches=8))


@pytest.mark.parametrize("at_seconds", [-1.0, 1000.0])
def test_a_time_outside_the_file_is_refused(tmp_path: Path, at_seconds: float) -> None:
    """Not answered with the map of another moment."""
    model, video = tiny_embedder(tmp_path), make_video(tmp_path / "clip.mp4")
    with pytest.raises(MediaError, match="has nothing at"):
        localize(video, model=model.path, at_seconds=at_seconds, out=tmp_path / "heat.png")
