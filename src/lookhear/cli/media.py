"""A model applied to one file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from lookhear.cli.arguments import IndexPlace, Seconds, Set
from lookhear.config import override
from lookhear.console import print_record, print_rows, show_progress
from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.embedder import Embedder
    from lookhear.tasks.localization.heat import HeatConfig
    from lookhear.tasks.localization.overlays import Place


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Show where in the picture the sound comes from; with --region, the reverse: what of the sound belongs there."""

    media: tyro.conf.Positional[Path]
    """A video file with sound."""
    model: str | None = None
    """A checkpoint or a run folder; without it the model of the index."""
    index: IndexPlace = "lookhear.index"
    """The index whose model is taken where no --model is given: a folder, or s3://BUCKET/FOLDER."""
    at: Seconds = 0.0
    """The moment, on the file's clock, as 12.5 or 1:02.5."""
    out: Path = Path("heat.png")
    """What to write: a picture, or with .mp4 a video of the stretch that begins there, with its sound. Nothing that
    is there already is replaced."""
    seconds: float | None = None
    """Length of the stretch, for a video (default: 5)."""
    maps_per_second: float | None = None
    """How many maps a second of video is made of, blended between (default: 2)."""
    region: str | None = None
    """left,top,right,bottom as fractions of the frame: show when, and at which pitch, that region is heard."""
    calibration: Path | None = None
    """A file from `evaluate localization --library`: says "no visible source" where sound and picture do not fit."""
    settings: Set = ()
    """Change how maps are made, such as method=cosine or region_patches=2."""
    json: bool = False
    """Print the places as JSON."""

    def run(self) -> None:
        """Writes the file and prints a line for each moment: time, x, y, score, and whether the source is visible."""
        from lookhear.tasks.localization.heat import HeatConfig
        from lookhear.tasks.localization.overlays import localize

        config = override(HeatConfig(), self.settings)
        if self.region is not None:
            self._reverse(config)
            return
        of_video = {"--seconds": self.seconds, "--maps-per-second": self.maps_per_second}
        given = [flag for flag, value in of_video.items() if value is not None]
        if given and self.out.suffix.lower() != ".mp4":
            raise UserError(f"{self.out} is a picture of one moment, which has no {', '.join(given)}; --out FILE.mp4")
        self._check_new()
        with show_progress("maps") as progress:
            places = localize(
                self.media,
                model=self._model(),
                at_seconds=self.at,
                out=self.out,
                seconds=5.0 if self.seconds is None else self.seconds,
                maps_per_second=2.0 if self.maps_per_second is None else self.maps_per_second,
                config=config,
                calibration=self.calibration,
                progress=progress,
            )
        if self.json:
            print_record({"out": str(self.out), "places": [asdict(place) for place in places]}, as_json=True)
        else:
            print_rows(map(_row, places))

    def _check_new(self) -> None:
        if self.out.exists():
            raise UserError(f"{self.out} is there already; name another file with --out, or move it away")

    def _model(self) -> "str | Path | Embedder":
        if self.model is not None:
            return self.model
        from lookhear.search.bucket import place_of
        from lookhear.search.facts import is_index
        from lookhear.search.index import Index

        if not is_index(place_of(self.index)):
            raise UserError(
                f"no model is named, and there is no index at {self.index} whose model could be taken; name a "
                "checkpoint or a run folder with --model, or an index with --index"
            )
        return Index(self.index).named_model()

    def _reverse(self, config: "HeatConfig") -> None:
        from lookhear.tasks.localization.overlays import localize_sound

        of_maps = {
            "--seconds": self.seconds,
            "--maps-per-second": self.maps_per_second,
            "--calibration": self.calibration,
        }
        given = [flag for flag, value in of_maps.items() if value is not None]
        if given:
            raise UserError(f"--region shows the sound of one moment, which has no {', '.join(given)}; leave that out")
        region = _numbers("--region", self.region or "")
        self._check_new()
        found = localize_sound(
            self.media, model=self._model(), at_seconds=self.at, region=region, out=self.out, config=config
        )
        record = {"out": str(self.out), "seconds": round(found.seconds, 3), "hertz": round(found.hertz, 1)}
        print_record(record, as_json=self.json)


def _row(place: "Place") -> tuple[str, ...]:
    answer = {True: "visible", False: "no visible source", None: "not calibrated"}[place.visible]
    where = ("", "") if place.visible is False else (f"{place.x:.3f}", f"{place.y:.3f}")
    return (f"{place.at_seconds:.2f}", *where, f"{place.score:.3f}", answer)


@dataclass(frozen=True, kw_only=True)
class Inpaint:
    """Remove part of the picture or the sound of a moment, let the model fill it in, and show before and after."""

    media: tyro.conf.Positional[Path]
    """A media file; what it lacks can be made from the other with visual=1 or audio=1."""
    model: str
    """A checkpoint with a decoder, or a run folder."""
    at: Seconds = 0.0
    """The moment, on the file's clock, as 12.5 or 1:02.5; the window around it is filled in."""
    out: Path = Path("inpainting")
    """A new or empty folder for the pictures and sounds."""
    picture_box: str | None = None
    """left,top,right,bottom as fractions of the frame: remove this, instead of a random share."""
    sound_box: str | None = None
    """from,to in seconds and from,to in Hz: remove this, instead of a random share."""
    settings: Set = ()
    """Change what is removed, such as audio=1 (all of the sound), visual=0, audio_structure=time, seed=3."""
    json: bool = False
    """Print the shares and losses as JSON."""

    def run(self) -> None:
        """Writes the files and prints the removed share and the loss of each modality."""
        from lookhear.tasks.inpainting import InpaintConfig, inpaint

        given = {"picture_box": self.picture_box, "sound_box": self.sound_box}
        boxes = {
            name: _numbers(f"--{name.replace('_', '-')}", text) for name, text in given.items() if text is not None
        }
        config = override(InpaintConfig(), [*self.settings, *(f"{name}={list(box)}" for name, box in boxes.items())])
        found = inpaint(self.media, model=self.model, at_seconds=self.at, out=self.out, config=config)
        record = {
            "out": str(self.out),
            "start_seconds": found.start_seconds,
            "picture": {"removed": found.picture.removed_share, "loss": found.picture.loss},
            "sound": {"removed": found.spectrogram.removed_share, "loss": found.spectrogram.loss},
        }
        print_record(record, as_json=self.json)


def _numbers(flag: str, text: str) -> tuple[float, float, float, float]:
    try:
        first, second, third, fourth = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"{flag} {text}: want four numbers with commas between, such as 0.2,0.3,0.6,0.9") from None
    return first, second, third, fourth
