"""Pictures that are files of their own, as CAV-MAE and CAV-MAE Sync publish them: folder/frame_k/name.jpg."""

import io
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lookhear.errors import MediaError
from lookhear.media.color import resize_frames, short_side_size
from lookhear.media.still import still_image

# Published pictures are taken from the first ten seconds of a clip, however long it is.
MAX_SPREAD_SECONDS = 10.0
_FRAME_FOLDER = re.compile(r"frame_(\d{1,4})")
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class PictureFiles:
    """The pictures of one clip: `folder`/frame_k/`name`.jpg for every k of `numbers`."""

    folder: str
    name: str
    # ascending, those of which there is a file
    numbers: tuple[int, ...]
    # F: how many pictures a clip of this folder has if none is missing
    count: int

    def path(self, number: int) -> Path:
        """Where picture `number` is."""
        return Path(self.folder, f"frame_{number}", f"{self.name}.jpg")


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadPictures:
    """n pictures that could be read, all of one size."""

    # by their numbers, ascending
    jpegs: dict[int, bytes]
    # one sentence for each that could not be read
    problems: tuple[str, ...]


def count_frame_folders(folder: Path) -> int:
    """F: one more than the highest k of the folders frame_k in `folder`; 0 where there is none."""
    try:
        names = [entry.name for entry in os.scandir(folder)]
    except OSError:
        return 0
    return max((int(found[1]) + 1 for found in map(_FRAME_FOLDER.fullmatch, names) if found), default=0)


def picture_edges(count: int, clip_seconds: float | None) -> np.ndarray:
    """float64 (F + 1,): published picture k is shown from edge k to edge k + 1.

    Pictures are taken at equal distances from 0, of the first ten seconds of a clip or of all of it where it is
    shorter: picture k at k * min(10, `clip_seconds`) / F. None: its length is not known, and taken to be ten seconds.
    (The published extraction takes the last frame before each of these times, which is nearer than a frame.)
    """
    spread = MAX_SPREAD_SECONDS if clip_seconds is None else min(MAX_SPREAD_SECONDS, clip_seconds)
    return np.arange(count + 1) * spread / max(count, 1)


def read_pictures(files: PictureFiles, *, short_side: int, quality: int) -> ReadPictures:
    """The pictures as JPEG, their short side at most `short_side`.

    A file that is a JPEG in RGB, upright and small enough is kept byte for byte. One that cannot be read is left out
    and said so. All pictures have the size of the first.
    """
    jpegs: dict[int, bytes] = {}
    problems: list[str] = []
    size: tuple[int, int] | None = None
    for number in files.numbers:
        path = files.path(number)
        try:
            pixels = still_image(path)
            if pixels is None:
                raise MediaError("", reason="it is no picture")
            original = path.read_bytes()
        except (MediaError, OSError) as error:
            reason = error.reason if isinstance(error, MediaError) else error.strerror
            problems.append(f"picture {number} cannot be used: {reason}")
            continue
        height, width = pixels.shape[1:]
        size = size or short_side_size(height, width, short_side)
        keep = (height, width) == size and _may_be_kept(original)
        jpegs[number] = original if keep else jpeg_bytes(resize_frames(pixels[None], *size)[0], quality)
    return ReadPictures(jpegs=jpegs, problems=tuple(problems))


def jpeg_bytes(frame: np.ndarray, quality: int) -> bytes:
    """A picture (3, H, W) uint8 RGB as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _may_be_kept(data: bytes) -> bool:
    """Whether these bytes are read from the store as the picture that they show: JPEG, RGB, not turned by EXIF."""
    with Image.open(io.BytesIO(data)) as image:
        upright = image.getexif().get(_EXIF_ORIENTATION, 1) == 1
        return image.format == "JPEG" and image.mode == "RGB" and upright
