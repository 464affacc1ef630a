"""If these fail, published truth is read wrongly: boxes beside the thing, broken boxes believed, wrong classes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookhear.errors import UserError
from lookhear.tasks.localization.boxes import read_boxes, read_flickr, read_flickr_ids, read_prompts, read_vggss

OVERFLOWN = -2.8823037615171176e16


def test_vggss(tmp_path: Path) -> None:
    rows = [
        {"file": "a_000001", "class": "cello", "bbox": [[0.1, 0.2, 0.5, 1.004]]},
        {"file": "b_000002", "class": "tap", "bbox": [[0.1, 0.2, OVERFLOWN, 0.9], [0.0, 0.0, 0.5, 0.5]]},
        {"file": "c_000003", "class": "tap", "bbox": [[0.2, 1.0, 0.7, 1.0]]},
    ]
    path = tmp_path / "vggss.json"
    path.write_text(json.dumps(rows))
    found = read_boxes(path)
    assert sorted(found.clips) == ["a_000001", "b_000002"]
    assert found.clips["a_000001"].boxes == ((0.1, 0.2, 0.5, 1.0),)
    assert found.clips["b_000002"].boxes == ((0.0, 0.0, 0.5, 0.5),)
    assert found.clips["a_000001"].label == "cello"
    assert found.agreement == 1
    assert len(found.broken) == 2
    assert "c_000003" in found.broken[1]


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '[{"file": "a"}]'])
def test_what_is_no_box_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no VGG-SS box list"):
        read_vggss(path)


def test_a_box_that_is_no_list_of_numbers_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"file": "flat", "class": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]},
        {"file": "words", "class": "dog", "bbox": [["left", 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]]},
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    found = read_vggss(tmp_path / "boxes.json")
    assert list(found.clips) == ["words"]
    assert len(found.broken) == 5
    assert found.broken[0] == "flat: 0.1 is no box"


def test_the_published_vggss_file() -> None:
    if "LOOKHEAR_TEST_MEDIA" not in os.environ:
        pytest.skip("no published lists at hand")
    splits = Path(os.environ["LOOKHEAR_TEST_MEDIA"]) / "data" / "splits"
    found = read_vggss(splits / "vggss_boxes.json")
    assert len(found.broken) == 18
    assert 5140 <= len(found.clips) <= 5158
    assert all(0 <= box[0] < box[2] <= 1 for clip in found.clips.values() for box in clip.boxes)
    ids = read_flickr_ids(splits / "flickr_soundnet_test.csv")
    assert len(ids) == len(set(ids)) == 249
    assert ids[0] == "10000130166"


XML = """<annotation><annotator>
<bbox><category>1</category><xmin>64</xmin><ymin>0</ymin><xmax>128</xmax><ymax>256</ymax></bbox></annotator>
<annotator><bbox><category>1</category><xmin>0</xmin><ymin>32</ymin><xmax>128</xmax><ymax>128</ymax></bbox>
</annotator></annotation>"""


def test_flickr(tmp_path: Path) -> None:
    (tmp_path / "123.xml").write_text(XML)
    (tmp_path / "456.xml").write_text(XML)
    found = read_boxes(tmp_path)
    assert sorted(found.clips) == ["123", "456"]
    assert found.clips["123"].boxes == ((0.25, 0.0, 0.5, 1.0), (0.0, 0.125, 0.5, 0.5))
    assert found.agreement == 2
    (tmp_path / "ids.csv").write_text("456,17\r\n")
    assert list(read_flickr(tmp_path, read_flickr_ids(tmp_path / "ids.csv")).clips) == ["456"]


def test_flickr_files_that_are_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.xml"):
        read_flickr(tmp_path)
    (tmp_path / "1.xml").write_text("<annotation><bbox>")
    with pytest.raises(UserError, match="no annotation"):
        read_flickr(tmp_path)
    (tmp_path / "ids.csv").write_text("\n")
    with pytest.raises(UserError, match="lists no id"):
        read_flickr_ids(tmp_path / "ids.csv")


def test_prompts(tmp_path: Path) -> None:
    (tmp_path / "prompted_segmentation.csv").write_text(
        "image_location,vggsound_file,ade_class_id\na/x.jpg,v/one.mp4,776\nb.jpg,,5\nc.jpg,two.mp4,0\n"
    )
    (prompt,) = read_prompts(tmp_path)
    assert prompt.picture == tmp_path / "frames" / "a" / "x.jpg"
    assert prompt.sound == tmp_path / "audio" / "one.mp4"
    assert prompt.class_id == 776
    coded = np.zeros((2, 3, 3), np.uint8)
    coded[0, 1] = (30, 8, 77)  # 3 * 256 + 8; blue numbers the instance
    coded[1, 2] = (30, 9, 77)
    prompt.mask.parent.mkdir(parents=True)
    assert prompt.mask.name == "x_seg.png"
    Image.fromarray(coded).save(prompt.mask)
    np.testing.assert_array_equal(prompt.read_mask(), [[False, True, False], [False, False, False]])


def test_prompts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_prompts(tmp_path)
    path = tmp_path / "prompted_segmentation.csv"
    path.write_text("image_location,ade_class_id\nx.jpg,1\n")
    with pytest.raises(UserError, match="no list of prompts"):
        read_prompts(tmp_path)
    path.write_text("image_location,vggsound_file,ade_class_id\nx.jpg,,1\n")
    with pytest.raises(UserError, match="no row"):
        read_prompts(tmp_path)
