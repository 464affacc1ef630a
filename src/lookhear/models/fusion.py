"""How Listen to Look makes one vector of a moment's picture and sound.

D widths of features.
"""

from torch import Tensor, cat, nn


class Fusion(nn.Module):
    """The fusing network (psi) of Listen to Look (Gao et al., CVPR 2020): side by side, linear, ReLU, linear.

    With the published sizes (512 and 512, 1024 between, 512 out) it has 1,574,400 parameters.
    """

    def __init__(self, *, visual_width: int, audio_width: int, hidden_width: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(visual_width + audio_width, hidden_width), nn.ReLU(), nn.Linear(hidden_width, width)
        )
        self.layers.apply(small_normal)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """(..., D) of (..., D_visual) and (..., D_audio)."""
        return self.layers(cat([visual, audio], dim=-1))


def small_normal(module: nn.Module) -> None:
    """The published start: weights N(0, 0.02), those of norms N(1, 0.02), no bias."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, mean=1.0, std=0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
