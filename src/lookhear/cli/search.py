"""Archives: index, label, forget, search, status."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lookhear.cli.arguments import IndexPlace, bytes_of
from lookhear.cli.signals import stop_on_signals
from lookhear.config import to_dict
from lookhear.console import ProgressLines, print_record, print_rows, say, show_progress
from lookhear.errors import IndexStateError, UserError

if TYPE_CHECKING:
    from lookhear.search.filters import Where
    from lookhear.search.index import Index
    from lookhear.search.query import Hit


@dataclass(frozen=True, kw_only=True)
class IndexFolders:
    """Make or update a search index of folders. Only new and changed files are read."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """One folder or several; without any those that the index has, which --beside takes in any case."""
    model: str | None = None
    """A checkpoint or a run folder. An index remembers its model."""
    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    beside: bool = False
    """Make an index of another --model or --hop beside the one that exists, which it replaces when it is complete."""
    hop: float | None = None
    """Seconds from a moment to the next, when the index is made; half a window if not given."""
    workers: int = 2
    """How many decoding processes."""
    time_limit: float = 300.0
    """Seconds that decoding a stretch of two minutes may take."""
    memory_limit: float = 2.0
    """GiB that a decoding process may hold."""
    retry_refused: bool = False
    """Try refused files again, after the limits were raised or another cause was mended. Not partial ones."""
    settle: float | None = None
    """A file that was changed within so many seconds is left for the next crawl. 5 with --watch, else 0."""
    exact_moments: int | None = None
    """Up to so many moments searches are exact; beyond, an index of neighbours is made and its recall measured. An
    index remembers it; a million at first."""
    watch: bool = False
    """Go on looking for new, changed and deleted files, until Ctrl-C or SIGTERM."""
    every: float = 10.0
    """Seconds from one look of --watch to the next."""
    json: bool = False
    """Print the summary as JSON; with --watch a line for every crawl."""

    def run(self) -> int:
        """Crawls and prints what became of the files."""
        if self.watch:
            return self._watch()
        from lookhear.search.crawl import index

        with show_progress("files") as progress:
            summary = index(
                self.folders,
                model=self.model,
                index_path=self.index,
                beside=self.beside,
                workers=self.workers,
                hop_seconds=self.hop,
                time_limit_seconds=self.time_limit,
                memory_limit_bytes=bytes_of(self.memory_limit, 2**30, "--memory-limit"),
                retry_refused=self.retry_refused,
                settle_seconds=self.settle or 0.0,
                exact_moments=self.exact_moments,
                progress=progress,
            )
        print_record(to_dict(summary), as_json=self.json)
        return 0

    def _watch(self) -> int:
        from lookhear.search.crawl import CrawlOptions
        from lookhear.search.watch import SETTLE_SECONDS, watch

        if self.beside:
            raise IndexStateError("--beside ends when the new index is complete; run --watch after it")
        options = CrawlOptions(
            workers=self.workers,
            time_limit_seconds=self.time_limit,
            memory_limit_bytes=bytes_of(self.memory_limit, 2**30, "--memory-limit"),
            retry_refused=self.retry_refused,
            settle_seconds=SETTLE_SECONDS if self.settle is None else self.settle,
            exact_moments=self.exact_moments,
        )
        say(f"lookhear: watching, a look every {self.every:g} s, until Ctrl-C or SIGTERM")
        with stop_on_signals() as stop:
            watch(
                self.folders,
                stop=stop.event,
                report=lambda summary: print_record(to_dict(summary), as_json=self.json, is_one_of_many=True),
                complain=say,
                model=self.model,
                index_path=self.index,
                hop_seconds=self.hop,
                every_seconds=self.every,
                options=options,
                progress=ProgressLines("files"),
            )
        say("lookhear: stopped watching; what was complete is in the index")
        return stop.exit_code


@dataclass(frozen=True, kw_only=True)
class Forget:
    """Take all traces of files or folders out of an index. The files themselves stay."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Files or folders; they need not exist any more."""
    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Forgets, and prints how much."""
        from lookhear.search.forget import forget

        print_record(to_dict(forget(self.paths, index_path=self.index)), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Label:
    """Name what is heard and seen in the files of an index, with a fine-tuned checkpoint. Then `search --label`."""

    model: tyro.conf.Positional[str]
    """A fine-tuned checkpoint or a run folder; it need not be the model of the index."""
    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    top: int = 3
    """How many labels a window may have."""
    threshold: float = 0.25
    """Probability that a label must reach."""
    classes: Path | None = None
    """A label CSV as published (index,mid,display_name), for checkpoints that do not name their classes."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Labels what is not labelled yet and prints how much."""
        from lookhear.data.lists import read_classes
        from lookhear.search.labels import label

        with show_progress("files") as progress:
            summary = label(
                self.model,
                index_path=self.index,
                top=self.top,
                threshold=self.threshold,
                classes=read_classes(self.classes).names if self.classes else None,
                progress=progress,
            )
        print_record(to_dict(summary), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Find moments by sounds, pictures, clips or moments of the index. Prints file, start, end, score, what matched."""

    sound: tuple[Path, ...] = ()
    """Files with sound: where else does this sound, or where does it look like this? Several are one question."""
    picture: tuple[Path, ...] = ()
    """Pictures: where else does it look like this, or where does it sound like this?"""
    clip: tuple[Path, ...] = ()
    """Videos: sound and picture together."""
    like: tuple[str, ...] = ()
    """Moments of indexed files, FILE@SECONDS or FILE@START-END: where else is it like there?"""
    not_sound: tuple[Path, ...] = ()
    """Counter-examples: what is more like these than like the examples is no hit."""
    not_picture: tuple[Path, ...] = ()
    """Counter-examples that are pictures."""
    not_clip: tuple[Path, ...] = ()
    """Counter-examples that are videos."""
    not_like: tuple[str, ...] = ()
    """Counter-examples that are moments of indexed files."""
    label: str | None = None
    """The name of an event, asked alone: where did the classifier of `lookhear label` find it?"""
    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    model: str | None = None
    """The checkpoint that made the index, where it does not lie as it did on the machine that made it."""
    within: Annotated[Literal["sound", "picture", "both"], tyro.conf.arg(name="in")] = "both"
    """What of the library is compared: its sound, its pictures, or both."""
    balance: float = 0.5
    """Where both are compared, how much sound counts: 1 is sound only, 0 is picture only."""
    likeness: float = 0.9
    """Sound with sound, picture with picture: 1 finds this very shot, 0 what the model takes for the same."""
    folder: Path | None = None
    """Only files below this folder."""
    name: str | None = None
    """Only files that are named so, as '*.mov' or, with a slash, whose path is so, as '*/2024/*'."""
    after: str | None = None
    """Only files last changed on this day (2026-01-31) or later."""
    before: str | None = None
    """Only files last changed before this day."""
    longer: float | None = None
    """Only files of at least so many seconds."""
    shorter: float | None = None
    """Only files of less than so many seconds."""
    status: tuple[Literal["ok", "sound_only", "picture_only", "partial"], ...] = ()
    """Only files of these kinds."""
    labelled: str | None = None
    """Only moments to which the classifier of `lookhear label` gave this label."""
    top: int = 10
    """How many hits a page has."""
    page: int = 1
    """Which page of hits."""
    at_least: float | None = None
    """Only hits with this score; without one, nothing is printed and the exit code is 0 all the same."""
    json: bool = False
    """Print the hits as JSON, as --format json does."""
    format: Literal["tsv", "json", "csv", "m3u", "edl", "otio"] = "tsv"
    """A table, a playlist, or a timeline for an editing program (CMX3600, OpenTimelineIO)."""
    out: Path | None = None
    """A file for the hits, instead of printing them."""
    cut: Path | None = None
    """A new folder for a clip of every hit, packets as they are: it begins at the keyframe before, and says where."""
    exact: bool = False
    """Encode the clips of --cut anew, so that they begin exactly where the moment does."""
    sheet: Path | None = None
    """A PNG file for a contact sheet: a frame of every hit, with file, time and score."""

    def run(self) -> int:
        """Searches and prints the hits, best first, or writes them. 1 where a clip of --cut was left out."""
        from lookhear.cli.handover import give_clips, give_hits, give_sheet
        from lookhear.search.cut import check_clip_folder
        from lookhear.search.export import check_new_file
        from lookhear.search.index import Index

        if self.json and self.format not in ("tsv", "json"):
            raise UserError(f"--json and --format {self.format} are two formats; leave one of them out")
        if self.exact and self.cut is None:
            raise UserError("--exact says how clips are cut; name a folder for them with --cut")
        index = Index(self.index, model=self.model)
        libraries = index.facts.libraries
        if self.sheet is not None and self.sheet.suffix.lower() != ".png":
            raise UserError(f"{self.sheet}: a contact sheet is a PNG; name a file such as {self.sheet.stem}.png")
        for file in (self.out, self.sheet):  # before the search, which takes longer
            if file is not None:
                check_new_file(file)
        if self.cut is not None:
            check_clip_folder(self.cut, libraries)
        hits = self.hits(index) if self.label is None else self._hits_by_label(index, self.label)
        give_hits(hits, format="json" if self.json else self.format, file=self.out)
        all_cut = True
        if self.cut is not None and hits:
            all_cut = give_clips(hits, self.cut, exact=self.exact, libraries=libraries)
        if self.sheet is not None and hits:
            give_sheet(hits, self.sheet)
        return 0 if all_cut else 1

    def _hits_by_label(self, index: "Index", name: str) -> "list[Hit]":
        from lookhear.search.labels import find_label

        examples = (self.sound, self.picture, self.clip, self.like)
        counter_examples = (self.not_sound, self.not_picture, self.not_clip, self.not_like)
        if any((*examples, *counter_examples)):
            raise UserError("--label is asked alone; with examples, --labelled NAME leaves out what has no such label")
        if (self.within, self.balance, self.likeness) != (Search.within, Search.balance, Search.likeness):
            raise UserError("--in, --balance and --likeness say how examples are compared, which --label has none of")
        where = self._where()
        hits = find_label(index, name, where=where, top=self.top, page=self.page, at_least=self.at_least)
        if not hits:
            first = (self.page - 1) * self.top + 1  # the rank of the first hit of the page
            best = find_label(index, name, where=where, top=1, page=first) if self.at_least is not None else []
            nothing = f"no stretch that was labelled '{name}'{where.and_passes}"
            self._say_nothing(best, of=f"stretch that was labelled '{name}'", nothing=nothing)
        return hits

    def _say_nothing(self, below: "list[Hit]", *, of: str, nothing: str) -> None:
        """Why there are no hits. `below`: what there is without --at-least, the best first."""
        if below:
            best = f"the best of page {self.page} has {below[0].score:.2f}"
            say(f"nothing here: no {of} reaches {self.at_least:g}, {best}")
        elif self.page > 1:
            say(f"nothing here: there is no page {self.page}")
        else:
            say(f"nothing here: {nothing}")

    def hits(self, index: "Index") -> "list[Hit]":
        """The hits; where there are none, says so, and what was left out of a query."""
        request = index.request(
            sound=self.sound,
            picture=self.picture,
            clip=self.clip,
            like=self.like,
            not_sound=self.not_sound,
            not_picture=self.not_picture,
            not_clip=self.not_clip,
            not_like=self.not_like,
        )
        for note in request.notes:
            say(f"lookhear: {note}")
        where, page = self._where(), self.page

        def find(at_least: float | None) -> "list[Hit]":
            return index.find(
                request,
                within=self.within,
                balance=self.balance,
                likeness=self.likeness,
                where=where,
                top=self.top,
                page=page,
                at_least=at_least,
            )

        hits = find(self.at_least)
        if index.facts.approximate is not None:
            say(f"approximate search: {index.facts.approximate.recall}")
        if not hits:
            below = find(None) if self.at_least is not None else []
            nothing = f"the index has no moment that can be compared{where.and_passes}"
            self._say_nothing(below, of="moment", nothing=nothing)
        return hits

    def _where(self) -> "Where":
        from lookhear.search.filters import Where, read_date

        return Where(
            folder=self.folder,
            name=self.name,
            after=None if self.after is None else read_date(self.after),
            before=None if self.before is None else read_date(self.before),
            longer_seconds=self.longer,
            shorter_seconds=self.shorter,
            status=self.status,
            label=self.labelled,
        )


@dataclass(frozen=True, kw_only=True)
class Status:
    """What an index holds: files by status, moments, its model, and the files that were skipped and why."""

    index: IndexPlace = "lookhear.index"
    """Where the index lies: a folder, or s3://BUCKET/FOLDER."""
    files: bool = False
    """Print a line for every file instead of the summary."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Prints the state of the index."""
        from lookhear.search.index import Index

        status = Index(self.index).status()
        if self.files and not self.json:
            # whole paths, as other verbs take them: two libraries may hold files of the same name
            print_rows([(row.full_path, row.status, row.reason) for row in status.files])
        else:
            record = to_dict(status)
            if not self.files:
                del record["files"]
            print_record(record, as_json=self.json)
