"""Cross-modal agreement: which clips are alike to the eye and to the ear, and so are each other's positives.

Morgado et al., CVPR 2021 (CMA). n clips, E embedding width, P positives of a clip.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lookhear import distributed
from lookhear.errors import ConfigError

Rule = Literal["both", "either", "visual", "audio"]
_ROWS, _COLUMNS = 1024, 65536  # of similarities that are held at a time


@dataclass(frozen=True, kw_only=True)
class AgreementConfig:
    """How the positives of a clip are found; the defaults are the published ones."""

    count: int = 32
    """positives of each clip, P"""
    rule: Rule = "both"
    """both: the smaller of the two similarities counts; either: the larger; visual, audio: that one alone"""
    refresh_every: int = 5
    """epochs after which they are found anew; 0: never"""
    warmup_epochs: int = 0
    """epochs without rows that need them, in which the banks fill; 0 needs the banks of an earlier run (initial=RUN)"""

    def __post_init__(self) -> None:
        if self.count < 1 or self.refresh_every < 0 or self.warmup_epochs < 0:
            raise ConfigError("agreement needs a count of at least 1, and epochs cannot be negative")

    def is_due(self, epoch: int) -> bool:
        """Whether they are found before `epoch`."""
        since = epoch - self.warmup_epochs
        return since == 0 or (since > 0 and self.refresh_every > 0 and since % self.refresh_every == 0)


@torch.no_grad()
def find_agreeing(
    visual: Tensor, audio: Tensor, written: Tensor, *, count: int, rule: Rule = "both", device: torch.device
) -> Tensor:
    """int64 (n, count), ascending: for each clip the clips with the highest agreement, never itself.

    `visual`, `audio` (n, E) are entries of banks, unit length; clips that are not `written` (n,) are nobody's
    positives. It is computed on `device`, and the answer is there. The slow form: rho = min(v v', a a') of the rule
    "both", its diagonal left out, sorted. Processes share the rows, and all get the whole answer. Raises ConfigError
    where fewer than count + 1 clips were written.
    """
    num_rows = len(visual)
    if (filled := int(written.sum())) <= count:
        raise ConfigError(
            f"agreement looks for {count} positives of a clip and the banks hold {filled} clips; start from "
            "the run folder of a run with a memory bank on the same store (--set initial=RUN), or set "
            "objective.keys.agreement.warmup_epochs, or a smaller count"
        )
    share = -(-num_rows // distributed.world_size())
    mine = range(share * distributed.rank(), min(num_rows, share * (distributed.rank() + 1)))
    found = torch.zeros(share, count, dtype=torch.int64, device=device)
    for first in mine[::_ROWS]:
        rows = slice(first, min(first + _ROWS, mine.stop))
        places = _highest(rows, visual, audio, written, count=count, rule=rule, device=device)
        found[rows.start - mine.start : rows.stop - mine.start] = places
    return distributed.all_gather(found)[:num_rows]


def _highest(
    rows: slice, visual: Tensor, audio: Tensor, written: Tensor, *, count: int, rule: Rule, device: torch.device
) -> Tensor:
    """int64 (rows, count), ascending: a running list of the best, over columns in pieces."""

    def part(rows: slice) -> tuple[Tensor, Tensor]:
        return visual[rows].to(device, torch.float32), audio[rows].to(device, torch.float32)

    own = torch.arange(rows.start, rows.stop, device=device)[:, None]
    queries = part(rows)
    scores, places = queries[0].new_zeros(len(own), 0), own.new_zeros(len(own), 0)
    for first in range(0, len(visual), _COLUMNS):
        columns = slice(first, first + _COLUMNS)
        seen, heard = (mine @ theirs.T for mine, theirs in zip(queries, part(columns), strict=True))
        rho = _agreement(seen, heard, rule)
        numbers = torch.arange(first, first + rho.shape[1], device=device)
        rho = rho.masked_fill((numbers == own) | ~written[columns].to(device), float("-inf"))
        scores, places = torch.cat([scores, rho], dim=1), torch.cat([places, numbers.expand_as(rho)], dim=1)
        scores, best = scores.topk(min(count, scores.shape[1]), dim=1)
        places = places.gather(1, best)
    return places.sort(dim=1).values


def _agreement(seen: Tensor, heard: Tensor, rule: Rule) -> Tensor:
    if rule == "both":
        return torch.minimum(seen, heard)
    if rule == "either":
        return torch.maximum(seen, heard)
    return seen if rule == "visual" else heard
