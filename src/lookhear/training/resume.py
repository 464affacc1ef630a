"""The run folder: what a run is, where it stands, and how it goes on after a kill.

    run.json                        format number, the run, the data it learns from, the preprocessing as measured
    initial.json                    what the model took from the weights it started from, where the run names some
    journal.jsonl, speed.jsonl      see journal.py
    checkpoints/step-N/model.safetensors    the model after N steps, which `lookhear.load` reads
    checkpoints/step-N/state/training.pt    optimiser, objective and sums of weights, which only resuming reads;
                                            by name and whole, so that any number of processes may go on from it
    checkpoints/average/model.safetensors   the mean over epochs, where the run asks for one, from the last of them on
    best.json                       the best step, by the number that the run chooses by

A checkpoint folder appears whole or not at all.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from lookhear.device import pick_dtype
from lookhear.errors import CheckpointError, UserError
from lookhear.models.checkpoint import (
    AVERAGE_NAME,
    BEST_NAME,
    MODELS,
    build,
    load_checkpoint,
    model_name,
    save_checkpoint,
)
from lookhear.models.initial import initialise_from
from lookhear.models.weights import locate
from lookhear.objectives.step import Objective
from lookhear.training.average import WeightAverage
from lookhear.training.blocks import blocks_of, prepare_blocks
from lookhear.training.gradients import Pair, check_pieces
from lookhear.training.journal import JOURNAL, SPEED, cut_back
from lookhear.training.optim import build_optimizer, freeze_encoder, training_mode
from lookhear.training.run import OPERATIONAL, Run, model_kind
from lookhear.training.selection import Best

FORMAT = 1  # of run.json
_STATE_FORMAT = 2  # of training.pt; 1 numbered the optimiser's parameters instead of naming them
DIFFERENCES_SHOWN = 5  # in the message about a folder of another run
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
    pair: nn.Module  # both, as `gradients.Pair`, wrapped for several processes
    optimizer: torch.optim.Optimizer
    step: int  # how many are done
    average: WeightAverage | None = None  # of the ends of epochs, where the run wants one; on rank 0, which writes it
    best: Best | None = None  # where the run chooses one

    @property
    def parts(self) -> tuple[nn.Module, nn.Module]:
        """The modules that are trained."""
        return self.model, self.objective

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter of both, by a name that does not depend on the number of processes."""
        for prefix, part in (("model", self.model), ("objective", self.objective)):
            yield from part.named_parameters(prefix)


@dataclass(frozen=True, kw_only=True, eq=False)
class Snapshot:
    """What a checkpoint holds, in copies that training does not change any more, in the memory of the host."""

    step: int
    model: dict[str, Tensor]
    training: dict[str, Any]  # what training.pt holds
    average: WeightAverage | None
    best: Best | None


def open_run_folder(run: Run, store: Store, folder: Path) -> PreprocessConfig:
    """Writes run.json into a new `folder`, or checks that the one there is of the same run on the same data.

    A folder whose run never took a step, as it was refused, is as good as new.

    Returns the preprocessing of the run, measured on the store if the run says so. Raises UserError with the
    differences where the folder belongs to another run.
    """
    path = folder / "run.json"
    if distributed.rank() == 0 and not _has_begun(folder):
        preprocess = run.preprocess
        if run.data.measure_statistics:
            preprocess = measure_statistics(store, preprocess, seed=run.seed, indices=run.data.clips_of(store))
        values = {
            "format": FORMAT,
            "run": run.to_dict(),
            "store": {"digest": store.digest, "clips": len(store)},
            "preprocess": to_dict(preprocess),
            "processes": distributed.world_size(),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / INITIAL).unlink(missing_ok=True)
            _write_text(path, json.dumps(values, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"cannot make the run folder {folder}: {error.strerror or error}") from None
    distributed.barrier()
    saved = read_run_json(folder)
    asked = {"run": run.to_dict(), "store": {"digest": store.digest, "clips": len(store)}}
    lines = [
        line
        for line in difference({name: saved[name] for name in asked}, asked)
        if line.partition(":")[0].removeprefix("run.") not in OPERATIONAL
    ]
    if lines:
        shown = lines[:DIFFERENCES_SHOWN]
        shown += [f"and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
        raise UserError(
            f"{folder} belongs to another run ({'; '.join(shown)}); give the settings it was started with to resume "
            "it, or another folder for a new run"
        )
    began = saved.get("processes", distributed.world_size())
    if getattr(run.objective, "negatives", None) == "local" and began != distributed.world_size():
        raise UserError(
            f"{folder} was begun on {began} processes and this is {distributed.world_size()}, and with "
            "objective.negatives=local each contrasts its own share of a batch, so that it would learn something else; "
            "go on with as many processes"
        )
    return from_dict(PreprocessConfig, saved["preprocess"], where="preprocess.")


def _has_begun(folder: Path) -> bool:
    """Whether there is a run of which a step was written down."""
    journal = folder / JOURNAL
    written = journal.is_file() and journal.stat().st_size > 0
    return (folder / "run.json").exists() and (written or newest_checkpoint(folder) is not None)


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
    saved = None if newest is None else _read_state(newest / _STATE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed + 1)
        objective = run.objective.build(model, num_instances=len(instances), num_classes=len(classes))
    objective.learns_from(instances)
    if newest is None and run.initial is not None:
        earlier = _earlier_objective(run.initial, store_digest)
        if earlier is not None:
            objective.take_over(earlier)
    if saved is not None:
        objective.load_state_dict(saved["objective"])
    model.to(device)
    objective.to(device).train()
    freeze_encoder(run.optim, model)
    training_mode(model)
    pair = Pair(model, objective, pick_dtype(run.dtype, device))
    check_pieces(pair, run.optim.accumulate, num_clips=run.data.batch_size // distributed.world_size())
    prepare_blocks(model, compiled=run.compile, checkpointed=run.activation_checkpointing)
    # before the optimiser, which must see the parts that a process keeps of each parameter
    wrapped = distributed.wrap(pair, parallel=run.parallel, units=blocks_of(model))
    state = State(
        model=model,
        objective=objective,
        pair=wrapped,
        optimizer=build_optimizer(run.optim, [model, objective]),
        step=0,
        average=WeightAverage(*run.average_epochs) if run.average_epochs and distributed.rank() == 0 else None,
    )
    if saved is not None:
        _load_state(state, saved)
    if not distributed.agree(state.step, device):
        raise UserError(
            f"the processes of this run do not see the same checkpoints in {folder}: put it on a file system that all "
            "of them share, and run the same command again"
        )
    if distributed.rank() == 0:
        for leftover in (folder / _CHECKPOINTS).glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        for name in (JOURNAL, SPEED):
            cut_back(folder / name, state.step)
    distributed.barrier()
    return state


def _read_state(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise CheckpointError(
            f"{path} cannot be read ({error}); remove the folder {path.parent.parent} to resume from the one before"
        ) from error
    if saved.get("format") != _STATE_FORMAT:
        raise CheckpointError(
            f"{path} was written by another version of lookhear; finish the run with that one, or begin a new one with "
            f"initial={path.parent.parent}"
        )
    return saved


def _earlier_objective(initial: str, store_digest: str) -> dict[str, Tensor] | None:
    """The state of the objective of the run that `initial` is a checkpoint of; None where it is none of this store."""
    model = locate(initial).path
    state = model.parent / _STATE
    if not state.is_file() or load_checkpoint(model).extra.get("store") != store_digest:
        return None
    found: dict[str, Tensor] = _read_state(state)["objective"]
    return found


def _load_state(state: State, saved: Mapping[str, Any]) -> None:
    _load_optimizer(state, saved["optimizer"])
    state.step = saved["step"]
    if state.average is not None:
        state.average.load_state_dict(saved["average"])
    if saved["best"] is not None:
        state.best = Best(**saved["best"])


def _load_optimizer(state: State, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives each parameter what the optimiser knew of it, by name; of a part of a parameter, that part."""
    names = {id(parameter): name for name, parameter in state.named_parameters()}
    packed = state.optimizer.state_dict()
    for group, numbers in zip(state.optimizer.param_groups, packed["param_groups"], strict=True):
        for parameter, number in zip(group["params"], numbers["params"], strict=True):
            found = saved.get(names[id(parameter)])
            if found is not None:
                packed["state"][number] = {
                    key: distributed.shared_out_as(value, parameter) if isinstance(value, Tensor) else value
                    for key, value in found.items()
                }
    state.optimizer.load_state_dict(packed)


def take_snapshot(state: State) -> Snapshot | None:
    """Copies of all that a checkpoint holds, on rank 0. Every rank must ask; the others get None."""
    optimizer = {}
    for name, parameter in state.named_parameters():
        known = copy_to_host(state.optimizer.state.get(parameter, {}))
        if known:
            optimizer[name] = known
    model, objective = copy_to_host(state.model.state_dict()), copy_to_host(state.objective.state_dict())
    if distributed.rank() != 0:
        return None
    training = {
        "format": _STATE_FORMAT,
        "step": state.step,
        "optimizer": optimizer,
        "objective": objective,
        "average": None if state.average is None else state.average.state_dict(),
        "best": None if state.best is None else to_dict(state.best),
    }
    return Snapshot(
        step=state.step,
        model=model,
        training=training,
        average=None if state.average is None else state.average.copy(),
        best=state.best,
    )


def copy_to_host(values: Mapping[str, Any]) -> dict[str, Any]:
    """Whole copies of tensors in the memory of the host, other values as they are, on rank 0.

    Every rank must ask, as it may have a part of them; the others get nothing.
    """
    copies: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = distributed.gathered(value.detach())
            value = value.to("cpu", copy=True) if distributed.rank() == 0 else None
        if distributed.rank() == 0:
            copies[name] = value
    return copies


def whole_model(model: nn.Module) -> nn.Module | None:
    """`model` on rank 0, a copy of it where every process keeps but its part; None on the others. All must ask."""
    shared_out = any(distributed.is_shared_out(parameter) for parameter in model.parameters())
    tensors = copy_to_host(model.state_dict()) if shared_out else {}
    if distributed.rank() != 0:
        return None
    device = next(model.parameters()).device
    return build(model_name(model), model.config, tensors).to(device) if shared_out else model


def write_checkpoint(
    run: Run,
    snapshot: Snapshot,
    folder: Path,
    *,
    model: nn.Module,
    preprocess: PreprocessConfig,
    store_digest: str,
    labels: Sequence[str],
) -> None:
    """Writes a checkpoint, then removes those that `run.keep_checkpoints` does not keep; the best stays.

    `model` says what kind of model the tensors are of. Raises UserError where the disk is full or a weight is no
    longer a number; older checkpoints stay.
    """
    target = _step_folder(folder, snapshot.step)
    if target.exists():
        return
    _require_finite(snapshot)
    beside = target.with_name(f".{target.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        (beside / _STATE).parent.mkdir(parents=True)
        extra: dict[str, Any] = {"run": run.name, "step": snapshot.step, "store": store_digest}
        extra["splits"] = list(run.data.splits)  # of the store, that it learned from; none: all
        extra["objective"] = _without_places(run.to_dict()["objective"])  # what the decoder's predictions mean
        if run.initial is not None:
            extra["started_from"] = Path(run.initial).name  # a path of this machine is nobody else's
        kept = {"preprocess": to_dict(preprocess), "labels": labels}
        save_checkpoint(beside / _MODEL, model, extra=extra, tensors=snapshot.model, **kept)
        with (beside / _STATE).open("wb") as file:
            torch.save(snapshot.training, file)
            file.flush()
            os.fsync(file.fileno())
        # before the checkpoint appears: a run that is killed in between does this step again, and these with it
        if snapshot.average is not None and snapshot.average.is_complete:
            extra |= {"epochs_averaged": snapshot.average.count}
            mean = snapshot.average.mean(snapshot.model)
            save_checkpoint(folder / AVERAGE, model, extra=extra, tensors=mean, **kept)
        if snapshot.best is not None:
            _write_text(folder / BEST_NAME, json.dumps(to_dict(snapshot.best), indent=2) + "\n")
        beside.replace(target)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UserError(
            f"the checkpoint of step {snapshot.step} could not be written to {target.parent} ({error}); "
            "the one before it is whole: make room and run the same command again"
        ) from error
    _prune(folder, run.keep_checkpoints, best=snapshot.best)


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


def _require_finite(snapshot: Snapshot) -> None:
    for name, value in (*snapshot.model.items(), *snapshot.training["objective"].items()):
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(
                f"after step {snapshot.step} the weights of {name} are no longer numbers, so training stopped and "
                "nothing was saved over the last checkpoint. Try a lower optim.learning_rate, optim.clip_norm=1, or "
                "dtype=float32, in a new run folder"
            )


def _write_text(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
