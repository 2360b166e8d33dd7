"""Synthetic embeddings have the shape that is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import vectors
from benchmarks.vectors import Chunk, Embeddings


@pytest.fixture(scope="module")
def chunk() -> Chunk:
    return next(Embeddings(3).chunks(3_000))


def test_cosines_are_as_said(chunk: Chunk) -> None:
    images, texts = chunk
    assert images.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(np.vstack([images, texts]), axis=1), 1, atol=1e-5)
    pictures, others = images[:1_500] @ images[1_500:].T, texts[:1_500] @ images[1_500:].T
    assert pictures.mean() == pytest.approx(0.47, abs=0.04)
    assert others.mean() == pytest.approx(0.10, abs=0.03)
    assert (images * texts).sum(1).mean() == pytest.approx(0.30, abs=0.03)


def test_a_few_directions_hold_most_of_the_variance(chunk: Chunk) -> None:
    values = np.linalg.svd(chunk.images - chunk.images.mean(0), compute_uv=False) ** 2
    shares = values / values.sum()
    assert 20 < 1 / (shares**2).sum() < 60


def test_a_corpus_is_the_beginning_of_a_larger_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "CHUNK", 1_000)
    made = Embeddings(3)
    few, more = (np.vstack([each.images for each in made.chunks(n)]) for n in (100, 1_010))
    assert more.shape == (1_010, 512)
    np.testing.assert_array_equal(few, more[:100])
    np.testing.assert_array_equal(vectors.stored(tmp_path, 1_010, 3), more)
    assert not np.allclose(next(Embeddings(4).chunks(100)).images, few, atol=1e-2)
    assert not np.allclose(made.queries(100).images, few, atol=1e-2)
