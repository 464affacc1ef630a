"""How fast and how complete searches are: `lookhear bench search`.

What is timed is `Index.find`, from the vector of a query to ten hits with times and scores. Recall is the share of the
ten hits of a search over all float32 vectors that are among the ten that were found. What needs a process of its own,
peak memory and the first answer, is measured in one. Encoding a query, with a model of the published size and random
weights, comes on top.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lookhear.bench.made_moments import (
    FILE_MOMENTS,
    HOP,
    PHASES,
    SEQUENCE,
    WINDOW,
    Questions,
    make_index,
    name_of,
    questions,
)
from lookhear.config import from_dict
from lookhear.data.preprocess import Preprocess, PreprocessConfig
from lookhear.embedder import Embedder
from lookhear.errors import UserError
from lookhear.media.encode import write_sound
from lookhear.models.cavmae_sync import CAVMAESync, CAVMAESyncConfig
from lookhear.progress import Progress, quiet
from lookhear.search.calibration import calibrate
from lookhear.search.examples import Request, make_query
from lookhear.search.facts import Approximate, is_index, read_facts, write_facts
from lookhear.search.index import Index
from lookhear.search.large import LargeLibrary
from lookhear.search.library import Alignments, merge_alignments
from lookhear.search.query import Query

# The plain form holds all vectors in float32.
_MOST_PLAIN_BYTES = 4 << 30
_NOTES = "bench.json"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one way to search."""

    p50_ms: float  # of one window of a query
    p95_ms: float
    recall_at_10: float
    build_seconds: float
    disk_bytes: int  # beside the table of moments
    sequence_p50_ms: float  # of a query of `sequence_windows` windows
    build_peak_bytes: int | None  # of memory, in a process of its own; None where the system does not say


@dataclass(frozen=True, kw_only=True)
class FirstAnswer:
    """Of a process that starts, imports, opens the index, and answers one query."""

    seconds: float
    open_seconds: float  # of them, after the imports
    next_ms: float  # of the second answer
    peak_bytes: int | None  # resident memory, mapped files counted as far as they are in memory
    anonymous_bytes: int | None  # of it, what is no mapped file


@dataclass(frozen=True, kw_only=True)
class SearchBench:
    """All figures of one run."""

    vectors: int
    width: int
    queries: int
    threads: int
    table_bytes: int
    # mean cosines of a query with its nearest, tenth, hundredth and a random moment
    cosine_first: float
    cosine_tenth: float
    cosine_hundredth: float
    cosine_random: float
    exact: Figures
    approximate: Figures | None
    # a float32 product with all vectors in memory and its ten highest: the plain form of a search
    plain_p50_ms: float | None
    sequence_windows: int
    first_answer_exact: FirstAnswer
    first_answer_approximate: FirstAnswer | None
    encode_sound_ms: float  # a window of sound, with a model of the published size
    encode_picture_ms: float


def measure(
    *,
    vectors: int = 100_000,
    width: int = 768,
    queries: int = 100,
    folder: Path | None = None,
    approximate: bool = True,
    progress: Progress = quiet,
) -> SearchBench:
    """Makes the library in `folder` (None: one that is deleted afterwards) if it is not there, and measures.

    What was built in a folder is not built again. Raises UserError for fewer than 1,000 vectors or no query, and for a
    folder that holds something else.
    """
    if vectors < 1000 or queries < 1 or width < 2:
        raise UserError(f"{vectors} vectors of {width} numbers and {queries} queries say nothing; give more")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "index" if folder is None else folder
        return _Bench(place, vectors, width, queries, progress).run(approximate=approximate)


class _Bench:
    def __init__(self, place: Path, vectors: int, width: int, queries: int, progress: Progress) -> None:
        self.place = place
        self.vectors = vectors // FILE_MOMENTS * FILE_MOMENTS
        self.width = width
        self.queries = queries
        self.progress = progress

    def run(self, *, approximate: bool) -> SearchBench:
        self._make()
        index = Index(self.place)
        tables = self.place / index.facts.tables
        if index.facts.approximate is not None:  # kept from a run before
            self._keep(None)
        asked = questions(self.vectors, self.width, self.queries)
        self._say("exact: matrix")
        built = self._built("exact", lambda: _bytes_of(tables / "matrix"))
        self._say("exact: what is right")
        truth = _truth(index, asked)
        self._say("exact: searches")
        exact = self._figures(index, asked, truth, built)
        first = self._alone("first_answer", self._like, str(time.time()))
        approximate_figures = first_approximate = None
        if approximate:
            self._say("approximate: index of neighbours")
            built = self._built("approximate", lambda: _bytes_of(tables / "moments.lance" / "_indices"))
            self._keep(built["facts"])
            self._say("approximate: searches")
            approximate_figures = self._figures(index, asked, truth, built)
            first_approximate = FirstAnswer(**self._alone("first_answer", self._like, str(time.time())))
        self._say("encoding")
        return SearchBench(
            vectors=self.vectors,
            width=self.width,
            queries=self.queries,
            threads=torch.get_num_threads(),
            table_bytes=_bytes_of(tables / "moments.lance" / "data"),
            cosine_first=truth.cosines[0],
            cosine_tenth=truth.cosines[1],
            cosine_hundredth=truth.cosines[2],
            cosine_random=truth.cosines[3],
            exact=exact,
            approximate=approximate_figures,
            plain_p50_ms=truth.plain_ms,
            sequence_windows=SEQUENCE * PHASES,
            first_answer_exact=FirstAnswer(**first),
            first_answer_approximate=first_approximate,
            **_encoding(),
        )

    def _say(self, what: str) -> None:
        self.progress(0, None, what)

    @property
    def _like(self) -> str:
        return f"{name_of(1)}@{HOP * 50:g}"

    def _make(self) -> None:
        """The index of the made library, unless it is there."""
        fingerprint = f"made for the bench, {self.vectors} x {self.width}"
        if not is_index(self.place):
            make_index(self.place, self.vectors, self.width, fingerprint=fingerprint, progress=self.progress)
            self._note({})
        elif read_facts(self.place).fingerprint != fingerprint or not (self.place / _NOTES).exists():
            raise UserError(f"{self.place} is another index than this measurement needs; name another folder")

    def _built(self, name: str, size: Callable[[], int]) -> dict[str, Any]:
        """What building one way to search took, now or when it was built in this folder."""
        notes = json.loads((self.place / _NOTES).read_text(encoding="utf-8"))
        if name not in notes:
            notes[name] = self._alone(f"build_{name}") | {"disk_bytes": size()}
            self._note(notes)
        return dict(notes[name])

    def _note(self, notes: dict[str, Any]) -> None:
        (self.place / _NOTES).write_text(json.dumps(notes, indent=1), encoding="utf-8")

    def _keep(self, approximate: dict[str, Any] | None) -> None:
        """Says in index.json how it is to be searched."""
        known = None if approximate is None else from_dict(Approximate, approximate)
        write_facts(self.place, replace(read_facts(self.place), approximate=known))

    def _alone(self, what: str, *words: str) -> dict[str, Any]:
        """What a function of this file measures in a process of its own."""
        code = "import sys; from lookhear.bench.alone import run; run(*sys.argv[1:])"
        command = [sys.executable, "-c", code, what, str(self.place), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the measurement '{what}' ended with: {done.stderr.strip()[-500:]}")
        return dict(json.loads(done.stdout))

    def _figures(self, index: Index, asked: Questions, truth: "_Truth", built: dict[str, Any]) -> Figures:
        for query in asked.single[:2]:
            index.find(_request(index, query), within="sound")  # reads the library, calibrates
        milliseconds, shares = [], []
        for number, query in enumerate(asked.single):
            request = _request(index, query)
            started = time.perf_counter()
            hits = index.find(request, within="sound", top=10)
            milliseconds.append(1000.0 * (time.perf_counter() - started))
            found = {(hit.path, round(hit.peak_seconds, 2)) for hit in hits}
            shares.append(len(found & truth.hits[number]) / len(truth.hits[number]))
        index.find(_request(index, asked.sequences[0]), within="sound")
        sequence = []
        for query in asked.sequences[1:]:
            started = time.perf_counter()
            index.find(_request(index, query), within="sound", top=10)
            sequence.append(1000.0 * (time.perf_counter() - started))
        return Figures(
            p50_ms=float(np.percentile(milliseconds, 50)),
            p95_ms=float(np.percentile(milliseconds, 95)),
            recall_at_10=float(np.mean(shares)),
            build_seconds=built["seconds"],
            disk_bytes=built["disk_bytes"],
            sequence_p50_ms=float(np.percentile(sequence, 50)),
            build_peak_bytes=built["peak_bytes"],
        )


def _request(index: Index, query: Query) -> Request:
    return Request(examples=(query,), fingerprint=index.facts.fingerprint)


# ---- what is right


@dataclass(frozen=True, kw_only=True, eq=False)
class _Truth:
    hits: list[set[tuple[str, float]]]  # path and peak of ten hits, a set for each query
    cosines: tuple[float, float, float, float]  # of the first, tenth, hundredth and a random moment, mean over queries
    plain_ms: float | None


def _truth(index: Index, asked: Questions) -> _Truth:
    """By the float32 vectors of all moments, without any shortlist."""
    library = index.library()
    assert isinstance(library, LargeLibrary)
    queries = torch.cat([query.phases[0].asks("sound")[1].vectors for query in asked.single])
    is_plain = len(library) * queries.shape[1] * 4 <= _MOST_PLAIN_BYTES
    whole = torch.empty(len(library), queries.shape[1]) if is_plain else None
    order = np.argsort(library.row_id)
    cosines = np.empty((len(queries), len(library)), np.float32)
    for row_id, vectors in library.snapshot.batches("sound"):
        place = order[np.searchsorted(library.row_id, row_id, sorter=order)]
        cosines[:, place] = (queries @ vectors.T).numpy()
        if whole is not None:
            whole[torch.from_numpy(place)] = vectors
    calibration = calibrate(library.sample(0.0), "sound", "sound", np.zeros(1))
    alignments = Alignments(file_rank=library.file_rank, start_seconds=library.start_seconds)
    hits = []
    for cosine in cosines:
        score = calibration.surprise(cosine)
        nearness = calibration.nearness(cosine)
        spans = merge_alignments(library, alignments, score, nearness, cosine, span_seconds=WINDOW, top=10)
        hits.append({(str(library.files[span.file_rank].path), round(span.peak_seconds, 2)) for span in spans})
    highest = -np.partition(-cosines, 99, axis=1)[:, :100]
    ranked = -np.sort(-highest, axis=1).mean(axis=0)
    figures = (float(ranked[0]), float(ranked[9]), float(ranked[99]), float(cosines.mean()))
    return _Truth(hits=hits, cosines=figures, plain_ms=None if whole is None else _plain_ms(whole, queries))


def _plain_ms(whole: Tensor, queries: Tensor) -> float:
    milliseconds = []
    with torch.inference_mode():
        for query in queries[:30]:
            started = time.perf_counter()
            (whole @ query).topk(10)
            milliseconds.append(1000.0 * (time.perf_counter() - started))
    return float(np.percentile(milliseconds[2:], 50))


# ---- disk, and what comes before a search


def _bytes_of(folder: Path) -> int:
    """That the files take on the disk, where the system says it (a file may have holes)."""
    found = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size for stat in found)


def _encoding() -> dict[str, float]:
    """Milliseconds for a window of sound and for a picture, from the file to the vector."""
    config = CAVMAESyncConfig()
    preprocess = Preprocess(PreprocessConfig(audio_frames=config.audio_frames))
    embedder = Embedder(CAVMAESync(config), preprocess, config=config, fingerprint="random")
    with tempfile.TemporaryDirectory() as scratch:
        sound, picture = Path(scratch) / "one.wav", Path(scratch) / "one.png"
        rng = np.random.default_rng(0)
        write_sound(sound, 0.1 * rng.standard_normal(int(embedder.window_seconds * 16000)), 16000)
        Image.fromarray(rng.integers(0, 256, (360, 640, 3), dtype=np.uint8)).save(picture)

        def milliseconds(**asked: Path) -> float:
            taken = []
            for _ in range(6):
                started = time.perf_counter()
                make_query(embedder, hop_seconds=embedder.window_seconds / 2, **asked)
                taken.append(1000.0 * (time.perf_counter() - started))
            return float(np.median(taken[1:]))

        return {"encode_sound_ms": milliseconds(sound=sound), "encode_picture_ms": milliseconds(picture=picture)}
