"""CAV-MAE Sync, small enough for a laptop: the demo's run."""

from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.tokens import MaskConfig
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run


def tiny() -> Run:
    """CAV-MAE Sync on windows of 0.8 s with one picture of 96 x 72 each.

    Command:  lookhear pretrain tiny STORE --out FOLDER
    Data:     a store of short clips, such as `lookhear scenes` makes; 480 of 5 s in the demo
    Hardware: 2 CPU cores; about 4 minutes where the CPU multiplies bfloat16
    Promise:  learned from nothing but the clips, sound finds its picture among held-out clips far above chance; the
              numbers of the last run are in the README

    What differs from the published recipe, and why: several windows of each clip in a step, all of them negatives of
    one another, because what happens *when* is what the clips teach; contrast in both directions on lightly masked
    input and with a large weight, because a run of minutes has no time for reconstruction to shape the encoder
    first; and short patches in time (80 ms), because strikes are short.
    """
    audio_frames, height, width = 80, 72, 96
    return Run(
        name="tiny",
        model=CAVMAESyncConfig(
            audio_frames=audio_frames,
            picture_height=height,
            picture_width=width,
            audio_patch=(16, 8),  # 8 x 10 tokens
            picture_patch=(8, 8),  # 9 x 12 tokens
            width=192,
            heads=3,
            audio_depth=3,
            visual_depth=3,
            joint_depth=1,
            decoder_depth=1,
            decoder_width=96,
            decoder_heads=3,
            num_registers=2,
        ),
        preprocess=PreprocessConfig(audio_frames=audio_frames, picture_height=height, picture_width=width),
        objective=CAVMAEObjectiveConfig(
            mask=MaskConfig(audio=0.4, visual=0.4),
            reconstruction_weight=0.2,
            contrastive_weight=1.0,
            direction="both",
            temperature=0.07,
            learn_temperature=True,
        ),
        data=DataConfig(batch_size=32, windows_per_clip=4, measure_statistics=True, num_workers=0),
        optim=OptimConfig(
            learning_rate=5e-4,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_share=0.1,
            final_share=0.02,
            clip_norm=1.0,
        ),
        epochs=20,
        checkpoint_every=100,
        journal_every=5,
    )
