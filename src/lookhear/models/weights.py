"""The public weights that are known by name: where they lie, what they are for, and on what terms.

Sources: the published lists of CAV-MAE (Gong et al., ICLR 2023) and CAV-MAE Sync (Araujo et al., CVPR 2025). None of
these files was downloaded while this table was written: sizes and hashes are given only where someone stated them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookhear.cache import cache_folder
from lookhear.config import nearest
from lookhear.errors import CheckpointError
from lookhear.models.checkpoint import find_checkpoint
from lookhear.models.classifier import Mode
from lookhear.models.published import PublishedChoices

Kind = Literal["cavmae", "cavmae_classifier", "cavmae_sync"]

WEIGHT_FILES = (".safetensors", ".pth")
# What a model, or a file of one, is called on the Hugging Face hub. Paths that begin with ., /, ~ or a drive are not.
HUB_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(/(?P<file>.+))?")

NOT_STATED = "not stated"
# The authors state no licence for any of these files; the ImageNet MAE, which most started from, has this one.
FROM_MAE = f"{NOT_STATED}; descends from ImageNet MAE weights under CC-BY-NC 4.0 (no commercial use)"


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One public file of weights."""

    name: str
    """what it is called here"""
    kind: Kind
    """the model that it holds"""
    file: str
    """its published name, and its name on disk"""
    url: str | None
    """where it is downloaded from; None where that is not known here"""
    purpose: str
    """what it was trained on and is good for"""
    source: str
    """who published it; where `url` is None, where to find the link"""
    licence: str = FROM_MAE
    """of the file itself"""
    mode: Mode = "both"
    """what a classifier reads"""
    normalise_patches: bool | None = None
    """whether its decoder learned patches with their own mean and deviation taken out; None: no decoder, or unknown"""
    loss: Literal["bce", "ce"] | None = None
    """a classifier's: of classes that go together (AudioSet), or of which a clip has one (VGGSound)"""
    size_bytes: int | None = None
    """of the file, where it is known"""
    sha256: str | None = None
    """of the file, where it is known"""

    @property
    def choices(self) -> PublishedChoices:
        """What the file itself does not show."""
        mode = self.mode if self.kind == "cavmae_classifier" else None
        return PublishedChoices(mode=mode, normalise_patches=self.normalise_patches, loss=self.loss)


def _cavmae(
    name: str,
    link: str,
    purpose: str,
    *,
    kind: Kind = "cavmae",
    mode: Mode = "both",
    normalise_patches: bool | None = True,
    loss: Literal["bce", "ce"] | None = None,
) -> Weights:
    return Weights(
        name=name,
        kind=kind,
        file=link.rpartition("/")[2],
        url=f"https://www.dropbox.com/s/{link}?dl=1",
        purpose=purpose,
        source="github.com/YuanGongND/cav-mae",
        mode=mode,
        normalise_patches=normalise_patches,
        loss=loss,
    )


def _finetuned(name: str, link: str, purpose: str, mode: Mode = "both") -> Weights:
    loss: Literal["bce", "ce"] = "ce" if "vggsound" in name else "bce"
    return _cavmae(name, link, purpose, kind="cavmae_classifier", mode=mode, normalise_patches=None, loss=loss)


def _known() -> Iterator[Weights]:
    pre = "pre-trained on AudioSet-2M:"
    yield _cavmae("cavmae-scale++", "l5t5geufdy3qvnv/audio_model.21.pth", f"{pre} batch 256; the best to fine-tune")
    yield _cavmae("cavmae-scale+", "xu8bfie6hz86oev/audio_model.25.pth", f"{pre} batch 108; of the paper")
    yield _cavmae("cavmae-base", "wxrjgr86gdhc5k8/cav-mae-base.pth", f"{pre} batch 48")
    yield _cavmae(
        "cavmae-base-nonorm",
        "arrg7cb3e4hhjwu/cav-mae-base-nonorm.pth",
        f"{pre} batch 48, plain pixels predicted; for inpainting",
        normalise_patches=False,
    )
    yield _cavmae(
        "cavmae-imagenet",
        "9nlz523a5q52w86/ori_mae_11.pth",
        "ImageNet MAE in the layout of CAV-MAE: where pre-training starts",
        normalise_patches=None,
    )
    for name, link, what in (
        ("mask50", "dgorer0ybdbnvgf/50.pth", "mask ratio .50"),
        ("mask65", "xmuyksqch6l6g87/65.pth", "mask ratio .65"),
        ("mask85", "y3o9zggpecmrbnu/85.pth", "mask ratio .85"),
        ("time-frequency75", "madv6ynuy5113zh/time_freq_75.pth", "time-frequency mask .75"),
        ("time-frequency50", "nd7qlagn8je6zjn/time_freq_50.pth", "time-frequency mask .50"),
        ("time75", "hfehd7m379ehr0y/time_75.pth", "time mask .75"),
        ("frequency75", "ad4fhzt6d3xre5p/freq_75.pth", "frequency mask .75"),
        ("contrast0.001", "4j4qyiyjcmbtc6u/cav-mae-base-c0.001.pth", "contrastive weight .001"),
        ("contrast0.1", "wf54ver9rs9fl1b/cav-mae-base-c0.1.pth", "contrastive weight .1"),
        ("one-direction", "mvhmg7eda410phr/single_direction.pth", "batch 120, contrast in one direction"),
        ("two-directions", "ute6ydkw4hdv7rn/symc.pth", "batch 120, contrast in both directions"),
    ):
        yield _cavmae(f"cavmae-{name}", link, f"ablation: {what}")
    for name, link, what, mode in (
        ("as2m", "hejj49zdgyyfsuh/as-full-51.2.pth", "AudioSet-2M, 51.2 mAP", "both"),
        ("as20k", "9x6y642so3zve5y/as-20k-42.0.pth", "AudioSet-20K, 42.0 mAP", "both"),
        ("vggsound-65.5", "f4wrbxv2unewss9/vgg_65.5.pth", "VGGSound, 65.5 % accuracy", "both"),
        ("vggsound-65.9", "q66s3mu526mj2x6/vgg_66.0.pth", "VGGSound, 65.9 % accuracy", "both"),
        ("as2m-audio", "itfw7p0ueq7z9og/as_46.6.pth", "AudioSet-2M by sound alone, 46.6 mAP", "audio"),
        ("as20k-audio", "pariabyh1iyayda/as_37.7.pth", "AudioSet-20K by sound alone, 37.7 mAP", "audio"),
        ("as20k-visual", "9ngkq9ygwqecxz5/as_20.0.pth", "AudioSet-20K by picture alone, 20.0 mAP", "visual"),
        ("vggsound-audio", "l4rj0sgpnt08bp2/vgg_59.8.pth", "VGGSound by sound alone, 59.8 % accuracy", "audio"),
    ):
        yield _finetuned(f"cavmae-{name}", link, f"fine-tuned: {what} as published", mode)  # type: ignore[arg-type]
    yield Weights(
        name="cavmae-sync",
        kind="cavmae_sync",
        file="cav_mae_sync.pth",
        url=None,  # on Google Drive, by an id that is not known here
        normalise_patches=True,
        purpose="pre-trained on AudioSet-2M, epoch 25: retrieval and localization with windows of 4.16 s",
        source="github.com/edsonroteia/cav-mae-sync (link in pretrained_models/get_pretrained_model.sh)",
        size_bytes=762_886_272,  # second hand, as is that its sha256 begins with a035b04cf615
    )


WEIGHTS: dict[str, Weights] = {weights.name: weights for weights in _known()}


def is_hub_name(name: str) -> bool:
    """Whether `name` reads as `user/model`, or `user/model/FILE` with a file of weights."""
    found = HUB_NAME.fullmatch(name)
    if found is None:
        return False
    return found["file"].endswith(WEIGHT_FILES) if found["file"] else not name.endswith(WEIGHT_FILES)


def known_weights(name: str) -> Weights:
    """The entry of WEIGHTS called `name`. Raises CheckpointError for an unknown name, with the nearest known one."""
    if name not in WEIGHTS:
        raise CheckpointError(f"no weights are known by the name '{name}'{nearest(name, WEIGHTS)}")
    return WEIGHTS[name]


def file_of(weights: Weights, folder: Path | None = None) -> Path:
    """Where the file of `weights` lies once it is fetched, each in a folder of its own name."""
    return (cache_folder() if folder is None else folder) / weights.name / weights.file


@dataclass(frozen=True, kw_only=True)
class Located:
    """A file of weights, and what is known of it beside what it shows."""

    path: Path
    choices: PublishedChoices | None = None


def locate(name_or_path: str | Path) -> Located:
    """The file for a path (of a checkpoint, a checkpoint folder, a run folder) or a name in WEIGHTS; never downloads.

    A path that exists wins over a name. Raises CheckpointError where there is neither.
    """
    weights = WEIGHTS.get(str(name_or_path))
    path = Path(name_or_path)
    if is_hub_name(str(name_or_path)) and not Path(path.parts[0]).exists():
        user, model, *file = path.parts
        address = "/".join(("https://huggingface.co", user, model, "resolve/main", *(file or ["model.safetensors"])))
        raise CheckpointError(
            f"there is no checkpoint at {path}; if a model on the Hugging Face hub is meant, download it first with "
            f"`lookhear models fetch {address} --accept-unverified`, and give the path that it prints"
        )
    if weights is None or path.exists():
        return Located(path=find_checkpoint(path))
    path = file_of(weights)
    if not path.is_file():
        raise CheckpointError(
            f"the weights '{weights.name}' are not on this machine (looked for {path}); "
            + (f"run `lookhear models fetch {weights.name}`" if weights.url else f"get them from {weights.source}")
        )
    return Located(path=path, choices=weights.choices)
