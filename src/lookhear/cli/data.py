"""What a model learns from: made scenes, prepared stores."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import print_record, print_rows, say, show_progress
from lookhear.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Make small real video files whose sound and picture have one cause, with the truth beside them."""

    folder: tyro.conf.Positional[Path]
    """Where to write them; truth.jsonl and labels.csv (path, label, split) lie beside."""
    count: int = 96
    """How many files."""
    seed: int = 0
    """Another seed makes other scenes; the same seed makes the same bytes of picture and sound."""
    workers: int = 2
    """How many processes."""
    shots: int = 1
    """More than 1: films of so many scenes, in one of which something happens."""
    settings: Set = ()
    """Change a setting of the scenes, such as width=320."""

    def run(self) -> None:
        """Makes the scenes and prints one line each."""
        from lookhear.media.films import FilmSettings, make_films
        from lookhear.media.scenes import SceneSettings, make_scenes
        from lookhear.media.truth import write_labels

        settings = override(SceneSettings(), self.settings)
        films = FilmSettings(shots=self.shots, scene=settings)
        with show_progress("scenes") as progress:
            make = partial(make_films, settings=films) if self.shots > 1 else partial(make_scenes, settings=settings)
            truth = make(self.folder, count=self.count, seed=self.seed, workers=self.workers, progress=progress)
        if self.shots == 1:
            write_labels(self.folder, truth)
        print_rows([(scene.path, scene.kind, f"{scene.seconds:.2f}", len(scene.event_seconds)) for scene in truth])


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a folder of media into a manifest (a line for every file found) and a store to train from."""

    source: tyro.conf.Positional[Path]
    """A folder (links are not followed out of it), one media file, or a list: CSV with a column path, lines, the JSON
    of CAV-MAE and CAV-MAE Sync, VGGSound, AudioSet, ESC-50, UCF101, Kinetics or ActivityNet as published; with --format
    ucf101, hmdb51 or dcase also a folder of lists."""
    store: Path = Path("store")
    """Where the store is made. A run that was stopped goes on where it was."""
    workers: int = 2
    """How many decoding processes."""
    labels: Path | None = None
    """A CSV file with the columns path, label, split (the last two may be missing), paths relative to the source; or
    the table of ESC-50."""
    classes: Path | None = None
    """A label CSV as published (index,mid,display_name), or text with a name a line: labels become its names; one that
    it lacks is an error."""
    root: str = ""
    """Where the files of a list are: FOLDER for relative names and those below <YOUR_PATH>, OLD=FOLDER to put FOLDER
    in the place of OLD, a folder of another machine."""
    format: (
        Literal[
            "table",
            "lines",
            "cavmae",
            "vggsound",
            "audioset",
            "esc50",
            "esc10",
            "ucf101",
            "hmdb51",
            "kinetics",
            "activitynet",
            "dcase",
        ]
        | None
    ) = None
    """What kind of list it is, where what it holds does not tell; that a folder is a list is told by nothing else."""
    shard: str = "0/1"
    """i/n: do only the i-th of n parts (0 <= i < n), on a machine of its own; the last one to finish joins them."""
    executor: Literal["processes", "ray"] = "processes"
    """Where files are decoded: in processes of this machine, or on a Ray cluster (the 'cluster' extra)."""
    settings: Set = ()
    """Change a setting, such as clip_seconds=10 or frames_per_second=5."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Prepares the store and prints how many files ended in which status."""
        from lookhear.data.lists import ListOptions, read_labels
        from lookhear.data.prepare import PrepareConfig, prepare

        config = override(PrepareConfig(), self.settings)
        moved_from, _, root = self.root.partition("=") if "=" in self.root else ("", "", self.root)
        options = ListOptions(
            format=self.format, root=Path(root) if root else None, moved_from=moved_from, classes=self.classes
        )
        with show_progress("files") as progress:
            summary = prepare(
                self.source,
                self.store,
                config=config,
                workers=self.workers,
                shard=_shard(self.shard),
                labels=read_labels(self.labels, self.classes) if self.labels else None,
                list_options=options,
                executor=self.executor,
                progress=progress,
            )
        if summary.nothing_to_do:
            say(f"nothing to do: {self.store} is finished")
        print_record(to_dict(summary), as_json=self.json)


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdigit() and parts.isdigit() and int(part) < int(parts):
        return int(part), int(parts)
    raise UserError(f"--shard {text}: want i/n with 0 <= i < n, such as 0/4")
