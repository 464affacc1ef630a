"""The surveyed methods of instance discrimination, with the hyper-parameters that were published.

None of these runs was done with this software: scores are what their papers and repositories state, not measured here.
Where a setting was never published, the docstring says so. Each has a small form in methods_small.py.

Their store keeps enough pictures for windows of 2 s with 8 of them:

    lookhear prepare VIDEOS --store STORE --set frames_per_second=8

What differs from the published code, in all of them: sound is a log-mel of 128 bins at 16 kHz instead of a spectrogram
of 257 bins at 24 kHz; the pictures of a window are spread over its 2 s instead of lying within half a second, up to
half a second beside it; positions and colours of crops are those of `data/augment.py`; bfloat16. An epoch here takes
one window of each clip, so that the published 30 epochs of 10 clips a video are 300 epochs.
"""

from dataclasses import replace
from typing import Any

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.objectives.agreement import AgreementConfig
from lookhear.objectives.contrast_table import END_TO_END, JOINT, WITHIN, agreement_table
from lookhear.objectives.curriculum import CurriculumConfig
from lookhear.objectives.instance_discrimination import InstanceDiscriminationConfig
from lookhear.objectives.keys import BankKeys, QueueKeys, StepKeys
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run

CLIPS_PER_VIDEO = 10  # in an epoch of the published runs on Kinetics
# AVID's networks: R(2+1)D-18 and ten layers of 2-D convolutions, each ending in its largest values, 512 numbers.
R2PLUS1D = EncoderConfig(kind="r2plus1d", pooling="max")
CONV10 = EncoderConfig(kind="plain", blocks=(1, 1, 1, 1), strides=(2, 2, 2, 1), stem_pool=False, pooling="max")
AVID_ADAM = OptimConfig(
    name="adam",
    learning_rate=2e-4,
    betas=(0.9, 0.999),
    weight_decay=1e-5,
    decay_vectors=True,
    schedule="constant",
)


def avid_cross() -> Run:
    """Cross-AVID (Morgado et al., CVPR 2021): a clip's sound is told among sounds by its pictures, and the reverse.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain avid_cross --store KINETICS --run FOLDER
    Data:     Kinetics-400, 232,067 clips in the authors' copy; AudioSet (1,784,108) with
              --set optim.learning_rate=5e-4 --set epochs=200 --set objective.keys.place=cpu
    Hardware: 8 GPUs a node in the published runs; batch 256 is that of the configuration, which was divided by the GPUs
              of a node, so that on the four nodes named in a README it was 1,024 in all
    Promise:  fine-tuned on 32 frames of 224 pixels, top-1 on UCF101 / HMDB51 86.9 / 59.9, and 43.0 with a linear probe
              on Kinetics (from AudioSet 91.0 / 64.1 and 46.5). Not measured here
    """
    return _avid("avid_cross", InstanceDiscriminationConfig())


def avid_self() -> Run:
    """Self-AVID, an ablation: each modality is told among its own, against older embeddings of the same clip.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain avid_self --store KINETICS --run FOLDER
    Data:     as avid_cross
    Hardware: as avid_cross
    Promise:  transfers less well than avid_cross, the paper says. Retrieval between modalities stays at chance: nothing
              ever compares them. Not measured here
    """
    return _avid("avid_self", InstanceDiscriminationConfig(table=WITHIN))


def avid_joint() -> Run:
    """Joint-AVID, an ablation: the mean of avid_cross and avid_self.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain avid_joint --store KINETICS --run FOLDER
    Data:     as avid_cross
    Hardware: as avid_cross
    Promise:  adds nothing to avid_cross, the paper says. Not measured here
    """
    return _avid("avid_joint", InstanceDiscriminationConfig(table=JOINT))


def memory_bank() -> Run:
    """Memory banks with momentum and a softmax: the equations of Cross-AVID as they are printed (InfoNCE).

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain memory_bank --store KINETICS --run FOLDER
    Data:     as avid_cross
    Hardware: as avid_cross
    Promise:  no number is known; the published run of these equations minimised the binary form (avid_cross)
    """
    return _avid("memory_bank", InstanceDiscriminationConfig(loss="infonce"))


def cma() -> Run:
    """Cross-modal agreement (Morgado et al., CVPR 2021): Cross-AVID, then clips that agree are positives within each
    modality too.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain cma --store KINETICS --run FOLDER
              from a run of avid_cross that is there, with its banks: --set initial=RUN
              --set objective.keys.agreement.warmup_epochs=0 --set epochs=200
    Data:     as avid_cross; on AudioSet also --set objective.keys.agreement.refresh_every=50
    Hardware: as avid_cross
    Promise:  87.5 / 60.8 on UCF101 / HMDB51 and 44.4 on Kinetics, by the protocol of avid_cross (from AudioSet 91.5 /
              64.7 and 48.9). Not measured here

    The first 300 epochs are those of avid_cross, at half the loss (its share of the whole), which Adam does not notice.
    Published as a second run with an optimiser that begins anew. The clip itself is never a negative of its own here;
    in the published code it may be.
    """
    first = avid_cross()
    agreement = AgreementConfig(refresh_every=5 * CLIPS_PER_VIDEO, warmup_epochs=first.epochs)
    objective = InstanceDiscriminationConfig(table=agreement_table(), keys=BankKeys(agreement=agreement))
    return replace(first, name="cma", objective=objective, epochs=first.epochs + 20 * CLIPS_PER_VIDEO)


def end_to_end() -> Run:
    """Contrast within the step, both encoders learning from every pair: no bank, no queue, B - 1 negatives.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain end_to_end --store KINETICS --run FOLDER
    Data:     as avid_cross
    Hardware: memory for the whole batch at once; negatives come from all processes, with their gradient
    Promise:  the plainest of the family; no run with these networks was published

    Networks, optimiser and temperature are those of avid_cross; --set objective.learn_temperature=true learns the last.
    """
    return _avid("end_to_end", InstanceDiscriminationConfig(table=END_TO_END, keys=StepKeys(), loss="infonce"))


def moco() -> Run:
    """Momentum contrast (He et al., CVPR 2020) between sound and picture: keys of a slow copy of the model, in a queue.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain moco --store KINETICS --run FOLDER
    Data:     as avid_cross
    Hardware: a second copy of the model, without gradients, on every GPU
    Promise:  MoCo was published for pictures alone: 60.8 top-1 on ImageNet with a linear probe (67.5 its second,
              with objective.temperature=0.2, optim.schedule=cosine and more). No audio-visual run is known

    Queue, momentum, temperature, batch, optimiser and schedule are those of its first version; networks are those of
    avid_cross. Batches are not shuffled between GPUs: what shuffling hides, batch statistics that a query and its key
    share, a query of one modality and a key of the other hardly do.
    """
    run = _avid("moco", InstanceDiscriminationConfig(keys=QueueKeys(), loss="infonce"))
    optim = OptimConfig(
        name="sgd",
        learning_rate=0.03,
        momentum=0.9,
        weight_decay=1e-4,
        decay_vectors=True,
        schedule="step",
        step_at=(120, 160),
        step_factor=0.1,
    )
    return replace(run, optim=optim, epochs=200)


def sscl() -> Run:
    """SSCL (Zhang et al., AAAI 2021): pictures teach sound in stage I, sound teaches pictures in stage II.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain sscl --store STORE --run FOLDER
              stage I alone: --set objective.phase_epochs=[5,5,0,0] --set epochs=10; then stage II from its banks:
              --set objective.phase_epochs=[0,0,5,5] --set epochs=10 --set initial=RUN
    Data:     the corpus of the published rows is not known here (Kinetics or AudioSet, most likely)
    Hardware: not known
    Promise:  top-1 on UCF101 / HMDB51 of 16 pictures of 112 pixels: stage I 81.4 / 47.7, stage II 82.6 / 49.9 (of 16 of
              224 pixels 84.3 / 54.1, of 32 87.1 / 57.6); ESC-50 / DCASE 85.8 / 91.0 and 88.3 / 93.0. Not measured here

    Published are the equations, the sizes of clips and that the audio network has ten layers. Length of phases, number
    of negatives, temperature, momentum, batch and optimiser are not: those of avid_cross stand here.
    """
    run = _avid("sscl", CurriculumConfig())
    side, frames = 112, 16
    return replace(
        run,
        model=replace(run.model, picture_height=side, picture_width=side, picture_channels=3 * frames),
        preprocess=replace(run.preprocess, picture_height=side, picture_width=side, frames_per_window=frames),
        epochs=sum(run.objective.phase_epochs),
    )


def _avid(name: str, objective: Any) -> Run:
    """What the runs share: Cross-AVID's networks, data and optimiser on Kinetics."""
    audio_frames, frames_per_window = 200, 8
    return Run(
        name=name,
        model=MultiStreamConfig(
            audio=CONV10, visual=R2PLUS1D, audio_frames=audio_frames, picture_channels=3 * frames_per_window
        ),
        preprocess=PreprocessConfig(audio_frames=audio_frames, frames_per_window=frames_per_window),
        objective=objective,
        data=DataConfig(batch_size=256, num_workers=8, measure_statistics=True),
        augment=AugmentConfig(flip=0.5, zoom=0.28, color=0.4, gain=0.04),  # areas from .08; loudness by 10 %
        optim=AVID_ADAM,
        epochs=30 * CLIPS_PER_VIDEO,
        checkpoint_every=2000,
        journal_every=100,
    )
