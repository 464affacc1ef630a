"""`embed`: a folder of media, one file or a prepared store -> vectors on disk, in constant memory.

Files are decoded in limited child processes, a stretch of some two minutes at a time, ahead of the model; what it says
goes to disk at once. Files are taken in order of their paths, windows of several files share a batch, and batches and
shards begin and end together. So a run that was killed and went on writes the same bytes as one that was not.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lookhear.config import to_dict
from lookhear.data.manifest import STATUSES
from lookhear.data.preprocess import check_store
from lookhear.data.sampling import window_starts
from lookhear.data.store import STORE_NAME, Store
from lookhear.data.stretch import Decoded, Gathered, StretchJob, Verdict, decode_stretches
from lookhear.data.vectors import Dtype, EmbeddedFile, EmbeddingFacts, Part, latest
from lookhear.data.windows import WindowPlan, Windows, cut_windows, join_windows
from lookhear.embedder import Embedder, loaded_model
from lookhear.errors import ConfigError, MediaError, StoreError
from lookhear.media.probe import find_media
from lookhear.media.workers import LimitedPool
from lookhear.progress import Progress, quiet
from lookhear.tasks.vectors import ShardWriter, writing
from lookhear.tasks.windows import read_clip_windows

TIME_LIMIT_SECONDS = 300.0
# A shard ends with the file that fills it: a kill costs no more than a shard.
_SHARD_FILES = 256
_SHARD_WINDOWS: dict[Part, int] = {"embedding": 4096, "pooled": 4096, "tokens": 256}


@dataclass(frozen=True, kw_only=True)
class RefusedFile:
    """A file that could not be embedded, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EmbedSummary:
    """What became of the files, those of earlier runs included."""

    out: str
    files: int
    counts: dict[str, int]  # of them, by status: ok, picture_only, sound_only, partial, refused
    windows: int
    done_before: int  # files that an earlier run had embedded
    refused: tuple[RefusedFile, ...]


def embed(
    source: str | Path,
    out: str | Path,
    *,
    model: "str | Path | Embedder",
    what: Part = "embedding",
    dtype: Dtype = "float32",
    hop_seconds: float | None = None,
    workers: int = 2,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    retry_refused: bool = False,
    progress: Progress = quiet,
) -> EmbedSummary:
    """Embeds every window of every file of `source` into the folder `out`; `read_embeddings(out)` gives them back.

    `source` is a folder of media, one media file, or a store. `what`: `embedding` float (E,) of unit length in the
    shared space, `pooled` (D,) before any head, or all `tokens` (L, D), which are hundreds of times as much. Windows
    follow each other by `hop_seconds` (None: half a window) and cover each file, as `Embedder.embed` has them.

    Every file has a row in the end, refused ones with a reason. Run again after a kill, it goes on; run again when it
    is done, it takes only files that are new, or were refused and have changed since; with `retry_refused` all that
    were refused. `time_limit_seconds` is for decoding a stretch of two minutes; `workers=0` decodes in this process,
    without limits.

    Raises StoreError where `out` holds something else or vectors made in another way (another model, `what`, `dtype`,
    precision, hop, source or content of a store), a file was changed since it was embedded, another process is writing
    there, or `out` cannot be written; MediaError for a source without media; ConfigError for a hop or a limit that is
    not above 0.
    """
    source, out = Path(source), Path(out)
    if not time_limit_seconds > 0:
        raise ConfigError(f"nothing can be decoded in {time_limit_seconds:g} s; give a time limit above 0")
    embedder = loaded_model(model)
    plan = embedder.plan(hop_seconds=hop_seconds)
    entries = _StoredClips(embedder, plan, source) if _is_store(source) else _MediaFiles(plan, source)
    facts = EmbeddingFacts(
        source=str(source.resolve()),
        store_digest=entries.digest,
        fingerprint=embedder.fingerprint,
        what=what,
        dtype=dtype,
        precision=str(embedder.dtype).removeprefix("torch."),
        window_seconds=embedder.window_seconds,
        hop_seconds=plan.hop_seconds,
        preprocess=to_dict(embedder.preprocess.config),
    )
    with writing(out, facts) as done:
        todo = _not_done(entries.entries, latest(done), out, retry_refused=retry_refused)
        shards = _Writing(out, embedder, facts, number=done[-1].shard + 1 if done else 0)
        num_before = len(entries.entries) - len(todo)
        try:
            with LimitedPool(workers, time_limit_seconds=time_limit_seconds) as pool:
                pieces = entries.read(pool, todo)
                for position, entry in enumerate(todo):
                    progress(num_before + position, len(entries.entries), entry.path)
                    verdict = next(pieces)
                    while isinstance(verdict, Windows):
                        shards.add(verdict)
                        verdict = next(pieces)
                    shards.end(entry, verdict)
            shards.close()
        except OSError as error:  # a full disk; what is wrong with a file is in its row
            raise StoreError(
                f"cannot write {out}: {error.strerror or error}; mend that, and the same command goes on there"
            ) from error
    progress(len(entries.entries), len(entries.entries), "")
    again = {entry.path for entry in todo}
    return _summary(
        out, latest([*done, *shards.files]), num_before=sum(file.path not in again for file in latest(done))
    )


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A file, or a clip of a store, that is to be embedded."""

    path: str  # relative to the source; of a store the id of the clip
    full_path: Path
    size_bytes: int = 0
    mtime_ns: int = 0
    problem: str = ""  # why it must not be opened


def _not_done(
    entries: Sequence[_Entry], done: Sequence[EmbeddedFile], out: Path, *, retry_refused: bool
) -> list[_Entry]:
    """New files, and refused ones (which have no vectors) that have changed or are to be tried again."""
    known = {file.path: file for file in done}
    todo = []
    for entry in entries:
        before = known.get(entry.path)
        changed = before and (before.size_bytes, before.mtime_ns) != (entry.size_bytes, entry.mtime_ns)
        if before is None or (before.status == "refused" and (changed or retry_refused)):
            todo.append(entry)
        elif changed:
            raise StoreError(
                f"{entry.path} has changed since it was embedded into {out}; choose another folder (--out)"
            )
    return todo


# ---- where windows come from


class _MediaFiles:
    """The files of a folder, or one file."""

    digest = ""  # each file tells by itself whether it has changed

    def __init__(self, plan: WindowPlan, source: Path) -> None:
        self._plan = plan
        if source.is_dir():
            self.entries = [_entry(found.relative, found.path, found.problem) for found in find_media(source)]
        elif source.exists():
            self.entries = [_entry(source.name, source, "")]
        else:
            raise MediaError(f"{source} does not exist; name a folder of media, a media file or a store")
        if not self.entries:
            raise MediaError(f"{source} holds no media, so there is nothing to embed")

    def read(self, pool: LimitedPool, entries: Sequence[_Entry]) -> Iterator[Windows | Verdict]:
        """For each entry its windows, stretch by stretch, and then what became of it."""
        firsts = decode_stretches(pool, (self._job(entry, 0) for entry in entries if not entry.problem))
        for entry in entries:
            if entry.problem:
                yield Verdict(status="refused", reason=entry.problem)
            else:
                yield from self._file(pool, entry, next(firsts)[1])

    def _job(self, entry: _Entry, stretch: int) -> StretchJob:
        return StretchJob(rank=0, path=str(entry.full_path), plan=self._plan, stretch=stretch)

    def _file(self, pool: LimitedPool, entry: _Entry, first: Decoded) -> Iterator[Windows | Verdict]:
        gathered = Gathered()
        yield from gathered.take(first)
        further = (self._job(entry, number) for number in range(1, first.num_stretches))
        for _, decoded in decode_stretches(pool, further):
            yield from gathered.take(decoded)
        yield gathered.verdict()


class _StoredClips:
    """The clips of a store."""

    def __init__(self, embedder: Embedder, plan: WindowPlan, source: Path) -> None:
        self._embedder, self._plan = embedder, plan
        self._store = store = Store(source)
        self.digest = store.digest
        check_store(store, embedder.preprocess.config, picture=any(clip.has_picture for clip in store.clips))
        self.entries = [_Entry(path=clip.clip_id, full_path=source / clip.path) for clip in store.clips]
        self._index = {clip.clip_id: clip.index for clip in store.clips}

    def read(self, pool: LimitedPool, entries: Sequence[_Entry]) -> Iterator[Windows | Verdict]:
        """For each entry its windows, and then what became of it. Pictures of a store are quick to read: no `pool`."""
        config = self._embedder.preprocess.config
        for entry in entries:
            stored = self._store.clips[self._index[entry.path]]
            starts = window_starts(
                stored.start_seconds,
                stored.end_seconds,
                window_seconds=config.window_seconds,
                hop_seconds=self._plan.hop_seconds,
            )
            clip = read_clip_windows(self._embedder, self._store, stored.index, starts)
            decoded = Decoded(
                has_video=stored.has_picture, has_audio=stored.has_sound, windows=(cut_windows(config, clip, starts),)
            )
            gathered = Gathered()
            yield from gathered.take(decoded)
            yield gathered.verdict()


def _entry(path: str, full_path: Path, problem: str) -> _Entry:
    size, mtime = 0, 0
    if not problem:
        try:
            status = full_path.stat()
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            size, mtime = status.st_size, status.st_mtime_ns
    return _Entry(path=path, full_path=full_path, size_bytes=size, mtime_ns=mtime, problem=problem)


def _is_store(source: Path) -> bool:
    return (source / STORE_NAME).is_file()


# ---- where vectors go


class _Writing:
    """Embeds windows in batches over files, and fills shards."""

    def __init__(self, out: Path, embedder: Embedder, facts: EmbeddingFacts, *, number: int) -> None:
        self.files: list[EmbeddedFile] = []
        self._out, self._embedder, self._facts, self._number = out, embedder, facts, number
        self._shard: ShardWriter | None = None
        self._waiting: list[Windows] = []
        self._num_of_file = 0

    def add(self, windows: Windows) -> None:
        """Windows of the file that is under way; those with neither sound nor picture are dropped."""
        present = windows.has_sound | windows.has_picture
        if not present.any():
            return
        self._num_of_file += int(present.sum())
        self._waiting.append(Windows(**{name: rows[present] for name, rows in vars(windows).items()}))
        if self._num_waiting >= self._embedder.batch_size:
            self._flush()

    def end(self, entry: _Entry, verdict: Verdict) -> None:
        """The file is complete."""
        file = EmbeddedFile(
            path=entry.path,
            status=verdict.status,
            reason=verdict.reason,
            num_rows=self._num_of_file,
            size_bytes=entry.size_bytes,
            mtime_ns=entry.mtime_ns,
        )
        shard = self._open()
        self.files.append(shard.add_file(file))
        self._num_of_file = 0
        if shard.num_rows + self._num_waiting >= _SHARD_WINDOWS[self._facts.what] or shard.num_files >= _SHARD_FILES:
            self.close()

    def close(self) -> None:
        """Ends the shard, if there is one."""
        if self._shard is not None:
            self._flush()
            self._shard.finish()
            self._shard = None
            self._number += 1

    @property
    def _num_waiting(self) -> int:
        return sum(len(windows) for windows in self._waiting)

    def _open(self) -> ShardWriter:
        if self._shard is None:
            self._shard = ShardWriter(self._out, self._number, dtype=self._facts.dtype)
        return self._shard

    def _flush(self) -> None:
        if not self._waiting:
            return
        windows, self._waiting = join_windows(self._waiting), []
        self._open().add_rows(
            np.stack([windows.start_seconds, windows.end_seconds], axis=1),
            self._embedder.window_rows(windows, "audio", self._facts.what),
            self._embedder.window_rows(windows, "visual", self._facts.what),
        )


def _summary(out: Path, files: Sequence[EmbeddedFile], *, num_before: int) -> EmbedSummary:
    found = Counter(file.status for file in files)
    return EmbedSummary(
        out=str(out),
        files=len(files),
        counts={status: found[status] for status in STATUSES},
        windows=sum(file.num_rows for file in files),
        done_before=num_before,
        refused=tuple(RefusedFile(path=file.path, reason=file.reason) for file in files if file.status == "refused"),
    )
