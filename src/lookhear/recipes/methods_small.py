"""The surveyed methods, small enough to be learned on a laptop: the same windows, clips, encoders and steps for all.

They differ in their objective alone, so what comes out can be compared. Encoders are transformers of one block on
tokens that convolutions made, as in the recipe `tiny` and of its size, on its windows (0.8 s, three pictures of
96 x 72), two windows of each of 16 clips in a step. AVID's small convolutional encoders learned far less in as much
time on a CPU (docs/methods.md).

Embeddings are normalised over the batch, which was published for none of them: without, those of all clips begin alike,
and in the few hundred steps of a small run banks never got away from that. Small steps for the same reason: a bank
gains from every step, and not from the number of clips in it.
"""

from dataclasses import replace
from typing import Any

from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.objectives.agreement import AgreementConfig
from lookhear.objectives.contrast_table import END_TO_END, JOINT, WITHIN, agreement_table
from lookhear.objectives.curriculum import CurriculumConfig
from lookhear.objectives.instance_discrimination import InstanceDiscriminationConfig
from lookhear.objectives.keys import BankKeys, QueueKeys, StepKeys
from lookhear.recipes.tiny import tiny
from lookhear.training.run import Run

WIDTH = 128
STEM_CHANNELS = (16, 32, 64)
BANK = BankKeys(num_negatives=256)


def end_to_end_small() -> Run:
    """Contrast within the step: 32 windows, each told among the others.

    Command:  lookhear pretrain end_to_end_small --store STORE --run FOLDER
    Data:     short clips, such as `lookhear scenes` makes: 1,200 of 5 s
    Hardware: 2 CPU cores; minutes
    Promise:  sound finds its picture among held-out clips above chance; measured by `make methods`
    """
    return _small("end_to_end_small", InstanceDiscriminationConfig(table=END_TO_END, keys=StepKeys(), loss="infonce"))


def memory_bank_small() -> Run:
    """Memory banks with momentum, a softmax over 256 rows.

    Command:  lookhear pretrain memory_bank_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    return _small("memory_bank_small", InstanceDiscriminationConfig(keys=BANK, loss="infonce"))


def avid_cross_small() -> Run:
    """Cross-AVID: memory banks, a yes or no for each of 256 rows.

    Command:  lookhear pretrain avid_cross_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    return _small("avid_cross_small", InstanceDiscriminationConfig(keys=BANK))


def avid_self_small() -> Run:
    """Self-AVID: within each modality alone, so that retrieval between them stays at chance.

    Command:  lookhear pretrain avid_self_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    return _small("avid_self_small", InstanceDiscriminationConfig(table=WITHIN, keys=BANK))


def avid_joint_small() -> Run:
    """Joint-AVID: the mean of both.

    Command:  lookhear pretrain avid_joint_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    return _small("avid_joint_small", InstanceDiscriminationConfig(table=JOINT, keys=BANK))


def cma_small() -> Run:
    """Cross-modal agreement: Cross-AVID for half of the epochs, then eight positives a clip, found anew every two.

    Command:  lookhear pretrain cma_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    run = _small("cma_small", InstanceDiscriminationConfig())
    agreement = AgreementConfig(count=8, refresh_every=2, warmup_epochs=run.epochs // 2)
    keys = replace(BANK, agreement=agreement)
    return replace(run, objective=InstanceDiscriminationConfig(table=agreement_table(), keys=keys))


def moco_small() -> Run:
    """Momentum contrast between sound and picture: a queue of 1,024 keys, a copy that keeps .99 of itself.

    Command:  lookhear pretrain moco_small --store STORE --run FOLDER
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`

    The copy keeps less of itself than in runs of days (.999), as this one has a few hundred steps.
    """
    keys = QueueKeys(length=1024, key_momentum=0.99)
    return _small("moco_small", InstanceDiscriminationConfig(keys=keys, loss="infonce"))


def sscl_small() -> Run:
    """SSCL, both stages: a quarter of the epochs for each of the four phases, all at one learning rate.

    Command:  lookhear pretrain sscl_small --store STORE --run FOLDER
              stage I alone: --set objective.phase_epochs=[4,4,0,0] --set epochs=8; then stage II from its banks:
              --set objective.phase_epochs=[0,0,4,4] --set epochs=8 --set initial=RUN
    Data:     as end_to_end_small
    Hardware: as end_to_end_small
    Promise:  measured by `make methods`
    """
    run = _small("sscl_small", CurriculumConfig(keys=BANK))
    phase = run.epochs // 4
    optim = replace(run.optim, schedule="constant")
    return replace(run, objective=replace(run.objective, phase_epochs=(phase,) * 4), optim=optim)


def _small(name: str, objective: Any) -> Run:
    """What the small runs share."""
    like = tiny()
    preprocess, frames = like.preprocess, like.preprocess.frames_per_window
    encoder = EncoderConfig(kind="vit", width=WIDTH, blocks=(1,), heads=2, stem_channels=STEM_CHANNELS)
    return Run(
        name=name,
        model=MultiStreamConfig(
            audio=replace(encoder, patch=like.model.audio_patch),
            visual=replace(encoder, patch=like.model.picture_patch),
            projection=(WIDTH,),
            projection_norm="batch",
            audio_frames=preprocess.audio_frames,
            num_mel_bins=preprocess.num_mel_bins,
            picture_height=preprocess.picture_height,
            picture_width=preprocess.picture_width,
            picture_channels=3 * frames,
        ),
        preprocess=preprocess,
        objective=objective,
        data=replace(like.data, batch_size=16, windows_per_clip=2),
        augment=like.augment,
        optim=like.optim,
        epochs=like.epochs,
        checkpoint_every=like.checkpoint_every,
        journal_every=like.journal_every,
    )
