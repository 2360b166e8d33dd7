from pathlib import Path

import numpy as np
import pytest

from vector_index import BadIndexType, kinds
from vector_index.construction import write_index


def vectors(n: int, dim: int = 16, seed: int = 0) -> kinds.Floats:
    drawn = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


SUPPORTED = [
    "Flat", "SQ8", "HNSW16", "HNSW32,SQfp16", "HNSW8,SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16,RaBitQfs,Refine(SQfp16)",
    "IVF16,PQ4x4fs,Refine(SQfp16)", "IVF16,PQ4x4fs,RFlat", "OPQ4,IVF16_HNSW8,PQ4x4fs,Refine(SQfp16)",
    "PCA8,HNSW8,SQ8,Refine(SQfp16)", "PQ4x4fs,Refine(SQfp16)", "IVF16,EDEN4",
    "LeanVec8,IVF16,PQ4x4fsr,Refine(SQfp16)", "LeanVec8,IVF64(PQ4x4fs,RFlat),PQ4x4fsr,Refine(SQfp16)",
]  # fmt: skip


def test_auto_is_a_kind() -> None:
    kinds.check_index_type("auto", 16)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("", "could not parse"), ("flat", "could not parse"), ("HNSW1", "M must be"),
        ("HNSW999", "M must be"), ("IVF16,PQ3", "multiple of"), ("LSH", "METRIC_L2"), ("SVSVamana32", "could not parse"),
        ("IVF16,PQ4x4fs", "add ,Refine"), ("PCA8,IVF16,Flat", "add ,Refine"), ("NSG32,Flat", "IndexNSGFlat"),
        ("IVF99999999,Flat", "at most"), ("IVF16,PQ4x4fs,Refine(IVF4,Flat)", "refine with"),
        ("LeanVec8,HNSW16,SQ8,Refine(SQfp16)", "goes with lists"), ("LeanVec8,IVF16,PQ3x4fsr,Refine(SQfp16)", "multiple"),
    ],
)  # fmt: skip
def test_what_cannot_serve_is_refused_with_the_reason(kind: str, reason: str) -> None:
    with pytest.raises(BadIndexType, match=reason) as caught:
        kinds.check_index_type(kind, 16)
    assert repr(kind) in str(caught.value)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_a_kind_maps_and_gives_its_vectors_back(kind: str, tmp_path: Path) -> None:
    data = vectors(1_000)
    assert write_index(kind, data, tmp_path / "i.faiss") == kind
    index = kinds.read_index(tmp_path / "i.faiss")
    storage = kinds.storage_of(index)
    assert (index.ntotal, index.d) == (1_000, 16)
    back = storage.reconstruct_batch(np.array([999, 0]))
    exactness = 0.9 if "EDEN" in kind else 0.999
    assert (np.einsum("nd,nd->n", back, data[[999, 0]]) > exactness).all()
    rows = kinds.search_all(storage, data[:20], 1)[1]
    assert np.mean(rows[:, 0] == np.arange(20)) > 0.9


def test_a_refinement_written_as_a_stream_is_what_faiss_itself_writes(tmp_path: Path) -> None:
    faiss = kinds.load_faiss()
    data = vectors(1_000)
    kind = "IVF16,PQ4x4fs,Refine(SQfp16)"
    write_index(kind, data, tmp_path / "streamed.faiss")
    index = faiss.index_factory(16, kind, faiss.METRIC_INNER_PRODUCT)
    index.train(data)
    index.add(data)
    streamed = faiss.read_index(str(tmp_path / "streamed.faiss"))
    np.testing.assert_array_equal(
        kinds.storage_of(streamed).reconstruct_n(0, 1_000), kinds.storage_of(index).reconstruct_n(0, 1_000)
    )
    faiss.write_index(streamed, str(tmp_path / "again.faiss"))
    assert (tmp_path / "again.faiss").read_bytes() == (tmp_path / "streamed.faiss").read_bytes()


def test_too_few_vectors_to_learn_from_are_flat(tmp_path: Path) -> None:
    for n in (0, 5, 255):
        assert write_index("IVF16,SQ8", vectors(n), tmp_path / "i.faiss") == "Flat"
    for kind in ("IVF512,SQ8", "IVF1k,SQ8", "IVF1k(PQ4x4fs,RFlat),SQ8", "PQ4x10,Refine(SQfp16)", "IVF4,PQ4x10,RFlat"):
        assert write_index(kind, vectors(500), tmp_path / "i.faiss") == "Flat"


def test_exact_scores_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "CHUNK_ROWS", 7)
    data = vectors(40)
    expected = -np.sort(-(data[:5] @ data.T), axis=1)[:, :10]
    np.testing.assert_allclose(kinds.exact_scores(data[:5], data, 10), expected, atol=1e-6)


def test_some_rows_compared_across_chunks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kinds, "CHUNK_ROWS", 28)
    data = vectors(300)
    write_index("Flat", data, tmp_path / "i.faiss")
    rows = np.arange(0, 300, 7)
    scores, found = kinds.search_rows(kinds.read_index(tmp_path / "i.faiss"), data[:5], 10, rows)
    every = data[:5] @ data[rows].T
    np.testing.assert_array_equal(found, rows[np.argsort(-every, axis=1)[:, :10]])
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :10], atol=1e-6)
