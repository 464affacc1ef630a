"""Where in the picture does the sound come from? How well heat maps lie on true boxes, and when not to believe them.

Maps are judged on the crop of the frame that the model sees; boxes are brought into it. H, W pixels; E width of an
embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lookhear.data.sampling import frame_times, nearest_frames
from lookhear.errors import MediaError, StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.learned import seen_in_training
from lookhear.tasks.localization.boxes import BoxedClip, BoxList
from lookhear.tasks.localization.crop import Box, enlarge, model_crop
from lookhear.tasks.localization.heat import HeatConfig, PairedWindow, heat_grid, pair_window
from lookhear.tasks.localization.maps import start_around
from lookhear.tasks.localization.metrics import (
    HIT_OVERLAP,
    area_under_success,
    map_overlap,
    points_into,
    success_rate,
    truth_map,
)
from lookhear.tasks.localization.visibility import Visibility, VisibilityResult, judge_visibility
from lookhear.tasks.metrics import bootstrap_interval
from lookhear.tasks.windows import LeftOut, Truth, read_clip_windows, shared_span, truth_of

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedFrame:
    """One frame with an event: the map on it and the true boxes."""

    clip_id: str
    at_seconds: float
    picture: np.ndarray = field(repr=False)  # uint8 (3, H, W): the crop that the model saw
    heat: np.ndarray = field(repr=False)  # float32 (H, W)
    boxes: tuple[Box, ...]  # of what sounds, fractions of the crop
    overlap: float  # IoU of the boxes and the hottest part of the map of the same area
    overlap_half: float  # IoU of the boxes and the hotter half of the map, as published
    points: float  # 1 where the hottest pixel is in a box
    covers: float  # share of the crop that the boxes cover


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalizationResult:
    """Shares are fractions 0..1; intervals are 95 % bootstrap intervals over clips, whose frames stay together.

    Two cuts of a map are reported side by side (`metrics` says why): to the area of the boxes, and the hotter
    half of the picture, which is how published figures are made.
    """

    ciou: float  # share of frames whose map, cut to the area of the boxes, overlaps them with IoU >= .5
    ciou_ci95: tuple[float, float]
    auc: float  # area under that share over the IoU that is asked for, 0 to 1
    ciou_half: float  # as ciou, of the hotter half of the map: compare this with published cIoU
    auc_half: float  # compare this with published AUC
    mean_iou: float
    pointing: float  # share of frames whose hottest pixel lies in a box
    pointing_ci95: tuple[float, float]
    chance: float  # mean share of the picture that the boxes cover: pointing with the eyes shut
    centre_ciou: float  # a map that is hottest in the middle, whatever there is to see
    centre_ciou_half: float
    centre_pointing: float
    # the sound of another clip in place of its own: what is left shows things that catch the eye, not what sounds
    shuffled_ciou: float | None
    shuffled_pointing: float | None
    frames: int
    clips: int
    method: str
    visibility: VisibilityResult | None  # how often "no visible source" is wrong; None without a calibration
    protocol: dict[str, Any]
    left_out: list[dict[str, Any]]
    model_fingerprint: str
    examples: tuple[JudgedFrame, ...] = field(repr=False)  # not part of to_dict

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON."""
        values = {name: value for name, value in vars(self).items() if name != "examples"}
        values["visibility"] = None if self.visibility is None else asdict(self.visibility)
        return values


def evaluate_localization(
    embedder: "Embedder",
    store: "Store",
    truth: Mapping[str, Truth] | BoxList,
    *,
    config: HeatConfig | None = None,
    visibility: Visibility | None = None,
    indices: Sequence[int] | None = None,
    events_per_clip: int = 3,
    num_examples: int = 24,
    progress: Progress = quiet,
) -> LocalizationResult:
    """Judges heat maps on the clips `indices` of `store` (None: all) against the true boxes.

    With truth records (by path), only moments at which something sounds are judged: for each clip the first
    `events_per_clip` events, the window around each, and the frame in its middle. With a published list of boxes
    (`boxes.read_boxes`), the middle frame of the first clip of each file of that name. Boxes outside what the model
    sees are left out. With `visibility`, the answer "no visible source" is judged too: on these moments, and on the
    same pictures with silence, noise, a sound from outside and the sound of another clip.

    VGG-SS and Flickr-SoundNet were not measured here. For comparison, the READMEs of EZ-VSL and SSL-align give cIoU /
    AUC 38.85 / 39.54 and cIoU 39.94 on VGG-SS, 83.94 / 63.60 and cIoU 86.00 on Flickr-SoundNet: `ciou_half`,
    `auc_half`. They squeeze the whole frame into a square; here a model sees its usual centre crop, so they compare
    only roughly. No figure of CAV-MAE or CAV-MAE Sync on these sets is known.
    Raises StoreError where no event is left.
    """
    config = config or HeatConfig()
    scenes, left_out = _scenes(embedder, store, truth, indices, events_per_clip)
    if not scenes:
        raise StoreError("no clip has an event with a box that the model can see; is this the truth of these clips?")
    others = _other_sounds(scenes)
    background = torch.stack([scene.sound for scene in scenes]).mean(dim=0)
    examples = _spread(len(scenes), num_examples)
    judged, shuffled, centred = [], [], []
    for number, scene in enumerate(scenes):
        progress(number, len(scenes), "heat maps")
        window = _window(embedder, store, scene)
        grid = heat_grid(embedder, window, config=config, background=background)
        frame = _judge(embedder, scene, window, grid)
        judged.append(frame if number in examples else _without_maps(frame))
        centred.append(_without_maps(_judge(embedder, scene, window, _centre_grid(*grid.shape))))
        if others[number] is not None:
            swapped = heat_grid(embedder, window, config=config, background=background, sound=others[number])
            shuffled.append(_without_maps(_judge(embedder, scene, window, swapped)))
    progress(len(scenes), len(scenes), "heat maps")
    windows = (_window(embedder, store, scene) for scene in scenes)
    return _result(
        judged=judged,
        centred=centred,
        shuffled=shuffled,
        visibility=None if visibility is None else judge_visibility(embedder, windows, others, visibility),
        method=config.method,
        protocol={
            "seen_in_training": seen_in_training(embedder, store, sorted({scene.index for scene in scenes})),
            "heat": asdict(config),
            "background": f"the mean sound of the {len(scenes)} judged windows" if config.subtract_background else None,
            "window_seconds": embedder.window_seconds,
            "events_per_clip": 1 if isinstance(truth, BoxList) else events_per_clip,
            "cuts": {"ciou": "area of the boxes", "ciou_half": "hotter half of the picture"},
            "iou_at_least": HIT_OVERLAP,
            "judged_on": "the crop that the model sees",
            "box_list": _list_facts(truth) if isinstance(truth, BoxList) else None,
        },
        left_out=[asdict(clip) for clip in left_out],
        model_fingerprint=embedder.fingerprint,
        examples=tuple(judged[number] for number in examples),
    )


def _result(
    *,
    judged: list[JudgedFrame],
    centred: list[JudgedFrame],
    shuffled: list[JudgedFrame],
    visibility: VisibilityResult | None,
    method: str,
    protocol: dict[str, Any],
    left_out: list[dict[str, Any]],
    model_fingerprint: str,
    examples: tuple[JudgedFrame, ...],
) -> LocalizationResult:
    owner = np.unique([frame.clip_id for frame in judged], return_inverse=True)[1]
    overlaps, halves = _overlaps(judged), [frame.overlap_half for frame in judged]
    points = np.array([frame.points for frame in judged])
    return LocalizationResult(
        ciou=success_rate(overlaps),
        ciou_ci95=_interval((overlaps >= HIT_OVERLAP).astype(np.float64), owner),
        auc=area_under_success(overlaps),
        ciou_half=success_rate(halves),
        auc_half=area_under_success(halves),
        mean_iou=float(overlaps.mean()),
        pointing=float(points.mean()),
        pointing_ci95=_interval(points, owner),
        chance=float(np.mean([frame.covers for frame in judged])),
        centre_ciou=success_rate(_overlaps(centred)),
        centre_ciou_half=success_rate([frame.overlap_half for frame in centred]),
        centre_pointing=_pointing(centred),
        shuffled_ciou=success_rate(_overlaps(shuffled)) if shuffled else None,
        shuffled_pointing=_pointing(shuffled) if shuffled else None,
        frames=len(judged),
        clips=int(owner.max()) + 1,
        method=method,
        visibility=visibility,
        protocol=protocol,
        left_out=left_out,
        model_fingerprint=model_fingerprint,
        examples=examples,
    )


def _list_facts(boxes: BoxList) -> dict[str, Any]:
    return {"files": len(boxes.clips), "broken_boxes": len(boxes.broken), "agreement": boxes.agreement}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """A moment to be judged. Its window is read again when it is: all of a large set would be gigabytes."""

    index: int  # of the clip in the store
    clip_id: str
    start_seconds: float  # of the window
    at_seconds: float  # of the frame
    kind: str
    sound: torch.Tensor  # float32 (E,), the embedding of the window's sound
    boxes: tuple[Box, ...]  # fractions of the crop
    agreement: int


def _scenes(
    embedder: "Embedder",
    store: "Store",
    truth: Mapping[str, Truth] | BoxList,
    indices: Sequence[int] | None,
    events_per_clip: int,
) -> tuple[list[_Scene], list[LeftOut]]:
    scenes, left_out = [], []
    files: set[str] = set()
    for index in range(len(store)) if indices is None else indices:
        stored = store.clips[index]
        found: list[_Scene] = []
        reason = "has no event that is both seen and heard" if stored.has_picture else "has no picture"
        if isinstance(truth, BoxList) and PurePosixPath(stored.path).stem not in truth.clips:
            reason = "is not in the list of boxes"
        elif isinstance(truth, BoxList) and stored.path in files:
            reason = "is a later part of its file, and the boxes are of the first"
        else:
            found = list(_scenes_of_clip(embedder, store, index, truth, events_per_clip))
        files.add(stored.path)
        if not found:
            left_out.append(LeftOut(clip_id=stored.clip_id, reason=reason))
        scenes += found
    return scenes, left_out


def _scenes_of_clip(
    embedder: "Embedder", store: "Store", index: int, truth: Mapping[str, Truth] | BoxList, events_per_clip: int
) -> Iterator[_Scene]:
    stored, length = store.clips[index], embedder.window_seconds
    span = shared_span(stored)
    if span is None:
        return
    record: Truth | BoxedClip
    if isinstance(truth, BoxList):
        record = truth.clips[PurePosixPath(stored.path).stem]
        kind, agreement = record.label, truth.agreement
        events = [(stored.start_seconds + stored.end_seconds) / 2]
    else:
        record = truth_of(store, index, truth)
        kind, agreement = record.kind, 1
        events = list(record.event_seconds)
    # where one of the two was not decoded, there is no sound that belongs to a place
    for seconds in [at for at in events if span[0] <= at < span[1]][:events_per_clip]:
        start = start_around(seconds, stored.start_seconds, stored.end_seconds, length)
        clip = read_clip_windows(embedder, store, index, [start])
        try:
            sound = pair_window(embedder, clip, start).audio_embedding
        except MediaError:  # no picture was kept near enough
            continue
        assert clip.frames is not None  # pair_window has seen to it
        # the boxes of the frame in the middle of the window: the one the model sees, at its own time, not the event's
        times = frame_times(start, length, embedder.preprocess.config.frames_per_window)
        middle = times[len(times) // 2 :][:1]
        seen = float(clip.frame_seconds[nearest_frames(clip.frame_seconds, middle)[0]])
        crop = model_crop(embedder.preprocess.config, *clip.frames.shape[-2:])
        boxes = tuple(box for box in map(crop.box, _boxes_at(record, seen)) if box is not None)
        if boxes:
            yield _Scene(
                index=index,
                clip_id=stored.clip_id,
                start_seconds=start,
                at_seconds=seen,
                kind=kind,
                sound=sound,
                boxes=boxes,
                agreement=agreement,
            )


def _window(embedder: "Embedder", store: "Store", scene: _Scene) -> PairedWindow:
    clip = read_clip_windows(embedder, store, scene.index, [scene.start_seconds])
    return pair_window(embedder, clip, scene.start_seconds)


def _boxes_at(record: Truth | BoxedClip, seconds: float) -> Sequence[Sequence[float]]:
    """The true boxes of the frame shown at `seconds`, fractions of the frame."""
    if isinstance(record, BoxedClip):
        return record.boxes
    number = min(max(int(np.floor(seconds * record.frames_per_second + 0.01)), 0), len(record.boxes) - 1)
    return [record.boxes[number]]


def _other_sounds(scenes: Sequence[_Scene]) -> list[torch.Tensor | None]:
    """For each scene the sound embedding of a scene of another kind (of another clip, where there is but one kind)."""
    rng = np.random.default_rng(0)
    kinds = np.array([scene.kind for scene in scenes])
    clips = np.array([scene.clip_id for scene in scenes])
    drawn: list[torch.Tensor | None] = []
    for scene in scenes:
        allowed = np.flatnonzero(kinds != scene.kind)
        if not len(allowed):
            allowed = np.flatnonzero(clips != scene.clip_id)
        drawn.append(scenes[rng.choice(allowed)].sound if len(allowed) else None)
    return drawn


def _judge(embedder: "Embedder", scene: _Scene, window: PairedWindow, grid: np.ndarray) -> JudgedFrame:
    settings = embedder.preprocess.config
    heat = enlarge(grid, settings.picture_height, settings.picture_width)
    truth = truth_map(scene.boxes, *heat.shape, agreement=scene.agreement)
    return JudgedFrame(
        clip_id=scene.clip_id,
        at_seconds=scene.at_seconds,
        picture=window.picture,
        heat=heat,
        boxes=scene.boxes,
        overlap=map_overlap(heat, truth),
        overlap_half=map_overlap(heat, truth, cut="half"),
        points=points_into(heat, truth > 0),
        covers=float((truth > 0).mean()),
    )


def _without_maps(frame: JudgedFrame) -> JudgedFrame:
    return replace(frame, picture=np.zeros((3, 0, 0), np.uint8), heat=np.zeros((0, 0), np.float32))


def _centre_grid(rows: int, columns: int) -> np.ndarray:
    down, across = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    return -(down**2 + across**2)


def _interval(values: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    counts = np.bincount(owner)
    return bootstrap_interval(np.bincount(owner, weights=values) / counts, weights=counts)


def _overlaps(frames: Sequence[JudgedFrame]) -> np.ndarray:
    return np.array([frame.overlap for frame in frames])


def _pointing(frames: Sequence[JudgedFrame]) -> float:
    return float(np.mean([frame.points for frame in frames]))


def _spread(num: int, count: int) -> list[int]:
    """`count` of `num` places, spread evenly: chosen without a look at how well the frames there did."""
    if num <= count:
        return list(range(num))
    return np.linspace(0, num - 1, count).astype(int).tolist()
