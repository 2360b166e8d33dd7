"""How well a dual encoder retrieves, pictures by captions and captions by pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder
from training.evaluation.bootstrap import mean_intervals, median_interval
from training.evaluation.gallery import Gallery, Vectors, encode_gallery, read_gallery
from training.evaluation.ranking import NDCG_AT, Ranks, rank, score_blocks
from training.evaluation.relevance import Relevance
from training.evaluation.slices import slices

RECALL_AT = (1, 5, 10)
MEANS = (*(f"recall@{k}" for k in RECALL_AT), "map", f"ndcg@{NDCG_AT}")
WAYS = ("text_to_image", "image_to_text")


@dataclass(frozen=True)
class Asked:
    """The ranks of the queries of one way; `picture` int64 (queries,) is the picture each query is about."""

    ranks: Ranks
    picture: NDArray[np.int64]

    def about(self, pictures: NDArray[np.bool_]) -> Asked:
        """The queries about pictures for which `pictures`, bool (all pictures,), is true."""
        which = pictures[self.picture]
        return Asked(self.ranks[which], self.picture[which])


@dataclass(frozen=True)
class Retrieved:
    """A gallery, its vectors under one model, and the ranks of its queries, by way."""

    gallery: Gallery
    vectors: Vectors
    asked: dict[str, Asked]


def evaluate(
    encoder: DualEncoder,
    data: Path,
    language: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    split: str = "test",
    by: Sequence[str] = (),
    limit: int | None = None,
) -> dict[str, Any]:
    """Evaluate on every pair of `data`, or on its captions in one language.

    Every caption is a text-to-image query, every picture with a caption an image-to-text query. Gives recall@1, @5,
    @10, median rank, mAP and nDCG@10 of both ways with 95 % intervals, and the same by language and by each column of
    `by`. Raises DataError, ValueError.
    """
    gallery = read_gallery(data, language, split, limit)
    parts = parts_of(gallery, by)  # before the long step: a column may not be there
    return figures(retrieve(encoder, gallery, on_progress), parts)


def retrieve(
    encoder: DualEncoder, gallery: Gallery, on_progress: Callable[[int, int], None] | None = None
) -> Retrieved:
    """Encode a gallery and rank every query of both ways."""
    vectors = encode_gallery(encoder, gallery, on_progress)
    return Retrieved(gallery, vectors, ask(gallery, vectors))


def parts_of(gallery: Gallery, columns: Sequence[str]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """Column -> value -> bool (pictures,). Raises ValueError."""
    return {c: slices(gallery.column(c), c) for c in columns if c != "language"}


def figures(found: Retrieved, parts: dict[str, dict[str, NDArray[np.bool_]]]) -> dict[str, Any]:
    """All that `evaluate` gives, as JSON holds it."""
    gallery = found.gallery
    result = {
        "images": len(gallery.pairs),
        "texts": len(gallery.texts),
        "language": gallery.language or "all",
        **both_ways(found.asked),
        "by": {**by_language(found), **{column: by_slices(found.asked, part) for column, part in parts.items()}},
    }
    return {**result, "empty_captions": gallery.empty} if gallery.empty else result


def ask(gallery: Gallery, vectors: Vectors) -> dict[str, Asked]:
    """Rank every query of both ways."""
    return {"text_to_image": _ask_texts(gallery, vectors), "image_to_text": _ask_images(gallery, vectors)}


def _ask_texts(gallery: Gallery, vectors: Vectors) -> Asked:
    blocks = score_blocks(vectors.texts, vectors.images)
    return Asked(rank(blocks, gallery.relevance.pictures, len(gallery.texts)), gallery.owner)


def _ask_images(gallery: Gallery, vectors: Vectors) -> Asked:
    described = np.unique(gallery.owner)
    blocks = score_blocks(vectors.images[described], vectors.texts)
    right = gallery.relevance.texts
    return Asked(rank(blocks, lambda query: right(int(described[query])), len(described)), described)


def retrieval_metrics(
    scores: NDArray[np.floating[Any]],
    owner: NDArray[np.int64],
    texts: Sequence[str] | None = None,
    group: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The figures of `scores` (texts, pictures); without `texts` all are taken to differ. Raises ValueError.

    Recall@k counts the queries with any right answer among the first k. The rank of an answer counts the wrong ones
    that score at least as high, plus one: ties count against the model.
    """
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite")
    words = [str(i) for i in range(len(owner))] if texts is None else texts
    relevance = Relevance(words, owner, scores.shape[1], group)
    described = np.unique(owner)
    by_text = rank([scores], relevance.pictures, len(owner))
    by_image = rank([scores.T[described]], lambda query: relevance.texts(int(described[query])), len(described))
    return both_ways({"text_to_image": Asked(by_text, owner), "image_to_text": Asked(by_image, described)})


def both_ways(asked: dict[str, Asked]) -> dict[str, Any]:
    """Figures of each way, and under `intervals` their 95 % intervals."""
    return {
        **{way: summary(asked[way].ranks) for way in WAYS},
        "intervals": {way: intervals(asked[way]) for way in WAYS},
    }


def mean_figures(ranks: Ranks) -> NDArray[np.float64]:
    """What each query adds to the means, float64 (queries, MEANS)."""
    hits = [(ranks.first <= k).astype(np.float64) for k in RECALL_AT]
    return np.stack([*hits, ranks.precision, ranks.ndcg], axis=1)


def summary(ranks: Ranks) -> dict[str, float]:
    means = dict(zip(MEANS, mean_figures(ranks).mean(axis=0), strict=True))
    return _ordered(means, float(np.median(ranks.first)))


def intervals(asked: Asked) -> dict[str, list[float]]:
    means = zip(MEANS, mean_intervals(mean_figures(asked.ranks), asked.picture), strict=True)
    return {k: list(v) for k, v in _ordered(dict(means), median_interval(asked.ranks.first, asked.picture)).items()}


def _ordered(means: dict[str, Any], median: Any) -> dict[str, Any]:
    recall = {name: _rounded(means[name]) for name in MEANS if name.startswith("recall")}
    rest = {name: _rounded(means[name]) for name in MEANS if name not in recall}
    return {**recall, "median_rank": median, **rest}


def _rounded(value: Any) -> Any:
    return value if isinstance(value, tuple) else round(float(value), 4)


def by_language(found: Retrieved) -> dict[str, list[dict[str, Any]]]:
    """A row a language, each as if there were no other; nothing if there is only one."""
    rows = []
    texts = found.asked["text_to_image"]
    for language in sorted(set(found.gallery.languages)):
        part, kept = found.gallery.only(language)
        if len(kept) == len(found.gallery.texts):
            return {}
        answers = _ask_images(part, Vectors(found.vectors.images, found.vectors.texts[kept]))
        queries = Asked(texts.ranks[kept], texts.picture[kept])
        rows.append(_row(language, {"text_to_image": queries, "image_to_text": answers}))
    return {"language": rows}


def by_slices(asked: dict[str, Asked], parts: dict[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """A row a slice of the pictures: its queries, asked of the whole gallery; slices without queries are left out."""
    rows = []
    for value, pictures in parts.items():
        part = {way: asked[way].about(pictures) for way in WAYS}
        if len(part["text_to_image"].picture):
            rows.append(_row(value, part))
    return rows


def _row(value: str, asked: dict[str, Asked]) -> dict[str, Any]:
    counts = {"images": len(asked["image_to_text"].picture), "texts": len(asked["text_to_image"].picture)}
    return {"value": value, **counts, **both_ways(asked)}
