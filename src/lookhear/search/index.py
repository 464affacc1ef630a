"""`Index`: the moments of a library on disk, and the model that made them.

    lookhear.index/    or a place in a bucket (`bucket.py`)
      index.json       format, model, fingerprint, preprocessing, window, hop, libraries, tables: one atomic file
      index.next.json  the same of an index by another model that is being made beside it
      writing.lock     held by the process that writes (`lease.py`)
      tables-ID/       LanceDB: `files`, a row for every media file found; `moments`, a row for every model window

A file's id is the sha256 of its bytes, and moments belong to an id, not to a path: a renamed or copied file needs no
decoding. Moments are written before the rows that name their id, and a row changes in one commit, so whatever is
killed, every row that is there has all its moments. Moments that no row names are invisible, and the next writer
deletes them. Tables are replaced as a whole (by those of another model, or to take every trace of a file off the disk)
by writing index.json with the name of the new ones; an `Index` that is open notices.
"""

import contextlib
import functools
import logging
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lookhear.config import to_dict
from lookhear.errors import IndexStateError
from lookhear.search.approximate import make_approximate, near_library
from lookhear.search.bucket import Place, drop_kept, kept_folders, place_of
from lookhear.search.facts import (
    FORMAT,
    IndexFacts,
    drop_next,
    drop_strays,
    drop_tables,
    has_next,
    is_index,
    make_place,
    new_tables,
    read_facts,
    switch_to_next,
    write_facts,
)
from lookhear.search.labelled import check_label, from_text
from lookhear.search.large import AnyLibrary, Calibrations, scanned_library
from lookhear.search.lease import LASTING, Right, right_to_write
from lookhear.search.library import LIKENESS, LibraryFile
from lookhear.search.status import IndexStatus, index_status
from lookhear.search.tables import NEIGHBOURS_WIDTH, FileRow, MomentRows, Tables

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.search.examples import Media, Moment, Request
    from lookhear.search.filters import Where
    from lookhear.search.query import Hit, Within

# Up to so many moments the vectors of an index are held in memory.
IN_MEMORY_MOMENTS = 20_000
_GROWTH = 1.5

__all__ = ["FileRow", "Index", "IndexStatus", "MomentRows", "create_index", "create_index_beside"]

T = TypeVar("T")
# Shown on stderr without any setting up, from Python too.
_log = logging.getLogger("lookhear")


class Index:
    """An index that exists; `create_index` makes one. Opening it reads index.json only.

    Raises IndexStateError where there is no index, or one of a newer format.
    """

    def __init__(
        self, path: str | Place, *, model: "str | Path | Embedder | None" = None, is_next: bool = False
    ) -> None:
        """`model` is used for queries; without it the checkpoint that index.json names.

        `is_next` is the index that is being made beside it (`create_index_beside`).
        """
        self.path = place_of(path)
        self.facts = read_facts(self.path, is_next=is_next)
        self._is_next = is_next
        self._model = model
        self._embedder: Embedder | None = None
        self._tables = self._tables_of(self.facts)
        self._library: tuple[tuple[Any, ...], AnyLibrary] | None = None
        self._calibrations = Calibrations()
        self._lock = threading.Lock()  # of facts and tables
        self._reading = threading.Lock()  # of the library: a large one takes seconds, for which nobody else must wait
        self.right: Right = LASTING  # to write, of `writing`; an index that is made beside another has that one's

    # ---- reading

    def files(self) -> list[FileRow]:
        """All rows, in the order of library and path."""
        return self._tables.files()

    def version(self) -> tuple[str, int, int]:
        """Another one after every change that any process made."""
        return self._steadily(lambda: (self.facts.tables, *self._tables.version()))

    def status(self) -> IndexStatus:
        """Counts and rows as they are now."""
        files = self._steadily(self.files)
        return index_status(str(self.path), self.facts, files)

    def refresh(self) -> None:
        """Follows index.json: another process may have added libraries or replaced the tables."""
        facts = read_facts(self.path, is_next=self._is_next)
        with self._lock:
            before, self.facts = self.facts, facts
            if facts.tables != before.tables:
                self._tables = self._tables_of(facts)
            if facts.fingerprint != before.fingerprint:
                # A model that was given for the index of before is not the model of this one.
                self._embedder = self._model = None

    def library(self) -> AnyLibrary:
        """All moments, of more than `IN_MEMORY_MOMENTS` without their vectors; read again when the tables change."""
        return self._steadily(self._current_library)

    def _steadily(self, read: Callable[[], T]) -> T:
        """What `read` finds in tables that are not replaced meanwhile."""
        self.refresh()
        while True:
            tables = self._tables
            try:
                found = read()
            except IndexStateError:
                self.refresh()
                if self._tables is tables:
                    raise
            else:
                self.refresh()  # new tables that were given up just before they were opened look empty
                if self._tables is tables:
                    return found

    def _current_library(self) -> AnyLibrary:
        with self._reading:
            with self._lock:
                facts, tables = self.facts, self._tables
            version = (facts.tables, facts.approximate, tables.version())
            if self._library is None or self._library[0] != version:
                self._library = (version, self._read_library(facts, tables))
                self._calibrations = Calibrations()
            return self._library[1]

    def search(
        self,
        *,
        sound: "Media" = None,
        picture: "Media" = None,
        clip: "Media" = None,
        like: "Moment" = None,
        not_sound: "Media" = None,
        not_picture: "Media" = None,
        not_clip: "Media" = None,
        not_like: "Moment" = None,
        within: "Within" = "both",
        balance: float = 0.5,
        likeness: float = LIKENESS,
        where: "Where | None" = None,
        top: int = 10,
        page: int = 1,
        at_least: float | None = None,
    ) -> "list[Hit]":
        """The moments that match the examples best, best first: `request`, then `find`.

        What had to be cut off a query is said in a warning. Raises MediaError for a query that cannot be read,
        IndexStateError for a moment that the index does not have, or where its model has changed.
        """
        request = self.request(
            sound=sound,
            picture=picture,
            clip=clip,
            like=like,
            not_sound=not_sound,
            not_picture=not_picture,
            not_clip=not_clip,
            not_like=not_like,
        )
        for note in request.notes:
            warnings.warn(note, stacklevel=2)
        return self.find(
            request,
            within=within,
            balance=balance,
            likeness=likeness,
            where=where,
            top=top,
            page=page,
            at_least=at_least,
        )

    def request(
        self,
        *,
        sound: "Media" = None,
        picture: "Media" = None,
        clip: "Media" = None,
        like: "Moment" = None,
        not_sound: "Media" = None,
        not_picture: "Media" = None,
        not_clip: "Media" = None,
        not_like: "Moment" = None,
    ) -> "Request":
        """What is looked for, ready to be found in one page after another.

        Each is a file or several: sounds, pictures, clips (sound and picture together), and `like` moments of indexed
        files (`"FILE@12.5"`, `"FILE@12.5-14"` or a `Hit`), whose stored vectors are used. The `not_` ones are
        counter-examples. Raises as `search` does.
        """
        from lookhear.search.examples import make_request

        self.refresh()
        return make_request(
            self.embedder,
            self.library,
            self.facts,
            {"sound": sound, "picture": picture, "clip": clip, "like": like},
            {"sound": not_sound, "picture": not_picture, "clip": not_clip, "like": not_like},
        )

    def find(
        self,
        request: "Request",
        *,
        within: "Within" = "both",
        balance: float = 0.5,
        likeness: float = LIKENESS,
        where: "Where | None" = None,
        top: int = 10,
        page: int = 1,
        at_least: float | None = None,
    ) -> "list[Hit]":
        """Page number `page` (from 1) of `top` hits each, best first; none where no hit's score is `at_least`.

        `within` says what of the library is compared, `balance` how much its sound counts beside its pictures, and
        `likeness` how much looks count beside meaning (`query.find_moments`), `where` which of its files. Raises
        IndexStateError where the model of the index is no longer the one that made the request, and for a label that
        nothing has.
        """
        from lookhear.search.large import find_hits
        from lookhear.search.query import Terms

        terms = Terms(
            examples=request.examples,
            against=request.counter_examples,
            within=within,
            balance=balance,
            likeness=likeness,
            where=where,
            top=top,
            page=page,
            at_least=at_least,
        )

        def found() -> "list[Hit]":
            if request.fingerprint != self.facts.fingerprint:
                raise IndexStateError(
                    f"{self.path} is now of another model than this request was made with; make it again"
                )
            library = self._current_library()
            if where is not None and where.label is not None:  # else it would look like a library without the sound
                check_label(where.label, [file.labels for file in library.files], self.path)
            return find_hits(library, terms, functools.partial(self._calibrations.of, library, likeness))

        return self._steadily(found)

    def embedder(self) -> "Embedder":
        """The model of this index, loaded when first asked for."""
        from lookhear.embedder import loaded_model

        if self._embedder is None:
            model = self.named_model()
            embedder = loaded_model(model)
            self.check_model(embedder)
            self._embedder = embedder
        return self._embedder

    def named_model(self) -> "str | Path | Embedder":
        """The model of this index as it was given, or the checkpoint that index.json names; not loaded yet."""
        model = self.facts.model if self._model is None else self._model
        if model == "":
            raise IndexStateError(
                f"{self.path} was made by a model in memory, so it names no checkpoint; "
                "say which model made it with model= (--model): its Embedder, or a checkpoint of it"
            )
        if self._model is None and not Path(self.facts.model).exists():
            raise IndexStateError(
                f"{self.path} was made by the model {model}, which is no longer there; "
                "put it back, say with --model where it is now, or run `lookhear index` with --model and its new "
                "place, which is remembered"
            )
        return model

    def check_model(self, embedder: "Embedder") -> None:
        """Raises IndexStateError if another model made this index."""
        ours, theirs = self.facts.fingerprint, embedder.fingerprint
        if ours != theirs:
            raise IndexStateError(
                f"{self.path} was made by another model: its vectors have the fingerprint {ours[:12]} "
                f"({self.facts.model}), this model has {theirs[:12]}; use the model that made it, "
                "make another index (--index DIR) with this one, or with --beside one that replaces it when it is done"
            )

    def _read_library(self, facts: IndexFacts, tables: Tables) -> AnyLibrary:
        # The rows first: their moments were there before them.
        by_id: dict[str, list[FileRow]] = {}
        for row in tables.files():
            if row.file_id and row.num_moments:
                by_id.setdefault(row.file_id, []).append(row)
        contents = []
        for file_id, rows in by_id.items():
            rows.sort(key=lambda row: row.full_path)
            first, *copies = (row.full_path for row in rows)
            contents.append(
                LibraryFile(
                    file_id=file_id,
                    path=first,
                    copies=tuple(copies),
                    status=rows[0].status,
                    seconds=rows[0].seconds,
                    modified=tuple(row.mtime_ns / 1e9 for row in rows),
                    labels=from_text(rows[0].labels),
                )
            )
        contents.sort(key=lambda content: content.path)
        about: dict[str, Any] = {
            name: getattr(facts, name) for name in ("window_seconds", "hop_seconds", "plain_width")
        }
        if sum(rows[0].num_moments for rows in by_id.values()) <= IN_MEMORY_MOMENTS:
            return tables.library(tuple(contents), **about)
        if facts.approximate is not None:
            return near_library(tuple(contents), tables.snapshot(), facts.approximate, **about)
        return scanned_library(tuple(contents), tables.snapshot(), kept_folders(self.path, facts.tables), **about)

    def _tables_of(self, facts: IndexFacts, *, is_new: bool = False) -> Tables:
        # A crawl makes the tables before it names its folders.
        return Tables(self.path / facts.tables, facts.vector_width, is_new=is_new or not facts.libraries)

    # ---- writing; only inside `with index.writing()`

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Holds the right to write, which ends with the process at the latest, and clears what a killed writer left.

        Raises IndexStateError while another process has it.
        """
        with right_to_write(self.path) as self.right:
            drop_strays(self.path)
            self.refresh()
            self.remove_orphans()
            yield

    @property
    def _writable(self) -> Tables:
        self.right.check()
        return self._tables

    def keep_libraries(self, folders: Iterable[str]) -> None:
        """Remembers these folders and no others."""
        libraries = tuple(sorted(set(folders)))
        if libraries != self.facts.libraries:
            self._change(libraries=libraries)

    def record_model(self, path: Path) -> None:
        """Remembers where the checkpoint is now."""
        place = str(path.resolve())
        if place != self.facts.model:
            self._change(model=place)

    def _change(self, **changes: Any) -> None:
        self.right.check()
        self.facts = replace(self.facts, **changes)
        write_facts(self.path, self.facts, is_next=self._is_next)

    def write(self, rows: Sequence[FileRow], moments: Sequence[MomentRows] = ()) -> None:
        """Adds moments, then adds or replaces rows (by library and path) in one commit."""
        self._writable.add_moments([part for part in moments if len(part.start_seconds)])
        if rows:
            self._writable.put_files(rows)

    def drop_moments(self, file_ids: Sequence[str]) -> None:
        """Deletes the moments of contents that no row names yet."""
        self._writable.delete_moments(file_ids)

    def remove_files(self, rows: Sequence[FileRow]) -> None:
        """Deletes rows; moments that no other row names go with `remove_orphans`."""
        self._writable.delete_files(rows)

    def remove_orphans(self) -> None:
        """Deletes the moments that no row names."""
        named = {row.file_id for row in self.files() if row.num_moments}
        self._writable.delete_moments(sorted(self._tables.moment_file_ids() - named))

    def keep_up(self, exact_moments: int, *, tell: Callable[[str], None] = lambda _: None) -> None:
        """Makes the index of neighbours where there are more moments than `exact_moments`, which it remembers, again
        once they are half as many more than when it was made, and drops it where there are fewer."""
        if exact_moments != self.facts.exact_moments:
            self._change(exact_moments=exact_moments)
        known, moments = self.facts.approximate, len(self._tables.snapshot())
        if moments <= exact_moments:
            if known is not None:
                self._change(approximate=None)
                self._tables.drop_neighbours()
        elif self.facts.vector_width % NEIGHBOURS_WIDTH:
            _log.warning(
                "%s has %d moments and is still searched exactly, which takes longer: an index of neighbours needs "
                "vectors whose width is a multiple of %d, and these have %d; use a model of another width, or a higher "
                "limit (--exact-moments)",
                self.path,
                moments,
                NEIGHBOURS_WIDTH,
                self.facts.vector_width,
            )
        elif known is None or moments > _GROWTH * known.moments:
            made = make_approximate(self._tables, plain_width=self.facts.plain_width, tell=tell)
            self._change(approximate=made)

    def compact(self) -> None:
        """Joins small fragments and drops versions that nobody can still be reading."""
        self._writable.compact()

    def erase(self, rows: Sequence[FileRow], folders: Iterable[str] = ()) -> None:
        """Takes rows and what only they name off the disk, and forgets folders: the other rows are copied into new
        tables, which take the place of the old ones in one step. An index of neighbours is made anew of them before.

        Another process that is reading must open the old tables anew; an `Index` does so with its next search.
        """
        old = self.facts.tables
        gone = set(folders)
        libraries = tuple(name for name in self.facts.libraries if name not in gone)
        facts = replace(self.facts, tables=new_tables(), libraries=libraries)
        new = self._tables_of(facts, is_new=True)
        erased = {(row.library, row.path) for row in rows}
        self._tables.copy_to(new, [row for row in self.files() if (row.library, row.path) not in erased])
        if facts.approximate is not None:
            facts = replace(facts, approximate=make_approximate(new, plain_width=facts.plain_width))
        self.right.check()
        write_facts(self.path, facts, is_next=self._is_next)
        self.refresh()
        drop_tables(self.path, old)
        drop_kept(self.path, old)

    def switch(self) -> None:
        """Puts this index, which was made beside another, in the place of that one, whose tables are deleted."""
        self.right.check()
        switch_to_next(self.path)
        self._is_next = False
        drop_strays(self.path)


def create_index(place: str | Place, embedder: "Embedder", *, hop_seconds: float | None = None) -> Index:
    """A new, empty index for one model; `hop_seconds` None is half a window.

    Raises IndexStateError if something lies at `place` already, or it cannot be written.
    """
    path = place_of(place)
    facts = _new_facts(embedder, hop_seconds)
    make_place(path)
    with right_to_write(path):
        if is_index(path):
            raise IndexStateError(f"another process has just made an index at {path}; run the same command again")
        write_facts(path, facts)
    return Index(path, model=embedder)


def create_index_beside(place: str | Place, embedder: "Embedder", *, hop_seconds: float | None = None) -> Index:
    """An index by another model inside the folder of one that exists; `Index.switch` puts it in its place.

    One that was begun with the same model and hop goes on, another one is given up. Only inside `writing` of the one
    that exists.
    """
    path = place_of(place)
    facts = _new_facts(embedder, hop_seconds)
    if has_next(path):
        begun = read_facts(path, is_next=True)
        same = (facts.fingerprint, facts.hop_seconds) == (begun.fingerprint, begun.hop_seconds)
        if same:
            return Index(path, model=embedder, is_next=True)
        drop_next(path)
    write_facts(path, facts, is_next=True)
    return Index(path, model=embedder, is_next=True)


def _new_facts(embedder: "Embedder", hop_seconds: float | None) -> IndexFacts:
    from lookhear.search.likeness import PLAIN_WIDTH

    config = embedder.preprocess.config
    hop = config.window_seconds / 2 if hop_seconds is None else hop_seconds
    if not 0.0 < hop <= config.window_seconds:
        raise IndexStateError(
            f"a hop of {hop:g} s is not possible; it must be above 0 "
            f"and at most one window, {config.window_seconds:g} s"
        )
    return IndexFacts(
        format=FORMAT,
        model=str(embedder.path.resolve()) if embedder.path is not None else "",
        fingerprint=embedder.fingerprint,
        preprocess=to_dict(config),
        window_seconds=config.window_seconds,
        hop_seconds=hop,
        embedding_width=embedder.embedding_width,
        plain_width=PLAIN_WIDTH,
        tables=new_tables(),
    )
