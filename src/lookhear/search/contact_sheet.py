"""A contact sheet: one picture with a frame of every hit at its peak, and what and where it is."""

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lookhear.errors import MediaError, UserError, reason_of
from lookhear.media.clock import write_clock
from lookhear.media.decode import read_clip
from lookhear.media.info import MediaInfo
from lookhear.media.probe import probe
from lookhear.progress import Progress, quiet
from lookhear.search.export import appearing, at_hand
from lookhear.search.query import Hit
from lookhear.search.timeline import plain_text

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MAX_HITS = 400
COLUMNS = 4
# Pixels: of a picture, around it, and of a line of text.
PICTURE_WIDTH, PICTURE_HEIGHT = 320, 180
MARGIN, LINE_HEIGHT = 12, 18
_TEXT_LINES = 3
_FONT_PIXELS = 13
_PAPER, _INK, _FAINT, _EMPTY, _WAVE = (250, 250, 250), (20, 20, 20), (110, 110, 110), (225, 225, 225), (60, 90, 150)
_WAVE_RATE = 8000
CELL_WIDTH = PICTURE_WIDTH + MARGIN
CELL_HEIGHT = PICTURE_HEIGHT + _TEXT_LINES * LINE_HEIGHT + MARGIN


def write_contact_sheet(hits: Sequence[Hit], path: str | Path, *, progress: Progress = quiet) -> None:
    """Writes a PNG of all hits, best first, `COLUMNS` in a row: the frame at the peak, path, time and score.

    Where there is no picture the waveform of the moment is drawn; where the file cannot be read, the reason is
    written. Raises UserError for no hits, for more than `MAX_HITS`, and for a file that cannot be written.
    """
    if not hits:
        raise UserError("there are no hits, so there is nothing to put on a contact sheet")
    if len(hits) > MAX_HITS:
        raise UserError(f"a contact sheet holds {MAX_HITS} hits, and these are {len(hits)}; ask for fewer hits (--top)")
    columns = min(COLUMNS, len(hits))
    rows = -(-len(hits) // columns)
    sheet = Image.new("RGB", (columns * CELL_WIDTH + MARGIN, rows * CELL_HEIGHT + MARGIN), _PAPER)
    font = _font()
    for number, hit in enumerate(map(at_hand, hits)):
        left = MARGIN + number % columns * CELL_WIDTH
        top = MARGIN + number // columns * CELL_HEIGHT
        _draw_cell(sheet, left, top, number + 1, hit, font)
        progress(number + 1, len(hits))
    with appearing(Path(path)) as partial:
        sheet.save(partial, format="PNG")


def _font() -> Font:
    """Pillow's own font has plain Latin only; the one that matplotlib brings along has accents, Greek and Cyrillic."""
    found = importlib.util.find_spec("matplotlib")
    if found is not None and found.origin is not None:
        path = Path(found.origin).with_name("mpl-data") / "fonts" / "ttf" / "DejaVuSans.ttf"
        with contextlib.suppress(OSError):
            return ImageFont.truetype(str(path), _FONT_PIXELS)
    return ImageFont.load_default(_FONT_PIXELS)


def _draw_cell(sheet: Image.Image, left: int, top: int, rank: int, hit: Hit, font: Font) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + PICTURE_WIDTH - 1, top + PICTURE_HEIGHT - 1), fill=_EMPTY)
    try:
        info = probe(hit.path)
        picture = _frame(info, hit)
        if picture is not None:
            shown = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
            shown.thumbnail((PICTURE_WIDTH, PICTURE_HEIGHT))
            place = (left + (PICTURE_WIDTH - shown.width) // 2, top + (PICTURE_HEIGHT - shown.height) // 2)
            sheet.paste(shown, place)
        elif info.audio is not None:
            _draw_wave(draw, left, top, hit)
    except (MediaError, OSError) as error:
        reason = _shortened(plain_text(reason_of(error)), font, PICTURE_WIDTH - 2 * MARGIN)
        draw.text((left + MARGIN, top + PICTURE_HEIGHT // 2), reason, fill=_INK, font=font)
    span = f"{write_clock(hit.start_seconds)} to {write_clock(hit.end_seconds)}"
    lines = (
        (f"{rank}. {plain_text(Path(hit.path).name)}", _INK),
        (f"{span}, score {hit.score:.2f}, {hit.matched}", _INK),
        (plain_text(str(Path(hit.path).parent)), _FAINT),
    )
    for number, (text, colour) in enumerate(lines):
        place = (left, top + PICTURE_HEIGHT + 2 + number * LINE_HEIGHT)
        draw.text(place, _shortened(text, font, PICTURE_WIDTH), fill=colour, font=font)


def _frame(info: MediaInfo, hit: Hit) -> np.ndarray | None:
    """uint8 (3, H, W): the frame at the peak, or the nearest one that the picture track has; None without a picture."""
    if info.video is None:
        return None
    at = max(info.video.start_seconds, min(hit.peak_seconds, info.video.end_seconds - 1e-3))
    clip = read_clip(
        info.path, start_seconds=at, end_seconds=at + 0.1, frame_seconds=(at,), short_side=2 * PICTURE_HEIGHT
    )
    return None if clip.frames is None or not len(clip.frames) else np.asarray(clip.frames[0])


def _draw_wave(draw: ImageDraw.ImageDraw, left: int, top: int, hit: Hit) -> None:
    """The loudest sample of every column of pixels, mirrored, as loud as the moment's loudest."""
    clip = read_clip(
        hit.path,
        start_seconds=hit.start_seconds,
        end_seconds=max(hit.end_seconds, hit.start_seconds + 0.1),
        sample_rate=_WAVE_RATE,
    )
    if clip.waveform is None:
        return
    columns = np.array_split(np.abs(clip.waveform), PICTURE_WIDTH)
    peaks = np.array([float(column.max()) if len(column) else 0.0 for column in columns])
    heights = peaks / max(float(peaks.max()), 1e-6) * (PICTURE_HEIGHT / 2 - MARGIN)
    middle = top + PICTURE_HEIGHT // 2
    for column, height in enumerate(heights):
        draw.line((left + column, middle - round(height), left + column, middle + round(height)), fill=_WAVE)


def _shortened(text: str, font: Font, width: int) -> str:
    """The text, or its end after three dots where it is too long: the end of a path tells more."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
