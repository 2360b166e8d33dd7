"""Pictures that look alike, by their vectors: resized, compressed or cropped copies of one another."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.build import Progress
from vector_index import Collection, IndexDirectory

_BATCH = 256  # pictures searched for at once
_K = 16  # neighbours asked for at first, the picture itself among them
_FARTHER = 4  # times as many, where all were near
_FOUND = 2**21  # scores in memory
_SELF = 0.99  # what a picture's cosine with itself is never below, however it is rounded
_ROUNDING = 1e-6  # by which a vector's cosine with itself may be below 1


@dataclass(frozen=True)
class DuplicateGroup:
    """Near-duplicates, by id. `score` is the lowest cosine of a pair that joined them: the weakest link."""

    ids: list[str]
    uris: list[str]
    score: float


def find_duplicates(
    index: str | Path, *, threshold: float = 0.97, progress: Callable[[Progress], None] | None = None
) -> list[DuplicateGroup]:
    """Groups of pictures of the live snapshot, each joined to another of its group by a cosine of at least `threshold`.

    Largest first, then by their first id. An index with a graph finds as much as its recall says. Memory holds some
    16 bytes for each picture, and the groups.

    Raises IndexNotFound; ValueError where threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}")
    with IndexDirectory(index).open() as snapshot:
        images = snapshot.images
        live = images.live()
        search = _Search(images, int(live.max(initial=-1)) + 1, threshold)
        for start in range(0, len(live), _BATCH):
            search.join(live[start : start + _BATCH])
            if progress:
                progress(Progress(min(start + _BATCH, len(live)), len(live)))
        return _groups(images, live, search.groups)


class _Groups:
    """Union-find over rows, with the lowest score that joined each group."""

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows)
        self._lowest = np.ones(rows, np.float32)

    def root(self, row: int) -> int:
        parent = self._parent
        while (above := int(parent[row])) != row:
            parent[row] = parent[above]  # halves the path for whoever comes next
            row = above
        return row

    def join(self, a: int, b: int, score: float) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self._parent[max(a, b)] = min(a, b)
            self._lowest[min(a, b)] = min(self._lowest[a], self._lowest[b], score)

    def lowest(self, root: int) -> float:
        return float(self._lowest[root])


class _Search:
    def __init__(self, images: Collection, rows: int, threshold: float) -> None:
        self.groups = _Groups(rows)
        self._images, self._threshold = images, threshold - _ROUNDING
        self._followed: dict[bytes, int] = {}  # vectors that many are near to -> their row

    def join(self, rows: NDArray[np.int64]) -> None:
        """Join pictures with all that are near them."""
        vectors = self._images.vectors(rows)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)  # an SQ index has them rounded
        k = _K
        while len(rows):
            farther = []
            size = max(1, _FOUND // k)
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                scores, found = self._nearest(rows[part], vectors[part], k)
                near = (scores >= self._threshold) & (found >= 0)
                self._note(rows[part], scores, found, near)
                if found.shape[1] == k:  # else these were all there are
                    farther.extend((start + np.flatnonzero(near[:, -1])).tolist())
            unlike = [place for place in farther if self._is_new(int(rows[place]), vectors[place], k == _K)]
            rows, vectors = rows[unlike], vectors[unlike]
            k *= _FARTHER

    def _nearest(
        self, rows: NDArray[np.int64], vectors: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The k nearest. A walk through a graph that does not find the picture itself went astray: compare with all."""
        scores, found = self._images.search(vectors, k)
        astray = np.flatnonzero(~(found == rows[:, np.newaxis]).any(axis=1) & (scores[:, -1] < _SELF))
        if len(astray):
            scores[astray], found[astray] = self._images.search(vectors[astray], k, exact=True)
        return scores, found

    def _note(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        found: NDArray[np.int64],
        near: NDArray[np.bool_],
    ) -> None:
        pairs = np.argwhere(near)
        best = np.argsort(-scores[near], kind="stable")
        for query, place in pairs[best].tolist():
            if found[query, place] != rows[query]:
                self.groups.join(int(rows[query]), int(found[query, place]), float(scores[query, place]))

    def _is_new(self, row: int, vector: NDArray[np.float32], is_first: bool) -> bool:
        """Whether nothing like it was followed before: what is near to one copy of many is near to the others."""
        if not is_first:
            return True
        key = hashlib.blake2b(np.round(vector, 5).tobytes(), digest_size=16).digest()
        other = self._followed.setdefault(key, row)
        if other != row:
            self.groups.join(row, other, float(vector @ self._images.vectors([other])[0]))
        return other == row


def _groups(images: Collection, live: NDArray[np.int64], groups: _Groups) -> list[DuplicateGroup]:
    roots = np.array([groups.root(row) for row in live.tolist()], np.int64)
    order = np.argsort(roots, kind="stable")
    borders = np.flatnonzero(np.diff(roots[order])) + 1
    found = []
    for members in np.split(order, borders):
        if len(members) > 1:
            pictures = sorted((row["id"], row["uri"]) for row in images.take(live[members], ["id", "uri"]).to_pylist())
            score = groups.lowest(int(roots[members[0]]))
            found.append(DuplicateGroup([id for id, _ in pictures], [uri for _, uri in pictures], score))
    return sorted(found, key=lambda group: (-len(group.ids), group.ids[0]))
