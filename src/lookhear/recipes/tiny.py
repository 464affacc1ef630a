"""CAV-MAE Sync, small enough for a laptop: the demo's run."""

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.tokens import MaskConfig
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run


def tiny() -> Run:
    """CAV-MAE Sync on windows of 0.8 s with three pictures of 96 x 72 each.

    Command:  lookhear pretrain tiny --store STORE --run FOLDER
    Data:     a store of short clips, such as `lookhear scenes` makes; 1200 of 5 s in the demo
    Hardware: 2 CPU cores; about 5 minutes where the CPU multiplies bfloat16 (AVX512-BF16 or AMX)
    Promise:  learned from nothing but the clips, sound finds its picture among held-out clips far above chance; the
              numbers of the last run are in the README

    What differs from the published recipe, and why. With a linear patch embedding, 705 steps on 480 clips learned the
    clips by heart and little else, so a stem of convolutions makes the tokens, and windows are augmented. Several
    windows of each clip are in a step, negatives of one another, because what happens *when* is what the clips teach.
    Three pictures show which way things move; a fifth of the windows show only one of them, so that a still can be
    searched with.
    Contrast goes both ways, on lightly masked input and with a large weight: a run of minutes has no time for
    reconstruction to shape the encoder first.
    """
    audio_frames, height, width, frames_per_window = 80, 72, 96, 3
    return Run(
        name="tiny",
        model=CAVMAESyncConfig(
            audio_frames=audio_frames,
            picture_height=height,
            picture_width=width,
            picture_channels=3 * frames_per_window,
            audio_patch=(16, 8),  # 8 x 10 tokens
            picture_patch=(8, 8),  # 9 x 12 tokens
            stem_channels=(32, 64, 128),
            width=128,
            heads=2,
            audio_depth=0,  # the stem stands in for the blocks of one modality
            visual_depth=0,
            joint_depth=1,
            decoder_depth=1,
            decoder_width=64,
            decoder_heads=2,
            num_registers=0,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames,
            picture_height=height,
            picture_width=width,
            frames_per_window=frames_per_window,
        ),
        objective=CAVMAEObjectiveConfig(
            mask=MaskConfig(audio=0.25, visual=0.25),
            reconstruction_weight=0.1,
            contrastive_weight=1.0,
            direction="both",
            temperature=0.07,
            learn_temperature=True,
        ),
        data=DataConfig(batch_size=32, windows_per_clip=4, measure_statistics=True, num_workers=0),
        augment=AugmentConfig(flip=0.5, color=0.3, still=0.2, gain=0.2, equaliser=0.3),
        optim=OptimConfig(
            learning_rate=1e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_share=0.06,
            final_share=0.02,
            clip_norm=1.0,
        ),
        epochs=16,
        checkpoint_every=100,
        journal_every=5,
    )
