"""Pictures that are files of their own. If these fail, published frames are shown at wrong times, or changed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookhear.data.pictures import PictureFiles, count_frame_folders, picture_edges, read_pictures


def save(folder: Path, number: int, *, size: tuple[int, int] = (32, 24), mode: str = "RGB", grey: int = 90) -> Path:
    path = folder / f"frame_{number}" / "x.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, grey if mode == "L" else (grey,) * len(mode)).save(path, "JPEG")
    return path


def files(folder: Path, *numbers: int) -> PictureFiles:
    return PictureFiles(folder=str(folder), name="x", numbers=numbers, count=10)


def test_when_pictures_are_shown() -> None:
    assert picture_edges(10, None).tolist() == list(range(11))
    assert picture_edges(10, 10.03).tolist() == list(range(11))
    np.testing.assert_allclose(picture_edges(16, 10.0), [number * 0.625 for number in range(17)])
    # a clip of 6 s: the published extraction takes its pictures from those 6 s
    np.testing.assert_allclose(picture_edges(10, 6.0), [number * 0.6 for number in range(11)])
    assert picture_edges(1, 4.0).tolist() == [0.0, 4.0]
    assert picture_edges(0, None).tolist() == [0.0]


def test_a_missing_folder_does_not_move_the_others(tmp_path: Path) -> None:
    assert count_frame_folders(tmp_path / "gone") == 0
    for name in ("frame_0", "frame_9", "frame_", "frame_x", "frames_20", "frame_99999"):
        (tmp_path / name).mkdir()
    assert count_frame_folders(tmp_path) == 10


def test_pictures_that_fit_are_kept_byte_for_byte(tmp_path: Path) -> None:
    originals = {number: save(tmp_path, number, grey=20 * number).read_bytes() for number in (0, 3)}
    assert read_pictures(files(tmp_path, 0, 3), short_side=24, quality=50).jpegs == originals


def test_other_pictures_are_made_to_fit(tmp_path: Path) -> None:
    save(tmp_path, 0, size=(64, 48))
    save(tmp_path, 1, mode="L")
    save(tmp_path, 2, mode="CMYK", size=(30, 60))
    turned = Image.new("RGB", (24, 32), (90, 90, 90))
    turned.getexif()[0x0112] = 6
    turned.save(save(tmp_path, 3), exif=turned.getexif())
    read = read_pictures(files(tmp_path, 0, 1, 2, 3), short_side=24, quality=90)
    assert not read.problems
    for number, jpeg in read.jpegs.items():
        (tmp_path / "out.jpg").write_bytes(jpeg)
        with Image.open(tmp_path / "out.jpg") as image:
            assert (image.mode, image.size, image.getexif().get(0x0112, 1)) == ("RGB", (32, 24), 1), number


@pytest.mark.parametrize(
    ("damage", "words"), [(b"", "no picture"), (b"no picture at all", "no picture"), (None, "cannot be read")]
)
def test_a_damaged_picture_is_left_out(tmp_path: Path, damage: bytes | None, words: str) -> None:
    kept = save(tmp_path, 0).read_bytes()
    path = save(tmp_path, 1, size=(320, 240))
    path.write_bytes(path.read_bytes()[:700] if damage is None else damage)
    read = read_pictures(files(tmp_path, 0, 1), short_side=256, quality=90)
    assert read.jpegs == {0: kept}
    assert [problem.startswith("picture 1 cannot be used: ") for problem in read.problems] == [True]
    assert words in read.problems[0]
    assert str(tmp_path) not in read.problems[0]
