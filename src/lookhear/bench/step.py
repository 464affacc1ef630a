"""How fast a model learns on this machine, beside the plain form in the same run: `lookhear bench step`.

Both forms begin with the same weights and see the same clips and masks, each in a process of its own, because ours
also chooses how its process treats freed memory. Three steps are compared; then steps of one and of the other
alternate, so that a machine whose speed drifts slows both. The share of the peak (MFU) is counted operations a second
over the best of several matrix products of this run in the same precision.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, Self

import torch
from torch import Tensor

from lookhear.bench.plain import PlainCAVMAE, PlainMasks
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.device import keep_freed_memory, pick_device
from lookhear.errors import UserError
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.flops import contrastive_flops, pass_flops
from lookhear.models.tokens import MaskConfig, mask_from_noise
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.progress import Progress, quiet
from lookhear.training.optim import OptimConfig, build_optimizer

BenchDtype = Literal["float32", "bfloat16"]
DTYPES: dict[BenchDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Form = Literal["plain", "fast"]
FORMS: tuple[Form, ...] = ("plain", "fast")
COMPARED = 3  # steps whose losses are compared
LEARNING_RATE = 5e-5
_PEAK_REPEATS = 8


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """Steps in one precision: forward, backward and optimiser, medians over `repeats`."""

    plain_samples_per_second: float
    fast_samples_per_second: float
    ratio: float  # fast / plain
    mfu: float  # of the fast form: share of the peak
    plain_mfu: float
    tflops_per_second: float  # of the fast form
    peak_tflops_per_second: float  # the best matrix product of this run
    gflops_per_sample: float
    batch_size: int
    repeats: int
    plain_losses: tuple[float, ...]  # of the first steps, from equal weights
    fast_losses: tuple[float, ...]
    largest_loss_difference: float
    peak_memory_bytes: int | None  # of the fast form: allocated on the device, or its process on a CPU
    compiled: bool
    device: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both forms do."""

    config: CAVMAEConfig
    dtype: BenchDtype
    device: str  # as torch names it
    batch_size: int
    mask_ratio: float = 0.75
    compiled: bool = False  # the blocks of the fast form


def measure(
    config: CAVMAEConfig | None = None,
    *,
    batch_size: int = 8,
    mask_ratio: float = 0.75,
    dtypes: Sequence[BenchDtype] = ("float32", "bfloat16"),
    repeats: int = 20,
    seconds: float = 30.0,
    peak_size: int = 4096,
    compiled: bool = False,
    device: str = "auto",
    progress: Progress = quiet,
) -> dict[str, StepFigures]:
    """Figures by precision, of the published CAV-MAE unless `config` says otherwise.

    Each form takes `repeats` steps, or as many (two at least) as begin within `seconds` of its own time. `compiled`
    lets torch compile the blocks of the fast form. Peak: products of two `peak_size` squares.
    """
    where = pick_device(device)
    figures: dict[str, StepFigures] = {}
    for i, name in enumerate(dtypes):
        progress(i, len(dtypes), name)
        work = Work(
            config=config or CAVMAEConfig(),
            dtype=name,
            device=str(where),
            batch_size=batch_size,
            mask_ratio=mask_ratio,
            compiled=compiled,
        )
        figures[name] = _measure(work, repeats=repeats, seconds=seconds, peak_size=peak_size)
    progress(len(dtypes), len(dtypes))
    return figures


def _measure(work: Work, *, repeats: int, seconds: float, peak_size: int) -> StepFigures:
    with ExitStack() as stack:
        plain, fast = (stack.enter_context(_Process(form, work)) for form in FORMS)
        losses = [tuple(form.ask(_step).loss for _ in range(COMPARED)) for form in (plain, fast)]
        peaks = [fast.ask(_peak, peak_size)]
        taken: tuple[list[float], list[float]] = ([], [])
        while len(taken[0]) < max(repeats, 2) and (len(taken[0]) < 2 or max(map(sum, taken)) < seconds):
            for form, times in zip((plain, fast), taken, strict=True):
                times.append(form.ask(_step).seconds)
        peaks.append(fast.ask(_peak, peak_size))
        memory = fast.ask(_memory)
    plain_seconds, fast_seconds = (statistics.median(times) for times in taken)
    ratio, size = work.mask_ratio, work.batch_size
    sample = pass_flops(work.config, audio_ratio=ratio, visual_ratio=ratio, reconstruct=True).training
    step_flops = size * sample + 3 * contrastive_flops(size, work.config.width)
    peak = max(peaks)
    device = torch.device(work.device)
    return StepFigures(
        plain_samples_per_second=size / plain_seconds,
        fast_samples_per_second=size / fast_seconds,
        ratio=plain_seconds / fast_seconds,
        mfu=step_flops / fast_seconds / peak,
        plain_mfu=step_flops / plain_seconds / peak,
        tflops_per_second=step_flops / fast_seconds / 1e12,
        peak_tflops_per_second=peak / 1e12,
        gflops_per_sample=step_flops / size / 1e9,
        batch_size=size,
        repeats=len(taken[0]),
        plain_losses=losses[0],
        fast_losses=losses[1],
        largest_loss_difference=max(abs(one - other) for one, other in zip(*losses, strict=True)),
        peak_memory_bytes=memory,
        compiled=work.compiled,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def make_step(form: Form, work: Work) -> Callable[[], Tensor]:
    """A step that each call takes, and returns its loss; weights, clips and masks are those of the other form."""
    device, config = torch.device(work.device), work.config
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CAVMAE(config).to(device).train()
    size = (config.picture_channels, config.picture_height, config.picture_width)
    batch = Batch(
        clip_ids=("",) * work.batch_size,
        index=torch.arange(work.batch_size),
        start_seconds=torch.zeros(work.batch_size, 1, dtype=torch.float64),
        audio=torch.randn(work.batch_size, 1, config.audio_frames, config.num_mel_bins, generator=generator),
        frames=torch.randn(work.batch_size, 1, *size, generator=generator),
    ).to(device)
    if form == "plain":
        return _PlainStep(PlainCAVMAE.copy_of(model).train(), batch, work)
    return _FastStep(model, batch, work)


class _PlainStep:
    """Draws masks, computes the loss, and lets torch.optim.Adam, as it comes, move the weights."""

    def __init__(self, model: PlainCAVMAE, batch: Batch, work: Work):
        assert batch.audio is not None
        assert batch.frames is not None
        self.model, self.config, self.ratio, self.dtype = model, work.config, work.mask_ratio, DTYPES[work.dtype]
        self.audio, self.pictures, self.index = batch.audio[:, 0], batch.frames[:, 0], batch.index
        self.optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.95, 0.999))
        self.step = 0

    def __call__(self) -> Tensor:
        masks = self._masks()
        with torch.autocast(self.audio.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.model.loss(self.audio, self.pictures, masks)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _masks(self) -> PlainMasks:
        draws = Draws(seed=0, epoch=self.step)
        found = [
            mask_from_noise(draws.uniform(self.index, grid.num_tokens, purpose=f"mask {name}"), self.ratio)
            for name, grid in (("audio", self.config.audio_grid), ("visual", self.config.picture_grid))
        ]
        return PlainMasks(
            audio_kept=found[0].kept,
            audio_restore=found[0].restore,
            visual_kept=found[1].kept,
            visual_restore=found[1].restore,
        )


class _FastStep:
    """What `training.loop` does in a step, with the objective and the optimiser of a published run."""

    def __init__(self, model: CAVMAE, batch: Batch, work: Work):
        self.model, self.batch, self.dtype = model, batch, DTYPES[work.dtype]
        mask = MaskConfig(audio=work.mask_ratio, visual=work.mask_ratio)
        self.objective = CAVMAEObjectiveConfig(mask=mask).build(model)
        optim = OptimConfig(name="adam", learning_rate=LEARNING_RATE, betas=(0.95, 0.999), weight_decay=0.0)
        self.optimizer = build_optimizer(optim, [model])
        self.step = 0
        if work.compiled:
            compile_blocks(model)

    def __call__(self) -> Tensor:
        assert self.batch.audio is not None
        device = self.batch.audio.device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            result = self.objective(self.model, self.batch, Draws(seed=0, epoch=self.step))
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        self.optimizer.step()
        self.step += 1
        loss: Tensor = result.loss.detach()
        return loss


def compile_blocks(model: torch.nn.Module) -> None:
    """Lets torch compile every transformer block of `model`: one kind of layer at a time, so it takes seconds."""
    from lookhear.models.transformer import Block

    for part in model.modules():
        if isinstance(part, Block):
            part.compile()


@dataclass(frozen=True, kw_only=True)
class _Side:
    """What a form's process works with."""

    step: Callable[[], Tensor]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class _Taken:
    loss: float
    seconds: float


class _Process:
    """A form in a process of its own, which answers one question after the other."""

    def __init__(self, form: Form, work: Work):
        context = multiprocessing.get_context("spawn")
        self.form = form
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_answer, args=(other, form, work), daemon=True)
        self.process.start()
        other.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join()

    def ask(self, question: Callable[..., Any], *values: Any) -> Any:
        """The answer of `question`, a function of this module; UserError if the process ended."""
        try:
            self.connection.send((question, values))
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise UserError(
                f"the process of the {self.form} form ended without an answer; it may have run out of memory: "
                "try a smaller --batch-size"
            ) from error


def _answer(connection: Connection, form: Form, work: Work) -> None:
    device = torch.device(work.device)
    if form == "fast" and device.type == "cpu":
        keep_freed_memory()  # as training does
    side = _Side(step=make_step(form, work), dtype=DTYPES[work.dtype], device=device)
    while True:
        try:
            question, values = connection.recv()
        except EOFError:
            return
        connection.send(question(side, *values))


def _step(side: _Side) -> _Taken:
    started = time.perf_counter()
    loss = side.step()
    _wait(side.device)
    return _Taken(seconds=time.perf_counter() - started, loss=float(loss))


def _peak(side: _Side, size: int) -> float:
    """Operations a second of the best of several products of two squares."""
    one, other = (torch.randn(size, size, device=side.device).to(side.dtype) for _ in range(2))
    times = []
    with torch.no_grad():
        for _ in range(_PEAK_REPEATS):
            started = time.perf_counter()
            one @ other
            _wait(side.device)
            times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def _memory(side: _Side) -> int | None:
    """Bytes at most so far: allocated on a GPU, resident in a process on a CPU; None where nobody counts."""
    if side.device.type == "cuda":
        return torch.cuda.max_memory_allocated(side.device)
    if side.device.type != "cpu" or sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
