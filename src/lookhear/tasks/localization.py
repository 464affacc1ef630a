"""Where in the picture does the sound come from? Heat maps, and how well they lie on the true boxes.

A model sees a crop of the frame (short side resized, centre cut out), so maps live on that crop; boxes are brought
into it to be judged, and maps are brought back to the frame to be shown. H, W pixels; L tokens; D, E widths.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from lookhear.data.sampling import frame_times, nearest_frames
from lookhear.errors import MediaError, StoreError, UserError
from lookhear.media.clip import Clip
from lookhear.progress import Progress, quiet
from lookhear.tasks.heat import HeatConfig, PairedWindow, heat_grid, pair_window
from lookhear.tasks.metrics import bootstrap_interval, box_mask, overlap_with_box, points_into
from lookhear.tasks.windows import LeftOut, Truth, read_clip_windows, truth_of

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

HIT_OVERLAP = 0.5


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The part of a frame that a model sees, as fractions of the frame."""

    left: float
    top: float
    right: float
    bottom: float

    def box(self, box: Sequence[float]) -> tuple[float, float, float, float] | None:
        """A box of the frame as fractions of the crop, cut at its edges; None where nothing of it is inside."""
        width, height = self.right - self.left, self.bottom - self.top
        left, right = (min(max((x - self.left) / width, 0.0), 1.0) for x in (box[0], box[2]))
        top, bottom = (min(max((y - self.top) / height, 0.0), 1.0) for y in (box[1], box[3]))
        return (left, top, right, bottom) if right > left and bottom > top else None


def crop_of(height: int, width: int, picture_height: int, picture_width: int) -> Crop:
    """What `Preprocess.frames_to_size` keeps of frames (height, width) for a model of picture_height x picture_width.

    The frame is resized until it just covers the model's picture; what is longer is cut on both sides.
    """
    scale = max(picture_height / height, picture_width / width)
    rows, columns = max(picture_height, round(height * scale)), max(picture_width, round(width * scale))
    top, left = (rows - picture_height) // 2, (columns - picture_width) // 2
    return Crop(
        left=left / columns,
        top=top / rows,
        right=(left + picture_width) / columns,
        bottom=(top + picture_height) / rows,
    )


def enlarge(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of patches (rows, columns) as float32 (height, width), bilinear between the middles of the patches."""
    tensor = torch.from_numpy(np.ascontiguousarray(grid, dtype=np.float32))[None, None]
    return F.interpolate(tensor, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def heat_map(
    embedder: "Embedder", media: Clip | str | Path, at_seconds: float, *, config: HeatConfig | None = None
) -> np.ndarray:
    """Where in the frame shown at `at_seconds` its sound comes from: float32 (H, W), higher is more likely.

    `media` is a decoded Clip around that time or the path of a file; H and W are those of its decoded frames. What
    the model does not see of the frame (it looks at a centre crop) gets the lowest value of the map. The scale is
    that of the method (cosines for "cosine"), comparable between frames, not stretched to 0..1.
    Raises MediaError where there is no frame or no sound at that time.
    """
    clip = media if isinstance(media, Clip) else _read_around(embedder, media, at_seconds)
    window = pair_window(embedder, clip, _window_start(clip, at_seconds, embedder.window_seconds))
    assert clip.frames is not None  # pair_window has seen to it
    height, width = clip.frames.shape[-2:]
    crop = _model_crop(embedder, height, width)
    top, bottom = round(crop.top * height), round(crop.bottom * height)
    left, right = round(crop.left * width), round(crop.right * width)
    seen = enlarge(heat_grid(embedder, window, config=config), bottom - top, right - left)
    shown = np.full((height, width), seen.min(), dtype=np.float32)
    shown[top:bottom, left:right] = seen
    return shown


@dataclass(frozen=True, kw_only=True)
class Place:
    """The hottest point of a heat map, as fractions of the frame's width and height."""

    x: float
    y: float


def localize(media: str | Path, *, model: str | Path, at_seconds: float, out: str | Path) -> Place:
    """Writes the frame of `media` at `at_seconds` with its heat map over it to the picture file `out`.

    Raises MediaError where there is no frame or no sound at that time, and UserError if `out` cannot be written.
    """
    from PIL import Image

    from lookhear import embedder

    loaded = embedder.load(model)
    clip = _read_around(loaded, str(media), at_seconds)
    heat = heat_map(loaded, clip, at_seconds)
    assert clip.frames is not None  # heat_map has seen to it
    shown = nearest_frames(clip.frame_seconds, np.array([at_seconds]))[0]
    try:
        Image.fromarray(overlay(clip.frames[shown], heat).transpose(1, 2, 0)).save(out)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {out}: {error}; name a picture file such as heat.png") from error
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return Place(x=float((column + 0.5) / heat.shape[1]), y=float((row + 0.5) / heat.shape[0]))


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture uint8 (3, H, W) darkened where `heat` (H, W) is low and glowing from red to yellow where it is high."""
    level = np.ptp(heat) or 1.0
    strength = ((heat - heat.min()) / level)[None]  # (1, H, W), 0..1
    glow = np.stack([np.ones_like(heat), np.clip(2 * strength[0] - 1, 0, 1), np.zeros_like(heat)]) * 255
    share = 0.65 * strength**2
    return ((0.75 * picture * (1 - share)) + glow * share).round().astype(np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedFrame:
    """One frame with an event: the map on it and the true box."""

    clip_id: str
    at_seconds: float
    picture: np.ndarray = field(repr=False)  # uint8 (3, H, W): the crop that the model saw
    heat: np.ndarray = field(repr=False)  # float32 (H, W)
    box: tuple[float, float, float, float]  # of the sounding object, fractions of the crop
    overlap: float  # IoU of the box and the hottest part of the map of the same area
    points: float  # 1 where the hottest pixel is in the box


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalizationResult:
    """Shares are fractions 0..1; intervals are 95 % bootstrap intervals over clips, whose frames stay together."""

    ciou: float  # share of frames whose map, cut to the area of the box, overlaps it with IoU >= .5
    ciou_ci95: tuple[float, float]
    mean_iou: float
    pointing: float  # share of frames whose hottest pixel lies in the box
    pointing_ci95: tuple[float, float]
    chance: float  # mean share of the picture that the box covers: pointing with the eyes shut
    centre_ciou: float  # a map that is hottest in the middle, whatever there is to see
    centre_pointing: float
    # the sound of another clip in place of its own: what is left shows things that catch the eye, not what sounds
    shuffled_ciou: float | None
    shuffled_pointing: float | None
    frames: int
    clips: int
    method: str
    protocol: dict[str, Any]
    left_out: list[dict[str, Any]]
    model_fingerprint: str
    examples: tuple[JudgedFrame, ...] = field(repr=False)  # not part of to_dict

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "examples"}


def evaluate_localization(
    embedder: "Embedder",
    store: "Store",
    truth: Mapping[str, Truth],
    *,
    config: HeatConfig | None = None,
    indices: Sequence[int] | None = None,
    events_per_clip: int = 3,
    num_examples: int = 24,
    progress: Progress = quiet,
) -> LocalizationResult:
    """Judges heat maps on the clips `indices` of `store` (None: all) against the true boxes.

    Only moments at which something sounds are judged: for each clip the first `events_per_clip` events of its truth,
    the window around each, and the frame in its middle. Events whose object is outside what the model sees are left
    out. Raises StoreError where no event is left.
    """
    config = config or HeatConfig()
    scenes, left_out = _scenes(embedder, store, truth, indices, events_per_clip)
    if not scenes:
        raise StoreError("no clip has an event with a box that the model can see; is this the truth of these clips?")
    others = _other_sounds(embedder, scenes)
    background = torch.stack([scene.window.audio_embedding for scene in scenes]).mean(dim=0)
    judged, shuffled, centred = [], [], []
    for number, scene in enumerate(scenes):
        progress(number, len(scenes), "heat maps")
        grid = heat_grid(embedder, scene.window, config=config, background=background)
        judged.append(_judge(embedder, scene, grid))
        centred.append(_judge(embedder, scene, _centre_grid(*grid.shape)))
        if others[number] is not None:
            swapped = heat_grid(embedder, scene.window, config=config, background=background, sound=others[number])
            shuffled.append(_judge(embedder, scene, swapped))
    owner = np.unique([scene.clip_id for scene in scenes], return_inverse=True)[1]
    hits = np.array([frame.overlap >= HIT_OVERLAP for frame in judged], dtype=np.float64)
    points = np.array([frame.points for frame in judged])
    return LocalizationResult(
        ciou=float(hits.mean()),
        ciou_ci95=_interval(hits, owner),
        mean_iou=float(np.mean([frame.overlap for frame in judged])),
        pointing=float(points.mean()),
        pointing_ci95=_interval(points, owner),
        chance=float(np.mean([_share(frame.box) for frame in judged])),
        centre_ciou=_ciou(centred),
        centre_pointing=_pointing(centred),
        shuffled_ciou=_ciou(shuffled) if shuffled else None,
        shuffled_pointing=_pointing(shuffled) if shuffled else None,
        frames=len(judged),
        clips=int(owner.max()) + 1,
        method=config.method,
        protocol={
            "heat": asdict(config),
            "window_seconds": embedder.window_seconds,
            "events_per_clip": events_per_clip,
            "map_cut_to": "area of the box",
            "iou_at_least": HIT_OVERLAP,
            "judged_on": "the crop that the model sees",
        },
        left_out=[asdict(clip) for clip in left_out],
        model_fingerprint=embedder.fingerprint,
        examples=tuple(_spread(judged, num_examples)),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    clip_id: str
    at_seconds: float
    kind: str
    window: PairedWindow
    box: tuple[float, float, float, float]  # fractions of the crop


def _scenes(
    embedder: "Embedder",
    store: "Store",
    truth: Mapping[str, Truth],
    indices: Sequence[int] | None,
    events_per_clip: int,
) -> tuple[list[_Scene], list[LeftOut]]:
    scenes, left_out = [], []
    for index in range(len(store)) if indices is None else indices:
        stored = store.clips[index]
        found = []
        if stored.has_picture and stored.has_sound:
            found = list(_scenes_of_clip(embedder, store, index, truth_of(store, index, truth), events_per_clip))
        if not found:
            reason = "has no event that is both seen and heard" if stored.has_picture else "has no picture"
            left_out.append(LeftOut(clip_id=stored.clip_id, reason=reason))
        scenes += found
    return scenes, left_out


def _scenes_of_clip(
    embedder: "Embedder", store: "Store", index: int, truth: Truth, events_per_clip: int
) -> Iterator[_Scene]:
    stored = store.clips[index]
    events = [seconds for seconds in truth.event_seconds if stored.start_seconds <= seconds < stored.end_seconds]
    for seconds in events[:events_per_clip]:
        start = _start_around(seconds, stored.start_seconds, stored.end_seconds, embedder.window_seconds)
        clip = read_clip_windows(embedder, store, index, [start])
        window = pair_window(embedder, clip, start)
        assert clip.frames is not None  # pair_window has seen to it
        # the box of the frame in the middle of the window: the one the model sees, at its own time, not the event's
        times = frame_times(start, embedder.window_seconds, embedder.preprocess.config.frames_per_window)
        middle = times[len(times) // 2 :][:1]
        seen = float(clip.frame_seconds[nearest_frames(clip.frame_seconds, middle)[0]])
        number = min(max(int(np.floor(seen * truth.frames_per_second + 0.01)), 0), len(truth.boxes) - 1)
        box = _model_crop(embedder, *clip.frames.shape[-2:]).box(truth.boxes[number])
        if box is not None:
            yield _Scene(clip_id=stored.clip_id, at_seconds=seen, kind=truth.kind, window=window, box=box)


def _other_sounds(embedder: "Embedder", scenes: Sequence[_Scene]) -> list[torch.Tensor | None]:
    """For each scene the sound embedding of a scene of another kind (of another clip, where there is but one kind)."""
    rng = np.random.default_rng(0)
    kinds = np.array([scene.kind for scene in scenes])
    clips = np.array([scene.clip_id for scene in scenes])
    drawn: list[torch.Tensor | None] = []
    for scene in scenes:
        allowed = np.flatnonzero(kinds != scene.kind)
        if not len(allowed):
            allowed = np.flatnonzero(clips != scene.clip_id)
        drawn.append(scenes[rng.choice(allowed)].window.audio_embedding if len(allowed) else None)
    return drawn


def _judge(embedder: "Embedder", scene: _Scene, grid: np.ndarray) -> JudgedFrame:
    settings = embedder.preprocess.config
    heat = enlarge(grid, settings.picture_height, settings.picture_width)
    mask = box_mask(scene.box, *heat.shape)
    return JudgedFrame(
        clip_id=scene.clip_id,
        at_seconds=scene.at_seconds,
        picture=scene.window.picture,
        heat=heat,
        box=scene.box,
        overlap=overlap_with_box(heat, mask),
        points=points_into(heat, mask),
    )


def _centre_grid(rows: int, columns: int) -> np.ndarray:
    down, across = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    return -(down**2 + across**2)


def _model_crop(embedder: "Embedder", height: int, width: int) -> Crop:
    settings = embedder.preprocess.config
    return crop_of(height, width, settings.picture_height, settings.picture_width)


def _start_around(seconds: float, first: float, last: float, window_seconds: float) -> float:
    """Start of the window around `seconds`, kept inside [first, last) where it fits."""
    return max(first, min(seconds - window_seconds / 2, last - window_seconds))


def _window_start(clip: Clip, at_seconds: float, window_seconds: float) -> float:
    return _start_around(at_seconds, clip.start_seconds, clip.end_seconds, window_seconds)


def _read_around(embedder: "Embedder", path: str | Path, at_seconds: float) -> Clip:
    """The part of a file around `at_seconds` that one window needs."""
    from lookhear.media.decode import read_clip
    from lookhear.media.probe import probe

    info = probe(path)
    if not info.start_seconds <= at_seconds < info.end_seconds:
        raise MediaError(
            f"'{path}' has nothing at {at_seconds:g} s; it goes from {info.start_seconds:g} to {info.end_seconds:g} s"
        )
    window = embedder.window_seconds
    start = _start_around(at_seconds, info.start_seconds, info.end_seconds, window)
    settings = embedder.preprocess.config
    times = frame_times(start, window, settings.frames_per_window)
    return read_clip(
        path,
        start_seconds=start,
        end_seconds=min(start + window, info.end_seconds),
        frame_seconds=tuple(float(time) for time in times),
        sample_rate=settings.sample_rate,
        channel=settings.channel,
    )


def _interval(values: np.ndarray, owner: np.ndarray) -> tuple[float, float]:
    counts = np.bincount(owner)
    return bootstrap_interval(np.bincount(owner, weights=values) / counts, weights=counts)


def _ciou(frames: Sequence[JudgedFrame]) -> float:
    return float(np.mean([frame.overlap >= HIT_OVERLAP for frame in frames]))


def _pointing(frames: Sequence[JudgedFrame]) -> float:
    return float(np.mean([frame.points for frame in frames]))


def _share(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _spread(frames: Sequence[JudgedFrame], count: int) -> list[JudgedFrame]:
    """`count` frames spread evenly over the list, chosen without a look at how well they did."""
    if len(frames) <= count:
        return list(frames)
    return [frames[place] for place in np.linspace(0, len(frames) - 1, count).astype(int)]
