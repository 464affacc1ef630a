"""What a step of a run costs: parameters of the encoder and floating-point operations, counted by torch."""

from typing import TYPE_CHECKING

import torch

from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.models.checkpoint import MODELS
from lookhear.training.run import model_kind

if TYPE_CHECKING:
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
    """10^9 operations (a multiplication and an addition are two) of forward and backward of one step."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = MODELS[model_kind(run.model)][1](run.model)
    objective = run.objective.build(model, num_instances=_INSTANCES, num_classes=0)
    sizes, windows = run.preprocess, run.data.windows_per_clip
    batch = Batch(
        clip_ids=("",) * _CLIPS,
        index=torch.arange(_CLIPS),
        start_seconds=torch.arange(windows, dtype=torch.float64).expand(_CLIPS, windows) * sizes.window_seconds,
        audio=torch.randn(_CLIPS, windows, sizes.audio_frames, sizes.num_mel_bins),
        frames=torch.randn(_CLIPS, windows, 3 * sizes.frames_per_window, sizes.picture_height, sizes.picture_width),
    )
    counter = FlopCounterMode(display=False)
    # the fused form of attention on CPUs is not among the operations that are counted; the plain one costs the same
    with sdpa_kernel(SDPBackend.MATH), counter:
        objective(model, batch, Draws(seed=0, epoch=0)).loss.backward()
    return round(counter.get_total_flops() / _CLIPS * run.data.batch_size / 1e9, 2)
