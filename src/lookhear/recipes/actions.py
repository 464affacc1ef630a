"""Fine-tuning of video encoders on actions: the published runs of AVID, and one that trains on two cores.

A window is a clip of the literature: its length is preprocess.audio_frames x 10 ms, though only pictures are read.
"""

import dataclasses

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.encoders import EncoderConfig
from lookhear.models.multi_stream import MultiStreamConfig
from lookhear.models.stream_classifier import StreamClassifierConfig
from lookhear.objectives.supervised import SupervisedConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run

_PUBLISHED_ADAM = OptimConfig(
    name="adam", learning_rate=1e-4, betas=(0.9, 0.999), weight_decay=0.0, schedule="step", step_factor=0.3
)


def ucf101() -> Run:
    """R(2+1)D-18 on clips of 8 pictures in half a second, fine-tuned on UCF101 as AVID (Morgado et al., CVPR 2021).

    Command:  lookhear finetune ucf101 --store UCF101 --initial PRETRAINED --run FOLDER --set data.split=train1
              and the same with train2 and train3; before each, 50 epochs of the head alone, which the run then starts
              from (--initial): --set optim.freeze=encoder --set epochs=50 --set 'optim.step_at=[]'
    Data:     UCF101 prepared with frames_per_second=16, in its three splits (docs/store.md); 101 classes
    Hardware: published on GPUs; not run here
    Promise:  published, 32 pictures in 2 s, mean of three splits: .869 (AVID, Kinetics), .915 (CMA, AudioSet). Not
              measured here

    An epoch takes one clip of each video; the published one took 10, so that its 16 epochs, cut at 6, 10 and 14, are
    160 here. The head's first epochs were published with batch norm in training mode; here a frozen encoder keeps its
    statistics. 32 pictures: preprocess.frames_per_window=32, preprocess.audio_frames=200, the same two of
    model.encoder, where picture_channels is 96, data.batch_size=32, 80 epochs, cut at 30, 50, 70.
    """
    pictures, audio_frames, side = 8, 50, 224
    return Run(
        name="ucf101",
        model=StreamClassifierConfig(
            encoder=MultiStreamConfig(
                audio=None,
                visual=EncoderConfig(kind="r2plus1d", pooling="max"),
                audio_frames=audio_frames,
                picture_height=side,
                picture_width=side,
                picture_channels=3 * pictures,
            ),
            num_classes=101,
            mode="visual",
            dropout=0.5,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames, picture_height=side, picture_width=side, frames_per_window=pictures
        ),
        objective=SupervisedConfig(loss="ce", label_smoothing=0.0),
        data=DataConfig(batch_size=64, num_workers=16),
        # a side of .283 is an area of .08; .4 turns hue by up to 72 degrees, the .2 of a whole turn that was published
        augment=AugmentConfig(flip=0.5, zoom=0.283, color=0.4),
        optim=dataclasses.replace(_PUBLISHED_ADAM, step_at=(60, 100, 140)),
        epochs=160,
        checkpoint_every=1000,
    )


def hmdb51() -> Run:
    """The recipe `ucf101` with the epochs that AVID (Morgado et al., CVPR 2021) took for HMDB51.

    Command:  lookhear finetune hmdb51 --store HMDB51 --initial PRETRAINED --run FOLDER --set data.split=train1
              and the same with train2 and train3, each after its head alone, as in the recipe ucf101, for 125 epochs
    Data:     HMDB51 prepared with frames_per_second=16, in its three splits (docs/store.md); 51 classes
    Hardware: published on GPUs; not run here
    Promise:  published, 32 pictures in 2 s, mean of three splits: .599 (AVID, Kinetics), .647 (CMA, AudioSet). Not
              measured here

    The published epochs, 10 of 25 clips a video, cut at 3, 6 and 8, are 250 here, and the 5 of the head alone 125.
    Brightness, contrast and saturation changed by up to 1 there; here they change with hue, by the .4 of UCF101.
    """
    run = ucf101()
    return dataclasses.replace(
        run,
        name="hmdb51",
        model=dataclasses.replace(run.model, num_classes=51),
        optim=dataclasses.replace(run.optim, step_at=(75, 150, 200)),
        epochs=250,
    )


def actions_tiny() -> Run:
    """R(2+1)D of four blocks on three pictures of 72 x 96 in 0.8 s: small enough for a CPU.

    Command:  lookhear finetune actions_tiny --store STORE --run FOLDER --set data.split=train1
    Data:     a store of short clips with labels, such as those of `lookhear scenes`, at 4 pictures a second or more
    Hardware: 2 CPU cores; minutes
    Promise:  none; it is there to be tried and changed
    """
    pictures, audio_frames, height, width = 3, 80, 72, 96
    return Run(
        name="actions_tiny",
        model=StreamClassifierConfig(
            encoder=MultiStreamConfig(
                audio=None,
                visual=EncoderConfig(
                    kind="r2plus1d",
                    width=128,
                    blocks=(1, 1, 1, 1),
                    strides=(1, 2, 2, 2),
                    stem_pool=False,
                    pooling="max",
                ),
                audio_frames=audio_frames,
                picture_height=height,
                picture_width=width,
                picture_channels=3 * pictures,
            ),
            num_classes=1,
            mode="visual",
            dropout=0.2,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames, picture_height=height, picture_width=width, frames_per_window=pictures
        ),
        objective=SupervisedConfig(label_smoothing=0.0),
        data=DataConfig(batch_size=32, windows_per_clip=2, num_workers=0),
        augment=AugmentConfig(flip=0.5, zoom=0.7, color=0.3),
        optim=OptimConfig(learning_rate=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_share=0.1, clip_norm=1.0),
        epochs=20,
        checkpoint_every=100,
        journal_every=5,
    )
