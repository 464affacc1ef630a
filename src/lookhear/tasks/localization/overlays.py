"""`localize` and `localize_sound`: a file and a moment -> a picture or video that shows what belongs together.

H, W pixels.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookhear.data.sampling import nearest_frames
from lookhear.errors import MediaError, UserError
from lookhear.progress import Progress, quiet
from lookhear.tasks.localization.crop import Box, model_crop
from lookhear.tasks.localization.drawing import check_picture_name, overlay, save_picture, spectrogram_picture
from lookhear.tasks.localization.heat import HeatConfig, heat_grid
from lookhear.tasks.localization.maps import SoundMap, read_moment, sound_map
from lookhear.tasks.localization.visibility import Visibility

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.media.clip import Clip
    from lookhear.media.info import MediaInfo

# Shown on stderr without any setting up, from Python too.
_log = logging.getLogger("lookhear")
VIDEO = ".mp4"
FRAMES_PER_SECOND = 25.0  # of an overlay video
SHORT_SIDE = 360  # to which its pictures are shrunk
MAP_ENLARGED = 3  # pixels of a spectrogram picture for each mel bin and spectrogram frame


@dataclass(frozen=True, kw_only=True)
class Place:
    """The hottest point of the map of one moment."""

    at_seconds: float
    x: float  # fraction of the frame's width
    y: float  # fraction of its height
    score: float  # cosine of the window's sound and picture
    visible: bool | None  # False: "no visible source"; None where no calibration was given


def localize(
    media: str | Path,
    *,
    model: "str | Path | Embedder",
    at_seconds: float,
    out: str | Path,
    seconds: float = 5.0,
    maps_per_second: float = 2.0,
    config: HeatConfig | None = None,
    calibration: str | Path | None = None,
    progress: Progress = quiet,
) -> list[Place]:
    """Shows where in the picture of `media` its sound comes from, in the picture or the .mp4 file `out`.

    A picture shows the frame at `at_seconds` with its heat map, and one place is returned. A video shows every frame of
    the `seconds` that follow, with their sound; maps are made `maps_per_second` times a second, blended between, and
    coloured on one scale. With a `calibration` (`Visibility.save`), a moment whose sound and picture do not fit shows
    no heat, and its place says so. Raises MediaError where there is no frame or no sound at that time, and UserError if
    `out` cannot be written.
    """
    from lookhear.embedder import loaded_model

    check_picture_name(out, also=(VIDEO,))
    loaded = loaded_model(model)
    visibility = None if calibration is None else Visibility.load(calibration, loaded)
    if visibility is not None and visibility.doubts:
        _log.warning(
            "'visible' says little with this model: when %s was made, a place was also named for %s",
            calibration,
            visibility.doubts,
        )
    if Path(out).suffix.lower() != VIDEO:
        found = locate(loaded, media, at_seconds, config, visibility)
        shown = found.frame if found.place.visible is False else overlay(found.frame, found.heat)
        save_picture(out, shown)
        return [found.place]
    info, times = _map_times(loaded, media, at_seconds, seconds, maps_per_second)
    found_at = []
    for number, time in enumerate(times):
        progress(number, len(times), "heat maps")
        found_at.append(locate(loaded, media, float(time), config, visibility, keep_frame=False))
    progress(len(times), len(times), "heat maps")
    assert info.video is not None
    _write_video(loaded, info, found_at, end_seconds=min(at_seconds + seconds, info.video.end_seconds), out=Path(out))
    return [one.place for one in found_at]


def localize_sound(
    media: str | Path,
    *,
    model: "str | Path | Embedder",
    at_seconds: float,
    region: Box,
    out: str | Path,
    config: HeatConfig | None = None,
) -> SoundMap:
    """The reverse: writes the spectrogram around `at_seconds` with what belongs to `region` of the frame glowing.

    `region` is (left, top, right, bottom) in fractions of the frame. Time runs to the right, pitch upwards.
    """
    from lookhear.embedder import loaded_model

    check_picture_name(out)
    found = sound_map(loaded_model(model), media, at_seconds, box=region, config=config)
    picture = overlay(spectrogram_picture(found.log_mel), found.heat[::-1])
    save_picture(out, picture.repeat(MAP_ENLARGED, axis=1).repeat(MAP_ENLARGED, axis=2))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Located:
    """One moment with its map."""

    place: Place
    grid: np.ndarray  # float32 (rows, columns)
    heat: np.ndarray  # float32 (H, W) of the frame; empty in a video
    frame: np.ndarray  # uint8 (3, H, W); empty in a video


def locate(
    embedder: "Embedder",
    media: "Clip | str | Path",
    at_seconds: float,
    config: HeatConfig | None = None,
    visibility: Visibility | None = None,
    *,
    keep_frame: bool = True,
) -> Located:
    """The frame of `media`, a file or a decoded clip, at a time, with heat where its sound comes from.

    Raises MediaError where there is no frame or no sound at that time.
    """
    asked = read_moment(embedder, media, at_seconds)
    height, width = asked.frame.shape[1:]
    grid = heat_grid(embedder, asked.window, config=config)
    heat = model_crop(embedder.preprocess.config, height, width).onto_frame(grid, height, width)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    score = asked.window.score
    place = Place(
        at_seconds=at_seconds,
        x=float((column + 0.5) / width),
        y=float((row + 0.5) / height),
        score=score,
        visible=None if visibility is None else visibility.sees(score),
    )
    found = Located(place=place, grid=grid, heat=heat, frame=asked.frame)
    # a minute of maps as large as the frames would be gigabytes
    return found if keep_frame else replace(found, heat=np.zeros((0, 0)), frame=np.zeros((3, 0, 0), np.uint8))


def _map_times(
    embedder: "Embedder", media: str | Path, at_seconds: float, seconds: float, maps_per_second: float
) -> tuple["MediaInfo", np.ndarray]:
    from lookhear.media.probe import probe

    if seconds <= 0 or maps_per_second <= 0:
        raise UserError(f"{seconds:g} s with {maps_per_second:g} maps a second show nothing; give positive numbers")
    info = probe(media)
    if info.video is None or info.audio is None:
        raise MediaError(f"'{media}' has no {'picture' if info.video is None else 'sound'}, so nothing can be located")
    if not info.video.start_seconds <= at_seconds < info.video.end_seconds:
        raise MediaError(
            f"'{media}' shows nothing at {at_seconds:g} s; its picture goes from {info.video.start_seconds:g} to "
            f"{info.video.end_seconds:g} s"
        )
    end = min(at_seconds + seconds, info.video.end_seconds)
    return info, _steps(at_seconds, end, maps_per_second)


def _steps(start: float, end: float, per_second: float) -> np.ndarray:
    """Times from `start` on and before `end`, at least one; rounding does not add one at the end."""
    count = max(1, math.ceil((end - start) * per_second - 1e-6))
    return start + np.arange(count) / per_second


def _write_video(
    embedder: "Embedder", info: "MediaInfo", found: list[Located], *, end_seconds: float, out: Path
) -> None:
    from lookhear.media.decode import read_clip
    from lookhear.media.encode import write_video

    settings, start = embedder.preprocess.config, found[0].place.at_seconds
    sound = read_clip(
        info.path,
        start_seconds=start,
        end_seconds=end_seconds,
        sample_rate=settings.sample_rate,
        channel=settings.channel,
    ).waveform
    write_video(
        out,
        frames=_painted(embedder, info, found, end_seconds),
        frames_per_second=FRAMES_PER_SECOND,
        waveform=sound,
        sample_rate=settings.sample_rate,
    )


def _painted(embedder: "Embedder", info: "MediaInfo", found: list[Located], end_seconds: float) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) of the stretch, read a second at a time."""
    from lookhear.media.clip import ClipRequest
    from lookhear.media.decode import open_media

    start = found[0].place.at_seconds
    believed = [one.grid for one in found if one.place.visible is not False]
    scale = (float(min(map(np.min, believed))), float(max(map(np.max, believed)))) if believed else (0.0, 1.0)
    times = _steps(start, end_seconds, FRAMES_PER_SECOND)
    parts = np.array_split(times, -(-len(times) // int(FRAMES_PER_SECOND)))
    requests = [
        ClipRequest(
            start_seconds=float(part[0]),
            end_seconds=float(part[-1]) + 1 / FRAMES_PER_SECOND,
            frame_seconds=tuple(part.tolist()),
            sound=False,
        )
        for part in parts
    ]
    last: list[np.ndarray] = []
    with open_media(info.path) as media:
        for part, clip in zip(parts, media.read(requests, short_side=SHORT_SIDE), strict=True):
            frames = [] if clip.frames is None else list(clip.frames)
            if frames and len(frames) != len(part):
                frames = [frames[number] for number in nearest_frames(clip.frame_seconds, part)]
            # where frames are lost others stand in, or all that follow would run ahead of the sound
            frames = frames or last * len(part)
            last = frames[-1:]
            for seconds, frame in zip(part.tolist(), frames, strict=bool(frames)):
                even = frame[:, : frame.shape[1] // 2 * 2, : frame.shape[2] // 2 * 2]
                yield _paint(embedder, even, seconds, found, scale).transpose(1, 2, 0)


def _paint(
    embedder: "Embedder", frame: np.ndarray, seconds: float, found: list[Located], scale: tuple[float, float]
) -> np.ndarray:
    """A frame with the maps before and after it blended; bare where the nearest moment has no visible source."""
    made = np.array([one.place.at_seconds for one in found])
    if found[int(np.abs(made - seconds).argmin())].place.visible is False:
        return frame
    after = min(int(np.searchsorted(made, seconds, side="right")), len(made) - 1)
    before = max(after - 1, 0) if made[after] > seconds else after
    share = 0.0 if after == before else (seconds - made[before]) / (made[after] - made[before])
    grid = (1 - share) * found[before].grid + share * found[after].grid
    height, width = frame.shape[1:]
    heat = model_crop(embedder.preprocess.config, height, width).onto_frame(grid, height, width)
    return overlay(frame, heat, scale=scale)
