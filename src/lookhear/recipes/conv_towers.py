"""CAV-MAE Sync whose towers are convolutional nets: how another encoder takes the place of a vision transformer."""

from dataclasses import replace

from lookhear.recipes.tiny import tiny
from lookhear.training.run import Run


def conv_towers() -> Run:
    """The recipe `tiny` with a convolutional tower for each modality, two blocks after the same stem.

    Command:  lookhear pretrain conv_towers --store STORE --run FOLDER
    Data:     as tiny
    Hardware: 2 CPU cores; not timed
    Promise:  an example: the same objective, data and joint block train it; no score was measured

    Two settings name the towers, `model.audio_tower` and `model.visual_tower` (they may differ); a tower of your own
    is a subclass of `models.towers.Tower`, entered in TOWERS. Such towers do not mix tokens, so registers, which are
    dropped after them, would do nothing: there are none. The global token meets the patches in two joint blocks.
    """
    run = tiny()
    model = replace(
        run.model,
        audio_tower="conv",
        visual_tower="conv",
        audio_depth=2,
        visual_depth=2,
        joint_depth=2,
        num_registers=0,
    )
    return replace(run, name="conv_towers", model=model)
