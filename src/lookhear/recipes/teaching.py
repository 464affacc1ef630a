"""Runs with a teacher take from it what they must have in common: classes, and how windows become numbers."""

from dataclasses import replace

from lookhear.config import from_dict
from lookhear.data.features import holds_features
from lookhear.data.preprocess import PreprocessConfig
from lookhear.errors import ConfigError
from lookhear.models.checkpoint import LoadedCheckpoint, load_checkpoint
from lookhear.models.weights import locate
from lookhear.objectives.distillation import DistillationConfig
from lookhear.objectives.teachers import modalities_read
from lookhear.training.run import Run

# Of the preprocessing, what a teacher of a modality was trained with and a run with it must not change.
_SHARED = {
    "audio": ("sample_rate", "channel", "framing", "num_mel_bins"),
    "visual": ("picture_height", "picture_width", "picture_mean", "picture_std"),
}


def fit_to_teachers(run: Run) -> Run:
    """`run` with the classes of its teacher, where it learns soft labels, and the log-mel statistics of one that hears.

    A run without teachers, or with features in files, stays as it is. Raises ConfigError where a teacher was trained
    on windows that are made otherwise.
    """
    for stream, source in getattr(run.objective, "sources", {}).items():
        if not source or holds_features(source):
            continue
        teacher = load_checkpoint(locate(source).path)
        run = _like(run, teacher, modalities_read(source, stream))
        if isinstance(run.objective, DistillationConfig) and run.objective.logits_weight:
            run = _with_classes(run, teacher)
    return run


def _like(run: Run, teacher: LoadedCheckpoint, reads: frozenset) -> Run:
    theirs = from_dict(PreprocessConfig, teacher.preprocess)
    for stream in sorted(reads):
        for name in _SHARED[stream]:
            own, other = getattr(run.preprocess, name), getattr(theirs, name)
            if own != other:
                raise ConfigError(
                    f"the teacher was trained with preprocess.{name}={other} and this run has {own}; set it to that, "
                    "or take another teacher"
                )
    if "audio" not in reads:
        return run
    return replace(
        run,
        preprocess=replace(run.preprocess, audio_mean=theirs.audio_mean, audio_std=theirs.audio_std),
        data=replace(run.data, measure_statistics=False),
    )


def _with_classes(run: Run, teacher: LoadedCheckpoint) -> Run:
    count = int(getattr(teacher.config, "num_classes", 0))
    if not count:
        raise ConfigError(f"the teacher is a {teacher.name}, which names no classes; set objective.logits_weight to 0")
    classes = run.data.classes or teacher.labels
    return replace(run, model=replace(run.model, num_classes=count), data=replace(run.data, classes=classes))
