"""If these fail, `evaluate localization` and `evaluate segmentation` measure something else than they say."""

import json
from pathlib import Path

import pytest

from lookhear.cli import main
from lookhear.data.prepare import PrepareConfig, prepare
from planted import prompted_folder
from tiny_embedder import make_clip, save_tiny

SMALL = ["--set", "region_patches=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a store of three clips of two seconds, and one of three others."""
    place = tmp_path_factory.mktemp("places")
    for number in range(3):
        make_clip(place / "videos" / f"id{number}.mp4", number)
        make_clip(place / "others" / f"other{number}.mp4", number + 5, seconds=0.6)
    for media, store in (("videos", "store"), ("others", "library")):
        prepare(place / media, place / store, config=PrepareConfig(frames_per_second=10.0), workers=1)
    save_tiny(place / "model.safetensors")
    boxes = [{"file": f"id{number}", "class": "tune", "bbox": [[0.3, 0.2, 0.7, 0.8]]} for number in (0, 2)]
    (place / "boxes.json").write_text(json.dumps(boxes))
    return place


def test_localization_and_its_calibration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "localization", "--model", str(folder / "model.safetensors"), "--store", str(folder / "store")]
    words += ["--boxes", str(folder / "boxes.json"), *SMALL]
    library = ["--library", str(folder / "library"), "--share", "0.4", "--calibration", str(folder / "visible.json")]
    assert main([*words, *library, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["localization"]
    assert (found["frames"], found["protocol"]["box_list"]["files"]) == (2, 2)
    assert found["visibility"]["library_pairs"] == 3
    kept = json.loads((folder / "visible.json").read_text())
    assert kept["threshold"] == found["visibility"]["threshold"]
    assert kept["measured"] == found["visibility"]  # `localize` warns by these rates
    assert main([*words, "--calibration", str(folder / "visible.json"), "--out", str(folder / "result.json")]) == 0
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert float(lines["localization.visibility.threshold"]) == kept["threshold"]
    assert json.loads((folder / "result.json").read_text())["localization"]["ciou"] == found["ciou"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["localization"]["visibility"] is None
    assert main([*words, "--library", str(folder / "store")]) == 1
    assert "holds the clips that are to be judged" in capsys.readouterr().err


def test_ids_choose_among_the_boxes_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = folder / "flickr"
    boxes.mkdir()
    for number in range(3):
        sides = "".join(f"<v>{side}</v>" for side in (77, 51, 179, 205))
        (boxes / f"id{number}.xml").write_text(f"<a><bbox><label>x</label>{sides}</bbox></a>")
    (folder / "ids.csv").write_text("id2,whatever\n")
    words = ["evaluate", "localization", "--model", str(folder / "model.safetensors"), "--store", str(folder / "store")]
    assert main([*words, "--boxes", str(boxes), "--ids", str(folder / "ids.csv"), *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["localization"]
    assert (found["frames"], found["protocol"]["box_list"]["files"]) == (1, 1)
    assert found["protocol"]["background"] is None
    for wrong, said in ((["--boxes", str(folder / "boxes.json")], "is a file"), (["--truth", str(folder)], "--ids")):
        assert main([*words, *wrong, "--ids", str(folder / "ids.csv")]) == 1
        assert said in capsys.readouterr().err
    assert main([*words, "--boxes", str(boxes), "--ids", str(folder / "nothing.csv")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_truth_must_be_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "localization", "--model", str(folder / "model.safetensors"), "--store", str(folder / "store")]
    assert main(words) == 1
    assert main([*words, "--truth", str(folder), "--boxes", str(folder / "boxes.json")]) == 1
    assert capsys.readouterr().err.count("give either --truth") == 2


def test_segmentation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = prompted_folder(folder / "prompts", [(slice(16, 32), slice(36, 52))])
    words = ["evaluate", "segmentation", "--model", str(folder / "model.safetensors"), "--prompts", str(prompts)]
    assert main([*words, *SMALL, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["segmentation"]
    assert found["prompts"] == 1
    assert 0 < found["mean_average_precision"] <= 1
    assert main([*words[:4], "--prompts", str(folder)]) == 1
    assert "cannot read" in capsys.readouterr().err
