"""lookhear: learns from unlabelled video how sound and picture belong together, and uses what it learned.

The public names, all of which can be used as `lookhear.NAME`:

- `load(checkpoint)` -> `Embedder`: media to embeddings with times.
- `index(folders, model=..., index_path=...)`: make or update a search index.
- `Index(path).search(sound=..., picture=..., clip=...)` -> list of `Hit`: find moments.
- `prepare(folder, store)`, `pretrain(recipe, store=..., folder=...)`: learn from your own videos.
- `evaluate_retrieval`, `evaluate_sync`, `evaluate_localization`, `localize`: what was learned, measured and shown.
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
    from lookhear.embedder import Embedder, load
    from lookhear.media.clip import Clip
    from lookhear.media.decode import read_clip
    from lookhear.media.probe import probe
    from lookhear.media.scenes import make_scenes
    from lookhear.recipes import pretrain
    from lookhear.search.crawl import index
    from lookhear.search.index import Index
    from lookhear.search.query import Hit
    from lookhear.tasks.localization import evaluate_localization, localize
    from lookhear.tasks.retrieval import evaluate_retrieval
    from lookhear.tasks.sync import evaluate_sync

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "Embedder",
    "Hit",
    "Index",
    "Store",
    "UserError",
    "evaluate_localization",
    "evaluate_retrieval",
    "evaluate_sync",
    "index",
    "load",
    "localize",
    "make_scenes",
    "prepare",
    "pretrain",
    "probe",
    "read_clip",
]

_HOMES = {
    "Clip": "lookhear.media.clip",
    "Embedder": "lookhear.embedder",
    "Hit": "lookhear.search.query",
    "Index": "lookhear.search.index",
    "Store": "lookhear.data.store",
    "evaluate_localization": "lookhear.tasks.localization",
    "evaluate_retrieval": "lookhear.tasks.retrieval",
    "evaluate_sync": "lookhear.tasks.sync",
    "index": "lookhear.search.crawl",
    "load": "lookhear.embedder",
    "localize": "lookhear.tasks.localization",
    "make_scenes": "lookhear.media.scenes",
    "prepare": "lookhear.data.prepare",
    "pretrain": "lookhear.recipes",
    "probe": "lookhear.media.probe",
    "read_clip": "lookhear.media.decode",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lookhear' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
