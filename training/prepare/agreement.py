"""How well pictures and captions agree under a dual encoder, and which pictures look alike to it."""

from __future__ import annotations

from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dual_encoder.image import open_image
from dual_encoder.preprocess import Preprocess
from training.prepare.near_duplicates import Pairs
from training.prepare.spool import Spool

BATCH = 32
_EXACT_UP_TO = 20_000  # pictures; above, cells of an inverted file are searched
_NEIGHBOURS = 32
_NPROBE = 16


class Encoder(Protocol):
    """What comparing needs of a dual encoder."""

    dim: int

    @property
    def preprocess(self) -> Preprocess: ...
    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]: ...
    def encode_texts(self, texts: list[str]) -> NDArray[np.float32]: ...


def embed_pictures(encoder: Encoder, spool: Spool, items: list[int], decoders: Executor) -> NDArray[np.float32]:
    """Unit vectors float32 (n, dim) of at most a batch of items."""

    def pixels(item: int) -> NDArray[np.uint8]:
        decoded = open_image(spool.data(item), min(encoder.preprocess.size))
        return np.asarray(encoder.preprocess.resize(decoded.image), dtype=np.uint8)

    stacked = np.stack(list(decoders.map(pixels, items)))
    return encoder.encode_pixels(encoder.preprocess.normalise(stacked))


def cosines(encoder: Encoder, pictures: NDArray[np.float32], captions: list[list[str]]) -> list[list[float]]:
    """The cosine of each picture (n, dim) and each of its captions, to four digits."""
    texts = list(dict.fromkeys(text for several in captions for text in several))
    vectors = encoder.encode_texts(texts)
    row = {text: number for number, text in enumerate(texts)}
    return [
        [round(float(picture @ vectors[row[text]]), 4) for text in several]
        for picture, several in zip(pictures, captions, strict=True)
    ]


def alike(vectors: Path, n: int, dim: int, at_least: float) -> Pairs:
    """Pairs of rows of a float32 file (n, dim) whose cosine is at least `at_least`.

    Exact up to 20,000 rows. Above, FAISS looks at the 32 nearest in the 16 nearest of about 4·√n cells: what it misses
    are neighbours across a far border. Memory: dim × 2 bytes a row then.
    """
    rows = np.memmap(vectors, dtype=np.float32, mode="r", shape=(n, dim))
    found: list[NDArray[np.int64]] = []
    if n <= _EXACT_UP_TO:
        for start in range(0, n, 512):
            scores = rows[start : start + 512] @ rows[start:].T
            a, b = np.nonzero(scores >= at_least)
            keep = a < b
            found.append(np.stack([a[keep] + start, b[keep] + start], axis=1))
        return np.concatenate(found) if found else np.empty((0, 2), dtype=np.int64)
    import faiss

    index = faiss.index_factory(dim, f"IVF{int(4 * n**0.5)},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(rows[:: max(1, n // (int(4 * n**0.5) * 40))]))
    for start in range(0, n, 1 << 14):
        index.add(np.ascontiguousarray(rows[start : start + (1 << 14)]))
    faiss.ParameterSpace().set_index_parameter(index, "nprobe", _NPROBE)
    for start in range(0, n, 1 << 12):
        scores, ids = index.search(np.ascontiguousarray(rows[start : start + (1 << 12)]), _NEIGHBOURS)
        a, column = np.nonzero((scores >= at_least) & (ids >= 0))
        pairs = np.stack([a + start, ids[a, column]], axis=1)
        found.append(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1))
    return np.unique(np.concatenate(found), axis=0).astype(np.int64)
