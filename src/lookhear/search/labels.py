"""`label`: what a classifier hears and sees in the files of an index, kept beside their moments; and search by name.

Labels belong to the bytes of a file, like moments: a copied or renamed file has them, a changed one has none until
`label` runs again, `forget` takes them away with the file, and an index that takes the place of another (`--beside`)
takes them over. The model of the index plays no part: a classifier cuts windows of its own, and the stretches to which
it gives one label are kept with the probability of the best window.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lookhear.data.stretch import StretchJob, decode_stretches
from lookhear.data.windows import WindowPlan
from lookhear.errors import MediaError, UserError, reason_of
from lookhear.media.workers import LimitedPool
from lookhear.progress import Progress, quiet
from lookhear.search.bucket import Place
from lookhear.search.crawl import MEMORY_LIMIT_BYTES, TIME_LIMIT_SECONDS
from lookhear.search.filters import Where, narrowed
from lookhear.search.index import Index
from lookhear.search.labelled import FileLabels, LabelledStretch, check_label, from_text, labels_between, to_text
from lookhear.search.library import LibraryFile
from lookhear.search.query import Hit, check_page
from lookhear.search.summary import Refused
from lookhear.search.survey import stat_of
from lookhear.search.tables import FileRow
from lookhear.tasks.labels.logits import classes_of, read_by
from lookhear.tasks.labels.moments import DEFAULT_THRESHOLD, check_choice, classify

if TYPE_CHECKING:
    from lookhear.embedder import Embedder

TOP_LABELS = 3
_WRITE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class LabelSummary:
    """What was labelled. Files with the same bytes are counted each."""

    index: str
    classifier: str  # its fingerprint
    files: int  # with moments
    labelled: int  # now
    unchanged: int  # labelled in this very way before
    stretches: int  # with a label, of all files
    left_out: tuple[Refused, ...]  # files that could not be read, and why


def label(
    model: "str | Path | Embedder",
    *,
    index_path: str | Place = "lookhear.index",
    top: int = TOP_LABELS,
    threshold: float = DEFAULT_THRESHOLD,
    classes: Sequence[str] | None = None,
    progress: Progress = quiet,
) -> LabelSummary:
    """Labels the files of an index with a classifier, those again that were labelled in another way.

    A window has at most `top` labels, of a probability of `threshold` at least (see `classify`); `classes` names the
    classes of a checkpoint that does not. Killed and run again, it goes on. A file that was changed or is gone since it
    was indexed, or that a decoder stumbles over, is left out. Raises CheckpointError for a model without classes,
    ConfigError for a `top` or `threshold` that makes no sense, IndexStateError while another process writes to the
    index.
    """
    check_choice(top, threshold)  # before anything is loaded or read
    from lookhear.embedder import loaded_model

    embedder = loaded_model(model)
    names = classes_of(embedder, classes)
    made_by = json.dumps([embedder.fingerprint, top, threshold, *names])
    target = Index(index_path)
    left_out: list[Refused] = []
    with target.writing():
        rows = [row for row in target.files() if row.num_moments]
        todo: dict[str, list[FileRow]] = {}
        for row in rows:
            known = from_text(row.labels)
            if known is None or known.made_by != made_by:
                todo.setdefault(row.file_id, []).append(row)
        num_labelled = 0
        with _Writing(target) as writing, _limited() as pool:
            for number, same in enumerate(todo.values()):
                progress(number, len(todo), same[0].path)
                try:
                    stretches = _stretches(same, embedder, names, pool, top=top, threshold=threshold)
                except MediaError as error:
                    left_out += [Refused(path=str(row.full_path), reason=str(error)) for row in same]
                    continue
                except UserError:
                    raise
                except Exception as error:  # whatever a decoder makes of a bad file: it is no reason to stop at it
                    left_out += [Refused(path=str(row.full_path), reason=reason_of(error)) for row in same]
                    continue
                labels = FileLabels(made_by=made_by, matched=read_by(embedder), stretches=stretches)
                writing.add([replace(row, labels=to_text(labels)) for row in same])
                num_labelled += len(same)
        progress(len(todo), len(todo), "")
        known_labels = [from_text(row.labels) for row in {row.file_id: row for row in target.files()}.values()]
    return LabelSummary(
        index=str(target.path),
        classifier=embedder.fingerprint,
        files=len(rows),
        labelled=num_labelled,
        unchanged=len(rows) - sum(map(len, todo.values())),
        stretches=sum(len(labels.stretches) for labels in known_labels if labels is not None),
        left_out=tuple(left_out),
    )


class _Writing:
    """Rows on their way into an index, written now and then and in the end, whatever ends it; a context manager."""

    def __init__(self, target: Index) -> None:
        self._target = target
        self._rows: list[FileRow] = []
        self._last_write = time.monotonic()

    def add(self, rows: Sequence[FileRow]) -> None:
        self._rows += rows
        if time.monotonic() - self._last_write >= _WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        rows, self._rows = self._rows, []
        self._target.write(rows)
        self._last_write = time.monotonic()

    def __enter__(self) -> "_Writing":
        return self

    def __exit__(self, *exception: object) -> None:
        self._write()


def _limited() -> LimitedPool:
    """One decoding process, which starts when it is needed."""
    return LimitedPool(1, time_limit_seconds=TIME_LIMIT_SECONDS, memory_limit_bytes=MEMORY_LIMIT_BYTES)


def _stretches(
    same: Sequence[FileRow],
    embedder: "Embedder",
    names: Sequence[str],
    pool: LimitedPool,
    *,
    top: int,
    threshold: float,
) -> tuple[LabelledStretch, ...]:
    """Of files with the same bytes. Raises MediaError.

    A crawl has decoded these bytes within its limits, so they are read in this process. Of partial ones it may be that
    some were beyond the limits: these are decoded in `pool` first.
    """
    there = [row for row in same if stat_of(row.full_path) == (row.size_bytes, row.mtime_ns)]
    if not there:
        raise MediaError(f"'{same[0].full_path}' was changed or is gone; run `lookhear index`, then label again")
    if there[0].status == "partial":
        _check_within_limits(there[0], embedder.plan(), pool)
    found = classify(there[0].full_path, model=embedder, top=top, threshold=threshold, classes=names)
    return tuple(
        LabelledStretch(
            label=moment.label,
            start_seconds=round(moment.start_seconds, 3),
            end_seconds=round(moment.end_seconds, 3),
            peak_seconds=round(moment.peak_seconds, 3),
            score=round(moment.score, 4),
        )
        for moment in found
    )


def _check_within_limits(row: FileRow, plan: WindowPlan, pool: LimitedPool) -> None:
    """Raises MediaError for a file at which a decoding process is stopped or dies."""
    job = StretchJob(rank=0, path=str(row.full_path), plan=plan, stretch=0, file_id=row.file_id)
    ((_, first),) = decode_stretches(pool, [job])
    further = (replace(job, stretch=number) for number in range(1, first.num_stretches))
    for refusal in (first.refusal, *(decoded.refusal for _, decoded in decode_stretches(pool, further))):
        if refusal:
            raise MediaError(f"'{row.full_path}': {refusal}", reason=refusal)


def find_label(
    index: Index,
    name: str,
    *,
    where: Where | None = None,
    top: int = 10,
    page: int = 1,
    at_least: float | None = None,
) -> list[Hit]:
    """The stretches with the label `name`, the most probable first, equal ones in the order of path and start.

    With a label in `where`, only those that have any seconds with that one, too. Their scores and cosines are the
    probabilities that the classifier gave, so `at_least` is one too. Raises IndexStateError where no file has such a
    label, or for a page that cannot be.
    """
    check_page(top, page)
    files, passes = narrowed(index.library().files, where)
    beside = None if where is None else where.label
    for asked in (name,) if beside is None else (name, beside):
        check_label(asked, [file.labels for file in files], index.path)
    found = [
        (file, stretch)
        for file, is_in in zip(files, passes.tolist(), strict=True)
        if is_in and file.labels is not None
        for stretch in file.labels.named(name)
        if at_least is None or stretch.score >= at_least
        if beside is None or _meets_any(stretch, file.labels.named(beside))
    ]
    found.sort(key=lambda pair: -pair[1].score)  # files are in the order of their paths, stretches in that of time
    return [_hit(file, stretch) for file, stretch in found[(page - 1) * top : page * top]]


def _meets_any(stretch: LabelledStretch, others: Sequence[LabelledStretch]) -> bool:
    return any(other.meets(stretch.start_seconds, stretch.end_seconds) for other in others)


def _hit(file: LibraryFile, stretch: LabelledStretch) -> Hit:
    assert file.labels is not None
    return Hit(
        path=str(file.path),
        start_seconds=stretch.start_seconds,
        end_seconds=stretch.end_seconds,
        peak_seconds=stretch.peak_seconds,
        score=stretch.score,
        cosine=stretch.score,
        matched=file.labels.matched,
        status=file.status,
        copies=tuple(map(str, file.copies)),
        labels=labels_between(file.labels, stretch.start_seconds, stretch.end_seconds),
    )
