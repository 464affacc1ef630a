"""Small models and every objective of the contrast table, for tests that go through all of them."""

from dataclasses import replace
from typing import Any

import torch

from fake_store import INPUT, small_run
from lookhear.data.batch import Batch
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStream, MultiStreamConfig
from lookhear.objectives.agreement import AgreementConfig
from lookhear.objectives.contrast_table import END_TO_END, JOINT, WITHIN, agreement_table
from lookhear.objectives.curriculum import CurriculumConfig
from lookhear.objectives.instance_discrimination import InstanceDiscriminationConfig
from lookhear.objectives.keys import BankKeys, QueueKeys, StepKeys
from lookhear.training.run import Run

# Normalised so that a window's embedding does not depend on the others of its batch.
ENCODER = EncoderConfig(width=16, blocks=(1, 1), strides=(1, 2), norm="group")
MODEL = MultiStreamConfig(audio=ENCODER, visual=ENCODER, projection=(12,), embedding_width=8, **INPUT)
NUM_CLIPS = 13
BANK = BankKeys(num_negatives=8)
AGREEING = BankKeys(num_negatives=6, agreement=AgreementConfig(count=3, refresh_every=1, warmup_epochs=1))
METHODS: dict[str, Any] = {
    "end_to_end": InstanceDiscriminationConfig(table=END_TO_END, keys=StepKeys(), loss="infonce"),
    "memory_bank": InstanceDiscriminationConfig(keys=BANK, loss="infonce", learn_temperature=True),
    "avid_cross": InstanceDiscriminationConfig(keys=BANK, noise_batches=3),
    "avid_self": InstanceDiscriminationConfig(keys=BANK, table=WITHIN),
    "avid_joint": InstanceDiscriminationConfig(keys=BANK, table=JOINT),
    "cma": InstanceDiscriminationConfig(keys=AGREEING, table=agreement_table(3.0, num_negatives=4)),
    "moco": InstanceDiscriminationConfig(keys=QueueKeys(length=27, key_momentum=0.9), loss="infonce"),
    "sscl": CurriculumConfig(phase_epochs=(1, 1, 1, 1), keys=BANK),
}
PHASED = ("cma", "sscl")  # whose epochs differ


def make_model(config: MultiStreamConfig = MODEL) -> MultiStream:
    torch.manual_seed(0)
    return MultiStream(config)


def method_run(name: str, **changes: Any) -> Run:
    """Twelve steps, three an epoch, of a method on a `FakeStore`."""
    run = small_run(name=name, model=MODEL, objective=METHODS[name])
    return replace(run, **changes)


def make_batch(index: tuple[int, ...] = (0, 3, 5, 12), *, windows: int = 2, seed: int = 0) -> Batch:
    """Windows that do not overlap of some of the clips."""
    generator = torch.Generator().manual_seed(seed)
    count = len(index)
    return Batch(
        clip_ids=tuple(map(str, index)),
        index=torch.tensor(index),
        start_seconds=torch.arange(windows, dtype=torch.float64).expand(count, windows),
        audio=torch.randn(count, windows, INPUT["audio_frames"], INPUT["num_mel_bins"], generator=generator),
        frames=torch.randn(count, windows, 3, INPUT["picture_height"], INPUT["picture_width"], generator=generator),
    )
