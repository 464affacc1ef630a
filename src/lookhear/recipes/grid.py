"""CAV-MAE Sync for talking faces: very short windows with several pictures each."""

from lookhear.data.augment import AugmentConfig
from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.cavmae_sync import CAVMAESyncConfig
from lookhear.models.tokens import MaskConfig
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.training.optim import OptimConfig
from lookhear.training.run import DataConfig, Run


def grid() -> Run:
    """CAV-MAE Sync on windows of 0.4 s with five pictures of 64 x 64, stacked as channels.

    Command:  lookhear prepare GRID --store STORE --set frames_per_second=25 --set short_side=112
              lookhear pretrain grid --store STORE --run FOLDER
    Data:     GRID (Cooke et al. 2006), 3 s clips of one speaker reading; store at least 12.5 frames per second
    Hardware: 2 CPU cores; about 7 minutes where the CPU multiplies bfloat16
    Promise:  which 0.4 s of speech belongs to which lips of the same clip is told above chance; measured numbers
              stand beside the ridge baseline in docs/

    One picture does not show speech; five show lips move. All seven windows that fit into a clip go into a step, so
    that most negatives are the same speaker at another moment.
    """
    audio_frames, side, frames_per_window = 40, 64, 5
    return Run(
        name="grid",
        model=CAVMAESyncConfig(
            audio_frames=audio_frames,
            picture_height=side,
            picture_width=side,
            picture_channels=3 * frames_per_window,
            audio_patch=(16, 8),  # 8 x 5 tokens
            picture_patch=(8, 8),  # 8 x 8 tokens
            stem_channels=(48, 96, 128),
            width=128,
            heads=2,
            audio_depth=0,
            visual_depth=0,
            joint_depth=1,
            decoder_depth=1,
            decoder_width=64,
            decoder_heads=2,
            num_registers=0,
        ),
        preprocess=PreprocessConfig(
            audio_frames=audio_frames,
            picture_height=side,
            picture_width=side,
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
        data=DataConfig(batch_size=32, windows_per_clip=7, measure_statistics=True, num_workers=0),
        augment=AugmentConfig(flip=0.5, zoom=0.9, color=0.2, gain=0.2, equaliser=0.2),
        optim=OptimConfig(
            learning_rate=1e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_share=0.06,
            final_share=0.02,
            clip_norm=1.0,
        ),
        epochs=32,
        checkpoint_every=100,
        journal_every=5,
    )
