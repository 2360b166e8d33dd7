"""Vectors -> hits as JSON. One thread calls FAISS and reads the tables: a whole batch in one search and one take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.results import hits_json
from vector_index import Collection, Filter, Snapshot
from vector_index.collection import GRAPH_STEP

Target = Literal["images", "texts"]


@dataclass(frozen=True, slots=True)
class Wanted:
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
    params: tuple[tuple[str, int], ...] = ()
    modality: str | None = None


def find(wanted: Sequence[Wanted]) -> list[bytes]:
    """Answer each query with a JSON array of hits. Queries that ask alike share one search and one take."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, one in enumerate(wanted):
        key = (
            one.snapshot.name, one.target, one.offset + one.k, one.exact, one.include, one.where and one.where.key,
            one.params, one.modality,
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
    exact = first.exact or (not first.params and _sooner_exact(collection, depth))
    scores, rows = collection.search(
        np.stack([one.vector for one in wanted]), depth,
        exact=exact, where=first.where, params=dict(first.params), modality=first.modality,
    )  # fmt: skip
    pages = []
    for one, its_scores, its_rows in zip(wanted, scores, rows, strict=True):
        keep = its_rows >= 0
        if one.min_score is not None:
            keep &= its_scores >= one.min_score
        place = np.flatnonzero(keep)[one.offset :]
        pages.append((its_scores[place], its_rows[place], one.offset + 1))
    return hits_json(first.snapshot, first.target, pages, first.include)


def _sooner_exact(collection: Collection, depth: int) -> bool:
    return depth * GRAPH_STEP >= len(collection)
