"""The objective of CAV-MAE and CAV-MAE Sync: reconstruct what a mask removed, and tell partners from strangers.

Gong et al., ICLR 2023; Araujo et al., CVPR 2025. B clips, N windows a clip, M = B x N windows (of all ranks where
they are gathered), L tokens, E embedding width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookhear import distributed
from lookhear.data.batch import Batch
from lookhear.data.draws import Draws
from lookhear.data.sampling import HOP_SECONDS
from lookhear.errors import ConfigError
from lookhear.models.cavmae import CAVMAE
from lookhear.models.tokens import (
    Encoded,
    Mask,
    MaskConfig,
    Masks,
    Output,
    decode_some,
    noise_size,
    removed_places,
    take_tokens,
)
from lookhear.objectives.contrastive import NCE, Direction, excluded_pairs, info_nce
from lookhear.objectives.pieces import Comparison, Encodings, PiecewiseObjective
from lookhear.objectives.reconstruction import normalise_patches, patch_mse

TEMPERATURE_RANGE = (0.01, 0.5)  # within which a learned temperature stays


@dataclass(frozen=True, kw_only=True)
class CAVMAEObjectiveConfig:
    """What CAV-MAE is trained for; the defaults are the published base run."""

    mask: MaskConfig = field(default_factory=MaskConfig)
    """what is removed before reconstruction"""
    mask_ratio_range: tuple[float, float] | None = None
    """null: the ratios of `mask`; two numbers: both ratios drawn anew between them in every step (Sync's (0.6, 0.9))"""
    reconstruction_weight: float = 1.0
    """of the reconstruction losses of both modalities; 0: contrastive only, the decoder is not run"""
    decode_share: float = 1.0
    """share of the removed patches that are decoded and scored; below 1 a step is faster and learns something else"""
    normalise_patches: bool = True
    """reconstruct each patch with its own mean and deviation taken out"""
    contrastive_weight: float = 0.01
    """of the contrastive loss; 0: reconstruction only"""
    contrastive_mask_ratio: float | None = None
    """null: contrast the pass that is reconstructed; a number: a second pass with this mask on both, 0 for none"""
    temperature: float = 0.05
    """what cosines are divided by"""
    learn_temperature: bool = False
    """start at `temperature` and learn it"""
    direction: Direction = "image_to_audio"
    """which modality asks: for each picture a softmax over sounds (published), the reverse, or the mean of both"""
    local_share: float = 0.0
    """share of the contrastive loss that compares mean patch tokens instead of embeddings; 0.5: global + local"""
    same_clip_negatives: bool = True
    """whether other windows of the same clip, which do not overlap the positive, are negatives"""
    negatives: Literal["all", "local"] = "all"
    """windows of all ranks, with gradient; or of this rank alone, as in the published runs"""

    def __post_init__(self) -> None:
        problems = []
        if min(self.reconstruction_weight, self.contrastive_weight) < 0:
            problems.append("reconstruction_weight and contrastive_weight cannot be negative")
        if self.reconstruction_weight == self.contrastive_weight == 0:
            problems.append("reconstruction_weight and contrastive_weight are both 0: nothing to learn")
        if self.contrastive_mask_ratio is not None and not 0 <= self.contrastive_mask_ratio < 1:
            problems.append(f"contrastive_mask_ratio is {self.contrastive_mask_ratio}; it must be in [0, 1), or null")
        if self.mask_ratio_range is not None:
            low, high = self.mask_ratio_range
            if not 0 <= low <= high < 1:
                problems.append(f"mask_ratio_range is {self.mask_ratio_range}; it must rise within [0, 1), or be null")
        if not 0 < self.decode_share <= 1:
            problems.append(f"decode_share is {self.decode_share}; it must be above 0 and at most 1")
        if self.temperature <= 0:
            problems.append(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.local_share <= 1:
            problems.append(f"local_share is {self.local_share}; it must be from 0 to 1")
        if problems:
            raise ConfigError("; ".join(problems))

    def build(self, model: nn.Module, *, num_instances: int = 0, num_classes: int = 0) -> "CAVMAEObjective":
        """The objective for `model`, a CAV-MAE of either kind; instances and classes do not matter to it."""
        if not isinstance(model, CAVMAE) or model.config.modalities != "both":
            raise ConfigError("this objective needs a CAV-MAE with both modalities")
        if self.reconstruction_weight and model.decoder is None:
            raise ConfigError("reconstruction needs a decoder: set model.decoder_depth, or reconstruction_weight to 0")
        return CAVMAEObjective(self)


class CAVMAEObjective(PiecewiseObjective):
    """Terms: reconstruction_audio, reconstruction_visual, contrastive. Report: contrastive_accuracy."""

    def __init__(self, config: CAVMAEObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        start = torch.tensor(math.log(config.temperature))
        self.log_temperature = nn.Parameter(start) if config.learn_temperature else None

    @property
    def compares(self) -> bool:
        """Contrast compares clips."""
        return self.config.contrastive_weight > 0

    def encode(self, model: nn.Module, batch: Batch, draws: Draws, *, only_compared: bool = False) -> Encodings:
        """One or two passes through `model`, and the reconstruction losses; see the config for what is in them."""
        assert isinstance(model, CAVMAE)
        config = self.config
        reconstruct = config.reconstruction_weight > 0 and not only_compared
        shared_pass = config.contrastive_mask_ratio is None
        terms: dict[str, Tensor] = {}
        output = None
        if reconstruct or shared_pass:
            masks = _draw_masks(model, batch, draws, self._mask_of_step(draws), purpose="mask")
            if not reconstruct:
                masks = Masks(audio=masks.audio, visual=masks.visual, reconstruct=False)
            elif config.decode_share < 1:
                some = partial(decode_some, share=config.decode_share)
                masks = Masks(audio=masks.audio and some(masks.audio), visual=masks.visual and some(masks.visual))
            output = model(batch.audio, batch.frames, mask=masks)
            if reconstruct:
                terms = self._reconstruction_terms(output, masks)
        if not self.compares:
            return Encodings(terms=terms)
        if not shared_pass:
            output = self._contrastive_pass(model, batch, draws)
        assert output is not None
        return Encodings(terms=terms, compared=self._compared(output))

    def compare(self, compared: Mapping[str, Tensor], batch: Batch) -> Comparison:
        """The contrastive loss between every window of sound and every picture; nothing without contrast."""
        if not self.compares:
            return Comparison()
        nce = self._contrast(compared, batch)
        report = {"contrastive_accuracy": nce.accuracy}
        if self.log_temperature is not None:
            report["temperature"] = self.log_temperature.exp()
        return Comparison(terms={"contrastive": self.config.contrastive_weight * nce.loss}, report=report)

    def after_step(self, model: nn.Module) -> None:
        """Keeps a learned temperature within bounds."""
        if self.log_temperature is not None:
            low, high = TEMPERATURE_RANGE
            self.log_temperature.data.clamp_(math.log(low), math.log(high))

    def _mask_of_step(self, draws: Draws) -> MaskConfig:
        """Ratios are Python numbers, the same on all ranks: how many tokens are kept is known without the device."""
        mask, between = self.config.mask, self.config.mask_ratio_range
        if between is None:
            return mask
        low, high = between
        audio, visual = (low + (high - low) * share for share in draws.of_step(2, purpose="mask ratio"))
        return replace(mask, audio=audio, visual=visual)

    def _reconstruction_terms(self, output: Output, masks: Masks) -> dict[str, Tensor]:
        found = output.reconstruction
        assert found is not None
        parts = {"audio": (found.audio, found.audio_patches, masks.audio)}
        parts["visual"] = (found.visual, found.visual_patches, masks.visual)
        return {
            f"reconstruction_{name}": self.config.reconstruction_weight * self._reconstruction(*part)
            for name, part in parts.items()
        }

    def _reconstruction(self, prediction: Tensor, target: Tensor, mask: Mask | None) -> Tensor:
        """The error over the removed patches, which alone are looked at: often a small part of all."""
        assert mask is not None
        prediction, target = prediction.flatten(0, 1), target.detach().flatten(0, 1)  # (R, L, P)
        if mask.decoded is None:
            places = removed_places(mask)
            prediction, target = take_tokens(prediction, places), take_tokens(target, places)
        target = target.float()
        if self.config.normalise_patches:
            target = normalise_patches(target)
        return patch_mse(prediction, target)

    def _contrastive_pass(self, model: CAVMAE, batch: Batch, draws: Draws) -> Output:
        ratio = self.config.contrastive_mask_ratio
        assert ratio is not None
        masks = Masks(reconstruct=False)
        if ratio > 0:
            both = MaskConfig(audio=ratio, visual=ratio)
            drawn = _draw_masks(model, batch, draws, both, purpose="contrastive mask")
            masks = Masks(audio=drawn.audio, visual=drawn.visual, reconstruct=False)
        output: Output = model(batch.audio, batch.frames, mask=masks)
        return output

    def _compared(self, output: Output) -> dict[str, Tensor]:
        """By modality, (B, N, E): embeddings, mean patch tokens, or both, as `local_share` asks."""
        assert output.audio is not None, "contrast needs sound in every batch"
        assert output.visual is not None, "contrast needs a picture in every batch"
        found = {}
        for name, encoded in (("audio", output.audio), ("visual", output.visual)):
            if self.config.local_share < 1:
                found[name] = encoded.embedding
            if self.config.local_share > 0:
                found[f"local_{name}"] = _mean_token(encoded)
        return found

    def _contrast(self, compared: Mapping[str, Tensor], batch: Batch) -> NCE:
        share = self.config.local_share
        if share == 0:
            return self._info_nce(compared["audio"], compared["visual"], batch)
        local = self._info_nce(compared["local_audio"], compared["local_visual"], batch)
        if share == 1:
            return local
        whole = self._info_nce(compared["audio"], compared["visual"], batch)
        return NCE(loss=(1 - share) * whole.loss + share * local.loss, accuracy=whole.accuracy)

    def _info_nce(self, audio: Tensor, visual: Tensor, batch: Batch) -> NCE:
        """Every window of `audio` (B, N, E) against every one of `visual`, minus those that share its moment."""
        config = self.config
        assert batch.audio is not None
        num_clips, num_windows = audio.shape[:2]
        audio, visual = audio.flatten(0, 1), visual.flatten(0, 1)  # (M, E)
        index = batch.index.repeat_interleave(num_windows)  # (M,)
        start_seconds = batch.start_seconds.flatten()  # (M,)
        own = slice(0, num_clips * num_windows)
        if config.negatives == "all":
            own = distributed.own_rows(len(audio))
            audio, visual = distributed.all_gather(audio), distributed.all_gather(visual)
            index, start_seconds = distributed.all_gather(index), distributed.all_gather(start_seconds)
        excluded = excluded_pairs(
            index,
            start_seconds,
            window_seconds=batch.audio.shape[2] * HOP_SECONDS,
            same_clip_negatives=config.same_clip_negatives,
            own=own,
        )
        temperature = config.temperature if self.log_temperature is None else self.log_temperature.exp()
        return info_nce(audio, visual, temperature=temperature, direction=config.direction, excluded=excluded, own=own)


def _mean_token(encoded: Encoded) -> Tensor:
    return F.normalize(encoded.tokens.float().mean(2), dim=-1)  # (B, N, E)


def _draw_masks(model: CAVMAE, batch: Batch, draws: Draws, config: MaskConfig, *, purpose: str) -> Masks:
    """Masks for every window of `batch` that depend on (seed, epoch, clip, window) alone."""
    num_windows = batch.start_seconds.shape[1]
    grids = {"audio": model.config.audio_grid, "visual": model.config.picture_grid}
    structures = {"audio": config.audio_structure, "visual": config.visual_structure}
    noise = {}
    for name, grid in grids.items():
        size = noise_size(grid, structures[name])
        drawn = draws.uniform(batch.draw_key, num_windows * size, purpose=f"{purpose} {name}")
        noise[name] = drawn.reshape(-1, size)  # (M, noise size)
    return model.draw_masks(len(batch) * num_windows, config, audio_noise=noise["audio"], visual_noise=noise["visual"])
