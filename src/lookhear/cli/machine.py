"""This machine: what it has, how fast it is, and the whole path on it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lookhear.cli.arguments import Set
from lookhear.cli.bench_index import BenchIndex
from lookhear.config import override, to_dict
from lookhear.console import print_record, print_rows, say, show_progress


@dataclass(frozen=True, kw_only=True)
class BenchRetrieval:
    """How fast clips are compared both ways, beside the loop over pairs that published code has."""

    clips: int = 1545
    """How many clips; the loop is measured on 100 of them and extrapolated by the square."""
    windows: int = 16
    """Windows of a clip."""
    width: int = 768
    """Numbers of a vector."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.retrieval import measure

        with show_progress("measurements") as progress:
            figures = measure(clips=self.clips, windows=self.windows, width=self.width, progress=progress)
        print_record(to_dict(figures), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class BenchStep:
    """How fast the published CAV-MAE learns here: samples a second and share of the matmul peak, ours and plain."""

    batch_size: int = 8
    """Clips in a step."""
    dtype: Literal["float32", "bfloat16", "both"] = "both"
    """Precision of matrix products."""
    repeats: int = 20
    """Steps of each form."""
    seconds: float = 30.0
    """Or as many steps as begin within this time."""
    peak_size: int = 4096
    """Side of the squares whose product is the peak."""
    compiled: bool = False
    """Let torch compile the blocks (needs a C++ compiler on CPUs)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    settings: Set = ()
    """Change a size of the model, such as width=64."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.step import DTYPES, measure
        from lookhear.models.cavmae import CAVMAEConfig

        with show_progress("precisions") as progress:
            figures = measure(
                override(CAVMAEConfig(), self.settings),
                batch_size=self.batch_size,
                dtypes=tuple(DTYPES) if self.dtype == "both" else (self.dtype,),
                repeats=self.repeats,
                seconds=self.seconds,
                peak_size=self.peak_size,
                compiled=self.compiled,
                device=self.device,
                progress=progress,
            )
        for name, found in figures.items():
            say(f"{name}: the losses of {len(found.fast_losses)} steps differ by {found.largest_loss_difference:.1e}")
        print_record({name: to_dict(found) for name, found in figures.items()}, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class BenchLoader:
    """How many clips a second one core prepares from a store: one drawn picture, sound and log-mel."""

    store: Path
    """A store made by `lookhear prepare`."""
    batch_size: int = 8
    """Clips in a batch."""
    repeats: int = 20
    """Batches of each form."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.loader import measure

        with show_progress("batches") as progress:
            figures = measure(self.store, batch_size=self.batch_size, repeats=self.repeats, progress=progress)
        print_record(to_dict(figures), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class BenchSearch:
    """How fast searches of a large index are and how complete, exact and approximate; first answer, memory, disk."""

    vectors: int = 100_000
    """Moments of the made library, with one vector each."""
    width: int = 768
    """Numbers of a vector."""
    queries: int = 100
    """How many searches are timed."""
    folder: Path | None = None
    """Where the made library is kept for the next run (default: it is deleted). It takes 6 kB a moment."""
    exact_only: bool = False
    """Leave out the approximate search, whose index takes longest to make."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.search import measure

        with show_progress("files") as progress:
            figures = measure(
                vectors=self.vectors,
                width=self.width,
                queries=self.queries,
                folder=self.folder,
                approximate=not self.exact_only,
                progress=progress,
            )
        print_record(to_dict(figures), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How fast this machine is, each figure beside the plain form in the same run: decoding and spectrograms,
    the loader, a training step, retrieval, indexing or search."""

    media: Path | None = None
    """A folder of media to decode (default: clips made for the purpose)."""
    json: bool = False
    """Print as JSON."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[None, tyro.conf.subcommand("feed", description="Decoding and spectrograms.")]
        | Annotated[BenchStep, tyro.conf.subcommand("step")]
        | Annotated[BenchLoader, tyro.conf.subcommand("loader")]
        | Annotated[BenchRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[BenchIndex, tyro.conf.subcommand("index")]
        | Annotated[BenchSearch, tyro.conf.subcommand("search")]
    ] = None

    def run(self) -> None:
        """Measures and prints one line for each link of the feed, or runs the chosen measurements."""
        if self.what is not None:
            replace(self.what, json=self.json or self.what.json).run()
            return
        from lookhear.bench.media import measure

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
