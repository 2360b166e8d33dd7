"""Every row of a batch is in one piece, and no piece is of a size that is not on the ladder."""

from __future__ import annotations

import pytest

from dual_encoder import buckets


@pytest.mark.parametrize("ladder", [buckets.PICTURES, buckets.TEXTS, range(1, 65)])
def test_pieces_hold_every_row_once(ladder: tuple[int, ...]) -> None:
    for count in range(0, 3 * ladder[-1] + 2):
        cut = list(buckets.pieces(count, ladder))
        assert [row for piece in cut for row in range(piece.start, piece.stop)] == list(range(count))
        assert all(piece.size in ladder and piece.size >= piece.stop - piece.start for piece in cut)
        assert all(piece.size == piece.stop - piece.start == ladder[-1] for piece in cut[:-1])


def test_little_is_padded() -> None:
    for count in range(1, buckets.PICTURES[-1] + 1):
        (piece,) = buckets.pieces(count, buckets.PICTURES)
        assert piece.size < 2 * count
    assert list(buckets.pieces(5, range(1, 65))) == [(0, 5, 5)]  # where every size is there, nothing


@pytest.mark.parametrize("context", [77, 64, 16, 6])
def test_lengths_end_with_the_context(context: int) -> None:
    ladder = buckets.lengths(context)
    assert ladder[-1] == context
    assert list(ladder) == sorted(set(ladder))
    assert [buckets.at_least(ladder, length) >= length for length in range(1, context + 1)]
