"""Parts of the pictures by the values of a metadata column."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 50
_QUARTERS_FROM = 20  # distinct numbers, above which they are put into quarters

NONE = "(none)"


def slices(values: Sequence[Any], column: str) -> dict[str, NDArray[np.bool_]]:
    """Value -> bool (pictures,). Many different numbers become quarters. Raises ValueError if slices are too many."""
    names = _quarters(values) or [_name(value) for value in values]
    counts = Counter(names)
    if len(counts) > MOST:
        raise ValueError(f"column {column!r} has {len(counts)} different values; slices are by at most {MOST}")
    array = np.asarray(names)
    return {name: array == name for name in sorted(counts, key=_order)}


def _quarters(values: Sequence[Any]) -> list[str] | None:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < sum(v is not None for v in values) or len(set(numbers)) <= _QUARTERS_FROM:
        return None
    edges = np.unique(np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
    if len(edges) < 2 or not np.isfinite(edges).all():
        return None
    for digits in (6, 10, 17):  # the fewest that tell the quarters apart
        labels = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(edges)]
        if len(set(labels)) == len(labels):
            break
    inner = edges[1:-1]
    return [NONE if v is None else labels[int(np.searchsorted(inner, v))] for v in values]


def _name(value: Any) -> str:
    if value is None or value == "":
        return NONE
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _order(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name.split(" to ")[0]), name
    except ValueError:
        return (2 if name == NONE else 1), 0.0, name
