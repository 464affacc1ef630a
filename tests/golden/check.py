"""Compares this project with numbers that the published models gave: `python tests/golden/check.py DIR [--json]`.

Searches DIR and below for `*.io.safetensors` (inputs and outputs of a model, with the weights in `<stem>.pth` or the
longest prefix of the stem that has one, and sizes and flags in `configs.json`), `fbank.safetensors`,
`metrics.safetensors` and `fullsize_keys.json`. Every tensor is compared; one that nothing here computes is a failure,
and so is finding nothing. Prints the largest absolute difference of each; exit code 1 when any is outside its limit.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lookhear.data.batch import Batch
from lookhear.data.preprocess import log_mel
from lookhear.models.published import (
    PREFIX,
    PublishedChoices,
    from_published,
    load_published,
    published_shapes,
    to_published,
)
from lookhear.models.tokens import MaskConfig
from lookhear.models.transformer import Stream
from lookhear.objectives.cavmae import CAVMAEObjectiveConfig
from lookhear.objectives.contrastive import info_nce
from lookhear.tasks import metrics
from lookhear.tasks.matching import similarity

MODEL_LIMIT, GRADIENT_LIMIT, ADAM_LIMIT, METRIC_LIMIT = 1e-5, 1e-6, 1e-4, 1e-6
FBANK_LIMIT, CHIRP_LIMIT = 5e-4, 2e-2  # near the floor, a log-mel is float32 rounding noise

INPUTS = {"audio_f16", "image_u8", "noise_audio", "noise_image"}
RATIO = 0.75  # of the published masks
CONTRASTIVE_WEIGHT = {"cavmae": 0.01, "cavmae_sync": 0.1}
MODES = {
    "multimodal": "both",
    "audioonly": "audio",
    "videoonly": "visual",
    "missingaudioonly": "audio_of_both",
    "missingvideoonly": "visual_of_both",
}
VARIANT = re.compile(r"ratios_([\d.]+)_([\d.]+)_weights_([\d.]+)_([\d.]+)\.loss$")
ADAM = re.compile(r"adam_lr([\de.+-]+)_betas([\d.]+)_([\d.]+)_wd([\de.+-]+)_losses$")


@dataclass(frozen=True)
class Compared:
    """One tensor: how far ours is from theirs, and how far it may be."""

    file: str
    name: str
    difference: float | None  # None where the two cannot be compared
    limit: float
    note: str = ""

    @property
    def inside(self) -> bool:
        return self.difference is not None and self.difference <= self.limit


class GivenNoise:
    """Stands in for an objective's random draws: the noise of a golden file."""

    def __init__(self, audio: Tensor, visual: Tensor) -> None:
        self.noise = {"audio": audio, "visual": visual}

    def uniform(self, index: Tensor, count: int, *, purpose: str) -> Tensor:
        return self.noise[purpose.split()[-1]].reshape(len(index), count)


class GoldenModel:
    """The model of one golden file and everything that it can be asked about."""

    def __init__(self, path: Path, config: Mapping[str, Any], golden: Mapping[str, Tensor]) -> None:
        self.golden = golden
        choices = PublishedChoices(
            heads=config.get("num_heads", 12),
            decoder_heads=config.get("decoder_num_heads", 16),
            keep_registers=config.get("keep_register_tokens", False),
        )
        loaded = load_published(path, choices=choices)
        self.name, self.model, self.flags = loaded.name, loaded.model, config
        self.audio = golden["audio_f16"].float()[:, None]  # (R, 1, T, F)
        self.frames = ((golden["image_u8"].float() / 255 - 0.5) / 0.25)[:, None]  # (R, 1, C, H, W)
        rows = len(self.audio)
        self.batch = Batch(
            clip_ids=tuple(map(str, range(rows))),
            index=torch.arange(rows),
            start_seconds=torch.zeros(rows, 1, dtype=torch.float64),
            audio=self.audio,
            frames=self.frames,
        )

    def outputs(self) -> dict[str, Tensor]:
        """Every tensor that a golden file may hold, by its name there."""
        with torch.no_grad():
            if self.name == "cavmae_classifier":
                return {f"logits_{theirs}": self._logits(ours) for theirs, ours in MODES.items()}
            found = self._features()
        if "noise_audio" in self.golden:
            with torch.no_grad():
                found |= self._masked()
            found |= self._losses()
        return found

    def _logits(self, mode: str) -> Tensor:
        return self.model(self.audio, self.frames, mode=mode).logits[:, 0]

    def _features(self) -> dict[str, Tensor]:
        output = self.model(self.audio, self.frames)
        sides = {"audio": output.audio, "image": output.visual}
        found = {}
        for name, side in sides.items():
            tokens = side.tokens[:, 0]
            if self.flags.get("keep_register_tokens"):  # the published code leaves them at the end of its features
                tokens = torch.cat([tokens, self._registers(name)], dim=1)
            found[f"feat_{name}"] = found[f"feat_{name}_tokens"] = tokens
            if self.flags.get("cls_token"):
                found[f"feat_{name}_global"] = side.pooled[:, 0]
        pair = (output.audio.embedding[:, 0], output.visual.embedding[:, 0])
        found["nce_unidirectional"] = info_nce(*pair, direction="image_to_audio").loss
        found["nce_bidirectional"] = info_nce(*pair, direction="both").loss
        return found

    def _registers(self, name: str) -> Tensor:
        """(R, registers, D): what the registers are after their modality's last norm."""
        stream = Stream.AUDIO if name == "audio" else Stream.VISUAL
        given = self.audio if name == "audio" else self.frames
        patches = (self.model.audio_patches if name == "audio" else self.model.visual_patches)(given)
        tokens = self.model.single(self.model.tower(stream)(patches), stream)
        return tokens[:, tokens.shape[1] - self.model.config.num_registers :]

    def _masked(self) -> dict[str, Tensor]:
        noise = {"audio_noise": self.golden["noise_audio"], "visual_noise": self.golden["noise_image"]}
        masks = self.model.draw_masks(len(self.audio), MaskConfig(audio=RATIO, visual=RATIO), **noise)
        output = self.model(self.audio, self.frames, mask=masks)
        return {
            "mask_audio": masks.audio.removed.float(),
            "mask_image": masks.visual.removed.float(),
            "ids_restore_audio": masks.audio.restore,
            "ids_restore_image": masks.visual.restore,
            "latent_joint": output.joint[:, 0],
            "contrastive_audio_tokens": output.audio.tokens[:, 0],
            "contrastive_image_tokens": output.visual.tokens[:, 0],
            "pred_audio": output.reconstruction.audio[:, 0],
            "pred_image": output.reconstruction.visual[:, 0],
        }

    def _losses(self) -> dict[str, Tensor]:
        weight = self.flags.get("contrast_loss_weight", CONTRASTIVE_WEIGHT[self.name])
        found = self._step(RATIO, RATIO, self.flags.get("mae_loss_weight", 1.0), weight)
        self.model.zero_grad()
        found["loss"].backward()
        gradients = {name: part.grad for name, part in self.model.named_parameters() if part.grad is not None}
        found |= {f"grad.{name}": grad for name, grad in to_published(self.model, gradients).items()}
        for name in self.golden:
            if variant := VARIANT.match(name):
                prefix = name.removesuffix("loss")
                parts = self._step(*map(float, variant.groups()))
                found |= {prefix + part: value for part, value in parts.items()}
            elif adam := ADAM.match(name):
                found[name] = self._adam(*map(float, adam.groups()), contrastive_weight=weight)
        return found

    def _step(self, audio_ratio: float, image_ratio: float, mae: float, contrastive: float) -> dict[str, Tensor]:
        config = CAVMAEObjectiveConfig(
            mask=MaskConfig(audio=audio_ratio, visual=image_ratio),
            reconstruction_weight=mae,
            contrastive_weight=contrastive,
            normalise_patches=self.flags.get("norm_pix_loss", False),
            local_share=0.5 if self.flags.get("global_local_losses") else 0.0,
            negatives="local",
        )
        draws: Any = GivenNoise(self.golden["noise_audio"], self.golden["noise_image"])
        step = config.build(self.model)(self.model, self.batch, draws)
        audio, image = step.terms["reconstruction_audio"], step.terms["reconstruction_visual"]
        return {
            "loss": step.loss,
            "loss_mae": audio + image,
            "loss_mae_audio": audio / mae,
            "loss_mae_image": image / mae,
            "loss_contrastive_weighted": step.terms["contrastive"],
            "contrastive_accuracy": step.report["contrastive_accuracy"],
        }

    def _adam(self, rate: float, beta1: float, beta2: float, decay: float, *, contrastive_weight: float) -> Tensor:
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        trained = [part for part in self.model.parameters() if part.requires_grad]
        optimiser = torch.optim.Adam(trained, lr=rate, betas=(beta1, beta2), weight_decay=decay)
        losses = []
        for _ in range(10):
            optimiser.zero_grad()
            loss = self._step(RATIO, RATIO, self.flags.get("mae_loss_weight", 1.0), contrastive_weight)["loss"]
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        self.model.load_state_dict(start)
        return torch.stack(losses)


def check_model(path: Path) -> Iterator[Compared]:
    """Every tensor of one `*.io.safetensors`."""
    stem = path.name.removesuffix(".io.safetensors")
    golden = load_file(path)
    weights = [found for found in path.parent.glob("*.pth") if stem.startswith(found.stem)]
    if not weights:
        yield Compared(path.name, "weights", None, 0.0, "no .pth whose name begins this one's")
        return
    model = GoldenModel(max(weights, key=lambda found: len(found.stem)), _config(path, stem), golden)
    ours = model.outputs()
    for name, theirs in golden.items():
        if name in INPUTS:
            continue
        if name not in ours:
            yield Compared(path.name, name, None, 0.0, "nothing here computes it")
            continue
        exact = name.startswith(("mask_", "ids_"))
        limit = 0.0 if exact else GRADIENT_LIMIT if name.startswith("grad.") else MODEL_LIMIT
        yield _compare(path.name, name, ours[name], theirs, ADAM_LIMIT if ADAM.match(name) else limit)


def check_fbank(path: Path) -> Iterator[Compared]:
    """Log-mels of waveforms."""
    golden = load_file(path)
    for name in [name for name in golden if name.endswith(".fbank")]:
        waveform = golden[name.removesuffix(".fbank") + ".waveform"]
        limit = CHIRP_LIMIT if name.startswith("chirp") else FBANK_LIMIT
        yield _compare(path.name, name, log_mel(waveform), golden[name], limit)


def check_metrics(path: Path) -> Iterator[Compared]:
    """Similarities, ranks, average precision and area under the curve."""
    golden = load_file(path)
    sides = [golden[name].numpy() for name in ("audio", "image")]
    audio, image = (side / np.linalg.norm(side, axis=-1, keepdims=True) for side in sides)
    ours = {
        "multilabel.ap": metrics.average_precision(
            *(golden[f"multilabel.{part}"].numpy() for part in ("target", "score"))
        ),
        "multilabel.auc": metrics.area_under_roc(
            *(golden[f"multilabel.{part}"].numpy() for part in ("target", "score"))
        ),
    }
    matrices = {"clip": similarity.pair_similarity(audio[:, :1], image[:, :1])}
    for aggregation in similarity.AGGREGATIONS:
        matrix = similarity.pair_similarity(audio, image, aggregation=aggregation)
        matrices |= {f"audio_to_image.{aggregation}": matrix, f"image_to_audio.{aggregation}": matrix.T}
    for name, matrix in matrices.items():
        found = metrics.ranks(matrix, np.arange(len(matrix)))
        recalls = [metrics.recall_at(found, k) for k in (1, 5, 10)]
        ours[f"{name}.similarity"] = matrix
        ours[f"{name}.r1_r5_r10_medr"] = np.array([*recalls, metrics.median_rank(found)])
    for name, theirs in golden.items():
        if name in ("audio", "image", "multilabel.target", "multilabel.score"):
            continue
        if name not in ours:
            yield Compared(path.name, name, None, 0.0, "nothing here computes it")
            continue
        limit = 0.0 if name.endswith("medr") else METRIC_LIMIT
        yield _compare(path.name, name, torch.from_numpy(np.ascontiguousarray(ours[name])), theirs, limit)


def check_keys(path: Path) -> Iterator[Compared]:
    """Names and shapes of full-size files, without memory for weights: how many of them do not fit must be 0.

    They go through the loader itself, on the meta device, which refuses what it cannot take strictly.
    """
    for name, listed in json.loads(path.read_text(encoding="utf-8")).items():
        theirs = {key.removeprefix(PREFIX): tuple(shape) for key, shape in listed.items()}
        tensors = {key: torch.empty(shape, device="meta") for key, shape in theirs.items()}
        kind, model = from_published(tensors, where=name)
        ours = published_shapes(kind, model.config)
        wrong = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
        yield Compared(path.name, name, float(len(wrong)), 0.0, f"{len(theirs)} tensors of a {kind}")


def _config(path: Path, stem: str) -> dict[str, Any]:
    """The constructor values of `stem`, from the nearest configs.json that has them."""
    for folder in path.resolve().parents:
        found = folder / "configs.json"
        if found.exists():
            configs = json.loads(found.read_text(encoding="utf-8"))
            if stem in configs:
                return configs[stem]
    return {}


def _compare(file: str, name: str, ours: Tensor, theirs: Tensor, limit: float) -> Compared:
    if ours.shape != theirs.shape:
        return Compared(file, name, None, limit, f"shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
    if not theirs.numel():
        return Compared(file, name, 0.0, limit)
    difference = (ours.detach().double() - theirs.double()).abs().max()
    return Compared(file, name, None if difference.isnan() else float(difference), limit)


CHECKS: dict[str, Callable[[Path], Iterator[Compared]]] = {
    "*.io.safetensors": check_model,
    "fbank.safetensors": check_fbank,
    "metrics.safetensors": check_metrics,
    "fullsize_keys.json": check_keys,
}


def check(folder: Path) -> list[Compared]:
    """Everything that is found in `folder` and below."""
    compared = []
    for pattern, run in CHECKS.items():
        for path in sorted(folder.rglob(pattern)):
            try:
                compared += list(run(path))
            except Exception as error:  # one file that cannot be read must not hide the others
                compared.append(Compared(path.name, "(all)", None, 0.0, f"{type(error).__name__}: {error}"))
    return compared


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    compared = check(arguments.folder)
    outside = [one for one in compared if not one.inside]
    if arguments.json:
        rows = [vars(one) | {"inside": one.inside} for one in compared]
        print(json.dumps({"compared": rows, "outside": len(outside), "ok": bool(compared) and not outside}, indent=1))
    else:
        for one in compared:
            shown = "-" if one.difference is None else f"{one.difference:.3g}"
            verdict = "ok" if one.inside else "OUTSIDE"
            print(f"{verdict:8}{shown:>10} <= {one.limit:<8.3g}{one.file} {one.name} {one.note}".rstrip())
        print(
            f"{len(compared)} compared, {len(outside)} outside"
            if compared
            else f"nothing to compare in {arguments.folder}"
        )
    return 0 if compared and not outside else 1


if __name__ == "__main__":
    sys.exit(main())
