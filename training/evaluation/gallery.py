"""The pictures and captions that an evaluation asks about, and their vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dual_encoder import DualEncoder
from training.evaluation.relevance import Relevance
from training.pairs import Pair, load_pixels, read_pairs

_BATCH = 32


@dataclass(frozen=True)
class Gallery:
    """`owner` int64 (texts,) is the picture of each text; `group` int64 (pictures,) is equal for duplicates.

    `language` is the one chosen, if one was; `empty` counts the captions that were left out.
    """

    name: str
    pairs: list[Pair]
    texts: list[str]
    languages: list[str]
    owner: NDArray[np.int64]
    group: NDArray[np.int64]
    language: str | None = None
    empty: int = 0

    @cached_property
    def relevance(self) -> Relevance:
        return Relevance(self.texts, self.owner, len(self.pairs), self.group)

    def column(self, name: str) -> list[Any]:
        """A metadata column, a value a picture, None where a row has none. Raises ValueError if no row has it."""
        rows = [pair.metadata for pair in self.pairs]
        if not any(name in row for row in rows):
            known = sorted({key for row in rows for key in row})
            raise ValueError(f"{self.name}: no column {name!r}; there are {', '.join(known) or 'none'}")
        return [row.get(name) for row in rows]

    def only(self, language: str) -> tuple[Gallery, NDArray[np.int64]]:
        """The gallery with texts of one language alone, and which texts these are."""
        kept = np.asarray([i for i, spoken in enumerate(self.languages) if spoken == language], dtype=np.int64)
        texts, languages = [self.texts[i] for i in kept], [language] * len(kept)
        return replace(self, texts=texts, languages=languages, owner=self.owner[kept]), kept


@dataclass(frozen=True)
class Vectors:
    """Unit vectors: `images` float32 (pictures, dim), `texts` float32 (texts, dim)."""

    images: NDArray[np.float32]
    texts: NDArray[np.float32]


def read_gallery(data: Path, language: str | None = None, split: str = "test", limit: int | None = None) -> Gallery:
    """Read pairs, or the first `limit` of them, with their captions in one language or in all.

    `split` matters to a prepared folder only. Captions of white space alone are left out and counted.
    Raises DataError, ValueError.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if not (pairs := read_pairs(data, split)[:limit]):
        raise ValueError(f"{data}: no pairs in its split {split!r}")
    texts, languages, owner = [], [], []
    spoken: Counter[str] = Counter()
    empty = 0
    for number, pair in enumerate(pairs):
        for caption, caption_language in zip(pair.captions, pair.languages, strict=True):
            if not caption.strip():
                empty += 1
                continue
            spoken[caption_language] += 1
            if language in (None, caption_language):
                texts.append(caption)
                languages.append(caption_language)
                owner.append(number)
    if not spoken:
        raise ValueError(f"{data}: every caption is empty")
    if not texts:
        there = ", ".join(repr(name) for name in sorted(spoken))
        raise ValueError(f"{data}: no captions in language {language!r}; there are {there}")
    return Gallery(str(data), pairs, texts, languages, np.asarray(owner), _groups(pairs), language, empty)


def _groups(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    names = [("group", pair.group) if pair.group else ("alone", str(number)) for number, pair in enumerate(pairs)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.asarray([numbers[name] for name in names], dtype=np.int64)


def encode_gallery(
    encoder: DualEncoder, gallery: Gallery, on_progress: Callable[[int, int], None] | None = None
) -> Vectors:
    """Encode every picture, and every distinct text once. Raises DataError naming a picture that cannot be read."""
    images = encode_pictures(encoder, gallery.pairs, on_progress)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(gallery.texts))}
    texts = encoder.encode_texts(list(distinct))[[distinct[text] for text in gallery.texts]]
    return Vectors(images, texts)


def encode_pictures(
    encoder: DualEncoder, pairs: Sequence[Pair], on_progress: Callable[[int, int], None] | None = None
) -> NDArray[np.float32]:
    """Unit vectors float32 (pairs, dim). Raises DataError naming a picture that cannot be read."""
    images = np.empty((len(pairs), encoder.dim), dtype=np.float32)
    done = 0
    for pixels in _pixels(encoder, pairs):
        images[done : done + len(pixels)] = encoder.encode_pixels(encoder.preprocess.normalise(pixels))
        done += len(pixels)
        if on_progress:
            on_progress(done, len(pairs))
    return images


def _pixels(encoder: DualEncoder, pairs: Sequence[Pair]) -> Iterator[NDArray[np.uint8]]:
    """uint8 (some, H, W, 3); the next pictures are read while these are encoded."""

    def read(batch: Sequence[Pair]) -> NDArray[np.uint8]:
        return np.stack([load_pixels(pair, encoder.preprocess) for pair in batch])

    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(read, pairs[:_BATCH])
        for start in range(_BATCH, len(pairs) + _BATCH, _BATCH):
            batch = ahead.result()
            if start < len(pairs):
                ahead = reader.submit(read, pairs[start : start + _BATCH])
            yield batch
