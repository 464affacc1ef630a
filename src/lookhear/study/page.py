"""Outcomes -> the tables of a page: a row a method, mean and range over seeds, and what became of each claim."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from lookhear.errors import UserError
from lookhear.study.cavmae import CLAIMS, differences
from lookhear.study.trials import Outcome

BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"


def fill_page(page: Path, outcomes: Sequence[Outcome]) -> None:
    """Replaces what stands between the two marks of `page` by the tables. Raises UserError without the marks."""
    text = page.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise UserError(f"{page} has no place for figures: put '{BEGIN}' and '{END}' on lines of their own")
    page.write_text(f"{before}{BEGIN}\n\n{tables(outcomes)}\n\n{END}{after}", encoding="utf-8")


def tables(outcomes: Sequence[Outcome]) -> str:
    """Markdown: for every data set the rows, their costs and the baselines; then the claims."""
    parts = []
    for data in dict.fromkeys(outcome.data for outcome in outcomes):
        among = [outcome for outcome in outcomes if outcome.data == data]
        parts += [f"### {data}", _rows(among), _context(among), _costs(among)]
    if any(differences(outcomes, claim, figure) for claim in CLAIMS for figure in claim.figures):
        parts += ["### The claims", claims_table(outcomes)]
    return "\n\n".join(parts)


def _rows(outcomes: Sequence[Outcome]) -> str:
    figures = list(dict.fromkeys(name for outcome in outcomes for name in outcome.figures))
    lines = [_line(["", "seeds", *figures]), _line(["---"] * (len(figures) + 2))]
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        of_row = [outcome for outcome in outcomes if outcome.row == row]
        cells = [_spread([o.figures[name] for o in of_row if name in o.figures]) for name in figures]
        lines.append(_line([row, str(len(of_row)), *cells]))
    return "\n".join(lines)


def _context(outcomes: Sequence[Outcome]) -> str:
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.context))
    said = []
    for name in names:
        values = [outcome.context[name] for outcome in outcomes if name in outcome.context]
        least, most = _number(min(values)), _number(max(values))
        said.append(f"{name} {least}" if least == most else f"{name} {least}–{most}")
    return f"To compare with: {', '.join(said)}."


def _costs(outcomes: Sequence[Outcome]) -> str:
    lines = [_line(["", "encoder parameters", "GFLOP a step", "steps", "CPU seconds of training"]), _line(["---"] * 5)]
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        of_row = [outcome for outcome in outcomes if outcome.row == row]
        first = of_row[0]
        seconds = f"{fmean(o.train_seconds for o in of_row):.0f}"
        cells = [row, f"{first.encoder_parameters:,}", f"{first.gigaflops:.1f}", str(first.steps), seconds]
        lines.append(_line(cells))
    total = sum(outcome.train_seconds + outcome.judge_seconds for outcome in outcomes) / 60
    lines.append(f"\nTraining and judging of all runs: {total:.0f} CPU minutes.")
    return "\n".join(lines)


def claims_table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: each claim, the difference that it promises, and in how many seeds it was there."""
    lines = [_line(["claim", "figure", "difference", "seeds in which it holds"]), _line(["---"] * 4)]
    for data in dict.fromkeys(outcome.data for outcome in outcomes):
        among = [outcome for outcome in outcomes if outcome.data == data]
        for claim in CLAIMS:
            for figure in claim.figures:
                found = differences(among, claim, figure)
                if found:
                    holds = f"{sum(value > 0 for value in found)} of {len(found)}"
                    lines.append(_line([f"{claim.says} ({data})", figure, _spread(found, sign="+"), holds]))
    return "\n".join(lines)


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    """Mean and range; a dash where the figure has no meaning for a row."""
    if not values:
        return "–"
    mean = f"{fmean(values):{sign}.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):{sign}.3f}, {max(values):{sign}.3f}]"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and value > 1 else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
