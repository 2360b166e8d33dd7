"""Synthetic embeddings with the shape of CLIP's: pictures, their captions, and both held out as queries.

A picture is the sum of the pictures' mean, what its caption says of it and what the caption leaves out; a caption is
the sum of the captions' mean, the same, and how it is put. The two means are far apart: the modality gap (Liang et al.,
"Mind the Gap", 2022). Each of the three parts is a path through a tree of clusters of unequal size, every level with
the same power-law spectrum along a basis of the part, so that there are clusters at every scale and a few directions
hold most of the variance. Pictures whose captions agree in the upper levels look alike there too.

The shares are chosen so that cosines are as those of CLIP models: two pictures 0.47 ± 0.09, two captions 0.48, a
caption and its picture 0.30, and another picture 0.10 ± 0.06. The variance is that of 40 even directions; the local
intrinsic dimension of the pictures is 16, near that of benchmarks of real vectors. No real ones were at hand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK: Final = 25_000
LARGE: Final = 4_000_000
_MEAN, _SAID, _UNSAID = 0.45, 0.20, 0.35  # shares of the squared length
_GAP: Final = 0.10  # cosine of a caption and a picture that have nothing in common
_BRANCHES: Final = 8  # of every node of the tree
_LEVELS: Final = 5
_SHARED: Final = 3  # levels that two pictures look alike in when their captions agree there
_EXPONENT: Final = 1.0  # of the spectrum
_NODES: Final = 4_096  # most of a level that differ
_QUERIES: Final = 10**6  # the number of a chunk that no corpus reaches


class Chunk(NamedTuple):
    """Rows of the corpus and their captions, unit float32 (n, dim) both."""

    images: Floats
    texts: Floats


class Embeddings:
    """The distribution that a seed stands for. Its first n rows are the same however many are asked for."""

    def __init__(self, seed: int = 0, dim: int = 512) -> None:
        self._seed = seed
        self.dim = dim
        rng = np.random.default_rng([seed, 0])
        image_mean, other = _rotation(rng, dim)[:2]
        cosine = _GAP / _MEAN
        text_mean = cosine * image_mean + math.sqrt(1 - cosine**2) * other
        self._image_mean, self._text_mean = (math.sqrt(_MEAN) * mean for mean in (image_mean, text_mean))
        self._said, self._unsaid, self._put = (_Part(rng, dim) for _ in range(3))
        odds = 1 / np.arange(2, _BRANCHES + 2)
        self._odds = odds / odds.sum()

    def chunks(self, count: int) -> Iterator[Chunk]:
        """The first `count` rows, at most CHUNK at a time."""
        for number, start in enumerate(range(0, count, CHUNK)):
            yield self._chunk(number, min(CHUNK, count - start))

    def queries(self, count: int) -> Chunk:
        """Up to CHUNK rows that are in no corpus: their captions have no picture of their own there."""
        return self._chunk(_QUERIES, count)

    def _chunk(self, number: int, count: int) -> Chunk:
        rng = np.random.default_rng([self._seed, 1, number])
        topic, look, wording = (rng.choice(_BRANCHES, (CHUNK, _LEVELS), p=self._odds) for _ in range(3))
        look[:, :_SHARED] = topic[:, :_SHARED]
        said, unsaid, put = (self._said.draw(rng, topic), self._unsaid.draw(rng, look), self._put.draw(rng, wording))
        images = self._image_mean + math.sqrt(_SAID) * said + math.sqrt(_UNSAID) * unsaid
        texts = self._text_mean + math.sqrt(_SAID) * said + math.sqrt(_UNSAID) * put
        return Chunk(_unit(images)[:count], _unit(texts)[:count])


class _Part:
    """A tree of clusters whose draws have a length of about 1."""

    def __init__(self, rng: np.random.Generator, dim: int) -> None:
        self._basis = _rotation(rng, dim)
        variances = np.arange(1, dim + 1) ** -_EXPONENT
        self._spectrum = np.sqrt(variances / variances.sum() / (_LEVELS + 1)).astype(np.float32)
        sizes = [min(_BRANCHES**level, _NODES) for level in range(1, _LEVELS + 1)]
        self._nodes = [self._random(rng, size) for size in sizes]

    def draw(self, rng: np.random.Generator, branches: NDArray[np.int64]) -> Floats:
        """One vector for each path through the tree, int64 (n, levels)."""
        drawn = self._random(rng, len(branches))
        number = np.zeros(len(branches), np.int64)
        for branch, nodes in zip(branches.T, self._nodes, strict=True):
            number = number * _BRANCHES + branch
            drawn += nodes[number % len(nodes)]
        return drawn @ self._basis

    def _random(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.standard_normal((count, len(self._spectrum)), np.float32) * self._spectrum


def stored(folder: Path, rows: int, seed: int = 0) -> Floats:
    """The pictures of a corpus as a memory map, float32 (rows, 512); made when they are not there.

    Above LARGE rows the file is float16, as most exports are, so that it and an index in the making fit a disk.
    """
    path = folder / f"vectors-{seed}-{rows}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        made = Embeddings(seed)
        dtype = np.float32 if rows <= LARGE else np.float16
        vectors = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", dtype, (rows, made.dim))
        for number, chunk in enumerate(made.chunks(rows)):
            vectors[number * CHUNK : number * CHUNK + len(chunk.images)] = chunk.images
        vectors.flush()
        path.with_suffix(".part").rename(path)
    return opened(path)


def opened(path: Path | str) -> Floats:
    """A file of `stored`: what is taken of it is float32."""
    found = np.load(path, mmap_mode="r")
    return found if found.dtype == np.float32 else cast(Floats, _Widened(found))


class _Widened:
    """A map of float16, of which rows are taken as float32."""

    def __init__(self, vectors: NDArray[np.float16]) -> None:
        self._vectors = vectors
        self.shape = vectors.shape
        self.filename = vectors.filename  # type: ignore[attr-defined]

    def __len__(self) -> int:
        return len(self._vectors)

    def __getitem__(self, rows: Any) -> Floats:
        return self._vectors[rows].astype(np.float32)


def _rotation(rng: np.random.Generator, dim: int) -> Floats:
    rotation, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    return np.asarray(rotation, np.float32)


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
