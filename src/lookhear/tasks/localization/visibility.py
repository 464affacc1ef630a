"""Is what sounds in the picture at all? A threshold on the score of the pair, and how often it is wrong.

A map always has a hottest point. Whether to believe it is asked of the cosine of the window's sound and picture: below
a threshold the answer is "no visible source". The threshold needs no labels: it is the score that all but a stated
share of the pairs of a library reach, taking of each clip the loudest window, where something is most likely heard.
Where a library holds many sounds from outside the picture, the threshold comes out low and the answer is given rarely.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from lookhear.config import from_dict, to_dict
from lookhear.data.preprocess import check_store
from lookhear.errors import ConfigError, MediaError, StoreError, UserError
from lookhear.media.scene_sounds import off_screen_sound
from lookhear.progress import Progress, quiet
from lookhear.tasks.localization.heat import PairedWindow, pair_window, sound_embeddings
from lookhear.tasks.windows import read_clip_windows

if TYPE_CHECKING:
    from lookhear.data.store import Store
    from lookhear.embedder import Embedder

DEFAULT_SHARE = 0.05
# Above this share of false sounds for which a place was named, "visible" is no answer to rely on.
MANY_FALSE_POSITIVES = 0.2


@dataclass(frozen=True, kw_only=True)
class Visibility:
    """When to answer "no visible source"."""

    threshold: float
    """lowest cosine of sound and picture at which a place is named"""
    share: float
    """at most this share of the library's pairs lies below it"""
    pairs: int
    """how many pairs it was taken from"""
    model_fingerprint: str
    """of the model whose cosines these are"""
    measured: "VisibilityResult | None" = None
    """how often the answer was wrong, where that was measured when the threshold was set"""

    @property
    def doubts(self) -> str:
        """Why "visible" says little, as measured; empty where it was seldom said of what is not in the picture."""
        if self.measured is None:
            return ""
        rates = {
            "silence": self.measured.false_positive_silence,
            "noise": self.measured.false_positive_noise,
            "sounds from outside": self.measured.false_positive_off_screen,
            "sounds of other clips": self.measured.false_positive_other_sound,
        }
        high = {name: rate for name, rate in rates.items() if rate is not None and rate > MANY_FALSE_POSITIVES}
        return ", ".join(f"{rate:.0%} of {name}" for name, rate in high.items())

    def sees(self, score: float) -> bool:
        """Whether a place is named at this score."""
        return score >= self.threshold

    def save(self, path: str | Path) -> None:
        """Writes it as JSON. Raises UserError where that cannot be done."""
        try:
            Path(path).write_text(json.dumps(to_dict(self), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}; name another file") from error

    @classmethod
    def load(cls, path: str | Path, embedder: "Embedder") -> "Visibility":
        """Reads what `save` wrote, for this model. Raises UserError for another file or another model's."""
        try:
            found = from_dict(cls, json.loads(Path(path).read_bytes()))
        except (OSError, ValueError, ConfigError) as error:
            raise UserError(
                f"{path} is no calibration ({error}); make one with lookhear evaluate localization --library STORE "
                "--calibration FILE"
            ) from None
        if found.model_fingerprint != embedder.fingerprint:
            raise UserError(f"{path} was made with another model, whose cosines differ; calibrate this one")
        return found


def calibrate_visibility(
    embedder: "Embedder",
    store: "Store",
    *,
    share: float = DEFAULT_SHARE,
    indices: Sequence[int] | None = None,
    progress: Progress = quiet,
) -> Visibility:
    """The threshold below which at most `share` of the pairs of a library lie.

    The clips `indices` of `store` (None: all) need no labels; they should not be those that are judged afterwards.
    Raises UserError for a share outside 0..1 and StoreError where there are too few pairs to tell such a share
    (1 / share of them).
    """
    if not 0 < share < 1:
        raise UserError(f"the share of pairs called invisible is {share}; it must be between 0 and 1, such as 0.05")
    check_store(store, embedder.preprocess.config)
    chosen = list(range(len(store)) if indices is None else indices)
    scores = []
    for done, index in enumerate(chosen):
        progress(done, len(chosen), "calibrating")
        window = _loudest_window(embedder, store, index)
        if window is not None:
            scores.append(window.score)
    progress(len(chosen), len(chosen), "calibrating")
    if len(scores) * share < 1:
        raise StoreError(
            f"{len(scores)} clips with sound and picture are too few to find the lowest {share:g} of their scores; "
            f"give a library of at least {int(np.ceil(1 / share))}"
        )
    return Visibility(
        threshold=lowest_share(np.array(scores), share),
        share=share,
        pairs=len(scores),
        model_fingerprint=embedder.fingerprint,
    )


def lowest_share(scores: np.ndarray, share: float) -> float:
    """The highest threshold below which at most `share` of `scores` (n,) lie."""
    return float(np.sort(scores)[int(np.floor(share * len(scores) + 1e-9))])


def _loudest_window(embedder: "Embedder", store: "Store", index: int) -> PairedWindow | None:
    stored = store.clips[index]
    if not (stored.has_picture and stored.has_sound):
        return None
    rate, length = store.config.sample_rate, embedder.window_seconds
    energy = np.concatenate([[0.0], np.cumsum(store.waveform(index).astype(np.float64) ** 2)])
    samples = min(round(length * rate), len(energy) - 1)
    first = int((energy[samples:] - energy[: len(energy) - samples]).argmax())
    start = stored.start_seconds + first / rate
    try:
        return pair_window(embedder, read_clip_windows(embedder, store, index, [start]), start)
    except MediaError:
        return None  # no picture there, or no sound


@dataclass(frozen=True, kw_only=True)
class VisibilityResult:
    """How often the answer is wrong. Shares are fractions 0..1 of the judged windows."""

    threshold: float
    share: float  # of the library's pairs that the threshold was allowed to miss
    library_pairs: int
    windows: int
    # windows whose source is in the picture, and that were told "no visible source"
    missed: float
    # windows with another sound put in place of their own, for which a place was named all the same
    false_positive_silence: float
    false_positive_noise: float  # white noise, as loud as the window's own sound
    false_positive_off_screen: float  # a gust, hum or far chord that nothing in the picture makes
    false_positive_other_sound: float | None  # the sound of another kind of clip; None where there is but one clip


def judge_visibility(
    embedder: "Embedder",
    windows: Iterable[PairedWindow],
    others: Sequence[Tensor | None],
    visibility: Visibility,
    *,
    seed: int = 0,
) -> VisibilityResult:
    """Judges the answer on windows whose source is known to be in the picture, and on the same with false sounds.

    `others` holds a sound embedding (E,) of something else for each window, or None. Windows are looked at one after
    the other, each once.
    """
    rng = np.random.default_rng(seed)
    true: list[bool] = []
    other_named: list[bool] = []
    made_named: list[list[bool]] = []  # for each window: silence, noise, off screen
    for window, other in zip(windows, others, strict=True):
        own, picture = window.waveform, window.visual_embedding
        noise = rng.standard_normal(len(own)) * np.sqrt(np.mean(own.astype(np.float64) ** 2))
        far = off_screen_sound(rng, len(own), embedder.preprocess.config.sample_rate) * np.abs(own).max()
        made = np.stack([np.zeros_like(own), noise.astype(np.float32), far.astype(np.float32)])
        made_named.append([visibility.sees(score) for score in (sound_embeddings(embedder, made) @ picture).tolist()])
        true.append(visibility.sees(window.score))
        if other is not None:
            other_named.append(visibility.sees(float(picture @ other)))
    silence, noise_named, off_screen = np.mean(made_named, axis=0).tolist()
    return VisibilityResult(
        threshold=visibility.threshold,
        share=visibility.share,
        library_pairs=visibility.pairs,
        windows=len(true),
        missed=float(1 - np.mean(true)),
        false_positive_silence=silence,
        false_positive_noise=noise_named,
        false_positive_off_screen=off_screen,
        false_positive_other_sound=float(np.mean(other_named)) if other_named else None,
    )
