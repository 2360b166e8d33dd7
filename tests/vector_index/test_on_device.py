"""What a GPU would find is what FAISS finds; here the device is the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.vector_index.test_kinds import vectors
from vector_index import Filter, IndexDirectory, kinds, on_device
from vector_index.on_device import OnDevice


@pytest.mark.parametrize("kind", ["Flat", "SQfp16", "HNSW8,SQ8"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_same_rows_in_the_same_order(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "_BLOCK", 128)  # several, the last one short
    monkeypatch.setattr(on_device, "CHUNK_ROWS", 100)
    index = kinds.new_index(kind, 16)
    index.train(vectors(300))
    index.add(vectors(300))
    storage = kinds.storage_of(index)
    scores, rows = OnDevice(storage, "cpu").search(vectors(7, seed=1), k)
    expected, same = kinds.search_all(storage, vectors(7, seed=1), k)
    assert (scores.dtype, rows.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_array_equal(rows, same)


def test_equal_vectors_have_equal_scores() -> None:
    index = kinds.new_index("Flat", 16)
    index.add(np.repeat(vectors(5), 20, axis=0))
    scores, rows = OnDevice(index, "cpu").search(vectors(3, seed=1), 30)
    np.testing.assert_allclose(scores, kinds.search_all(index, vectors(3, seed=1), 30)[0], atol=1e-6)
    assert all(len(set(each)) == 30 for each in rows.tolist())


def test_a_collection_that_is_held(
    directory: IndexDirectory, publish: Callable[..., str], corpus: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(corpus, index_type="Flat")
    asked = vectors(4, seed=2)
    with directory.open() as snapshot:
        images = snapshot.images
        where = Filter.parse({"width": {"$lt": 50}}, images.schema)
        expected, filtered = images.search(asked, 10), images.search(asked, 10, where=where)
        assert images.hold("cpu")
        for got, wanted in zip(images.search(asked, 10), expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-6)
        np.testing.assert_array_equal(images.search(asked, 10, where=where)[1], filtered[1])

        def fails(*_: object) -> None:
            raise RuntimeError("out of memory\nand more")

        monkeypatch.setattr(OnDevice, "search", fails)
        np.testing.assert_array_equal(images.search(asked, 10)[1], expected[1])
        assert images.segments[0]._on_device is None
        assert images.hold("nothing") is False
