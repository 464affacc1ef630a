"""`prepare`: any folder of media, or a list of files -> a manifest and a store.

How a store comes about, so that it may be killed at any moment and looks the same in the end:

1. source.jsonl is written: the configuration, and the size and time of change of every file.
2. Workers stage files: each file becomes a piece (tar members) and a record under staging/, whole or not at all. The
   name of a piece is a digest of the file's path, size, time, labels and the configuration, so that a piece is never
   taken for another; a file with a record is done.
3. When every file has a record, pieces are put one after another, in order of path, into shards of about 256 MB; a
   shard appears whole, then its pieces go.
4. manifest.jsonl and index.npz are written, store.json last; then staging/ goes.

Several runs with `shard=(i, n)` stage every n-th file each; the run that finds all pieces there does steps 3 and 4.
This module imports no torch: the start of `prepare` costs as little as it can.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from lookhear.config import difference, from_dict, to_dict
from lookhear.data.assemble import assemble
from lookhear.data.lists import ListOptions
from lookhear.data.manifest import STATUSES, FileLabels, json_line
from lookhear.data.staging import (
    StageJob,
    StageOutcome,
    appearing,
    record_path,
    stage_file,
    stage_refusal,
    write_error,
)
from lookhear.data.store import FORMAT, SOURCE_NAME, STORE_NAME, PrepareConfig, read_description
from lookhear.data.survey import SourceFile, survey
from lookhear.errors import StoreError, UserError
from lookhear.media.workers import Done, LimitedPool
from lookhear.progress import Progress, quiet

__all__ = ["PrepareConfig", "PrepareSummary", "prepare"]

STAGING_NAME = "staging"
# The time limit given is for files up to this size; each size class is this many times larger and has as much time.
_SMALL_FILE_BYTES = 8 << 20
_CLASS_FACTOR = 8


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What `prepare` found and made."""

    store: Path
    # files by status, over the whole store (over the files of this piece while others are missing)
    counts: dict[str, int]
    files: int
    clips: int = 0
    # length of all clips together
    seconds: float = 0.0
    # the store was there already, made from the same files
    nothing_to_do: bool = False
    # files that other `shard` pieces have yet to stage; the store is finished when there are none
    missing_files: int = 0


class _Pool(Protocol):
    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Done]: ...


def prepare(
    source: str | Path,
    store: str | Path,
    *,
    config: PrepareConfig | None = None,
    workers: int = 2,
    shard: tuple[int, int] = (0, 1),
    labels: Mapping[str, FileLabels] | None = None,
    list_options: ListOptions | None = None,
    executor: Literal["processes", "ray"] = "processes",
    time_limit_seconds: float = 120.0,
    memory_limit_bytes: int = 2 << 30,
    progress: Progress = quiet,
) -> PrepareSummary:
    """Makes the store `store` from a folder of media, one media file, or a list, as published (see `lists.read_list`).

    Every file found ends as a row of the manifest; a file that cannot be read, or takes longer than
    `time_limit_seconds` (more for files above 8 MB) or more memory than `memory_limit_bytes`, becomes a row that
    says so. May be stopped at any moment and run again: what was done is kept, and the result is the same bytes
    whatever the number of workers, interruptions and `shard` pieces. `shard=(i, n)` stages only the i-th of n parts
    (0 <= i < n), with all n runs writing to the same folder. `workers=0` decodes in this process, without limits.
    `labels` says what is known about files, by path relative to the source, beyond what a list says itself;
    `list_options` how a list is read and where its files are. In a CAV-MAE list a clip is a sound file and a picture
    file for each of up to F moments; its `path` is its video_id, all its pictures are kept (`frames_per_second` is not
    used), and their times are those of `pictures.picture_edges`.

    Raises StoreError if the store was made from other files or with another configuration, or cannot be written, and
    UserError if there are no files or the labels fit none of them.
    """
    config = config or PrepareConfig()
    number, count = shard
    if not 0 <= number < count:
        raise UserError(f"--shard {number}/{count} does not exist: the first of {count} pieces is 0/{count}")
    files = survey(Path(source), labels, list_options)
    store = Path(store)
    journal = _journal(config, files)
    if (store / STORE_NAME).exists():
        return _check_finished(store, files, journal)
    make_pool = _pools(executor, workers, time_limit_seconds, memory_limit_bytes)
    with _write_problems_explained(store):
        _begin(store, journal, alone=count == 1)
    jobs = [_job(store, file, config) for file in files]
    own = jobs[number::count]
    pending = [job for job in own if not record_path(Path(job.piece_path)).exists()]
    done = len(own) - len(pending)
    progress(done, len(own), "")
    try:
        for finished in _stage(store, pending, make_pool):
            done += 1
            progress(done, len(own), finished.name)
    except StoreError:
        if not (store / STORE_NAME).exists():  # otherwise another run finished it and has removed staging/
            raise
    missing = sum(not record_path(Path(job.piece_path)).exists() for job in jobs)
    if missing and not (store / STORE_NAME).exists():
        return PrepareSummary(store=store, counts=_count(own), files=len(own), missing_files=missing)
    with _write_problems_explained(store):
        try:
            if missing == 0:
                assemble(store, config, [Path(job.piece_path) for job in jobs])
        except (OSError, StoreError):
            if not (store / STORE_NAME).exists():  # otherwise another run finished at the same time
                raise
        _remove_staging(store)
    return _summary(store, nothing_to_do=False)


# ---- the journal: what the store is made from


def _journal(config: PrepareConfig, files: list[SourceFile]) -> bytes:
    head = {"format": FORMAT, "config": to_dict(config)}
    return b"".join([json_line(head), *(json_line(file.journal_entry()) for file in files)])


def _describe_change(store: Path, journal: bytes) -> str:
    """How the source or the configuration differs from what the store was begun with; empty if it does not."""
    path = store / SOURCE_NAME
    old = path.read_bytes()
    if old == journal:
        return ""
    heads = [json.loads(text.partition(b"\n")[0]) for text in (old, journal)]
    if heads[0]["format"] != FORMAT:
        return f"it has format {heads[0]['format']}, not {FORMAT}"
    if heads[0]["config"] != heads[1]["config"]:
        configs = [from_dict(PrepareConfig, head["config"]) for head in heads]
        return "; ".join(difference(configs[0], configs[1], names=("it has", "asked for")))
    before, after = (
        {entry["path"]: entry for entry in map(json.loads, text.splitlines()[1:])} for text in (old, journal)
    )
    kinds = {
        "new": sorted(after.keys() - before.keys()),
        "gone": sorted(before.keys() - after.keys()),
        "changed": sorted(name for name in before.keys() & after.keys() if before[name] != after[name]),
    }
    counted = {kind: f"{len(names)} {kind}" for kind, names in kinds.items() if names}
    return ", ".join(f"{text} (such as {kinds[kind][0]!r})" for kind, text in counted.items())


# ---- beginning, or going on


def _begin(store: Path, journal: bytes, *, alone: bool) -> None:
    """Makes the folder and the journal, or checks that the unfinished store that is there may be gone on with."""
    if (store / SOURCE_NAME).exists():
        change = _describe_change(store, journal)
        if not change:
            return
        same_config = journal.partition(b"\n")[0] == (store / SOURCE_NAME).read_bytes().partition(b"\n")[0]
        if not alone or not same_config:
            raise StoreError(
                f"the unfinished store {store} was begun with something else: {change}; "
                "finish it as it was begun, or delete its folder"
            )
        _forget_shards(store)
    elif store.exists() and not _may_become_store(store):
        raise StoreError(f"{store} exists and is no store; choose a new folder")
    store.mkdir(parents=True, exist_ok=True)
    with appearing(store / SOURCE_NAME, durable=True) as file:
        file.write(journal)


def _may_become_store(path: Path) -> bool:
    """Whether `path` is a folder without anything, or with what a run left that was killed at the very beginning."""
    if not path.is_dir():
        return False
    return all(entry.name.startswith(SOURCE_NAME) and entry.suffix == ".tmp" for entry in path.iterdir())


def _forget_shards(store: Path) -> None:
    """The source changed after shards were begun: they go, and so do the records whose pieces they had swallowed."""
    for path in store.glob("shard-*.tar"):
        path.unlink()
    for path in (store / STAGING_NAME).glob("*/*.json"):
        if not path.with_suffix(".tar").exists() and json.loads(path.read_bytes())["clips"]:
            path.unlink()


def _job(store: Path, file: SourceFile, config: PrepareConfig) -> StageJob:
    identity = json.dumps([FORMAT, file.journal_entry(), file.problem, to_dict(config)])
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return StageJob(
        media_path=str(file.path),
        name=file.name,
        size_bytes=file.size_bytes,
        labels=file.labels,
        config=config,
        piece_path=str(store / STAGING_NAME / key[:2] / f"{key}.tar"),
        problem=file.problem,
        pictures=file.pictures,
    )


# ---- staging


def _pools(
    executor: str, workers: int, time_limit_seconds: float, memory_limit_bytes: int
) -> Callable[[float], contextlib.AbstractContextManager[_Pool]]:
    """Makes a pool whose time limit is the given number of times `time_limit_seconds`."""
    if executor == "ray":
        from lookhear.data.cluster import RayPool, check_ray

        check_ray()
        return lambda factor: RayPool(
            workers, time_limit_seconds=factor * time_limit_seconds, memory_limit_bytes=memory_limit_bytes
        )
    return lambda factor: LimitedPool(
        workers, time_limit_seconds=factor * time_limit_seconds, memory_limit_bytes=memory_limit_bytes
    )


def _stage(
    store: Path, jobs: list[StageJob], make_pool: Callable[[float], contextlib.AbstractContextManager[_Pool]]
) -> Iterator[StageJob]:
    """Stages `jobs`, large files first and with more time; yields each job when it has its record."""
    classes: dict[int, list[StageJob]] = {}
    with _write_problems_explained(store):
        for folder in {Path(job.piece_path).parent for job in jobs}:
            folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        factor = 1
        while job.size_bytes > factor * _SMALL_FILE_BYTES:
            factor *= _CLASS_FACTOR
        classes.setdefault(factor, []).append(job)
    for factor in sorted(classes, reverse=True):
        with make_pool(factor) as pool:
            for done in pool.map(stage_file, classes[factor]):
                job, outcome = done.item, done.value
                assert isinstance(job, StageJob)
                if done.failure is not None:
                    with _write_problems_explained(store):
                        stage_refusal(job, done.failure)
                elif isinstance(outcome, StageOutcome) and outcome.write_problem:
                    raise StoreError(outcome.write_problem)
                yield job


# ---- ending


def _check_finished(store: Path, files: list[SourceFile], journal: bytes) -> PrepareSummary:
    read_description(store)
    try:
        change = _describe_change(store, journal)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{store / SOURCE_NAME} cannot be read ({error}); prepare into a new folder") from error
    if change:
        raise StoreError(
            f"the store {store} is finished and was made from something else: {change}; "
            "prepare into a new folder, or delete this one first"
        )
    _remove_staging(store)  # left there if an earlier run was stopped at the very end
    return _summary(store, nothing_to_do=True)


def _remove_staging(store: Path) -> None:
    """Renames first: a worker of a killed run that still writes there then fails, and nothing comes back."""
    staging = store / STAGING_NAME
    with contextlib.suppress(OSError):
        staging.rename(store / f"{STAGING_NAME}-{os.getpid()}")
    for folder in store.glob(f"{STAGING_NAME}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for path in store.glob("*.tmp"):
        path.unlink(missing_ok=True)


def _summary(store: Path, *, nothing_to_do: bool) -> PrepareSummary:
    description = read_description(store)
    return PrepareSummary(
        store=store,
        counts=description["counts"],
        files=description["files"],
        clips=description["clips"],
        seconds=description["seconds"],
        nothing_to_do=nothing_to_do,
    )


def _count(jobs: list[StageJob]) -> dict[str, int]:
    found = Counter(json.loads(record_path(Path(job.piece_path)).read_bytes())["row"]["status"] for job in jobs)
    return {status: found[status] for status in STATUSES}


@contextlib.contextmanager
def _write_problems_explained(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(store / STORE_NAME, error) from error
