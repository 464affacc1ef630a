"""A model applied to one file."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from lookhear.console import print_rows


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Show where in the picture the sound comes from, as a heat map over the frame."""

    media: tyro.conf.Positional[Path]
    """A video file with sound."""
    model: Path
    """A checkpoint or a run folder."""
    at: float = 0.0
    """The moment, in seconds on the file's clock."""
    out: Path = Path("heat.png")
    """The picture to write."""

    def run(self) -> None:
        """Writes the picture and prints its path and the place of the maximum."""
        from lookhear.tasks.localization import localize

        place = localize(self.media, model=self.model, at_seconds=self.at, out=self.out)
        print_rows([(self.out, f"{place.x:.3f}", f"{place.y:.3f}")])
