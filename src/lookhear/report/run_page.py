"""The page of one or several training runs: `lookhear report`."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from lookhear import __version__
from lookhear.config import leaves
from lookhear.data.store import Store
from lookhear.errors import UserError
from lookhear.progress import Progress, quiet
from lookhear.report.figures import Curve, curve_panel
from lookhear.report.page import Figure, Section, Table, write_page
from lookhear.report.reconstructions import reconstruct
from lookhear.report.runs import RunLog, Status, read_runs

CURVES = (
    "Thin: every step; thick: mean over a twentieth of the steps. The most extreme half percent of a curve may lie "
    "outside its axes."
)
_NO_STEP = "No step has been written down yet."
_FOLDER = "folder"  # among the settings; it always differs
_CELL_LETTERS = 60
_DIGEST_LETTERS = 12
_NONE = "–"
_TIMES = ((86400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What a page was made of."""

    out: Path
    runs: dict[str, Status]
    """by the name that the page calls them"""
    figures: int
    problems: tuple[str, ...]
    """lines of journals that were damaged and left out"""


def report_runs(
    runs: Sequence[str | Path],
    *,
    out: str | Path = "report.html",
    store: str | Path | Store | None = None,
    clips: int = 4,
    progress: Progress = quiet,
) -> ReportSummary:
    """Writes one HTML file about the run folders `runs`, which needs nothing else to be read.

    With several runs each quantity has one set of axes and a colour a run. `store` adds `clips` windows that each run
    with a decoder fills in. Runs may be going on. Raises UserError for no run, a folder that is none, a store that
    cannot be opened, or a file that cannot be written.
    """
    if not runs or clips < 1:
        raise UserError(f"{len(runs)} runs and {clips} clips make no page; name a run folder, and 1 clip or more")
    logs = read_runs(runs)
    opened = Store(store) if isinstance(store, (str, Path)) else store
    sections = [_overview(logs), _losses(logs), _evaluation(logs), _signals(logs), _speed(logs)]
    if opened is not None:
        sections.append(_filled_in(logs, opened, clips, progress))
    sections.append(_configuration(logs))
    path = Path(out)
    title = f"Training run {logs[0].name}" if len(logs) == 1 else f"{len(logs)} training runs"
    legend = [log.name for log in logs] if len(logs) > 1 else []
    write_page(path, title=title, intro=_intro(logs), sections=sections, legend=legend)
    return ReportSummary(
        out=path,
        runs={log.name: log.status for log in logs},
        figures=sum(len(section.panels) + len(section.figures) for section in sections),
        problems=tuple(problem for log in logs for problem in log.problems),
    )


# ---- where the runs stand


def _intro(logs: Sequence[RunLog]) -> str:
    now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    of = f" from {logs[0].folder}" if len(logs) == 1 else ""
    return f"Written {now} by lookhear {__version__}{of}."


def _overview(logs: Sequence[RunLog]) -> Section:
    chosen = [_best_of(log) for log in logs]
    columns: list[tuple[str, Callable[[RunLog], str]]] = [
        ("run", lambda log: log.name),
        ("recipe", lambda log: str(log.config["run"].get("name", _NONE))),
        ("state", lambda log: _state(log.status)),
        ("step", lambda log: _steps(log.status)),
        ("loss", lambda log: _number(log.mean_of_last("loss"))),
        ("samples/s", lambda log: _number(_median(log.speed.get("samples_per_second")))),
        ("waiting for data", lambda log: _share(_median(log.speed.get("data_wait_share")))),
        ("time spent", lambda log: _time(log.step_seconds.y[-1]) if len(log.step_seconds.y) else _NONE),
        ("newest checkpoint", lambda log: _NONE if log.checkpoint_step is None else f"step {log.checkpoint_step}"),
    ]
    head = tuple(name for name, _ in columns)
    rows = tuple(tuple(cell(log) for _, cell in columns) for log in logs)
    if any(chosen):
        head, rows = (*head, "best"), tuple((*row, best) for row, best in zip(rows, chosen, strict=True))
    paragraphs = ["Loss: mean over the last twentieth of the steps. Speeds: medians."]
    paragraphs += [f"{problem}." for log in logs for problem in log.problems]
    return Section(
        title="Where it stands" if len(logs) == 1 else "Where they stand",
        paragraphs=tuple(paragraphs),
        tables=(Table(head=head, rows=rows, series=len(logs) > 1),),
    )


def _state(status: Status) -> str:
    if status.silent_seconds is None or status.state == "finished":
        return status.state
    silent = f"last line {_time(status.silent_seconds)} ago"
    left = f", about {_time(status.left_seconds)} left" if status.left_seconds is not None else ""
    return f"{status.state} ({silent}{left})"


def _steps(status: Status) -> str:
    return f"{status.step:,}" if status.total_steps is None else f"{status.step:,} of {status.total_steps:,}"


def _best_of(log: RunLog) -> str:
    """The best step so far, by the number that the run chooses its checkpoint by; empty where it does not choose."""
    metric = log.config["run"].get("select")
    curve = log.journal.get(f"evaluation.{metric}")
    if metric is None or curve is None:
        return ""
    best = int(curve.y.argmax())  # the first of equal ones, as the run chooses
    return f"{_title(str(metric))} {_number(float(curve.y[best]))} at step {int(curve.x[best]):,}"


# ---- curves


def loss_panels(journals: Sequence[Mapping[str, Curve]]) -> tuple[Figure, ...]:
    """The loss, and each of the weighted terms that add up to it, of one or several journals (see `curves_of`)."""
    names = [name for name in _names(journals) if name == "loss" or name.startswith("terms.")]
    return tuple(_panel(journals, name, smooth=True) for name in names)


def _losses(logs: Sequence[RunLog]) -> Section:
    panels = loss_panels([log.journal for log in logs])
    if any(len(log.step_seconds.x) for log in logs):
        panels = (*panels[:1], *((_loss_over_time(logs),) if panels else ()), *panels[1:])
    return Section(
        title="What is minimised",
        paragraphs=(f"The loss and the weighted terms that add up to it. {CURVES}" if panels else _NO_STEP,),
        panels=panels,
    )


def _loss_over_time(logs: Sequence[RunLog]) -> Figure:
    longest = max((float(log.step_seconds.y[-1]) for log in logs if len(log.step_seconds.y)), default=1.0)
    size, unit = next(((size, unit) for size, unit in _TIMES if longest >= 3 * size), _TIMES[-1])
    curves = []
    for log in logs:
        loss, laps = log.journal.get("loss"), log.step_seconds
        if loss is None or not len(laps.x):
            continue
        timed = loss.x <= laps.x[-1]
        seconds = np.interp(loss.x[timed], np.append(0.0, laps.x), np.append(0.0, laps.y))
        curves.append(Curve(x=seconds / size, y=loss.y[timed], series=loss.series))
    return curve_panel(curves, title="loss over time spent", x_name=unit, smooth=True)


def _evaluation(logs: Sequence[RunLog]) -> Section:
    names = [name for name in _names(log.journal for log in logs) if name.startswith("evaluation.")]
    chances = [name for name in names if name.rpartition(".")[2].startswith("chance_")]
    shown = [name for name in names if name not in chances]
    lines = {name: _chance(logs, name, chances) for name in shown}
    note = "Measured as the run goes."
    if any(line is not None for line in lines.values()):
        note += " Dotted: chance."
    elif chances:
        note += " The runs are judged on different numbers of clips, so there is no line for chance."
    absent = (
        f"{'This run does not' if len(logs) == 1 else 'None of these runs does'} evaluate as it goes; with "
        "data.validation_split, and evaluate_every for how often, it would."
    )
    journals = [log.journal for log in logs]
    return Section(
        title="What is measured on held-out clips",
        paragraphs=(note if shown else absent,),
        panels=tuple(_panel(journals, name, floor=0.0, reference=line) for name, line in lines.items()),
    )


def _chance(logs: Sequence[RunLog], name: str, chances: Sequence[str]) -> float | None:
    """What a blind draw gets: of `evaluation.retrieval.audio_to_visual_r1` the number `chance_r1` beside it.

    None where there is no such number, or the runs that are drawn together differ in it.
    """
    evaluator, _, number = name.rpartition(".")
    for chance in chances:
        beside, _, of = chance.rpartition(".")
        if beside == evaluator and number.endswith(of.removeprefix("chance")):
            found = {float(log.journal[chance].y[-1]) for log in logs if chance in log.journal}
            return found.pop() if len(found) == 1 else None
    return None


def _signals(logs: Sequence[RunLog]) -> Section:
    floors = {"learning_rate": 0.0, "gradient_norm": 0.0}
    journals = [log.journal for log in logs]
    names = _names(journals)
    others = [name for name in names if name != "loss" and not name.startswith(("terms.", "evaluation."))]
    ordered = sorted(others, key=lambda name: name not in floors)
    return Section(
        title="How it is trained",
        paragraphs=("Learning rate, size of the gradients, and what is only reported.",) if ordered else (),
        panels=tuple(
            _panel(journals, name, smooth=name != "learning_rate", floor=floors.get(name)) for name in ordered
        ),
    )


def _speed(logs: Sequence[RunLog]) -> Section:
    names = _names(log.speed for log in logs)
    titles = {
        "samples_per_second": "samples a second",
        "data_wait_share": "share of time waiting for data",
    }
    waits = [(log.name, _median(log.speed.get("data_wait_share"))) for log in logs]
    slow = [f"{name} ({wait:.0%})" for name, wait in waits if wait is not None and wait > 0.1]
    said = "Samples are windows, over all processes. Evaluations and checkpoints count as time, so speed dips there."
    if slow:
        said += f" Waits for data for more than a tenth of the time: {', '.join(slow)}; more data.num_workers may help."
    return Section(
        title="Speed",
        paragraphs=(said if names else "No speed has been written down yet.",),
        panels=tuple(
            curve_panel(
                [log.speed[name] for log in logs if name in log.speed],
                title=titles.get(name, _title(name)),
                smooth=True,
                floor=0.0,
            )
            for name in names
        ),
    )


def _panel(journals: Sequence[Mapping[str, Curve]], name: str, **options: Any) -> Figure:
    curves = [journal[name] for journal in journals if name in journal]
    return curve_panel(curves, title=_title(name), **options)


def _names(curves: Iterable[Mapping[str, Curve]]) -> list[str]:
    """The names in all of them, each once, in order of appearance."""
    return list(dict.fromkeys(name for found in curves for name in found))


# ---- what the decoder makes of clips


def _filled_in(logs: Sequence[RunLog], store: Store, count: int, progress: Progress) -> Section:
    """The same windows of every run one below the other."""
    found = []
    for done, log in enumerate(logs):
        progress(done, len(logs), log.name)
        found.append(reconstruct(log, store, count=count))
    progress(len(logs), len(logs))
    several = len(logs) > 1
    figures = [
        replace(own.figures[clip], title=f"{own.figures[clip].title}: {log.name}") if several else own.figures[clip]
        for clip in sorted({clip for own in found for clip in own.figures})
        for log, own in zip(logs, found, strict=True)
        if clip in own.figures
    ]
    said = {own.note: [log.name for log, one in zip(logs, found, strict=True) if one.note == own.note] for own in found}
    notes = [f"{', '.join(names)}: {note}" if several else note for note, names in said.items()]
    return Section(title="What is filled in", paragraphs=tuple(notes), figures=tuple(figures))


# ---- configuration


def _configuration(logs: Sequence[RunLog]) -> Section:
    settings = [_settings(log) for log in logs]
    names = list(dict.fromkeys(name for found in settings for name in found))
    differing = {name for name in names if any(_differ(found, settings[0], name) for found in settings)} - {_FOLDER}
    rows = tuple((name, *(_cell(found, name) for found in settings)) for name in names)
    head = ("setting", *(log.name for log in logs))
    whole = Table(
        title=f"All {len(names)} settings",
        head=head,
        rows=rows,
        folded=True,
        marked=frozenset(i for i, name in enumerate(names) if name in differing),
    )
    if len(logs) > 1:
        first = Table(title="What differs", head=head, rows=tuple(row for row in rows if row[0] in differing))
        none = "All settings are the same."
    else:
        changed = _from_recipe(logs[0])
        first = Table(title="Changed from the recipe", head=("setting", "recipe", "this run"), rows=changed or ())
        none = "" if changed is None else "Nothing is changed from the recipe."
    if first.rows:
        return Section(title="Configuration", tables=(first, whole))
    return Section(title="Configuration", paragraphs=(none,) if none else (), tables=(whole,))


def _differ(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return (name in one) != (name in other) or one.get(name) != other.get(name)


def _settings(log: RunLog) -> dict[str, Any]:
    """Every setting by name, the data it learns from, and the preprocessing where the run measured it."""
    run = leaves(log.config["run"])
    store = log.config.get("store", {})
    data = {"store.clips": store.get("clips"), "store.digest": str(store.get("digest"))[:_DIGEST_LETTERS]}
    measured = {
        f"measured.{name}": value
        for name, value in leaves(log.config.get("preprocess", {})).items()
        if value != run.get(f"preprocess.{name}")
    }
    return {_FOLDER: str(log.folder)} | run | data | measured


def _from_recipe(log: RunLog) -> tuple[tuple[str, ...], ...] | None:
    """Settings, as the recipe has them and as the run has; None where the recipe is not one of ours."""
    from lookhear.recipes import RECIPES
    from lookhear.recipes.finetune import FINETUNE_RECIPES

    name = log.config["run"].get("name")
    if name not in (recipes := RECIPES | FINETUNE_RECIPES):
        return None
    before, after = leaves(recipes[name]().to_dict()), leaves(log.config["run"])
    changed = [key for key in before | after if _differ(before, after, key)]
    return tuple((key, _cell(before, key), _cell(after, key)) for key in changed)


def _cell(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return _NONE
    text = json.dumps(settings[name], ensure_ascii=False)
    return text if len(text) <= _CELL_LETTERS else f"{text[: _CELL_LETTERS - 1]}…"


# ---- words and numbers


def _title(name: str) -> str:
    """`terms.reconstruction_audio` as one reads it."""
    first, dot, rest = name.partition(".")
    if dot and first in ("terms", "report", "evaluation"):
        name = rest
    return name.replace("_", " ").replace(".", ": ")


def _median(curve: Curve | None) -> float | None:
    return None if curve is None else float(np.median(curve.y))


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"


def _time(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in _TIMES if seconds >= 2 * size), _TIMES[-1])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 10 or size == 1 else f"{value:.1f} {unit}"
