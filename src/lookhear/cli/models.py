"""Weights: those that are published, those on the hub, and what a file of weights holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lookhear.cli.arguments import Set
from lookhear.config import override, to_dict
from lookhear.console import print_record, print_rows, say, show_progress


@dataclass(frozen=True, kw_only=True)
class ListWeights:
    """Name the public weights that are known, with kind, licence and what they are for."""

    json: bool = False
    """Print everything that is known of each, as JSON."""

    def run(self) -> None:
        """Prints a line for each."""
        from lookhear.models.weights import WEIGHTS

        if self.json:
            print_record([to_dict(weights) for weights in WEIGHTS.values()], as_json=True)
            return
        unknown = "not known"
        rows = [
            (w.name, w.kind, w.size_bytes or unknown, w.sha256 or unknown, w.licence, w.purpose, w.source)
            for w in WEIGHTS.values()
        ]
        print_rows([("name", "kind", "bytes", "sha256", "licence", "what for", "source"), *rows])


@dataclass(frozen=True, kw_only=True)
class FetchWeights:
    """Download public weights by name, or a file by its address; what broke off goes on where it was."""

    name: tyro.conf.Positional[str]
    """A name that `models list` prints, or an http(s) address."""
    folder: Path | None = None
    """Where to keep the file (default: $LOOKHEAR_CACHE, or .cache/lookhear in the home folder)."""
    sha256: str | None = None
    """What the file at an address must have."""
    accept_unverified: bool = False
    """Download also where nobody stated a sha256; the hash of what came is printed, and kept for the next time."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Downloads and prints where the file lies and its sha256."""
        from lookhear.models.fetch import fetch

        with show_progress("bytes") as progress:
            found = fetch(
                self.name,
                self.folder,
                sha256=self.sha256,
                accept_unverified=self.accept_unverified,
                progress=progress,
            )
        if not found.verified:
            say(f"not verified: nobody stated a sha256 for {self.name}; its hash is kept beside it")
        print_record({**to_dict(found), "path": str(found.path)}, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class PushModel:
    """Upload a checkpoint to the Hugging Face hub, with a model card made from what it says of itself."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint or a run folder."""
    name: tyro.conf.Positional[str]
    """user/model; it is made if it is not there."""
    licence: str = "unknown"
    """Of the weights, as the hub names it, such as apache-2.0 or cc-by-nc-4.0."""
    private: bool = False
    """For you alone, if it is made now."""

    def run(self) -> None:
        """Uploads and prints the address."""
        from lookhear.hub import push

        print_rows([(push(self.checkpoint, self.name, licence=self.licence, private=self.private),)])


@dataclass(frozen=True, kw_only=True)
class ExportModel:
    """Write a CAV-MAE, classifier or CAV-MAE Sync in the published .pth layout, which the published code reads."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint, a run folder, a published file, the name of weights that were fetched, or user/model on the hub."""
    out: tyro.conf.Positional[Path]
    """The .pth file to write."""
    settings: Set = ()
    """What a published file does not show, such as heads=8."""

    def run(self) -> None:
        """Writes the file and prints its path."""
        from lookhear.models.export import export_checkpoint
        from lookhear.models.published_notes import notes_path

        lost = export_checkpoint(_open(self.checkpoint, self.settings), self.out)
        say(
            f"the published layout has no place for attention heads, preprocessing and labels: they are in "
            f"{notes_path(self.out)}, which lookhear reads with the file; keep the two together"
        )
        if lost:
            say(f"lost: {'; '.join(lost)}")
        print_rows([(self.out,)])


@dataclass(frozen=True, kw_only=True)
class ShowModel:
    """Say what a file of weights holds: its model, sizes, preprocessing, labels and fingerprint."""

    checkpoint: tyro.conf.Positional[str]
    """A checkpoint, a run folder, a published file, the name of weights that were fetched, or user/model on the hub."""
    tensors: bool = False
    """Name every tensor and its shape."""
    settings: Set = ()
    """What a published file does not show, such as heads=8."""
    json: bool = False
    """Print as JSON."""

    def run(self) -> None:
        """Prints a line for each fact."""
        from lookhear.models.checkpoint import describe

        record = describe(_open(self.checkpoint, self.settings), tensors=self.tensors)
        print_record(record, as_json=self.json)


@dataclass(frozen=True, kw_only=True)
class Models:
    """Weights: list and fetch those that are published, push your own, export and show files."""

    action: tyro.conf.OmitSubcommandPrefixes[
        Annotated[ListWeights, tyro.conf.subcommand("list")]
        | Annotated[FetchWeights, tyro.conf.subcommand("fetch")]
        | Annotated[PushModel, tyro.conf.subcommand("push")]
        | Annotated[ExportModel, tyro.conf.subcommand("export")]
        | Annotated[ShowModel, tyro.conf.subcommand("show")]
    ]

    def run(self) -> None:
        """Runs the chosen action."""
        self.action.run()


def _open(name: str, settings: tuple[str, ...]) -> Any:
    from lookhear.hub import open_weights
    from lookhear.models.published import PublishedChoices

    return open_weights(name, choices=override(PublishedChoices(), settings) if settings else None)
