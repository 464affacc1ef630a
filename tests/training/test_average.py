"""The mean of weights. If these fail, a published score that comes from an average cannot be reached."""

import torch
from torch import nn

from lookhear.training.average import WeightAverage


def test_the_mean_of_the_epochs_asked_for() -> None:
    average = WeightAverage(2, 4)
    models = [nn.Linear(3, 2) for _ in range(6)]
    for epoch, model in enumerate(models, start=1):
        assert average.is_complete == (epoch > 4)
        average.add(model.state_dict(), epoch=epoch)
    slow = torch.stack([model.weight for model in models[1:4]]).mean(0)
    torch.testing.assert_close(average.mean(models[0].state_dict())["weight"], slow.detach())
    assert average.mean(models[0].state_dict()).keys() == models[0].state_dict().keys()


def test_it_is_summed_in_float32_and_goes_on_from_its_state() -> None:
    """Summed in bfloat16, 1 + 1/256 would be lost."""
    models = [nn.Linear(1, 1, bias=False) for _ in range(3)]
    for value, model in zip((1.0, 1.0, 1.0 + 2**-7), models, strict=True):
        nn.init.constant_(model.weight, value)
        model.to(torch.bfloat16)
    whole, first, second = (WeightAverage(1, 3) for _ in range(3))
    for epoch, model in enumerate(models, start=1):
        whole.add(model.state_dict(), epoch=epoch)
        if epoch < 3:
            first.add(model.state_dict(), epoch=epoch)
    kept = first.state_dict()
    second.load_state_dict(kept)
    second.add(models[2].state_dict(), epoch=3)
    like = nn.Linear(1, 1, bias=False)
    for average in (whole, second):
        assert average.mean(models[0].state_dict())["weight"].dtype == torch.bfloat16
        torch.testing.assert_close(average.mean(like.state_dict())["weight"], torch.tensor([[1 + 2**-7 / 3]]))


def test_what_is_added_is_a_copy() -> None:
    model = nn.Linear(1, 1)
    average = WeightAverage(1, 1)
    average.add(model.state_dict(), epoch=1)
    before = model.weight.clone()
    nn.init.constant_(model.weight, 9.0)
    assert torch.equal(average.mean(model.state_dict())["weight"], before)
