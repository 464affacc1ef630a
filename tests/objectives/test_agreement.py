"""Which clips agree. If these fail, CMA takes strangers for positives, or the clip itself."""

import pytest
import torch
import torch.nn.functional as F

from lookhear.errors import ConfigError
from lookhear.objectives import agreement
from lookhear.objectives.agreement import AgreementConfig, Rule, find_agreeing

CPU = torch.device("cpu")


def banks(count: int = 30, width: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    visual, audio = F.normalize(torch.randn(2, count, width, generator=generator), dim=2).unbind()
    return visual, audio, torch.ones(count, dtype=torch.bool)


def slow(visual: torch.Tensor, audio: torch.Tensor, count: int, rule: Rule) -> list[list[int]]:
    found = []
    for row in range(len(visual)):
        scores = {}
        for other in set(range(len(visual))) - {row}:
            seen, heard = float(visual[row] @ visual[other]), float(audio[row] @ audio[other])
            scores[other] = {"both": min(seen, heard), "either": max(seen, heard), "visual": seen, "audio": heard}[rule]
        found.append(sorted(sorted(scores, key=lambda other: -scores[other])[:count]))
    return found


@pytest.mark.parametrize("rule", ["both", "either", "visual", "audio"])
@pytest.mark.parametrize("pieces", [(4, 7), (1024, 65536)])
def test_agreement_is_its_literal_form(rule: Rule, pieces: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_ROWS", pieces[0])
    monkeypatch.setattr(agreement, "_COLUMNS", pieces[1])
    visual, audio, written = banks()
    found = find_agreeing(visual, audio, written, count=5, rule=rule, device=CPU)
    assert found.tolist() == slow(visual, audio, 5, rule)


def test_rows_that_were_never_written_are_nobodys_positives() -> None:
    visual, audio, written = banks()
    written[[3, 8]] = False
    found = find_agreeing(visual, audio, written, count=20, device=CPU)
    assert not ((found == 3) | (found == 8)).any()
    written[10:] = False
    with pytest.raises(ConfigError, match=r"20 positives .* hold 8 clips; start from"):
        find_agreeing(visual, audio, written, count=20, device=CPU)


def test_when_they_are_found() -> None:
    config = AgreementConfig(refresh_every=2, warmup_epochs=1)
    assert [epoch for epoch in range(8) if config.is_due(epoch)] == [1, 3, 5, 7]
    assert [epoch for epoch in range(8) if AgreementConfig(refresh_every=0).is_due(epoch)] == [0]
    with pytest.raises(ConfigError, match="count of at least 1"):
        AgreementConfig(count=0)
