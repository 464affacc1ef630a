"""Vectors of many files, for whatever comes after."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from lookhear.config import to_dict
from lookhear.console import print_record, show_progress


@dataclass(frozen=True, kw_only=True)
class Embed:
    """Write the embeddings of every window of a folder, file or store to disk, as arrays that numpy can map."""

    source: tyro.conf.Positional[Path]
    """A folder of media, one media file, or a prepared store."""
    model: str
    """A checkpoint or a run folder."""
    out: Path = Path("embeddings")
    """Where the arrays are written. A run that was stopped goes on where it was."""
    what: Literal["embedding", "pooled", "tokens"] = "embedding"
    """embedding: in the space that sound and picture share; pooled: before any head; tokens: everything, very large."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers on disk."""
    hop_seconds: float | None = None
    """From the start of a window to the next (default: half a window)."""
    workers: int = 2
    """How many decoding processes."""
    time_limit: float = 300.0
    """Seconds that decoding two minutes of a file may take; a file that takes longer is refused."""
    retry_refused: bool = False
    """Try files again that an earlier run refused, such as with a longer --time-limit."""
    json: bool = False
    """Print the summary as JSON."""

    def run(self) -> None:
        """Embeds and prints what became of the files."""
        from lookhear.tasks.embed import embed

        with show_progress("files") as progress:
            summary = embed(
                self.source,
                self.out,
                model=self.model,
                what=self.what,
                dtype=self.dtype,
                hop_seconds=self.hop_seconds,
                workers=self.workers,
                time_limit_seconds=self.time_limit,
                retry_refused=self.retry_refused,
                progress=progress,
            )
        print_record(to_dict(summary), as_json=self.json)
