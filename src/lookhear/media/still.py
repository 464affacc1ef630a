"""Still pictures, by Pillow: turned as their EXIF says, in any colour mode."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lookhear.errors import MediaError, reason_of


def still_image(path: Path) -> np.ndarray | None:
    """The picture (3, H, W) uint8 RGB of a still image file; None where it is no still image.

    Raises MediaError where it is one but damaged or too large.
    """
    try:
        with Image.open(path) as image:
            pixels = _image_pixels(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        why = f"cannot be read: {reason_of(error)}"
        raise MediaError(f"the picture '{path}' {why}", reason=f"the picture {why}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _image_pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a Pillow image of any mode; what is transparent is shown on white."""
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow's own conversion would clip
        grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
