"""`index`: brings an index up to date with folders of media.

Folders are walked, and what is new or changed is decoded in limited child processes, a stretch of about two minutes
at a time, ahead of the model, which takes windows of several files in one batch. A file is new or changed if no row
has its path, size and time. Bytes that the index knows already (a renamed or copied file, a file that was only
touched) are recognised by their hash and not decoded.

A file that is large is hashed in this process, before it is decoded: that takes longer than a limit for bad files, and
reading bytes is safe. A file whose child was stopped from outside, twice, is tried again by the next crawl.

Killed at any moment and run again, it ends in the state that an undisturbed run ends in: see `index.py` for why.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lookhear.data.stretch import Decoded, Gathered, StretchJob, decode_stretches, hash_file
from lookhear.data.windows import Windows, join_windows
from lookhear.embedder import Embedder, Embeddings, join_embeddings, loaded_model
from lookhear.errors import ConfigError, IndexStateError
from lookhear.media.workers import LimitedPool
from lookhear.progress import Progress, quiet
from lookhear.search.bucket import Place, place_of
from lookhear.search.facts import is_index
from lookhear.search.hashing import HashAhead
from lookhear.search.index import Index, create_index, create_index_beside
from lookhear.search.likeness import describe_windows
from lookhear.search.summary import CrawlSummary, summarize
from lookhear.search.survey import (
    WAITING,
    Look,
    Seen,
    Survey,
    is_within,
    outermost,
    roots_of,
    stat_of,
    survey,
    without_moved,
)
from lookhear.search.tables import FileRow, MomentRows

TIME_LIMIT_SECONDS = 300.0
MEMORY_LIMIT_BYTES = 2 << 30
# From here on a file is hashed outside the limits of a decoding process.
_LARGE_BYTES = 256 << 20
# Of a file that is not complete, so many moments are kept in memory: about two hours, half a second apart.
_MOST_MOMENTS = 1 << 14
# Finished files are written when there are this many, or their moments are this many, or this much time has passed.
_WRITE_FILES, _WRITE_MOMENTS, _WRITE_SECONDS = 64, 4096, 5.0


@dataclass(frozen=True, kw_only=True)
class CrawlOptions:
    """How a crawl goes about it."""

    workers: int = 2
    """decoding processes; 0 decodes in this one, without limits"""
    time_limit_seconds: float = TIME_LIMIT_SECONDS
    """for the decoding of a stretch of two minutes"""
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    """of a decoding process"""
    retry_refused: bool = False
    """refused files are tried again, whatever the reason was; partial ones are in the index as far as they could be
    read, and only `forget` makes them be read again"""
    settle_seconds: float = 0.0
    """a file that was changed more recently is still being written, and waits"""
    exact_moments: int | None = None
    """up to so many moments searches are exact; of more an index of neighbours is made; None: as the index remembers"""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"{self.workers} decoding processes are not possible; give 0 or more workers")
        if not self.time_limit_seconds > 0 or not self.memory_limit_bytes > 0:
            raise ConfigError(
                f"nothing can be decoded in {self.time_limit_seconds:g} s and {self.memory_limit_bytes} bytes; give "
                "limits above 0"
            )
        if not self.settle_seconds >= 0:
            raise ConfigError(f"no file is {self.settle_seconds:g} s old; give 0 or more seconds to settle")
        if self.exact_moments is not None and self.exact_moments < 0:
            raise ConfigError(f"no index has {self.exact_moments} moments; give 0 or more moments to search exactly")


def index(
    folders: Sequence[str | Path],
    *,
    model: "str | Path | Embedder | None" = None,
    index_path: str | Place = "lookhear.index",
    beside: bool = False,
    workers: int = 2,
    hop_seconds: float | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
    retry_refused: bool = False,
    settle_seconds: float = 0.0,
    exact_moments: int | None = None,
    progress: Progress = quiet,
) -> CrawlSummary:
    """Makes the index at `index_path`, or brings it up to date with `folders`; other folders in it stay as they are.

    Without `folders`, all that the index has are meant.

    `model` is a checkpoint, a run folder or an Embedder; an index that exists remembers its own, and its hop.
    `beside` takes another model or hop for an index that exists: a new index of all its folders (and `folders`) is made
    beside it, which searches do not see, and takes its place when it is complete; killed and run again it goes on. The
    other settings are those of `CrawlOptions`. Every file found has a row in the end, refused ones with a reason. A
    folder that cannot be listed has one too, and the rows of what was in it stay. A folder takes in those inside it
    that the index has, without decoding their files again.

    Raises ConfigError for settings that cannot be, IndexStateError for a folder that is not there, for one inside
    another that the index has (which is to be crawled itself), for one that had media and now has none (a disk that is
    not mounted looks so), for another model or hop than the index has, and while another process writes to it.
    """
    options = CrawlOptions(
        workers=workers,
        time_limit_seconds=time_limit_seconds,
        memory_limit_bytes=memory_limit_bytes,
        retry_refused=retry_refused,
        settle_seconds=settle_seconds,
        exact_moments=exact_moments,
    )
    path = place_of(index_path)
    if not beside:
        roots = roots_of(folders or Index(path).facts.libraries)
        return crawl(open_index(path, model, hop_seconds), roots, options, progress=progress)
    old = Index(path)
    with old.writing():
        roots = roots_of([*folders, *old.facts.libraries])
        embedder = old.embedder() if model is None else loaded_model(model)
        hop = old.facts.hop_seconds if hop_seconds is None and model is None else hop_seconds
        if embedder.fingerprint == old.facts.fingerprint and hop in (None, old.facts.hop_seconds):
            raise IndexStateError(
                f"{path} is of this very model and hop already; leave --beside out to bring it up to date"
            )
        target = create_index_beside(path, embedder, hop_seconds=hop)
        target.right = old.right
        target.remove_orphans()
        return _crawl(target, roots, options, replaces=old, progress=progress)


def crawl(
    target: Index,
    roots: Sequence[Path],
    options: CrawlOptions,
    *,
    before: Look | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress = quiet,
) -> CrawlSummary:
    """Brings `target` up to date with the folders `roots` (`survey.roots_of`).

    `before`: what an earlier look found; what is new or changed since then waits. Once `stop` says so, what is complete
    is written and the rest is left.
    """
    embedder = target.embedder()  # not while others wait to write
    with target.writing():
        target.check_model(embedder)  # until now another process could put an index of another model in its place
        return _crawl(target, roots, options, before=before, stop=stop, progress=progress)


def _crawl(
    target: Index,
    roots: Sequence[Path],
    options: CrawlOptions,
    *,
    replaces: Index | None = None,
    before: Look | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress,
) -> CrawlSummary:
    """`crawl`, by the process that holds the right to write. `replaces`: in whose place `target` is put in the end."""
    embedder = target.embedder()
    roots = outermost(roots, target)
    found = survey(
        target,
        roots,
        retry_refused=options.retry_refused,
        settle_seconds=options.settle_seconds,
        before=before,
        guard=replaces,
    )
    if embedder.path is not None:
        target.record_model(embedder.path)
    target.keep_libraries([*target.facts.libraries, *map(str, roots)])
    crawling = _Crawl(target, embedder, found, progress, stop, retry_refused=options.retry_refused)
    with LimitedPool(
        options.workers,
        time_limit_seconds=options.time_limit_seconds,
        memory_limit_bytes=options.memory_limit_bytes,
    ) as pool:
        crawling.run(pool)
    if crawling.left:  # what is gone may be among these, under a new name
        found = replace(found, gone=())
    else:
        found = without_moved(found, target.files())
    target.remove_files(found.gone)
    target.remove_orphans()
    if not crawling.left:
        inside = {name for name in target.facts.libraries if is_within(name, roots) and Path(name) not in roots}
        target.keep_libraries(set(target.facts.libraries) - inside)
    if found.todo or found.gone:
        target.compact()
    if not crawling.left:
        num_files = len(found.todo)
        exact_moments = (replaces or target).facts.exact_moments
        if options.exact_moments is not None:
            exact_moments = options.exact_moments
        target.keep_up(exact_moments, tell=lambda what: progress(num_files, num_files, what))
    if replaces is not None and not crawling.left:
        _take_labels(target, replaces)
        target.switch()
    return summarize(target, roots, found, crawling.left)


def _take_labels(target: Index, old: Index) -> None:
    """Gives files the labels that `old` has of their bytes: a classifier made them, not the model of either index."""
    labels = {row.file_id: row.labels for row in old.files() if row.labels}
    rows = [row for row in target.files() if row.num_moments and not row.labels and row.file_id in labels]
    target.write([replace(row, labels=labels[row.file_id]) for row in rows])


def open_index(path: Place, model: "str | Path | Embedder | None", hop_seconds: float | None) -> Index:
    """The index at `path`, made if there is none. Raises IndexStateError for another hop than it has."""
    if is_index(path):
        target = Index(path, model=model)
        if hop_seconds is not None and abs(hop_seconds - target.facts.hop_seconds) > 1e-9:
            raise IndexStateError(
                f"{path} has a moment every {target.facts.hop_seconds:g} s, not every {hop_seconds:g} s; leave the hop "
                "out, make another index (--index DIR), or with --beside one that replaces it when it is done"
            )
        return target
    if model is None:
        raise IndexStateError(f"there is no index at {path} yet; say with --model which checkpoint is to make it")
    return create_index(path, loaded_model(model), hop_seconds=hop_seconds)


# ---- in this process


@dataclass
class _Progressing:
    """A file of which not all stretches are embedded."""

    seen: Seen
    gathered: Gathered = field(default_factory=Gathered)
    num_left: int = 1  # stretches that are not back yet
    file_id: str = ""
    parts: list[Embeddings] = field(default_factory=list)
    num_waiting: int = 0  # parts that are not embedded yet
    num_written: int = 0  # moments that are in the index already, where nobody sees them yet
    doubt: str = ""  # why what is known of it says nothing about the file
    is_done: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    """Windows that wait for a full batch."""

    file: _Progressing
    place: int  # in the file's parts
    windows: Windows


class _Crawl:
    """Takes decoded stretches, embeds their windows in batches over files, and writes files that are complete."""

    def __init__(
        self,
        target: Index,
        embedder: Embedder,
        survey: Survey,
        progress: Progress,
        stop: Callable[[], bool],
        *,
        retry_refused: bool,
    ) -> None:
        self._index = target
        self._embedder = embedder
        self._progress = progress
        self._stop = stop
        self._plan = embedder.plan(hop_seconds=target.facts.hop_seconds)
        self._files = [_Progressing(seen=seen) for seen in survey.todo]
        believed = [row for row in survey.known if row.file_id and not (retry_refused and row.status == "refused")]
        # Of the same bytes elsewhere, what was refused once is worth less than what was read.
        self._known = {row.file_id: row for row in sorted(believed, key=lambda row: row.num_moments)}
        self._ids_of_size: dict[int, set[str]] = {}
        for row in believed:
            self._ids_of_size.setdefault(row.size_bytes, set()).add(row.file_id)
        large = {rank: seen.full_path for rank, seen in enumerate(survey.todo) if _is_large(seen)}
        self._hashing = HashAhead(large)
        self._queue: deque[StretchJob] = deque()
        self._waiting: list[_Waiting] = []
        self._rows: list[FileRow] = []
        self._moments: list[MomentRows] = []
        self._writing: dict[str, _Progressing] = {}  # by content: the file of which moments are written before its row
        self._last_write = time.monotonic()
        self._num_done = 0

    @property
    def left(self) -> tuple[Seen, ...]:
        """The files that have no row because the crawl was stopped."""
        return tuple(file.seen for file in self._files if not file.is_done)

    def run(self, pool: LimitedPool) -> None:
        """Until every file of the survey has its row, or until it is stopped."""
        self._progress(0, len(self._files), "")
        for rank, file in enumerate(self._files):
            if file.seen.problem:
                status = WAITING if file.seen.is_waiting else "refused"
                self._add_row(file, _row(file, status, file.seen.problem))
            else:
                self._queue.append(self._job(rank, 0))
        with self._hashing:
            while self._queue and not self._stop():  # a long file queues its further stretches when the first is back
                for job, decoded in decode_stretches(pool, self._drain()):
                    self._take(job, decoded)
                    if self._stop():
                        break
        self._embed(0)
        self._write(0)

    def _drain(self) -> Iterator[StretchJob]:
        while self._queue and not self._stop():
            job = self._queue.popleft()
            if job.stretch == 0 and not job.file_id:
                job = replace(job, file_id=self._hashing.result(job.rank, self._stop))
                self._files[job.rank].file_id = job.file_id
            yield job

    def _job(self, rank: int, stretch: int) -> StretchJob:
        seen = self._files[rank].seen
        return StretchJob(
            rank=rank,
            path=str(seen.full_path),
            plan=self._plan,
            stretch=stretch,
            known_ids=frozenset(self._ids_of_size.get(seen.size_bytes, ())),
        )

    def _take(self, job: StretchJob, decoded: Decoded) -> None:
        file = self._files[job.rank]
        if decoded.is_innocent:
            file.doubt = f"{decoded.refusal}; the next crawl tries it again"
        elif job.stretch == 0:
            # Where its process ended it was read far enough: only other bytes are worth another try.
            file.file_id = file.file_id or decoded.file_id or hash_file(job.path)
        if job.stretch == 0:
            further = max(0, decoded.num_stretches - 1)
            file.num_left += further
            self._queue.extendleft(self._job(job.rank, number) for number in range(further, 0, -1))
        file.num_left -= 1
        for windows in file.gathered.take(decoded):
            self._waiting.append(_Waiting(file=file, place=len(file.parts), windows=windows))
            file.parts.append(_NOT_YET)
            file.num_waiting += 1
        self._embed(self._embedder.batch_size)
        self._finish(file)
        self._write_if_due()

    def _embed(self, at_least: int) -> None:
        """Embeds what waits if it is at least so many windows."""
        if sum(len(waiting.windows) for waiting in self._waiting) < at_least or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        found = describe_windows(self._embedder, join_windows([each.windows for each in waiting]))
        first = 0
        for each in waiting:
            rows = slice(first, first + len(each.windows))
            each.file.parts[each.place] = Embeddings(
                start_seconds=found.start_seconds[rows],
                end_seconds=found.end_seconds[rows],
                audio=None if found.audio is None else found.audio[rows],
                visual=None if found.visual is None else found.visual[rows],
            )
            each.file.num_waiting -= 1
            first = rows.stop
        for each in waiting:
            self._finish(each.file)
            self._write_ahead(each.file)

    def _write_ahead(self, file: _Progressing) -> None:
        """Writes what is there of a very long file, so that memory does not grow with its length."""
        if file.is_done or not file.file_id or file.file_id in self._known or file.num_waiting:
            return
        if sum(len(part) for part in file.parts) < _MOST_MOMENTS:
            return
        if self._writing.setdefault(file.file_id, file) is file:  # not of each of two files with the same bytes
            moments = _moments(file.file_id, file.parts, self._width)
            self._index.write([], [moments])
            file.num_written += len(moments.start_seconds)
            file.parts = []

    def _finish(self, file: _Progressing) -> None:
        """Turns a complete file into its row and moments."""
        if file.num_left or file.num_waiting or file.is_done:
            return
        known = self._known.get(file.file_id)
        if known is not None:
            row = _row(file, known.status, known.reason, seconds=known.seconds, num_moments=known.num_moments)
            row = replace(row, labels=known.labels)
        else:
            row = self._new_row(file)
            if file.doubt:
                row = _row(file, "refused", file.doubt, file_id="")
            elif stat_of(file.seen.full_path) != (file.seen.size_bytes, file.seen.mtime_ns):
                # What was decoded is not what was hashed. The next run finds another size or time, or no file.
                what = "changed" if file.seen.full_path.exists() else "deleted"
                row = _row(file, "refused", f"it was {what} while it was read; index again", file_id="")
            self._end_writing(file, is_refused=row.status == "refused")
            if row.file_id:
                self._known[row.file_id] = row
                self._moments += [] if row.status == "refused" else [_moments(row.file_id, file.parts, self._width)]
        self._add_row(file, row)

    def _end_writing(self, file: _Progressing, *, is_refused: bool) -> None:
        """Drops what was written ahead of the bytes of a file that is complete, where its row is not to name it."""
        owner = self._writing.get(file.file_id)
        if owner is None or (is_refused and owner is not file):
            return
        del self._writing[file.file_id]
        if is_refused or owner is not file:  # a copy has no need to end what it began
            self._index.drop_moments([file.file_id])

    def _add_row(self, file: _Progressing, row: FileRow) -> None:
        self._rows.append(row)
        file.parts, file.gathered, file.is_done = [], Gathered(), True  # counted once, and no more in memory
        self._num_done += 1
        self._progress(self._num_done, len(self._files), file.seen.path)

    @property
    def _width(self) -> int:
        return self._index.facts.vector_width

    def _new_row(self, file: _Progressing) -> FileRow:
        first, verdict = file.gathered.first, file.gathered.verdict()
        assert first is not None
        present = file.num_written + sum(int((part.has_audio | part.has_visual).sum()) for part in file.parts)
        if verdict.status == "refused":
            return _row(file, verdict.status, verdict.reason)
        if not present:
            return _row(file, "refused", "the model embeds neither its sound nor its picture")
        return _row(file, verdict.status, verdict.reason, seconds=first.seconds, num_moments=present)

    def _write_if_due(self) -> None:
        late = time.monotonic() - self._last_write >= _WRITE_SECONDS
        self._write(1 if late else _WRITE_FILES)

    def _write(self, at_least: int) -> None:
        num_moments = sum(len(part.start_seconds) for part in self._moments)
        if len(self._rows) >= at_least or num_moments >= _WRITE_MOMENTS:
            self._index.write(self._rows, self._moments)
            self._rows, self._moments = [], []
            self._last_write = time.monotonic()


_NOT_YET = Embeddings(start_seconds=np.zeros(0), end_seconds=np.zeros(0), audio=None, visual=None)


def _is_large(seen: Seen) -> bool:
    return seen.size_bytes >= _LARGE_BYTES and not seen.problem


def _row(
    file: _Progressing,
    status: str,
    reason: str,
    *,
    file_id: str | None = None,
    seconds: float = 0.0,
    num_moments: int = 0,
) -> FileRow:
    return FileRow(
        library=file.seen.library,
        path=file.seen.path,
        file_id=file.file_id if file_id is None else file_id,
        size_bytes=file.seen.size_bytes,
        mtime_ns=file.seen.mtime_ns,
        status=status,
        reason=reason,
        seconds=round(seconds, 3),
        num_moments=num_moments,
    )


def _moments(file_id: str, parts: Sequence[Embeddings], width: int) -> MomentRows:
    """The windows that have at least one vector."""
    whole = join_embeddings(parts)
    present = whole.has_audio | whole.has_visual
    nothing = np.full((len(whole), width), np.nan, np.float32)
    return MomentRows(
        file_id=file_id,
        start_seconds=whole.start_seconds[present],
        end_seconds=whole.end_seconds[present],
        audio=(nothing if whole.audio is None else whole.audio)[present],
        visual=(nothing if whole.visual is None else whole.visual)[present],
    )
