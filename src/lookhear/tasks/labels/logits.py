"""What a classifier says of windows, with the sound's tower run once a window however many pictures it has.

M windows, S samples, P pictures, C picture channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from lookhear.errors import CheckpointError, ConfigError
from lookhear.models.classifier import CAVMAEClassifier, Mode, streams_of
from lookhear.models.stream_classifier import StreamClassifier
from lookhear.models.transformer import Stream

if TYPE_CHECKING:
    from lookhear.embedder import Embedder


Classifier = CAVMAEClassifier | StreamClassifier


def classifier_of(embedder: "Embedder") -> Classifier:
    """The embedder's model. Raises CheckpointError where it has no classes to name."""
    if not isinstance(embedder.model, Classifier):
        raise CheckpointError(
            f"this checkpoint is a {type(embedder.model).__name__}, which names no classes; "
            "fine-tune it with labels first (lookhear finetune), or name a fine-tuned checkpoint"
        )
    return embedder.model


def classes_of(embedder: "Embedder", classes: Sequence[str] | None = None) -> tuple[str, ...]:
    """The names of the classes, in the order of the logits: `classes`, or else what the checkpoint says.

    Raises CheckpointError where the checkpoint does not say and ConfigError for another number than it has logits.
    """
    names = tuple(embedder.labels if classes is None else classes)
    count = classifier_of(embedder).config.num_classes
    if not names:
        raise CheckpointError(
            f"the checkpoint does not name its {count} classes; name them in the order it learned "
            "them: --classes FILE, a label CSV (index,mid,display_name), or classes= in Python"
        )
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(
            f"the model has {count} classes and {len(set(names))} different names were given; name each once"
        )
    return names


def read_by(embedder: "Embedder") -> Literal["sound", "picture", "both"]:
    """What of a window the classifier reads. Raises CheckpointError where it is none."""
    streams = streams_of(classifier_of(embedder).config.mode)
    if len(streams) > 1:
        return "both"
    return "sound" if Stream.AUDIO in streams else "picture"


def learned_multi_label(embedder: "Embedder") -> bool | None:
    """Whether the checkpoint learned classes that go together (sigmoid) or one a clip (softmax); None: it says not."""
    loss = embedder.extra.get("objective", {}).get("loss")
    return {"bce": True, "ce": False}.get(loss)


@torch.inference_mode()
def window_logits(
    embedder: "Embedder",
    *,
    waveform: np.ndarray | None,
    frames: np.ndarray | None,
    owner: np.ndarray | None = None,
    mode: Mode,
) -> np.ndarray:
    """Logits float32 (P, K), one row for each picture with the sound of its window; (M, K) where no picture is read.

    `waveform` float32 (M, S), `frames` uint8 (P, C, H, W), raw; `owner` int (P,), ascending: the window of each
    picture (None: one picture a window). What the mode does not read may be None. Raises ConfigError for what it does.
    """
    model, streams = classifier_of(embedder), streams_of(mode)
    sounds = waveform if Stream.AUDIO in streams else None
    pictures = frames if Stream.VISUAL in streams else None
    if len(streams) != (sounds is not None) + (pictures is not None):
        raise ConfigError(f"mode '{mode}' reads {' and '.join(streams)}; give all of it or choose another mode")
    num_windows = len(sounds) if sounds is not None else len(pictures) if pictures is not None else 0
    if owner is None or len(streams) == 1:
        owner = np.arange(num_windows)
    rows = []
    for first, stop in _groups(owner, num_windows, embedder.batch_size):
        shown = slice(*np.searchsorted(owner, [first, stop]))
        audio = visual = None
        with embedder.autocast():
            if sounds is not None:
                batch = embedder.batch(torch.from_numpy(sounds[first:stop]), None)
                audio = model.tower(Stream.AUDIO, batch.audio, mode)  # (windows, tokens, width)
            if pictures is not None:
                batch = embedder.batch(None, torch.from_numpy(pictures[shown]))
                visual = model.tower(Stream.VISUAL, batch.frames, mode)  # (pictures, tokens, width)
            if audio is not None and visual is not None:
                audio = audio[torch.from_numpy(owner[shown] - first).to(audio.device)]
            rows.append(model.from_towers(audio, visual, mode=mode).float().cpu())
    return torch.cat(rows).numpy()


def _groups(owner: np.ndarray, num_windows: int, batch_size: int) -> list[tuple[int, int]]:
    """Ranges of windows that go through the model together: about `batch_size` pictures, at least one window."""
    counts = np.bincount(owner, minlength=num_windows)
    groups, first, held = [], 0, 0
    for window, count in enumerate(counts.tolist()):
        if held and held + count > batch_size:
            groups.append((first, window))
            first, held = window, 0
        held += count
    return [*groups, (first, num_windows)]


def probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """float32, as `logits` (..., K): sigmoid where a clip may have several labels, softmax where it has one."""
    values = torch.from_numpy(logits).float()
    return (values.sigmoid() if multi_label else values.softmax(dim=-1)).numpy()
