"""`lookhear demo`: the main job end to end, on made scenes or on the user's own videos.

Each step is one call of the room that does it; what is here is the order, the questions that are asked, and the
report. Every number shown is also in report.json; a number that needs truth which is not known is null, with the
reason beside it.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.config import to_dict
from lookhear.errors import UserError
from lookhear.progress import Progress

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.media.scenes import SceneTruth
    from lookhear.report import Figure
    from lookhear.search.query import Hit
    from lookhear.tasks.localization import LocalizationResult
    from lookhear.tasks.retrieval import RetrievalResult

NO_TRUTH = "needs to know what happens in the videos; only made scenes come with the truth"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo makes and learns."""

    learn: int = 480
    """scenes to learn from"""
    held_out: int = 96
    """scenes to be tested on"""
    seed: int = 0
    """of the scenes; the held-out ones are made from the next seed"""
    recipe: str = "tiny"
    """what is trained"""
    frames_per_second: float = 8.0
    """pictures kept in the store"""
    short_side: int = 96
    """of the pictures kept in the store, in pixels"""
    run: tuple[str, ...] = ()
    """settings of the run, name=value"""
    shown_heat_maps: int = 18
    """heat maps drawn into the report"""
    held_out_share: float = 0.2
    """of the user's own videos, with --media"""


@dataclass(frozen=True, kw_only=True)
class Library:
    """The two halves of a library: to learn from, and held out. `truth` is empty for the user's own videos."""

    learn: Path  # a folder or a list of files
    held_out: Path
    folder: Path  # what is indexed and searched
    truth: Mapping[str, "SceneTruth"] = field(default_factory=dict)
    truth_folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A query put to the index: what was asked, in words and as a command, and what came back."""

    asked: str
    command: str
    source: str  # the file that the query was cut from
    at_seconds: float
    hits: list["Hit"]


ShowProgress = Callable[[str], AbstractContextManager[Progress]]


class _Clock:
    """Says what each step does, and remembers how long it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say

    @contextmanager
    def step(self, name: str, explanation: str) -> Iterator[None]:
        self._say(f"[{len(self.seconds) + 1}/7] {name}: {explanation}")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "all": round(sum(self.seconds.values()), 2)}


def demo(
    out: Path,
    *,
    media: Path | None = None,
    workers: int = 2,
    settings: DemoSettings | None = None,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> dict[str, Any]:
    """Runs all steps into `out`; returns what is in out/report.json.

    Steps that were finished by an earlier run of the same demo are found done. `media` takes the place of made
    scenes: a share of its files is held out, and what needs truth is null.
    """
    from lookhear import embedder
    from lookhear.data.prepare import PrepareConfig, prepare
    from lookhear.data.store import Store
    from lookhear.recipes import pretrain
    from lookhear.search.crawl import index
    from lookhear.tasks.localization import evaluate_localization

    settings = settings or DemoSettings()
    clock = _Clock(say)
    with clock.step(
        "scenes", "small videos whose sound and picture have one cause" if media is None else "your videos"
    ):
        library = (
            _make_library(out, workers, settings, show_progress) if media is None else _split(media, out, settings)
        )
    with clock.step("prepare", "every file becomes a manifest row and, if it can be read, training clips"):
        config = PrepareConfig(frames_per_second=settings.frames_per_second, short_side=settings.short_side)
        for half, source in (("learn", library.learn), ("held_out", library.held_out)):
            with show_progress("files") as progress:
                done = prepare(source, out / "store" / half, config=config, workers=workers, progress=progress)
            say(f"  {half}: {done.clips} clips; files: {_counts(done.counts)}")
    stores = {half: Store(out / "store" / half) for half in ("learn", "held_out")}
    with clock.step("pretrain", f"recipe {settings.recipe}: which sound belongs to which picture, without labels"):
        with show_progress("steps") as progress:
            trained = pretrain(
                settings.recipe,
                store=out / "store" / "learn",
                folder=out / "run",
                settings=settings.run,
                progress=progress,
            )
        journal = [json.loads(line) for line in (out / "run" / "journal.jsonl").read_text().splitlines()]
        say(f"  loss {journal[0]['loss']:.3f} -> {journal[-1]['loss']:.3f} in {trained.step} steps")
    model = embedder.load(out / "run")
    with clock.step("evaluate", "on clips it never saw, beside chance, a linear baseline and shuffled pairs"):
        measured = _evaluate(model, stores, library, say)
    with clock.step("search", "the held-out library as an index, asked by sound, by picture, by both"):
        with show_progress("files") as progress:
            crawled = index([library.folder], model=model, index_path=out / "index", workers=workers, progress=progress)
        say(f"  files: {_counts(crawled.counts)}; {crawled.moments} moments")
        questions = _ask(model, stores["held_out"], library, out)
        _say_answers(questions, say)
    with clock.step("localize", "where in the frame the sound comes from"):
        located = evaluate_localization(model, stores["held_out"], library.truth) if library.truth else None
        say(f"  {_place(located)}")
    with clock.step("report", "one page with everything"):
        report = _report(out, clock, measured, located, journal, questions, settings)
    say(f"  {out / 'report.html'} opens in any browser; {out / 'report.json'} holds every number")
    return report


# ---- what is learned from


def _make_library(out: Path, workers: int, settings: DemoSettings, show_progress: ShowProgress) -> Library:
    from lookhear.media.scenes import load_truth, make_scenes

    folders = {"learn": out / "library" / "learn", "held_out": out / "library" / "held_out"}
    for half, count, seed in (
        ("learn", settings.learn, settings.seed),
        ("held_out", settings.held_out, settings.seed + 1),
    ):
        with show_progress("scenes") as progress:
            make_scenes(folders[half], count=count, seed=seed, workers=workers, progress=progress)
    held_out = folders["held_out"]
    return Library(
        learn=folders["learn"], held_out=held_out, folder=held_out, truth=load_truth(held_out), truth_folder=held_out
    )


def _split(media: Path, out: Path, settings: DemoSettings) -> Library:
    """Two lists of the files of a folder: every n-th in order of name is held out."""
    from lookhear.media.probe import find_media

    paths = [found.path.resolve() for found in find_media(media)]
    if len(paths) < 4:
        raise UserError(f"{media} holds {len(paths)} media files; the demo needs at least 4, and learns from hundreds")
    stride = max(2, round(1 / settings.held_out_share))
    halves = {"learn": [], "held_out": []}  # type: dict[str, list[Path]]
    for i, path in enumerate(paths):
        halves["held_out" if i % stride == 0 else "learn"].append(path)
    out.mkdir(parents=True, exist_ok=True)
    lists = {}
    for half, chosen in halves.items():
        lists[half] = out / f"{half}.csv"
        with lists[half].open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["path"], *([str(path)] for path in chosen)])
    return Library(learn=lists["learn"], held_out=lists["held_out"], folder=media)


# ---- what is measured


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    retrieval: "RetrievalResult"
    sync: dict[str, Any]
    kinds: list[str] | None  # of the clips of the similarity matrix


def _evaluate(model: "Embedder", stores: Mapping[str, Any], library: Library, say: Callable[[str], None]) -> _Measured:
    from lookhear.tasks.retrieval import evaluate_retrieval
    from lookhear.tasks.ridge import fit_ridge
    from lookhear.tasks.sync import evaluate_sync
    from lookhear.tasks.windows import embed_windows

    held_out = stores["held_out"]
    kinds = {path: scene.kind for path, scene in library.truth.items()} or None
    windows = embed_windows(model, held_out)
    ridge = fit_ridge(model, stores["learn"])
    retrieval = evaluate_retrieval(model, held_out, kinds=kinds, ridge=ridge, windows=windows)
    for name in ("audio_to_visual", "visual_to_audio"):
        found = getattr(retrieval, name)
        within = "" if found.within_kind_r1 is None else f", within its kind {found.within_kind_r1:.2f}"
        say(
            f"  {name.replace('_', ' ')}: R@1 {found.r1:.2f} of {retrieval.clips} clips"
            f" (chance {retrieval.chance_r1:.2f}, linear {found.ridge_r1:.2f}{within})"
        )
    sync = evaluate_sync(model, held_out, truth=library.truth or None, ridge=ridge, windows=windows).to_dict()
    say(f"  sync: {sync['accuracy']:.2f} of frames find their window (chance {sync['chance']:.2f})")
    return _Measured(
        retrieval=retrieval,
        sync=sync,
        kinds=[library.truth[clip["path"]].kind for clip in retrieval.clip_list] if library.truth else None,
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)


def _place(found: "LocalizationResult | None") -> str:
    if found is None:
        return f"not measured: {NO_TRUTH}"
    return (
        f"IoU >= .5 in {found.ciou:.2f} of {found.frames} frames; "
        f"the hottest point is in the box in {found.pointing:.2f} (chance {found.chance:.2f})"
    )


# ---- what is asked of the index


def _ask(model: "Embedder", held_out: Any, library: Library, out: Path) -> list[Question]:
    """Three queries cut from files of the library, re-encoded, and a fourth across the senses."""
    from PIL import Image

    from lookhear.media.decode import read_clip
    from lookhear.media.encode import write_sound, write_video
    from lookhear.search.index import Index

    index = Index(out / "index", model=model)
    folder = out / "queries"
    folder.mkdir(parents=True, exist_ok=True)
    sources = _query_sources(held_out, library)
    questions: list[Question] = []
    for form, (path, at_seconds) in zip(("sound", "picture", "clip", "sound"), sources, strict=False):
        start = max(at_seconds - 1.0, 0.0)
        across = len(questions) == 3
        cut = read_clip(path, start_seconds=start, end_seconds=start + 2.0, frames_per_second=12.5)
        query = folder / f"{len(questions) + 1}-{form}{ {'sound': '.wav', 'picture': '.jpg', 'clip': '.mp4'}[form] }"
        if form == "sound" and cut.waveform is not None:
            write_sound(query, cut.waveform, cut.sample_rate)
        elif form == "picture" and cut.frames is not None:
            middle = int(np.abs(cut.frame_seconds - at_seconds).argmin())
            Image.fromarray(cut.frames[middle].transpose(1, 2, 0)).save(query, quality=80)
        elif cut.frames is not None:
            pictures = cut.frames.transpose(0, 2, 3, 1)
            write_video(query, frames=iter(pictures), frames_per_second=12.5, waveform=cut.waveform)
        hits = index.search(**{form: query}, within="picture" if across else "both", top=5)  # type: ignore[arg-type]
        questions.append(
            Question(
                asked=f"Where does it look like this sound? {form}" if across else f"Where else? {form}",
                command=f"lookhear search --index {out / 'index'} --{form} {query}"
                + (" --in picture" if across else ""),
                source=path.name,
                at_seconds=at_seconds,
                hits=hits,
            )
        )
    return questions


def _say_answers(questions: Sequence[Question], say: Callable[[str], None]) -> None:
    for question in questions:
        say(f"  {question.asked} (cut from {question.source} at {question.at_seconds:.1f} s)")
        say(f"  $ {question.command}")
        for hit in question.hits[:3]:
            say(f"    {Path(hit.path).name}  {hit.start_seconds:.1f}-{hit.end_seconds:.1f} s  score {hit.score:.2f}")


def _query_sources(held_out: Any, library: Library) -> list[tuple[Path, float]]:
    """Four clips spread over the held-out ones, each with the time of an event (or its middle, without truth)."""
    usable = [clip for clip in held_out.clips if clip.has_sound and clip.has_picture]
    chosen = [usable[i] for i in np.linspace(0, len(usable) - 1, 4).astype(int)]
    sources = []
    for clip in chosen:
        path = Path(clip.path) if Path(clip.path).is_absolute() else library.folder / clip.path
        events = library.truth[clip.path].event_seconds if clip.path in library.truth else ()
        sources.append((path, events[len(events) // 2] if events else (clip.start_seconds + clip.end_seconds) / 2))
    return sources


# ---- what is shown


def _report(
    out: Path,
    clock: _Clock,
    measured: _Measured,
    localization: "LocalizationResult | None",
    journal: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    settings: DemoSettings,
) -> dict[str, Any]:
    """Writes report.json and report.html; returns what is in the former."""
    from lookhear import __version__

    unknown: dict[str, Any] = {"ciou": None, "pointing": None, "chance": None, "reason": NO_TRUTH}
    report = {
        "lookhear": __version__,
        "retrieval": _without_lists(measured.retrieval.to_dict()),
        "sync": _without_lists(measured.sync),
        "localization": _without_lists(localization.to_dict()) if localization else unknown,
        "loss": {"first": journal[0]["loss"], "last": journal[-1]["loss"], "steps": journal[-1]["step"]},
        "search": [to_dict(question) for question in questions],
        "settings": to_dict(settings),
        "seconds": clock.total(),
    }
    if not measured.kinds:
        report["retrieval"]["reason"] = f"figures within a kind are null: {NO_TRUTH}"
        report["sync"]["reason"] = f"windows with and without an event are not told apart: {NO_TRUTH}"
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    _write_page(out, report, measured, localization, journal, questions, settings)
    return report


def _without_lists(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the clip by clip lists, which `lookhear evaluate` prints."""
    return {name: value for name, value in record.items() if name not in ("clip_list", "left_out")}


def _write_page(
    out: Path,
    report: Mapping[str, Any],
    measured: _Measured,
    found: "LocalizationResult | None",
    journal: Sequence[Mapping[str, Any]],
    questions: Sequence[Question],
    settings: DemoSettings,
) -> None:
    from lookhear.report import Located, Section, Table, heat_maps, loss_curves, similarity_matrix, write_page

    retrieval, sync = measured.retrieval, measured.sync
    rows = [
        ("sound finds its picture, R@1", *_row(retrieval.audio_to_visual, retrieval.chance_r1)),
        ("picture finds its sound, R@1", *_row(retrieval.visual_to_audio, retrieval.chance_r1)),
        (
            "frame finds its window of sound",
            f"{sync['accuracy']:.3f}",
            "{:.3f} - {:.3f}".format(*sync["accuracy_ci95"]),
            f"{sync['chance']:.3f}",
            f"{sync['ridge_accuracy']:.3f}",
        ),
    ]
    head = ("held-out clips", "measured", "95 % interval", "chance", "linear baseline")
    sections = [
        Section(
            title="What it learned",
            paragraphs=(f"{retrieval.clips} clips that were not learned from. Shares from 0 to 1.",),
            tables=(Table(head=head, rows=tuple(rows)),),
            figures=(
                loss_curves(journal),
                similarity_matrix(retrieval.similarity, groups=measured.kinds),
            ),
        ),
        Section(
            title="What it finds",
            paragraphs=("Queries were cut from files of the library and encoded again.",),
            figures=tuple(_answer(question) for question in questions if question.hits),
        ),
    ]
    if found:
        located = [
            Located(picture=frame.picture, heat=frame.heat, box=frame.box, title=f"IoU {frame.overlap:.2f}")
            for frame in found.examples[: settings.shown_heat_maps]
        ]
        text = (
            f"Share of frames whose map, cut to the area of the true box, overlaps it with IoU >= .5: {found.ciou:.3f} "
            f"(a map that is always hottest in the middle: {found.centre_ciou:.3f}). The hottest point lies in the "
            f"box in {found.pointing:.3f} of {found.frames} frames (chance {found.chance:.3f})."
        )
        sections.append(
            Section(
                title="Where the sound comes from",
                paragraphs=(text,),
                figures=(heat_maps(located, caption="White: the box of the object that sounds."),),
            )
        )
    seconds = tuple((name, f"{value:.0f}") for name, value in report["seconds"].items())
    sections.append(Section(title="Seconds", tables=(Table(head=("step", "seconds"), rows=seconds),)))
    intro = "Learned from unlabelled video which sound belongs to which picture; every number is in report.json."
    write_page(out / "report.html", title="lookhear demo", intro=intro, sections=sections)


def _row(direction: Any, chance: float) -> tuple[str, ...]:
    low, high = direction.r1_ci95
    return f"{direction.r1:.3f}", f"{low:.3f} - {high:.3f}", f"{chance:.3f}", f"{direction.ridge_r1:.3f}"


def _answer(question: Question) -> "Figure":
    """The frames at the peaks of the best hits."""
    from lookhear.media.decode import read_clip
    from lookhear.report import thumbnails

    pictures, titles = [], []
    for hit in question.hits[:5]:
        shown = read_clip(hit.path, frame_seconds=(hit.peak_seconds,), short_side=120).frames
        if shown is not None and len(shown):
            pictures.append(shown[0])
            titles.append(f"{Path(hit.path).name}\n{hit.peak_seconds:.1f} s, score {hit.score:.1f}")
    asked = f"{question.asked}; cut from {question.source} at {question.at_seconds:.1f} s"
    return thumbnails(pictures, titles, alt=asked, caption=f"{asked}.  $ {question.command}")
