"""Still pictures, by Pillow: turned as their EXIF says, in any colour mode."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lookhear.errors import MediaError, reason_of

# What cameras, phones and web pages give. Pillow reads more, some of it with other programs: PostScript is a language,
# and what comes in it would be run by Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "TGA", "JPEG2000")


def still_image(path: Path) -> np.ndarray | None:
    """The picture (3, H, W) uint8 RGB of a still image file of one of `FORMATS`; None where it is no such.

    Raises MediaError where it is one but damaged or too large.
    """
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # Pillow may have been built without some
    try:
        with Image.open(path, formats=formats) as image:
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
