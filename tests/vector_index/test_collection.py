from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vector_index import DimensionMismatch, IndexDirectory, Snapshot, UnknownId


@pytest.fixture
def snapshot(directory: IndexDirectory, publish: Callable[..., str], corpus: Any) -> Iterator[Snapshot]:
    publish(corpus)
    with directory.open() as opened:
        yield opened


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(0, 30), k=st.integers(1, 400))
def test_flat_search_is_numpy_top_k(snapshot: Snapshot, corpus: Any, seed: int, queries: int, k: int) -> None:
    drawn = np.random.default_rng(seed).standard_normal((queries, 16))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    scores, rows = snapshot.images.search(drawn, k)
    all_scores = drawn @ corpus.image_vectors.T.astype(np.float64)
    assert (scores.dtype, rows.dtype, rows.shape) == (np.float32, np.int64, (queries, min(k, 300)))
    np.testing.assert_allclose(scores, -np.sort(-all_scores, axis=1)[:, :k], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(all_scores, rows, axis=1), scores, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in rows.tolist())


def test_hnsw(directory: IndexDirectory, publish: Callable[..., str], make_corpus: Any) -> None:
    corpus = make_corpus(1_500)
    publish(corpus, index_type="HNSW32,SQfp16", target_recall=0.97)
    with directory.open() as snapshot:
        stamp = snapshot.manifest.images.index
        assert stamp.kind == "HNSW32,SQfp16"
        assert stamp.recall >= 0.97
        queries = corpus.text_vectors[:50]
        expected = np.argsort(-(queries @ corpus.image_vectors.T), axis=1)[:, :10]

        def recall(rows: Any) -> float:
            return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, expected, strict=True)]))

        assert recall(snapshot.images.search(queries, 10)[1]) > 0.9
        assert recall(snapshot.images.search(queries, 10, exact=True)[1]) > 0.99
        scores, rows = snapshot.images.search(queries, 1_000)  # more than efSearch
        assert rows.shape == (50, 1_000)
        assert (rows[:, :900] >= 0).all()
        assert np.isneginf(scores[rows < 0]).all()
        np.testing.assert_allclose(snapshot.images.vectors([7, 7, 3]), corpus.image_vectors[[7, 7, 3]], atol=1e-3)


def test_vectors(snapshot: Snapshot, corpus: Any) -> None:
    np.testing.assert_array_equal(snapshot.images.vectors([5, 0, 5]), corpus.image_vectors[[5, 0, 5]])
    assert snapshot.images.vectors([]).shape == (0, 16)
    with pytest.raises(IndexError):
        snapshot.images.vectors([300])


def test_row_of(snapshot: Snapshot, corpus: Any) -> None:
    assert [snapshot.images.row_of(id) for id in corpus.image_ids] == list(range(300))
    for unknown in ("", "img-", "img-00300", "zzz", "é"):
        with pytest.raises(UnknownId, match=f"'{unknown}'"):
            snapshot.images.row_of(unknown)


@pytest.mark.parametrize("shape", [(16,), (1, 15), (1, 1, 16)])
def test_wrong_shape(snapshot: Snapshot, shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch, match=r"\(n, 16\)"):
        snapshot.images.search(np.ones(shape, np.float32), 1)


def test_bad_searches(snapshot: Snapshot) -> None:
    with pytest.raises(ValueError, match="NaN"):
        snapshot.images.search(np.full((1, 16), np.nan), 1)
    with pytest.raises(ValueError, match="k must be"):
        snapshot.images.search(np.ones((1, 16)), 0)
