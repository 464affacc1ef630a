"""The demo's figures as rows, and its report.html."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookhear.errors import MediaError
from lookhear.media.decode import read_clip
from lookhear.report.figures import Bar, Thumbnail, bars, heat_maps, similarity_matrix, thumbnails
from lookhear.report.page import Figure, Section, Table, write_page
from lookhear.report.run_page import CURVES, loss_panels
from lookhear.report.runs import curves_of

if TYPE_CHECKING:
    from lookhear.demo import Measured, Places, Question


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured figure beside what it must be compared with; None where there is no such number."""

    key: str  # its place in report.json
    name: str
    value: float
    ci95: tuple[float, float] | None
    chance: float | None
    baseline: float | None
    shuffled: float | None  # the same with wrong pairs
    count: int
    unit: str  # of the count


HEAD = ("on held-out clips", "measured", "95 % interval", "chance", "baseline", "pairs shuffled", "n")
BASELINES = (
    "Baseline: ridge regression between picture and sound (retrieval, sync), or a map that is hottest in the middle "
    "(localization). Pairs shuffled: the same with another clip's sound. Intervals: bootstrap over clips."
)

EVENT_ONLY = "Whoever knew only in which windows something happens would find a frame's moment in a share of"


def rows(report: Mapping[str, Any]) -> list[Row]:
    """The main figures of a report.json, in the order in which they are shown; what is null there is left out."""
    return [row for row in (*_retrieval(report), *_sync(report), *_localization(report)) if row is not None]


def _retrieval(report: Mapping[str, Any]) -> Iterator[Row | None]:
    part = report["retrieval"]
    names = {"audio_to_visual": "a sound finds its picture", "visual_to_audio": "a picture finds its sound"}
    for direction, name in names.items():
        figures = {**part[direction], "chance": part["chance_r1"], "clips": part["clips"]}
        controls = {"baseline": "ridge_r1", "shuffled": "shuffled_r1"}
        yield _row(f"retrieval.{direction}", "r1", f"{name}, R@1", figures, unit="clips", **controls)
    for direction, name in names.items():
        figures = {**part[direction], "chance": part[direction]["within_kind_chance"], "clips": part["clips"]}
        yield _row(f"retrieval.{direction}", "within_kind_r1", f"{name} among its own kind, R@1", figures, unit="clips")


def _sync(report: Mapping[str, Any]) -> Iterator[Row | None]:
    part, name = report["sync"], "a frame finds its moment in the sound of its clip"
    controls = {"baseline": "ridge_accuracy", "shuffled": "shuffled_accuracy"}
    yield _row("sync", "accuracy", name, part, unit="frames", **controls)
    for key, where in (("with_event", "where something happens"), ("without_event", "where nothing happens")):
        if part[key]:
            yield _row(f"sync.{key}", "accuracy", f"the same, {where}", part[key], unit="frames")


def _localization(report: Mapping[str, Any]) -> Iterator[Row | None]:
    part = report["localization"]
    covers, points = "the heat map covers what sounds, IoU >= .5", "the hottest point lies on what sounds"
    controls = {"baseline": "centre_ciou", "shuffled": "shuffled_ciou"}
    yield _row("localization", "ciou", covers, {**part, "chance": None}, unit="frames", **controls)
    controls = {"baseline": "centre_pointing", "shuffled": "shuffled_pointing"}
    yield _row("localization", "pointing", points, part, unit="frames", **controls)


def _row(
    place: str,
    key: str,
    name: str,
    figures: Mapping[str, Any],
    *,
    unit: str,
    baseline: str = "",
    shuffled: str = "",
) -> Row | None:
    """The figure `key` of a part of report.json beside the others of that part; None where it is null."""
    if figures[key] is None:
        return None
    interval = figures[f"{key}_ci95"]
    return Row(
        key=f"{place}.{key}",
        name=name,
        value=figures[key],
        ci95=(interval[0], interval[1]) if interval else None,
        chance=figures["chance"],
        baseline=figures.get(baseline),
        shuffled=figures.get(shuffled),
        count=figures[unit],
        unit=unit,
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row as text, in the order of HEAD."""
    interval = "–" if row.ci95 is None else f"{row.ci95[0]:.3f} – {row.ci95[1]:.3f}"
    controls = ["–" if value is None else f"{value:.3f}" for value in (row.chance, row.baseline, row.shuffled)]
    return (row.name, f"{row.value:.3f}", interval, *controls, f"{row.count} {row.unit}")


def machine_line(report: Mapping[str, Any]) -> str:
    """On what, by which command and in what time the figures were measured."""
    machine, seconds = report["machine"], report["seconds"]["all"]
    taken = ", going on from an earlier call" if report["went_on"] else f" in {seconds:.0f} s"
    return (
        f"Measured by `{report['command']}` (lookhear {report['lookhear']}){taken}, on "
        f"{machine['cores']} cores of {machine['processor']}, {machine['system']}, {machine['device']} "
        f"{machine['dtype']}, torch {machine['torch']}."
    )


def write_report(
    path: Path,
    report: Mapping[str, Any],
    measured: "Measured",
    places: "Places",
    journal: Sequence[Mapping[str, Any]],
    questions: Sequence["Question"],
) -> None:
    """Writes report.html."""
    sections = [
        _learned(report, measured),
        Section(title="What was minimised", paragraphs=(CURVES,), panels=loss_panels([curves_of(journal)])),
        Section(
            title="What it finds",
            paragraphs=(
                "Two seconds were cut out of files of the library, encoded again, and looked for. Orange: where the "
                "query was cut from. Green: a hit in that same file. Score 3 means that one in a thousand random "
                "pairs matches as well.",
            ),
            figures=tuple(_answer(question) for question in questions if question.hits),
        ),
    ]
    if places.shown:
        box = "White: the box of what sounds. " if places.result else ""
        sections.append(
            Section(
                title="Where the sound comes from",
                paragraphs=() if places.result else (f"Shown, not measured: {report['localization']['reason']}.",),
                figures=(heat_maps(places.shown, caption=f"{box}Glowing: what the match with the sound depends on."),),
            )
        )
    seconds = tuple((name, f"{value:.0f}") for name, value in report["seconds"].items())
    sections.append(
        Section(
            title="Time and machine",
            paragraphs=(machine_line(report),),
            tables=(Table(head=("step", "seconds"), rows=seconds),),
        )
    )
    intro = "Learned from unlabelled video which sound belongs to which picture. Every number is in report.json."
    write_page(path, title="lookhear demo", intro=intro, sections=sections)


def _learned(report: Mapping[str, Any], measured: "Measured") -> Section:
    shown = rows(report)
    retrieval = report["retrieval"]
    ranks = tuple(
        (name, *(f"{retrieval[key][k]:.3f}" for k in ("r1", "r5", "r10")), f"{retrieval[key]['median_rank']:g}")
        for key, name in (("audio_to_visual", "sound to picture"), ("visual_to_audio", "picture to sound"))
    )
    paragraphs = [f"{retrieval['clips']} clips that were not learned from. All shares from 0 to 1. {BASELINES}"]
    event_only = report["sync"]["event_only_accuracy"]
    if event_only is not None:
        paragraphs.append(f"{EVENT_ONLY} {event_only:.3f}.")
    if retrieval["kind_only_r1"] is not None:
        paragraphs.append(
            f"Whoever knew the kind of each clip and nothing else would reach R@1 {retrieval['kind_only_r1']:.3f}; "
            "the figures among a clip's own kind show what is known beyond it."
        )
    return Section(
        title="What it learned",
        paragraphs=tuple(paragraphs),
        tables=(
            Table(head=HEAD, rows=tuple(cells(row) for row in shown)),
            Table(head=("the right one is among the first", "1", "5", "10", "median rank"), rows=ranks),
        ),
        figures=(
            bars(
                [
                    Bar(name=row.name, value=row.value, ci95=row.ci95, chance=row.chance, baseline=row.baseline)
                    for row in shown
                ]
            ),
            similarity_matrix(measured.similarity, groups=measured.kinds),
        ),
    )


def _answer(question: "Question") -> Figure:
    """The frame where the query was cut, and the frames at the peaks of the best hits."""
    source = Path(question.source)
    asked = (source, question.at_seconds, f"query: {source.name}\n{question.at_seconds:.1f} s", "asked")
    found = [
        (
            Path(hit.path),
            hit.peak_seconds,
            f"{Path(hit.path).name}\n{hit.start_seconds:.1f}–{hit.end_seconds:.1f} s, score {hit.score:.1f}",
            "same" if Path(hit.path).resolve() == source.resolve() else "",
        )
        for hit in question.hits[:5]
    ]
    shown = []
    for path, at_seconds, title, mark in [asked, *found]:
        try:
            frames = read_clip(path, frame_seconds=(at_seconds,), short_side=120).frames
        except MediaError:  # a sound file has no frame to show
            continue
        if frames is not None and len(frames):
            shown.append(Thumbnail(picture=frames[0], title=title, mark=mark))
    return thumbnails(shown, alt=f"{question.asked} {asked[2]}", caption=f"{question.asked}  $ {question.command}")
