"""The run folder: what a run is, where it stands, and how it goes on after a kill.

    run.json                        format number, the run, the data it learns from, the preprocessing as measured
    initial.json                    what the model took from the weights it started from, where the run names some
    journal.jsonl, speed.jsonl      see journal.py
    checkpoints/step-N/model.safetensors    the model after N steps, which `lookhear.load` reads
    checkpoints/step-N/state/training.pt    optimiser, objective and sums of weights, which only resuming reads
    checkpoints/average/model.safetensors   the mean over epochs, where the run asks for one, from the last of them on
    best.json                       the best step, by the number that the run chooses by

A checkpoint folder appears whole or not at all.
"""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lookhear import distributed
from lookhear.config import difference, from_dict, to_dict
from lookhear.data.preprocess import PreprocessConfig, measure_statistics
from lookhear.data.store import Store
from lookhear.errors import CheckpointError, UserError
from lookhear.models.checkpoint import AVERAGE_NAME, BEST_NAME, MODELS, load_checkpoint, save_checkpoint
from lookhear.models.initial import initialise_from
from lookhear.models.weights import locate
from lookhear.objectives.step import Objective
from lookhear.training.average import WeightAverage
from lookhear.training.journal import JOURNAL, SPEED, cut_back
from lookhear.training.optim import build_optimizer, freeze_encoder, training_mode
from lookhear.training.run import OPERATIONAL, Run, model_kind
from lookhear.training.selection import Best

FORMAT = 1
_CHECKPOINTS = "checkpoints"
_MODEL = "model.safetensors"
INITIAL = "initial.json"
AVERAGE = Path(_CHECKPOINTS) / AVERAGE_NAME / _MODEL
_STATE = Path("state") / "training.pt"


@dataclass(kw_only=True)
class State:
    """What training changes: all of it is in a checkpoint."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int  # how many are done
    average: WeightAverage | None = None  # of the ends of epochs, where the run wants one; on rank 0, which writes it
    best: Best | None = None  # where the run chooses one

    @property
    def parts(self) -> tuple[nn.Module, nn.Module]:
        """The modules that are trained."""
        return self.model, self.objective


def open_run_folder(run: Run, store: Store, folder: Path) -> PreprocessConfig:
    """Writes run.json into a new `folder`, or checks that the one there is of the same run on the same data.

    Returns the preprocessing of the run, measured on the store if the run says so. Raises UserError with the
    differences where the folder belongs to another run.
    """
    path = folder / "run.json"
    if distributed.rank() == 0 and not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror or error}") from None
        preprocess = run.preprocess
        if run.data.measure_statistics:
            preprocess = measure_statistics(store, preprocess, seed=run.seed, indices=run.data.clips_of(store))
        values = {
            "format": FORMAT,
            "run": run.to_dict(),
            "store": {"digest": store.digest, "clips": len(store)},
            "preprocess": to_dict(preprocess),
        }
        _write_text(path, json.dumps(values, indent=2) + "\n")
    distributed.barrier()
    saved = read_run_json(folder)
    asked = {"run": run.to_dict(), "store": {"digest": store.digest, "clips": len(store)}}
    lines = [
        line
        for line in difference({name: saved[name] for name in asked}, asked)
        if line.partition(":")[0].removeprefix("run.") not in OPERATIONAL
    ]
    if lines:
        raise UserError(
            f"{folder} belongs to another run ({'; '.join(lines)}); give the settings it was started with to resume "
            "it, or another folder for a new run"
        )
    return from_dict(PreprocessConfig, saved["preprocess"], where="preprocess.")


def read_run_json(folder: Path) -> dict[str, Any]:
    """The contents of a run folder's run.json. Raises UserError where it is missing, damaged or of another format."""
    path = folder / "run.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise UserError(f"{path} has format {values['format']}, this lookhear reads {FORMAT}")
    except FileNotFoundError:
        raise UserError(f"{folder} is no run folder: it has no run.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); start a new run in another folder") from None
    return values


def read_run(folder: Path) -> Run:
    """The run that a run folder holds, so that it can be resumed without its recipe."""
    return Run.from_dict(read_run_json(folder)["run"])


def start_or_resume(
    run: Run, folder: Path, device: torch.device, *, instances: Tensor, classes: Sequence[str], store_digest: str
) -> State:
    """The state after the newest checkpoint in `folder`, or a new one; the journal is cut back to it.

    `instances` are the clips that are learned from, int64 (n,) ranks in the store, ascending. A new state starts from
    `run.initial`, if that names weights, and takes over what the objective of that run knows of the same store (its
    memory banks); a resumed one does not look at them again.
    """
    newest = newest_checkpoint(folder)
    if newest is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            model = MODELS[model_kind(run.model)][1](run.model)
        if run.initial is not None:
            taken = initialise_from(model, run.initial, labels=classes if run.num_classes else ())
            if distributed.rank() == 0:
                _write_text(folder / INITIAL, json.dumps(to_dict(taken), indent=2) + "\n")
    else:
        model = load_checkpoint(newest / _MODEL).model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed + 1)
        objective = run.objective.build(model, num_instances=len(instances), num_classes=len(classes))
    objective.learns_from(instances)
    if newest is None and run.initial is not None:
        earlier = _earlier_objective(run.initial, store_digest)
        if earlier is not None:
            objective.take_over(earlier)
    model.to(device)
    objective.to(device).train()
    freeze_encoder(run.optim, model)
    training_mode(model)
    state = State(
        model=model,
        objective=objective,
        optimizer=build_optimizer(run.optim, [model, objective]),
        step=0,
        average=WeightAverage(*run.average_epochs) if run.average_epochs and distributed.rank() == 0 else None,
    )
    if newest is not None:
        _load_state(state, newest / _STATE, device)
    if distributed.rank() == 0:
        for leftover in (folder / _CHECKPOINTS).glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for name in (JOURNAL, SPEED):
            cut_back(folder / name, state.step)
    distributed.barrier()
    return state


def _earlier_objective(initial: str, store_digest: str) -> dict[str, Tensor] | None:
    """The state of the objective of the run that `initial` is a checkpoint of; None where it is none of this store."""
    model = locate(initial).path
    state = model.parent / _STATE
    if not state.is_file() or load_checkpoint(model).extra.get("store") != store_digest:
        return None
    found: dict[str, Tensor] = _read_state(state, torch.device("cpu"))["objective"]
    return found


def _load_state(state: State, path: Path, device: torch.device) -> None:
    saved = _read_state(path, device)
    state.optimizer.load_state_dict(saved["optimizer"])
    state.objective.load_state_dict(saved["objective"])
    state.step = saved["step"]
    if state.average is not None:
        state.average.load_state_dict(saved["average"])
    if saved["best"] is not None:
        state.best = Best(**saved["best"])


def _read_state(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove the folder {path.parent.parent} to resume from the one before"
        ) from error
    return saved


def save_state(
    run: Run, state: State, folder: Path, *, preprocess: PreprocessConfig, store_digest: str, labels: Sequence[str]
) -> Path:
    """Writes a checkpoint of `state`, then removes those that `run.keep_checkpoints` does not keep; the best stays.

    Raises UserError where the disk is full or a weight is no longer a number; older checkpoints stay.
    """
    target = _step_folder(folder, state.step)
    if distributed.rank() == 0 and not target.exists():
        _require_finite(state)
        beside = target.with_name(f".{target.name}.part")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            (beside / _STATE).parent.mkdir(parents=True)
            extra: dict[str, Any] = {"run": run.name, "step": state.step, "store": store_digest}
            extra["splits"] = list(run.data.splits)  # of the store, that it learned from; none: all
            extra["objective"] = _without_places(run.to_dict()["objective"])  # what the decoder's predictions mean
            if run.initial is not None:
                extra["started_from"] = Path(run.initial).name  # a path of this machine is nobody else's
            kept = {"preprocess": to_dict(preprocess), "labels": labels}
            save_checkpoint(beside / _MODEL, state.model, extra=extra, **kept)
            saved = {
                "step": state.step,
                "optimizer": state.optimizer.state_dict(),
                "objective": state.objective.state_dict(),
                "average": None if state.average is None else state.average.state_dict(),
                "best": None if state.best is None else to_dict(state.best),
            }
            with (beside / _STATE).open("wb") as file:
                torch.save(saved, file)
                file.flush()
                os.fsync(file.fileno())
            # before the checkpoint appears: a run that is killed in between does this step again, and these with it
            if state.average is not None and state.average.is_complete:
                extra |= {"epochs_averaged": state.average.count}
                mean = state.average.mean(state.model)
                save_checkpoint(folder / AVERAGE, state.model, extra=extra, tensors=mean, **kept)
            if state.best is not None:
                _write_text(folder / BEST_NAME, json.dumps(to_dict(state.best), indent=2) + "\n")
            beside.replace(target)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise UserError(
                f"the checkpoint of step {state.step} could not be written to {target.parent} ({error}); "
                "the one before it is whole: make room and run the same command again"
            ) from error
        _prune(folder, run.keep_checkpoints, best=state.best)
    distributed.barrier()
    return target


def _without_places(objective: dict[str, Any]) -> dict[str, Any]:
    """The settings with the names of teachers instead of their paths, which are nobody else's."""
    return {
        name: Path(value).name if isinstance(value, str) and "teacher" in name and value else value
        for name, value in objective.items()
    }


def newest_checkpoint(folder: Path) -> Path | None:
    """The folder checkpoints/step-N with the highest N, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in (folder / _CHECKPOINTS).glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def _step_folder(folder: Path, step: int) -> Path:
    return folder / _CHECKPOINTS / f"step-{step}"


def _prune(folder: Path, keep: int, *, best: Best | None) -> None:
    for old in _checkpoints(folder)[:-keep] if keep else []:
        if best is None or old != _step_folder(folder, best.step):
            shutil.rmtree(old, ignore_errors=True)


def _require_finite(state: State) -> None:
    for part in state.parts:
        for name, value in part.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise UserError(
                    f"after step {state.step} the weights of {name} are no longer numbers, so training stopped and "
                    "nothing was saved over the last checkpoint. Try a lower optim.learning_rate, optim.clip_norm=1, "
                    "or dtype=float32, in a new run folder"
                )


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
