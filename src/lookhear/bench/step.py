"""How fast a model learns on this machine, beside the plain form in the same run: `lookhear bench step`.

Both forms begin with the same weights and see the same clips and masks. Three steps are compared; then steps of one
and of the other alternate, so that a machine whose speed drifts slows both. The share of the peak (MFU) is counted
operations a second over the best of several matrix products of this run in the same precision.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lookhear.bench.plain import PlainCAVMAE, PlainMasks
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.device import pick_device
from lookhear.models.cavmae import CAVMAE, CAVMAEConfig
from lookhear.models.flops import contrastive_flops, pass_flops
from lookhear.models.tokens import MaskConfig, mask_from_noise
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.progress import Progress, quiet
from lookhear.training.optim import OptimConfig, build_optimizer

BenchDtype = Literal["float32", "bfloat16"]
DTYPES: dict[BenchDtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
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
    peak_memory_bytes: int | None  # of the device, both forms together; None on CPUs
    compiled: bool
    device: str
    threads: int


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
        figures[name] = _measure(
            config or CAVMAEConfig(),
            DTYPES[name],
            where,
            batch_size=batch_size,
            mask_ratio=mask_ratio,
            repeats=repeats,
            seconds=seconds,
            peak_size=peak_size,
            compiled=compiled,
        )
    progress(len(dtypes), len(dtypes))
    return figures


def _measure(
    config: CAVMAEConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    batch_size: int,
    mask_ratio: float,
    repeats: int,
    seconds: float,
    peak_size: int,
    compiled: bool,
) -> StepFigures:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    forms = make_steps(config, dtype, device, batch_size=batch_size, mask_ratio=mask_ratio, compiled=compiled)
    losses = [tuple(float(step()) for _ in range(COMPARED)) for step in forms]
    peaks = [_peak(peak_size, dtype, device)]
    taken: tuple[list[float], list[float]] = ([], [])
    while len(taken[0]) < max(repeats, 2) and (len(taken[0]) < 2 or max(map(sum, taken)) < seconds):
        for step, times in zip(forms, taken, strict=True):
            times.append(_seconds(step, device))
    peaks.append(_peak(peak_size, dtype, device))
    plain, fast = (statistics.median(times) for times in taken)
    sample = pass_flops(config, audio_ratio=mask_ratio, visual_ratio=mask_ratio, reconstruct=True).training
    step_flops = batch_size * sample + 3 * contrastive_flops(batch_size, config.width)
    peak = max(peaks)
    return StepFigures(
        plain_samples_per_second=batch_size / plain,
        fast_samples_per_second=batch_size / fast,
        ratio=plain / fast,
        mfu=step_flops / fast / peak,
        plain_mfu=step_flops / plain / peak,
        tflops_per_second=step_flops / fast / 1e12,
        peak_tflops_per_second=peak / 1e12,
        gflops_per_sample=step_flops / batch_size / 1e9,
        batch_size=batch_size,
        repeats=len(taken[0]),
        plain_losses=losses[0],
        fast_losses=losses[1],
        largest_loss_difference=max(abs(one - other) for one, other in zip(*losses, strict=True)),
        peak_memory_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        compiled=compiled,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def make_steps(
    config: CAVMAEConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    batch_size: int,
    mask_ratio: float = 0.75,
    compiled: bool = False,
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The plain step and ours: each call takes one and returns its loss. Equal weights, clips and masks."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CAVMAE(config).to(device).train()
    size = (config.picture_channels, config.picture_height, config.picture_width)
    batch = Batch(
        clip_ids=("",) * batch_size,
        index=torch.arange(batch_size),
        start_seconds=torch.zeros(batch_size, 1, dtype=torch.float64),
        audio=torch.randn(batch_size, 1, config.audio_frames, config.num_mel_bins, generator=generator),
        frames=torch.randn(batch_size, 1, *size, generator=generator),
    ).to(device)
    plain = PlainCAVMAE.copy_of(model).train()
    plain_step = _PlainStep(plain, batch, config, mask_ratio, dtype)
    return plain_step, _FastStep(model, batch, mask_ratio, dtype, compiled=compiled)


class _PlainStep:
    """Draws masks, computes the loss, and lets torch.optim.Adam, as it comes, move the weights."""

    def __init__(self, model: PlainCAVMAE, batch: Batch, config: CAVMAEConfig, ratio: float, dtype: torch.dtype):
        assert batch.audio is not None
        assert batch.frames is not None
        self.model, self.config, self.ratio, self.dtype = model, config, ratio, dtype
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

    def __init__(self, model: CAVMAE, batch: Batch, ratio: float, dtype: torch.dtype, *, compiled: bool):
        self.model, self.batch, self.dtype = model, batch, dtype
        self.objective = CAVMAEObjectiveConfig(mask=MaskConfig(audio=ratio, visual=ratio)).build(model)
        optim = OptimConfig(name="adam", learning_rate=LEARNING_RATE, betas=(0.95, 0.999), weight_decay=0.0)
        self.optimizer = build_optimizer(optim, [model])
        self.step = 0
        if compiled:
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


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of the best of several products of two squares."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with torch.no_grad():
        times = [_seconds(lambda: one @ other, device) for _ in range(_PEAK_REPEATS)]
    return 2 * size**3 / min(times)
