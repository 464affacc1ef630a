"""An index's folder: index.json, which says what made the index."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from lookhear.config import from_dict, to_dict
from lookhear.errors import ConfigError, IndexStateError
from lookhear.search.bucket import Place, remove_all, replace, write_whole
from lookhear.search.lease import is_trace_of_writer

FORMAT = 2
NEAREST = 10
# Up to so many moments every search is exact, unless a crawl is told otherwise.
EXACT_MOMENTS = 1_000_000
_FACTS_NAME = "index.json"
_NEXT_NAME = "index.next.json"
_TABLES = "tables"


@dataclass(frozen=True, kw_only=True)
class Approximate:
    """An index of neighbours, as index.json remembers it."""

    moments: int
    """when it was made; newer ones are searched too"""
    probes: int
    """partitions that a search looks into"""
    refine: int
    """times as many candidates as are named, of which the exact vectors decide"""
    recall_at_10: dict[str, float]
    """by `query>library` modality: the share of the ten nearest moments that a shortlist names, 0 to 1"""
    sampled: int
    """moments that were asked for in the measurement"""
    build_seconds: float

    @property
    def recall(self) -> str:
        """The lowest recall in words."""
        lowest = min(self.recall_at_10.values(), default=1.0)
        return f"{lowest:.1%} of the {NEAREST} nearest moments are found, measured on {self.sampled} moments"


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What index.json says. Every vector of an index was made in this one way."""

    format: int
    model: str
    """the checkpoint that made the index, as an absolute path; empty if it came from no file"""
    fingerprint: str
    """of the checkpoint's tensors and preprocessing"""
    preprocess: dict[str, Any]
    """the preprocessing that the checkpoint holds"""
    window_seconds: float
    """length of a moment"""
    hop_seconds: float
    """from the start of a moment to the next"""
    embedding_width: int
    """E, of the model's embedding, the first half of a vector"""
    plain_width: int
    """of the plain description after it (`likeness.py`), 0 without one"""
    libraries: tuple[str, ...] = ()
    """the folders that were indexed, as absolute paths"""
    tables: str = _TABLES
    """the folder of the tables, inside the index"""
    approximate: Approximate | None = None
    """how it is searched where it is too large for an exact search"""
    exact_moments: int = EXACT_MOMENTS
    """up to so many moments searches are exact"""

    @property
    def vector_width(self) -> int:
        """Of what the tables hold."""
        return self.embedding_width + self.plain_width


def read_facts(path: Place, *, is_next: bool = False) -> IndexFacts:
    """What index.json of the index at `path` says, or index.next.json, of an index that is made beside it.

    Raises IndexStateError where there is none, or one that this version cannot read.
    """
    name = _NEXT_NAME if is_next else _FACTS_NAME
    try:
        data: Any = json.loads((path / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"{path} is not an index" if path.exists() else f"there is no index at {path}"
        how = f"make one with `lookhear index FOLDER --model CHECKPOINT --index {path}`"
        raise IndexStateError(f"{what}; {how}") from None
    except (OSError, ValueError) as error:
        raise IndexStateError(f"cannot read {path / name} ({error}); make the index again") from None
    found = data.get("format") if isinstance(data, dict) else None
    if found != FORMAT:
        raise IndexStateError(
            f"{path} has index format {found}, this version reads {FORMAT}; make the index again in another folder "
            "(--index DIR), or use the version of lookhear that made it"
        )
    try:
        return from_dict(IndexFacts, data)
    except ConfigError as error:
        raise IndexStateError(f"{path / name} is damaged ({error}); make the index again") from None


def write_facts(path: Place, facts: IndexFacts, *, is_next: bool = False) -> None:
    """Writes index.json, whole or not at all. Raises IndexStateError where that is not possible."""
    with _changing(path):
        write_whole(path / (_NEXT_NAME if is_next else _FACTS_NAME), json.dumps(to_dict(facts), indent=2).encode())


def make_place(path: Place) -> None:
    """Makes the folder of a new index. Raises IndexStateError unless nothing is there, or an empty folder."""
    with _changing(path):
        if path.exists() and not path.is_dir():
            raise IndexStateError(f"{path} is a file; an index needs a folder (--index DIR)")
        if path.is_dir() and any(
            not entry.name.endswith(".tmp") and not is_trace_of_writer(entry) for entry in path.iterdir()
        ):
            raise IndexStateError(f"{path} is not an index and is not empty; choose another folder (--index DIR)")
        path.mkdir(parents=True, exist_ok=True)


def is_index(path: Place) -> bool:
    """Whether there is an index at `path`, of whatever format."""
    return (path / _FACTS_NAME).exists()


def has_next(path: Place) -> bool:
    """Whether another index is being made beside this one."""
    return (path / _NEXT_NAME).exists()


def switch_to_next(path: Place) -> None:
    """Makes the index that was made beside this one the index, in one step."""
    with _changing(path):
        replace(path / _NEXT_NAME, path / _FACTS_NAME)


def drop_next(path: Place) -> None:
    """Gives up the index that was made beside this one; its tables go with `drop_strays`."""
    with _changing(path):
        (path / _NEXT_NAME).unlink(missing_ok=True)


def new_tables() -> str:
    """A name for new tables that none had before: what machines keep for searches goes by it."""
    return f"{_TABLES}-{uuid4().hex[:8]}"


def drop_tables(path: Place, name: str) -> None:
    """Deletes the folder `name` of tables that no facts name any more."""
    try:
        remove_all(path / name)
    except OSError as error:
        raise IndexStateError(
            f"cannot delete {path / name}: {error.strerror or error}; the index does not use it any more, but what was "
            "in it is still on the disk: delete the folder"
        ) from None


def drop_strays(path: Place) -> None:
    """Deletes the tables that no facts name: those that were replaced, or left behind by a killed process."""
    named = {read_facts(path).tables}
    if has_next(path):
        begun = read_facts(path, is_next=True).tables
        if begun in named:  # killed in a bucket while it took the place of the other one
            drop_next(path)
        named.add(begun)
    for folder in path.iterdir():
        if folder.name.startswith(_TABLES) and folder.name not in named and folder.is_dir():
            with contextlib.suppress(OSError):  # what cannot go now goes the next time
                remove_all(folder)


@contextlib.contextmanager
def _changing(path: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IndexStateError(
            f"cannot write {path}: {error.strerror or error}; mend that or choose another folder (--index DIR)"
        ) from None
