"""What a run's decoder makes of a few clips: original, masked, and filled in."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lookhear.errors import StoreError, UserError
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.report.figures import Stages, reconstruction
from lookhear.report.page import Figure
from lookhear.report.runs import RunLog
from lookhear.training.run import Run

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder
    from lookhear.tasks.inpainting import InpaintConfig, Inpainting


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Of one run: a figure for each clip, by its number in the store, and what they show or why there are none."""

    figures: Mapping[int, Figure]
    note: str


def reconstruct(log: RunLog, store: "Store", *, count: int) -> Reconstructions:
    """Fills in one window of `count` clips of `store`, masked as the run masks what it learns from.

    The clips are spread over the run's validation split, if it has one, else over the whole store; those without
    sound and picture at the same time are passed over. The model is what `lookhear.load` takes of the run. Nothing is
    raised for a run that cannot fill in: the note says why.
    """
    from lookhear.data.preprocess import check_store
    from lookhear.embedder import load

    try:
        run = Run.from_dict(log.config["run"])
        if not getattr(run.objective, "reconstruction_weight", 0.0):
            return Reconstructions(figures={}, note="This run does not learn to reconstruct.")
        embedder = load(log.folder, device="cpu")  # a GPU may be busy with the run itself
        check_store(store, embedder.preprocess.config)
        figures = dict(_figures(embedder, store, _as_learned(run.objective), _candidates(run, store), count))
    except UserError as error:
        return Reconstructions(figures={}, note=f"Nothing could be filled in: {error}.")
    if not figures:
        note = f"No clip of {store.path} has sound and picture at the same time, so there is nothing to fill in."
        return Reconstructions(figures={}, note=note)
    own = log.config["store"]["digest"] == store.digest
    return Reconstructions(figures=figures, note=_note(run, own_store=own))


def _as_learned(objective: CAVMAEObjectiveConfig) -> "InpaintConfig":
    """What to remove: as much, and in the same pattern, as in the run; half-way where it draws how much.

    The published share where it removes nothing.
    """
    from lookhear.tasks.inpainting import InpaintConfig

    mask, drawn = objective.mask, objective.mask_ratio_range
    audio, visual = (mask.audio, mask.visual) if drawn is None else (sum(drawn) / 2, sum(drawn) / 2)
    return InpaintConfig(
        audio=audio if audio or visual else None,
        visual=visual if audio or visual else None,
        audio_structure=mask.audio_structure,
        visual_structure=mask.visual_structure,
        patch_statistics="true" if objective.normalise_patches else "predicted",
    )


def _candidates(run: Run, store: "Store") -> np.ndarray:
    """int64: the clips to choose from."""
    with contextlib.suppress(StoreError):  # another store need not have that split
        if run.data.validation_split is not None:
            return store.clips_in_split(run.data.validation_split)
    return np.arange(len(store))


def _figures(
    embedder: "Embedder", store: "Store", config: "InpaintConfig", candidates: np.ndarray, count: int
) -> Iterator[tuple[int, Figure]]:
    from lookhear.tasks.inpainting import fill_in
    from lookhear.tasks.windows import LeftOut, cut_clip

    # one of each of `count` stretches, or the first after it that has both sound and picture
    for stretch in np.array_split(candidates, min(count, len(candidates))):
        for index in stretch:
            cut = cut_clip(embedder, store, int(index), num_windows=1)
            if not isinstance(cut, LeftOut):
                middle = float(cut.start_seconds[0]) + embedder.window_seconds / 2
                filled = fill_in(embedder, cut.clip, middle, config)
                yield int(index), _figure(embedder, store.clips[int(index)].path, filled)
                break


def _figure(embedder: "Embedder", path: str, found: "Inpainting") -> Figure:
    picture, heard = found.picture, found.spectrogram
    assert picture.before is not None
    assert heard.before is not None  # the clip has both
    losses = (("picture", picture), ("sound", heard))
    said = [f"{name} {filled.loss:.3f}" for name, filled in losses if filled.loss is not None]
    return reconstruction(
        Stages(
            pictures=(picture.before, picture.masked, picture.after),
            spectrograms=(heard.before, heard.masked, heard.after),
            removed=heard.removed,
            seconds=found.end_seconds - found.start_seconds,
            edges_hz=embedder.preprocess.config.mel_edges_hz,
        ),
        title=f"{path}, {found.start_seconds:.2f}–{found.end_seconds:.2f} s",
        caption=f"Mean squared error over what was removed: {', '.join(said)}." if said else "",
    )


def _note(run: Run, *, own_store: bool) -> str:
    split = run.data.validation_split
    parts = [
        f"Clips of {'the store that the run learns from' if own_store else 'a store that the run did not learn from'}",
        f" (its split {split}, which is not learned from)." if own_store and split else ".",
        " What was visible is shown as it was.",
    ]
    if run.objective.normalise_patches:
        parts.append(
            " This run predicts each patch with its own mean and deviation taken out; brightness, contrast and "
            "loudness of a patch are those of the original."
        )
    return "".join(parts)
