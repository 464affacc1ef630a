"""Measuring a checkpoint where the truth is a place in the picture."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookhear.cli.arguments import Set
from lookhear.cli.results import give_result
from lookhear.config import override
from lookhear.console import show_progress
from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.progress import Progress
    from lookhear.tasks.localization.visibility import Visibility


@dataclass(frozen=True, kw_only=True)
class EvaluateLocalization:
    """Do heat maps lie on the object that sounds, and how often is "no visible source" wrong?"""

    model: str
    """A checkpoint or a run folder."""
    store: Path
    """The clips to test on."""
    truth: Path | None = None
    """A folder with truth.jsonl: the true boxes and event times."""
    boxes: Path | None = None
    """Instead of --truth: the VGG-SS JSON file, or the folder of Flickr-SoundNet XML files; clips go by file name."""
    ids: Path | None = None
    """A CSV file of Flickr-SoundNet test ids, in its first column: only these of --boxes are judged."""
    library: Path | None = None
    """A store of other clips, without labels: calibrates "no visible source", whose errors are then measured too."""
    share: float = 0.05
    """At most this share of the library's own pairs may be called invisible."""
    calibration: Path | None = None
    """With --library the file to keep the calibration in, for `localize`; without, the file to read it from."""
    settings: Set = ()
    """Change how maps are made, such as method=cosine or region_patches=2."""
    json: bool = False
    """Print everything as JSON."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, what was left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.data.store import Store
        from lookhear.tasks.localization.evaluation import evaluate_localization
        from lookhear.tasks.localization.heat import HeatConfig

        config, truth = override(HeatConfig(), self.settings), self._truth()
        loaded = embedder.load(self.model)
        with show_progress("clips") as progress:
            visibility = self._visibility(loaded, progress)
        with show_progress("maps") as progress:
            result = evaluate_localization(
                loaded, Store(self.store), truth, config=config, visibility=visibility, progress=progress
            )
        if self.library is not None and self.calibration is not None and visibility is not None:
            replace(visibility, measured=result.visibility).save(self.calibration)  # `localize` warns by these rates
        give_result("localization", result.to_dict(), as_json=self.json, out=self.out)

    def _truth(self) -> Any:
        from lookhear.media.scenes import load_truth
        from lookhear.tasks.localization.boxes import read_boxes

        if self.truth is not None and self.boxes is None and self.ids is None:
            return load_truth(self.truth)
        if self.boxes is not None and self.truth is None:
            return read_boxes(self.boxes, ids=self.ids)
        raise UserError(
            "give either --truth FOLDER (made scenes) or --boxes FILE (VGG-SS, or a folder for Flickr, with --ids)"
        )

    def _visibility(self, loaded: "Embedder", progress: "Progress") -> "Visibility | None":
        from lookhear.data.store import Store
        from lookhear.tasks.localization.visibility import Visibility, calibrate_visibility

        if self.library is None:
            return None if self.calibration is None else Visibility.load(self.calibration, loaded)
        library = Store(self.library)
        if library.digest == Store(self.store).digest:
            raise UserError(
                f"{self.library} holds the clips that are to be judged: a threshold set on them would look better than "
                "it is; give a --library of other clips"
            )
        found = calibrate_visibility(loaded, library, share=self.share, progress=progress)
        if self.calibration is not None:
            found.save(self.calibration)
        return found


@dataclass(frozen=True, kw_only=True)
class EvaluateSegmentation:
    """Are the pixels found of what a sound from elsewhere asks for? (ADE20K prompted by sound)"""

    model: str
    """A checkpoint or a run folder."""
    prompts: Path
    """The folder with prompted_segmentation.csv, frames, annotations and audio."""
    settings: Set = ()
    """Change how maps are made, such as method=cosine or region_patches=2."""
    json: bool = False
    """Print everything as JSON."""
    out: Path | None = None
    """A file for the whole result: figures, protocol, what was left out, the model's print."""

    def run(self) -> None:
        """Prints the figures."""
        from lookhear import embedder
        from lookhear.tasks.localization.boxes import read_prompts
        from lookhear.tasks.localization.heat import HeatConfig
        from lookhear.tasks.localization.prompted import evaluate_prompted_segmentation

        config, prompts = override(HeatConfig(), self.settings), read_prompts(self.prompts)
        with show_progress("prompts") as progress:
            result = evaluate_prompted_segmentation(
                embedder.load(self.model), prompts, config=config, progress=progress
            )
        give_result("segmentation", result.to_dict(), as_json=self.json, out=self.out)
