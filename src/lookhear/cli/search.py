"""Archives: index, search, status."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from lookhear.config import to_dict
from lookhear.console import print_record, print_rows, show_progress


@dataclass(frozen=True, kw_only=True)
class IndexFolders:
    """Make or update a search index of folders. Only new and changed files are read."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """One folder or several."""
    model: str | None = None
    """A checkpoint or a run folder. An index remembers its model."""
    index: Path = Path("lookhear.index")
    """Where the index lies."""
    workers: int = 2
    """How many decoding processes."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Crawls and prints what became of the files."""
        from lookhear.search.crawl import index

        with show_progress("files") as progress:
            summary = index(
                self.folders, model=self.model, index_path=self.index, workers=self.workers, progress=progress
            )
        print_record(to_dict(summary), as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Search:
    """Find moments by a sound, a picture or a clip. Prints file, start, end, score."""

    sound: Path | None = None
    """A file with sound: where else does this sound, or where does it look like this?"""
    picture: Path | None = None
    """A picture: where else does it look like this, or where does it sound like this?"""
    clip: Path | None = None
    """A video: sound and picture together."""
    index: Path = Path("lookhear.index")
    """Where the index lies."""
    within: Annotated[Literal["sound", "picture", "both"], tyro.conf.arg(name="in")] = "both"
    """What of the library is compared: its sound, its pictures, or both."""
    top: int = 10
    """How many hits."""
    json: bool = False
    """Print the hits as JSON."""

    def run(self) -> None:
        """Searches and prints the hits, best first."""
        from lookhear.search.index import Index

        hits = Index(self.index).search(
            sound=self.sound, picture=self.picture, clip=self.clip, within=self.within, top=self.top
        )
        if self.json:
            print_record([to_dict(hit) for hit in hits], as_json=True)
        else:
            print_rows(
                [
                    (hit.path, f"{hit.start_seconds:.2f}", f"{hit.end_seconds:.2f}", f"{hit.score:.3f}", hit.matched)
                    for hit in hits
                ]
            )


@dataclass(frozen=True, kw_only=True)
class Status:
    """What an index holds: files by status, moments, its model, and the files that were skipped and why."""

    index: Path = Path("lookhear.index")
    """Where the index lies."""
    files: bool = False
    """Print a line for every file instead of the summary."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Prints the state of the index."""
        from lookhear.search.index import Index

        status = Index(self.index).status()
        if self.files and not self.json:
            print_rows([(row.path, row.status, row.reason) for row in status.files])
        else:
            record = to_dict(status)
            if not self.files:
                del record["files"]
            print_record(record, as_json=self.json)
