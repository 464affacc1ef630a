"""The fusing network has the published size; a change would make published weights and costs wrong."""

import torch

from lookhear.models.fusion import Fusion


def test_published_size() -> None:
    fusion = Fusion(visual_width=512, audio_width=512, hidden_width=1024, width=512)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 1_574_400


def test_picture_first_and_no_output_activation() -> None:
    torch.manual_seed(0)
    fusion = Fusion(visual_width=3, audio_width=2, hidden_width=8, width=4)
    visual, audio = torch.randn(5, 3), torch.randn(5, 2)
    first, last = fusion.layers[0], fusion.layers[2]
    hidden = (torch.cat([visual, audio], dim=1) @ first.weight.T + first.bias).clamp(min=0)
    torch.testing.assert_close(fusion(visual, audio), hidden @ last.weight.T + last.bias)
