"""Two models on the same queries: is one better, or was it chance?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from training.evaluation.bootstrap import interval, resampled_means
from training.evaluation.retrieval import MEANS, WAYS, Asked, mean_figures

ALPHA = 0.05


def compare(a: dict[str, Asked], b: dict[str, Asked], names: tuple[str, str]) -> dict[str, Any]:
    """B against A, both asked the same queries, each by its own ranks.

    For every mean the difference B - A with its 95 % interval (bootstrap of the paired differences over pictures); for
    recall@1 McNemar's exact test too, and a sentence. A difference is called significant where the interval leaves out
    zero and the test agrees: the test takes the captions of one picture to be independent, the interval does not.
    """
    result: dict[str, Any] = {"models": list(names)}
    for way in WAYS:
        difference = mean_figures(b[way].ranks) - mean_figures(a[way].ranks)
        spread = resampled_means(difference, a[way].picture)
        intervals = [interval(column) for column in spread.T]
        hits_a, hits_b = a[way].ranks.first <= 1, b[way].ranks.first <= 1
        only_a, only_b = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
        p = mcnemar(only_a, only_b)
        low, high = intervals[0]
        significant = p < ALPHA and not low <= 0 <= high
        result[way] = {
            "difference": {name: round(float(d), 4) for name, d in zip(MEANS, difference.mean(axis=0), strict=True)},
            "intervals": {name: list(bounds) for name, bounds in zip(MEANS, intervals, strict=True)},
            "only_a": only_a,
            "only_b": only_b,
            "p": p,
            "significant": significant,
            "verdict": _verdict(way, names, float(difference[:, 0].mean()), intervals[0], p, significant),
        }
    return result


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that queries only A, or only B, gets right are equally likely (McNemar 1947)."""
    n, least = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    logs = np.asarray([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in range(least + 1)])
    return min(1.0, 2 * float(np.exp(logs - n * math.log(2)).sum()))


def _verdict(
    way: str, names: tuple[str, str], difference: float, bounds: tuple[float, float], p: float, significant: bool
) -> str:
    chance = "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
    figures = f"95 % interval {bounds[0] * 100:+.1f} to {bounds[1] * 100:+.1f}, McNemar {chance}"
    way = way.replace("_", " ")
    if not significant:
        return f"{way}: no significant difference in recall@1 ({difference * 100:+.1f} points; {figures})"
    better, worse = (names[1], names[0]) if difference > 0 else (names[0], names[1])
    return (
        f"{way}: {better} is significantly better than {worse}, by {abs(difference) * 100:.1f} points of recall@1"
        f" ({names[1]} - {names[0]}: {figures})"
    )
