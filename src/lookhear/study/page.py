"""Outcomes -> the tables of a page: a row a method, mean and range over seeds, and what became of each claim."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from lookhear.errors import UserError
from lookhear.study.claims import Claim, Finding, find
from lookhear.study.trials import Outcome

BEGIN, END = "<!-- study:begin -->", "<!-- study:end -->"
# A place for some rows alone: their names, with ; between, in the mark that begins it.
ROWS_END = "<!-- study:rows:end -->"
_PLACE = re.compile(rf"<!-- study:rows (?P<rows>[^>]+) -->\n.*?{ROWS_END}", re.DOTALL)


def fill_page(page: Path, outcomes: Sequence[Outcome], claims: Sequence[Claim]) -> None:
    """Replaces what stands between the two marks of `page` by the tables, and in each place for rows by those rows.

    Raises UserError without the marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise UserError(f"{page} has no place for figures: put '{BEGIN}' and '{END}' on lines of their own")
    parts = [_PLACE.sub(lambda place: _fill_place(place, outcomes), part) for part in (before, after)]
    page.write_text(f"{parts[0]}{BEGIN}\n\n{tables(outcomes, claims)}\n\n{END}{parts[1]}", encoding="utf-8")


def places_of(text: str) -> list[tuple[str, ...]]:
    """The rows that each place of a page names."""
    return [_named(place) for place in _PLACE.finditer(text)]


def _named(place: re.Match[str]) -> tuple[str, ...]:
    return tuple(name.strip() for name in place["rows"].split(";"))


def _fill_place(place: re.Match[str], outcomes: Sequence[Outcome]) -> str:
    """The rows that the place names, of every data set that has them."""
    named = _named(place)
    parts = []
    for among in _by_data([outcome for outcome in outcomes if outcome.row in named]):
        parts += [_rows(sorted(among, key=lambda outcome: named.index(outcome.row))), _context(among)]
    return "\n\n".join([f"<!-- study:rows {place['rows']} -->", *(parts or ["Not measured yet."]), ROWS_END])


def tables(outcomes: Sequence[Outcome], claims: Sequence[Claim]) -> str:
    """Markdown: for every data set the rows, their costs and the baselines; then the claims."""
    parts = []
    for among in _by_data(outcomes):
        parts += [f"### {among[0].data}", _rows(among), _context(among), _costs(among)]
    told = claims_table(outcomes, claims)
    return "\n\n".join([*parts, "### The claims", told] if told else parts)


def _by_data(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """The outcomes of each data set, in the order in which the sets first come."""
    names = dict.fromkeys(outcome.data for outcome in outcomes)
    return [[outcome for outcome in outcomes if outcome.data == name] for name in names]


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
    names = ["", "encoder parameters", "GFLOP a step", "MFLOP a window", "steps", "CPU seconds of training"]
    lines = [_line(names), _line(["---"] * len(names))]
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        of_row = [outcome for outcome in outcomes if outcome.row == row]
        first = of_row[0]
        counted = [_counted(first.gigaflops), _counted(first.window_megaflops), str(first.steps)]
        seconds = f"{fmean(o.train_seconds for o in of_row):.0f}"
        lines.append(_line([row, f"{first.encoder_parameters:,}", *counted, seconds]))
    total = sum(outcome.train_seconds + outcome.judge_seconds for outcome in outcomes) / 60
    lines.append(f"\nTraining and judging of all runs: {total:.0f} CPU minutes.")
    return "\n".join(lines)


def claims_table(outcomes: Sequence[Outcome], claims: Sequence[Claim]) -> str:
    """Markdown: each claim, the difference that it promises, and in how many seeds it was there; empty without any."""
    names = ["claim", "figure", "difference", "seeds in which it holds", "verdict"]
    lines = []
    for among in _by_data(outcomes):
        for claim in claims:
            for figure in claim.figures:
                found = find(among, claim, figure)
                if found is not None:
                    holds = f"{sum(found.held)} of {len(found.held)}"
                    told = [f"{claim.says} ({among[0].data})", figure, _difference(claim, found), holds, found.verdict]
                    lines.append(_line(told))
    return "\n".join([_line(names), _line(["---"] * len(names)), *lines]) if lines else ""


def _difference(claim: Claim, found: Finding) -> str:
    """What the claim is about; of one about cost, the share that is kept and what it costs."""
    if claim.keeps is None:
        return _spread(found.values, sign="+")
    cost = "" if found.cost_ratio is None else f", at {found.cost_ratio:.3f} of the operations of a window"
    return f"{_spread(found.values)} of what is above chance is kept{cost}"


def _spread(values: Sequence[float], *, sign: str = "") -> str:
    """Mean and range; a dash where the figure has no meaning for a row."""
    if not values:
        return "–"
    mean = f"{fmean(values):{sign}.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):{sign}.3f}, {max(values):{sign}.3f}]"


def _counted(value: float | None) -> str:
    """A count of operations; a dash where there was none."""
    return "–" if value is None else f"{value:.1f}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and value > 1 else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
