"""Runs that learn from labels, from a pre-trained model or from scratch: complete, for `recipes.finetune`.

The number of classes and, where it says auto, the loss are written into the run from the store's labels.
"""

from dataclasses import replace

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.models.classifier import CAVMAEClassifierConfig
from lookhear.objectives.supervised import SupervisedConfig
from lookhear.recipes.published import PUBLISHED_ADAM
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run


def as20k() -> Run:
    """CAV-MAE fine-tuned on the balanced twenty thousand clips of AudioSet, as published (Gong et al., ICLR 2023).

    Command:  torchrun --nproc-per-node 4 -m lookhear finetune as20k --store AS20K --initial cavmae-scale++ \\
                  --labels class_labels_indices.csv --run FOLDER
              sound alone: --set model.mode=audio; picture alone: --set model.mode=visual
    Data:     AudioSet balanced train (18,691 clips in the published runs), prepared with channel=first; 527 classes
    Hardware: published on 4 GPUs of 24 GB: 1.8 hours for both modalities; not run here
    Promise:  published, from scale++: mAP .4220 with ten frames, .4152 with the middle one; sound alone .3829, picture
              alone .2003 (ten frames). Not measured here

    The published runs computed in float16 with loss scaling; dtype=auto takes bfloat16 where the GPU has it. The
    average of epochs 3 to 15, in checkpoints/average, is what is scored.
    """
    return _published(
        "as20k",
        num_classes=527,
        loss="bce",
        data=DataConfig(batch_size=36, num_workers=16, windows="published", pairs_per_clip=10),
        learning_rate=5e-5,
        head_ratio=100.0,
        epochs=15,
        full_rate_epochs=5,
        average_epochs=(3, 15),
    )


def as2m() -> Run:
    """CAV-MAE fine-tuned on all of AudioSet, as published (Gong et al., ICLR 2023).

    Command:  torchrun --nproc-per-node 4 -m lookhear finetune as2m --store AS2M --initial cavmae-scale++ \\
                  --labels class_labels_indices.csv --run FOLDER
              sound alone: --set model.mode=audio
    Data:     AudioSet train (1,772,023 clips in the published runs), prepared with channel=first; 527 classes
    Hardware: published on 4 GPUs of 12 GB: 240 hours for both modalities, 196 for sound alone; not run here
    Promise:  published, from scale++: mAP .5105 with ten frames, .5015 with the middle one; sound alone .4662. Not
              measured here

    Clips are drawn by the counts of their labels; with data.sampling=weighted by a published weight list instead.
    """
    return _published(
        "as2m",
        num_classes=527,
        loss="bce",
        data=DataConfig(batch_size=48, num_workers=16, windows="published", pairs_per_clip=10, sampling="balanced"),
        learning_rate=1e-5,
        head_ratio=50.0,
        epochs=10,
        full_rate_epochs=2,
        average_epochs=(1, 10),
    )


def vggsound() -> Run:
    """CAV-MAE fine-tuned on VGGSound, as published (Gong et al., ICLR 2023).

    Command:  torchrun --nproc-per-node 4 -m lookhear finetune vggsound --store VGG --initial cavmae-scale++ \\
                  --labels class_labels_indices_vgg.csv --run FOLDER --set data.split=train
    Data:     VGGSound train (183,727 clips in the published runs), prepared with channel=first; 309 classes
    Hardware: published on 4 GPUs of 24 GB: 5.2 to 5.7 hours; not run here
    Promise:  published, from scale++: accuracy .6581 with ten frames; .6593 after 10 more epochs of pre-training on
              VGGSound. Not measured here

    No settings were published for one modality alone here; model.mode=audio and visual work as in as20k.
    """
    return _published(
        "vggsound",
        num_classes=309,
        loss="ce",
        data=DataConfig(batch_size=48, num_workers=16, windows="published", pairs_per_clip=10, sampling="balanced"),
        learning_rate=1e-4,
        head_ratio=10.0,
        epochs=10,
        full_rate_epochs=2,
        average_epochs=(3, 10),
    )


def _published(
    name: str,
    *,
    num_classes: int,
    loss: str,
    data: DataConfig,
    learning_rate: float,
    head_ratio: float,
    epochs: int,
    full_rate_epochs: int,
    average_epochs: tuple[int, int],
) -> Run:
    """What the published fine-tuning runs share: windows of 10.24 s, augmentation, Adam, half the rate every epoch."""
    return Run(
        name=name,
        model=CAVMAEClassifierConfig(num_classes=num_classes),
        preprocess=PreprocessConfig(channel="first", framing="published"),
        objective=SupervisedConfig(loss=loss, label_smoothing=0.1),  # type: ignore[arg-type]
        data=data,
        augment=AugmentConfig(mask_mel_bins=48, mask_frames=192, published_noise=True, roll=True, mixup=0.5),
        optim=replace(
            PUBLISHED_ADAM,
            learning_rate=learning_rate,
            step_from=full_rate_epochs,
            step_every=1,
            head_ratio=head_ratio,
        ),
        epochs=epochs,
        average_epochs=average_epochs,
        checkpoint_every=5000,  # each is several times the model: Adam's two states, and the sums of the average
    )


def finetune_tiny() -> Run:
    """Sound and picture of 0.8 s, in the sizes of the recipe `tiny`, so that its model can be the start.

    Command:  lookhear finetune finetune_tiny --store STORE --initial runs/tiny --run FOLDER
    Data:     a store of short clips with labels, such as those of `lookhear scenes` with its labels
    Hardware: 2 CPU cores; minutes
    Promise:  none; it is there to be tried and changed
    """
    audio_frames, height, width, frames_per_window = 80, 72, 96, 3
    return Run(
        name="finetune_tiny",
        model=CAVMAEClassifierConfig(
            encoder=CAVMAEConfig(
                audio_frames=audio_frames,
                picture_height=height,
                picture_width=width,
                picture_channels=3 * frames_per_window,
                audio_patch=(16, 8),
                picture_patch=(8, 8),
                stem_channels=(32, 64, 128),
                width=128,
                heads=2,
                audio_depth=0,
                visual_depth=0,
                joint_depth=1,
                decoder_depth=0,
            ),
            num_classes=1,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames,
            picture_height=height,
            picture_width=width,
            frames_per_window=frames_per_window,
        ),
        objective=SupervisedConfig(),
        data=DataConfig(batch_size=32, windows_per_clip=2, measure_statistics=True, num_workers=0),
        augment=AugmentConfig(flip=0.5, color=0.3, gain=0.2, mask_mel_bins=24, mask_frames=16, mixup=0.5),
        optim=OptimConfig(
            learning_rate=5e-4, betas=(0.9, 0.98), weight_decay=0.05, warmup_share=0.1, clip_norm=1.0, head_ratio=4.0
        ),
        epochs=10,
        checkpoint_every=100,
        journal_every=5,
    )


def esc10() -> Run:
    """Sound alone, in windows of 4.96 s, with the audio tower of the recipe `tiny`: for sound files without picture.

    Command:  lookhear finetune esc10 --store STORE --run FOLDER --set data.split='["fold1","fold2","fold3","fold4"]'
              from a pre-trained model: --initial CHECKPOINT
    Data:     ESC-10 (Piczak 2015), 400 clips of 5 s of 10 classes in 5 folds; or any labelled sound files
    Hardware: 2 CPU cores; a few minutes
    Promise:  to be compared with log-mel statistics and logistic regression; measured numbers stand in docs/
    """
    audio_frames = 496
    return Run(
        name="esc10",
        model=CAVMAEClassifierConfig(
            encoder=CAVMAEConfig(
                modalities="audio",
                audio_frames=audio_frames,
                audio_patch=(16, 8),  # 8 x 62 tokens
                stem_channels=(32, 64, 128),
                width=128,
                heads=2,
                audio_depth=0,
                joint_depth=1,
                decoder_depth=0,
            ),
            num_classes=10,
            mode="audio",
        ),
        preprocess=PreprocessConfig(audio_frames=audio_frames),
        objective=SupervisedConfig(loss="ce"),
        data=DataConfig(batch_size=32, measure_statistics=True, num_workers=0),
        augment=AugmentConfig(gain=0.2, equaliser=0.2, mask_mel_bins=24, mask_frames=96, roll=True, mixup=0.5),
        optim=OptimConfig(
            learning_rate=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_share=0.1, clip_norm=1.0, head_ratio=1.0
        ),
        epochs=60,
        checkpoint_every=100,
        journal_every=10,
    )
