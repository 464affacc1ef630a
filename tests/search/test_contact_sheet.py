"""A contact sheet shows the frame at the peak of each hit, in order, and says where there is none."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from editing import hit_of, odd_names
from lookhear.errors import UserError
from lookhear.search import contact_sheet
from lookhear.search.contact_sheet import (
    CELL_HEIGHT,
    CELL_WIDTH,
    MARGIN,
    PICTURE_HEIGHT,
    PICTURE_WIDTH,
    write_contact_sheet,
)
from synthetic import make_sound, make_video, read_number


def cells(path: Path) -> list[np.ndarray]:
    """The picture part of every cell, uint8 (3, H, W)."""
    pixels = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    found = []
    for top in range(MARGIN, pixels.shape[1] - MARGIN, CELL_HEIGHT):
        for left in range(MARGIN, pixels.shape[2] - MARGIN, CELL_WIDTH):
            found.append(pixels[:, top : top + PICTURE_HEIGHT, left : left + PICTURE_WIDTH])
    return found


def test_the_frame_at_the_peak_of_each_hit(tmp_path: Path) -> None:
    video = make_video(tmp_path / "dog.mp4", seconds=4, size=(360, 640))
    peaks = [0.5, 1.02, 2.0, 3.0, 3.5, 9.0]
    hits = [hit_of(video, peak_seconds=peak) for peak in peaks]
    hits[1] = hit_of(tmp_path / "gone.mp4", copies=(str(video),), peak_seconds=peaks[1])  # its copy is there
    write_contact_sheet(hits, tmp_path / "sheet.png")
    found = cells(tmp_path / "sheet.png")
    assert len(found) == 8
    assert [read_number(cell) for cell in found[:6]] == [12, 25, 50, 75, 87, 99]  # beyond the end: the last frame
    assert found[6].min() > 240  # paper


def test_sound_alone_is_a_waveform(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "a.wav", seconds=4, beep_times=(1.5,))
    write_contact_sheet([hit_of(sound, 1.0, 2.0), hit_of(sound, 3.0, 4.0)], tmp_path / "sheet.png")
    loud, silent = (np.ptp(cell.astype(int), axis=(0, 1)) > 60 for cell in cells(tmp_path / "sheet.png"))
    tall = np.flatnonzero((cells(tmp_path / "sheet.png")[0][0] < 120).sum(axis=0) > 50)
    assert loud.all()
    assert silent.all()  # the line of silence
    # The beep lies in the middle of the first moment, and lasts a twentieth of it.
    assert PICTURE_WIDTH / 2 - 3 <= tall.min() < tall.max() <= PICTURE_WIDTH * 0.55 + 3


def test_what_cannot_be_read_has_a_cell_with_the_reason(tmp_path: Path) -> None:
    paths = odd_names(tmp_path)
    hits = [hit_of(tmp_path / "gone.mp4"), *[hit_of(path) for path in paths]]
    write_contact_sheet(hits, tmp_path / "new" / "sheet.png")
    found = cells(tmp_path / "new" / "sheet.png")
    assert (found[0] < 100).any()  # written on
    assert (found[0] == 225).mean() > 0.8
    assert read_number(found[1][:, 66:114, 108:212]) == 25  # 104 x 48, not enlarged


def test_no_hits_too_many_and_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there are no hits"):
        write_contact_sheet([], tmp_path / "sheet.png")
    hits = [hit_of(tmp_path / "gone.mp4")] * 3
    monkeypatch.setattr(contact_sheet, "MAX_HITS", 2)
    with pytest.raises(UserError, match="holds 2 hits, and these are 3"):
        write_contact_sheet(hits, tmp_path / "sheet.png")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write"):
        write_contact_sheet(hits[:1], tmp_path / "file" / "sheet.png")
