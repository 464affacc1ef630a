"""Trials of skimming: films named from few moments, read by a network that another trial trained."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookhear.config import to_dict
from lookhear.progress import Progress, quiet
from lookhear.study.trials import Outcome, add_seconds, name_of, run_folder

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.recipes.skimming import SkimRun

FILMS = "films"  # the name of the data, and of the folder of features beside the checkpoints that made them
LEARNED, JUDGED = ("train", "val"), "test"  # splits of the films


def embed_films(model: "Embedder", films: Path, folder: Path, *, progress: Progress = quiet) -> None:
    """Writes what `model`, trained in `folder`, says of each moment of the store `films`, for the trials that skim.

    Moments are windows side by side.
    """
    from lookhear.tasks.embed import embed

    out = folder / FILMS
    embed(films, out, model=model, what="pooled", hop_seconds=model.window_seconds, workers=0, progress=progress)


@dataclass(frozen=True, kw_only=True)
class Skimming:
    """A trial of one skimmer on the films that the trial `reader` embedded. `run.seed` is its seed."""

    row: str
    run: "SkimRun"
    reader: str  # the name of the trial whose network reads the moments
    films: Path  # the store of the films, with labels and splits
    films_digest: str
    data: str = FILMS

    @property
    def seed(self) -> int:
        """The run's."""
        return self.run.seed

    @property
    def needs(self) -> tuple[str, ...]:
        """Who reads."""
        return (self.reader,)

    def about(self) -> dict[str, Any]:
        """The run, the films, and who reads them."""
        return {"run": to_dict(self.run), "films": self.films_digest, "reader": self.reader}

    def run_in(self, out: Path) -> Outcome:
        """Trains the skimmer and lets it look at the films of the split test."""
        from lookhear.data.features import open_features
        from lookhear.models.checkpoint import load_checkpoint
        from lookhear.recipes.skimming import train_skimmer
        from lookhear.tasks.labels.skimming import evaluate_skimming
        from lookhear.tasks.labels.videos import video_labels

        embedded, folder = run_folder(out, self.reader) / FILMS, run_folder(out, name_of(self))
        features, labels = open_features(embedded), video_labels(self.films, embedded)
        begun = time.process_time()
        trained = train_skimmer(self.run, features, labels, folder)
        seconds = add_seconds(folder, time.process_time() - begun)
        begun = time.process_time()
        result = evaluate_skimming(trained.model, features, labels, splits=(JUDGED,))
        own = result.scores[0]  # in its own way of looking
        dense = next(score for score in result.scores if score.looks is None)
        parameters = load_checkpoint(trained.model).model.parameters()
        return Outcome(
            row=self.row,
            data=self.data,
            seed=self.seed,
            steps=trained.epochs * -(-trained.videos // self.run.data.batch_size),
            encoder_parameters=sum(value.numel() for value in parameters),
            gigaflops=None,
            train_seconds=seconds,
            judge_seconds=round(time.process_time() - begun, 1),
            figures={
                "names the film": own.accuracy,
                "average precision": own.mean_precision,
                "names it from all moments": dense.accuracy,
            },
            context={
                "films": float(result.videos),
                "moments of a film": result.moments,
                "looks": float(result.protocol["looks"]),
                "chance of naming": 1 / len(result.classes),
                "always the most frequent kind": result.majority,
            },
        )
