"""From a decoder's frame to the RGB picture that a player would show.

Colour matrix (601, 709, 2020), limited or full range, high dynamic range, and the display matrix (rotation,
mirroring) are applied here. Works on the decoder's frame objects without importing the decoder.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lookhear.errors import MediaError

# numbers of ITU-T H.273, as tags of a frame: matrix, transfer
_MATRIX_RGB, _MATRIX_UNSPECIFIED, _MATRIX_RESERVED = 0, 2, 3
_TRANSFERS = {16: "PQ", 18: "HLG"}
# H.273 matrix -> the scaler's own number for it
_SCALER_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
_SCALER_601, _SCALER_709, _SCALER_2020 = 5, 1, 9
_RANGE_LIMITED, _RANGE_FULL = 1, 2

# linear light, BT.2020 to BT.709 primaries (BT.2087)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)
_WHITE_NITS = 203.0  # diffuse white of HDR programmes (BT.2408)
_PEAK_NITS = 1000.0  # what is brighter is shown as white
_KNEE = 0.3  # below this share of white nothing is compressed


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture is turned to be shown: swap the axes, then mirror."""

    swaps_axes: bool = False
    mirrors_columns: bool = False
    mirrors_rows: bool = False
    rotation_degrees: int = 0  # clockwise


def frame_orientation(frame: Any) -> Orientation:
    """Reads the display matrix of a frame (nine int32: a b u, c d v, x y w; ISO 14496-12, 6.2.2)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].astype(np.int64)
    if abs(a) >= abs(b):
        return Orientation(False, bool(a < 0), bool(d < 0), 180 if a < 0 and d < 0 else 0)
    return Orientation(True, bool(c < 0), bool(b < 0), 90 if b > 0 else 270)


def frame_hdr(transfer: int) -> str | None:
    """ "PQ" or "HLG" for the transfer tag of a high dynamic range picture, else None."""
    return _TRANSFERS.get(int(transfer))


def short_side_size(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) scaled so that the shorter one is `short_side`, both rounded, never enlarged."""
    shorter = min(height, width)
    if short_side is None or shorter <= short_side:
        return height, width
    return max(1, round(height * short_side / shorter)), max(1, round(width * short_side / shorter))


def picture_from_frame(frame: Any, short_side: int | None) -> np.ndarray:
    """The shown picture, (3, H, W) uint8 RGB, resized and turned. Raises MediaError for unknown colour."""
    matrix = _scaler_matrix(frame)
    is_full = frame.color_range == _RANGE_FULL or frame.format.name.startswith("yuvj")
    hdr = frame_hdr(frame.color_trc)
    rgb = frame.reformat(
        format="rgb24" if hdr is None else "rgb48le",
        src_colorspace=matrix,
        src_color_range=_RANGE_FULL if is_full else _RANGE_LIMITED,
        dst_color_range=_RANGE_FULL,
        threads=1,
    ).to_ndarray()
    height, width = short_side_size(rgb.shape[0], rgb.shape[1], short_side)
    if hdr is None:
        picture = _resize(rgb, height, width)
    else:
        # tone mapping is costly: on the small picture
        coded = _resize(rgb.astype(np.float32) / 65535.0, height, width)
        picture = tone_map(coded, hdr, wide_gamut=frame.color_primaries == 9)
    return np.ascontiguousarray(_turn(picture, frame_orientation(frame)).transpose(2, 0, 1))


def _scaler_matrix(frame: Any) -> int | None:
    matrix = int(frame.colorspace)
    if matrix == _MATRIX_RGB:
        return None
    if matrix in (_MATRIX_UNSPECIFIED, _MATRIX_RESERVED):
        if frame_hdr(frame.color_trc):
            return _SCALER_2020
        # what players assume: standard definition is 601, anything larger 709
        return _SCALER_709 if frame.height > 576 or frame.width >= 1280 else _SCALER_601
    if matrix not in _SCALER_MATRIX:
        raise MediaError(f"the picture uses a colour matrix (H.273 number {matrix}) that is not supported")
    return _SCALER_MATRIX[matrix]


def _turn(picture: np.ndarray, orientation: Orientation) -> np.ndarray:
    if orientation.swaps_axes:
        picture = picture.swapaxes(0, 1)
    if orientation.mirrors_columns:
        picture = picture[:, ::-1]
    if orientation.mirrors_rows:
        picture = picture[::-1]
    return picture


def tone_map(coded: np.ndarray, transfer: str, *, wide_gamut: bool = True) -> np.ndarray:
    """An HDR picture (H, W, 3) of coded values 0..1 as SDR uint8: PQ and HLG as in BT.2100.

    Light up to 0.3 of diffuse white (203 nits) is shown as it is, more is rolled off towards white at 1000
    nits, on the largest of the three channels so that hues stay; then gamma 2.2.
    """
    coded = np.clip(coded, 0.0, 1.0)
    nits = _pq_nits(coded) if transfer == "PQ" else _hlg_nits(coded)
    light = nits / _WHITE_NITS
    if wide_gamut:
        light = np.maximum(light @ _BT2020_TO_BT709.T, 0.0)
    largest = light.max(axis=-1, keepdims=True)
    light = light * (_roll_off(largest) / np.maximum(largest, 1e-6))
    return np.rint(np.clip(light, 0.0, 1.0) ** (1 / 2.2) * 255.0).astype(np.uint8)


def _roll_off(light: np.ndarray) -> np.ndarray:
    """Identity up to the knee, then a Moebius curve that meets it smoothly and reaches 1 at the peak."""
    peak = _PEAK_NITS / _WHITE_NITS
    a = -(_KNEE**2) * (peak - 1) / (_KNEE**2 - 2 * _KNEE + peak)
    b = (_KNEE**2 - 2 * _KNEE * peak + peak) / (peak - 1)
    curved = (b * b + 2 * b * _KNEE + _KNEE**2) / (b - a) * (light + a) / (light + b)
    return np.where(light <= _KNEE, light, np.minimum(curved, 1.0))


def _pq_nits(coded: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: coded value to display light in nits."""
    root = coded ** (1 / 78.84375)
    return 10000.0 * (np.maximum(root - 0.8359375, 0.0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def _hlg_nits(coded: np.ndarray) -> np.ndarray:
    """BT.2100 HLG: coded value to scene light, then to a 1000-nit display (system gamma 1.2)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(coded <= 0.5, coded**2 / 3, (np.exp((coded - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], dtype=scene.dtype)
    return _PEAK_NITS * np.maximum(luminance, 1e-9)[..., None] ** 0.2 * scene


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (T, 3, H, W) uint8 to (T, 3, height, width), bicubic with antialias: within 1 level of Pillow."""
    if frames.shape[2:] == (height, width):
        return frames
    return (
        np.stack([_resize(frame.transpose(1, 2, 0), height, width).transpose(2, 0, 1) for frame in frames])
        if (len(frames))
        else np.zeros((0, 3, height, width), np.uint8)
    )


def _resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3), uint8 or float32, to (height, width, 3)."""
    if picture.shape[:2] == (height, width):
        return picture
    import torch

    # permuted, not copied: the kernel is fastest on channels-last memory
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return np.asarray(resized[0].permute(1, 2, 0).numpy())
