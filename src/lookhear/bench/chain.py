"""Every link from a media file to a trained model on this machine, and which one holds a run up: `lookhear bench`.

The links are measured by the files beside this one, each with its plain form in the same run; here they become one
table. Files are decoded once, when a store is made; a run then waits for preparing clips, or for the step.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lookhear import __version__
from lookhear.bench import loader, media, step
from lookhear.bench.step import DTYPES, BenchDtype, StepFigures
from lookhear.config import to_dict
from lookhear.data.prepare import prepare
from lookhear.device import describe_machine, num_cores, pick_device, pick_dtype
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.progress import Progress, quiet

LinkName = Literal["decode", "log-mel", "loader", "forward", "step"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long is measured."""

    repeats: int
    seconds: float
    peak_size: int


WHOLE = Effort(repeats=20, seconds=30.0, peak_size=4096)
QUICK = Effort(repeats=3, seconds=3.0, peak_size=1024)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One way to train the model."""

    dtype: BenchDtype
    batch_size: int
    compiled: bool

    def __str__(self) -> str:
        return f"{self.dtype}, batch {self.batch_size}{', compiled' if self.compiled else ''}"


@dataclass(frozen=True, kw_only=True)
class Link:
    """One measured link: medians over `repeats`, ours and the plain form in turn."""

    link: LinkName
    what: str
    samples_per_second: float | None = None  # of one core for decode, log-mel and loader; None where it failed
    plain_samples_per_second: float | None = None
    ratio: float | None = None  # ours / plain
    tflops_per_second: float | None = None
    mfu: float | None = None  # share of the best matrix product of the same run, in the same precision
    memory_bytes: int | None = None  # of our form, at most
    repeats: int = 0
    problem: str = ""  # why there are no figures


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The table of one machine."""

    lookhear: str
    machine: dict[str, Any]
    model: dict[str, Any]  # sizes of what is trained
    quick: bool  # a first look: few repeats, small products
    links: tuple[Link, ...]
    peak_tflops_per_second: dict[str, float]  # by precision, of the best matrix product
    slowest: LinkName | None  # of a training run; None where a link of it could not be measured
    sentence: str


def measure(
    *,
    store: Path | None = None,
    folder: Path | None = None,
    config: CAVMAEConfig | None = None,
    batch_sizes: Sequence[int] = (),
    dtypes: Sequence[BenchDtype] = (),
    compiled: Sequence[bool] = (),
    device: str = "auto",
    quick: bool = False,
    progress: Progress = quiet,
) -> Chain:
    """Measures every link, one after the other; a way to train that fails is a row that says why.

    The loader reads `store`, decoding `folder`; None: clips made for the purpose. What is trained is the published
    CAV-MAE unless `config` says otherwise. Where nothing is named: batches of 2 and 8, on CUDA 8 and 32; both
    precisions; compiled and not. `quick` takes few repeats, and by itself the smallest batch, the precision that this
    machine would train in, and no compiler. Raises UserError for a store or a folder that cannot be read.
    """
    where, effort = pick_device(device), QUICK if quick else WHOLE
    own: BenchDtype = "float32" if str(pick_dtype("auto", where)) == "torch.float32" else "bfloat16"
    sizes = tuple(batch_sizes) or ((8, 32) if where.type == "cuda" else (2, 8))[: 1 if quick else None]
    ways = [
        Training(dtype=dtype, batch_size=size, compiled=compiles)
        for dtype, size, compiles in itertools.product(
            dtypes or ((own,) if quick else tuple(DTYPES)), sizes, compiled or ((False,) if quick else (False, True))
        )
    ]
    config = config or CAVMAEConfig()
    total = 2 + len(ways)
    progress(0, total, "decoding, log-mel")
    links = list(_feed(folder, effort))
    progress(1, total, "preparing clips")
    links.append(_loader(store, effort))
    peaks: dict[str, float] = {}
    trained: list[Link] = []
    for done, way in enumerate(ways, start=2):
        progress(done, total, str(way))
        try:
            figures = _train(way, config, effort, device)
        except UserError as error:
            trained += [Link(link=name, what=str(way), problem=str(error)) for name in ("forward", "step")]
            continue
        peaks[way.dtype] = max(peaks.get(way.dtype, 0.0), figures.peak_tflops_per_second)
        trained += [_forward(way, figures), _step(way, figures)]
    progress(total, total)
    links += sorted(trained, key=lambda link: link.link)  # forward before step, otherwise as they came
    slowest, sentence = name_slowest(links, device=where.type, cores=num_cores())
    return Chain(
        lookhear=__version__,
        machine=describe_machine(device),
        model=to_dict(config),
        quick=quick,
        links=tuple(links),
        peak_tflops_per_second=peaks,
        slowest=slowest,
        sentence=sentence,
    )


def name_slowest(links: Sequence[Link], *, device: str, cores: int) -> tuple[LinkName | None, str]:
    """What holds a training run up, and a sentence on it.

    On a GPU the cores prepare clips while it computes, so the slower of the two is waited for. On a CPU both share
    the cores, so the one that costs more core time is.
    """
    steps = [link for link in links if link.link == "step" and link.samples_per_second]
    loaders = [link for link in links if link.link == "loader" and link.samples_per_second]
    if not steps or not loaders:
        return None, "No way to train could be measured, so nothing can be said about what holds a run up."
    best = max(steps, key=lambda link: link.samples_per_second or 0.0)
    rate, fed = best.samples_per_second or 0.0, (loaders[0].samples_per_second or 0.0) * cores
    of_step = f"the step takes {_rate(rate)} samples/s at its best ({best.what})"
    of_loader = f"{cores} core{'s' if cores > 1 else ''} can prepare {_rate(fed)} clips/s"
    if rate <= fed:
        share = f", which takes {rate / (rate + fed):.1%} of the time" if device == "cpu" else ""
        return "step", f"A training run waits for the step: {of_step}, and {of_loader}{share}."
    return "loader", f"A training run waits for the loader: {of_step}, but {of_loader}."


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _feed(folder: Path | None, effort: Effort) -> Iterator[Link]:
    for figure in media.measure(folder, repeats=effort.repeats):
        decoding = figure.name.startswith("decode ")
        yield Link(
            link="decode" if decoding else "log-mel",
            what=figure.name.removeprefix("decode ").removeprefix("log-mel "),
            samples_per_second=1000 / figure.milliseconds,
            plain_samples_per_second=1000 / figure.plain_milliseconds,
            ratio=figure.ratio,
            repeats=figure.repeats,
        )


def _loader(store: Path | None, effort: Effort) -> Link:
    with tempfile.TemporaryDirectory(prefix="lookhear-") as scratch:
        if store is None:
            made = Path(scratch) / "media"
            made.mkdir()
            media.make_clips(made)
            prepare(made, Path(scratch) / "store", workers=0)
        figures = loader.measure(store or Path(scratch) / "store", repeats=effort.repeats)
    return Link(
        link="loader",
        what=f"one picture, sound and log-mel of {figures.clips} {'made clips' if store is None else 'clips'}",
        samples_per_second=figures.clips_per_second,
        plain_samples_per_second=figures.plain_clips_per_second,
        ratio=figures.ratio,
        repeats=figures.repeats,
    )


def _train(way: Training, config: CAVMAEConfig, effort: Effort, device: str) -> StepFigures:
    found = step.measure(
        config,
        batch_size=way.batch_size,
        dtypes=(way.dtype,),
        repeats=effort.repeats,
        seconds=effort.seconds,
        peak_size=effort.peak_size,
        compiled=way.compiled,
        forward=True,
        device=device,
    )
    return found[way.dtype]


def _step(way: Training, figures: StepFigures) -> Link:
    return Link(
        link="step",
        what=str(way),
        samples_per_second=figures.fast_samples_per_second,
        plain_samples_per_second=figures.plain_samples_per_second,
        ratio=figures.ratio,
        tflops_per_second=figures.tflops_per_second,
        mfu=figures.mfu,
        memory_bytes=figures.peak_memory_bytes,
        repeats=figures.repeats,
    )


def _forward(way: Training, figures: StepFigures) -> Link:
    found = figures.forward
    assert found is not None  # it was asked for
    return Link(
        link="forward",
        what=str(way),
        samples_per_second=found.fast_clips_per_second,
        plain_samples_per_second=found.plain_clips_per_second,
        ratio=found.ratio,
        tflops_per_second=found.tflops_per_second,
        mfu=found.mfu,
        repeats=found.repeats,
    )
