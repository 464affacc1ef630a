"""Heat on pictures, spectrograms as pictures, and image files. uint8 (3, H, W), RGB.

H, W pixels; T spectrogram frames, F mel bins.
"""

from pathlib import Path

import numpy as np

from lookhear.errors import UserError

REMOVED_COLOUR = (40, 60, 110)  # what a mask took away


def overlay(picture: np.ndarray, heat: np.ndarray, *, scale: tuple[float, float] | None = None) -> np.ndarray:
    """A picture uint8 (3, H, W) darkened where `heat` (H, W) is low and glowing from red to yellow where it is high.

    `scale` names the lowest and the highest heat, so that several pictures can share it; None: this map's own.
    """
    low, high = scale or (float(heat.min()), float(heat.max()))
    strength = ((heat - low) / ((high - low) or 1.0)).clip(0, 1)[None]  # (1, H, W)
    glow = np.stack([np.ones_like(heat), np.clip(2 * strength[0] - 1, 0, 1), np.zeros_like(heat)]) * 255
    share = 0.65 * strength**2
    return ((0.75 * picture * (1 - share)) + glow * share).round().astype(np.uint8)


def spectrogram_picture(
    log_mel: np.ndarray, *, scale: tuple[float, float] | None = None, removed: np.ndarray | None = None
) -> np.ndarray:
    """A log-mel spectrogram (F, T), row 0 lowest, as uint8 (3, F, T) with low pitches at the bottom, loud is bright.

    `removed` bool (F, T): what to paint in one colour instead.
    """
    low, high = scale or (float(log_mel.min()), float(log_mel.max()))
    grey = ((log_mel - low) / ((high - low) or 1.0)).clip(0, 1) * 255
    picture = np.repeat(grey[None], 3, axis=0)
    if removed is not None:
        picture = np.where(removed[None], np.array(REMOVED_COLOUR, dtype=np.float64)[:, None, None], picture)
    return picture[:, ::-1].round().astype(np.uint8)


def check_picture_name(path: str | Path, *, also: tuple[str, ...] = ()) -> None:
    """Raises UserError where nothing is written to files named like `path`; `also` are suffixes besides pictures'."""
    from PIL import Image

    suffix = Path(path).suffix.lower()
    writes = {known for known, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if suffix not in writes and suffix not in also:
        names = " or ".join(f"heat{known}" for known in (".png", *also))
        raise UserError(f"cannot write {path}: '{suffix}' is no picture; name a file such as {names}")


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Writes a picture by the suffix of `path`. Raises UserError where that cannot be done."""
    from PIL import Image

    try:
        Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {path}: {error}; name a picture file such as heat.png") from error
