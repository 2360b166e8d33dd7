"""How well a dual encoder retrieves: recall@k and median rank, pictures by captions and captions by pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder
from training.pairs import load_pixels, read_pairs

_BATCH = 32
RECALL_AT = (1, 5, 10)


def evaluate(
    encoder: DualEncoder, data: Path, language: str | None = None, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Evaluate on every pair of a table, or on its captions in one language.

    Every caption is a text-to-image query with one right picture; every picture is an image-to-text query that any of
    its captions answers. Raises DataError.
    """
    pairs = read_pairs(data)
    texts: list[str] = []
    owner: list[int] = []
    for number, pair in enumerate(pairs):
        for caption, caption_language in zip(pair.captions, pair.languages, strict=True):
            if language in (None, caption_language):
                texts.append(caption)
                owner.append(number)
    if not texts:
        raise ValueError(f"{data}: no captions in language {language!r}")
    images = np.empty((len(pairs), encoder.dim), dtype=np.float32)
    for start in range(0, len(pairs), _BATCH):
        batch = pairs[start : start + _BATCH]
        pixels = np.stack([load_pixels(pair.image, encoder.preprocess) for pair in batch])
        images[start : start + len(batch)] = encoder.encode_pixels(encoder.preprocess.normalise(pixels))
        if on_progress:
            on_progress(start + len(batch), len(pairs))
    scores = encoder.encode_texts(texts) @ images.T
    return {
        "images": len(pairs),
        "texts": len(texts),
        "language": language or "all",
        **retrieval_metrics(scores, np.asarray(owner)),
    }


def retrieval_metrics(scores: NDArray[np.floating[Any]], owner: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """`scores` (texts, images), `owner` int64 (texts,): the picture each text belongs to.

    The rank of an answer counts the wrong ones that score at least as high, plus one: ties count against the model.
    """
    right = scores[np.arange(len(owner)), owner]
    text_ranks = 1 + (scores >= right[:, None]).sum(axis=1) - 1
    image_ranks = []
    for image in np.unique(owner):
        mine = owner == image
        image_ranks.append(1 + int((scores[~mine, image] >= scores[mine, image].max()).sum()))
    return {"text_to_image": _summary(text_ranks), "image_to_text": _summary(np.asarray(image_ranks))}


def _summary(ranks: NDArray[np.int64]) -> dict[str, float]:
    recall = {f"recall@{k}": round(float((ranks <= k).mean()), 4) for k in RECALL_AT}
    return {**recall, "median_rank": float(np.median(ranks))}
