"""`index`: brings an index up to date with folders of media.

Folders are walked, and what is new or changed is decoded in limited child processes, a stretch of about two minutes
at a time, ahead of the model, which takes windows of several files in one batch. A file is new or changed if no row
has its path, size and time. Bytes that the index knows already (a renamed or copied file, a file that was only
touched) are recognised by their hash and not decoded.

Killed at any moment and run again, it ends in the state that an undisturbed run ends in: see `index.py` for why.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lookhear.data.manifest import STATUSES
from lookhear.data.stretch import Decoded, StretchJob, decode_stretch, hash_file, judge
from lookhear.data.windows import Windows, join_windows
from lookhear.embedder import Embedder, Embeddings, join_embeddings, load
from lookhear.errors import IndexStateError
from lookhear.media.probe import find_media
from lookhear.media.workers import Done, LimitedPool
from lookhear.progress import Progress, quiet
from lookhear.search.index import FileRow, Index, MomentRows, create_index

TIME_LIMIT_SECONDS = 300.0
# Finished files are written when there are this many, or their moments are this many, or this much time has passed.
_WRITE_FILES, _WRITE_MOMENTS, _WRITE_SECONDS = 64, 4096, 5.0


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A file that could not be indexed, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class CrawlSummary:
    """What a crawl found and did. Files with the same bytes are counted each."""

    index: str
    files: int  # found in the folders
    counts: dict[str, int]  # of them, by status: ok, picture_only, sound_only, partial, refused
    added: int  # new paths with new bytes
    changed: int  # known paths with other bytes
    moved: int  # new paths whose bytes were at a path that is gone
    copied: int  # new paths whose bytes are elsewhere in the index too
    deleted: int  # paths that are gone, moved ones left out
    unchanged: int  # known paths with the same bytes
    moments: int  # in the whole index
    seconds: float  # of media in these folders, refused files left out
    refused: tuple[Refused, ...]  # every refused file, also those that were refused before


def index(
    folders: Sequence[str | Path],
    *,
    model: "str | Path | Embedder | None" = None,
    index_path: str | Path = "lookhear.index",
    workers: int = 2,
    hop_seconds: float | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    progress: Progress = quiet,
) -> CrawlSummary:
    """Makes the index at `index_path`, or brings it up to date with `folders`; other folders in it stay as they are.

    `model` is a checkpoint, a run folder or an Embedder; an index that exists remembers its own, and its hop.
    `time_limit_seconds` is for the decoding of a stretch of two minutes; `workers=0` decodes in this process, without
    limits. Every file found has a row in the end, refused ones with a reason. A folder that cannot be listed has one
    too, and the rows of what was in it stay.

    Raises IndexStateError for a folder that is not there, for one that had media and now has none (a disk that is not
    mounted looks so), for another model or hop than the index has, and while another process writes to it.
    """
    roots = _roots(folders)
    target = _open(Path(index_path), model, hop_seconds)
    embedder = target.embedder()
    with target.writing():
        survey = _survey(target, roots)
        if embedder.path is not None:
            target.record_model(embedder.path)
        target.add_libraries(str(root) for root in roots)
        crawl = _Crawl(target, embedder, survey, progress)
        with LimitedPool(workers, time_limit_seconds=time_limit_seconds) as pool:
            crawl.run(pool)
        target.remove_files(survey.gone)
        target.remove_orphans()
        if survey.todo or survey.gone:
            target.compact()
    return _summary(target, roots, survey)


# ---- what there is to do


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A file as the walk found it."""

    library: str
    path: str  # relative to the library
    full_path: Path
    size_bytes: int
    mtime_ns: int
    problem: str = ""  # why it must not be opened


@dataclass(frozen=True, kw_only=True)
class _Survey:
    known: tuple[FileRow, ...]  # all rows that the index had, of other libraries too
    todo: tuple[_Seen, ...]
    gone: tuple[FileRow, ...]


def _roots(folders: Sequence[str | Path]) -> list[Path]:
    if isinstance(folders, (str, Path)) or not folders:
        raise IndexStateError("no folder to index; name one or several")
    for folder in folders:
        if not Path(folder).is_dir():
            what = "is a file, not a folder" if Path(folder).exists() else "does not exist"
            raise IndexStateError(f"{folder} {what}; nothing was changed in the index")
    return sorted({Path(folder).resolve() for folder in folders})


def _open(path: Path, model: "str | Path | Embedder | None", hop_seconds: float | None) -> Index:
    if (path / "index.json").exists():
        target = Index(path, model=model)
        if hop_seconds is not None and abs(hop_seconds - target.facts.hop_seconds) > 1e-9:
            raise IndexStateError(
                f"{path} has a moment every {target.facts.hop_seconds:g} s, not every {hop_seconds:g} s; "
                "leave the hop out, or make another index (--index DIR)"
            )
        return target
    if model is None:
        raise IndexStateError(f"there is no index at {path} yet; say with --model which checkpoint is to make it")
    return create_index(path, model if isinstance(model, Embedder) else load(model), hop_seconds=hop_seconds)


def _survey(target: Index, roots: Sequence[Path]) -> _Survey:
    known = {(row.library, row.path): row for row in target.files()}
    todo, found, unlisted = [], set(), []
    for root in roots:
        for entry in find_media(root):
            key = (str(root), entry.path.relative_to(root).as_posix())
            found.add(key)
            if entry.is_unlisted:
                unlisted.append(key)
            size, mtime = (0, 0) if entry.problem else _stat(entry.path)
            row = known.get(key)
            # A file whose bytes could not even be read is tried again: permissions change without a trace.
            if row is None or (row.size_bytes, row.mtime_ns) != (size, mtime) or not row.file_id or entry.problem:
                todo.append(
                    _Seen(
                        library=key[0],
                        path=key[1],
                        full_path=entry.path,
                        size_bytes=size,
                        mtime_ns=mtime,
                        problem=entry.problem,
                    )
                )
    _check_not_emptied(target, roots, known.values(), {library for library, _ in found})
    libraries = {str(root) for root in roots}
    gone = []
    for key, row in known.items():
        # Nobody can say that a file in a folder that cannot be listed is gone.
        is_hidden = any(key[0] == library and key[1].startswith(f"{folder}/") for library, folder in unlisted)
        if key[0] in libraries and key not in found and not is_hidden:
            gone.append(row)
    return _Survey(known=tuple(known.values()), todo=tuple(todo), gone=tuple(gone))


def _check_not_emptied(target: Index, roots: Sequence[Path], known: Iterable[FileRow], found: set[str]) -> None:
    """Raises IndexStateError if every file of a library is gone: it is likelier that its disk is not mounted."""
    num_known = Counter(row.library for row in known if row.status != "refused")
    for root in roots:
        if str(root) not in found and num_known[str(root)]:
            raise IndexStateError(
                f"{root} holds no media, but {target.path} knows files in it ({num_known[str(root)]}); nothing was "
                f"changed in the index: mount the disk again if it is not, or delete {target.path} to start anew"
            )


def _stat(path: Path) -> tuple[int, int]:
    """Size and modification time; zeros where the file does not say."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


# ---- in this process


@dataclass
class _Progressing:
    """A file of which not all stretches are embedded."""

    seen: _Seen
    first: Decoded | None = None
    num_left: int = 1  # stretches that are not back yet
    file_id: str = ""
    problems: list[str] = field(default_factory=list)
    num_pictures_lost: int = 0
    parts: list[Embeddings] = field(default_factory=list)
    num_waiting: int = 0  # parts that are not embedded yet


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    """Windows that wait for a full batch."""

    file: _Progressing
    place: int  # in the file's parts
    windows: Windows


class _Crawl:
    """Takes decoded stretches, embeds their windows in batches over files, and writes files that are complete."""

    def __init__(self, target: Index, embedder: Embedder, survey: _Survey, progress: Progress) -> None:
        self._index = target
        self._embedder = embedder
        self._progress = progress
        self._plan = embedder.plan(hop_seconds=target.facts.hop_seconds)
        self._files = [_Progressing(seen=seen) for seen in survey.todo]
        self._known = {row.file_id: row for row in survey.known if row.file_id}
        self._ids_of_size: dict[int, set[str]] = {}
        for row in survey.known:
            if row.file_id:
                self._ids_of_size.setdefault(row.size_bytes, set()).add(row.file_id)
        self._queue: deque[StretchJob] = deque()
        self._waiting: list[_Waiting] = []
        self._rows: list[FileRow] = []
        self._moments: list[MomentRows] = []
        self._last_write = time.monotonic()
        self._num_done = 0

    def run(self, pool: LimitedPool) -> None:
        """Until every file of the survey has its row."""
        self._progress(0, len(self._files), "")
        for rank, file in enumerate(self._files):
            if file.seen.problem:
                self._add_row(file, _row(file, "refused", file.seen.problem))
            else:
                self._queue.append(self._job(rank, 0))
        while self._queue:  # a long file queues its further stretches when the first is back
            for done in pool.map(decode_stretch, self._drain()):
                self._take(done)
        self._embed(0)
        self._write(0)

    def _drain(self) -> Iterator[StretchJob]:
        while self._queue:
            yield self._queue.popleft()

    def _job(self, rank: int, stretch: int) -> StretchJob:
        seen = self._files[rank].seen
        return StretchJob(
            rank=rank,
            path=str(seen.full_path),
            plan=self._plan,
            stretch=stretch,
            known_ids=frozenset(self._ids_of_size.get(seen.size_bytes, ())),
        )

    def _take(self, done: Done) -> None:
        job: StretchJob = done.item
        file = self._files[job.rank]
        if done.failure is not None:
            decoded = Decoded(refusal=done.failure)
            if job.stretch == 0:  # it was read far enough to end its process: only other bytes are worth another try
                file.file_id = hash_file(job.path)
        else:
            assert isinstance(done.value, Decoded)
            decoded = done.value
        if job.stretch == 0:
            file.first = decoded
            file.file_id = file.file_id or decoded.file_id
            further = max(0, decoded.num_stretches - 1)
            file.num_left += further
            self._queue.extendleft(self._job(job.rank, number) for number in range(further, 0, -1))
        elif decoded.refusal:
            file.problems.append(decoded.refusal)
        file.num_left -= 1
        file.problems += decoded.problems
        file.num_pictures_lost += decoded.num_pictures_lost
        for windows in decoded.windows:
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
        found = self._embedder.embed_windows(join_windows([each.windows for each in waiting]))
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

    def _finish(self, file: _Progressing) -> None:
        """Turns a complete file into its row and moments."""
        if file.num_left or file.num_waiting or file.first is None:
            return
        known = self._known.get(file.file_id)
        if known is not None:
            row = _row(file, known.status, known.reason, seconds=known.seconds, num_moments=known.num_moments)
        else:
            row = self._new_row(file)
            if _stat(file.seen.full_path) != (file.seen.size_bytes, file.seen.mtime_ns):
                # What was decoded is not what was hashed. The next run finds another size or time.
                row = _row(file, "refused", "it was changed while it was read; index again", file_id="")
            elif row.file_id:
                self._known[row.file_id] = row
                self._moments += [] if row.status == "refused" else [_moments(row.file_id, file.parts, self._width)]
        self._add_row(file, row)

    def _add_row(self, file: _Progressing, row: FileRow) -> None:
        self._rows.append(row)
        file.parts, file.first = [], None  # counted once
        self._num_done += 1
        self._progress(self._num_done, len(self._files), file.seen.path)

    @property
    def _width(self) -> int:
        return self._index.facts.embedding_width

    def _new_row(self, file: _Progressing) -> FileRow:
        first = file.first
        assert first is not None
        has_sound = any(part.has_audio.any() for part in file.parts)
        has_picture = any(part.has_visual.any() for part in file.parts)
        verdict = judge(
            first,
            problems=file.problems,
            num_pictures_lost=file.num_pictures_lost,
            has_sound=has_sound,
            has_picture=has_picture,
        )
        if verdict.status == "refused":
            return _row(file, verdict.status, verdict.reason)
        present = sum(int((part.has_audio | part.has_visual).sum()) for part in file.parts)
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


# ---- the end

_Change = Literal["added", "changed", "moved", "copied", "unchanged"]


def _summary(target: Index, roots: Iterable[Path], survey: _Survey) -> CrawlSummary:
    libraries = {str(root) for root in roots}
    status = target.status()
    rows = [row for row in status.files if row.library in libraries]
    before = {(row.library, row.path): row for row in survey.known}
    gone_ids = {row.file_id for row in survey.gone if row.file_id}
    known_ids = {row.file_id for row in survey.known if row.file_id}
    changes: dict[_Change, int] = dict.fromkeys(("added", "changed", "moved", "copied", "unchanged"), 0)
    taken: set[str] = set()
    for row in rows:
        old = before.get((row.library, row.path))
        change: _Change
        if old is not None:
            change = "unchanged" if old.file_id == row.file_id else "changed"
        elif row.file_id in gone_ids - taken:
            change = "moved"
            taken.add(row.file_id)
        elif row.file_id in known_ids:
            change = "copied"
        else:
            change = "added"
        if row.file_id and old is None:
            known_ids.add(row.file_id)
        changes[change] += 1
    counts: dict[str, int] = dict.fromkeys(STATUSES, 0)
    for row in rows:
        counts[row.status] += 1
    return CrawlSummary(
        index=str(target.path),
        files=len(rows),
        counts=counts,
        **changes,
        deleted=len(survey.gone) - len(taken),
        moments=status.moments,
        seconds=sum(row.seconds for row in rows if row.status != "refused"),
        refused=tuple(Refused(path=str(row.full_path), reason=row.reason) for row in rows if row.status == "refused"),
    )
