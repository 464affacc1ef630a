"""Listen to Look, distillation of stages, and CCL with the hyper-parameters that were published.

None of these runs was done with this software: scores are what their papers and repositories state, not measured here.
Where a setting was never published, the docstring says so. Each has a small form in distilled_small.py. Pre-trained
ImageNet networks are not read here: what was started from them starts from scratch, or from --initial.
"""

from dataclasses import replace

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifierConfig
from lookhear.objectives.compositional import CompositionalConfig
from lookhear.objectives.distillation import DistillationConfig, StageMatch
from lookhear.objectives.supervised import SupervisedConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run

# ---- Listen to Look

# Moments of 1 s with 16 pictures: all of them for the clip teacher, the first for the student.
_MOMENT = PreprocessConfig(
    audio_frames=100, num_mel_bins=40, picture_height=112, picture_width=112, frames_per_window=16
)
_R2PLUS1D_18 = EncoderConfig(kind="r2plus1d", widened=True, stem_pool=False)
_FUSION = (1024, 512)


def listen_to_look_teacher() -> Run:
    """The clip network that teaches in Listen to Look (Gao et al., CVPR 2020): R(2+1)D-18 on 16 pictures.

    Command:  torchrun --nproc-per-node 8 -m lookhear finetune listen_to_look_teacher --store KINETICS --run FOLDER
    Data:     Kinetics-400 with labels, prepared with frames_per_second=16
    Hardware: not published; the authors took a network that was trained already
    Promise:  none: how it was trained is not part of what was published, optimiser and epochs here are our choice
    """
    return Run(
        name="listen_to_look_teacher",
        model=StreamClassifierConfig(encoder=_encoder(None, _R2PLUS1D_18), num_classes=400),
        preprocess=_MOMENT,
        objective=SupervisedConfig(loss="ce", label_smoothing=0.0),
        data=DataConfig(batch_size=256, num_workers=16),
        augment=AugmentConfig(flip=0.5, zoom=0.8),
        optim=_sgd(learning_rate=0.01, step_from=20, step_every=10, step_factor=0.1),
        epochs=45,
        checkpoint_every=1000,
    )


def listen_to_look() -> Run:
    """Listen to Look (Gao et al., CVPR 2020, IMGAUD2VID): one picture and a second of sound say what a clip says.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain listen_to_look --store KINETICS --run FOLDER \\
                  --set objective.teacher=RUN_OF_listen_to_look_teacher
    Data:     Kinetics-400, prepared with frames_per_second=16; labels are not used
    Hardware: not published
    Promise:  a listing of others states 73 % on UCF101 for a student of pictures and sound. Not measured here

    The networks are those of the published code. Its sizes of pictures (224, our recollection; the teacher's 112 here),
    the weight lambda, optimiser and epochs of distillation are in no public file. objective.logits_weight=0.2 is what
    lambda = 100, a recollection, would be for the mean over 512 numbers in place of their sum; the sum itself:
    --set objective.features_reduction=sum --set objective.logits_weight=100. Both streams were started from ImageNet.
    """
    return Run(
        name="listen_to_look",
        model=_student(num_classes=400),
        preprocess=_MOMENT,
        objective=DistillationConfig(),
        data=DataConfig(batch_size=256, num_workers=16),
        augment=AugmentConfig(flip=0.5, zoom=0.8),
        optim=OptimConfig(name="adam", learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=1e-4, schedule="cosine"),
        epochs=50,
        checkpoint_every=1000,
    )


def listen_to_look_finetune() -> Run:
    """The student of Listen to Look, fine-tuned on labels, before its features are stored for skimming.

    Command:  torchrun --nproc-per-node 8 -m lookhear finetune listen_to_look_finetune --store ACTIVITYNET \\
                  --initial RUN_OF_listen_to_look --run FOLDER
              then lookhear embed VIDEOS --model FOLDER --what pooled --out FEATURES, and the recipe skim
    Data:     ActivityNet's training videos with labels (200 classes), prepared with frames_per_second=16
    Hardware: not published
    Promise:  with skimming, 89.9 mAP on ActivityNet's validation videos for the best model, by leaderboards. Not
              measured here

    Optimiser and epochs are in no public file; these are our choice.
    """
    run = listen_to_look()
    return replace(
        run,
        name="listen_to_look_finetune",
        model=_student(num_classes=200),
        objective=SupervisedConfig(loss="ce", label_smoothing=0.0),
        optim=_sgd(learning_rate=1e-3, step_from=15, step_every=5, step_factor=0.1),
        epochs=25,
    )


def distil_stages() -> Run:
    """The recipe `listen_to_look` with every stage of the picture's network matched too.

    Command:  torchrun --nproc-per-node 8 -m lookhear pretrain distil_stages --store KINETICS --run FOLDER \\
                  --set objective.teacher=RUN_OF_listen_to_look_teacher
    Data:     as listen_to_look
    Hardware: about that of listen_to_look
    Promise:  no run of this kind was published for these networks; what each level adds is for you to measure

    Activity maps of the first two stages (attention transfer), the maps of the third through a fit of channels
    (FitNets), and soft labels read off the sound's last stage. Other choices: --set objective.stages=[...], a list of
    objects with the fields of `StageMatch`.
    """
    run = listen_to_look()
    stages = (
        StageMatch(how="attention", student_stage=0, teacher_stage=0),
        StageMatch(how="attention", student_stage=1, teacher_stage=1),
        StageMatch(how="l2", student_stage=2, teacher_stage=2, weight=0.1),
        StageMatch(how="soft_labels", student="audio", student_stage=-1, weight=0.2),
    )
    return replace(run, name="distil_stages", objective=replace(run.objective, stages=stages))


def _student(*, num_classes: int) -> StreamClassifierConfig:
    """ResNet-18 on the first picture, and on the sound, with a stem of stride 1 and learned weights of frequencies."""
    audio = EncoderConfig(stem_stride=1, pooling="frequency")
    encoder = _encoder(audio, EncoderConfig(pictures="first"))
    return StreamClassifierConfig(encoder=encoder, num_classes=num_classes, mode="both", fusion=_FUSION)


def _encoder(audio: EncoderConfig | None, visual: EncoderConfig) -> MultiStreamConfig:
    return MultiStreamConfig(
        audio=audio,
        visual=visual,
        audio_frames=_MOMENT.audio_frames,
        num_mel_bins=_MOMENT.num_mel_bins,
        picture_height=_MOMENT.picture_height,
        picture_width=_MOMENT.picture_width,
        picture_channels=3 * _MOMENT.frames_per_window,
    )


def _sgd(*, learning_rate: float, step_from: int, step_every: int, step_factor: float) -> OptimConfig:
    return OptimConfig(
        name="sgd",
        learning_rate=learning_rate,
        momentum=0.9,
        weight_decay=5e-4,
        decay_vectors=True,
        schedule="step",
        step_from=step_from,
        step_every=step_every,
        step_factor=step_factor,
    )


# ---- CCL


def ccl() -> Run:
    """CCL (Chen et al., CVPR 2021): a clip network learns 51 actions beside teachers of sound and of pictures.

    Command:  lookhear finetune ccl --store UCF51 --run FOLDER --set data.split=train1 \\
                  --set objective.audio_teacher=PANNS_FEATURES --set objective.image_teacher=IMAGE_MODEL
              sound alone: --set objective.teachers=audio; pictures alone: image; labels alone: none
    Data:     the 51 classes of UCF101 with sound, split 1, prepared with frames_per_second=25. The audio teacher is a
              folder of .npy files, 512 numbers of PANNs CNN14 a video (zeros: no sound); the image teacher a checkpoint
              of a picture network, ResNet-34 in the published runs
    Hardware: one GPU; others report about 10 hours
    Promise:  published, top-1 of split 1: audio 64.9, image 69.1, both 70.0. Without teachers: not published. Not
              measured here

    16 pictures in 0.64 s, as many as consecutive ones of 25 a second. The published checkpoint is the best one on the
    test list; here it is the last, or with data.validation_split the best on a part of the training clips. Composers
    keep the learning rate of 1e-3, as in the published code, which gives them no schedule.
    """
    side, pictures, audio_frames = 112, 16, 64
    return Run(
        name="ccl",
        model=StreamClassifierConfig(
            encoder=MultiStreamConfig(
                audio=None,
                visual=EncoderConfig(kind="r2plus1d", blocks=(1, 1, 1, 1), widened=True, stem_pool=False),
                audio_frames=audio_frames,
                picture_height=side,
                picture_width=side,
                picture_channels=3 * pictures,
            ),
            num_classes=51,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames,
            picture_height=side,
            picture_width=side,
            frames_per_window=pictures,
            picture_mean=(0.4345, 0.4051, 0.3775),
            picture_std=(0.2768, 0.2713, 0.2737),
        ),
        objective=CompositionalConfig(),
        data=DataConfig(batch_size=16, num_workers=8),
        augment=AugmentConfig(flip=0.5, zoom=0.5),  # a quarter of the area at least
        optim=replace(_sgd(learning_rate=1e-3, step_from=150, step_every=75, step_factor=0.1), constant_objective=True),
        epochs=300,
        checkpoint_every=1000,
    )
