"""cli/classify.py and cli/evaluate_labels.py: what is printed of labels, and with which exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

from lookhear import cli
from lookhear.config import to_dict
from lookhear.data.manifest import FileLabels
from lookhear.data.prepare import prepare
from lookhear.data.store import PrepareConfig
from lookhear.models.checkpoint import save_checkpoint
from tiny_embedder import PREPROCESS, classifier_embedder, make_clip, save_tiny

LABELS = ("dog", "rain")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled clips as files and as a store, a classifier, and a model that names nothing."""
    folder = tmp_path_factory.mktemp("labels")
    known = {}
    for number in range(6):
        make_clip(folder / "media" / f"{number}.mp4", number, seconds=1.0)
        known[f"{number}.mp4"] = FileLabels(labels=(LABELS[number % 2],), split="test" if number > 3 else "train")
    prepare(folder / "media", folder / "store", labels=known, workers=0, config=PrepareConfig(frames_per_second=10.0))
    model = classifier_embedder(LABELS).model
    save_checkpoint(folder / "classifier.safetensors", model, preprocess=to_dict(PREPROCESS), labels=LABELS)
    save_checkpoint(folder / "nameless.safetensors", model, preprocess=to_dict(PREPROCESS))
    save_tiny(folder / "tiny.safetensors")
    return folder


def test_classify_prints_a_row_a_moment(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["classify", str(workplace / "media" / "0.mp4"), "--model", str(workplace / "classifier.safetensors")]
    assert cli.main([*words, "--threshold", "0"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert rows
    for path, start, end, peak, score, label in rows:
        assert path.endswith("0.mp4")
        assert float(start) <= float(peak) <= float(end)
        assert 0 <= float(score) <= 1
        assert label in LABELS
    assert cli.main([*words, "--threshold", "0", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(rows)


def test_classify_takes_folders_and_wants_something(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(workplace / "classifier.safetensors"), "--threshold", "0"]
    assert cli.main(["classify", str(workplace / "media"), *model]) == 0
    assert len({line.split("\t")[0] for line in capsys.readouterr().out.splitlines()}) == 6
    assert cli.main(["classify", *model]) == 2
    assert "name the video or sound files" in capsys.readouterr().err
    (workplace / "empty").mkdir()
    assert cli.main(["classify", str(workplace / "empty"), *model]) == 1
    assert "no media files in" in capsys.readouterr().err


def test_classify_goes_on_after_a_file_that_cannot_be_read(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workplace / "broken.mp4").write_bytes(b"nothing")
    files = [str(workplace / "broken.mp4"), str(workplace / "media" / "1.mp4")]
    code = cli.main(["classify", *files, "--model", str(workplace / "classifier.safetensors"), "--threshold", "0"])
    printed = capsys.readouterr()
    assert code == 1
    assert "broken.mp4" in printed.err
    assert all("1.mp4" in line for line in printed.out.splitlines())


def test_classes_come_from_a_label_csv_where_the_checkpoint_has_none(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["classify", str(workplace / "media" / "0.mp4"), "--model", str(workplace / "nameless.safetensors")]
    assert cli.main(words) == 1
    printed = capsys.readouterr().err
    assert "does not name its 2 classes" in printed
    assert "--classes FILE" in printed
    table = workplace / "classes.csv"
    table.write_text("index,mid,display_name\n0,/m/a,Wolf\n1,/m/b,Hail\n", encoding="utf-8")
    assert cli.main([*words, "--classes", str(table), "--threshold", "0"]) == 0
    assert {line.split("\t")[-1] for line in capsys.readouterr().out.splitlines()} <= {"Wolf", "Hail"}


def test_a_label_csv_is_read_by_mid_where_the_store_has_mids(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = workplace / "mids.csv"
    table.write_text("index,mid,display_name\n0,dog,Dog\n1,rain,Rain\n", encoding="utf-8")
    words = [
        "evaluate",
        "classification",
        "--json",
        "--store",
        str(workplace / "store"),
        "--classes",
        str(table),
        "--model",
    ]
    assert cli.main([*words, str(workplace / "nameless.safetensors"), "--frames", "one", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["classification"]
    assert found["clips"] == 6
    assert list(found["per_class"]) == ["dog", "rain"]


def test_evaluate_classification(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "classification", "--json", "--store", str(workplace / "store"), "--model"]
    assert (
        cli.main([*words, str(workplace / "classifier.safetensors"), "--split", "test", "--mode", "audio", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)["classification"]
    assert found["clips"] == 2
    assert found["protocol"]["mode"] == "audio"
    assert list(found["per_class"]) == list(LABELS)
    assert found["protocol"]["scores"] == "softmax"
    assert cli.main([*words, str(workplace / "classifier.safetensors"), "--frames", "one", "--multi-label"]) == 0
    assert json.loads(capsys.readouterr().out)["classification"]["protocol"]["scores"] == "sigmoid"
    assert cli.main([*words, str(workplace / "classifier.safetensors"), "--multi-label", "--single-label"]) == 1
    assert "contradict each other" in capsys.readouterr().err
    assert cli.main([*words, str(workplace / "tiny.safetensors")]) == 1
    assert "names no classes" in capsys.readouterr().err


@pytest.mark.parametrize("probe", ["linear", "attention"])
def test_evaluate_probe(probe: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "evaluate",
        "probe",
        "--json",
        "--store",
        str(workplace / "store"),
        "--model",
        str(workplace / "tiny.safetensors"),
    ]
    assert cli.main([*words, "--probe", probe, "--modality", "audio", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["probe"]
    assert (found["test_clips"], found["chance"]) == (2, 0.5)
    assert found["protocol"]["splits"] == ["train", "test"]


def judge(words: list[str], workplace: Path, capsys: pytest.CaptureFixture[str], model: str = "tiny") -> dict[str, Any]:
    options = ["--store", str(workplace / "store"), "--model", str(workplace / f"{model}.safetensors"), "--json"]
    assert cli.main(["evaluate", *words, *options]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)[words[0]]
    return found


def test_evaluate_probe_with_settings(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = ["probe", "--modality", "audio", "--probe"]
    found = judge([*probe, "knn", "--set", "k=3", "--set", "temperature=null", "--windows", "2"], workplace, capsys)
    assert found["protocol"]["settings"] == {"k": 3, "temperature": None}
    assert found["protocol"]["windows_of_a_clip"] == 2
    found = judge([*probe, "knn", "--train-split", "train"], workplace, capsys)
    assert (found["test_clips"], found["protocol"]["splits"]) == (4, ["train"])
    found = judge([*probe, "svm", "--set", "strengths=[0.1]", "--unit", "file"], workplace, capsys)
    assert (found["protocol"]["regularisation_c"], found["protocol"]["unit"]) == (0.1, "file")
    found = judge([*probe, "knn", "--folds", "train", "test"], workplace, capsys)
    assert list(found["rounds"]) == ["train", "test"]
    assert found["test_clips"] == 6


def test_evaluate_probe_by_protocol(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["probe", "--probe", "svm", "--modality", "audio", "--protocol", "dcase", "--windows", "3"]
    published = judge(words, workplace, capsys)["protocol"]["published"]
    assert published["follows"] == "dcase"
    assert published["done"]["strength"] == 1.0
    assert "3 windows of each file, not 60 windows of each file" in published["differs"]
    model = ["--store", str(workplace / "store"), "--model", str(workplace / "tiny.safetensors")]
    assert cli.main(["evaluate", *words, *model]) == 0
    assert "probe.protocol.published.differs\t" in capsys.readouterr().out, "the table says what differs, too"
    assert cli.main(["evaluate", *words, *model, "--test-split", "test"]) == 1
    assert "leave the splits out" in capsys.readouterr().err
    assert cli.main(["evaluate", *words, *model, "--set", "k=3"]) == 1
    assert "no setting 'k'" in capsys.readouterr().err
    assert cli.main(["evaluate", *words, *model, "--stages", "4"]) == 1
    assert "has tokens and no stages" in capsys.readouterr().err


def test_evaluate_video(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judge(["video", "--windows", "3", "--mode", "visual_of_both"], workplace, capsys, model="classifier")
    assert (found["files"], found["protocol"]["windows_of_a_file"]) == (2, 3)
    assert found["splits"]["test"]["clip_list"] == ["4.mp4", "5.mp4"]
    found = judge(["video", "--mode", "audio"], workplace, capsys, model="classifier")
    assert found["protocol"]["windows_of_a_file"] == 10
    model, store = str(workplace / "classifier.safetensors"), str(workplace / "store")
    splits = ["--split", "test", "train", "--store", store, "--model"]
    assert cli.main(["evaluate", "video", *splits, model, model, "--windows", "0", "--frames", "one"]) == 0
    printed = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert printed["video.splits.test.clip_list"] == "2", "lists of files are counted, not printed"
    assert printed["video.files"] == "6"
    assert cli.main(["evaluate", "video", "--protocol", "ucf101", "--store", store, "--model", model]) == 1
    assert "1 models and the splits test1, test2, test3 do not fit" in capsys.readouterr().err
