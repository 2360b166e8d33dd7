"""Parts by a column."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.slices import slices


def test_by_value_in_a_sensible_order() -> None:
    parts = slices([10, 2, None, 2], "count")
    assert {name: np.flatnonzero(part).tolist() for name, part in parts.items()} == {
        "2": [1, 3],
        "10": [0],
        "(none)": [2],
    }
    assert list(parts) == ["2", "10", "(none)"]


def test_many_numbers_become_quarters() -> None:
    parts = slices([*range(100), None], "height")
    assert list(parts) == ["0 to 24.75", "24.75 to 49.5", "49.5 to 74.25", "74.25 to 99", "(none)"]
    assert [int(part.sum()) for part in parts.values()] == [25, 25, 25, 25, 1]


def test_numbers_that_are_mostly_one_value_still_make_slices() -> None:
    parts = slices([*[0] * 90, *range(1, 31)], "likes")
    assert sum(int(part.sum()) for part in parts.values()) == 120


def test_quarters_of_large_numbers_are_told_apart() -> None:
    found = slices([1_700_000_000 + second for second in range(40)], "taken")
    assert [int(part.sum()) for part in found.values()] == [10, 10, 10, 10]


def test_booleans_lists_and_too_many_values() -> None:
    assert list(slices([True, False, [1, 2]], "x")) == ["[1, 2]", "false", "true"]
    with pytest.raises(ValueError, match="column 'id' has 60 different values"):
        slices([f"n{i}" for i in range(60)], "id")
