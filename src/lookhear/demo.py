"""`lookhear demo`: the main job end to end, on made scenes or on the user's own videos.

Each step is one call of the room that does it; what is here is the order, the questions that are asked, and the
report. Every number shown is also in report.json; a number that needs truth which is not known is null, with the
reason beside it.
"""

import csv
import dataclasses
import itertools
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.config import override, to_dict
from lookhear.errors import ConfigError, MediaError, StoreError, UserError
from lookhear.progress import Progress

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder
    from lookhear.media.scenes import SceneTruth
    from lookhear.report.figures import Located
    from lookhear.search.query import Hit
    from lookhear.tasks.localization.evaluation import LocalizationResult
    from lookhear.tasks.matching.retrieval import RetrievalResult

NO_TRUTH = "needs to know what happens in the videos; only made scenes come with the truth"


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo makes and learns."""

    learn: int = 1200
    """scenes to learn from"""
    held_out: int = 96
    """scenes to be tested on"""
    seed: int = 0
    """of the scenes to learn from"""
    held_out_seed: int = 1000
    """of the scenes to be tested on"""
    recipe: str = "tiny"
    """what is trained"""
    frames_per_second: float = 8.0
    """pictures kept in the store"""
    short_side: int = 96
    """of the pictures kept in the store, in pixels"""
    run: tuple[str, ...] = ()
    """settings of the run, such as 'run=["optim.learning_rate=1e-3"]'"""
    shown_heat_maps: int = 18
    """heat maps drawn into the report"""
    held_out_share: float = 0.2
    """of the user's own videos, with --media"""

    def __post_init__(self) -> None:
        if self.seed == self.held_out_seed:
            raise ConfigError("seed and held_out_seed are equal: it would be tested on what it learned from")


@dataclass(frozen=True, kw_only=True)
class Library:
    """The two halves of a library: to learn from, and held out. `truth` is empty for the user's own videos."""

    learn: Path  # a folder or a list of files
    held_out: Path
    folder: Path  # what is indexed and searched
    truth: Mapping[str, "SceneTruth"] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A query put to the index: what was asked, in words and as a command, and what came back."""

    asked: str
    command: str
    source: str  # the file that the query was cut from
    at_seconds: float
    hits: list["Hit"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What the evaluation found; `kinds` are those of the clips of the similarity matrix."""

    retrieval: "RetrievalResult"
    similarity: np.ndarray  # float32 (C, C): sounds are rows, pictures columns
    sync: dict[str, Any]
    kinds: list[str] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Heat maps to show, and how well all of them lie on the true boxes, where these are known."""

    result: "LocalizationResult | None"
    shown: list["Located"]


class StoppedError(UserError):
    """Training was stopped by SIGTERM, after saving."""


ShowProgress = Callable[[str], AbstractContextManager[Progress]]


class _Clock:
    """Says what each step does, and remembers how long it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._say = say
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str, explanation: str) -> Iterator[None]:
        self._say(f"[{len(self.seconds) + 1}/7] {name}: {explanation}")
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 2)

    def total(self) -> dict[str, float]:
        return {**self.seconds, "all": round(time.monotonic() - self._started, 2)}


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
    scenes: a share of its files is held out, and what needs truth is null. Raises UserError where `out` lies inside
    `media`, where there are too few files, and where `out` holds another demo.
    """
    from lookhear import embedder
    from lookhear.data.store import Store
    from lookhear.demo_page import write_report
    from lookhear.device import describe_machine

    settings = settings or DemoSettings()
    if media is not None and out.resolve().is_relative_to(media.resolve()):
        raise UserError(f"{out} lies inside {media}, so its own files would be taken for media; name another --out")
    went_on = (out / "store").exists()
    clock = _Clock(say)
    with clock.step("scenes", "small videos whose sound and picture have one cause" if media is None else "none made"):
        if media is None:
            library = _make_library(out, workers, settings, show_progress)
        else:
            library = _split(media, out, settings)
    with clock.step("prepare", "every file becomes a manifest row and, if it can be read, training clips"):
        _prepare(library, out, workers, settings, say, show_progress)
    stores = {half: Store(out / "store" / half) for half in ("learn", "held_out")}
    with clock.step("pretrain", f"recipe {settings.recipe}: which sound belongs to which picture, without labels"):
        journal = _pretrain(stores["learn"], out, media is None, settings, say, show_progress)
    model = embedder.load(out / "run")
    with clock.step("evaluate", "on clips it never saw, beside chance, a linear baseline and shuffled pairs"):
        measured = _evaluate(model, stores, library, say, show_progress)
    half = "the held-out library" if media is None else "your videos"
    with clock.step("search", f"{half} as an index, asked by sound, by picture, by both"):
        questions = _search(model, stores["held_out"], library, out, workers, say, show_progress)
    with clock.step("localize", "where in the frame the sound comes from"):
        places = _localize(model, stores["held_out"], library, settings, say, show_progress)
    with clock.step("report", "one page with everything"):
        report = {
            **_figures(measured, places.result),
            "loss": {"first": journal[0]["loss"], "last": journal[-1]["loss"], "steps": journal[-1]["step"]},
            "search": [to_dict(question) for question in questions],
            "settings": to_dict(settings),
            "command": _command(out, media, settings),
            "machine": describe_machine(),
            "went_on": went_on,
            "seconds": clock.total(),
        }
        write_report(out / "report.html", report, measured, places, journal, questions)
    report["seconds"] = clock.total()
    (out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    say(f"  {out / 'report.html'} opens in any browser; {out / 'report.json'} holds every number")
    return report


# ---- what is learned from


def _make_library(out: Path, workers: int, settings: DemoSettings, show_progress: ShowProgress) -> Library:
    from lookhear.media.scenes import load_truth, make_scenes

    folders = {"learn": out / "library" / "learn", "held_out": out / "library" / "held_out"}
    for half, count, seed in (
        ("learn", settings.learn, settings.seed),
        ("held_out", settings.held_out, settings.held_out_seed),
    ):
        with show_progress("scenes") as progress:
            make_scenes(folders[half], count=count, seed=seed, workers=workers, progress=progress)
    held_out = folders["held_out"]
    return Library(learn=folders["learn"], held_out=held_out, folder=held_out, truth=load_truth(held_out))


def _split(media: Path, out: Path, settings: DemoSettings) -> Library:
    """Two lists of the files of a folder: every n-th in order of name is held out."""
    from lookhear.media.probe import find_media

    paths = [found.path.resolve() for found in find_media(media) if not found.problem]
    if len(paths) < 4:
        raise UserError(f"{media} holds {len(paths)} media files; the demo needs at least 4, and learns from hundreds")
    stride = min(max(2, round(1 / settings.held_out_share)), len(paths) // 2)
    halves = {"learn": [], "held_out": []}  # type: dict[str, list[Path]]
    for i, path in enumerate(paths):
        halves["held_out" if i % stride == 0 else "learn"].append(path)
    out.mkdir(parents=True, exist_ok=True)
    lists = {}
    for half, chosen in halves.items():
        lists[half] = out / f"{half}.csv"
        try:
            with lists[half].open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["path"], *([str(path)] for path in chosen)])
        except UnicodeEncodeError as error:
            raise UserError(f"{media} holds a file whose name is not UTF-8 ({error.object!r}); rename it") from error
    return Library(learn=lists["learn"], held_out=lists["held_out"], folder=media)


def _prepare(
    library: Library,
    out: Path,
    workers: int,
    settings: DemoSettings,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> None:
    from lookhear.data.prepare import PrepareConfig, prepare

    config = PrepareConfig(frames_per_second=settings.frames_per_second, short_side=settings.short_side)
    for half, source in (("learn", library.learn), ("held_out", library.held_out)):
        with show_progress("files") as progress:
            done = prepare(source, out / "store" / half, config=config, workers=workers, progress=progress)
        say(f"  {half}: {done.clips} clips; files: {_counts(done.counts)}")


def _pretrain(
    store: "Store",
    out: Path,
    made: bool,
    settings: DemoSettings,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> list[dict[str, Any]]:
    """Trains, or goes on; returns the journal.

    A batch is made smaller where there are too few clips to fill it. The user's own videos, few or many, are learned
    from for as many steps as made scenes would be.
    """
    from lookhear.recipes import pretrain, recipe
    from lookhear.training.journal import JOURNAL, read_records

    run = override(recipe(settings.recipe), settings.run)
    usable = sum(clip.has_picture and clip.has_sound for clip in store.clips)
    if usable < 2:
        raise UserError(f"{usable} clips to learn from have both sound and picture; the demo needs at least 2")
    asked: tuple[str, ...] = settings.run
    if not made:
        asked = (*asked, f"steps={run.steps or run.epochs * max(1, settings.learn // run.data.batch_size)}")
    if usable < run.data.batch_size:
        say(f"  {usable} clips with sound and picture: batches of {usable} instead of {run.data.batch_size}")
        asked = (*asked, f"data.batch_size={usable}")
    with show_progress("steps") as progress:
        trained = pretrain(settings.recipe, store=store.path, folder=out / "run", settings=asked, progress=progress)
    if trained.interrupted:
        raise StoppedError(
            f"stopped after {trained.step} of {trained.total_steps} steps; the same command goes on there"
        )
    journal = read_records(out / "run" / JOURNAL)
    say(f"  loss {journal[0]['loss']:.3f} -> {journal[-1]['loss']:.3f} in {trained.step} steps")
    return journal


# ---- what is measured


def _evaluate(
    model: "Embedder",
    stores: Mapping[str, "Store"],
    library: Library,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> Measured:
    from lookhear.tasks.matching.retrieval import evaluate_retrieval
    from lookhear.tasks.matching.ridge import fit_ridge
    from lookhear.tasks.matching.similarity import pair_similarity
    from lookhear.tasks.matching.sync import evaluate_sync
    from lookhear.tasks.windows import embed_windows

    held_out = stores["held_out"]
    kinds = {path: scene.kind for path, scene in library.truth.items()} or None
    with show_progress("clips") as progress:
        windows = embed_windows(model, held_out, progress=progress)
    try:
        with show_progress("clips of the baseline") as progress:
            ridge = fit_ridge(model, stores["learn"], progress=progress)
    except StoreError as error:  # too few clips; the rest can be measured without
        say(f"  {error}")
        ridge = None
    retrieval = evaluate_retrieval(model, held_out, kinds=kinds, ridge=ridge, windows=windows)
    for name in ("audio_to_visual", "visual_to_audio"):
        found = getattr(retrieval, name)
        linear = "" if found.ridge_r1 is None else f", linear {found.ridge_r1:.2f}"
        within = "" if found.within_kind_r1 is None else f", within its kind {found.within_kind_r1:.2f}"
        say(
            f"  {name.replace('_', ' ')}: R@1 {found.r1:.2f} of {retrieval.clips} clips"
            f" (chance {retrieval.chance_r1:.2f}{linear}{within})"
        )
    sync = evaluate_sync(model, held_out, truth=library.truth or None, ridge=ridge, windows=windows).to_dict()
    say(f"  sync: {sync['accuracy']:.2f} of frames find their window (chance {sync['chance']:.2f})")
    kinds_shown = [library.truth[clip["path"]].kind for clip in retrieval.clip_list] if library.truth else None
    similarity = pair_similarity(
        windows.audio, windows.visual, audio_counts=windows.counts, visual_counts=windows.counts
    )
    return Measured(retrieval=retrieval, similarity=similarity, sync=sync, kinds=kinds_shown)


def _localize(
    model: "Embedder",
    held_out: "Store",
    library: Library,
    settings: DemoSettings,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> Places:
    from lookhear.media.decode import read_clip
    from lookhear.report.figures import Located
    from lookhear.tasks.localization.evaluation import evaluate_localization
    from lookhear.tasks.localization.maps import heat_map

    if library.truth:
        with show_progress("events") as progress:
            result = evaluate_localization(model, held_out, library.truth, progress=progress)
        say(
            f"  IoU >= .5 in {result.ciou:.2f} of {result.frames} frames; "
            f"the hottest point is in the box in {result.pointing:.2f} (chance {result.chance:.2f})"
        )
        shown = [
            Located(picture=frame.picture, heat=frame.heat, box=frame.boxes[0], title=f"IoU {frame.overlap:.2f}")
            for frame in result.examples[: settings.shown_heat_maps]
        ]
        return Places(result=result, shown=shown)
    say(f"  not measured, only shown: {NO_TRUTH}")
    shown = []
    for path, at_seconds in _moments(held_out, library, settings.shown_heat_maps):
        try:
            heat = heat_map(model, path, at_seconds)
            frames = read_clip(path, frame_seconds=(at_seconds,), short_side=240).frames
        except MediaError as error:
            say(f"  {error}")
            continue
        if frames is not None and len(frames):
            shown.append(Located(picture=frames[0], heat=heat, title=f"{path.name}\n{at_seconds:.1f} s"))
    return Places(result=None, shown=shown)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in counts.items() if count)


# ---- what is asked of the index


def _search(
    model: "Embedder",
    held_out: "Store",
    library: Library,
    out: Path,
    workers: int,
    say: Callable[[str], None],
    show_progress: ShowProgress,
) -> list[Question]:
    """Queries cut from files of the library, re-encoded: by sound, picture and clip, and one across the senses."""
    from lookhear.search.crawl import index
    from lookhear.search.index import Index

    with show_progress("files") as progress:
        crawled = index([library.folder], model=model, index_path=out / "index", workers=workers, progress=progress)
    say(f"  files: {_counts(crawled.counts)}; {crawled.moments} moments")
    opened = Index(out / "index", model=model)
    asked = (
        ("sound", "both", "What else sounds like this?"),
        ("picture", "both", "What else looks like this?"),
        ("clip", "both", "What else looks and sounds like this?"),
        ("sound", "picture", "What looks as if it made this sound?"),
    )
    questions: list[Question] = []
    moments = itertools.cycle(_moments(held_out, library, len(asked)))
    for (form, within, words), (path, at_seconds) in zip(asked, moments, strict=False):
        query = _cut_query(path, at_seconds, form, out / "queries" / str(len(questions) + 1))
        if query is None:
            continue
        hits = opened.search(**{form: query}, within=within, top=5)  # type: ignore[arg-type]
        command = ["lookhear", "search", "--index", str(out / "index"), f"--{form}", str(query)]
        command += [] if within == "both" else ["--in", within]
        question = Question(
            asked=words, command=shlex.join(command), source=str(path), at_seconds=at_seconds, hits=hits
        )
        questions.append(question)
        say(f"  {words} (asked by {form}, cut from {path.name} at {at_seconds:.1f} s)")
        say(f"  $ {question.command}")
        for hit in hits[:3]:
            say(f"    {Path(hit.path).name}  {hit.start_seconds:.1f}-{hit.end_seconds:.1f} s  score {hit.score:.2f}")
    return questions


def _cut_query(path: Path, at_seconds: float, form: str, target: Path) -> Path | None:
    """Two seconds of `path` around a time as a file, `target` with a suffix; None where nothing can be read there."""
    from PIL import Image

    from lookhear.media.decode import read_clip
    from lookhear.media.encode import write_sound, write_video

    start = max(at_seconds - 1.0, 0.0)
    try:
        cut = read_clip(path, start_seconds=start, end_seconds=start + 2.0, frames_per_second=12.5, short_side=480)
    except MediaError:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    if form == "sound" and cut.waveform is not None:
        query = target.with_suffix(".wav")
        write_sound(query, cut.waveform, cut.sample_rate)
    elif form == "picture" and cut.frames is not None and len(cut.frames):
        query = target.with_suffix(".jpg")
        middle = int(np.abs(cut.frame_seconds - at_seconds).argmin())
        Image.fromarray(cut.frames[middle].transpose(1, 2, 0)).save(query, quality=80)
    elif form == "clip" and cut.frames is not None and len(cut.frames):
        query = target.with_suffix(".mp4")
        rows, columns = (side // 2 * 2 for side in cut.frames.shape[2:])  # H.264 wants even sides
        pictures = cut.frames[:, :, :rows, :columns].transpose(0, 2, 3, 1)
        write_video(query, frames=iter(pictures), frames_per_second=12.5, waveform=cut.waveform)
    else:
        return None
    return query


def _moments(held_out: "Store", library: Library, count: int) -> list[tuple[Path, float]]:
    """Clips spread over the held-out ones, each with the time of an event (or its middle, without truth)."""
    usable = [clip for clip in held_out.clips if clip.has_sound and clip.has_picture]
    chosen = [usable[i] for i in np.unique(np.linspace(0, len(usable) - 1, count).astype(int))] if usable else []
    moments = []
    for clip in chosen:
        path = Path(clip.path) if Path(clip.path).is_absolute() else library.folder / clip.path
        events = library.truth[clip.path].event_seconds if clip.path in library.truth else ()
        moments.append((path, events[len(events) // 2] if events else (clip.start_seconds + clip.end_seconds) / 2))
    return moments


# ---- what is written down


def _figures(measured: Measured, found: "LocalizationResult | None") -> dict[str, Any]:
    from lookhear import __version__

    unknown: dict[str, Any] = {"ciou": None, "pointing": None, "chance": None, "reason": NO_TRUTH}
    figures: dict[str, Any] = {
        "lookhear": __version__,
        "retrieval": _without_lists(measured.retrieval.to_dict()),
        "sync": _without_lists(measured.sync),
        "localization": _without_lists(found.to_dict()) if found else unknown,
    }
    if not measured.kinds:
        figures["retrieval"]["reason"] = f"figures within a kind are null: {NO_TRUTH}"
        figures["sync"]["reason"] = f"windows with and without an event are not told apart: {NO_TRUTH}"
    elif measured.retrieval.audio_to_visual.within_kind_r1 is None:
        figures["retrieval"]["reason"] = "figures within a kind are null: no kind has two held-out clips"
    return figures


def _without_lists(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the clip by clip lists, which `lookhear evaluate` prints."""
    return {name: value for name, value in record.items() if name not in ("clip_list", "left_out")}


def _command(out: Path, media: Path | None, settings: DemoSettings) -> str:
    words = ["lookhear", "demo", "--out", str(out), *(["--media", str(media)] if media else [])]
    for setting in dataclasses.fields(settings):
        value = getattr(settings, setting.name)
        if value != setting.default:
            words += ["--set", f"{setting.name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)
