"""How much of what a label says is already in a frozen model's features? Small heads, trained on features alone.

n clips, D width of a feature. Everything but the final score is chosen on the training side. The model is in its
evaluation mode throughout: no running statistic of it moves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lookhear.errors import ConfigError, StoreError
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.attention_probe import AttentionProbeConfig, attention_probe
from lookhear.tasks.labels.features import ClipFeatures, StageConfig, clip_features, of_stages, pooled_features
from lookhear.tasks.labels.folds import training_folds, without_folds
from lookhear.tasks.labels.neighbours import NeighbourConfig, neighbour_probe
from lookhear.tasks.labels.probe_scores import (
    ProbeResult,
    RoundsResult,
    check_one_label,
    check_sides,
    columns,
    join_rounds,
    score_probe,
)
from lookhear.tasks.labels.protocols import Round
from lookhear.tasks.labels.svm import SVMConfig, svm_probe
from lookhear.tasks.labels.units import Modality, WindowChoice
from lookhear.tasks.learned import seen_in_training

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

__all__ = [
    "AttentionProbeConfig",
    "LinearProbeConfig",
    "NeighbourConfig",
    "Probe",
    "ProbeResult",
    "RoundsResult",
    "SVMConfig",
    "attention_probe",
    "evaluate_probe",
    "evaluate_rounds",
    "linear_probe",
    "neighbour_probe",
    "pooled_features",
    "svm_probe",
]

Probe = Literal["linear", "knn", "svm", "attention"]


@dataclass(frozen=True, kw_only=True)
class LinearProbeConfig:
    """Training of logistic regression."""

    strengths: tuple[float, ...] = tuple(10.0**power for power in range(-4, 3))
    """inverse strengths of regularisation that are tried by cross-validation; one alone is taken as it is"""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0:
            raise ConfigError(f"strengths are {self.strengths}; name at least one, above 0")


ProbeConfig = LinearProbeConfig | NeighbourConfig | SVMConfig | AttentionProbeConfig
CONFIGS: dict[Probe, type[ProbeConfig]] = {
    "linear": LinearProbeConfig,
    "knn": NeighbourConfig,
    "svm": SVMConfig,
    "attention": AttentionProbeConfig,
}
_EVERY_CLIP = WindowChoice()


def evaluate_probe(
    embedder: "Embedder",
    store: "Store",
    *,
    probe: Probe = "linear",
    modality: Modality = "both",
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    kinds: Mapping[str, str] | None = None,
    config: ProbeConfig | None = None,
    choice: WindowChoice = _EVERY_CLIP,
    stages: StageConfig | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> ProbeResult:
    """Trains a probe on the frozen features of one split of `store` and scores it once on another (None: train, test).

    `linear` and `svm` choose their strength by cross-validation within the training split; `attention` its epoch on
    `validation_split`, or on a share of the training split that it holds out; `knn` chooses nothing, and can leave one
    out: with `train_split` alone, or without either in a store that has no splits, each clip is named by the others
    but those of its own file. `choice` says which windows, and whether a file is one clip.
    With `stages` the probe is also trained on every stage of the encoder (`per_stage`), and the result is that of all
    of them together. `kinds` gives each file (by relative path) a label in the place of the store's. Clips without
    label or modality are left out and counted. Raises StoreError for splits that do not exist, share clips, or hold
    nothing to learn.
    """
    alone = probe == "knn" and test_split is None
    if alone and train_split is None:
        alone = not any(clip.splits for clip in store.clips)
    learned, judged = train_split or ("" if alone else "train"), test_split or "test"
    named = [learned] if alone else [learned, judged, *([validation_split] if validation_split else [])]
    if len(set(named)) < len(named):
        raise StoreError(f"a probe needs different splits to learn and to be judged, not {', '.join(named)}")
    if probe != "attention" and validation_split:
        raise StoreError(f"a {probe} probe needs no validation split; leave it out, or join it to the training split")
    sides = {name: store.clips_in_split(name) if name else None for name in named}
    settings = _Settings(
        probe=probe, modality=modality, config=_config_of(probe, config), choice=choice, stages=stages, seed=seed
    )
    found = _Found.of(embedder, store, sides, settings, kinds, progress)
    about = settings.about(embedder, store, found, [learned if alone else judged]) | {
        "splits": [name or "all clips, one left out" for name in named]
    }
    held = found.sides[validation_split] if validation_split else None
    result = settings.judge(found.sides[learned], None if alone else found.sides[judged], held=held)
    return replace(result, protocol=about | result.protocol)


def evaluate_rounds(
    embedder: "Embedder",
    store: "Store",
    rounds: Sequence[Round],
    *,
    probe: Probe = "linear",
    modality: Modality = "both",
    kinds: Mapping[str, str] | None = None,
    config: ProbeConfig | None = None,
    choice: WindowChoice = _EVERY_CLIP,
    stages: StageConfig | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> RoundsResult:
    """`evaluate_probe` for each of `rounds`, such as the folds of ESC-50, and their mean; clips are embedded once.

    Where a round learns from several splits, strengths are chosen by cross-validation over them. Raises as
    `evaluate_probe`, and ConfigError for no round or two that judge the same.
    """
    names = dict.fromkeys(name for own in rounds for name in (*own.train, *own.test))
    if not names or len({own.name for own in rounds}) < len(rounds):
        raise ConfigError("rounds are at least one, each with splits of its own to be judged on; name those")
    settings = _Settings(
        probe=probe, modality=modality, config=_config_of(probe, config), choice=choice, stages=stages, seed=seed
    )
    sides = {name: store.clips_in_split(name) for name in names}
    found = _Found.of(embedder, store, sides, settings, kinds, progress, rounds=rounds)
    results, clip_ids = {}, {}
    for own in rounds:
        part_of = {clip.index: name for name in own.train for clip in found.sides[name]}
        train, test = found.of_splits(own.train), found.of_splits(own.test)
        results[own.name] = settings.judge(train, test, parts=[part_of[clip.index] for clip in train])
        clip_ids[own.name] = [clip.clip_id for clip in test]
    about = settings.about(embedder, store, found, [name for own in rounds for name in own.test])
    protocol = about | {"learned_from": {own.name: list(own.train) for own in rounds}}
    return join_rounds(results, clip_ids, protocol)


def _config_of(probe: Probe, config: ProbeConfig | None) -> ProbeConfig:
    if config is None:
        return CONFIGS[probe]()
    if type(config) is not CONFIGS[probe]:
        raise ConfigError(f"the settings of a {probe} probe are a {CONFIGS[probe].__name__}, not {config!r}")
    return config


@dataclass(frozen=True, kw_only=True)
class _Settings:
    probe: Probe
    modality: Modality
    config: ProbeConfig
    choice: WindowChoice
    stages: StageConfig | None
    seed: int

    def about(self, embedder: "Embedder", store: "Store", found: "_Found", judged: Sequence[str]) -> dict[str, Any]:
        """What the protocol says of any probe that is judged on the splits `judged`."""
        indices = [clip.index for clip in found.of_splits(judged)]
        return {
            "seen_in_training": seen_in_training(embedder, store, indices),
            "modality": self.modality,
            "features": "pooled" if self.stages is None else {"stages": asdict(self.stages)},
            "unit": self.choice.unit,
            "windows_asked": self.choice.windows or "all that fit",
            f"windows_of_a_{self.choice.unit}": found.windows_of_a_unit,
            "window_seconds": embedder.window_seconds,
            "model": "frozen, in evaluation mode",
            "left_out": found.left_out,
            "model_fingerprint": embedder.fingerprint,
        }

    def judge(
        self,
        train: Sequence[ClipFeatures],
        test: Sequence[ClipFeatures] | None,
        *,
        held: Sequence[ClipFeatures] | None = None,
        parts: Sequence[str] | None = None,
    ) -> ProbeResult:
        """The probe on pooled features; or on all stages together, with each stage alone beside it."""
        names = tuple(train[0].stages) if train else ()
        if not names:
            return self._train(train, test, held, parts)

        def on(stages: Sequence[str]) -> ProbeResult:
            def side(clips: Sequence[ClipFeatures]) -> list[ClipFeatures]:
                return [of_stages(clip, stages) for clip in clips]

            return self._train(side(train), test and side(test), held and side(held), parts)

        return replace(on(names), per_stage={name: on([name]).accuracy for name in names})

    def _train(
        self,
        train: Sequence[ClipFeatures],
        test: Sequence[ClipFeatures] | None,
        held: Sequence[ClipFeatures] | None,
        parts: Sequence[str] | None,
    ) -> ProbeResult:
        if isinstance(self.config, NeighbourConfig):
            return neighbour_probe(train, test, config=self.config)
        assert test is not None, "only neighbours can do without a test side"
        if isinstance(self.config, AttentionProbeConfig):
            return attention_probe(train, test, validation=held, config=self.config, seed=self.seed)
        if isinstance(self.config, SVMConfig):
            return svm_probe(train, test, parts=parts, config=self.config, seed=self.seed)
        check_one_label([*train, *test], "a linear probe")
        sides = [
            values
            for side in (train, test)
            for values in (
                np.stack([clip.steps.mean(axis=0) for clip in side]),
                np.array([clip.label for clip in side]),
            )
        ]
        groups = np.array([clip.path for clip in train])
        own = None if parts is None else np.array(parts)
        return linear_probe(*sides, groups=groups, parts=own, config=self.config, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The labelled clips of each split, embedded."""

    sides: dict[str, list[ClipFeatures]]
    left_out: dict[str, int]  # how many, by reason
    windows_of_a_unit: float

    def of_splits(self, names: Sequence[str]) -> list[ClipFeatures]:
        """The clips of these splits, each once."""
        return list({clip.index: clip for name in names for clip in self.sides[name]}.values())

    @classmethod
    def of(
        cls,
        embedder: "Embedder",
        store: "Store",
        sides: Mapping[str, np.ndarray | None],
        settings: _Settings,
        kinds: Mapping[str, str] | None,
        progress: Progress,
        *,
        rounds: Sequence[Round] | None = None,
    ) -> "_Found":
        """The clips of `sides` (numbers by split, None: all), each embedded once however many sides it is on."""
        _check_apart(store, sides, rounds)
        chosen = None
        if not any(own is None for own in sides.values()):
            chosen = np.unique(np.concatenate([own for own in sides.values() if own is not None])).tolist()
        found = clip_features(
            embedder,
            store,
            modality=settings.modality,
            indices=chosen,
            kinds=kinds,
            choice=settings.choice,
            stages=settings.stages,
            progress=progress,
        )
        left_out = Counter(clip.reason for clip in found.left_out)
        labelled = [clip for clip in found.clips if clip.labels]
        left_out["has no label"] += len(found.clips) - len(labelled)
        by_side = {}
        for name, own in sides.items():
            numbers = None if own is None else frozenset(own.tolist())
            by_side[name] = [clip for clip in labelled if numbers is None or clip.index in numbers]
            if not by_side[name]:
                raise StoreError(f"{_where(name)} has no labelled clip; prepare it with labels")
        windows = [len(clip.steps) for clip in labelled]
        return cls(sides=by_side, left_out=dict(+left_out), windows_of_a_unit=float(np.mean(windows)))


def _where(split: str) -> str:
    return f"the split '{split}'" if split else "the store"


def _check_apart(store: "Store", sides: Mapping[str, np.ndarray | None], rounds: Sequence[Round] | None) -> None:
    """Raises StoreError where clips would be learned from and judged (without `rounds`: where any two sides share)."""
    names = list(sides)
    pairs = [(one, other) for row, one in enumerate(names) for other in names[row + 1 :]]
    if rounds is not None:
        pairs = [(one, other) for own in rounds for one in own.train for other in own.test]
    for one, other in pairs:
        shared = np.intersect1d(sides[one], sides[other])  # type: ignore[arg-type]
        if len(shared):
            raise StoreError(
                f"{len(shared)} clips of {store.path} are in '{one}' and in '{other}', such as "
                f"{store.clips[int(shared[0])].path}; learn from one of the two only"
            )


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    parts: np.ndarray | None = None,
    config: LinearProbeConfig | None = None,
    seed: int = 0,
) -> ProbeResult:
    """Logistic regression on standardised features (n, D), its strength chosen by cross-validation.

    Mean and deviation, strength and weights come from the training side only; in each fold of the cross-validation,
    from that fold's training part (see `training_folds` for `groups` and `parts`, (n,) of the training side). Labels
    are strings (n,); a test label that training never showed counts as missed.
    Raises StoreError for sides that do not fit, features that are not finite, clips without label, or one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    config = config or LinearProbeConfig()
    train_labels, test_labels = np.asarray(train_labels).astype(str), np.asarray(test_labels).astype(str)
    check_sides(train_features, train_labels, test_features, test_labels)

    def probe(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, random_state=seed))

    scores: dict[float, float] = {}
    chosen, chosen_by = without_folds(config.strengths), "given"
    if len(config.strengths) > 1:
        folds = training_folds(train_labels, groups, parts=parts, seed=seed)
        chosen_by = folds.description
        for strength in sorted(config.strengths) if len(folds) else ():
            found = cross_val_score(probe(strength), train_features, train_labels, cv=folds.pairs)
            scores[strength] = float(found.mean())
        if scores:  # of equally good values the first, which is the strongest pull to zero
            chosen = max(scores, key=lambda strength: scores[strength])
    fitted = probe(chosen).fit(train_features, train_labels)
    return score_probe(
        columns(fitted.decision_function(test_features)),
        fitted.classes_.tolist(),
        [(label,) for label in train_labels.tolist()],
        [(label,) for label in test_labels.tolist()],
        protocol={
            "probe": "standardised features, logistic regression",
            "feature_width": int(train_features.shape[1]),
            "regularisation_c": chosen,
            "chosen_by": chosen_by,
            "cross_validation_accuracy": scores.get(chosen),
            "seed": seed,
        },
    )
