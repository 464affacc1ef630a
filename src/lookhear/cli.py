"""The command line: each verb parses its arguments, calls one function, and prints what it returns.

Results go to stdout, as tab-separated lines or as JSON with `--json`; talk and progress go to stderr. Exit codes: 0
done, 1 failed or refused, 2 wrong usage, 130 interrupted, 143 stopped by SIGTERM after saving. Nothing heavy is
imported before a verb runs.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from lookhear import __version__
from lookhear.config import override, to_dict
from lookhear.console import finish, out, prepare_streams, print_record, print_rows, say, show_progress
from lookhear.errors import UserError

Set = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE"), tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Make small real video files whose sound and picture have one cause, with the truth beside them."""

    folder: tyro.conf.Positional[Path]
    """Where to write them; truth.jsonl lies beside."""
    count: int = 96
    """How many files."""
    seed: int = 0
    """Another seed makes other scenes; the same seed makes the same bytes of picture and sound."""
    workers: int = 2
    """How many processes."""
    settings: Set = ()
    """Change a setting of the scenes, such as width=320."""

    def run(self) -> None:
        """Makes the scenes and prints one line each."""
        from lookhear.media.scenes import SceneSettings, make_scenes

        settings = override(SceneSettings(), self.settings)
        with show_progress("scenes") as progress:
            truth = make_scenes(
                self.folder,
                count=self.count,
                seed=self.seed,
                workers=self.workers,
                settings=settings,
                progress=progress,
            )
        print_rows([(scene.path, scene.kind, f"{scene.seconds:.2f}", len(scene.event_seconds)) for scene in truth])


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Turn a folder of media into a manifest (a line for every file found) and a store to train from."""

    source: tyro.conf.Positional[Path]
    """A folder (links are not followed out of it), one media file, or a list: CSV with a column path, or lines."""
    store: Path = Path("store")
    """Where the store is made. A run that was stopped goes on where it was."""
    workers: int = 2
    """How many decoding processes."""
    labels: Path | None = None
    """A CSV file with the columns path, label, split (the last two may be missing), paths relative to the source."""
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
        from lookhear.data.lists import read_labels
        from lookhear.data.prepare import PrepareConfig, prepare

        config = override(PrepareConfig(), self.settings)
        with show_progress("files") as progress:
            summary = prepare(
                self.source,
                self.store,
                config=config,
                workers=self.workers,
                shard=_shard(self.shard),
                labels=read_labels(self.labels) if self.labels else None,
                executor=self.executor,
                progress=progress,
            )
        if summary.nothing_to_do:
            say(f"nothing to do: {self.store} is finished")
        print_record(to_dict(summary), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Pretrain:
    """Learn from a store, without labels. On a run folder that exists, go on where it stopped."""

    recipe: tyro.conf.Positional[str]
    """The name of a recipe: tiny, grid, ..."""
    store: Path = Path("store")
    """What `lookhear prepare` made."""
    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """Where journal and checkpoints go (default: runs/RECIPE)."""
    settings: Set = ()
    """Change a setting of the run, such as optim.learning_rate=1e-3."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> int:
        """Trains and prints where the checkpoint lies."""
        from lookhear.recipes import pretrain

        folder = self.run_folder or Path("runs") / self.recipe
        with show_progress("steps") as progress:
            summary = pretrain(self.recipe, store=self.store, folder=folder, settings=self.settings, progress=progress)
        print_record(to_dict(summary), as_json=self.json)
        return 143 if summary.interrupted else 0


@dataclass(frozen=True, kw_only=True)
class EvaluateRetrieval:
    """Does a sound find the picture it was recorded with, among all clips, and the reverse?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on; they must not be those it learned from."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells the kinds, for the figures within a kind."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.retrieval import evaluate_retrieval

        result = evaluate_retrieval(
            embedder.load(self.model),
            Store(self.store),
            kinds=_kinds(self.truth),
            train_store=Store(self.learned_from) if self.learned_from else None,
        )
        print_record({"retrieval": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateSync:
    """Does a frame find its own window of sound among the windows of its own clip?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    learned_from: Path | None = None
    """The store it learned from: the linear baseline is fitted there."""
    truth: Path | None = None
    """A folder with truth.jsonl: tells when events are, to count windows without one apart."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.sync import evaluate_sync

        result = evaluate_sync(
            embedder.load(self.model),
            Store(self.store),
            truth=_truth(self.truth),
            train_store=Store(self.learned_from) if self.learned_from else None,
        )
        print_record({"sync": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class EvaluateLocalization:
    """Do heat maps lie on the object that sounds?"""

    model: Path
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    truth: Path
    """A folder with truth.jsonl: the true boxes and event times."""

    def run(self) -> None:
        """Prints the figures as JSON."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.localization import evaluate_localization

        result = evaluate_localization(embedder.load(self.model), Store(self.store), _truth(self.truth) or {})
        print_record({"localization": result.to_dict()}, as_json=True)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a checkpoint: retrieval, sync or localization, each beside chance and a baseline."""

    task: tyro.conf.OmitSubcommandPrefixes[
        Annotated[EvaluateRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[EvaluateSync, tyro.conf.subcommand("sync")]
        | Annotated[EvaluateLocalization, tyro.conf.subcommand("localization")]
    ]

    def run(self) -> None:
        """Runs the chosen task."""
        self.task.run()


@dataclass(frozen=True, kw_only=True)
class IndexFolders:
    """Make or update a search index of folders. Only new and changed files are read."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """One folder or several."""
    model: Path | None = None
    """A checkpoint or a run folder. An index remembers its model."""
    index: Path = Path("lookhear.index")
    """Where the index lies."""
    workers: int = 2
    """How many decoding processes."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Crawls and prints what became of the files."""
        from lookhear.search.crawl import index

        with show_progress("files") as progress:
            summary = index(
                self.folders, model=self.model, index_path=self.index, workers=self.workers, progress=progress
            )
        print_record(to_dict(summary), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Find moments by a sound, a picture or a clip. Prints file, start, end, score."""

    sound: Path | None = None
    """A file with sound: where else does this sound, or where does it look like this?"""
    picture: Path | None = None
    """A picture: where else does it look like this, or where does it sound like this?"""
    clip: Path | None = None
    """A video: sound and picture together."""
    index: Path = Path("lookhear.index")
    """Where the index lies."""
    within: Annotated[Literal["sound", "picture", "both"], tyro.conf.arg(name="in")] = "both"
    """What of the library is compared: its sound, its pictures, or both."""
    top: int = 10
    """How many hits."""
    json: bool = False
    """Print the hits as JSON."""

    def run(self) -> None:
        """Searches and prints the hits, best first."""
        from lookhear.search.index import Index

        hits = Index(self.index).search(
            sound=self.sound, picture=self.picture, clip=self.clip, within=self.within, top=self.top
        )
        if self.json:
            print_record([to_dict(hit) for hit in hits], as_json=True)
        else:
            print_rows(
                [
                    (hit.path, f"{hit.start_seconds:.2f}", f"{hit.end_seconds:.2f}", f"{hit.score:.3f}", hit.matched)
                    for hit in hits
                ]
            )


@dataclass(frozen=True, kw_only=True)
class Status:
    """What an index holds: files by status, moments, its model, and the files that were skipped and why."""

    index: Path = Path("lookhear.index")
    """Where the index lies."""
    files: bool = False
    """Print a line for every file instead of the summary."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Prints the state of the index."""
        from lookhear.search.index import Index

        status = Index(self.index).status()
        if self.files and not self.json:
            print_rows([(row.path, row.status, row.reason) for row in status.files])
        else:
            record = to_dict(status)
            if not self.files:
                del record["files"]
            print_record(record, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Show where in the picture the sound comes from, as a heat map over the frame."""

    media: tyro.conf.Positional[Path]
    """A video file with sound."""
    model: Path
    """A checkpoint or a run folder."""
    at: float = 0.0
    """The moment, in seconds on the file's clock."""
    out: Path = Path("heat.png")
    """The picture to write."""

    def run(self) -> None:
        """Writes the picture and prints its path and the place of the maximum."""
        from lookhear.tasks.localization import localize

        place = localize(self.media, model=self.model, at_seconds=self.at, out=self.out)
        print_rows([(self.out, f"{place.x:.3f}", f"{place.y:.3f}")])


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How fast this machine decodes and computes spectrograms, each beside the plain form in the same run."""

    media: Path | None = None
    """A folder of media to decode (default: clips made for the purpose)."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints one line for each link of the feed."""
        from lookhear.bench import measure

        with show_progress("measurements") as progress:
            figures = measure(self.media, progress=progress)
        if self.json:
            print_record([to_dict(figure) for figure in figures], as_json=True)
        else:
            head = ("what", "ms", "plain ms", "ratio", "repeats")
            rows = [
                (f.name, f"{f.milliseconds:.2f}", f"{f.plain_milliseconds:.2f}", f"{f.ratio:.2f}", f.repeats)
                for f in figures
            ]
            print_rows([head, *rows])


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Say what this machine has, and what is wrong with it."""

    json: bool = False
    """Print as JSON."""

    def run(self) -> int:
        """Prints one line a finding; exit code 1 if there is a problem."""
        from lookhear.doctor import examine

        findings = examine()
        if self.json:
            print_record([to_dict(finding) for finding in findings], as_json=True)
        else:
            print_rows([(f.verdict, f.name, f.value, f.advice) for f in findings])
        return 1 if any(finding.verdict == "problem" for finding in findings) else 0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the main job end to end: make or take videos, learn, evaluate, search, localize, report."""

    out: Path = Path("demo")
    """Where everything is written; report.html and report.json are the result."""
    media: Path | None = None
    """A folder of your own videos, instead of made scenes."""
    workers: int = 2
    """How many decoding processes."""
    settings: Set = ()
    """Change a setting, such as held_out=48 or recipe=tiny."""
    json: bool = False
    """Print the whole report as JSON."""

    def run(self) -> int:
        """Runs all steps and prints the main figures."""
        from lookhear.demo import DemoSettings, StoppedError, demo
        from lookhear.demo_page import HEAD, cells, rows

        settings = override(DemoSettings(), self.settings)
        try:
            report = demo(
                self.out,
                media=self.media,
                workers=self.workers,
                settings=settings,
                say=say,
                show_progress=show_progress,
            )
        except StoppedError as stopped:
            say(f"lookhear: {stopped}")
            return 143
        if self.json:
            print_record(report, as_json=True)
        else:
            print_rows([HEAD, *(cells(row) for row in rows(report))])
        return 0


VERBS: dict[str, Callable[..., Any]] = {
    "scenes": Scenes,
    "prepare": Prepare,
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "index": IndexFolders,
    "search": Search,
    "localize": Localize,
    "status": Status,
    "bench": Bench,
    "doctor": Doctor,
    "demo": Demo,
}


def parse(words: Sequence[str]) -> Any:
    """The verb that `words` name, with its arguments; nothing is run. SystemExit 2 for wrong usage, 0 for --help."""
    return tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="lookhear",
        description=_DESCRIPTION,
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    prepare_streams()
    try:
        if words == ["--version"]:
            out(__version__)
            return finish()
        code = parse(words).run() or 0
        return finish() or code
    except UserError as error:
        if debug:
            raise
        say(f"lookhear: {error}")
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        say("lookhear: interrupted")
        return 130
    except BrokenPipeError:
        return finish()


_DESCRIPTION = """Learn from unlabelled video how sound and picture belong together, and find moments by a sound, \
a picture or a clip. Add --debug to any verb to see the traceback of an error."""


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdigit() and parts.isdigit() and int(part) < int(parts):
        return int(part), int(parts)
    raise UserError(f"--shard {text}: want i/n with 0 <= i < n, such as 0/4")


def _truth(folder: Path | None) -> Any:
    from lookhear.media.scenes import load_truth

    return load_truth(folder) if folder else None


def _kinds(folder: Path | None) -> dict[str, str] | None:
    truth = _truth(folder)
    return {path: scene.kind for path, scene in truth.items()} if truth else None


if __name__ == "__main__":
    sys.exit(main())
