"""lookhear: learns from unlabelled video how sound and picture belong together, and uses what it learned.

The public names, all of which can be used as `lookhear.NAME`:

- `load(checkpoint)` -> `Embedder`: media to embeddings with times; also published files (`PublishedChoices`).
- `fetch(name)`, `push(checkpoint, "user/model")`: public weights to this machine, yours to the Hugging Face hub.
- `index(folders, model=..., index_path=...)`: make or update a search index.
- `Index(path).search(sound=..., picture=..., clip=..., like=...)` -> list of `Hit`: find moments; `Where` filters,
  `hits_frame(hits)` makes a pandas frame.
- `forget(paths, index_path=...)`, `watch(folders, ...)`: take files out of an index, keep it up to date.
- `label(classifier, index_path=...)`: names what is heard and seen in the files of an index.
- `prepare(folder, store)`, `pretrain(recipe, store=..., folder=...)`: learn from your own videos.
- `report_runs(run_folders, out="report.html")`: one page about one or several runs.
- `classify(path, model=...)` -> list of `LabelledMoment`; `evaluate_classification`, `evaluate_recognition` (whole
  files), `evaluate_probe`, `evaluate_rounds` (folds and official splits).
- `skim(path, model=..., skimmer=...)` -> `SkimmedFile`: a long file named from few of its moments; `evaluate_skimming`.
- `evaluate_retrieval`, `evaluate_sync`, `evaluate_localization`, `localize`: what was learned, measured and shown.
- `localize_sound`, `inpaint`: what a region sounds like; what is missing, filled in.
- `embed(source, out, model=...)`, `read_embeddings(out)`: vectors of many files on disk, and back.
- `read_clip(path)` -> `Clip`, `probe(path)` -> `MediaInfo`: media on its own clock.
- `make_scenes(folder, count=...)`: small real videos with known truth.
- `UserError`: every error that a user can mend.

Each is imported when first used, so `import lookhear` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lookhear.errors import UserError

if TYPE_CHECKING:
    from lookhear.data.prepare import prepare
    from lookhear.data.store import Store
    from lookhear.data.vectors import read_embeddings
    from lookhear.embedder import Embedder, load
    from lookhear.hub import push
    from lookhear.media.clip import Clip
    from lookhear.media.decode import read_clip
    from lookhear.media.probe import probe
    from lookhear.media.scenes import make_scenes
    from lookhear.models.fetch import fetch
    from lookhear.models.published import PublishedChoices
    from lookhear.recipes import pretrain
    from lookhear.recipes.finetune import finetune
    from lookhear.report.run_page import report_runs
    from lookhear.search.crawl import index
    from lookhear.search.filters import Where
    from lookhear.search.forget import forget
    from lookhear.search.index import Index
    from lookhear.search.labels import label
    from lookhear.search.query import Hit, hits_frame
    from lookhear.search.watch import watch
    from lookhear.tasks.embed import embed
    from lookhear.tasks.inpainting import inpaint
    from lookhear.tasks.labels.classification import evaluate_classification
    from lookhear.tasks.labels.moments import LabelledMoment, classify
    from lookhear.tasks.labels.probes import evaluate_probe, evaluate_rounds
    from lookhear.tasks.labels.recognition import evaluate_recognition
    from lookhear.tasks.labels.skim_file import SkimmedFile, skim
    from lookhear.tasks.labels.skimming import evaluate_skimming
    from lookhear.tasks.localization.evaluation import evaluate_localization
    from lookhear.tasks.localization.overlays import localize, localize_sound
    from lookhear.tasks.localization.prompted import evaluate_prompted_segmentation
    from lookhear.tasks.matching.retrieval import evaluate_retrieval
    from lookhear.tasks.matching.sync import evaluate_sync

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "Embedder",
    "Hit",
    "Index",
    "LabelledMoment",
    "PublishedChoices",
    "SkimmedFile",
    "Store",
    "UserError",
    "Where",
    "classify",
    "embed",
    "evaluate_classification",
    "evaluate_localization",
    "evaluate_probe",
    "evaluate_prompted_segmentation",
    "evaluate_recognition",
    "evaluate_retrieval",
    "evaluate_rounds",
    "evaluate_skimming",
    "evaluate_sync",
    "fetch",
    "finetune",
    "forget",
    "hits_frame",
    "index",
    "inpaint",
    "label",
    "load",
    "localize",
    "localize_sound",
    "make_scenes",
    "prepare",
    "pretrain",
    "probe",
    "push",
    "read_clip",
    "read_embeddings",
    "report_runs",
    "skim",
    "watch",
]

_HOMES = {
    "Clip": "lookhear.media.clip",
    "Embedder": "lookhear.embedder",
    "Hit": "lookhear.search.query",
    "Index": "lookhear.search.index",
    "LabelledMoment": "lookhear.tasks.labels.moments",
    "PublishedChoices": "lookhear.models.published",
    "SkimmedFile": "lookhear.tasks.labels.skim_file",
    "Store": "lookhear.data.store",
    "Where": "lookhear.search.filters",
    "classify": "lookhear.tasks.labels.moments",
    "embed": "lookhear.tasks.embed",
    "evaluate_classification": "lookhear.tasks.labels.classification",
    "evaluate_localization": "lookhear.tasks.localization.evaluation",
    "evaluate_prompted_segmentation": "lookhear.tasks.localization.prompted",
    "evaluate_probe": "lookhear.tasks.labels.probes",
    "evaluate_recognition": "lookhear.tasks.labels.recognition",
    "evaluate_retrieval": "lookhear.tasks.matching.retrieval",
    "evaluate_rounds": "lookhear.tasks.labels.probes",
    "evaluate_skimming": "lookhear.tasks.labels.skimming",
    "evaluate_sync": "lookhear.tasks.matching.sync",
    "fetch": "lookhear.models.fetch",
    "finetune": "lookhear.recipes.finetune",
    "forget": "lookhear.search.forget",
    "hits_frame": "lookhear.search.query",
    "index": "lookhear.search.crawl",
    "inpaint": "lookhear.tasks.inpainting",
    "label": "lookhear.search.labels",
    "load": "lookhear.embedder",
    "localize": "lookhear.tasks.localization.overlays",
    "localize_sound": "lookhear.tasks.localization.overlays",
    "make_scenes": "lookhear.media.scenes",
    "prepare": "lookhear.data.prepare",
    "pretrain": "lookhear.recipes",
    "probe": "lookhear.media.probe",
    "push": "lookhear.hub",
    "read_clip": "lookhear.media.decode",
    "read_embeddings": "lookhear.data.vectors",
    "report_runs": "lookhear.report.run_page",
    "skim": "lookhear.tasks.labels.skim_file",
    "watch": "lookhear.search.watch",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lookhear' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
