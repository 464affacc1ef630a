"""What a published file does not show, and a JSON file beside it that says it: FILE.pth.json for FILE.pth.

Export writes one, so that what is exported comes back as it was; for files from elsewhere it is written by hand. All
parts may be left out: `choices` (see `PublishedChoices`), `preprocess` (names of PreprocessConfig; what is missing is
as published), `labels` (one a class, in order), `extra` (what a checkpoint keeps beside its weights).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lookhear.config import from_dict, to_dict
from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.classifier import Mode

SUFFIX = ".json"


@dataclass(frozen=True, kw_only=True)
class PublishedChoices:
    """What a published file does not show. None takes the published value."""

    heads: int | None = None
    """attention heads of the encoder; width / 64 if None"""
    decoder_heads: int | None = None
    """attention heads of the decoder; its width / 32 if None"""
    num_mel_bins: int = 128
    """mel bins of the spectrogram"""
    picture_size: tuple[int, int] | None = None
    """height and width in pixels; the square that has as many patches if None"""
    keep_registers: bool = False
    """whether registers pass through the joint blocks"""
    mode: Mode | None = None
    """what a classifier reads where a call names no mode; whatever towers it has if None"""
    normalise_patches: bool | None = None
    """whether the decoder learned patches with their own mean and deviation taken out; not known if None"""
    loss: Literal["bce", "ce"] | None = None
    """a classifier's: of classes that go together (bce), or of which a clip has one (ce); not known if None"""

    @property
    def objective(self) -> dict[str, Any]:
        """What the file was trained for, under the names that checkpoints of ours have for it; only what is known."""
        said = {"normalise_patches": self.normalise_patches, "loss": self.loss}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PublishedNotes:
    """The contents of FILE.pth.json."""

    choices: PublishedChoices = field(default_factory=PublishedChoices)
    preprocess: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def notes_path(path: Path) -> Path:
    """Where the notes of the published file `path` lie."""
    return path.with_name(path.name + SUFFIX)


def read_notes(path: Path) -> PublishedNotes | None:
    """The notes beside the published file `path`; None where there are none. Raises CheckpointError for others."""
    place = notes_path(path)
    try:
        return from_dict(PublishedNotes, json.loads(place.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(
            f"{place} is to say what {path.name} does not show, and cannot be read ({error}); mend it, or move it away "
            "to take the published values"
        ) from None


def write_notes(path: Path, notes: PublishedNotes) -> Path:
    """Writes the notes of the published file `path`; returns where they lie."""
    place = notes_path(path)
    beside = place.with_name(f".{place.name}.part")
    beside.write_text(json.dumps(to_dict(notes), indent=1) + "\n", encoding="utf-8")
    beside.replace(place)
    return place
