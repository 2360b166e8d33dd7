"""Vectors -> hits as JSON. One thread calls FAISS and reads the tables: a whole batch in one search and one take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.results import hits_json
from vector_index import Filter
from vector_index.segment import GRAPH_STEP
from vector_index.store import Collection, Snapshot

Target = Literal["images", "texts"]
Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]

_DEEPER: Final = 4  # how much deeper a search for groups looks each time
_DEEPEST: Final = 40_000  # rows from which on it takes what it has


class Wanted(NamedTuple):
    """One query: `vector` is float32 (dim,); hits offset … offset + k of those that score `min_score` or more."""

    snapshot: Snapshot
    target: Target
    vector: NDArray[np.float32]
    k: int
    offset: int
    min_score: float | None
    exact: bool
    include: tuple[str, ...]
    where: Filter | None = None
    group_by: str | None = None
    params: tuple[tuple[str, int], ...] = ()
    modality: str | None = None

    @property
    def rows(self) -> int:
        """How many are looked at, at first."""
        return (self.offset + self.k) * (1 if self.group_by is None else _DEEPER)


def find(wanted: Sequence[Wanted]) -> list[bytes]:
    """Answer each query with a JSON array of hits. Queries that ask alike share one search and one take."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(wanted):
        key = (
            one.snapshot.name, one.target, one.offset + one.k, one.exact, one.include, one.where and one.where.key,
            one.group_by, one.params, one.modality,
        )  # fmt: skip
        alike[key].append(number)
    answers = [b""] * len(wanted)
    for numbers in alike.values():
        for number, answer in zip(numbers, _find_alike([wanted[n] for n in numbers]), strict=True):
            answers[number] = answer
    return answers


def _find_alike(wanted: Sequence[Wanted]) -> list[bytes]:
    first = wanted[0]
    collection = first.snapshot.images if first.target == "images" else first.snapshot.texts
    depth = first.offset + first.k
    vectors = np.stack([one.vector for one in wanted])
    search = partial(_search, collection, vectors, first)
    scores, rows = search(depth) if first.group_by is None else _one_of_each(collection, first.group_by, depth, search)
    pages = []
    found = rows >= 0
    whole = bool(found.all())
    for one, its_scores, its_rows, keep in zip(wanted, scores, rows, found, strict=True):
        place: slice | Ints = slice(one.offset, None)
        if one.min_score is not None:
            keep &= its_scores >= np.float64(one.min_score)  # which float32 may not hold
        if one.min_score is not None or not whole:
            place = np.flatnonzero(keep)[one.offset :]
        pages.append((its_scores[place], its_rows[place], one.offset + 1))
    return hits_json(first.snapshot, first.target, pages, first.include)


def _search(collection: Collection, vectors: Floats, like: Wanted, depth: int) -> tuple[Floats, Ints]:
    exact = like.exact or (not like.params and _sooner_exact(collection, depth))
    return collection.search(
        vectors, depth, exact=exact, where=like.where, params=dict(like.params), modality=like.modality
    )


def _one_of_each(
    collection: Collection, column: str, depth: int, search: Callable[[int], tuple[Floats, Ints]]
) -> tuple[Floats, Ints]:
    """The best row of each value of a column, `depth` of them; a row without a value stands for itself.

    Looks deeper until every query has enough, or no more can be had.
    """
    looked = depth * _DEEPER
    while True:
        scores, rows = search(looked)
        kept = [_firsts(collection, column, its_rows)[:depth] for its_rows in rows]
        if rows.shape[1] < looked or looked >= _DEEPEST or all(len(places) >= depth for places in kept):
            break
        looked *= _DEEPER
    best = np.full((len(rows), depth), -np.inf, np.float32), np.full((len(rows), depth), -1, np.int64)
    for number, places in enumerate(kept):
        best[0][number, : len(places)] = scores[number, places]
        best[1][number, : len(places)] = rows[number, places]
    return best


def _firsts(collection: Collection, column: str, rows: Ints) -> list[int]:
    """The places of the rows whose value is not that of an earlier one."""
    found = np.flatnonzero(rows >= 0)
    values = collection.take(rows[found], [column])[column].to_pylist()
    seen: set[object] = set()
    kept = []
    for place, value in zip(found.tolist(), values, strict=True):
        if value is None or value not in seen:
            kept.append(place)
            seen.add(value)
    return kept


def _sooner_exact(collection: Collection, depth: int) -> bool:
    return depth * GRAPH_STEP >= len(collection)
