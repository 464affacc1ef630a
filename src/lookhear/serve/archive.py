"""`Archive`: an index as many ask it at one time: its files, its status, and searches by examples that it remembers."""

import datetime
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lookhear
from lookhear.embedder import Embedder
from lookhear.errors import IndexStateError, UserError
from lookhear.media.info import MediaInfo
from lookhear.search.calibration import chance_score
from lookhear.search.examples import MAX_QUERY_SECONDS, Request, moment_query
from lookhear.search.export import FORMATS, Skipped
from lookhear.search.filters import Where
from lookhear.search.index import Index
from lookhear.search.labelled import from_text, labels_between
from lookhear.search.labels import find_label
from lookhear.search.query import Hit, Phase, Query
from lookhear.search.survey import WAITING
from lookhear.search.tables import FileRow
from lookhear.serve import schemas
from lookhear.serve.catalogue import Catalogue, Order, UnknownFileError, shown
from lookhear.serve.previews import plays
from lookhear.serve.settings import ServeSettings
from lookhear.serve.uploads import Example, Examples

# Days that every system can count in seconds.
_FIRST_DAY, _LAST_DAY = datetime.date(1970, 1, 2), datetime.date(9000, 1, 1)


class StaleExampleError(UserError):
    """An example of another model than the index now has."""


@dataclass(frozen=True, kw_only=True)
class ChosenHits:
    """What is to be exported, and what cannot be, for its file has been forgotten since it was chosen."""

    hits: tuple[Hit, ...]
    forgotten: tuple[Skipped, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Page:
    hits: tuple[Hit, ...]
    has_more: bool
    best_score: float | None


class Archive:
    """An index that is asked from several threads, while other processes may write to it."""

    def __init__(self, index_path: str | Path, settings: ServeSettings, *, model: str | Embedder | None = None) -> None:
        self.index = Index(index_path, model=model)
        self.settings = settings
        self.examples = Examples(settings)
        self._catalogue: Catalogue | None = None
        self._lock = threading.Lock()
        self._model_lock = threading.Lock()

    def catalogue(self) -> Catalogue:
        """All files as they are now; read again only when the index has changed."""
        version = self.index.version()
        with self._lock:
            if self._catalogue is None or self._catalogue.version != version:
                self._catalogue = self._read_catalogue(version)
            return self._catalogue

    def _read_catalogue(self, version: tuple[str, int, int]) -> Catalogue:
        try:
            rows = self.index.files()
        except IndexStateError:  # the tables were replaced by others while they were read
            version = self.index.version()
            rows = self.index.files()
        return Catalogue(version=version, libraries=self.index.facts.libraries, rows=tuple(rows))

    def embedder(self) -> Embedder:
        """The model of the index as it is now, loaded once."""
        with self._model_lock:
            self.index.refresh()
            return self.index.embedder()

    def status(self) -> schemas.Status:
        """What the index holds."""
        catalogue, facts, settings = self.catalogue(), self.index.facts, self.settings
        counts: dict[str, int] = {}
        for row in catalogue.rows:
            counts[row.status] = counts.get(row.status, 0) + 1
        return schemas.Status(
            lookhear=lookhear.__version__,
            generation=generation(catalogue),
            model=shown(facts.model),
            fingerprint=facts.fingerprint,
            window_seconds=facts.window_seconds,
            hop_seconds=facts.hop_seconds,
            libraries=tuple(map(shown, facts.libraries)),
            counts=dict(sorted(counts.items())),
            files=len(catalogue.rows),
            seconds=round(sum(row.seconds for row in catalogue.rows if row.status != "refused"), 3),
            moments=catalogue.num_moments,
            formats=FORMATS,
            limits=schemas.Limits(
                max_upload_bytes=settings.max_upload_bytes,
                max_query_seconds=MAX_QUERY_SECONDS,
                preview_seconds=settings.preview_seconds,
                max_cut_clips=settings.max_cut_clips,
                max_cut_seconds=settings.max_cut_seconds,
                max_cut_bytes=settings.max_cut_bytes,
            ),
        )

    def files(
        self,
        *,
        text: str,
        status: Sequence[str],
        library: str | None,
        order: Order,
        descending: bool,
        offset: int,
        limit: int,
    ) -> schemas.FilePage:
        """A part of the list of files."""
        catalogue = self.catalogue()
        page = catalogue.page(
            text=text,
            status=status,
            library=library,
            order=order,
            descending=descending,
            offset=offset,
            limit=limit,
        )
        return schemas.FilePage(
            rows=tuple(map(file_row, page.rows)), total=page.total, offset=offset, generation=generation(catalogue)
        )

    def folders(self) -> tuple[schemas.Folder, ...]:
        """Every folder below which there are files."""
        catalogue = self.catalogue()
        return tuple(
            schemas.Folder(path=name, files=catalogue.folders[folder])
            for name, folder in catalogue.shown_folders.items()
        )

    def labels(self) -> tuple[schemas.Label, ...]:
        """Every label that a moment has."""
        return tuple(schemas.Label(name=shown(name), moments=count) for name, count in self.catalogue().labels.items())

    def about(self, file_id: str, info: MediaInfo) -> schemas.FileAbout:
        """One file, with what a look into it showed."""
        first, *copies = self.catalogue().rows_of(file_id)
        video, audio = info.video, info.audio
        return schemas.FileAbout(
            row=file_row(first),
            copies=tuple(shown(str(row.full_path)) for row in copies),
            start_seconds=info.start_seconds,
            end_seconds=info.end_seconds,
            picture=None
            if video is None
            else schemas.PictureTrack(
                codec=video.codec, width=video.width, height=video.height, frames_per_second=video.frames_per_second
            ),
            sound=None
            if audio is None
            else schemas.SoundTrack(codec=audio.codec, sample_rate=audio.sample_rate, channels=audio.channels),
            plays=plays(info),
            problems=info.problems,
        )

    # ---- searching

    def search(self, asked: schemas.Search) -> schemas.Found:
        """One page of hits. Raises ForgottenError, UnknownFileError, StaleExampleError, IndexStateError."""
        began = time.monotonic()
        request = self._request(asked) if asked.examples else None
        page = self._page(request, asked, size=asked.page_size, number=asked.page)
        catalogue = self.catalogue()
        hits = [hit for hit in (self._hit(catalogue, hit) for hit in page.hits) if hit is not None]
        return schemas.Found(
            hits=tuple(hits),
            page=asked.page,
            has_more=page.has_more and not asked.is_last_page,
            best_score=page.best_score,
            chance_score=None if request is None else chance_score(catalogue.num_moments),
            notes=() if request is None else tuple(map(shown, request.notes)),
            took_seconds=time.monotonic() - began,
        )

    def hits(self, chosen: schemas.FromSearch | schemas.FromHits) -> ChosenHits:
        """What is to be exported. Raises as `search`, and UnknownFileError where all the files are forgotten."""
        if isinstance(chosen, schemas.FromSearch):
            request = self._request(chosen.search) if chosen.search.examples else None
            page = self._page(request, chosen.search, size=chosen.top, number=1)
            catalogue = self.catalogue()
            return ChosenHits(hits=tuple(hit for hit in page.hits if catalogue.id_of(hit.path) is not None))
        catalogue = self.catalogue()
        found, forgotten = [], []
        for given in chosen.hits:
            try:
                first, *copies = catalogue.rows_of(given.file_id)
            except UnknownFileError:
                forgotten.append(Skipped(path=given.file_id, reason="it is not in the library any more"))
                continue
            end = max(given.start_seconds, given.end_seconds)
            found.append(
                Hit(
                    path=str(first.full_path),
                    start_seconds=given.start_seconds,
                    end_seconds=end,
                    peak_seconds=min(max(given.peak_seconds, given.start_seconds), end),
                    score=given.score,
                    cosine=given.cosine,
                    matched=given.matched,
                    status=first.status,
                    copies=tuple(str(row.full_path) for row in copies),
                    labels=labels_between(from_text(first.labels), given.start_seconds, end),
                )
            )
        if not found:
            catalogue.rows_of(chosen.hits[0].file_id)  # which raises
        return ChosenHits(hits=tuple(found), forgotten=tuple(forgotten))

    def _page(self, request: Request | None, asked: schemas.Search, *, size: int, number: int) -> _Page:
        """Of a request, or without one by a label. One hit more than a page tells whether there is another page."""
        where = self._where(asked.filters)
        least = -math.inf if asked.at_least is None else asked.at_least
        top = number * size + 1
        if request is None:
            found = find_label(self.index, asked.filters.label or "", where=where, top=top)
        else:
            found = self.index.find(
                request, within=asked.within, balance=asked.balance, likeness=asked.likeness, where=where, top=top
            )
        kept = [hit for hit in found if hit.score >= least]
        return _Page(
            hits=tuple(kept[(number - 1) * size : number * size]),
            has_more=len(kept) == top,
            best_score=found[0].score if found else None,
        )

    def _request(self, asked: schemas.Search) -> Request:
        self.index.refresh()
        fingerprint = self.index.facts.fingerprint

        def queries(examples: Sequence[schemas.Example]) -> tuple[Query, ...]:
            return tuple(self._query(example, fingerprint) for example in examples)

        return Request(
            examples=queries(asked.examples),
            counter_examples=queries(asked.counter_examples),
            fingerprint=fingerprint,
        )

    def _query(self, example: schemas.Example, fingerprint: str) -> Query:
        if isinstance(example, schemas.UploadedExample):
            known: Example = self.examples.named(example.id)
            if known.fingerprint != fingerprint:
                raise StaleExampleError(
                    f"the index is now of another model than '{known.name}' was read for; give the example again"
                )
            return narrowed(known.query, example.use, known.name)
        row = self.catalogue().rows_of(example.file_id)[0]
        library = self.index.library()
        start = example.start_seconds
        if example.end_seconds is None:
            moment: str | Hit = _moment(row.full_path, start)
        else:
            moment = f"{row.full_path}@{max(0.0, start):.6f}-{max(0.0, start, example.end_seconds):.6f}"
        return narrowed(moment_query(library, moment), example.use, f"{shown(row.path)} at {start:.2f} s")

    def _where(self, filters: schemas.Filters) -> Where | None:
        if filters == schemas.Filters():
            return None
        if filters.folder is not None and filters.folder not in self.catalogue().shown_folders:
            raise UnknownFileError(
                f"the library has no folder {filters.folder}; give one of its own (GET /api/folders)"
            )
        return Where(
            folder=None if filters.folder is None else Path(self.catalogue().shown_folders[filters.folder]),
            name=filters.name or None,
            after=None if filters.after is None else _countable(filters.after),
            before=None if filters.before is None else _countable(filters.before),
            longer_seconds=filters.longer_seconds,
            shorter_seconds=filters.shorter_seconds,
            status=filters.status,
            label=filters.label or None,
        )

    def _hit(self, catalogue: Catalogue, hit: Hit) -> schemas.SearchHit | None:
        file_id = catalogue.id_of(hit.path)
        if file_id is None:
            return None  # forgotten since
        row = next(row for row in catalogue.rows_of(file_id) if str(row.full_path) == hit.path)
        inside = Path(row.path)
        return schemas.SearchHit(
            file_id=file_id,
            path=shown(hit.path),
            name=shown(inside.name),
            folder=shown("" if inside.parent == Path() else inside.parent.as_posix()),
            library=shown(row.library),
            start_seconds=hit.start_seconds,
            end_seconds=hit.end_seconds,
            peak_seconds=hit.peak_seconds,
            score=hit.score,
            cosine=hit.cosine,
            matched=hit.matched,
            status=hit.status,
            seconds=row.seconds,
            copies=tuple(map(shown, hit.copies)),
            labels=hit.labels,
        )


def file_row(row: FileRow) -> schemas.FileRow:
    """A row as it is sent."""
    return schemas.FileRow(
        file_id=row.file_id if row.file_id and row.status not in ("refused", WAITING) else None,
        library=shown(row.library),
        path=shown(row.path),
        status=row.status,  # type: ignore[arg-type]  # the tables hold no other
        reason=shown(row.reason),
        seconds=row.seconds,
        moments=row.num_moments,
        size_bytes=row.size_bytes,
        modified=row.mtime_ns / 1e9,
    )


def generation(catalogue: Catalogue) -> str:
    """Names a version of the index."""
    return "-".join(map(str, catalogue.version))


def narrowed(query: Query, use: schemas.Use, name: str) -> Query:
    """The query by one of its modalities. Raises IndexStateError where it has no such."""
    if use == "both":
        return query
    phases = tuple(
        Phase(
            start_seconds=phase.start_seconds,
            sound=phase.sound if use == "sound" else None,
            picture=phase.picture if use == "picture" else None,
        )
        for phase in query.phases
        if (phase.sound if use == "sound" else phase.picture) is not None
    )
    if not phases:
        raise IndexStateError(f"{name} has no {use} to search by; use the other one of it")
    return replace(query, phases=phases)


def _moment(path: Path, seconds: float) -> Hit:
    """The moment around a time."""
    return Hit(
        path=str(path),
        start_seconds=seconds,
        end_seconds=seconds,
        peak_seconds=seconds,
        score=0.0,
        cosine=0.0,
        matched="both",
        status="ok",
    )


def _countable(day: datetime.date) -> datetime.date:
    return min(max(day, _FIRST_DAY), _LAST_DAY)
