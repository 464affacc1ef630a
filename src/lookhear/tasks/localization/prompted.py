"""Segmentation prompted by sound: which pixels belong to the class that a sound asks for.

Picture and sound come from different places (ADE20K pictures, VGGSound sounds), so there is no moment that they share.
H, W pixels; E width of an embedding.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lookhear.data.sampling import window_starts
from lookhear.errors import MediaError
from lookhear.media.clip import Clip
from lookhear.progress import Progress, quiet
from lookhear.tasks.localization.boxes import Prompt
from lookhear.tasks.localization.crop import enlarge, model_crop
from lookhear.tasks.localization.heat import HeatConfig, heat_grid, pair_window
from lookhear.tasks.localization.metrics import SegmentationScore, segmentation_score

if TYPE_CHECKING:
    from lookhear.embedder import Embedder


@dataclass(frozen=True, kw_only=True)
class PromptedSegmentation:
    """Scores of a set of prompts; see `metrics.segmentation_score` for what they are."""

    score: SegmentationScore
    prompts: int  # that were judged
    left_out: tuple[str, ...]  # a sentence each
    method: str
    model_fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self.score), **{name: value for name, value in vars(self).items() if name != "score"}}


def evaluate_prompted_segmentation(
    embedder: "Embedder",
    prompts: Sequence[Prompt],
    *,
    config: HeatConfig | None = None,
    progress: Progress = quiet,
) -> PromptedSegmentation:
    """Judges maps of pictures that are asked about sounds from elsewhere (`boxes.read_prompts`).

    The map of a prompt is the mean over the disjoint windows of its sound, on the centre crop that the model sees; the
    mask is cut likewise. A prompt whose class the crop does not show is left out. Published, not measured here, and not
    of one clear protocol: CAV-MAE 26.0 mAP and 17.0 mIoU, or 27.2 and 19.9, in a leaderboard that does not say which
    is for sound and which for speech; no figure of CAV-MAE Sync was found. Raises MediaError for a picture or sound
    that cannot be read, and where no prompt is left.
    """
    config = config or HeatConfig()
    maps, masks, class_ids, left_out = [], [], [], []
    for number, prompt in enumerate(prompts):
        progress(number, len(prompts), "prompts")
        mask = _cropped_mask(embedder, prompt)
        if not mask.any():
            left_out.append(f"{prompt.picture.name}: class {prompt.class_id} is not in the part that the model sees")
            continue
        maps.append(enlarge(_mean_grid(embedder, prompt, config), *mask.shape))
        masks.append(mask)
        class_ids.append(prompt.class_id)
    progress(len(prompts), len(prompts), "prompts")
    if not maps:
        raise MediaError("no prompt can be judged: no mask shows its class in the part that the model sees")
    return PromptedSegmentation(
        score=segmentation_score(maps, masks, class_ids),
        prompts=len(maps),
        left_out=tuple(left_out),
        method=config.method,
        model_fingerprint=embedder.fingerprint,
    )


def _mean_grid(embedder: "Embedder", prompt: Prompt, config: HeatConfig) -> np.ndarray:
    """The map of the picture for each disjoint window of the sound, averaged."""
    from lookhear.media.decode import read_clip, read_picture

    settings, length = embedder.preprocess.config, embedder.window_seconds
    sound = read_clip(prompt.sound, sample_rate=settings.sample_rate, channel=settings.channel)
    picture = np.repeat(read_picture(prompt.picture)[None], settings.frames_per_window, axis=0)  # one that stands still
    clip = Clip(
        start_seconds=sound.start_seconds,
        end_seconds=sound.end_seconds,
        frames=picture,
        frame_seconds=np.full(len(picture), sound.start_seconds),
        waveform=sound.waveform,
        sample_rate=sound.sample_rate,
    )
    starts = window_starts(clip.start_seconds, clip.end_seconds, window_seconds=length, hop_seconds=length)
    shown = np.arange(len(picture))
    grids = []
    for start in starts:
        window = pair_window(embedder, clip, float(start), shown=shown)
        grids.append(heat_grid(embedder, window, config=config))
    mean: np.ndarray = np.mean(grids, axis=0)
    return mean


def _cropped_mask(embedder: "Embedder", prompt: Prompt) -> np.ndarray:
    """bool (H, W) of the model's picture: the mask of the class, cut as the picture is, nearest pixels."""
    settings, mask = embedder.preprocess.config, prompt.read_mask()
    crop = model_crop(settings, *mask.shape)
    height, width = settings.picture_height, settings.picture_width
    rows = (crop.top + (np.arange(height) + 0.5) / height * (crop.bottom - crop.top)) * mask.shape[0]
    columns = (crop.left + (np.arange(width) + 0.5) / width * (crop.right - crop.left)) * mask.shape[1]
    cut: np.ndarray = mask[rows.astype(int)[:, None], columns.astype(int)[None, :]]
    return cut
