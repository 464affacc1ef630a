"""Does a two-second cut of sound find its own moment in a folder of media?

    python examples/find_cuts.py FOLDER --model demo/run

Ten random cuts of two seconds are taken from the sound of each file, encoded again (AAC), and searched for. A cut is
found if the first hit is its own file and the hit's peak is within a second of the cut's centre. Three ways of
searching stand side by side: the model, the same model untrained, and plain mean log-mel vectors of two-second windows
compared by cosine, all on the same grid of moments. Cuts are drawn with a fixed seed. Prints JSON.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lookhear import Index, embedder
from lookhear.config import to_dict
from lookhear.errors import UserError
from lookhear.media.clip import Clip
from lookhear.media.decode import read_clip
from lookhear.media.encode import write_sound
from lookhear.media.probe import find_media
from lookhear.models.checkpoint import save_checkpoint
from lookhear.search.crawl import index
from lookhear.tasks.matching.ridge import mean_log_mel
from lookhear.tasks.metrics import bootstrap_interval

CUT_SECONDS = 2.0
TOLERANCE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A piece of a file's sound, written as a file of its own."""

    source: Path
    centre_seconds: float
    path: Path


@dataclass(frozen=True, kw_only=True)
class Found:
    """The first hit of one search."""

    path: Path
    peak_seconds: float


def sounding_clips(folder: Path) -> Iterator[tuple[Path, Clip, np.ndarray]]:
    """Each file of the folder that can be read and has sound: its path, the clip and its waveform (S,)."""
    for found in find_media(folder):
        if found.problem:
            continue
        try:
            clip = read_clip(found.path)
        except UserError:
            continue
        if clip.waveform is not None:
            yield found.path, clip, clip.waveform


def draw_cuts(folder: Path, scratch: Path, per_file: int, seed: int = 0) -> list[Cut]:
    """`per_file` random cuts of each file that has at least two seconds of sound."""
    rng = random.Random(seed)
    cuts = []
    for source, clip, waveform in sounding_clips(folder):
        if clip.end_seconds - clip.start_seconds < CUT_SECONDS:
            continue
        for number in range(per_file):
            start = rng.uniform(clip.start_seconds, clip.end_seconds - CUT_SECONDS)
            first = round((start - clip.start_seconds) * clip.sample_rate)
            path = scratch / f"{len(cuts):04d}-{number}.m4a"
            write_sound(path, waveform[first : first + int(CUT_SECONDS * clip.sample_rate)], clip.sample_rate)
            cuts.append(Cut(source=source, centre_seconds=start + CUT_SECONDS / 2, path=path))
    return cuts


def search_with(
    model: embedder.Embedder, folder: Path, index_path: Path, cuts: list[Cut], hop: float
) -> list[Found | None]:
    """The first hits of an index that `model` makes of the folder; the sound of the library is searched."""
    index([folder], model=model, index_path=index_path, hop_seconds=hop)
    library = Index(index_path, model=model)
    answers: list[Found | None] = []
    for cut in cuts:
        hits = library.search(sound=cut.path, within="sound", top=1)
        answers.append(Found(path=Path(hits[0].path), peak_seconds=hits[0].peak_seconds) if hits else None)
    return answers


def search_plainly(folder: Path, cuts: list[Cut], hop_seconds: float) -> list[Found | None]:
    """The first hits among the mean log-mel vectors of two-second windows."""
    vectors, places = [], []
    for source, clip, heard in sounding_clips(folder):
        size, hop = int(CUT_SECONDS * clip.sample_rate), int(hop_seconds * clip.sample_rate)
        for first in range(0, max(len(heard) - size, 0) + 1, hop):
            vectors.append(mean_log_mel(heard[first : first + size]))
            centre = clip.start_seconds + first / clip.sample_rate + CUT_SECONDS / 2
            places.append(Found(path=source, peak_seconds=centre))
    table = np.stack(vectors)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    answers: list[Found | None] = []
    for cut in cuts:
        waveform = read_clip(cut.path).waveform
        assert waveform is not None
        answers.append(places[int((table @ mean_log_mel(waveform)).argmax())])
    return answers


def untrained(model: embedder.Embedder, scratch: Path) -> embedder.Embedder:
    """A model of the same configuration with weights that were drawn and never trained."""
    torch.manual_seed(0)
    fresh = type(model.model)(model.config)
    path = scratch / "untrained.safetensors"
    save_checkpoint(path, fresh, preprocess=to_dict(model.preprocess.config))
    return embedder.load(path)


def judge(cuts: list[Cut], answers: list[Found | None]) -> dict[str, object]:
    """Shares of cuts that found their own moment, and their own file; 95 % intervals over files."""
    own_file = np.array([a is not None and a.path.samefile(c.source) for c, a in zip(cuts, answers, strict=True)])
    near = np.array(
        [
            a is not None and abs(a.peak_seconds - c.centre_seconds) <= TOLERANCE_SECONDS
            for c, a in zip(cuts, answers, strict=True)
        ]
    )
    moment = own_file & near
    files = sorted({cut.source for cut in cuts})
    by_file = np.array([moment[[cut.source == file for cut in cuts]].mean() for file in files])
    return {
        "own_moment_first": round(float(moment.mean()), 4),
        "own_moment_ci95": [round(value, 4) for value in bootstrap_interval(by_file)],
        "own_file_first": round(float(own_file.mean()), 4),
    }


def main() -> None:
    """Searches in three ways and prints the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--cuts", type=int, default=10, help="of each file")
    parser.add_argument("--hop", type=float, default=0.4, help="seconds between moments, the same for all three")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        cuts = draw_cuts(options.folder, scratch, options.cuts)
        model = embedder.load(options.model)
        report = {
            "cuts": len(cuts),
            "hop_seconds": options.hop,
            "files": len({cut.source for cut in cuts}),
            "trained": judge(cuts, search_with(model, options.folder, scratch / "trained", cuts, options.hop)),
            "untrained": judge(
                cuts, search_with(untrained(model, scratch), options.folder, scratch / "untrained", cuts, options.hop)
            ),
            "plain_log_mel": judge(cuts, search_plainly(options.folder, cuts, options.hop)),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
