import logging
from pathlib import Path

import numpy as np
import pytest

from tests.vector_index.test_kinds import vectors
from vector_index import Target, kinds, tuning
from vector_index.manifest import RecallPoint
from vector_index.tuning import Queries, build_index


def asked(data: kinds.Floats) -> dict[str, Queries]:
    """Pictures of the corpus, and texts that are offset from them all."""
    texts = vectors(60, seed=1) + 2 * vectors(1, seed=2)
    rows = np.arange(0, len(data), max(1, len(data) // 60))
    return {
        "images": Queries(data[rows], rows),
        "texts": Queries((texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)),
    }


@pytest.mark.parametrize("kind", ["HNSW16,SQ8", "IVF32,SQ8", "IVF32,RaBitQfs,Refine(SQfp16)"])
def test_each_modality_has_a_point_that_reaches_the_target(kind: str, tmp_path: Path) -> None:
    data = vectors(2_000)
    queries = asked(data)
    stamp = build_index(kind, data, queries, Target(0.9), tmp_path / "i.faiss")
    assert set(stamp.queries) == {"images", "texts"}
    assert stamp.recall == min(point.recall_at_10 for point in stamp.queries.values()) >= 0.9
    for name, point in stamp.queries.items():
        assert [each.ms for each in point.curve] == sorted(each.ms for each in point.curve)
        assert all(stamp.parameters[each] >= value for each, value in point.parameters.items())
        index = kinds.read_index(tmp_path / "i.faiss")
        last = tuning.last_scores(data, queries)[name]
        again, _ = tuning.recall_at(point.parameters, index, data, queries[name], last)
        assert again.recall_at_10 == point.recall_at_10


def test_a_query_is_not_credited_with_finding_itself(tmp_path: Path) -> None:
    data = vectors(1_000)
    kind, rows = "IVF64,Flat", np.arange(200)
    build_index(kind, data, {}, Target(), tmp_path / "i.faiss")
    index = kinds.read_index(tmp_path / "i.faiss")
    with_self = next(tuning.recall_curve(index, data, Queries(data[:200]), Target()))[0].recall_at_10
    without = next(tuning.recall_curve(index, data, Queries(data[:200], rows), Target()))[0].recall_at_10
    assert without < with_self - 0.02


def test_nothing_is_measured_beyond_what_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    data = vectors(2_000)
    build_index("IVF32,PQ8x4fs,Refine(SQfp16)", data, {}, Target(), tmp_path / "i.faiss")
    index, queries = kinds.read_index(tmp_path / "i.faiss"), Queries(data[:60])
    monkeypatch.setattr(tuning, "ENOUGH", 0.7)
    for enough in (0.7, 0.9):
        *before, last = (point.recall_at_10 for point, _ in tuning.recall_curve(index, data, queries, Target(enough)))
        assert max(before) < enough <= last


def test_equal_vectors_do_not_count_against_recall(tmp_path: Path) -> None:
    data = np.repeat(vectors(30), 30, axis=0)
    stamp = build_index("HNSW32", data, {"images": Queries(data[::30])}, Target(), tmp_path / "i.faiss")
    assert stamp.queries["images"].curve[-1].recall_at_10 > 0.9


def test_a_latency_that_no_good_point_keeps_gives_the_best_that_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = vectors(2_000)
    target = Target(0.9999, latency_ms=1e-9)
    with caplog.at_level(logging.WARNING, "vector_index"):
        stamp = build_index("IVF32,SQ8", data, asked(data), target, tmp_path / "i.faiss")
    for point in stamp.queries.values():
        assert point.ms == min(each.ms for each in point.curve)
    assert "short of" in caplog.text
    assert "more than" in caplog.text


def test_frontier() -> None:
    made = [(0.9, 2.0), (0.5, 1.0), (0.8, 3.0), (0.95, 3.0), (0.5, 1.5)]
    points = [RecallPoint(parameters={}, recall_at_10=recall, ms=ms) for recall, ms in made]
    assert [(each.recall_at_10, each.ms) for each in tuning.frontier(points)] == [(0.5, 1.0), (0.9, 2.0), (0.95, 3.0)]


def test_auto_is_exact_while_that_is_fast(tmp_path: Path) -> None:
    data = vectors(2_000)
    stamp = build_index("auto", data, asked(data), Target(), tmp_path / "i.faiss")
    assert (stamp.kind, stamp.recall, stamp.queries) == ("Flat", 1.0, {})
    assert tuning.candidates(50_000, 16) == ["Flat"]


def test_auto_chooses_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "FLAT_ROWS", 1_000)
    monkeypatch.setattr(tuning, "SAMPLE_ROWS", 1_500)
    data = vectors(3_000, dim=64)
    queries = {"images": Queries(data[:60])}
    assert set(tuning.choose_index_types(data, queries, Target(0.9))) == set(tuning.candidates(3_000, 64))
    small = tuning.choose_index_types(data, queries, Target(0.9, memory=3_000 * 60))
    assert small
    assert all("Refine" in kind for kind in small)
    assert len(tuning.choose_index_types(data, queries, Target(0.9, memory=1))) == 1


def test_auto_takes_the_next_kind_where_the_first_falls_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ranked = ["PQ2x4fs,Refine(SQfp16)", "IVF32,SQ8", "HNSW32,SQ8"]
    monkeypatch.setattr(tuning, "choose_index_types", lambda *_: ranked)
    monkeypatch.setattr(tuning, "K_FACTOR", (1, 2))
    data = vectors(2_000)
    stamp = build_index("auto", data, asked(data), Target(0.9), tmp_path / "i.faiss")
    assert stamp.kind == "IVF32,SQ8"
    assert kinds.is_ivf(kinds.read_index(tmp_path / "i.faiss"))
    assert [path.name for path in tmp_path.iterdir()] == ["i.faiss"]


def test_a_kind_at_another_size() -> None:
    for kind in tuning.candidates(10**7, 512):
        assert tuning.resized(kind, 10**7, 10**5, 512) in tuning.candidates(10**5, 512)
    assert tuning.resized("HNSW32,SQ8", 10**7, 10**5, 512) == "HNSW32,SQ8"
    assert tuning.resized("IVF32768_HNSW32,SQ4", 10**7, 10**5, 512) is None
    assert tuning.resized("HNSW32,SQ8", 10**7, 10**4, 512) is None  # that few are exact


def test_nothing_is_flat(tmp_path: Path) -> None:
    stamp = build_index("HNSW32,SQ8", vectors(0), {}, Target(), tmp_path / "i.faiss")
    assert (stamp.kind, stamp.recall) == ("Flat", 1.0)
