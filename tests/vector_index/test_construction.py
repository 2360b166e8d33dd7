"""What is learnt from vectors before an index is filled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.vector_index.test_kinds import vectors
from vector_index import kinds, parameters, projection
from vector_index.construction import cluster, write_index

KIND = "LeanVec8,IVF8,PQ4x4fsr,Refine(SQfp16)"


def test_a_projection_keeps_scores_along_what_queries_ask() -> None:
    generator = np.random.default_rng(0)
    data, queries = (generator.standard_normal((2_000, 16)).astype(np.float32) for _ in range(2))
    queries[:, 4:] *= 0.01
    moments = projection.second_moment(queries), projection.second_moment(data)
    learnt = projection.learn(*moments, 8, 4)
    assert learnt.queries.shape == learnt.vectors.shape == (8, 16)
    error = (queries @ learnt.queries.T) @ (learnt.vectors @ data.T) - queries @ data.T
    assert np.abs(error).max() < 0.01 * np.abs(queries @ data.T).max()
    whole = projection.learn(*moments, 16, 4)
    np.testing.assert_allclose(whole.queries.T @ whole.vectors, np.eye(16), atol=1e-4)


def test_coordinates_are_spread_over_the_groups() -> None:
    variances = np.diag(4.0 ** -np.arange(8))
    learnt = projection.learn(np.eye(8), variances, 8, 4)
    kept = np.abs(learnt.vectors).argmax(axis=1).reshape(4, 2)
    assert sorted(kept.ravel()) == list(range(8))
    assert {frozenset(group) for group in kept.tolist()} == {
        frozenset(pair) for pair in ((0, 7), (1, 6), (2, 5), (3, 4))
    }


def test_codes_learn_from_what_is_asked(tmp_path: Path) -> None:
    """Queries that look along a few directions: codes that know of them need fewer candidates."""
    data = vectors(4_000)
    asked = vectors(1_100, seed=1)
    asked[:, 3:] *= 0.05
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    last = kinds.exact_scores(asked[:100], data, 10)[:, -1:]
    recalls = []
    for told in ([], [asked[100:]]):
        write_index(KIND, data, tmp_path / "i.faiss", told)
        index = kinds.read_index(tmp_path / "i.faiss")
        step = parameters.to_faiss(index, {"nprobe": 8, "k_factor": 2})
        recalls.append((kinds.search(index, asked[:100], 10, step)[0] >= last - 1e-3).mean())
    assert recalls[1] > recalls[0] + 0.05


def test_centroids_in_two_levels_are_near_what_they_are_for() -> None:
    data = vectors(6_000)
    for count in (2, 100, 3_000):
        centroids, nearest = cluster(data, count)
        assert centroids.shape == (count, 16)
        np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-4)
        scores = data[:500] @ centroids.T
        found = scores[np.arange(500), nearest(data[:500])]
        assert (found >= scores.max(axis=1) - 1e-5).mean() > 0.9
    assert scores.max(axis=1).mean() > 0.9
