"""A checkpoint in the published layout, with notes beside it of what that has no place for."""

from pathlib import Path

from lookhear.config import difference
from lookhear.errors import CheckpointError
from lookhear.models.checkpoint import LoadedCheckpoint
from lookhear.models.classifier import CAVMAEClassifierConfig
from lookhear.models.published import export_published, infer, to_published
from lookhear.models.published_notes import PublishedChoices, PublishedNotes, write_notes


def export_checkpoint(loaded: LoadedCheckpoint, path: Path | str) -> list[str]:
    """`export_published` of a checkpoint, and notes beside the file of what the layout has no place for.

    Returns what is lost all the same, a line for each setting: what the model has and what loading will take for it.
    Raises what `export_published` does, and CheckpointError where the notes cannot be written.
    """
    path = Path(path)
    export_published(loaded.model, path)
    config = loaded.config
    sizes = config.encoder if isinstance(config, CAVMAEClassifierConfig) else config
    learned_for = loaded.extra.get("objective", {})
    loss = learned_for.get("loss")
    choices = PublishedChoices(
        heads=sizes.heads,
        decoder_heads=sizes.decoder_heads if sizes.decoder_depth else None,
        num_mel_bins=sizes.num_mel_bins,
        keep_registers=getattr(sizes, "keep_registers", False),
        mode=getattr(config, "mode", None),
        normalise_patches=learned_for.get("normalise_patches"),
        loss=loss if loss in ("bce", "ce") else None,
    )
    extra = {name: value for name, value in loaded.extra.items() if name != "published_file"}
    notes = PublishedNotes(choices=choices, preprocess=loaded.preprocess, labels=loaded.labels, extra=extra)
    try:
        write_notes(path, notes)
    except OSError as error:
        raise CheckpointError(
            f"{path} is written, but not the notes beside it ({error.strerror or error}), without which it comes back "
            "as another model; make room and export it again"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in to_published(loaded.model).items()}
    name, again = infer(shapes, choices=choices, where=str(path))
    lines = difference(config, again, names=("here", "on loading"))
    return lines if name == loaded.name else [f"the model: here {loaded.name}, on loading {name}", *lines]
