"""How much of what a label says is already in a frozen model's features? Small heads, trained on features alone.

n clips, D width of a feature. Everything but the final score is chosen on the training side.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lookhear.errors import StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.attention_probe import AttentionProbeConfig, attention_probe
from lookhear.tasks.labels.features import Modality, clip_features, pooled_features
from lookhear.tasks.labels.probe_scores import ProbeResult, check_sides, score_probe

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

__all__ = [
    "AttentionProbeConfig",
    "ProbeResult",
    "attention_probe",
    "evaluate_probe",
    "linear_probe",
    "pooled_features",
]

# Inverse strengths of regularisation that are tried, strongest first: of equally good ones the first is taken.
REGULARISATIONS = tuple(10.0**power for power in range(-4, 3))
MAX_FOLDS = 5


def evaluate_probe(
    embedder: "Embedder",
    store: "Store",
    *,
    probe: Literal["linear", "attention"] = "linear",
    modality: Modality = "both",
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str = "test",
    kinds: Mapping[str, str] | None = None,
    config: AttentionProbeConfig | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> ProbeResult:
    """Trains a probe on the frozen features of one split of `store` and scores it once on another.

    `linear` chooses its strength by cross-validation within the training split; `attention` its epoch on
    `validation_split`, or on a share of the training split that it holds out. `kinds` gives each file (by relative
    path) a label in the place of the store's. Clips without label or modality are left out and counted. Raises
    StoreError for splits that do not exist, overlap or hold nothing to learn.
    """
    names = [train_split, test_split] + ([validation_split] if validation_split else [])
    if len(set(names)) < len(names):
        raise StoreError(f"a probe needs different splits to learn and to be judged, not {', '.join(names)}")
    if probe == "linear" and validation_split:
        raise StoreError("a linear probe chooses by cross-validation; leave the validation split out, or join it")
    sides, left_out = {}, Counter[str]()
    for name in names:
        found = clip_features(
            embedder, store, modality=modality, indices=store.clips_in_split(name), kinds=kinds, progress=progress
        )
        sides[name] = [clip for clip in found.clips if clip.labels]
        left_out.update(clip.reason for clip in found.left_out)
        left_out["has no label"] += len(found.clips) - len(sides[name])
    about = {
        "modality": modality,
        "splits": names,
        "left_out": dict(+left_out),
        "model_fingerprint": embedder.fingerprint,
        "window_seconds": embedder.window_seconds,
    }
    train, test = sides[train_split], sides[test_split]
    if not train or not test:
        raise StoreError(
            f"the split '{train_split if not train else test_split}' has no labelled clip; prepare it with labels"
        )
    if probe == "attention":
        held = sides[validation_split] if validation_split else None
        result = attention_probe(train, test, validation=held, config=config, seed=seed)
    else:
        several = sum(len(clip.labels) > 1 for clip in train + test)
        if several:
            raise StoreError(
                f"{several} clips have several labels and a linear probe tells one; use the attention probe"
            )
        rows = [
            values
            for side in (train, test)
            for values in (
                np.stack([clip.steps.mean(axis=0) for clip in side]),
                np.array([clip.label for clip in side]),
            )
        ]
        result = linear_probe(*rows, seed=seed)
    return replace(result, protocol=about | result.protocol)


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    seed: int = 0,
) -> ProbeResult:
    """Logistic regression on standardised features (n, D), its strength chosen by cross-validation.

    Mean and deviation, strength and weights come from the training side only; in each fold of the cross-validation,
    from that fold's training part. Labels are strings (n,); a test label that training never showed counts as missed.
    Raises StoreError for sides that do not fit, features that are not finite, clips without label, or one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    train_labels, test_labels = np.asarray(train_labels).astype(str), np.asarray(test_labels).astype(str)
    check_sides(train_features, train_labels, test_features, test_labels)

    def probe(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, random_state=seed))

    # A fold needs a clip of every class on both of its sides; a class of one clip cannot be held out.
    num_folds = min(MAX_FOLDS, min(Counter(train_labels.tolist()).values()))
    scores: dict[float, float] = {}
    if num_folds >= 2:
        folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
        for strength in REGULARISATIONS:
            found = cross_val_score(probe(strength), train_features, train_labels, cv=folds)
            scores[strength] = float(found.mean())
    chosen = max(scores, key=lambda strength: scores[strength]) if scores else 1.0
    predicted = probe(chosen).fit(train_features, train_labels).predict(test_features)
    return score_probe(
        predicted.tolist(),
        [(label,) for label in train_labels.tolist()],
        [(label,) for label in test_labels.tolist()],
        protocol={
            "probe": "standardised features, logistic regression",
            "feature_width": int(train_features.shape[1]),
            "regularisation_c": chosen,
            "chosen_by": f"{num_folds}-fold cross-validation" if scores else "default: a class has one clip only",
            "cross_validation_accuracy": scores.get(chosen),
            "seed": seed,
        },
    )
