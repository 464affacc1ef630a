"""If these fail, segmentation prompted by sound is judged on other pixels than the model saw."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lookhear.errors import MediaError
from lookhear.tasks.localization.boxes import read_prompts
from lookhear.tasks.localization.heat import HeatConfig
from lookhear.tasks.localization.prompted import evaluate_prompted_segmentation
from planted import PlantedEmbedder, prompted_folder


def test_what_the_sound_asks_for_is_found(tmp_path: Path) -> None:
    """The things are whole patches of the model's picture, so that only the blend between patches is lost."""
    places = [(slice(16, 32), slice(36, 52)), (slice(0, 32), slice(52, 84)), (slice(0, 48), slice(0, 10))]
    prompts = read_prompts(prompted_folder(tmp_path, places))
    config = HeatConfig(method="cosine")
    found = evaluate_prompted_segmentation(PlantedEmbedder(), prompts, config=config)
    record = json.loads(json.dumps(found.to_dict()))
    assert record["prompts"] == 2
    assert "not in the part" in record["left_out"][0]  # the third thing is beside the crop
    assert record["class_ids"] == [261]
    assert record["mean_average_precision"] > 0.9
    assert record["mean_iou"] > 0.7
    first, second = prompts[:2]
    wrong = [replace(first, mask=second.mask), replace(second, mask=first.mask)]
    assert evaluate_prompted_segmentation(PlantedEmbedder(), wrong, config=config).score.mean_iou < 0.5


def test_prompts_that_cannot_be_judged(tmp_path: Path) -> None:
    prompts = read_prompts(prompted_folder(tmp_path, [(slice(0, 48), slice(0, 10))]))
    with pytest.raises(MediaError, match="no prompt can be judged"):
        evaluate_prompted_segmentation(PlantedEmbedder(), prompts)
    whole = read_prompts(prompted_folder(tmp_path / "b", [(slice(16, 32), slice(36, 52))]))
    whole[0].sound.unlink()
    with pytest.raises(MediaError):
        evaluate_prompted_segmentation(PlantedEmbedder(), whole)
