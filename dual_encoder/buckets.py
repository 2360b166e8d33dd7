"""Batches of any size in few shapes, for what costs something for every shape that it has seen.

A ladder is the sizes that there are, rising: what is in between is padded to the next, what is more is cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# A GPU takes as long for a few rows as for one, and beyond the last gains nothing.
PICTURES = (1, 2, 4, 8, 16, 24, 32, 48, 64)
TEXTS = (1, 4, 16, 64, 256)
LENGTHS = (8, 12, 16, 24, 32, 48, 64)  # and a model's whole context


class Piece(NamedTuple):
    """Rows `start` to `stop` of a batch, to be padded to `size`."""

    start: int
    stop: int
    size: int


def pieces(count: int, ladder: Sequence[int]) -> Iterator[Piece]:
    """Cut a batch: whole pieces of the largest size, and one of the smallest that holds the rest."""
    for start in range(0, count, ladder[-1]):
        stop = min(start + ladder[-1], count)
        yield Piece(start, stop, at_least(ladder, stop - start))


def at_least(ladder: Sequence[int], least: int) -> int:
    """The first step that is no less; there must be one."""
    return ladder[bisect_left(ladder, least)]


def lengths(context_length: int) -> tuple[int, ...]:
    """The lengths that texts are padded to."""
    return (*(length for length in LENGTHS if length < context_length), context_length)
