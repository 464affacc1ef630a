"""Videos as features, in which a few moments tell the class and the sound tells which moments these are."""

from pathlib import Path

import numpy as np

from lookhear.data.features import Features, open_features
from lookhear.data.manifest import FileLabels

WIDTH = 16


def plant_videos(
    folder: Path, count: int, *, classes: int = 3, moments: tuple[int, int] = (20, 40), seed: int = 0
) -> tuple[Features, dict[str, FileLabels]]:
    """`count` videos in the splits train (two of three) and test.

    Two moments of each have a loud sound and the picture of the class; four have the picture of some class and no loud
    sound, so that neither all moments nor evenly spaced ones tell the class as well as those that sound.
    """
    rng, codes = np.random.default_rng(seed), np.random.default_rng(99)
    loud, pictures = codes.normal(size=WIDTH), codes.normal(size=(classes, WIDTH)) * 2
    labels = {}
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        num, kind = int(rng.integers(*moments)), number % classes
        audio, visual = rng.normal(size=(2, num, WIDTH)) * 0.5
        places = rng.permutation(num)
        audio[places[:2]] += 3 * loud
        visual[places[:2]] += pictures[kind]
        visual[places[2:6]] += pictures[rng.integers(0, classes, 4)]
        name = f"video-{number:03d}"
        np.save(folder / f"{name}.audio.npy", audio.astype(np.float32))
        np.save(folder / f"{name}.visual.npy", visual.astype(np.float32))
        np.save(folder / f"{name}.times.npy", np.arange(num) * 0.5)
        split = "test" if number >= count * 2 // 3 else "train"
        labels[name] = FileLabels(labels=(f"class {kind}",), split=split)
    return open_features(folder), labels
