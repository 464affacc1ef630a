"""`watch`: keeps an index up to date with folders, by looking at them again and again.

Polling works on every disk and network folder. A look reads names, sizes and times only; the index is opened when
something is new, changed or gone.
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lookhear.embedder import Embedder
from lookhear.errors import ConfigError, UserError
from lookhear.progress import Progress, quiet
from lookhear.search.bucket import Place, place_of
from lookhear.search.crawl import CrawlOptions, crawl, open_index
from lookhear.search.index import Index
from lookhear.search.summary import CrawlSummary
from lookhear.search.survey import Look, look_at, roots_of

EVERY_SECONDS = 10.0
SETTLE_SECONDS = 5.0


def watch(
    folders: Sequence[str | Path],
    *,
    stop: threading.Event,
    report: Callable[[CrawlSummary], None],
    complain: Callable[[str], None],
    model: "str | Path | Embedder | None" = None,
    index_path: str | Place = "lookhear.index",
    hop_seconds: float | None = None,
    every_seconds: float = EVERY_SECONDS,
    options: CrawlOptions | None = None,
    progress: Progress = quiet,
) -> None:
    """Crawls `folders` (see `index`) every `every_seconds` until `stop` is set, which also ends a crawl under way.

    `report` is called after every crawl that was needed, the first one included. A file that is still being written
    waits: one that was changed within the last `options.settle_seconds` (5), or that is not as the look before found
    it. What a user can mend (a folder that has vanished, another process that writes) goes to `complain`, once, and the
    next look tries again; at the first look it is raised.
    """
    if not every_seconds > 0:
        raise ConfigError(f"a look every {every_seconds:g} s is not possible; give seconds above 0")
    options = options or CrawlOptions(settle_seconds=SETTLE_SECONDS)
    roots = roots_of(folders or Index(place_of(index_path)).facts.libraries)
    target = open_index(place_of(index_path), model, hop_seconds)
    before: Look | None = None
    complaint = ""
    is_due = True
    while not stop.is_set():
        try:
            look = look_at(roots)
            if is_due or look != before:
                target.refresh()
                summary = crawl(target, roots, options, before=before, stop=stop.is_set, progress=progress)
                report(summary)
                is_due = bool(summary.waiting)
            before, complaint = look, ""
        except UserError as error:
            if before is None:
                raise
            if str(error) != complaint:
                complaint = str(error)
                complain(complaint)
            is_due = True
        stop.wait(every_seconds)
