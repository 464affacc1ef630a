"""Folders crawled into an index beside them."""

from pathlib import Path

from lookhear.embedder import Embedder
from lookhear.search.crawl import CrawlSummary, index
from lookhear.search.index import FileRow, Index


def crawl(media: Path, embedder: Embedder, **options: object) -> CrawlSummary:
    settings = {"index_path": media.parent / "index", "workers": 0} | options
    return index([media], model=embedder, **settings)  # type: ignore[arg-type]


def by_path(media: Path) -> dict[str, FileRow]:
    return {row.path: row for row in Index(media.parent / "index").files()}
