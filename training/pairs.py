"""Image–caption pairs for training: a table with `image` and `caption`, read in an order that a seed fixes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dual_encoder.errors import ImageError
from dual_encoder.image import open_image

if TYPE_CHECKING:
    from dual_encoder.preprocess import Preprocess


class DataError(Exception):
    """Pairs that cannot be used; the message names the file and the row."""


@dataclass(frozen=True)
class Pair:
    """A picture and everything said of it; `languages` runs beside `captions`."""

    image: Path
    captions: tuple[str, ...]
    languages: tuple[str, ...]


def read_pairs(data: Path) -> list[Pair]:
    """Read a JSONL table, or the `captions.jsonl` of a folder. Raises DataError naming the row."""
    table = data / "captions.jsonl" if data.is_dir() else data
    if not table.is_file():
        raise DataError(f"{table}: no such table of pairs")
    pairs = []
    with table.open(encoding="utf-8") as rows:
        for number, line in enumerate(rows, 1):
            try:
                row = json.loads(line)
                captions = row["caption"]
                captions = [captions] if isinstance(captions, str) else captions
                if not captions or not all(isinstance(c, str) for c in captions):
                    raise ValueError("caption is not a string or a list of strings")
                languages = row.get("language", "")
                languages = [languages] * len(captions) if isinstance(languages, str) else languages
                pairs.append(Pair(table.parent / row["image"], tuple(captions), tuple(languages)))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{table}, row {number}: {error}") from None
    if not pairs:
        raise DataError(f"{table}: no pairs in it")
    return pairs


def batches(count: int, batch_size: int, seed: int, start: int = 0) -> Iterator[list[tuple[int, int]]]:
    """Endless batches of (pair, seed of its caption choice) from batch `start` on; an epoch's last few are left out.

    The same `seed` gives the same batches wherever they start, which is what lets a run resume exactly.
    """
    per_epoch = count // batch_size
    if per_epoch == 0:
        raise DataError(f"{count} pairs do not fill one batch of {batch_size}")
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for i in range(first, per_epoch):
            yield [(int(p), hash((seed, epoch, int(p)))) for p in order[i * batch_size : (i + 1) * batch_size]]
            step += 1


class PairDataset:
    """A map-style dataset: (pair, caption seed) -> (uint8 pixels (H, W, 3), one of its captions)."""

    def __init__(self, pairs: list[Pair], preprocess: Preprocess) -> None:
        self.pairs = pairs
        self.preprocess = preprocess

    def __getitem__(self, key: tuple[int, int]) -> tuple[NDArray[np.uint8], str]:
        pair = self.pairs[key[0]]
        caption = random.Random(key[1]).choice(pair.captions)
        return load_pixels(pair.image, self.preprocess), caption


def load_pixels(path: Path, preprocess: Preprocess) -> NDArray[np.uint8]:
    """A picture resized as the model wants it, uint8 (H, W, 3). Raises DataError naming the file."""
    try:
        decoded = open_image(path.read_bytes(), min(preprocess.size))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ImageError as error:
        raise DataError(f"{path}: {error}") from None
    return np.asarray(preprocess.resize(decoded.image), dtype=np.uint8)
