"""Texts of several lengths -> the batches that cost least, so that short texts do not pay for long ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Shape = Callable[[int, int], tuple[int, int]]

# What a call costs besides its positions, in positions. ViT-B-32 on two cores: 3 ms, and 0.2 ms a position.
_CALL = 16


def as_given(count: int, length: int) -> tuple[int, int]:
    """The shape of a runtime that pads nothing further."""
    return count, length


def plan(lengths: Sequence[int], most: int, shape: Shape = as_given) -> list[tuple[int, int]]:
    """Cut lengths, ascending, into runs [start, stop) of at most `most`, each to be padded to its last.

    `shape` tells what (count, length) a runtime makes of a batch. The cut is the cheapest: a dynamic programme over
    where the last run starts, at `_CALL` plus count × length positions for each run.
    """
    cost = [0.0] * (len(lengths) + 1)
    begin = [0] * (len(lengths) + 1)
    for stop in range(1, len(lengths) + 1):
        best = float("inf")
        for start in range(max(0, stop - most), stop):
            count, length = shape(stop - start, lengths[stop - 1])
            total = cost[start] + _CALL + count * length
            if total < best:
                best, begin[stop] = total, start
        cost[stop] = best
    runs = []
    stop = len(lengths)
    while stop:
        runs.append((begin[stop], stop))
        stop = begin[stop]
    return runs[::-1]
