"""95 % percentile bootstrap intervals; pictures are resampled whole, since the captions of one are not independent.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), ch. 13; resampling of clusters as in Davison and Hinkley,
Bootstrap Methods and their Application (1997), section 3.8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
SEED = 0
LEVEL = 0.95
_CELLS = 2**22  # of one block of weights: bounds memory to tens of MB

Interval = tuple[float, float]


def mean_intervals(values: NDArray[np.floating[Any]], cluster: NDArray[np.int64]) -> list[Interval]:
    """Intervals of the means of `values` (n, figures); row i belongs to picture `cluster[i]`, int64 (n,)."""
    return [interval(column) for column in resampled_means(values, cluster).T]


def resampled_means(values: NDArray[np.floating[Any]], cluster: NDArray[np.int64]) -> NDArray[np.float64]:
    """The means of each resample, float64 (RESAMPLES, figures)."""
    names, cluster = np.unique(cluster, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, cluster, values)
    sizes = np.bincount(cluster, minlength=len(names)).astype(np.float64)
    return np.concatenate([(w @ sums) / (w @ sizes)[:, None] for w in _weights(len(names))])


def median_interval(values: NDArray[np.integer[Any]], cluster: NDArray[np.int64]) -> Interval:
    """The interval of the median of `values` (n,)."""
    names, cluster = np.unique(cluster, return_inverse=True)
    levels, level = np.unique(values, return_inverse=True)
    medians = []
    for weights in _weights(len(names)):
        for row in weights:
            below = np.cumsum(np.bincount(level, weights=row[cluster], minlength=len(levels)))
            total = int(below[-1])
            middle = np.searchsorted(below, [(total + 1) // 2, total // 2 + 1])
            medians.append(levels[middle].mean())
    return interval(np.asarray(medians))


def interval(figures: NDArray[np.floating[Any]]) -> Interval:
    """The middle 95 % of resampled figures (RESAMPLES,)."""
    low, high = np.quantile(figures, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return round(float(low), 4), round(float(high), 4)


def _weights(clusters: int) -> Iterator[NDArray[np.float64]]:
    """How often each cluster is drawn, float64 (some, clusters); the same for the same number of clusters."""
    rng = np.random.default_rng(SEED)
    some = max(1, _CELLS // clusters)
    for start in range(0, RESAMPLES, some):
        rows = min(some, RESAMPLES - start)
        weights = np.empty((rows, clusters))
        for row in weights:
            row[:] = np.bincount(rng.integers(clusters, size=clusters), minlength=clusters)
        yield weights
