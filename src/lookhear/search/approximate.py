"""Searching an index that is too large for an exact search, by LanceDB's index of nearest neighbours (IVF_RQ).

The index of neighbours holds every vector in a bit a number, in partitions of which a search looks into some. What it
names is a shortlist, like that of an exact search (`large.py`): the moments around it are read and scored exactly, so
scores are right and only a moment that was not named can be missing. How many are is measured when the index is made:
the ten moments that are truly nearest to one of a sample, and how many of these a shortlist names. The number is kept
in index.json.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lookhear.search.facts import NEAREST, Approximate
from lookhear.search.large import Extents, LargeLibrary, Shortlist, places_of
from lookhear.search.library import LIKENESS, LibraryFile, Modality, weighed
from lookhear.search.query import Calibrate, Hit, Query, Terms
from lookhear.search.snapshot import BOTH, COLUMNS, Snapshot
from lookhear.search.tables import Tables

# Moments that a shortlist has at least for a window of a query, as in the measurement of recall.
NAMED = 64
# A longer query is looked up by this many of its windows, evenly spread.
_MAX_ASKED = 8
# Below so many moments all that pass a filter are read.
_FEW = 1 << 14
# So many files may be named in a filter of the database; beyond, what does not pass is left out afterwards.
_MOST_NAMES = 2000
_MOST_NAMED = 1 << 13
# With more moments a hit than these the files of a shortlist stay alike; lists without them are this much shorter, and
# so many at most.
_CROWDED, _SHORTER, _MOST_LISTS = 8, 4, 8
# Hits that are looked for at first, and how many times more each time that further pages are asked for.
_FIRST_LISTED, _MORE_LISTED = 32, 4
# Cosines that differ by no more are the same, rounded otherwise.
_SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class ApproximateOptions:
    """How an index of neighbours is made."""

    enough_recall: float = 0.98
    """more partitions are looked into until the measured recall is so high, or `most_probes` are"""
    first_probes: int = 16
    most_probes: int = 256
    refine: int = 4
    sampled: int = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class NearLibrary(LargeLibrary):
    """A large library whose shortlists come from the index of neighbours."""

    approximate: Approximate
    nameless: tuple[str, ...]  # contents that the index of neighbours has and no file names, as while they are read

    def find(self, terms: Terms, calibrate: Calibrate) -> list[Hit]:
        """The hits. Pages of any size are slices of one list: what only a longer shortlist names comes behind the rest.

        Otherwise a hit that the shortlist of the first page missed would push another one onto the second page, too.
        """
        listed: list[Hit] = []
        known: dict[str, list[Hit]] = {}
        size = _FIRST_LISTED
        while True:
            found = super().find(replace(terms, top=size, page=1), calibrate)
            for hit in found:
                of_file = known.setdefault(hit.path, [])
                if not any(
                    hit.start_seconds < each.end_seconds and hit.end_seconds > each.start_seconds for each in of_file
                ):
                    of_file.append(hit)
                    listed.append(hit)
            del listed[size:]
            if len(listed) >= terms.num_spans or len(found) < size:
                return listed[terms.num_spans - terms.top : terms.num_spans]
            size *= _MORE_LISTED

    def shortlist(self, terms: Terms, calibrate: Calibrate, passes: np.ndarray) -> Shortlist:
        """Moments that are near to windows of the query."""
        return _Named(library=self, terms=terms, passes=passes)

    def moments_of(self, row_id: np.ndarray) -> np.ndarray:
        """int64: which moments these are, without those that no file names."""
        place = np.searchsorted(self._sorted, row_id).clip(max=len(self._sorted) - 1)
        return self._order[place[self._sorted[place] == row_id]]

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.row_id)

    @cached_property
    def _sorted(self) -> np.ndarray:
        return self.row_id[self._order]


def near_library(
    contents: tuple[LibraryFile, ...],
    snapshot: Snapshot,
    approximate: Approximate,
    *,
    window_seconds: float,
    hop_seconds: float,
    plain_width: int = 0,
) -> NearLibrary:
    """The moments of `contents`."""
    keys = snapshot.keys()
    place = places_of(contents, keys.file_ids, keys.first, keys.count)
    return NearLibrary(
        files=contents,
        file_rank=place.file_rank,
        start_seconds=keys.start_seconds[place.row],
        end_seconds=keys.end_seconds[place.row],
        window_seconds=window_seconds,
        hop_seconds=hop_seconds,
        plain_width=plain_width,
        snapshot=snapshot,
        row_id=keys.row_id[place.row],
        approximate=approximate,
        nameless=tuple(set(keys.file_ids) - {content.file_id for content in contents}),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """A window of a query that is looked up."""

    searched: Modality
    vector: Tensor  # float32 (E,)
    before_seconds: float  # from where the extent begins to the window


@dataclass(frozen=True, kw_only=True, eq=False)
class _Named:
    """The shortlist of an approximate search."""

    library: NearLibrary
    terms: Terms
    passes: np.ndarray  # bool (F,)

    def best(self, count: int) -> Extents:
        if int(self._can_pass.sum()) <= _FEW:
            return self._all()
        each = max(NAMED, -(-count // len(self._asked)))
        lists = [self._named(each, self.passes)]
        # So many moments made too few hits: files that stay alike fill the list, so others are named without them.
        passes = self.passes
        while (
            count > _CROWDED * self.terms.num_spans
            and not lists[-1].is_all
            and len(lists) < _MOST_LISTS
            and len(np.unique(_together(lists).file_rank)) < self.terms.num_spans
        ):
            passes = passes & ~self._crowding(lists[-1])
            if not self._can_pass[passes[self.library.file_rank]].any():
                break
            lists.append(self._named(max(NAMED, each // _SHORTER), passes))
        return _together(lists)

    def _named(self, each: int, passes: np.ndarray) -> Extents:
        """So many moments for each window that is looked up, of files (F,) that pass."""
        library, facts = self.library, self.library.approximate
        can_pass = self._can_pass if passes is self.passes else self._can_pass & passes[library.file_rank]
        # Files that do not pass are left out by the condition or, of too many names, afterwards, as moments without a
        # label are, and so more is asked for.
        condition = _condition(library, passes)
        num_asked = int(library.count[passes].sum()) if condition.is_whole else len(library)
        wanted = min(each * num_asked // int(can_pass.sum()), _MOST_NAMED)
        rank, begin, is_all = [np.zeros(0, np.int64)], [np.zeros(0)], True
        for asked in self._asked:
            found = library.snapshot.neighbours(
                asked.searched,
                asked.vector,
                wanted,
                probes=facts.probes,
                refine=facts.refine,
                condition=condition.text,
            )
            moments = library.moments_of(found.row_id)
            moments = moments[can_pass[moments]][:each]
            rank.append(library.file_rank[moments])
            begin.append(library.start_seconds[moments] - asked.before_seconds)
            is_all &= len(found.row_id) < wanted
        start = np.concatenate(begin)
        return Extents(
            file_rank=np.concatenate(rank),
            from_seconds=start,
            to_seconds=start + self._reach_seconds,
            floor=None,
            is_all=is_all,
        )

    def _crowding(self, named: Extents) -> np.ndarray:
        """bool (F,): the files that fill half of a list, as few as there can be."""
        counts = np.bincount(named.file_rank, minlength=len(self.passes))
        order = np.argsort(-counts, kind="stable")
        enough = int(np.searchsorted(np.cumsum(counts[order]), len(named) / 2)) + 1
        crowding = np.zeros(len(counts), bool)
        crowding[order[:enough]] = True
        return crowding

    def num_above(self, score: float) -> int:
        raise AssertionError("there is no floor")

    @cached_property
    def _can_pass(self) -> np.ndarray:
        """bool (M,): moments of files that pass, and where a label is asked for near it."""
        library, where = self.library, self.terms.where
        passes = self.passes[library.file_rank]
        if where is not None and where.label is not None:
            reach = self._reach_seconds
            start, end = library.start_seconds - reach, library.end_seconds + reach
            passes &= where.passes_moments(library.files, library.file_rank, start, end)
        return passes

    def _all(self) -> Extents:
        library = self.library
        moments = np.flatnonzero(self._can_pass)
        return Extents(
            file_rank=library.file_rank[moments],
            from_seconds=library.start_seconds[moments],
            to_seconds=library.end_seconds[moments],
            floor=None,
            is_all=True,
        )

    @property
    def _reach_seconds(self) -> float:
        return self.terms.reach_seconds + (self.library.hop_seconds if self.terms.is_anywhere else 0.0)

    @cached_property
    def _asked(self) -> list[_Asked]:
        found = []
        for query in self.terms.examples:
            for searched in self.terms.modalities:
                windows = list(self._windows(query, searched))
                chosen = np.unique(np.linspace(0, len(windows) - 1, _MAX_ASKED).round().astype(np.int64))
                found += [windows[place] for place in chosen.tolist()]
        return found

    def _windows(self, query: Query, searched: Modality) -> Iterator[_Asked]:
        hop, reach = self.library.hop_seconds, self.terms.reach_seconds
        for phase in query.phases:
            asked, sequence = phase.asks(searched)
            vectors = self.library.asked(sequence.vectors, asked, searched, self.terms.likeness)
            for vector, offset in zip(vectors, sequence.offset_seconds.tolist(), strict=True):
                before = offset + hop  # an alignment begins with the first window of its phase
                if not self.terms.is_anywhere:  # the middles of all examples lie on each other
                    before = offset + phase.start_seconds + (reach - query.span_seconds) / 2
                yield _Asked(searched=searched, vector=vector, before_seconds=before)


def _together(lists: Sequence[Extents]) -> Extents:
    names = ("file_rank", "from_seconds", "to_seconds")
    whole = {name: np.concatenate([getattr(each, name) for each in lists]) for name in names}
    return Extents(**whole, floor=None, is_all=lists[0].is_all)


@dataclass(frozen=True, kw_only=True)
class _Condition:
    """Which contents the database looks at, in SQL."""

    text: str
    is_whole: bool  # whether it leaves out all that does not pass


def _condition(library: NearLibrary, passes: np.ndarray) -> _Condition:
    """Files (F,) that pass; where that would be too long, all."""
    passing = [file.file_id for file, is_in in zip(library.files, passes, strict=True) if is_in]
    num_others = len(passes) - len(passing) + len(library.nameless)
    is_whole = min(len(passing), num_others) <= _MOST_NAMES
    names, operator = list(library.nameless), "NOT IN"
    if is_whole and len(passing) < num_others:
        names, operator = passing, "IN"
    elif is_whole:
        names += [file.file_id for file, is_in in zip(library.files, passes, strict=True) if not is_in]
    quoted = ", ".join(f"'{name}'" for name in names)  # hexadecimal digits only
    return _Condition(text=f"file_id {operator} ({quoted})" if names else "", is_whole=is_whole)


# ---- making it


def make_approximate(
    tables: Tables,
    *,
    plain_width: int = 0,
    options: ApproximateOptions | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Approximate:
    """Makes the index of neighbours of all vectors, and measures what it misses. Takes minutes for a million.

    `tell` is told what is being done.
    """
    options = options or ApproximateOptions()
    started = time.perf_counter()
    before = tables.snapshot()
    there = {modality for modality in BOTH if any(len(row_id) for row_id, _ in before.batches(modality))}
    for modality in sorted(there):
        tell(f"making the index of neighbours: {modality}")
        tables.index_neighbours(COLUMNS[modality])
    tell("measuring the recall of the index of neighbours")
    snapshot = tables.snapshot()
    sample = _sample(snapshot, options.sampled, plain_width)
    nearest = {searched: _nearest(snapshot, searched, sample) for searched in there}
    probes = options.first_probes
    while True:
        recall = _recall(snapshot, sample, nearest, probes=probes, refine=options.refine)
        if min(recall.values(), default=1.0) >= options.enough_recall or probes >= options.most_probes:
            break
        probes *= 2
    return Approximate(
        moments=len(snapshot),
        probes=probes,
        refine=options.refine,
        recall_at_10=recall,
        sampled=len(sample.row_id),
        build_seconds=round(time.perf_counter() - started, 3),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sample:
    """Moments that are asked for."""

    row_id: np.ndarray  # uint64 (Q,)
    vectors: dict[Modality, Tensor]  # float32 (Q, E), zeros where there is none
    has: dict[Modality, np.ndarray]  # bool (Q,)
    plain_width: int

    def asked(self, asked: Modality, searched: Modality) -> Tensor:
        """float32 (Q, E): what is asked with the moments' vectors."""
        return weighed(self.vectors[asked], self.plain_width, LIKENESS if asked == searched else 0.0)


def _sample(snapshot: Snapshot, count: int, plain_width: int) -> _Sample:
    row_id = snapshot.keys().row_id
    chosen = np.random.default_rng(0).choice(row_id, min(count, len(row_id)), replace=False)
    found = snapshot.vectors(chosen)
    return _Sample(
        row_id=chosen,
        vectors={"sound": found.audio, "picture": found.visual},
        has={"sound": found.has_audio, "picture": found.has_visual},
        plain_width=plain_width,
    )


def _nearest(snapshot: Snapshot, searched: Modality, sample: _Sample) -> dict[Modality, Tensor]:
    """By modality of the sample, float32 (Q, 10): the cosines of the nearest moments, not counting itself.

    Stored vectors have one length, so they are as near by cosine as by dot product.
    """
    best = {asked: torch.full((len(sample.row_id), NEAREST), -2.0) for asked in BOTH}
    for row_id, vectors in snapshot.batches(searched):
        own = torch.from_numpy(sample.row_id[:, None] == row_id[None, :])
        for asked in BOTH:
            cosine = normalize(sample.asked(asked, searched)) @ normalize(vectors).T
            cosine = cosine.masked_fill(own, -2.0)
            best[asked] = torch.cat([best[asked], cosine], dim=1).topk(NEAREST, dim=1).values
    return best


def _recall(
    snapshot: Snapshot, sample: _Sample, nearest: dict[Modality, dict[Modality, Tensor]], *, probes: int, refine: int
) -> dict[str, float]:
    """The share of the nearest moments that are named, by modalities; of equally near ones any will do."""
    recall = {}
    for searched, of_asked in nearest.items():
        for asked, exact in of_asked.items():
            vectors, shares = sample.asked(asked, searched), []
            for number in np.flatnonzero(sample.has[asked]).tolist():
                found = snapshot.neighbours(searched, vectors[number], NAMED, probes=probes, refine=refine)
                cosine = np.sort(found.cosine[found.row_id != sample.row_id[number]])[::-1][:NEAREST]
                wanted = exact[number][exact[number] > -2.0].numpy()
                if len(wanted):
                    shares.append(float((cosine >= wanted[-1] - _SAME).sum()) / len(wanted))
            if shares:
                recall[f"{asked}>{searched}"] = round(float(np.mean(shares)), 4)
    return recall
