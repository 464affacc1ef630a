"""What a run costs: parameters of the encoder and floating-point operations, counted by torch."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.models.checkpoint import MODELS
from lookhear.training.run import model_kind

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

    from lookhear.training.run import Run

_INSTANCES = 1 << 16  # clips that a memory bank has rows for; how many does not change what a step costs
_CLIPS = 2  # that are counted; the cost of a step is linear in them, but for the contrastive matrix


def encoder_parameters(run: "Run") -> int:
    """Trained numbers of the model without its decoder."""
    with torch.device("meta"):
        model = MODELS[model_kind(run.model)][1](run.model)
    named = model.named_parameters()
    return sum(value.numel() for name, value in named if value.requires_grad and not name.startswith("decoder."))


def step_gigaflops(run: "Run") -> float:
    """10^9 operations (a multiplication and an addition are two) of forward and backward of one step, teachers too."""
    model = MODELS[model_kind(run.model)][1](run.model)
    objective = run.objective.build(model, num_instances=_INSTANCES, num_classes=run.num_classes)
    batch = _batch(run, clips=_CLIPS, windows=run.data.windows_per_clip)
    with _counted() as counter:
        objective(model, batch, Draws(seed=0, epoch=0)).loss.backward()
    return round(counter.get_total_flops() / _CLIPS * run.data.batch_size / 1e9, 2)


def window_megaflops(run: "Run") -> float:
    """10^6 operations of one window through the model, forward alone: what embedding or naming it costs."""
    model = MODELS[model_kind(run.model)][1](run.model).eval()
    batch = _batch(run, clips=1, windows=1)
    audio = None if run.modalities == "visual" else batch.audio
    frames = None if run.modalities == "audio" else batch.frames
    with torch.no_grad(), _counted() as counter:
        model(audio=audio, frames=frames)
    return round(counter.get_total_flops() / 1e6, 1)


def _batch(run: "Run", *, clips: int, windows: int) -> Batch:
    """Noise in the sizes of the run."""
    sizes = run.preprocess
    return Batch(
        clip_ids=("",) * clips,
        index=torch.arange(clips),
        start_seconds=torch.arange(windows, dtype=torch.float64).expand(clips, windows) * sizes.window_seconds,
        audio=torch.randn(clips, windows, sizes.audio_frames, sizes.num_mel_bins),
        frames=torch.randn(clips, windows, 3 * sizes.frames_per_window, sizes.picture_height, sizes.picture_width),
        labels=torch.eye(run.num_classes)[torch.arange(clips) % run.num_classes] if run.labelled else None,
    )


@contextmanager
def _counted() -> Iterator["FlopCounterMode"]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # the fused form of attention on CPUs is not among the operations that are counted; the plain one costs the same
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter
