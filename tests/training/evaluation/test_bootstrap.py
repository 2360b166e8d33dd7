"""Intervals that cover, widen with dependence, and do not change from run to run."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation import bootstrap
from training.evaluation.bootstrap import mean_intervals, median_interval, resampled_means


def test_the_width_is_that_of_the_binomial() -> None:
    hits = (np.arange(400) % 4 == 0).astype(float)[:, None]
    ((low, high),) = mean_intervals(hits, np.arange(400))
    width = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - width, abs=0.006)
    assert high == pytest.approx(0.25 + width, abs=0.006)


def test_captions_of_one_picture_count_as_one() -> None:
    hits = np.repeat((np.arange(100) % 2 == 0).astype(float), 5)[:, None]
    ((low, high),) = mean_intervals(hits, np.repeat(np.arange(100), 5))
    ((alone_low, alone_high),) = mean_intervals(hits[::5], np.arange(100))
    assert (low, high) == (alone_low, alone_high)  # five copies of an answer say no more than one
    ((naive_low, naive_high),) = mean_intervals(hits, np.arange(500))
    assert high - low > 1.8 * (naive_high - naive_low)


def test_clusters_of_different_size_are_weighted_by_it() -> None:
    values, cluster = np.asarray([[1.0], [0.0], [0.0], [0.0]]), np.asarray([9, 4, 4, 4])
    assert set(np.round(resampled_means(values, cluster)[:, 0], 6)) == {0.0, 0.25, 1.0}


def test_the_same_every_time_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values, cluster = np.random.default_rng(1).random((50, 2)), np.arange(50) // 2
    whole = mean_intervals(values, cluster)
    monkeypatch.setattr(bootstrap, "_CELLS", 25 * 7)
    assert mean_intervals(values, cluster) == whole


def test_the_median_is_numpys() -> None:
    ranks, cluster = np.asarray([1, 1, 2, 8, 9, 30]), np.asarray([0, 0, 1, 1, 2, 2])
    medians = []
    for weights in bootstrap._weights(3):
        for row in weights.astype(int):
            medians.append(np.median(np.repeat(ranks, row[cluster])))
    low, high = np.quantile(medians, [0.025, 0.975])
    assert median_interval(ranks, cluster) == (round(low, 4), round(high, 4))
