"""Where the right answers stand in each query's ranking. Ties count against the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NDCG_AT = 10
_FEW = 32  # right answers, up to which comparing with each is quicker than sorting the row
TIE = 1e-6  # scores this close are equal but for rounding: a product of matrices rounds its last columns otherwise
_CELLS = 2**25  # scores held at a time: 128 MB


@dataclass(frozen=True)
class Ranks:
    """One entry a query: the rank of its best right answer (from 1), its average precision and its nDCG@10."""

    first: NDArray[np.int64]
    precision: NDArray[np.float64]
    ndcg: NDArray[np.float64]

    def __getitem__(self, which: NDArray[Any]) -> Ranks:
        return Ranks(self.first[which], self.precision[which], self.ndcg[which])


def score_blocks(queries: NDArray[np.float32], items: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Scores of every query with every item, some queries (rows) at a time. Raises ValueError if one is not finite."""
    step = max(1, _CELLS // max(1, len(items)))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ items.T
        if not np.isfinite(scores).all():
            raise ValueError("the model gives vectors that are not finite")
        yield scores


def rank(
    blocks: Iterable[NDArray[np.floating[Any]]], relevant: Callable[[int], NDArray[np.int64]], queries: int
) -> Ranks:
    """Rank `queries` queries, whose scores come in blocks (some, items); `relevant` gives a query's right items.

    A right answer stands behind every wrong one that scores at least as high. Average precision is the mean, over the
    right answers, of the share of right ones among the items down to each; gains of nDCG are binary.
    """
    ranks = Ranks(np.empty(queries, dtype=np.int64), np.empty(queries), np.empty(queries))
    discounts = 1 / np.log2(np.arange(2, NDCG_AT + 2))
    query = 0
    for block in blocks:
        for row in block:
            places = _places(row, relevant(query))
            ranks.first[query] = places[0]
            ranks.precision[query] = (np.arange(1, len(places) + 1) / places).mean()
            seen = places[:NDCG_AT]
            ranks.ndcg[query] = discounts[seen[seen <= NDCG_AT] - 1].sum() / discounts[: len(seen)].sum()
            query += 1
    return ranks


def _places(scores: NDArray[np.floating[Any]], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks of the right items, ascending, int64 (right,)."""
    mine = np.sort(scores[right])
    least = mine - TIE
    if len(mine) <= _FEW:
        ahead = np.count_nonzero(scores >= least[:, None], axis=1)
    else:
        ahead = len(scores) - np.searchsorted(np.sort(scores), least)
    wrong = ahead - (len(mine) - np.searchsorted(mine, least))
    places: NDArray[np.int64] = wrong[::-1] + np.arange(1, len(mine) + 1)
    return places
