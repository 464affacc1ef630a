"""Listen to Look, distillation of stages and CCL, small enough to be learned on a laptop from made scenes.

Windows are 0.8 s with eight pictures of 96 x 72, so that a clip costs more than a picture. The clip network is
R(2+1)D with one block a stage; the two networks of a student are about as large together. Their store keeps every
picture of the scenes:

    lookhear prepare SCENES --store STORE --labels SCENES/labels.csv --set frames_per_second=12.5
"""

from dataclasses import replace
from typing import Any

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifierConfig
from lookhear.objectives.compositional import CompositionalConfig
from lookhear.objectives.distillation import DistillationConfig, StageMatch
from lookhear.objectives.supervised import SupervisedConfig
from lookhear.recipes.tiny import tiny
from lookhear.training.run import DataConfig, Run

WIDTH = 144  # of the clip network and of the teachers of CCL
STUDENT_WIDTH = 128  # of each of the two networks of a student
PICTURES = 8
_TWO_D = EncoderConfig(width=WIDTH, blocks=(1, 1, 1, 1), strides=(2, 2, 2, 1), stem_pool=False)
_CLIP = replace(_TWO_D, kind="r2plus1d")


def listen_to_look_teacher_small() -> Run:
    """A clip network that names what happens from eight pictures: the teacher of listen_to_look_small.

    Command:  lookhear finetune listen_to_look_teacher_small --store STORE --run runs/teacher
    Data:     short clips with labels, such as the kinds of made scenes
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    return _small("listen_to_look_teacher_small", _classifier(visual=_CLIP), SupervisedConfig(label_smoothing=0.0))


def listen_to_look_small() -> Run:
    """A picture and a sound say what the clip network says of eight pictures.

    Command:  lookhear pretrain listen_to_look_small --store STORE --run runs/student \\
                  --set objective.teacher=runs/teacher
    Data:     as listen_to_look_teacher_small; labels are not used
    Hardware: 2 CPU cores; minutes, most of them the teacher's
    Promise:  measured by `make methods`
    """
    return _small("listen_to_look_small", _student(), DistillationConfig(logits_weight=1.0))


def listen_to_look_finetune_small() -> Run:
    """The student, fine-tuned on labels.

    Command:  lookhear finetune listen_to_look_finetune_small --store STORE --initial runs/student --run runs/tuned
    Data:     as listen_to_look_teacher_small
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    run = _small("listen_to_look_finetune_small", _student(), SupervisedConfig(label_smoothing=0.0))
    return replace(run, optim=replace(run.optim, learning_rate=3e-4))


def distil_stages_small() -> Run:
    """The recipe listen_to_look_small with stages matched too: where they are active, what they hold, what they tell.

    Command:  lookhear pretrain distil_stages_small --store STORE --run runs/stages \\
                  --set objective.teacher=runs/teacher
    Data:     as listen_to_look_small
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    stages = (
        StageMatch(how="attention", student_stage=1, teacher_stage=1),
        StageMatch(how="l2", student_stage=2, teacher_stage=2, weight=0.1),
        StageMatch(how="soft_labels", student="audio", student_stage=-1),
    )
    return _small("distil_stages_small", _student(), DistillationConfig(logits_weight=1.0, stages=stages))


def image_teacher_small() -> Run:
    """A network of single pictures: the image teacher of ccl_small.

    Command:  lookhear finetune image_teacher_small --store STORE --run runs/image
    Data:     as ccl_small
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    model = _classifier(visual=_TWO_D, pictures=1)
    run = _small("image_teacher_small", model, SupervisedConfig(label_smoothing=0.0))
    return replace(run, preprocess=replace(run.preprocess, frames_per_window=1))


def audio_teacher_small() -> Run:
    """A network of sounds: the audio teacher of ccl_small.

    Command:  lookhear finetune audio_teacher_small --store STORE --run runs/audio
    Data:     as ccl_small
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    model = _classifier(audio=_TWO_D)
    return _small("audio_teacher_small", model, SupervisedConfig(label_smoothing=0.0))


def ccl_small() -> Run:
    """CCL: the clip network of listen_to_look_teacher_small, taught by one of pictures and one of sounds as well.

    Command:  lookhear finetune ccl_small --store STORE --run runs/ccl \\
                  --set objective.audio_teacher=runs/audio --set objective.image_teacher=runs/image
              labels alone, to compare with: --set objective.teachers=none; one teacher: audio or image; without
              composition: --set objective.composed=false
    Data:     short clips with labels, such as the kinds of made scenes
    Hardware: 2 CPU cores; minutes
    Promise:  measured by `make methods`
    """
    run = _small("ccl_small", _classifier(visual=_CLIP), CompositionalConfig())
    return replace(run, optim=replace(run.optim, constant_objective=True))


def _classifier(
    *, audio: EncoderConfig | None = None, visual: EncoderConfig | None = None, pictures: int = PICTURES
) -> StreamClassifierConfig:
    both = audio is not None and visual is not None
    return StreamClassifierConfig(
        encoder=MultiStreamConfig(
            audio=audio,
            visual=visual,
            audio_frames=80,
            picture_height=72,
            picture_width=96,
            picture_channels=3 * pictures,
            projection=(),  # nothing is compared between modalities
        ),
        num_classes=1,
        mode="both" if both else "audio" if audio is not None else "visual",
        fusion=(STUDENT_WIDTH, WIDTH) if both else None,
    )


def _student() -> StreamClassifierConfig:
    light = replace(_TWO_D, width=STUDENT_WIDTH)
    return _classifier(audio=replace(light, pooling="frequency"), visual=replace(light, pictures="first"))


def _small(name: str, model: StreamClassifierConfig, objective: Any) -> Run:
    """What the small runs share."""
    like, sizes = tiny(), model.encoder
    return Run(
        name=name,
        model=model,
        preprocess=PreprocessConfig(
            audio_frames=sizes.audio_frames,
            picture_height=sizes.picture_height,
            picture_width=sizes.picture_width,
            frames_per_window=PICTURES,
        ),
        objective=objective,
        data=DataConfig(batch_size=32, windows_per_clip=2, measure_statistics=True, num_workers=0),
        augment=AugmentConfig(flip=0.5, color=0.3, gain=0.2, equaliser=0.3),
        optim=like.optim,
        epochs=10,
        checkpoint_every=100,
        journal_every=5,
    )
