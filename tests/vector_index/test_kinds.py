from pathlib import Path

import numpy as np
import pytest

from vector_index import BadIndexType, choose_index_type, kinds


def vectors(n: int, dim: int = 16) -> kinds.Floats:
    drawn = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_choice() -> None:
    assert [choose_index_type(n) for n in (0, 50_000, 50_001)] == ["Flat", "Flat", "HNSW32,SQfp16"]


@pytest.mark.parametrize("kind", ["auto", "Flat", "HNSW16", "HNSW32,SQfp16", "HNSW8,SQ8"])
def test_supported(kind: str) -> None:
    kinds.check_index_type(kind)


@pytest.mark.parametrize("kind", ["", "flat", "IVF100,Flat", "HNSW", "HNSW1", "HNSW999", "HNSW32,PQ8"])
def test_unsupported_kinds_are_told_what_is(kind: str) -> None:
    with pytest.raises(BadIndexType, match="Flat, HNSW<M>"):
        kinds.check_index_type(kind)


def test_exact_scores_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "CHUNK_ROWS", 7)
    data = vectors(40)
    expected = -np.sort(-(data[:5] @ data.T), axis=1)[:, :10]
    np.testing.assert_allclose(kinds.exact_scores(data[:5], data, 10), expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["HNSW32", "HNSW16,SQfp16", "HNSW16,SQ8"])
def test_hnsw_reaches_its_target_and_maps(kind: str, tmp_path: Path) -> None:
    data = vectors(2_000)
    index, stamp = kinds.build_index(kind, data, [data[:100], vectors(50)], 0.9)
    assert stamp.recall >= 0.9
    assert [point.ef_search for point in stamp.recall_curve] == list(kinds.EF_SEARCH)
    below = [p for p in stamp.recall_curve if p.ef_search < stamp.parameters["efSearch"]]
    assert all(point.recall_at_10 < 0.9 for point in below)

    kinds.load_faiss().write_index(index, str(tmp_path / "i.faiss"))
    mapped = kinds.read_index(tmp_path / "i.faiss")
    for each in (index, kinds.exact_storage(index)):
        opened = mapped if each is index else kinds.exact_storage(mapped)
        assert kinds.search(opened, data[:9], 5, 64)[1].tolist() == kinds.search(each, data[:9], 5, 64)[1].tolist()


def test_equal_vectors_do_not_count_against_recall() -> None:
    data = np.repeat(vectors(30), 30, axis=0)
    _, stamp = kinds.build_index("HNSW32", data, [data[::30]], 0.95)
    assert stamp.recall_curve[-1].recall_at_10 > 0.9


def test_nothing_is_flat() -> None:
    index, stamp = kinds.build_index("HNSW32,SQ8", vectors(0), [], 0.95)
    assert (index.ntotal, stamp.kind, stamp.recall) == (0, "Flat", 1.0)
