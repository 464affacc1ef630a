"""The published CAV-MAE in miniature."""

from dataclasses import replace

from lookhear.data.preprocess import PreprocessConfig
from lookhear.models.cavmae import CAVMAEConfig
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.recipes.published import PUBLISHED_ADAM
from lookhear.training.run import DataConfig, Run


def small() -> Run:
    """CAV-MAE of the published shape (linear patches, two towers, one joint block, masks of .75), eight times narrower.

    Command:  lookhear pretrain small --store STORE --run FOLDER
    Data:     a store of thousands of clips of 3 s or more
    Hardware: 2 CPU cores; not timed
    Promise:  what a published setting does can be tried in short steps before it is tried for weeks; no score was
              measured. For good embeddings from few clips take `tiny`: without a stem of convolutions, a few hundred
              clips are learned by heart

    Windows of 2.56 s, a picture of 112 x 112, four blocks, and an encoder of 0.9 million parameters. It starts from
    scratch, so the learning rate is higher and warms up; contrast weighs more than the published .01, which suits
    weeks of training.
    """
    audio_frames, side = 256, 112
    return Run(
        name="small",
        model=CAVMAEConfig(
            audio_frames=audio_frames,
            picture_height=side,
            picture_width=side,
            width=96,
            heads=3,
            audio_depth=3,
            visual_depth=3,
            joint_depth=1,
            decoder_depth=2,
            decoder_width=64,
            decoder_heads=2,
        ),
        preprocess=PreprocessConfig(audio_frames=audio_frames, picture_height=side, picture_width=side),
        objective=CAVMAEObjectiveConfig(contrastive_weight=0.1, direction="both"),
        data=DataConfig(batch_size=48, measure_statistics=True, num_workers=0),
        optim=replace(PUBLISHED_ADAM, learning_rate=5e-4, schedule="cosine", warmup_share=0.05, final_share=0.05),
        epochs=25,
        checkpoint_every=200,
    )
