"""How fast this machine is, link by link."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import print_record, print_rows, say, show_progress
from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.bench.chain import Link


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
class BenchIndex:
    """How much faster than real time media is indexed by a ViT-S, link by link."""

    media: Path | None = None
    """A folder of media (default: made files of 360p at 30 frames a second)."""
    hop: float = 1.0
    """Seconds from one moment to the next."""
    workers: int = 2
    """Processes that decode."""
    count: int = 16
    """How many files of a minute to make."""
    settings: Set = ()
    """Change a size of the model, such as width=64."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints a line a figure."""
        from lookhear.bench.indexing import MODEL, measure

        with show_progress("steps") as progress:
            figures = measure(
                self.media,
                config=override(MODEL, self.settings),
                hop_seconds=self.hop,
                workers=self.workers,
                count=self.count,
                progress=progress,
            )
        print_record(to_dict(figures), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class BenchFeed:
    """How fast files are decoded and spectrograms made: milliseconds, ours and plain."""

    media: Path | None = None
    """A folder of media to decode (default: clips made for the purpose)."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Measures and prints one line for each link of the feed."""
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
class Bench:
    """How fast this machine is at every link from a media file to a trained model, each figure beside the plain form
    in the same run, and which link holds a training run up. One link in more detail: name it."""

    quick: bool = False
    """A first look: few repeats, the smallest batch, no compiler; two minutes instead of half an hour on two cores."""
    media: Path | None = None
    """A folder of media to decode (default: clips made for the purpose)."""
    store: Path | None = None
    """A store for the loader to read (default: made clips)."""
    batch_sizes: tuple[int, ...] = ()
    """Clips in a step (default: 2 and 8; 8 and 32 on CUDA)."""
    dtype: Literal["float32", "bfloat16", "both"] | None = None
    """Precision of matrix products (default: both)."""
    compiled: Literal["yes", "no", "both"] | None = None
    """Whether torch compiles the blocks (default: both)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    settings: Set = ()
    """Change a size of the model, such as width=64."""
    json: bool = False
    """Print as JSON."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[None, tyro.conf.subcommand("all", description="Every link in one table; the same as none.")]
        | Annotated[BenchFeed, tyro.conf.subcommand("feed")]
        | Annotated[BenchStep, tyro.conf.subcommand("step")]
        | Annotated[BenchLoader, tyro.conf.subcommand("loader")]
        | Annotated[BenchRetrieval, tyro.conf.subcommand("retrieval")]
        | Annotated[BenchSearch, tyro.conf.subcommand("search")]
        | Annotated[BenchIndex, tyro.conf.subcommand("index")]
    ] = None

    def run(self) -> None:
        """Measures and prints a line a link, or runs the chosen measurement."""
        if self.what is not None:
            self._one_link().run()
            return
        from lookhear.bench.chain import measure
        from lookhear.bench.step import DTYPES
        from lookhear.models.cavmae import CAVMAEConfig

        with show_progress("links") as progress:
            chain = measure(
                store=self.store,
                folder=self.media,
                config=override(CAVMAEConfig(), self.settings),
                batch_sizes=self.batch_sizes,
                dtypes=() if self.dtype is None else tuple(DTYPES) if self.dtype == "both" else (self.dtype,),
                compiled={None: (), "yes": (True,), "no": (False,), "both": (False, True)}[self.compiled],
                device=self.device,
                quick=self.quick,
                progress=progress,
            )
        if self.json:
            print_record(to_dict(chain), as_json=True)
            return
        head = ("link", "what", "samples/s", "plain", "ratio", "TFLOP/s", "of peak", "GiB", "repeats")
        print_rows([head, *(_row(link) for link in chain.links)])
        print_rows([("peak", name, *[""] * 3, f"{peak:.3g}") for name, peak in chain.peak_tflops_per_second.items()])
        print_rows([("slowest", chain.sentence)])

    def _one_link(self) -> BenchFeed | BenchStep | BenchLoader | BenchRetrieval | BenchSearch | BenchIndex:
        """What was named, with the options before its name that it shares; others are refused."""
        assert self.what is not None
        chosen = replace(self.what, json=self.json or self.what.json)
        shared = {"json", "what"}
        if isinstance(chosen, BenchFeed):
            chosen, shared = replace(chosen, media=chosen.media or self.media), shared | {"media"}
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if strange := [f"--{name.replace('_', '-')}" for name in given if name not in shared]:
            raise UserError(
                f"{', '.join(strange)} before the name of a link is of the whole table; put it behind the name"
            )
        return chosen


def _row(link: "Link") -> tuple[object, ...]:
    """A link as text; one that failed with its reason instead of figures."""
    if link.samples_per_second is None:
        return (link.link, link.what, link.problem)
    memory = None if link.memory_bytes is None else link.memory_bytes / 2**30
    figures = (
        *(link.samples_per_second, link.plain_samples_per_second, link.ratio),
        *(link.tflops_per_second, link.mfu, memory),
    )
    return (link.link, link.what, *("" if value is None else f"{value:.3g}" for value in figures), link.repeats)
