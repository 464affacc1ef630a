"""ESC-10 on its five official folds: does what was learned from video help to name sounds?

    python examples/esc10.py FOLDER --out OUT --model runs/tiny/checkpoints/step-500 --finetune

FOLDER holds esc10_manifest.csv (columns path, name, fold) and the sounds that it names. Every method learns from four
folds and is judged once on the fifth. Nothing is chosen on the fifth: the strength of a probe by cross-validation on
the four, and a fine-tuned tower is that of its last step, after a number of epochs that was set before.

    mel_statistics      mean and deviation of each log-mel band, logistic regression: the baseline
    frozen_untrained    the model's audio tower with random weights, frozen, logistic regression
    frozen              the audio tower of --model, frozen, logistic regression
    finetuned_scratch   the recipe from random weights (with --finetune)
    finetuned           the recipe from the weights of --model (with --finetune)

Results go to OUT/results.json after every fold; run again, it goes on where it stopped. Video is another domain than
these recordings, and a fold is 80 sounds: two points of difference are noise. Prints JSON.
"""

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lookhear import embedder
from lookhear.data.manifest import FileLabels
from lookhear.data.prepare import prepare
from lookhear.data.preprocess import log_mel
from lookhear.data.store import Store
from lookhear.embedder import untrained
from lookhear.errors import UserError
from lookhear.recipes.finetune import finetune
from lookhear.tasks.labels.classification import evaluate_classification
from lookhear.tasks.labels.probes import linear_probe, pooled_features
from lookhear.tasks.metrics import bootstrap_interval

MANIFEST = "esc10_manifest.csv"
Judge = Callable[[str], dict[str, Any]]  # from the name of the test fold to accuracy and number of clips


def read_manifest(folder: Path) -> dict[str, FileLabels]:
    """What is said about each sound, by path relative to `folder`. Raises UserError where something is missing."""
    path = folder / MANIFEST
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        known = {row["path"]: FileLabels(labels=(row["name"],), split=f"fold{row['fold']}") for row in rows}
    except (OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); it needs the columns path, name and fold") from error
    missing = [name for name in known if not (folder / name).is_file()]
    if missing or not known:
        raise UserError(f"{len(missing)} of {len(known)} sounds of {path} are not there; extract the archive beside it")
    return known


def mel_statistics(store: Store) -> np.ndarray:
    """float32 (n, 256): mean and deviation over time of the 128 log-mel bands of each clip."""
    spectra = [log_mel(torch.from_numpy(store.waveform(index).copy())).numpy() for index in range(len(store))]
    return np.stack([np.concatenate([spectrum.mean(axis=0), spectrum.std(axis=0)]) for spectrum in spectra])


def probe_fold(store: Store, features: np.ndarray, fold: str, seed: int) -> dict[str, Any]:
    """A linear probe on the clips outside `fold`, judged on those in it."""
    labels = np.array([clip.labels[0] for clip in store.clips])
    test = np.array([clip.split == fold for clip in store.clips])
    result = linear_probe(features[~test], labels[~test], features[test], labels[test], seed=seed)
    return {"accuracy": result.accuracy, "clips": result.test_clips, "protocol": result.protocol}


def finetune_fold(
    store: Store, fold: str, *, folder: Path, recipe: str, initial: Path | None, settings: list[str]
) -> dict[str, Any]:
    """The recipe on the clips outside `fold`; its last checkpoint judged on those in it."""
    others = [name for name in folds_of(store) if name != fold]
    split = f"data.split={json.dumps(others)}"
    summary = finetune(recipe, store=store.path, folder=folder, initial=initial, settings=[split, *settings])
    if summary.interrupted or summary.checkpoint is None:
        raise SystemExit(143)
    result = evaluate_classification(embedder.load(summary.checkpoint), store, split=fold)
    return {
        "accuracy": result.accuracy,
        "clips": result.clips,
        "protocol": result.protocol | {"recipe": recipe, "settings": settings, "steps": summary.step},
    }


def folds_of(store: Store) -> list[str]:
    """The names of the folds, sorted."""
    return sorted({row.split for row in store.manifest if row.split})


def methods(store: Store, options: argparse.Namespace) -> dict[str, Judge]:
    """What is compared; features are made when the first fold asks for them."""

    def frozen(make: Callable[[], np.ndarray]) -> Judge:
        held: list[np.ndarray] = []

        def judge(fold: str) -> dict[str, Any]:
            if not held:
                held.append(make())
            return probe_fold(store, held[0], fold, options.seed)

        return judge

    def tuned(name: str, initial: Path | None) -> Judge:
        settings = [f"seed={options.seed}", *options.set]
        return lambda fold: finetune_fold(
            store,
            fold,
            folder=options.out / "runs" / f"{name}-{fold}",
            recipe=options.recipe,
            initial=initial,
            settings=settings,
        )

    found: dict[str, Judge] = {"mel_statistics": frozen(lambda: mel_statistics(store))}
    if options.model is not None:
        model = embedder.load(options.model)
        found["frozen_untrained"] = frozen(
            lambda: pooled_features(untrained(model, options.seed), store, modality="audio")[0]
        )
        found["frozen"] = frozen(lambda: pooled_features(model, store, modality="audio")[0])
    if options.finetune:
        found["finetuned_scratch"] = tuned("scratch", None)
        if options.model is not None:
            found["finetuned"] = tuned("pretrained", options.model)
    return found


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Judges every method on every fold that is not judged yet, and returns the report."""
    store_path, results_path = options.out / "store", options.out / "results.json"
    prepare(options.folder / MANIFEST, store_path, labels=read_manifest(options.folder), workers=options.workers)
    store = Store(store_path)
    about = {
        "store": store.digest,
        "model": None if options.model is None else embedder.load(options.model).fingerprint,
        "recipe": options.recipe,
        "settings": options.set,
        "seed": options.seed,
    }
    report: dict[str, Any] = {"about": about, "folds": {}}
    if results_path.exists():
        report = json.loads(results_path.read_text(encoding="utf-8"))
        if report["about"] != about:
            raise UserError(f"{results_path} was made with {report['about']}, not {about}; name another --out")
    for name, judge in methods(store, options).items():
        done = report["folds"].setdefault(name, {})
        for fold in folds_of(store):
            if fold not in done:
                done[fold] = judge(fold)
                beside = results_path.with_suffix(".part")
                beside.write_text(json.dumps(report, indent=1), encoding="utf-8")
                beside.replace(results_path)
    return report | {"accuracy": {name: summary(done) for name, done in report["folds"].items()}}


def summary(done: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The mean over folds, each fold, and a 95 % interval of the mean over all sounds."""
    right = np.concatenate(
        [np.arange(fold["clips"]) < round(fold["accuracy"] * fold["clips"]) for fold in done.values()]
    )
    return {
        "mean": round(float(np.mean([fold["accuracy"] for fold in done.values()])), 4),
        "folds": {name: round(fold["accuracy"], 4) for name, fold in done.items()},
        "sounds_ci95": [round(value, 4) for value in bootstrap_interval(right)],
    }


def main() -> None:
    """Reads the options, runs, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="store, runs and results")
    parser.add_argument("--model", type=Path, help="a checkpoint or run folder that was pre-trained on video")
    parser.add_argument("--finetune", action="store_true", help="fine-tune as well: minutes a fold")
    parser.add_argument("--recipe", default="esc10", help="to fine-tune with; its tower must fit --model")
    parser.add_argument("--set", action="append", default=[], help="change a setting of the recipe, as epochs=30")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    try:
        report = run(parser.parse_args())
    except UserError as error:
        raise SystemExit(f"esc10: {error}") from None
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
