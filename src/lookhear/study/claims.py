"""What was published, as comparisons of rows, and what became of it over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from lookhear.study.trials import Outcome


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`better` beats `worse` in each of `figures`; or, with `keeps`, has most of what `worse` has."""

    says: str
    better: str
    worse: str
    figures: tuple[str, ...]
    keeps: float | None = None  # the share of `worse`'s figure, above chance, that `better` must have
    chance: str = ""  # with `keeps`: the name of chance in the context of an outcome


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What became of a claim in one figure."""

    values: tuple[float, ...]  # seed by seed: `better` minus `worse`, or the share that is kept
    held: tuple[bool, ...]  # seed by seed
    apart: bool  # whether every seed of `better` beats every seed of `worse`, not only its own
    cost_ratio: float | None  # operations of a window, `better`'s as a share of `worse`'s; None: not counted

    @property
    def verdict(self) -> str:
        """By the spread over seeds alone."""
        if len(self.held) == 1:
            return "one seed tells nothing"
        if all(self.held):
            return "holds" if self.apart else "in every seed, but within their spread"
        return "cannot be told" if any(self.held) else "does not hold"


def find(outcomes: Sequence[Outcome], claim: Claim, figure: str) -> Finding | None:
    """What the outcomes of one data set say; None where no seed has both rows and the figure."""
    better, worse = (
        {outcome.seed: outcome for outcome in outcomes if outcome.row == row and figure in outcome.figures}
        for row in (claim.better, claim.worse)
    )
    seeds = sorted(better.keys() & worse.keys())
    if not seeds:
        return None
    own = [better[seed].figures[figure] for seed in seeds]
    other = [worse[seed].figures[figure] for seed in seeds]
    ratio = None
    costs = (better[seeds[0]].window_megaflops, worse[seeds[0]].window_megaflops)
    if costs[0] is not None and costs[1]:
        ratio = costs[0] / costs[1]
    if claim.keeps is None:
        values = [one - two for one, two in zip(own, other, strict=True)]
        held = [value > 0 for value in values]
        apart = min(own) > max(other)
    else:
        floor = worse[seeds[0]].context[claim.chance]
        # where `worse` is no better than chance there is nothing to keep
        values = [(one - floor) / (two - floor) if two > floor else 0.0 for one, two in zip(own, other, strict=True)]
        held = [value >= claim.keeps for value in values]
        apart = all(held)
    return Finding(values=tuple(values), held=tuple(held), apart=apart, cost_ratio=ratio)
