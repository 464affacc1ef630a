"""A data set judged by its published protocol: its splits and windows, and whatever was done otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lookhear.models.classifier import Mode
from lookhear.progress import Progress, quiet
from lookhear.tasks.labels.classification import Frames
from lookhear.tasks.labels.features import StageConfig
from lookhear.tasks.labels.probes import Probe, ProbeConfig, RoundsResult, SVMConfig, evaluate_rounds
from lookhear.tasks.labels.protocols import FINE_TUNED, Done, Round, find_protocol, frozen
from lookhear.tasks.labels.recognition import RecognitionResult, evaluate_recognition
from lookhear.tasks.labels.units import Modality, WindowChoice

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder


def probe_by_protocol(
    embedder: "Embedder",
    store: "Store",
    name: str,
    *,
    probe: Probe = "svm",
    modality: Modality = "both",
    rounds: Sequence[Round] | None = None,
    choice: WindowChoice | None = None,
    stages: StageConfig | None = None,
    config: ProbeConfig | None = None,
    kinds: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> RoundsResult:
    """`evaluate_rounds` with the rounds, the windows and, of an SVM, the C of the protocol `name`.

    What is given takes the place of the protocol's. `protocol["published"]` of the result says what was published and
    in what this differs. Raises ConfigError for an unknown name and as `evaluate_rounds`.
    """
    protocol = find_protocol(name)
    rounds, choice = protocol.rounds if rounds is None else rounds, choice or protocol.choice
    if probe == "svm" and config is None and protocol.strength is not None:
        config = SVMConfig(strengths=(protocol.strength,))
    result = evaluate_rounds(
        embedder,
        store,
        rounds,
        probe=probe,
        modality=modality,
        kinds=kinds,
        config=config,
        choice=choice,
        stages=stages,
        seed=seed,
        progress=progress,
    )
    given = config.strengths if isinstance(config, SVMConfig) else ()
    done = Done(
        splits=tuple(name for own in rounds for name in own.test),
        choice=choice,
        window_seconds=embedder.window_seconds,
        num_classes=max(len(own.classes) for own in result.rounds.values()),
        classifier=frozen(probe, stages=stages is not None),
        strength=given[0] if len(given) == 1 else None,
    )
    return replace(result, protocol=result.protocol | {"published": protocol.to_dict(name, done)})


def recognise_by_protocol(
    models: "Sequence[str | Path | Embedder]",
    store: "Store",
    name: str,
    *,
    splits: Sequence[str] | None = None,
    choice: WindowChoice | None = None,
    mode: Mode | None = None,
    frames: Frames = "one",
    multi_label: bool | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = quiet,
) -> RecognitionResult:
    """`evaluate_recognition` with the splits and the windows of the protocol `name`, a model for each split.

    What is given takes the place of the protocol's. `protocol["published"]` of the result says what was published and
    in what this differs. Raises ConfigError for an unknown name and as `evaluate_recognition`.
    """
    protocol = find_protocol(name)
    splits, choice = protocol.splits if splits is None else splits, choice or protocol.choice
    result = evaluate_recognition(
        models,
        store,
        splits=splits,
        choice=choice,
        mode=mode,
        frames=frames,
        multi_label=multi_label,
        classes=classes,
        progress=progress,
    )
    done = Done(
        splits=tuple(splits),
        choice=choice,
        window_seconds=float(result.protocol["window_seconds"]),
        num_classes=max(len(own.per_class) for own in result.splits.values()),
        classifier=FINE_TUNED,
    )
    return replace(result, protocol=result.protocol | {"published": protocol.to_dict(name, done)})
