"""The queries that went best and worst, with what came first: what one looks at to understand the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.ranking import score_blocks
from training.evaluation.retrieval import Retrieved

COUNT = 5
TOP = 5
_SAMPLE = 100_000
_BINS = 60


@dataclass(frozen=True)
class Example:
    """Query number `query` about picture `picture`; `hits` are (item, score, whether right), best first."""

    query: int
    picture: int
    rank: int
    hits: list[tuple[int, float, bool]]


def examples(found: Retrieved, way: str) -> tuple[list[Example], list[Example]]:
    """The best and the worst queries, at most one a picture.

    The best lead the best wrong answer by most; the worst have their right answer furthest down.
    """
    asked, relevance = found.asked[way], found.gallery.relevance
    if way == "text_to_image":
        queries, items = found.vectors.texts, found.vectors.images
    else:
        queries, items = found.vectors.images[asked.picture], found.vectors.texts

    def relevant(query: int) -> NDArray[np.int64]:
        if way == "text_to_image":
            return relevance.pictures(query)
        return relevance.texts(int(asked.picture[query]))

    lead = _leads(queries, items, relevant)
    best = _one_a_picture(np.argsort(-lead, kind="stable"), asked.picture)
    worst = _one_a_picture(np.lexsort((lead, -asked.ranks.first)), asked.picture)

    def show(query: int) -> Example:
        scores = items @ queries[query]
        right = set(relevant(query).tolist())
        first = np.argsort(-scores, kind="stable")[:TOP].tolist()
        hits = [(i, float(scores[i]), i in right) for i in first]
        return Example(query, int(asked.picture[query]), int(asked.ranks.first[query]), hits)

    return [show(query) for query in best], [show(query) for query in worst]


def _leads(
    queries: NDArray[np.float32], items: NDArray[np.float32], relevant: Callable[[int], NDArray[np.int64]]
) -> NDArray[np.float32]:
    """By how much the best right answer of each query leads the best wrong one, float32 (queries,)."""
    leads = np.empty(len(queries), dtype=np.float32)
    query = 0
    for block in score_blocks(queries, items):
        for row in block:
            right = relevant(query)
            best = row[right].max()
            row[right] = -np.inf
            leads[query] = best - row.max() if len(right) < len(row) else np.inf
            query += 1
    return leads


def _one_a_picture(order: NDArray[np.int64], picture: NDArray[np.int64]) -> list[int]:
    chosen: dict[int, int] = {}
    for query in order.tolist():
        chosen.setdefault(int(picture[query]), query)
        if len(chosen) == COUNT:
            break
    return list(chosen.values())


def score_shares(found: Retrieved) -> tuple[list[float], list[float], float, float]:
    """Shares a bin of the scores of matched pairs and of unmatched ones (a sample), and the ends of the bins."""
    rng = np.random.default_rng(0)
    texts, images, relevance = found.vectors.texts, found.vectors.images, found.gallery.relevance
    matched = np.einsum("ij,ij->i", texts, images[found.gallery.owner])
    size = min(_SAMPLE, len(texts) * len(images))
    text, image = rng.integers(len(texts), size=size), rng.integers(len(images), size=size)
    wrong = np.asarray([i not in relevance.pictures(t) for t, i in zip(text.tolist(), image.tolist(), strict=True)])
    unmatched = np.einsum("ij,ij->i", texts[text[wrong]], images[image[wrong]])
    both = np.concatenate([matched, unmatched])
    low, high = float(np.floor(both.min() * 20) / 20), float(np.ceil(both.max() * 20) / 20)
    edges = np.linspace(low, max(high, low + 0.05), _BINS + 1)

    def shares(scores: NDArray[np.float32]) -> list[float]:
        return (np.histogram(scores, edges)[0] / max(1, len(scores))).tolist()  # type: ignore[no-any-return]

    return shares(matched), shares(unmatched), low, float(edges[-1])
